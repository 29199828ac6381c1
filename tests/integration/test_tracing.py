"""Spans of a service at work: which there are, how they hang together, and that nothing of anybody's is in them."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service import tracing
from service.composition import Runtime
from service.correlation import Correlation, TraceContext, enter, leave
from tests.evidence import AuditLog, found
from tests.proxying import proxied
from tests.rest import Headers
from tests.stored import some_user, store
from tests.support import Stack, canary

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
Bearer = Callable[..., Headers]


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    with tracing.recording(SimpleSpanProcessor(exporter)):
        yield exporter


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [each for each in spans.get_finished_spans() if each.name == name]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def trace_of(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}" if span.context else ""


async def test_a_proxied_call_is_one_trace_from_its_caller_to_the_provider(
    stack: Stack, bearer: Bearer, spans: InMemorySpanExporter
) -> None:
    async with proxied(stack, bearer) as service:
        held = await service.held()
        spans.clear()
        audit = AuditLog(stack)
        answer = await service.call(held, "GET", headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
    assert answer.status_code == 200
    (request,) = [each for each in named(spans, "GET") if trace_of(each) == TRACE]
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == SPAN
    told = attributes(request)
    assert told["http.route"] == "/v1/credentials/{credential_id}/proxy/{path:path}"
    assert told["http.response.status_code"] == 200
    assert told["credentials.request_id"] == answer.headers["x-request-id"]
    mine = {each.name for each in spans.get_finished_spans() if trace_of(each) == TRACE}
    assert {"GET", "batch opens", "postgres authorise_opens", "vault decrypt", "vault kv_read", "provider"} <= mine
    (provider,) = named(spans, "provider")
    assert attributes(provider) == {"credentials.provider": "alpaca", "http.response.status_code": 200}
    # Vault's audit log has the caller's trace, with our place in it.
    place = f"00-{TRACE}-{request.context.span_id:016x}-01" if request.context else ""
    sent = [value for entry in audit.entries() for value in entry["request"].get("headers", {}).get("traceparent", ())]
    assert stack.local.vault.audit_path is None or place in sent


async def test_a_batch_of_several_is_a_trace_of_its_own_linked_to_theirs(
    runtime: Runtime, spans: InMemorySpanExporter
) -> None:
    stored = [await store(runtime) for _ in range(3)]
    spans.clear()

    async def opened(at: int) -> None:
        token = enter(Correlation(f"{at:032x}", TraceContext(f"{at + 1:032x}", f"{at + 1:016x}", "01")))
        async with runtime.opener.reveal(stored[at].access, stored[at].id):
            pass
        leave(token)

    await asyncio.gather(*(asyncio.create_task(opened(at)) for at in range(3)))
    (batch,) = named(spans, "batch opens")
    assert attributes(batch) == {"credentials.items": 3}
    assert batch.parent is None
    assert {link.context.trace_id for link in batch.links} == {1, 2, 3}
    (statement,) = named(spans, "postgres authorise_opens")
    assert trace_of(statement) == trace_of(batch)


def asked_with(flags: str, trace_id: str) -> TraceContext:
    """A request with this in its `traceparent`, that opens something. Returns the place that it passes on."""
    request = Correlation("a" * 32, TraceContext(trace_id, SPAN, flags))
    with tracing.request_span(request, "GET"):
        assert request.trace is not None
        with tracing.batch_span("opens", [request]), tracing.span("vault decrypt"):
            pass
    return request.trace


@pytest.mark.parametrize(
    ("sampler", "argument", "recorded"),
    [
        (None, "", True),
        ("parentbased_always_on", "", True),
        ("parentbased_always_off", "", False),
        ("always_on", "", True),
        ("always_off", "", False),
        ("parentbased_traceidratio", "0", False),
        ("traceidratio", "1", True),
    ],
)
@pytest.mark.parametrize("flags", ["00", "01"])
def test_a_caller_does_not_decide_whether_its_request_is_recorded(
    sampler: str | None, argument: str, recorded: bool, flags: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_TRACES_SAMPLER", raising=False)
    if sampler is not None:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    exporter = InMemorySpanExporter()
    with tracing.recording(SimpleSpanProcessor(exporter)):
        place = asked_with(flags, TRACE)
    # All of it or nothing, in the caller's trace, and whoever is asked next is told what was decided here.
    assert [each.name for each in exporter.get_finished_spans()] == (
        ["vault decrypt", "batch opens", "GET"] if recorded else []
    )
    assert (place.trace_id, place.flags) == (TRACE, "01" if recorded else "00")
    assert {trace_of(each) for each in exporter.get_finished_spans()} <= {TRACE}


@pytest.mark.parametrize("trace_id", [f"{1:032x}", "f" * 32])
@pytest.mark.parametrize("sampler", ["traceidratio", "parentbased_traceidratio"])
def test_nor_by_the_trace_id_that_it_chooses(sampler: str, trace_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler of a ratio looks at the id's last 8 bytes: the least is always recorded, the greatest never."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    exporter = InMemorySpanExporter()
    with tracing.recording(SimpleSpanProcessor(exporter)):
        decided = [asked_with("01", trace_id).flags for _ in range(64)]
    assert set(decided) == {"00", "01"}
    assert len(exporter.get_finished_spans()) == 3 * decided.count("01")


async def test_nothing_of_anybodys_is_in_a_span(stack: Stack, bearer: Bearer, spans: InMemorySpanExporter) -> None:
    user_id = some_user("trader")
    async with proxied(stack, bearer) as service:
        held = await service.held(user_id=user_id)
        secrets = [canary() for _ in range(4)]
        await service.call(
            held, "GET", f"v2/orders/{secrets[0]}?{secrets[1]}={secrets[1]}", headers={"X-A": secrets[2]}
        )
        await service.call(held, "POST", "v2/orders", content=secrets[3])
        await service.client.post(f"/v1/credentials/{held.id}/validate", headers=held.headers)
        await service.client.get(f"/v1/credentials/{uuid4()}", headers=held.headers)
        service.alpaca.close_account(*held.keys)
        await service.call(held, "GET")
        robot = {**bearer("orchestrator", "robot"), "X-User-Id": user_id}
        handed = await service.client.post(f"/v1/credentials/{held.id}/handoff", headers=robot)
    recorded = spans.get_finished_spans()
    assert len(recorded) > 20
    shown = {f"span {at}": f"{each.to_json()} {each.events!r} {vars(each)!r}" for at, each in enumerate(recorded)}
    token = handed.json()["wrapping_token"]
    hidden = [*secrets, *held.keys, token, stack.root_token, held.headers["Authorization"].removeprefix("Bearer ")]
    assert found(hidden, shown) == []
    assert not [
        place for place, text in shown.items() if user_id in text or held.id in text or service.alpaca.url in text
    ]
    assert {name for each in recorded for name in attributes(each)} <= tracing.ALLOWED
    assert not any(each.events for each in recorded)


async def test_an_error_is_its_class_and_no_message(spans: InMemorySpanExporter) -> None:
    secret = canary()

    def mistaken() -> None:
        with tracing.span("vault decrypt") as span:
            span.note("http.route", f"/v1?{secret}")
            span.note(secret, 1)  # type: ignore[arg-type]  # what a mistake would do
            raise ValueError(secret)

    with pytest.raises(ValueError, match=secret):
        mistaken()
    (recorded,) = spans.get_finished_spans()
    assert attributes(recorded) == {"error.type": "ValueError"}
    assert secret not in recorded.to_json()


async def test_spans_are_off_unless_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER"):
        monkeypatch.delenv(name, raising=False)
    with tracing.exporting(), tracing.span("vault decrypt") as span:
        assert span.place is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with tracing.exporting(), tracing.span("vault decrypt") as span:
        assert span.place is None


def test_a_collectors_token_may_be_in_a_file_instead_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[str | None] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.headers["Authorization"])
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    token = canary()
    headers = tmp_path / "OTEL_EXPORTER_OTLP_HEADERS"
    headers.write_text(f"authorization=Bearer%20{token}\n")
    headers.chmod(0o600)
    for name in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_TRACES_EXPORTER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CREDENTIALS_SETTINGS_DIR", str(tmp_path))
    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        answering = threading.Thread(target=collector.serve_forever)
        answering.start()
        try:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
            with tracing.exporting(), tracing.span("vault decrypt"):
                pass
        finally:
            collector.shutdown()
            answering.join()
    assert received == [f"Bearer {token}"]


def test_without_the_packages_the_service_is_as_it_is_and_says_that_there_are_no_traces() -> None:
    program = """
import logging, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter")):
            raise ImportError(name)
sys.meta_path.insert(0, Missing())
logging.basicConfig(level=logging.INFO)
from service import tracing
from service.app import create_app
create_app()
with tracing.exporting(), tracing.span("vault decrypt") as span:
    assert span.place is None
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "done\n", done.stderr
    assert "the extra `otel`" in done.stderr
