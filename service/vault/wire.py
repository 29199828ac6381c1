"""The wire: a small HTTP/1.1 client for transit's encrypt and decrypt, which keeps no copy of what passes.

The rest asks Vault through httpx (`client.py`), but for the rotator's requests, which are so many (`wire_client.py`).
What is different here: answers are read by the kernel, or by OpenSSL, straight into buffers of ours that are wiped
after use; requests are sent from buffers of ours, which nobody holds any longer when `post` returns or raises. It is
also several times faster, having so much less to do.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Protocol, Self, TypeVar
from urllib.parse import quote, urlsplit

from service.errors import ConfigurationError, VaultUnavailable
from service.http_fields import USER_AGENT
from service.tls import VaultTlsFiles, vault_tls
from service.vault.wire_connection import ConnectionBroken, WireConnection

MAX_ANSWER = 8 * 1024 * 1024
"""Bytes of an answer's body. A batch of 1,000 of the longest pairs takes a quarter of it."""

MAX_CONNECTIONS = 32
"""Beside `client.py`'s. What comes while all are in use waits, for as long as a request may take."""

IDLE_SECONDS = 15.0
"""Below the idle time-outs of Vault (5 min) and of load balancers (60 s), as in `http_clients.py`."""

_WAIT_FOR_FAULT = 2.0
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class WireAnswer:
    """An answer, while it is in its buffer. Whoever reads it keeps neither `body` nor `address`."""

    status: int
    retry_after: str
    body: memoryview
    address: int
    """Where `body` is, for ctypes."""


