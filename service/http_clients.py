"""The one module that builds HTTP clients: of Vault (but `vault/wire.py`), providers, token issuer and this service.

All are `httpx.AsyncClient`s over aiohttp's connections, because httpx's own pool collapses under concurrency
(measured with 64 callers of Vault: 87 requests/s, over aiohttp 1,900). What every one of them guarantees:

- TLS certificates and names are always verified; there is no setting that turns this off.
- No redirect is followed: a redirect would carry the headers, and so the secrets, to a place nobody checked.
- The environment's proxies and `.netrc` are not used (`trust_env` is off): a proxy named there would see
  where secrets go and, over plain HTTP, the secrets themselves.
- No cookie is kept or sent: a provider's cookie would tie one user's requests to the next user's.
- Nothing is sent twice. Who knows whether repeating is safe repeats it.
- What fails on the way is an `httpx.TransportError` with fixed text. `ConnectError` and `ConnectTimeout` mean
  that the request was not sent; any other may have arrived.

What they do not: bound the whole of a request (time-outs are for each step: having a connection, each read),
or the size of an answer (`read_limited` does). httpx hangs the request, headers included, on every exception
it raises: don't chain one to an error that leaves the caller's hands.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any

import aiohttp
import certifi
import httpx
from httpx_aiohttp import AiohttpTransport

from service.errors import ConfigurationError
from service.settings import ProviderSettings, Settings

USER_AGENT = "vault-credentials"
MAX_RETRY_AFTER = 3600.0
_ISSUER_TIMEOUT = 5.0
_SERVICE_TIMEOUT = 75.0  # a rotation is waited for by the service, for up to a minute
_SSL_OP_CLEANSE_PLAINTEXT = 0x2  # openssl/ssl.h, from 3.0; the ssl module has no name for it
# Below the idle time-outs of what is asked (a load balancer's usual 60 s, Vault's 5 min), so that a kept
# connection is dropped by us before the other side drops it under a request.
_KEEPALIVE = 15.0


class ResponseRefused(httpx.RemoteProtocolError):
    """An answer is larger than allowed, or is compressed although no compression was offered."""


def vault_client(settings: Settings) -> httpx.AsyncClient:
    """A client for `VAULT_ADDR`, with its private CA, client certificate and server name where they are set.

    It sends neither token nor namespace by itself. Raises ConfigurationError as `vault_tls`.
    """
    return _client(
        vault_tls(settings),
        base_url=settings.vault_addr,
        timeout=settings.vault_timeout,
        max_connections=128,
        server_name=settings.vault_tls_server_name,
    )


def provider_client(settings: ProviderSettings) -> httpx.AsyncClient:
    """A client for the providers' public APIs, shared by all users, so it keeps nothing of a request."""
    return _client(tls_context(), timeout=settings.provider_timeout, max_connections=100)


def issuer_client(settings: Settings) -> httpx.AsyncClient:
    """A client for the OIDC issuer's discovery document and keys. Raises as `vault_tls`."""
    context = tls_context(cafile=settings.oidc_cacert, setting="CREDENTIALS_OIDC_CACERT")
    return _client(context, timeout=_ISSUER_TIMEOUT, max_connections=4)


def service_client(url: str) -> httpx.AsyncClient:
    """A client for this service itself, as the commands ask it. Raises ConfigurationError as `tls_context`."""
    return _client(tls_context(), base_url=url, timeout=_SERVICE_TIMEOUT, max_connections=4)


def vault_tls(settings: Settings) -> ssl.SSLContext:
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


async def read_limited(response: httpx.Response, limit: int) -> bytes:
    """The body of a streamed answer (`stream=True`), if it has at most `limit` bytes.

    Raises:
        ResponseRefused: it has more, or is compressed (16 kB can expand to 16 MB). The rest is not read.
        httpx.TransportError: it broke off, or didn't come in time.
    """
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        raise ResponseRefused("the answer is compressed")
    body = bytearray()
    async for chunk in response.aiter_raw():
        if len(body) + len(chunk) > limit:
            raise ResponseRefused("the answer is larger than allowed")
        body += chunk
    return bytes(body)


def retry_after(response: httpx.Response) -> float | None:
    """The seconds that `Retry-After` asks for, as `retry_after_seconds` reads it."""
    return retry_after_seconds(response.headers.get("retry-after", ""))


