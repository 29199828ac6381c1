"""What every HTTP client of the service guarantees, shown against real servers on loopback, TLS included."""

import asyncio
import gc
import socket
import ssl
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from service.errors import ConfigurationError
from service.http_clients import (
    ResponseRefused,
    issuer_client,
    provider_client,
    read_limited,
    vault_client,
)
from service.settings import Settings
from service.tls import vault_tls
from tests.doubles.certificate_authority import CertificateAuthority
from tests.doubles.scripted_server import (
    ScriptedServer,
    cut_answer,
    huge_answer,
    not_http_answer,
    raw_answer,
    redirect_answer,
    reset_answer,
)

CANARY = "hvs.canary-0123456789"


class Echo(ScriptedServer):
    """Answers every request with 200 and a short body."""

    async def usual(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"hello")


def settings_for(server: ScriptedServer, **given: Any) -> Settings:
    values: dict[str, Any] = {"vault_timeout": 10, **given}
    return Settings(database_url="postgresql://unused", vault_addr=server.url, **values)


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path)


# --- TLS --------------------------------------------------------------------------------------------------------


async def test_private_ca_is_trusted_where_it_is_named(authority: CertificateAuthority) -> None:
    async with (
        Echo(authority.server_context("vault.test", addresses=("127.0.0.1",))) as server,
        vault_client(settings_for(server, vault_cacert=authority.certificate_file)) as client,
    ):
        assert (await client.get("/v1/sys/health")).status_code == 200


