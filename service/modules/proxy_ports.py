"""What the proxy needs on its two sides, as protocols: `providers/upstream` and `api/proxy_caller` implement them."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from service.modules.call_clock import CallClock


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyCall:
    """A call to be passed on, checked as far as can be without knowing the credential."""

    credential_id: str
    method: str
    path: str  # of `proxy_path.parse_proxy_path`
    query: str = field(repr=False)  # of `proxy_path.check_proxy_query`
    headers: Mapping[str, str] = field(repr=False)  # those that go on; no credential and nothing of the connection

    @property
    def is_read(self) -> bool:
        """Whether the method only reads (RFC 9110, 9.2.1), so that sending it again does no harm."""
        return self.method in ("GET", "HEAD")


class ProxyCaller(Protocol):
    """Who is called for. Its body is read by one reader, its answer written by one writer."""

    @property
    def has_body(self) -> bool:
        """Whether a body comes with the call."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, only as fast as it is taken."""
        ...

    def watched(self, clock: CallClock) -> AbstractAsyncContextManager[None]:
        """While the block lasts the body is read, which moves the clock, and the caller's hanging up is told to it.

        Raises:
            CallerGone: the caller had hung up before it began.
        """
        ...

    async def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Sends the answer's head: the provider's, from which what does not go on is still to be left out."""
        ...

    async def write(self, chunk: bytes) -> None:
        """Sends some of the answer's body; returns when it may go on with more."""
        ...

    async def end(self) -> None:
        """Says that the answer is whole."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamCall:
    """What is sent to the provider, but for what authenticates it."""

    method: str
    url: str = field(repr=False)  # has the query
    headers: Mapping[str, str] = field(repr=False)
    body: AsyncIterator[bytes] | None  # sent with the headers' Content-Length, chunked where there is none


class UpstreamAnswer(Protocol):
    """The head of a provider's answer, and its body to come."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """As they came, in order."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, not decompressed; read only as fast as it is taken. Ends if it is whole.

        Raises:
            ProviderUnavailable: it broke off.
        """
        ...


class Upstream(Protocol):
    """Sends calls to providers, each once."""

    def send(
        self, call: UpstreamCall, authenticate: Callable[[], Mapping[str, str]]
    ) -> AbstractAsyncContextManager[UpstreamAnswer]:
        """Sends it, once, whatever becomes of it; the block gets the answer when its head is there.

        `authenticate` makes the headers with the credential. It is called once, when there is a connection and before
        anything is written: if it hasn't been called, nothing was sent. What ends the block ends the exchange; unless
        the answer was read to its end, the connection is closed.

        Raises:
            ProviderUnavailable: no connection, or no answer's head.
        """
        ...
