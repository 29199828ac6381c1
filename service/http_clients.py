"""The one module that builds HTTP clients: of Vault (but `vault/wire.py`), providers, issuer; of commands to ask us.

All are `httpx.AsyncClient`s over aiohttp's connections, because httpx's own pool collapses under concurrency
(measured with 64 callers of Vault: 87 requests/s, over aiohttp 1,900). What every one of them guarantees:

- TLS certificates and names are always verified; there is no setting that turns this off.
- No redirect is followed: a redirect would carry the headers, and so the secrets, to a place nobody checked.
- The environment's proxies and `.netrc` are not used (`trust_env` is off): a proxy named there would see
  where secrets go and, over plain HTTP, the secrets themselves.
- No cookie is kept or sent: a provider's cookie would tie one user's requests to the next user's.
- Nothing is sent twice. Who knows whether repeating is safe repeats it.
- A kept connection on which something came that nobody had asked for is not used again: it would be taken for the
  answer to the next request, perhaps another user's.
- What fails on the way is an `httpx.TransportError` with fixed text. `ConnectError` and `ConnectTimeout` mean
  that the request was not sent; any other may have arrived.

What they do not: bound the whole of a request (time-outs are for each step: having a connection, each read),
or the size of an answer (`read_limited` does). httpx hangs the request, headers included, on every exception
it raises: don't chain one to an error that leaves the caller's hands.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from service.http_fields import USER_AGENT, retry_after_seconds
from service.settings import ProviderSettings, Settings
from service.tls import tls_context, vault_tls

_ISSUER_TIMEOUT = 5.0
_SERVICE_TIMEOUT = 75.0  # a rotation is waited for by the service, for up to a minute
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


@asynccontextmanager
async def provider_session(request_class: type[aiohttp.ClientRequest]) -> AsyncIterator[aiohttp.ClientSession]:
    """aiohttp's own session for `providers/upstream`, with the same guarantees; closed with the block.

    How many connections it has is bounded by its user. A redirect is followed unless the request says no.
    """
    async with _session(tls_context(), 0, request_class=request_class) as session:
        yield session


def issuer_client(settings: Settings) -> httpx.AsyncClient:
    """A client for the OIDC issuer's discovery document and keys. Raises as `vault_tls`."""
    context = tls_context(cafile=settings.oidc_cacert, setting="CREDENTIALS_OIDC_CACERT")
    return _client(context, timeout=_ISSUER_TIMEOUT, max_connections=4)


def service_client(url: str) -> httpx.AsyncClient:
    """A client for this service itself, as the commands ask it. Raises ConfigurationError as `tls_context`."""
    return _client(tls_context(), base_url=url, timeout=_SERVICE_TIMEOUT, max_connections=4)


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


class UnmixedRequest(aiohttp.ClientRequest):
    """A request that isn't sent over a connection which holds bytes of an answer already."""

    def check(self, conn: Any) -> None:
        """Raises aiohttp's ClientConnectionError, having closed the connection and sent nothing, if it does.

        aiohttp looks only when a connection is given back, and not when it is taken out again.
        """
        if conn.protocol is None or conn.protocol.should_close:
            conn.close()
            raise aiohttp.ClientConnectionError("the connection holds an answer that nobody asked for")

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        """As aiohttp's."""
        self.check(conn)
        return await super().send(conn)


def _session(
    context: ssl.SSLContext, max_connections: int, *, request_class: type[aiohttp.ClientRequest] = UnmixedRequest
) -> aiohttp.ClientSession:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, limit=max_connections, keepalive_timeout=_KEEPALIVE),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        request_class=request_class,
    )
    # aiohttp sends GET, PUT and DELETE again by itself when a connection breaks. There is no public
    # switch; its own test client sets the same attribute. The tests count what arrives.
    session._retry_connection = False
    return session


class _Transport(AiohttpTransport):
    """httpx-aiohttp's transport, with our session and with errors that say what happened."""

    def __init__(self, context: ssl.SSLContext, limits: httpx.Limits, server_name: str | None) -> None:
        super().__init__(verify=context, trust_env=False, limits=limits, client=self._open_session)
        self._server_name = server_name

    def _open_session(self) -> aiohttp.ClientSession:
        """Called at the first request, as aiohttp wants to be in its event loop."""
        return _session(self.ssl_context, self.limits.max_connections or 0)

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
