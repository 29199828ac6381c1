"""What ties a request's traces together: its id, the caller's trace, and the batches that have served it.

The id is ours. The trace is the caller's, from a `traceparent` (https://www.w3.org/TR/trace-context/), or our own where
spans are recorded. A batch serves many requests, so it is sent to Vault under its own id alone, which each of these
requests' log lines names; what Vault is asked for one request alone carries that request's id and trace. All of it is
random hexadecimal, safe to log and to send.
"""

import asyncio
import re
from collections.abc import Coroutine, Iterable, Mapping
from contextvars import Context, ContextVar, Token
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar
from uuid import UUID

REQUEST_HEADER = "X-Request-Id"
TRACE_HEADER = "Traceparent"
"""Vault logs both in the clear, as `vault-policies/provisioning.json` has it."""

_Result = TypeVar("_Result")

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_MAX_BATCHES = 16


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace. Lower-case hexadecimal."""

    trace_id: str
    span_id: str
    flags: str = "00"

    @classmethod
    def parse(cls, values: Iterable[bytes]) -> Self | None:
        """Of a request's `traceparent` fields; None unless there is exactly one, and valid (section 3.2.2)."""
        given = list(values)
        found = _TRACEPARENT.fullmatch(given[0]) if len(given) == 1 and len(given[0]) <= 256 else None
        if found is None:
            return None
        version, trace_id, span_id, flags, more = found.groups()
        # Of versions to come the beginning is as today's; ff is none, and zeros mean that there is nothing.
        if version == b"ff" or (version == b"00" and more) or not int(trace_id, 16) or not int(span_id, 16):
            return None
        return cls(trace_id.decode("ascii"), span_id.decode("ascii"), flags.decode("ascii"))

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


@dataclass(slots=True)
class Correlation:
    """One request. It is the same object wherever the request is worked for."""

    request_id: str
    trace: TraceContext | None = None
    batches: list[str] = field(default_factory=list)
    """Ids of the batches that have served it, the first sixteen."""


_current: ContextVar[Correlation | None] = ContextVar("correlation", default=None)


def current() -> Correlation | None:
    """Of the request that is worked for here; None outside one, and in a batch of several."""
    return _current.get()


def enter(correlation: Correlation | None) -> Token[Correlation | None]:
    """What is done from here on is for this request; `leave` ends that."""
    return _current.set(correlation)


def leave(token: Token[Correlation | None]) -> None:
    """Takes `enter` back."""
    _current.reset(token)


def note_batch(batch_id: UUID | None) -> None:
    """Notes that this batch has served the request that is worked for here, if any."""
    found = _current.get()
    if found is not None and batch_id is not None and len(found.batches) < _MAX_BATCHES:
        text = str(batch_id)
        if text not in found.batches:
            found.batches.append(text)


def vault_headers() -> Mapping[str, str]:
    """The header fields of a request to Vault that is for one request alone."""
    found = _current.get()
    if found is None:
        return {}
    if found.trace is None:
        return {REQUEST_HEADER: found.request_id}
    return {REQUEST_HEADER: found.request_id, TRACE_HEADER: str(found.trace)}


def start_alone(work: Coroutine[Any, Any, _Result], name: str) -> asyncio.Task[_Result]:
    """Starts a task that is no request's: one that goes on for others would log, and ask Vault, under the id and in the
    trace of whoever happened to start it.
    """
    return asyncio.create_task(work, name=name, context=Context())
