"""One HTTP/1.1 connection that reads into, and writes from, memory that is ours to wipe.

It has its socket itself, and only asks the event loop when the socket is ready (`add_reader`, `add_writer`). asyncio's
transports would keep what they could not send at once (copied into a bytearray of theirs in Python 3.11, as views in a
deque from 3.12, in the TLS protocol's write backlog), and pass TLS through memory of their own; uvloop's too. Here
nothing but the kernel and OpenSSL sees a byte, and once the socket is closed nobody will.
"""

import asyncio
import socket
import ssl

from service.memory.secret_pages import SecretBuffer
from service.vault.http_answer import AnswerReader, AnswerRefused

SMALL_BUFFER = 64 * 1024
"""Bytes that a connection has to read into; a larger answer gets a larger buffer for as long as it takes."""

_NOT_YET = (BlockingIOError, InterruptedError, ssl.SSLWantReadError)


class ConnectionBroken(Exception):
    """No whole answer came. Holds nothing of what did. Stays within `vault/`."""


class WireConnection:
    """A connected socket, for one exchange at a time.

    Guarantees: an answer's bytes are read into `buffer` alone, while an exchange is under way; once `abort` has
    returned, nothing is read or sent any more, and no view of what was being sent is held. Does not: wipe the request,
    which is the caller's; time anything; try anything twice.
    """

    def __init__(self, sock: socket.socket, *, limit: int, small_buffer: int = SMALL_BUFFER) -> None:
        """Takes over a connected, non-blocking socket (an SSLSocket after its handshake), in its event loop."""
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._limit = limit
        self._small = small_buffer
        self.buffer = SecretBuffer(small_buffer)
        self._used = 0
        self._reader: AnswerReader | None = None
        self._outgoing: memoryview | None = None
        self._done: asyncio.Future[AnswerReader] | None = None
        self._is_writing = False
        self.is_open = True
        self.is_reusable = True
        self.idle_since = 0.0
        self._loop.add_reader(sock, self._readable)

    async def exchange(self, request: bytes | memoryview) -> AnswerReader:
        """Sends a whole request and reads its whole answer into `buffer`.

        Raises ConnectionBroken. However it fails, cancelled included, the connection has been aborted.
        """
        self._reader = AnswerReader(self._limit)
        self._outgoing = memoryview(request)
        done: asyncio.Future[AnswerReader] = self._loop.create_future()
        self._done = done
        try:
            self._send()
            return await done
        except BaseException:
            done.cancel()
            self.abort()
            raise
        finally:
            self._reader = self._outgoing = self._done = None

    def forget(self) -> None:
        """Wipes what the last exchange has read."""
        self.buffer.wipe(self._used)
        self._used = 0
        if self.buffer.size > self._small:
            self.buffer.close()
            if self.is_open:
                self.buffer = SecretBuffer(self._small)

    def is_stale(self) -> bool:
        """Whether something has come since the last exchange: most likely the end of the connection."""
        if not self.is_open:
            return True
        try:
            # Looks at the socket itself, under TLS too. What is there stays there, but for a copy of one byte.
            socket.socket.recv(self._sock, 1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            pass
        return True

    def abort(self) -> None:
        """Closes the connection at once: no byte is read or sent after this returns. Then wipes the buffer."""
        if not self.is_open:
            return
        self.is_open = self.is_reusable = False
        self._loop.remove_reader(self._sock)
        self._stop_writing()
        self._outgoing = None
        self._sock.close()
        self.buffer.close()
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionBroken())

    # --- what the event loop calls --------------------------------------------------------------------------------

    def _readable(self) -> None:
        if self._reader is None:
            self.abort()  # nothing was asked: the server has closed, or says what nobody wants to hear
            return
        try:
            self._receive(self._reader)
        except _NOT_YET:
            pass
        except ssl.SSLWantWriteError:
            self._start_writing()
        except (OSError, AnswerRefused):
            self.abort()
        except BaseException:
            self.abort()  # and the event loop reports what nobody expected
            raise
        if self._is_tls and self._outgoing is not None:
            self._send()  # TLS may have had to read before it could write

    def _receive(self, reader: AnswerReader) -> None:
        while True:
            if self._used == self.buffer.size:
                self._grow(reader.wants)
            count = self._sock.recv_into(self.buffer.view[self._used :])
            if count:
                self._used += count
                whole = reader.feed(self.buffer.view, self._used)
            elif not (whole := reader.closed(self._used)):
                raise AnswerRefused
            if whole:
                self._finish(reader)
                return
            if not self._is_tls:
                return  # the event loop calls again while there is more; OpenSSL may hold more of its own

    def _finish(self, reader: AnswerReader) -> None:
        head = reader.head
        # An answer before the end of the request, or with something after it: not to be confused with the next one's.
        clean = self._outgoing is None and reader.end == self._used
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            clean = False
        self.is_reusable = head is not None and head.keeps and clean
        self._outgoing = None
        self._stop_writing()
        self._reader = None
        if self._done is not None and not self._done.done():
            self._done.set_result(reader)

    def _grow(self, wants: int) -> None:
        if self.buffer.size >= 2 * self._limit:
            raise AnswerRefused  # little of it is body
        size = max(wants, 2 * self.buffer.size)
        larger = SecretBuffer(size)
        larger.view[: self._used] = self.buffer.view[: self._used]
        self.buffer.close()
        self.buffer = larger

    def _send(self) -> None:
        """Sends what it can; the rest when the socket takes more."""
        try:
            while self._outgoing is not None:
                sent = self._sock.send(self._outgoing)
                rest = self._outgoing[sent:]
                self._outgoing = rest if len(rest) else None
            self._stop_writing()
        except ssl.SSLWantReadError:
            self._stop_writing()  # `_readable` goes on
        except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError):
            self._start_writing()
        except OSError:
            self.abort()

    def _writable(self) -> None:
        self._stop_writing()
        if self._outgoing is not None:
            self._send()
        if self._is_tls and self._reader is not None:
            self._readable()  # TLS may have had to write before it could read

    def _start_writing(self) -> None:
        if not self._is_writing:
            self._is_writing = True
            self._loop.add_writer(self._sock, self._writable)

    def _stop_writing(self) -> None:
        if self._is_writing:
            self._is_writing = False
            self._loop.remove_writer(self._sock)
