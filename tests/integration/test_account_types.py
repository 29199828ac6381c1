"""The paper/live guard over REST and in the library: at save and at use, by setting, by role, by request."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from service.composition import close_process_runtime, configure
from service.errors import AccountTypeRefused, InvalidInput
from service.modules.credential_service import (
    get_decrypted_alpaca_credential,
    get_decrypted_credential,
    store_credential,
)
from tests.doubles.alpaca import LIVE_NUMBER, PAPER_NUMBER, AlpacaStandIn, throttled
from tests.rest import Headers, client_on, new_body, problem_of, stored
from tests.stored import last_event, some_user
from tests.support import Stack, canary
from tests.written import Connection

HEADER = "X-Require-Account-Type"
NUMBERS = {"paper": PAPER_NUMBER, "live": LIVE_NUMBER}
ORDER = {"symbol": "AAPL", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}


@pytest.fixture(scope="module")
async def alpaca() -> AsyncIterator[AlpacaStandIn]:
    async with AlpacaStandIn() as server:
        yield server


@pytest.fixture(scope="module")
async def services(stack: Stack, alpaca: AlpacaStandIn) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
    """By how live is refused: nowhere, everywhere, to users."""
    at = {"alpaca_base_url": alpaca.url}
    async with (
        client_on(stack.settings(**at)) as anything,
        client_on(stack.settings(**at, refuse_live=True)) as paper_only,
        client_on(stack.settings(**at, refuse_live_roles={"user"})) as users_paper_only,
    ):
        yield {"nowhere": anything, "everywhere": paper_only, "to users": users_paper_only}


@pytest.fixture
def rest(services: dict[str, httpx.AsyncClient], alpaca: AlpacaStandIn) -> httpx.AsyncClient:
    alpaca.reset()
    return services["nowhere"]


class Owner:
    """A user, and an orchestrator that acts for them."""

    def __init__(self, bearer: Callable[..., Headers], alpaca: AlpacaStandIn) -> None:
        self.user_id = some_user()
        self.headers = bearer("user", self.user_id)
        self.by_orchestrator = {**bearer("orchestrator", "bot"), "X-User-Id": self.user_id}
        self._alpaca = alpaca

    def keys(self, account_type: str | None) -> dict[str, str]:
        """New keys of such an account; None: Alpaca doesn't know them."""
        body = new_body()
        if account_type is not None:
            self._alpaca.open_account(body["api_key"], body["secret_key"], NUMBERS[account_type])
        return {name: body[name] for name in ("api_key", "secret_key")}

    async def has(self, rest: httpx.AsyncClient, account_type: str | None) -> str:
        """Stores a credential, of which it is known by now what it is; None: not known. Its path."""
        made = await stored(rest, self.headers, **self.keys(account_type or "live"))
        path = f"/v1/credentials/{made['id']}"
        if account_type is not None:
            answer = await rest.post(f"{path}/validate", headers=self.headers)
            assert answer.json()["account_type"] == account_type
        return path

    def uses(
        self, rest: httpx.AsyncClient, path: str, more: Headers
    ) -> dict[str, Callable[[], Awaitable[httpx.Response]]]:
        own, others = {**self.headers, **more}, {**self.by_orchestrator, **more}
        return {
            "handoff": lambda: rest.post(f"{path}/handoff", headers=others),
            "proxy": lambda: rest.get(f"{path}/proxy/v2/account", headers=own),
            "trade": lambda: rest.post(f"{path}/proxy/v2/orders", json=ORDER, headers=own),
            "trade for": lambda: rest.post(f"{path}/proxy/v2/orders", json=ORDER, headers=others),
        }


@pytest.fixture
def owner(bearer: Callable[..., Headers], alpaca: AlpacaStandIn) -> Owner:
    return Owner(bearer, alpaca)


# --- at use -----------------------------------------------------------------------------------------------------------

