"""Logs as JSON lines, one id for each request, and one line for each answer. No value that a caller sent is in them.

A log line is a message of fixed text and some named fields. Exceptions are logged by class and place in the code and
without their message, which may quote what was being worked on.
"""

import copy
import dataclasses
import json
import logging
import re
import secrets
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import correlation, tracing
from service.correlation import Correlation, TraceContext
from service.exception_location import exception_location
from service.memory.plaintext import MASK, Plaintext
from service.memory.revealed import RevealedSecret

# httpx logs URLs at INFO, aiohttp's server paths, asyncpg statements with their arguments at DEBUG.
_QUIET = ("httpx", "httpcore", "aiohttp", "hvac", "asyncpg", "urllib3", "asyncio")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

_quoted = lru_cache(maxsize=256)(json.dumps)

_access_log = logging.getLogger("service.access")


def current_request_id() -> str | None:
    """The id of the request being answered, made here; None outside one. It is safe to log and to send."""
    found = correlation.current()
    return None if found is None else found.request_id


def current_trace_id() -> str | None:
    """The id of the trace that the request being answered belongs to, if any: the caller's, or ours."""
    found = correlation.current()
    return None if found is None or found.trace is None else found.trace.trace_id


def configure_logging(level: str = "INFO", *, stream: TextIO | None = None) -> None:
    """Sends every logger's lines, as JSON, to `stream` (default: stderr). For a process that is ours, not a library's.

    Replaces the root's handlers and those of uvicorn, whose own access log, with its raw paths, is turned off.
    Raises ValueError for a level that logging doesn't know.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        LineFormatter(
            ["levelname", "name", "message"],
            timestamp="at",
            rename_fields={"levelname": "level", "name": "logger"},
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn's messages again, for terminals
        )
    )
    handler.addFilter(_add_request_id)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.disabled = True


class LineFormatter(JsonFormatter):
    """JSON lines in which an exception is a list of class and code locations, whoever logs it, and a secret is stars.

    Secrets are `RevealedSecret` and `Plaintext`, as a message, its arguments, an extra, and inside dicts, lists, tuples
    and sets. Does not: know one that has been made into another string.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line. The record itself, which other handlers see too, stays as it is."""
        if isinstance(record, _Answered):
            return record.line()
        record = copy.copy(record)
        record.msg, record.args = _masked(record.msg), _masked(record.args)
        return super().format(record)

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """The fields, masked: the JSON encoder asks nobody about subclasses of str."""
        masked: dict[str, Any] = _masked(log_data)
        return masked

    def formatException(self, ei: Any) -> list[str]:  # type: ignore[override]  # noqa: N802 - logging's name; the JSON formatter takes lists
        """What `exception_location` says of it."""
        return exception_location(ei[1]) if ei[1] is not None else []


class RequestLog:
    """ASGI middleware: gives the request an id, returns it as X-Request-Id, and logs one line when it has ended.

    The id is always made here, so that no caller can give its requests, or their events, another's. The caller's own
    X-Request-Id is in the line as `client_request_id`, if it is 1 to 64 characters of `A-Z a-z 0-9 . _ -`; the trace of
    its `traceparent`, if that is a valid one, as `trace_id`, there and in every line that is logged for the request.
    `batches` are the ids under which Vault was asked in batches for it.
    The line has method, the route's template (never the path or query, which are the caller's text), status and
    milliseconds; a status of 0 means that no answer was begun. It is the outermost of our middlewares, so its time is
    the whole of the request. Pure ASGI: Starlette's BaseHTTPMiddleware hides a client's going away.
    """

    def __init__(self, app: ASGIApp, *, answered: Callable[[str, str, int, float], None] | None = None) -> None:
        """`answered` is told of each answer: method, route's template, status and seconds."""
        self._app = app
        self._answered = answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(16)
        traceparents = [value for name, value in scope["headers"] if name == b"traceparent"]
        request = Correlation(request_id, TraceContext.parse(traceparents) if traceparents else None)
        given = _given_id(scope)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode())]}
            await send(message)

        method = scope["method"] if scope["method"] in _METHODS else "other"
        began = time.perf_counter()
        token = correlation.enter(request)
        try:
            with tracing.request_span(request, method) as span:
                try:
                    await self._app(scope, receive, send_with_id)
                finally:
                    span.note("http.request.method", method)
                    span.note("http.route", _route(scope))
                    span.note("http.response.status_code", status)
        finally:
            seconds = time.perf_counter() - began
            route = _route(scope)
            if self._answered is not None:
                self._answered(method, route, status, seconds)
            if _access_log.isEnabledFor(logging.INFO):
                _access_log.handle(_Answered(method, route, status, round(seconds * 1000, 1), request, given))
            correlation.leave(token)


class _Answered(logging.LogRecord):
    """The line for one answer, with its fields as attributes, as if they were `extra`.

    It is made for every request, so it makes its own JSON, which costs a fifth of the usual way: nothing in it can be
    a secret, a caller's text, or an exception.
    """

    def __init__(
        self, method: str, route: str, status: int, ms: float, request: Correlation, client_request_id: str | None
    ) -> None:
        super().__init__(_access_log.name, logging.INFO, __file__, 0, "request", None, None)
        self.method = method
        self.route = route
        self.status = status
        self.ms = ms
        self.request_id = request.request_id
        if request.trace is not None:
            self.trace_id = request.trace.trace_id
        if request.batches:
            self.batches = request.batches
        if client_request_id is not None:
            self.client_request_id = client_request_id

    def line(self) -> str:
        """The fields that `LineFormatter` writes of any record, and these."""
        # JSON needs to escape none of these letters.
        noted = "".join(
            f'"{name}": "{value}", '
            for name in ("trace_id", "client_request_id")
            if (value := getattr(self, name, None)) is not None
        )
        if batches := getattr(self, "batches", None):
            noted += f'"batches": {json.dumps(batches)}, '
        return (
            f'{{"level": "INFO", "logger": "{self.name}", "message": "{self.msg}", "method": "{self.method}", '
            f'"route": {_quoted(self.route)}, "status": {self.status}, "ms": {self.ms}, '
            f'"request_id": "{self.request_id}", {noted}'
            f'"at": "{datetime.fromtimestamp(self.created, UTC).isoformat()}"}}'
        )


def _route(scope: Scope) -> str:
    route: str = getattr(scope.get("route"), "path", "none")
    return route


def _given_id(scope: Scope) -> str | None:
    given = [value for name, value in scope["headers"] if name == b"x-request-id"]
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return str(given[0], "ascii")
    return None


def _masked(value: Any) -> Any:
    match value:
        case RevealedSecret() | Plaintext():
            return MASK
        case dict():
            return {_masked(key): _masked(item) for key, item in value.items()}
        case tuple():
            return tuple(_masked(item) for item in value)
        case list() | set() | frozenset():
            return [_masked(item) for item in value]
        case BaseException():
            return exception_location(value)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return repr(value)  # the encoder would copy the fields, and show them
        case _:
            return value


def _add_request_id(record: logging.LogRecord) -> bool:
    if (found := correlation.current()) is not None:
        record.request_id = found.request_id
        if found.trace is not None:
            record.trace_id = found.trace.trace_id
    return True
