"""Spans, by OpenTelemetry, where its packages are installed (the extra `otel`) and the environment asks for them.

Off by default, and without the packages: then a span is nothing. On, a span has a name of fixed words, and attributes
of a fixed list whose values are numbers, or words and ids of ours: no URL, query, header, body, user or credential has
a way into one. Of an exception it has the class alone. Nothing else is instrumented, and the exporter, which sends from
a thread of its own, has spans and nothing of a request. A caller, who nobody has authenticated by then, says which
trace its request is in, and nothing of whether that is recorded. Configured by `OTEL_*`
(https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/), of which the headers, with a
collector's token, may be a file in CREDENTIALS_SETTINGS_DIR.
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

from service.correlation import Correlation, TraceContext
from service.settings_files import collector_headers

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.sampling import Sampler
    from opentelemetry.trace import SpanContext

_log = logging.getLogger(__name__)

Attribute = Literal[
    "http.request.method",
    "http.route",
    "http.response.status_code",
    "credentials.request_id",
    "credentials.batch_ids",
    "credentials.items",
    "credentials.provider",
    "error.type",
]
ALLOWED = frozenset(get_args(Attribute))
_VALUE = re.compile(r"[A-Za-z0-9_.,:/{}-]{1,700}")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_tracer: Any = None
"""OpenTelemetry's Tracer while spans are recorded. A process has one, as it has one log."""


class Span:
    """What is being done, as it is recorded; or nothing, where it isn't."""

    __slots__ = ("_recorded",)

    def __init__(self, recorded: Any = None) -> None:
        self._recorded = recorded

    @property
    def place(self) -> TraceContext | None:
        """Where it is."""
        if self._recorded is None:
            return None
        found = self._recorded.get_span_context()
        return TraceContext(f"{found.trace_id:032x}", f"{found.span_id:016x}", f"{int(found.trace_flags):02x}")

    def note(self, name: Attribute, value: int | str) -> None:
        """Adds an attribute. One that is not on the list, or no word, number or id, is left out."""
        recorded = self._recorded
        if recorded is not None and name in ALLOWED and (isinstance(value, int) or _VALUE.fullmatch(value)):
            recorded.set_attribute(name, value)


_NOTHING = Span()


class _Off:
    """A span where none is recorded: one for all, since it keeps nothing."""

    def __enter__(self) -> Span:
        return _NOTHING

    def __exit__(self, *_: object) -> None:
        pass


_OFF = _Off()


def span(name: str) -> AbstractContextManager[Span]:
    """A step of what is under way, asked of somebody else. `name`: fixed words."""
    return _OFF if _tracer is None else _started(name, "CLIENT")


def request_span(request: Correlation, method: str) -> AbstractContextManager[Span]:
    """A request that is answered, in its caller's trace if it has one. `request.trace` becomes its own place in it, its
    flag our decision and no more the caller's.
    """
    return _OFF if _tracer is None else _request_span(request, method)


def batch_span(name: str, requests: Sequence[Correlation | None]) -> AbstractContextManager[Span]:
    """A batch: in the trace of its only request, or, of several, in one of its own that is linked to theirs."""
    if _tracer is None:
        return _OFF
    traces = [request.trace for request in requests if request is not None and request.trace is not None]
    alone = traces[0] if len(requests) == len(traces) == 1 else None
    return _started(f"batch {name}", "INTERNAL", parent=alone, links=() if alone else traces, items=len(requests))


@contextmanager
def _request_span(request: Correlation, method: str) -> Iterator[Span]:
    with _started(method, "SERVER", parent=request.trace, parent_is_ours=False) as started:
        request.trace = started.place
        started.note("credentials.request_id", request.request_id)
        try:
            yield started
        finally:
            if request.batches:
                started.note("credentials.batch_ids", ",".join(request.batches))


@contextmanager
def _started(
    name: str,
    kind: str,
    *,
    parent: TraceContext | None = None,
    parent_is_ours: bool = True,
    links: Sequence[TraceContext] = (),
    items: int | None = None,
) -> Iterator[Span]:
    from opentelemetry import trace

    context = None
    if parent is not None:
        place = _context(parent, is_remote=not parent_is_ours)
        context = trace.set_span_in_context(trace.NonRecordingSpan(place))
    with _tracer.start_as_current_span(
        name,
        context,
        trace.SpanKind[kind],
        links=[trace.Link(_context(each)) for each in links],
        record_exception=False,  # with its message, which may quote what was being worked on
        set_status_on_exception=False,
    ) as recorded:
        started = Span(recorded)
        if items is not None:
            started.note("credentials.items", items)
        try:
            yield started
        except BaseException as error:
            started.note("error.type", type(error).__name__)
            recorded.set_status(trace.StatusCode.ERROR)
            raise


def _context(place: TraceContext, *, is_remote: bool = False) -> "SpanContext":
    from opentelemetry import trace

    flags = trace.TraceFlags(int(place.flags, 16) & trace.TraceFlags.SAMPLED)
    return trace.SpanContext(int(place.trace_id, 16), int(place.span_id, 16), is_remote=is_remote, trace_flags=flags)


def _deciding_itself(sampler: "Sampler") -> "Sampler":
    """The sampler, which sees of a trace that somebody else began neither the flag nor the id: whoever may choose
    either, before they are authenticated, could have everything recorded, or nothing. What it decides of a request, it
    decides for all of it.
    """
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, SamplingResult

    ids, whole = RandomIdGenerator(), ParentBased(sampler)

    class Deciding(Sampler):
        def should_sample(
            self, parent_context: Context | None, trace_id: int, *args: Any, **named: Any
        ) -> SamplingResult:
            if trace.get_current_span(parent_context).get_span_context().is_remote:
                parent_context, trace_id = Context(), ids.generate_trace_id()
            return whole.should_sample(parent_context, trace_id, *args, **named)

        def get_description(self) -> str:
            return "decided here"

    return Deciding()


@contextmanager
def recording(processor: "SpanProcessor") -> Iterator[None]:
    """Has spans recorded, and given to this processor, until the block ends."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    global _tracer  # noqa: PLW0603 - a process records spans or it doesn't
    named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "vault-credentials"}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.sampler = _deciding_itself(provider.sampler)  # the one that OTEL_TRACES_SAMPLER names
    provider.add_span_processor(processor)
    before, _tracer = _tracer, provider.get_tracer("vault-credentials")
    try:
        yield
    finally:
        _tracer = before
        provider.shutdown()


@contextmanager
def exporting() -> Iterator[None]:
    """Sends spans over OTLP while the block lasts, where `OTEL_EXPORTER_OTLP_ENDPOINT`, its variant for traces, or
    `OTEL_TRACES_EXPORTER=otlp` asks for that, and neither `OTEL_SDK_DISABLED=true` nor another exporter does.

    Where the packages are missing, it logs that and does nothing: the variables are often set for everything at once.

    Raises:
        ConfigurationError: the headers' file, if there is one, can't be used.
    """
    wanted = os.environ.get("OTEL_TRACES_EXPORTER", "otlp" if any(map(os.environ.get, _ENDPOINTS)) else "none")
    if wanted != "otlp" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        _log.warning("OTEL_* asks for traces, which need the packages of the extra `otel`; none are recorded")
        yield
        return
    with recording(BatchSpanProcessor(OTLPSpanExporter(headers=collector_headers()))):
        _log.info("spans are exported")
        yield