USES = ("handoff", "proxy", "trade", "trade for")
BY_USERS = ("proxy", "trade")
# Where live is refused, what the header says, what is known of the account; which of the uses are then refused.
CASES: list[tuple[str, str | None, str | None, tuple[str, ...]]] = [
    ("nowhere", None, "live", ()),
    ("nowhere", None, None, ()),
    ("nowhere", "paper", "paper", ()),
    ("nowhere", "paper", "live", USES),
    ("nowhere", "paper", None, USES),
    ("nowhere", "live", "live", ()),
    ("nowhere", "live", None, ()),  # not known counts as live
    ("nowhere", "live", "paper", USES),
    ("everywhere", None, "paper", ()),
    ("everywhere", None, "live", USES),
    ("everywhere", None, None, USES),
    ("everywhere", "live", "live", USES),
    ("to users", None, "paper", ()),
    ("to users", None, "live", BY_USERS),
    ("to users", None, None, BY_USERS),
    ("to users", "paper", "live", USES),
]


@pytest.mark.parametrize(("where", "header", "known", "refused"), CASES)
async def test_a_use_is_refused_where_the_account_is_not_of_the_type_that_has_to_be(
    where: str,
    header: str | None,
    known: str | None,
    refused: tuple[str, ...],
    rest: httpx.AsyncClient,
    services: dict[str, httpx.AsyncClient],
    owner: Owner,
    alpaca: AlpacaStandIn,
    owner_conn: Connection,
) -> None:
    path = await owner.has(rest, known)
    alpaca.reset()
    passed = 0
    for name, use in owner.uses(services[where], path, {} if header is None else {HEADER: header}).items():
        told = await use()
        if name in refused:
            assert problem_of(told)[:2] == (403, "account-type-refused"), name
        else:
            assert told.status_code == 200, (name, told.text)
            passed += name != "handoff"
    assert len(alpaca.seen) == passed  # and nothing was asked with a credential that was refused
    if refused and (where, header) != ("everywhere", "live"):
        assert await last_event(owner_conn, owner.user_id) == (
            ("denied", "account_type") if refused == USES else ("granted", None)
        )
        denied = "SELECT count(*) FROM credential_events WHERE acting_user = $1 AND reason = 'account_type'"
        assert await owner_conn.fetchval(denied, owner.user_id) == len(refused)


@pytest.mark.parametrize("account_type", ["paper", "live"])
async def test_an_update_has_what_was_known_of_the_account_forgotten(
    account_type: str, rest: httpx.AsyncClient, owner: Owner
) -> None:
    path = await owner.has(rest, account_type)
    assert (await rest.patch(path, json=owner.keys(None), headers=owner.headers)).json()["account_type"] is None
    answer = await rest.get(f"{path}/proxy/v2/account", headers={**owner.headers, HEADER: "paper"})
    assert problem_of(answer)[:2] == (403, "account-type-refused")


async def test_what_an_account_is_can_be_asked_where_live_is_refused(
    services: dict[str, httpx.AsyncClient], rest: httpx.AsyncClient, owner: Owner
) -> None:
    path = await owner.has(rest, None)
    answer = await services["everywhere"].post(f"{path}/validate", headers=owner.headers)
    assert (answer.status_code, answer.json()["account_type"]) == (200, "live")


@pytest.mark.parametrize("value", ["", "Paper", "canary", "paper,live", "paper, paper"])
async def test_a_header_that_says_neither_is_refused_by_name_and_not_repeated(
    value: str, rest: httpx.AsyncClient, owner: Owner, alpaca: AlpacaStandIn
) -> None:
    path = await owner.has(rest, "paper")
    alpaca.reset()
    answers = [await use() for use in owner.uses(rest, path, {HEADER: value}).values()]
    for method, address, body in saves(path, owner):
        answers.append(await rest.request(method, address, json=body, headers={**owner.headers, HEADER: value}))
    for answer in answers:
        assert problem_of(answer)[:2] == (422, "invalid-input")
        assert answer.json()["errors"] == [{"field": HEADER, "problem": "must be paper or live"}]
    assert alpaca.seen == []


@pytest.mark.parametrize("second", ["paper", "live", "canary"])
async def test_a_header_that_comes_twice_is_refused(second: str, rest: httpx.AsyncClient, owner: Owner) -> None:
    path = await owner.has(rest, "paper")
    headers = [*owner.headers.items(), (HEADER, "paper"), (HEADER.lower(), second)]
    for method, address, body in (("GET", f"{path}/proxy/v2/account", None), *saves(path, owner)):
        answer = await rest.request(method, address, json=body, headers=headers)
        assert problem_of(answer)[:2] == (422, "invalid-input")
        assert answer.json()["errors"] == [{"field": HEADER, "problem": "must be given once"}]