async def test_private_ca_may_be_a_folder(authority: CertificateAuthority, tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    authority.fill_folder(folder)
    async with (
        Echo(authority.server_context("vault.test", addresses=("127.0.0.1",))) as server,
        vault_client(settings_for(server, vault_capath=folder)) as client,
    ):
        assert (await client.get("/v1/sys/health")).status_code == 200


@pytest.mark.parametrize("build", [vault_client, provider_client, issuer_client])
async def test_unknown_ca_is_not_accepted_by_any_client(authority: CertificateAuthority, build: Any) -> None:
    async with Echo(authority.server_context("vault.test", addresses=("127.0.0.1",))) as server:
        async with build(settings_for(server)) as client:
            with pytest.raises(httpx.ConnectError, match="certificate"):
                await client.get(f"{server.url}/", headers={"X-Vault-Token": CANARY})
        assert server.seen == []


async def test_private_ca_is_the_only_one_trusted(authority: CertificateAuthority, tmp_path: Path) -> None:
    other = CertificateAuthority(tmp_path, name="other-ca")
    async with (
        Echo(other.server_context("vault.test", addresses=("127.0.0.1",))) as server,
        vault_client(settings_for(server, vault_cacert=authority.certificate_file)) as client,
    ):
        with pytest.raises(httpx.ConnectError):
            await client.get("/")
    assert vault_tls(settings_for(server, vault_cacert=authority.certificate_file)).cert_store_stats() == {
        "x509": 1,
        "crl": 0,
        "x509_ca": 1,
    }


async def test_certificate_of_another_name_is_not_accepted(authority: CertificateAuthority) -> None:
    async with (
        Echo(authority.server_context("vault.test")) as server,
        vault_client(settings_for(server, vault_cacert=authority.certificate_file)) as client,
    ):
        with pytest.raises(httpx.ConnectError):
            await client.get("/")


async def test_server_name_of_the_settings_is_asked_for_and_verified(authority: CertificateAuthority) -> None:
    context = authority.server_context("vault.test")
    asked_for: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked_for.append(name)
    async with Echo(context) as server:
        right = settings_for(server, vault_cacert=authority.certificate_file, vault_tls_server_name="vault.test")
        async with vault_client(right) as client:
            assert (await client.get("/")).status_code == 200
        wrong = settings_for(server, vault_cacert=authority.certificate_file, vault_tls_server_name="else.test")
        async with vault_client(wrong) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("/")
    assert asked_for == ["vault.test", "else.test"]


async def test_client_certificate_is_shown_to_a_vault_that_asks(authority: CertificateAuthority) -> None:
    certificate, key = authority.issue("service")
    context = authority.server_context("vault.test", addresses=("127.0.0.1",), asks_clients=True)
    async with Echo(context) as server:
        with_one = settings_for(
            server,
            vault_cacert=authority.certificate_file,
            vault_client_cert=certificate,
            vault_client_key=key,
        )
        async with vault_client(with_one) as client:
            assert (await client.get("/")).status_code == 200
        async with vault_client(settings_for(server, vault_cacert=authority.certificate_file)) as client:
            with pytest.raises(httpx.TransportError):
                await client.get("/")


async def test_issuer_may_have_a_private_ca(authority: CertificateAuthority) -> None:
    async with (
        Echo(authority.server_context("issuer.test", addresses=("127.0.0.1",))) as server,
        issuer_client(settings_for(server, oidc_cacert=authority.certificate_file)) as client,
    ):
        assert (await client.get(server.url)).status_code == 200


@pytest.mark.parametrize("setting", ["vault_cacert", "vault_capath", "vault_client_cert", "vault_client_key"])
@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_unusable_certificate_file_is_a_configuration_error_that_names_the_setting(
    tmp_path: Path, setting: str, content: str | None
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_text(content)
    given: dict[str, Any] = {setting: path}
    settings = Settings(database_url="postgresql://unused", vault_addr="https://vault.test", **given)
    with pytest.raises(ConfigurationError, match=setting.upper()) as caught:
        vault_tls(settings)
    assert str(path) not in str(caught.value)


def test_encrypted_client_key_is_refused_and_nobody_is_asked_for_its_password(
    authority: CertificateAuthority,
) -> None:
    certificate, key = authority.issue("service", password=b"canary")
    program = (
        "from service.tls import vault_tls; from service.settings import Settings;"
        "vault_tls(Settings(database_url='postgresql://unused', vault_addr='https://vault.test',"
        f"vault_client_cert={str(certificate)!r}, vault_client_key={str(key)!r}))"
    )
    # Without a terminal OpenSSL reads the password from stdin, which says nothing here: asking would hang.
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        try:
            process.wait(timeout=20)
        finally:
            process.kill()
        assert process.stderr is not None
        assert "ConfigurationError: VAULT_CLIENT_CERT or VAULT_CLIENT_KEY" in process.stderr.read()


def test_tls_wipes_its_buffers_and_verifies_and_writes_no_session_keys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    settings = Settings(database_url="postgresql://unused", vault_addr="https://vault.test")
    context = vault_tls(settings)
    assert int(context.options) & 0x2  # SSL_OP_CLEANSE_PLAINTEXT
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.keylog_filename is None


async def test_closing_a_tls_client_leaves_no_open_connection(authority: CertificateAuthority) -> None:
    async with (
        Echo(authority.server_context("vault.test", addresses=("127.0.0.1",))) as server,
        vault_client(settings_for(server, vault_cacert=authority.certificate_file, vault_timeout=1)) as client,
    ):
        await asyncio.gather(*(client.get("/") for _ in range(8)))
        server.script(server.silent)
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await asyncio.sleep(0)
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


# --- errors, in httpx's terms -----------------------------------------------------------------------------------


async def test_what_was_not_sent_is_told_from_what_may_have_arrived() -> None:
    async with Echo() as server, vault_client(settings_for(server, vault_timeout=1)) as client:
        expected = [
            (reset_answer, httpx.RemoteProtocolError),
            (not_http_answer, httpx.RemoteProtocolError),
            (server.silent, httpx.ReadTimeout),
            (cut_answer(200), httpx.ReadError),
        ]
        for answer, error in expected:
            server.reset()
            server.script(answer)
            with pytest.raises(error) as caught:
                await client.get("/", headers={"X-Vault-Token": CANARY})
            assert type(caught.value) is error
            assert len(server.seen) == 1
    async with vault_client(settings_for(server)) as client:  # the server has gone
        with pytest.raises(httpx.ConnectError):
            await client.get("/")


async def test_connection_that_cannot_be_had_in_time_is_a_connect_time_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the kernel accepts, but nobody shakes hands
        host, port = listener.getsockname()
        given: dict[str, Any] = {"vault_addr": f"https://{host}:{port}", "vault_timeout": 0.3}
        settings = Settings(database_url="postgresql://unused", **given)
        async with vault_client(settings) as client:
            with pytest.raises(httpx.ConnectTimeout):
                await client.get("/")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "POST"])
