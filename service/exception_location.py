"""What of an exception may be logged: its class and its places in the code, never its message or its locals."""

from collections.abc import Iterator
from types import TracebackType

_MAX_CHAIN = 5


def exception_location(error: BaseException) -> list[str]:
    """The exception's class and where it passed, innermost last, then the same of what caused it. Never a message."""
    lines: list[str] = []
    for link in _chain(error):
        lines.append(f"{type(link).__module__}.{type(link).__qualname__}")
        lines += [f"{file}:{line} {function}" for file, line, function in _frames(link.__traceback__)]
    return lines


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(_MAX_CHAIN):
        if link is None:
            return
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _frames(traceback: TracebackType | None) -> Iterator[tuple[str, int, str]]:
    while traceback is not None:
        code = traceback.tb_frame.f_code
        yield "/".join(code.co_filename.split("/")[-3:]), traceback.tb_lineno, code.co_qualname
        traceback = traceback.tb_next