# --- at save ----------------------------------------------------------------------------------------------------------


def saves(path: str, owner: Owner, account_type: str | None = None) -> list[tuple[str, str, Any]]:
    """Storing, updating, rolling back: method, address, body."""
    return [
        ("POST", "/v1/credentials", new_body(**owner.keys(account_type))),
        ("PATCH", path, owner.keys(account_type)),
        ("POST", f"{path}/rollback", None),
    ]


async def has_two_secrets(rest: httpx.AsyncClient, owner: Owner, account_type: str | None) -> str:
    """A credential that can be rolled back, to an account of this type, as its present one is."""
    path = f"/v1/credentials/{(await stored(rest, owner.headers, **owner.keys(account_type)))['id']}"
    assert (await rest.patch(path, json=owner.keys(account_type), headers=owner.headers)).status_code == 200
    return path


SAVES = ("store", "update", "rollback")


@pytest.mark.parametrize("which", range(3), ids=SAVES)
@pytest.mark.parametrize(
    ("where", "header", "account_type", "status", "name"),
    [
        ("nowhere", "paper", "paper", 200, None),
        ("nowhere", "paper", "live", 403, "account-type-refused"),
        ("nowhere", "live", "live", 200, None),
        ("nowhere", "live", "paper", 403, "account-type-refused"),
        ("everywhere", None, "paper", 200, None),
        ("everywhere", None, "live", 403, "account-type-refused"),
        ("to users", None, "live", 403, "account-type-refused"),
        ("nowhere", "paper", None, 422, "invalid-input"),
        ("everywhere", None, None, 422, "invalid-input"),
    ],
)
async def test_keys_are_saved_only_if_they_are_of_the_account_type_that_has_to_be(
    which: int,
    where: str,
    header: str | None,
    account_type: str | None,
    status: int,
    name: str | None,
    rest: httpx.AsyncClient,
    services: dict[str, httpx.AsyncClient],
    owner: Owner,
    owner_conn: Connection,
) -> None:
    path = await has_two_secrets(rest, owner, account_type)
    before = await owner_conn.fetch("SELECT * FROM credentials WHERE user_id = $1", owner.user_id)
    method, address, body = saves(path, owner, account_type)[which]
    headers = owner.headers if header is None else {**owner.headers, HEADER: header}
    answer = await services[where].request(method, address, json=body, headers=headers)
    if name is None:
        assert answer.status_code == (201 if which == 0 else status), answer.text
        told = answer.json()
        assert (told["account_type"], told["validation_state"]) == (account_type, "valid")
        assert told["last_validated_at"] is not None
        return
    assert problem_of(answer)[:2] == (status, name)
    assert all(key not in answer.text for key in (body or {}).values())
    assert await owner_conn.fetch("SELECT * FROM credentials WHERE user_id = $1", owner.user_id) == before
    reason = "account_type" if status == 403 else "keys_refused"
    assert await last_event(owner_conn, owner.user_id) == ("denied", reason)


@pytest.mark.parametrize("which", range(3), ids=SAVES)
async def test_a_provider_that_can_not_be_asked_has_nothing_saved_where_it_has_to_be(
    which: int, rest: httpx.AsyncClient, owner: Owner, alpaca: AlpacaStandIn, owner_conn: Connection
) -> None:
    path = await has_two_secrets(rest, owner, "paper")
    before = await owner_conn.fetch("SELECT * FROM credentials WHERE user_id = $1", owner.user_id)
    alpaca.script(throttled("7"))
    method, address, body = saves(path, owner, "paper")[which]
    answer = await rest.request(method, address, json=body, headers={**owner.headers, HEADER: "paper"})
    assert problem_of(answer) == (503, "provider-throttled", "7")
    assert await owner_conn.fetch("SELECT * FROM credentials WHERE user_id = $1", owner.user_id) == before


