"""What a Prometheus server may ask of this process. Without a token, and without anything worth hiding."""

from collections.abc import Callable, Iterable
from http import HTTPStatus

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector as MetricsSource

from service.api.error_responses import documented
from service.measures import SECONDS, Spread, Tally
from service.memory import secret_pages
from service.memory.zeroing import Zeroing, in_force
from service.metric_families import counter, histogram

router = APIRouter(tags=["health"], responses=documented(500))


_STATUSES = frozenset(int(status) for status in HTTPStatus)

Answered = Callable[[str, str, int, float], None]
"""Told of each answer: method, route's template, status (0: none was begun) and seconds."""


class AnswerMetrics(MetricsSource):
    """What was answered, by method, route's template and status, and how long it took."""

    def __init__(self) -> None:
        self._answers = Tally()
        self._seconds = Spread(SECONDS)

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts one. A status that HTTP doesn't name, which a provider may have given, counts as its class."""
        word = str(status) if status in _STATUSES else f"{status // 100}xx"
        self._answers.add((method, route, word))
        self._seconds.note((route,), seconds)

    def collect(self) -> Iterable[Metric]:
        """The present values."""
        yield counter(
            "credentials_http_requests",
            "Requests, by the route's template; status 0xx: no answer was begun.",
            ("method", "route", "status"),
            self._answers,
        )
        yield histogram(
            "credentials_http_request_seconds", "A request, answer and streams included.", ("route",), self._seconds
        )


class ProcessMetrics(MetricsSource):
    """What is in force in this process, how often garbage was collected, uses refused, and the memory for secrets.
    What the runtime counts is here as well.

    Read when they are asked for; what is in force is found out once, at the first time.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._zeroing: Zeroing | None = None

    def collect(self) -> Iterable[Metric]:
        """The present values."""
        if self._zeroing is None:
            self._zeroing = in_force()
        yield InfoMetricFamily(
            "credentials_zeroing",
            "What wipes freed memory, and the other protections of the process.",
            value={
                "mode": self._zeroing.mode,
                "pymalloc_off": _word(self._zeroing.pymalloc_off),
                "bind_now": _word(self._zeroing.bind_now),
                "dumpable": _word(self._zeroing.dumpable),
            },
        )
        collector = getattr(getattr(self._app.state, "runtime", None), "collector", None)
        if collector is not None:
            yield CounterMetricFamily(
                "credentials_garbage_collections", "Collections of garbage that may hold secrets.", collector.runs
            )
            yield CounterMetricFamily(
                "credentials_garbage_collection_seconds", "The time they took.", collector.seconds
            )
        own = getattr(getattr(self._app.state, "runtime", None), "metrics", None)
        if own is not None:
            yield from own.collect()
        limits = getattr(getattr(self._app.state, "runtime", None), "rate_limits", None)
        if limits is not None:
            refused = CounterMetricFamily(
                "credentials_rate_limited", "Uses that a rate limit refused.", labels=("use", "limit")
            )
            for (use, limit), count in sorted(limits.refused.items()):
                refused.add_metric((use, limit), count)
            yield refused
        yield GaugeMetricFamily(
            "credentials_secret_memory_bytes", "Memory mapped for secrets.", secret_pages.mapped_bytes()
        )
        yield GaugeMetricFamily(
            "credentials_secret_memory_locked_bytes", "How much of it is kept out of swap.", secret_pages.locked_bytes()
        )


def install_metrics(app: FastAPI) -> Answered:
    """Gives the application a registry of its own, as `app.state.metrics`: two in one process share nothing. Returns
    who is to be told of each answer.
    """
    answers = AnswerMetrics()
    app.state.metrics = CollectorRegistry()
    app.state.metrics.register(ProcessMetrics(app))
    app.state.metrics.register(answers)
    return answers.note


@router.head("/metrics", response_class=PlainTextResponse)
@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """The process's metrics, in Prometheus's text format."""
    return Response(generate_latest(request.app.state.metrics), media_type=CONTENT_TYPE_LATEST)


def _word(value: bool) -> str:
    return "true" if value else "false"
