"""TLS contexts: certificates and names are always verified; there is no setting that turns this off.

Light: `service.client` imports it, so no settings and no HTTP client may be imported here.
"""

import ssl
from pathlib import Path
from typing import Protocol

import certifi

from service.errors import ConfigurationError

_SSL_OP_CLEANSE_PLAINTEXT = 0x2  # openssl/ssl.h, from 3.0; the ssl module has no name for it


class VaultTlsFiles(Protocol):
    """The files that decide how TLS is spoken to Vault, as `Settings` has them."""

    @property
    def vault_cacert(self) -> Path | None: ...
    @property
    def vault_capath(self) -> Path | None: ...
    @property
    def vault_client_cert(self) -> Path | None: ...
    @property
    def vault_client_key(self) -> Path | None: ...


def vault_tls(settings: "VaultTlsFiles") -> ssl.SSLContext:
    """How to speak TLS to Vault. The files are read here, once: renewed ones count from the next start.

    Raises ConfigurationError where one of them can't be used; it names the setting, not what is in the file.
    """
    context = tls_context(
        cafile=settings.vault_cacert, capath=settings.vault_capath, setting="VAULT_CACERT or VAULT_CAPATH"
    )
    if settings.vault_client_cert is not None:
        try:
            # An empty password: without one OpenSSL would ask for it on the terminal and wait.
            context.load_cert_chain(settings.vault_client_cert, settings.vault_client_key, password="")
        except (OSError, ValueError):
            raise ConfigurationError(
                "VAULT_CLIENT_CERT or VAULT_CLIENT_KEY: not a readable certificate and its unencrypted key"
            ) from None
    elif settings.vault_client_key is not None:
        raise ConfigurationError("VAULT_CLIENT_KEY: is set without VAULT_CLIENT_CERT")
    return context


def tls_context(
    *, cafile: Path | None = None, capath: Path | None = None, setting: str = "SSL_CERT_FILE or SSL_CERT_DIR"
) -> ssl.SSLContext:
    """A TLS context that always verifies. A private CA is the only one trusted; else the system's are (or
    `SSL_CERT_FILE`'s). Raises ConfigurationError, naming `setting`, where the files can't be used.
    """
    # Not ssl.create_default_context: it writes the session keys, which open a recording, to $SSLKEYLOGFILE.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # OpenSSL wipes its record buffers after handing them over, so that no decrypted answer stays in them.
    context.options |= _SSL_OP_CLEANSE_PLAINTEXT
    try:
        if cafile is not None or capath is not None:
            if capath is not None and not capath.is_dir():  # OpenSSL takes a missing folder for an empty one
                raise FileNotFoundError
            context.load_verify_locations(cafile, capath)
        elif _system_has_certificates():
            context.load_default_certs()
        else:
            context.load_verify_locations(certifi.where())
    except (OSError, ValueError):
        raise ConfigurationError(f"{setting}: not readable CA certificates") from None
    return context


def _system_has_certificates() -> bool:
    """Slim images and standalone Pythons often have none."""
    paths = ssl.get_default_verify_paths()
    return bool(paths.cafile) or (bool(paths.capath) and any(Path(paths.capath).iterdir()))
