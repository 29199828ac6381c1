"""A proxied call's order: accepted, opened, the keys given once and wiped, sent, judged, passed back."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from service.errors import (
    CallerGone,
    CredentialsError,
    DatabaseUnavailable,
    InvalidInput,
    ProviderOutcomeUnknown,
    ProviderRefused,
    ProviderUnavailable,
    ProxyRefused,
)
from service.measures import Measures
from service.memory.plaintext import Plaintext
from service.modules.open_batches import Opened
from service.modules.proxy import Proxy, ProxyLimits
from service.modules.proxy_ports import ProxyCall, UpstreamCall
from service.modules.proxy_rules import ProxyRules
from service.modules.records import OwnerAccess

ACCESS = OwnerAccess(user_id="alice", actor="user:alice")
CREDENTIAL: Any = SimpleNamespace(id=uuid4(), credential_type="alpaca", account_type="paper", suspect_since=None)


class Around:
    """All that is around a proxy. `done` tells what happened, in order."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.pair = Plaintext.copy_of("key\nsecret")
        self.status = 200
        self.pieces: list[bytes | Exception] = [b"one", b"two"]
        self.unsent: Exception | None = None
        self.lost: BaseException | None = None
        self.trouble: Exception | None = None
        self.noting: Exception | None = None
        self.has_body = False
        self.credential = CREDENTIAL
        self.measures = Measures()
        limits = ProxyLimits(at_once=2, at_once_user=2, at_once_caller=2, idle_seconds=30, call_seconds=30)
        provider = SimpleNamespace(
            base_url=self._base_url,
            headers=self._headers,
            refuses_keys=lambda status: status == 401,
            accepts_keys=lambda status, _path: status == 200,
        )
        parts: list[Any] = [self, {"alpaca": provider}, self, ProxyRules({}), self, self, limits, self.measures]
        self.proxy = Proxy(*parts)

    async def call(self, method: str = "GET", query: str = "") -> None:
        call = ProxyCall(credential_id="id", method=method, path="/v2/account", query=query, headers={"accept": "a"})
        caller: Any = self
        await self.proxy.forward(ACCESS, call, caller)

    def _base_url(self, *_: Any) -> str:
        if self.trouble:
            raise self.trouble
        return "https://provider.example"

    def _headers(self, api_key: Plaintext, secret_key: Plaintext) -> dict[str, str]:
        with api_key.reveal() as api, secret_key.reveal() as secret:
            return {"key": str(api, "ascii"), "secret": str(secret, "ascii")}

    # --- the opener's

    async def open(self, _access: Any, _id: Any, *, action: Any, accept: Callable[[Any], None]) -> Opened:
        accept(self.credential)
        self.done.append(str(action))
        return Opened(self.credential, self.pair)

    async def record_failure(self, _access: Any, _credential: Any, action: Any, error: Exception) -> None:
        self.done.append(("failed", str(action), type(error)))

    # --- the upstream's

    @asynccontextmanager
    async def send(self, call: UpstreamCall, authenticate: Callable[[], Mapping[str, str]]) -> AsyncIterator[Any]:
        if self.unsent:
            raise self.unsent
        assert any(self.pair.reveal()), "the keys are gone before they are needed"
        self.done.append((call.method, call.url, dict(authenticate())))
        assert not any(self.pair.reveal()), "the keys are still there when they have been given"
        if self.lost:
            raise self.lost
        yield SimpleNamespace(status=self.status, headers=[(b"a", b"b")], chunks=self._pieces)
        self.done.append("closed")

    async def _pieces(self) -> AsyncIterator[bytes]:
        for each in self.pieces:
            if isinstance(each, Exception):
                raise each
            yield each

    # --- the caller's, and uses'

    def watched(self, *_: Any) -> Any:
        return nullcontext()

    def chunks(self) -> Any:
        return None

    async def begin(self, status: int, headers: Any) -> None:
        self.done.append(("begin", status, headers))

    async def write(self, chunk: bytes) -> None:
        self.done.append(chunk)

    async def end(self) -> None:
        self.done.append("end")

    # --- the suspects'

    async def refused(self, *_: Any) -> None:
        if self.noting:
            raise self.noting
        self.done.append("suspect")

    async def accepted(self, *_: Any) -> None:
        if self.noting:
            raise self.noting


