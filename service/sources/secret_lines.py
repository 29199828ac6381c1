"""The lines of a file that holds secrets: read in bounded memory, by way of a buffer that is wiped."""

import codecs
import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service import file_exposure
from service.errors import ConfigurationError
from service.memory.plaintext import copy_bytes
from service.memory.secret_pages import SecretBuffer

MAX_LINE = 65_536
"""Bytes of the longest line that is read; a row has some hundred."""

_BUFFER = 4 * MAX_LINE
_NEWLINE = re.compile(rb"\n")
_PROBLEMS = {
    errno.ENOENT: "is not there",
    errno.ENOTDIR: "is not there",
    errno.EACCES: "may not be read by this user",
    errno.EPERM: "may not be read by this user",
    errno.ELOOP: "is a symbolic link; name the file itself",
}
_KINDS = (
    (stat.S_ISREG, None),
    (stat.S_ISDIR, "is a directory"),
    (stat.S_ISFIFO, "is a pipe, which can't be read again after a failure; it has to be a file"),
)
_OTHER_KIND = "is no regular file"


@contextmanager
def secret_file(path: Path, name: str = "FILE") -> Iterator[int]:
    """A descriptor for reading a regular file. `name` is what errors call it.

    Raises:
        ConfigurationError: it is none, or can't be read.
    """
    try:
        # NONBLOCK: opening a pipe would wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(f"{name}: {_PROBLEMS.get(error.errno or 0, _OTHER_KIND)}") from None
    try:
        mode = os.fstat(descriptor).st_mode
        problem = next((problem for is_kind, problem in _KINDS if is_kind(mode)), _OTHER_KIND)
        if problem is not None:
            raise ConfigurationError(f"{name}: {problem}")
        yield descriptor
    finally:
        os.close(descriptor)


def exposure(descriptor: int, name: str = "FILE") -> str | None:
    """What to say where others on this machine may read or change the file, or own it; None where they may not."""
    problem = file_exposure.exposure(os.fstat(descriptor))
    return None if problem is None else f"{name}: {problem}"


class SecretLines:
    """The lines of an open file, without their ends, by their numbers.

    Guarantees: the file's bytes are in one buffer of fixed size, which is wiped. Does not: wipe the strings that it
    yields: they are wiped when they are freed, where freed memory is.
    """

    def __init__(self, descriptor: int, name: str = "FILE") -> None:
        """`name` is what errors call it."""
        self._descriptor = descriptor
        self.name = name
        self.size = os.fstat(descriptor).st_size
        self.position = 0
        """Bytes that have been read."""

    def __iter__(self) -> Iterator[tuple[int, str | None, str | None]]:
        """Each line's number, and either its text or what is wrong with it.

        Raises:
            ConfigurationError: the file is no text at all, or reading it failed.
        """
        with SecretBuffer(_BUFFER) as buffer:
            window = _Window(buffer, self)
            number, is_skipping = 0, False
            while True:
                span = window.line()
                if span is None:
                    if window.length > MAX_LINE:
                        is_skipping = True
                        window.drop()
                    if window.fill(self._descriptor):
                        continue
                    if not window.length and not is_skipping:
                        return
                    span = window.rest()
                number += 1
                if is_skipping or span[1] - span[0] > MAX_LINE:
                    yield number, None, f"row: is longer than {MAX_LINE} bytes"
                else:
                    yield number, *window.text(span, is_first=number == 1)
                is_skipping = False


class _Window:
    """The part of a file that is in the buffer."""

    def __init__(self, buffer: SecretBuffer, lines: SecretLines) -> None:
        self._buffer = buffer
        self._lines = lines
        self._start = self._end = self._searched = 0

    @property
    def length(self) -> int:
        return self._end - self._start

    def line(self) -> tuple[int, int] | None:
        """The next whole line's place; None where more has to be read."""
        found = _NEWLINE.search(self._buffer.view, self._searched, self._end)
        if found is None:
            self._searched = self._end
            return None
        span = self._start, found.start()
        self._start = self._searched = found.end()
        return span

    def rest(self) -> tuple[int, int]:
        """What is left, as the last line."""
        span = self._start, self._end
        self.drop()
        return span

    def drop(self) -> None:
        self._start = self._searched = self._end

    def fill(self, descriptor: int) -> bool:
        """Reads on. False: there is no more."""
        length, address = self.length, self._buffer.address
        copy_bytes(address, address + self._start, length)
        self._start, self._end, self._searched = 0, length, self._searched - self._start
        try:
            with self._buffer.view[length:] as room:
                read = os.readv(descriptor, [room])
        except OSError:
            raise ConfigurationError(f"{self._lines.name}: reading it failed") from None
        self._end += read
        self._lines.position += read
        return read > 0

    def text(self, span: tuple[int, int], *, is_first: bool) -> tuple[str | None, str | None]:
        start, end = span
        with self._buffer.view[start:end] as line:
            if is_first and bytes(line[:2]) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise ConfigurationError(f"{self._lines.name}: is UTF-16; it has to be UTF-8")
            if is_first and bytes(line[:3]) == codecs.BOM_UTF8:
                start += 3
            if len(line) and line[-1] == 0x0D:
                end -= 1
        if end < start:
            end = start
        with self._buffer.view[start:end] as line:
            try:
                text = str(line, "utf-8")
            except UnicodeDecodeError:
                return None, "row: is not UTF-8"
        return (None, "row: holds a NUL character") if "\0" in text else (text, None)