@pytest.mark.parametrize("reused", [False, True])
async def test_nothing_is_sent_twice_when_a_connection_breaks(method: str, reused: bool) -> None:
    async with Echo() as server:
        async with vault_client(settings_for(server)) as client:
            if reused:
                await client.get("/")
                server.reset()
            server.script(reset_answer)
            with pytest.raises(httpx.TransportError):
                await client.request(method, "/")
        assert [seen.method for seen in server.seen] == [method]


async def test_error_is_not_chained_to_what_holds_the_headers() -> None:
    async with Echo() as server, vault_client(settings_for(server, vault_timeout=1)) as client:
        for answer in (reset_answer, not_http_answer, server.silent, cut_answer(200)):
            server.script(answer)
            with pytest.raises(httpx.TransportError) as caught:
                await client.get("/", headers={"X-Vault-Token": CANARY})
            assert caught.value.__cause__ is None
            assert caught.value.__context__ is None
            assert CANARY not in repr(caught.value) + str(caught.value)


async def test_header_that_would_begin_another_is_not_sent() -> None:
    async with Echo() as server:
        async with vault_client(settings_for(server)) as client:
            with pytest.raises(httpx.LocalProtocolError) as caught:
                await client.get("/", headers={"X-Vault-Token": f"{CANARY}\r\nX-Vault-Namespace: root"})
        assert CANARY not in str(caught.value)
        assert server.seen == []


# --- what is kept, followed, read -------------------------------------------------------------------------------


async def test_redirects_are_not_followed() -> None:
    async with Echo() as server:
        async with vault_client(settings_for(server)) as client:
            server.script(redirect_answer(f"{server.url}/elsewhere", 307))
            assert (await client.get("/", headers={"X-Vault-Token": CANARY})).status_code == 307
        assert [seen.path_qs for seen in server.seen] == ["/"]


async def test_no_cookie_is_kept() -> None:
    async with Echo() as server:
        # By name: aiohttp's usual jar keeps no cookie of an address, so with one this test could not fail.
        settings = settings_for(server).model_copy(update={"vault_addr": server.url.replace("127.0.0.1", "localhost")})
        async with vault_client(settings) as client:
            server.script(raw_answer(200, b"", {"Set-Cookie": "a=b; Path=/"}))
            await client.get("/")
            await client.get("/")
            assert len(client.cookies) == 0
        assert [seen.headers.get("Cookie") for seen in server.seen] == [None, None]


async def test_requests_say_who_we_are_and_offer_no_compression() -> None:
    async with Echo() as server:
        async with vault_client(settings_for(server)) as client:
            await client.get("/")
        (seen,) = server.seen
        assert seen.headers["User-Agent"] == "vault-credentials"
        assert seen.headers["Accept-Encoding"] == "identity"


async def test_netrc_and_proxies_are_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with Echo() as server:
        async with vault_client(settings_for(server)) as client:
            assert (await client.get("/")).status_code == 200
        assert "Authorization" not in server.seen[0].headers


async def test_body_at_the_limit_is_read_and_one_above_is_not() -> None:
    async with Echo() as server, vault_client(settings_for(server)) as client:
        async with client.stream("GET", "/") as response:
            assert await read_limited(response, 5) == b"hello"
        async with client.stream("GET", "/") as response:
            with pytest.raises(ResponseRefused):
                await read_limited(response, 4)
        server.script(huge_answer(200, 50_000_000))
        async with client.stream("GET", "/") as response:
            with pytest.raises(ResponseRefused):
                await read_limited(response, 65_536)
        assert (await client.get("/")).status_code == 200


async def test_compressed_body_is_refused() -> None:
    async with Echo() as server, vault_client(settings_for(server)) as client:
        server.script(raw_answer(200, b"\x1f\x8b\x08", {"Content-Encoding": "gzip"}))
        async with client.stream("GET", "/") as response:
            with pytest.raises(ResponseRefused):
                await read_limited(response, 65_536)


async def test_many_callers_share_one_client() -> None:
    async with Echo() as server:
        async with vault_client(settings_for(server)) as client:
            answers = await asyncio.gather(*(client.get("/") for _ in range(300)))
        assert {answer.status_code for answer in answers} == {200}
