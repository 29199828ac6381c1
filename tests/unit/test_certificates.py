"""The certificate of docker-compose.yml's Vault: its clients accept it, for its names alone, and it is kept."""

import ssl
from datetime import timedelta
from pathlib import Path

import pytest

from service.localstack import certificates
from service.localstack.certificates import CA_FILE, CERTIFICATE_FILE, KEY_FILE, ensure_certificate
from service.tls import tls_context

NAMES, ADDRESSES = ("vault", "localhost"), ("127.0.0.1",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert ensure_certificate(tmp_path, NAMES, ADDRESSES)
    return tmp_path


def shake_hands(folder: Path, name: str, authority: Path | None = None) -> None:
    """A TLS handshake without a network, by the client that the service uses."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(folder / CERTIFICATE_FILE, folder / KEY_FILE)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls_context(cafile=authority or folder / CA_FILE).wrap_bio(to_client, to_server, server_hostname=name)
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    while waiting:
        for side in list(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)


@pytest.mark.parametrize("name", [*NAMES, *ADDRESSES])
def test_its_clients_accept_it_under_each_of_its_names(folder: Path, name: str) -> None:
    shake_hands(folder, name)


def test_it_is_not_accepted_under_another_name(folder: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(folder, "postgres")


def test_it_is_not_accepted_by_those_who_trust_another_authority(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    ensure_certificate(other, NAMES, ADDRESSES)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(folder, "vault", authority=other / CA_FILE)


def test_it_is_kept(folder: Path) -> None:
    before = {file: file.read_bytes() for file in folder.iterdir()}
    assert not ensure_certificate(folder, NAMES, ADDRESSES)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_it_is_made_anew_when_little_time_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / CA_FILE).read_bytes()
    monkeypatch.setattr(certificates, "_RENEWED_WITH_LEFT", timedelta(days=398))
    assert ensure_certificate(folder, NAMES, ADDRESSES)
    assert (folder / CA_FILE).read_bytes() != before
    shake_hands(folder, "vault")


@pytest.mark.parametrize("file", [CA_FILE, CERTIFICATE_FILE, KEY_FILE])
def test_it_is_made_anew_when_a_file_of_it_is_damaged(folder: Path, file: str) -> None:
    (folder / file).write_text("damaged")
    assert ensure_certificate(folder, NAMES, ADDRESSES)
    shake_hands(folder, "vault")


def test_it_is_made_anew_for_other_names(folder: Path) -> None:
    assert ensure_certificate(folder, ("elsewhere",), ADDRESSES)
    shake_hands(folder, "elsewhere")


def test_its_key_is_for_its_owner_and_group_alone(folder: Path) -> None:
    assert (folder / KEY_FILE).stat().st_mode & 0o777 == 0o640


def test_no_authority_is_left_that_could_sign_another(folder: Path) -> None:
    assert {file.name for file in folder.iterdir()} == {CA_FILE, CERTIFICATE_FILE, KEY_FILE}
    assert sum(b"PRIVATE KEY" in file.read_bytes() for file in folder.iterdir()) == 1