def retry_after_seconds(value: str) -> float | None:
    """What `Retry-After` (RFC 9110, 10.2.3) says, in seconds, 0 to an hour; None where it says nothing."""
    value = value.strip()
    if re.fullmatch(r"[0-9]+", value):
        return MAX_RETRY_AFTER if len(value) > 6 else min(float(value), MAX_RETRY_AFTER)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return min(max((at - datetime.now(UTC)).total_seconds(), 0.0), MAX_RETRY_AFTER)


def _client(
    context: ssl.SSLContext,
    *,
    timeout: float,
    max_connections: int,
    base_url: str = "",
    server_name: str | None = None,
) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=max_connections, keepalive_expiry=_KEEPALIVE)
    return httpx.AsyncClient(
        transport=_Transport(context, limits, server_name),
        base_url=base_url,
        timeout=httpx.Timeout(timeout),
        follow_redirects=False,
        trust_env=False,
        headers={"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "identity"},
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
    )


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


class _Transport(AiohttpTransport):
    """httpx-aiohttp's transport, with our session and with errors that say what happened."""

    def __init__(self, context: ssl.SSLContext, limits: httpx.Limits, server_name: str | None) -> None:
        super().__init__(verify=context, trust_env=False, limits=limits, client=self._open_session)
        self._server_name = server_name

    def _open_session(self) -> aiohttp.ClientSession:
        """Called at the first request, as aiohttp wants to be in its event loop."""
        connector = aiohttp.TCPConnector(
            ssl=self.ssl_context, limit=self.limits.max_connections or 0, keepalive_timeout=_KEEPALIVE
        )
        session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False
        )
        # aiohttp sends GET, PUT and DELETE again by itself when a connection breaks. There is no public
        # switch; its own test client sets the same attribute. The tests count what arrives.
        session._retry_connection = False
        return session

    def handle_async_request(self, request: httpx.Request) -> Coroutine[Any, Any, httpx.Response]:
        # Not a coroutine itself, as its frame would wait, or raise, with the request: whose `vars` show its headers.
        if self._server_name is not None:
            request.extensions = {**request.extensions, "sni_hostname": self._server_name}
        return _translating(super().handle_async_request(request))


async def _translating(answer: Coroutine[Any, Any, httpx.Response]) -> httpx.Response:
    failure: httpx.TransportError
    try:
        response = await answer
        response.stream = _Stream(response.stream)
        return response
    except (httpx.TransportError, aiohttp.ClientError, OSError, ValueError) as error:
        failure = _translated(error)
    # Raised out here, so that nothing is chained: aiohttp's errors can show the request's headers. Deleted, because an
    # error and the frame that names it hold each other until the collector comes.
    try:
        raise failure
    finally:
        del failure


class _Stream(httpx.AsyncByteStream):
    """An answer's body, with errors translated as its head's are."""

    def __init__(self, stream: httpx.SyncByteStream | httpx.AsyncByteStream) -> None:
        assert isinstance(stream, httpx.AsyncByteStream)  # noqa: S101 - narrows a type; the async transport makes no other
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        failure: httpx.TransportError
        try:
            async for chunk in self._stream:
                yield chunk
            return
        except (httpx.TransportError, aiohttp.ClientError, OSError, ValueError) as error:
            failure = _translated(error)
        try:
            raise failure
        finally:
            del failure

    async def aclose(self) -> None:
        await self._stream.aclose()


def _translated(error: Exception) -> httpx.TransportError:
    """What happened, in httpx's terms. httpx-aiohttp calls a lost connection a connect time-out."""
    cause = error.__cause__ if isinstance(error, httpx.TransportError) and error.__cause__ else error
    match cause:
        case aiohttp.ConnectionTimeoutError():
            return httpx.ConnectTimeout("no connection in time")
        case aiohttp.ClientConnectorCertificateError():
            return httpx.ConnectError("the server's certificate was not accepted")
        case aiohttp.ClientConnectorSSLError():
            return httpx.ConnectError("no TLS connection")
        case aiohttp.ClientConnectorError():
            return httpx.ConnectError("no connection")
        case asyncio.TimeoutError():
            return httpx.ReadTimeout("no answer in time")
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return httpx.UnsupportedProtocol("not an http or https URL")
        case aiohttp.ServerDisconnectedError():
            return httpx.RemoteProtocolError("the connection was closed before the answer")
        case aiohttp.ClientResponseError():
            return httpx.RemoteProtocolError("the answer is not HTTP")
        case OSError() | aiohttp.ClientPayloadError() | aiohttp.ClientConnectionError():
            return httpx.ReadError("the connection broke")
        case ValueError():
            return httpx.LocalProtocolError("the request can't be sent as HTTP")
        case _:
            return httpx.RemoteProtocolError("the exchange failed")