SENT = {"key": "key", "secret": "secret"}


async def test_a_call_is_accepted_opened_sent_once_and_passed_back_in_this_order() -> None:
    around = Around()
    await around.call("POST", "a=b")
    assert around.done == [
        "trade",
        ("POST", "https://provider.example/v2/account?a=b", SENT),
        ("begin", 200, [(b"a", b"b")]),
        b"one",
        b"two",
        "end",
        "closed",
    ]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ProxyRefused(), ProxyRefused),
        (InvalidInput("query", "no"), InvalidInput),
        (KeyError("a mistake"), ProxyRefused),  # of a module that somebody else wrote
        (RuntimeError("a mistake"), ProxyRefused),
    ],
)
async def test_what_the_providers_module_refuses_is_not_opened(raised: Exception, expected: type[Exception]) -> None:
    around = Around()
    around.trouble = raised
    with pytest.raises(expected):
        await around.call()
    assert around.done == []


@pytest.mark.parametrize(
    ("method", "status", "expected"),
    [("GET", each, ProviderRefused) for each in (101, 199, 300, 302, 307, 399, 600, 999)]
    + [("POST", each, ProviderOutcomeUnknown) for each in (101, 303, 308, 600)],
)
async def test_a_status_that_is_no_answer_is_not_passed_back(
    method: str, status: int, expected: type[Exception]
) -> None:
    around = Around()
    around.status = status
    with pytest.raises(expected):
        await around.call(method)
    assert len(around.done) == 2  # opened and sent


@pytest.mark.parametrize(
    ("method", "when", "expected"),
    [
        ("GET", "unsent", ProviderUnavailable),
        ("POST", "unsent", ProviderUnavailable),
        ("GET", "lost", ProviderUnavailable),
        ("HEAD", "lost", ProviderUnavailable),
        ("POST", "lost", ProviderOutcomeUnknown),
        ("DELETE", "lost", ProviderOutcomeUnknown),
    ],
)
async def test_what_is_not_known_to_have_been_left_undone_is_told_so(
    method: str, when: str, expected: type[Exception]
) -> None:
    around = Around()
    setattr(around, when, ProviderUnavailable())
    with pytest.raises(CredentialsError) as caught:
        await around.call(method)
    assert type(caught.value) is expected
    assert caught.value.__context__ is caught.value.__cause__ is None
    assert not any(around.pair.reveal())


async def test_an_answer_that_broke_off_is_not_ended() -> None:
    around = Around()
    around.pieces = [b"one", ProviderUnavailable()]
    with pytest.raises(ProviderUnavailable):
        await around.call()
    assert around.done[-1] == b"one"


async def test_that_nothing_could_be_noted_of_the_keys_does_not_spoil_the_answer() -> None:
    around = Around()
    around.status = 401
    await around.call()
    assert "suspect" in around.done
    around = Around()
    around.status, around.noting = 401, DatabaseUnavailable()
    await around.call()
    assert around.done[-2:] == ["end", "closed"]


async def test_a_caller_who_is_gone_is_not_called_for() -> None:
    around = Around()

    @asynccontextmanager
    async def gone(*_: Any) -> AsyncIterator[None]:
        if around.done:
            raise CallerGone
        yield

    around.watched = gone  # type: ignore[method-assign]
    with pytest.raises(CallerGone):
        await around.call("POST")
    assert around.done == ["trade"]
    assert not any(around.pair.reveal())


async def test_no_text_of_a_rows_becomes_a_label() -> None:
    around = Around()
    around.credential = SimpleNamespace(**{**vars(CREDENTIAL), "credential_type": 'x"} 1\nforged{a="b'})
    with pytest.raises(KeyError):  # the real registry's is an InvalidInput
        await around.call()
    assert {provider for provider, _ in around.measures.proxy_calls.counts} == {"none"}


@pytest.mark.parametrize(("method", "failure"), [("GET", ProviderUnavailable), ("POST", ProviderOutcomeUnknown)])
async def test_a_call_that_is_cut_because_its_process_stops_is_recorded_as_failed(
    method: str, failure: type[Exception]
) -> None:
    around = Around()
    around.lost = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await around.call(method)
    action = "proxy" if method == "GET" else "trade"
    assert around.done[-1] == ("failed", action, failure)
