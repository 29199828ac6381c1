"""Calls passed on to providers: aiohttp itself, without httpx around it, because it streams both ways and costs less.

What `http_clients` guarantees of its clients holds here too: its session is what sends.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_reqrep import RequestInfo
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from service.errors import CredentialsError, ProviderUnavailable
from service.http_clients import UnmixedRequest
from service.http_fields import USER_AGENT
from service.memory.zeroing import wipe_stack
from service.modules.proxy_ports import UpstreamCall

_OURS = {"accept-encoding": "identity", "user-agent": USER_AGENT}
"""What is sent where the call says nothing: no compression that the caller didn't ask for."""
_NOT_BY_ITSELF = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")

_Authenticate = Callable[[], Mapping[str, str]]


class AuthenticatedRequest(UnmixedRequest):
    """A request that gets its credential when there is a connection, and has lost it when its head is written.

    aiohttp's own holds its headers for as long as the answer is read, in the request and in the answer's
    `request_info`.
    """

    authenticate: _Authenticate | None = None

    @property
    def request_info(self) -> RequestInfo:
        """Without headers: errors and answers carry it."""
        return RequestInfo(self.url, self.method, CIMultiDictProxy(CIMultiDict()), self.original_url)

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        """As aiohttp's."""
        self.check(conn)
        try:
            if self.authenticate is not None:
                self.headers.update(self.authenticate())
            return await super().send(conn)
        finally:
            self.headers.clear()
            # aiohttp composes a request's head in an array on the C stack, and returns without clearing it.
            wipe_stack()

    async def write_bytes(self, writer: AbstractStreamWriter, conn: Any, content_length: int | None = None) -> None:
        """As aiohttp's, which would keep the head until there is some of the body to send with it."""
        try:
            writer.send_headers()
        except aiohttp.ClientError:  # the connection is closing, of which whoever waits for the answer hears
            conn.close()
            return
        await super().write_bytes(writer, conn, content_length)


class ProviderUpstream:
    """Implements `Upstream` over a session of `http_clients.provider_session`."""

    def __init__(self, session: aiohttp.ClientSession, *, connect_seconds: float) -> None:
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_seconds, sock_connect=connect_seconds)

    @asynccontextmanager
    async def send(self, call: UpstreamCall, authenticate: _Authenticate) -> AsyncIterator["_Answer"]:
        """As the port."""
        answer = _Answer(await self._sent(call, authenticate))
        try:
            yield answer
        finally:
            answer.close()

    async def _sent(self, call: UpstreamCall, authenticate: _Authenticate) -> aiohttp.ClientResponse:
        async def authenticated(
            request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
        ) -> aiohttp.ClientResponse:
            if isinstance(request, AuthenticatedRequest):
                request.authenticate = authenticate
            return await handler(request)

        failure: ProviderUnavailable
        try:
            return await self._session.request(
                call.method,
                URL(call.url, encoded=True),  # as it is: what was checked is what is sent
                headers={**_OURS, **call.headers},
                data=call.body,
                skip_auto_headers=_NOT_BY_ITSELF,
                allow_redirects=False,
                timeout=self._timeout,
                middlewares=(authenticated,),
            )
        except CredentialsError:
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = _translated(error)
        # Raised out here, so that nothing is chained: aiohttp's errors show where the request went.
        try:
            raise failure
        finally:
            del failure


class _Answer:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return list(self._response.raw_headers)

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
            return
        except (aiohttp.ClientError, OSError, ValueError):
            pass
        raise ProviderUnavailable("The provider's answer broke off.")

    def close(self) -> None:
        """Gives the connection back if the answer was read to its end, and closes it otherwise."""
        self._response.close()


def _translated(error: Exception) -> ProviderUnavailable:
    if isinstance(error, asyncio.TimeoutError):
        return ProviderUnavailable("No connection to the provider in time.")
    return ProviderUnavailable()