@pytest.mark.parametrize("which", range(3), ids=SAVES)
async def test_what_asks_the_provider_at_a_save_counts_as_a_validation(
    which: int, stack: Stack, rest: httpx.AsyncClient, owner: Owner, alpaca: AlpacaStandIn
) -> None:
    """Else it would be a way to try keys as often as one likes."""
    path = await has_two_secrets(rest, owner, "paper")
    async with client_on(stack.settings(alpaca_base_url=alpaca.url, validations_per_minute=1)) as limited:
        headers = {**owner.headers, HEADER: "live"}
        statuses = []
        for _ in range(3):
            method, address, body = saves(path, owner, "paper")[which]
            statuses.append((await limited.request(method, address, json=body, headers=headers)).status_code)
        assert statuses == [403, 429, 429]
        assert len(alpaca.seen) == 1
        method, address, body = saves(path, owner, "paper")[which]
        assert (await limited.request(method, address, json=body, headers=owner.headers)).is_success  # asks nobody


async def test_where_any_account_will_do_the_provider_is_not_asked(
    rest: httpx.AsyncClient, owner: Owner, alpaca: AlpacaStandIn
) -> None:
    await has_two_secrets(rest, owner, None)
    assert alpaca.seen == []


async def test_polygon_whose_accounts_have_no_type_is_not_concerned(
    services: dict[str, httpx.AsyncClient], owner: Owner, alpaca: AlpacaStandIn
) -> None:
    alpaca.reset()
    for where in ("everywhere", "to users", "nowhere"):
        headers = {**owner.headers, HEADER: "paper"}
        rest = services[where]
        made = await stored(rest, headers, credential_type="polygon", secret_key="")
        path = f"/v1/credentials/{made['id']}"
        changed = await rest.patch(path, json={"api_key": canary()}, headers=headers)
        assert (changed.status_code, changed.json()["validation_state"]) == (200, "unvalidated")
        handed = await rest.post(f"{path}/handoff", headers={**owner.by_orchestrator, HEADER: "paper"})
        assert handed.status_code == 200
    assert alpaca.seen == []


# --- the library ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"refuse_live": True}, {"refuse_live_roles": {"library"}}], ids=["all", "library"])
async def test_the_library_opens_and_stores_paper_accounts_alone_where_live_is_refused(
    how: dict[str, Any],
    stack: Stack,
    rest: httpx.AsyncClient,
    owner: Owner,
    alpaca: AlpacaStandIn,
    runtime_conn: Connection,
    owner_conn: Connection,
) -> None:
    ids = {known: (await owner.has(rest, known)).rpartition("/")[2] for known in ("paper", "live", None)}
    polygon = await stored(rest, owner.headers, credential_type="polygon", secret_key="")
    configure(stack.settings(alpaca_base_url=alpaca.url, **how))
    try:
        for known in ("live", None):
            for conn in (None, runtime_conn):
                with pytest.raises(AccountTypeRefused):
                    async with get_decrypted_alpaca_credential(conn, ids[known], owner.user_id):
                        pytest.fail("it opened")
                assert await last_event(owner_conn, owner.user_id) == ("denied", "account_type")
        async with get_decrypted_alpaca_credential(None, ids["paper"], owner.user_id) as (api_key, _):
            assert api_key
        async with get_decrypted_credential(None, polygon["id"], owner.user_id) as (api_key, _):
            assert api_key
        for known, error in (("live", AccountTypeRefused), (None, InvalidInput)):
            with pytest.raises(error):
                await store_credential(runtime_conn, uuid4(), owner.user_id, "alpaca", *owner.keys(known).values())
        assert await store_credential(runtime_conn, uuid4(), owner.user_id, "alpaca", *owner.keys("paper").values())
    finally:
        await close_process_runtime()
        configure(None)


async def test_another_roles_setting_does_not_concern_the_library(
    stack: Stack, rest: httpx.AsyncClient, owner: Owner
) -> None:
    credential_id = (await owner.has(rest, "live")).rpartition("/")[2]
    configure(stack.settings(refuse_live_roles={"user", "orchestrator"}))
    try:
        async with get_decrypted_alpaca_credential(None, credential_id, owner.user_id) as (api_key, _):
            assert api_key
    finally:
        await close_process_runtime()
        configure(None)
