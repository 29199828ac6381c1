"""TLS for the Vault of docker-compose.yml: a certificate authority that is made, signs one certificate and is gone.

Its key is never written, so nobody can have it sign another one. A new certificate comes with a new authority.
"""

import os
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_FILE, CERTIFICATE_FILE, KEY_FILE = "ca.pem", "vault.pem", "vault.key"

_LIFE = timedelta(days=397)  # what browsers accept of a certificate (CA/Browser Forum's Baseline Requirements, 6.3.2)
_RENEWED_WITH_LEFT = timedelta(days=60)
_GROUP_READS = 0o640


def ensure_certificate(folder: Path, names: tuple[str, ...], addresses: tuple[str, ...]) -> bool:
    """A server certificate for these names and addresses, its key, and the authority to trust, as PEM files.

    Files that are there stay, unless fewer than 60 days are left to them or they are for other names. The key can be
    read by the folder's group, in which Vault's container is. Returns whether they were made anew.
    """
    if _is_good(folder, names, addresses):
        return False
    now = datetime.now(UTC)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vault-credentials on this machine")])
    authority = (
        _builder(authority_name, authority_name, authority_key, authority_key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    certificate = (
        _builder(subject, authority_name, key, authority_key, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName(
                [*map(x509.DNSName, names), *(x509.IPAddress(ip_address(each)) for each in addresses)]
            ),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    unencrypted = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_for_group(folder / KEY_FILE, unencrypted)
    write_for_group(folder / CA_FILE, authority.public_bytes(pem))
    # Last: by it the others are known to be there.
    write_for_group(folder / CERTIFICATE_FILE, certificate.public_bytes(pem))
    return True


def write_for_group(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all, that its group can read and nobody else."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), _GROUP_READS)  # whatever the umask says
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def _is_good(folder: Path, names: tuple[str, ...], addresses: tuple[str, ...]) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE_FILE).read_bytes())
        authority = x509.load_pem_x509_certificate((folder / CA_FILE).read_bytes())
        key = serialization.load_pem_private_key((folder / KEY_FILE).read_bytes(), password=None)
        certificate.verify_directly_issued_by(authority)
        told = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception:  # noqa: BLE001 - what isn't there, or can't be read in any way, is made anew
        return False
    return (
        certificate.public_key() == key.public_key()
        and certificate.not_valid_after_utc - datetime.now(UTC) > _RENEWED_WITH_LEFT
        and set(told.get_values_for_type(x509.DNSName)) == set(names)
        and {str(each) for each in told.get_values_for_type(x509.IPAddress)} == set(addresses)
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuers_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuers_key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