class WireSettings(VaultTlsFiles, Protocol):
    """What `Settings` tells of where Vault is."""

    @property
    def vault_addr(self) -> str: ...
    @property
    def vault_namespace(self) -> str | None: ...
    @property
    def vault_tls_server_name(self) -> str | None: ...
    @property
    def vault_timeout(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WireAddress:
    """Where Vault is, and how it is spoken to."""

    url: str
    """Its base URL, checked by whoever makes this: https, or http."""
    namespace: str | None = None
    tls: ssl.SSLContext | None = None
    """Needed for https."""
    server_name: str | None = None
    """The name that its certificate must have, where that isn't the URL's."""
    timeout: float = 5.0
    """Seconds for one request, waiting and connecting included."""

    @classmethod
    def of(cls, settings: WireSettings) -> Self:
        """As the settings say. Raises ConfigurationError as `vault_tls`."""
        return cls(
            url=settings.vault_addr,
            namespace=settings.vault_namespace,
            tls=vault_tls(settings) if urlsplit(settings.vault_addr).scheme == "https" else None,
            server_name=settings.vault_tls_server_name,
            timeout=settings.vault_timeout,
        )


class Wire:
    """Vault's address, and connections to it.

    Guarantees: no more than `max_connections`, none before it is needed, kept for `idle_seconds` and used newest
    first; every request ends within the time-out, waiting and connecting included; however one ends, what it read is
    wiped, on failure after its connection has been closed. Does not: know a token, follow redirects, use proxies of
    the environment, or send anything twice.
    """

    def __init__(
        self,
        address: WireAddress,
        *,
        max_connections: int = MAX_CONNECTIONS,
        max_answer: int = MAX_ANSWER,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """Raises ConfigurationError for a namespace that can't be sent, and for https without a TLS context."""
        url = urlsplit(address.url)
        if not _HEADER_VALUE.fullmatch(address.namespace or ""):
            raise ConfigurationError("VAULT_NAMESPACE: must be printable ASCII")
        if url.scheme == "https" and address.tls is None:
            raise ConfigurationError("VAULT_ADDR: https needs a TLS context")
        self._tls = address.tls if url.scheme == "https" else None
        self._host = url.hostname or ""
        self._port = url.port or (443 if self._tls else 80)
        self._server_name = address.server_name or self._host
        self._timeout = address.timeout
        self._max_answer = max_answer
        self._idle_seconds = idle_seconds
        self._free = asyncio.Semaphore(max_connections)
        self._idle: list[WireConnection] = []
        self._in_use: set[WireConnection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._prefix = quote(url.path, safe="/%:@!$&'()*+,;=~") + "/v1/"
        namespace = f"X-Vault-Namespace: {address.namespace}\r\n" if address.namespace else ""
        host = url.netloc.rpartition("@")[2]
        if not host.isascii():
            host = host.encode("idna").decode("ascii")
        self._fields = (
            f" HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {USER_AGENT}\r\n"
            "Accept: application/json\r\nAccept-Encoding: identity\r\nContent-Type: application/json\r\n"
            f"X-Vault-Request: true\r\n{namespace}"
        )

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: WireSettings) -> AsyncIterator[Self]:
        """Connects when first asked; closes everything when the block ends. Raises as `WireAddress.of`, and the
        constructor.
        """
        wire = cls(WireAddress.of(settings))
        try:
            yield wire
        finally:
            wire.close()

    def head(
        self, path: str, length: int, token: str | None, headers: Mapping[str, str], *, method: str = "POST"
    ) -> bytes:
        """The head of a request of `length` bytes to `path` (without `/v1/`, checked by the caller), which may have a
        query behind it.

        Raises VaultUnavailable for a token or a header that can't be sent.
        """
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        sent = "" if token is None else f"X-Vault-Token: {token}\r\n"
        lines = f"{sent}{fields}Content-Length: {length}\r\n\r\n"
        if not _HEADER_VALUE.fullmatch(token or "") or not all(map(_HEADER_VALUE.fullmatch, headers.values())):
            raise VaultUnavailable(retry_after=_WAIT_FOR_FAULT)
        return f"{method} {self._prefix}{path}{self._fields}{lines}".encode("latin-1")

    async def post(self, request: bytes | memoryview, read: Callable[[WireAnswer], _Read]) -> _Read:
        """Sends a request, head and body, once, and returns what `read` makes of the answer, whatever its status.

        Raises VaultUnavailable where no whole answer comes in time, and what `read` raises.
        """
        try:
            async with asyncio.timeout(self._timeout), self._free:
                return await self._exchange(request, read)
        except (ConnectionBroken, OSError, TimeoutError):
            pass
        # Out here, so that nothing is chained.
        raise VaultUnavailable(retry_after=_WAIT_FOR_FAULT)

    async def _exchange(self, request: bytes | memoryview, read: Callable[[WireAnswer], _Read]) -> _Read:
        connection = self._newest_idle() or await self._connect()
        self._in_use.add(connection)
        try:
            reader = await connection.exchange(request)
            start, end = reader.body
            head = reader.head
            if head is None:
                raise ConnectionBroken
            with connection.buffer.view[start:end] as body:
                return read(WireAnswer(head.status, head.retry_after, body, connection.buffer.address + start))
        finally:
            self._in_use.discard(connection)
            connection.forget()
            if connection.is_open:
                self._keep(connection)

    # --- connections ----------------------------------------------------------------------------------------------

    def _newest_idle(self) -> WireConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_stale():
                return connection
            connection.abort()
        return None

    def _keep(self, connection: WireConnection) -> None:
        if self._is_closed or not connection.is_reusable:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._idle_seconds, self._sweep)

    def _sweep(self) -> None:
        """Closes what has been idle for too long; comes again when the next one will have been."""
        loop = asyncio.get_running_loop()
        until = loop.time() - self._idle_seconds
        # Used newest first, so the list is in the order of `idle_since`.
        while self._idle and (self._idle[0].idle_since <= until or not self._idle[0].is_open):
            self._idle.pop(0).abort()
        self._sweeper = None
        if self._idle:
            self._sweeper = loop.call_at(self._idle[0].idle_since + self._idle_seconds, self._sweep)

    async def _connect(self) -> WireConnection:
        addresses = await self._addresses()
        failure: Exception = ConnectionBroken()
        for family, address in addresses:
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                # Each its share of the time, so that one that never answers doesn't hide the others.
                async with asyncio.timeout(self._timeout / len(addresses)):
                    return await self._connected(sock, address)
            except OSError:
                continue
        raise failure

    async def _addresses(self) -> list[tuple[socket.AddressFamily, _Address]]:
        try:
            version = ip_address(self._host).version
        except ValueError:
            found = await asyncio.get_running_loop().getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            return [(family, address) for family, _type, _protocol, _name, address in found]
        return [(socket.AF_INET if version == 4 else socket.AF_INET6, (self._host, self._port))]

    async def _connected(self, sock: socket.socket, address: _Address) -> WireConnection:
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_hostname=self._server_name, do_handshake_on_connect=False)
                await _shake_hands(sock)
            return WireConnection(sock, limit=self._max_answer)
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        """Ends what is under way, and closes every connection."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in (*self._idle, *self._in_use):
            connection.abort()
        self._idle.clear()


async def _shake_hands(sock: ssl.SSLSocket) -> None:
    """The TLS handshake, certificate and name verified (https://docs.python.org/3/library/ssl.html#ssl-nonblocking)."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            sock.do_handshake()
            return
        except ssl.SSLWantReadError:
            wait, stop = loop.add_reader, loop.remove_reader
        except ssl.SSLWantWriteError:
            wait, stop = loop.add_writer, loop.remove_writer
        ready = asyncio.Event()
        wait(sock, ready.set)
        try:
            await ready.wait()
        finally:
            stop(sock)
