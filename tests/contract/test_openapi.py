"""The OpenAPI document against the running service: whatever is sent, what comes back is what the document says.

Schemathesis makes the requests, right ones and wrong ones, from the document alone: https://schemathesis.readthedocs.io
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from service.app import create_app
from service.http_clients import provider_client
from service.providers.registry import Providers
from tests.conftest import start_stack
from tests.doubles.alpaca import AlpacaDouble
from tests.keys import KEY, NO_WORKER, callers
from tests.rest import Headers, client_on, new_body, routes, stored
from tests.support import Stack, serving
from tests.written import Connection

PROXIED = "/proxy/{path}"
# Each caller here either always sends the first or never may; the second may refuse any good request with 403.
LEFT_OUT = ("X-User-Id", "X-Require-Account-Type")
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
# What an answer to a request that fits the document may be, beside success. 412: no document can tell the present
# version. (Schemathesis's own list has 403; a token of the right role must not see it, so it is left out here.)
GOOD = ["2xx", "404", "409", "412"]
# Operations whose good requests may be refused for what a schema can't say: a cursor is opaque, Alpaca's secret must
# not be empty where Polygon's may, a change has to name a field that is not null. (And schemathesis takes an If-Match
# of `0` for good, which its pattern forbids.)
CURSORS_AND_BODIES = (
    "GET /v1/credentials",
    "GET /v1/events",
    "GET /v1/credentials/{credential_id}/events",
    "POST /v1/credentials",
    "POST /v1/credentials/validate",
    "PATCH /v1/credentials/{credential_id}",
    "DELETE /v1/credentials/{credential_id}",
    "POST /v1/credentials/{credential_id}/rollback",
)
KEY_READS = ("GET /v1/keys", "GET /v1/keys/{name}", "GET /v1/keys/{name}/report", "GET /v1/jobs/{job_id}")
KEY_WRITES = (
    *(f"POST /v1/keys/{{name}}/{what}" for what in ("rotate", "rewrap", "retire")),
    "POST /v1/jobs/{job_id}/stop",
)
READS = ("GET /v1/credentials", "GET /v1/credentials/{credential_id}", "GET /v1/events")
WRITES = (*CURSORS_AND_BODIES, *READS, "POST /v1/credentials/{credential_id}/validate")
HANDOFFS = (
    "POST /v1/credentials/{credential_id}/handoff",
    "POST /v1/credentials/{credential_id}/handoff/{handoff_id}/failure",
)
SUSPENDABLE = ("/v1/users/{user_id}/suspension", "/v1/accounts/{account_id}/suspension")
SUSPENSION_READS = ("GET /v1/suspensions", *(f"GET {path}" for path in SUSPENDABLE))
ALWAYS_THERE = tuple(f"POST {path}" for path in SUSPENDABLE)
SUSPENSION_WRITES = tuple(f"{method} {path}" for method in ("POST", "DELETE") for path in SUSPENDABLE)
ALSO_422 = {
    *CURSORS_AND_BODIES,
    "POST /v1/keys/{name}/retire",  # above the newest version
    "GET /v1/suspensions",
    # What a user's name, or a reason, may hold is more than a pattern can tell.
    *(f"{method} {SUSPENDABLE[0]}" for method in ("GET", "POST", "DELETE")),
    f"POST {SUSPENDABLE[1]}",
}
# What a role is for; everything else under /v1 answers it 403.
RIGHTS = {
    "user": WRITES,
    "orchestrator": (*WRITES, *HANDOFFS),
    "auditor": (*READS, "GET /v1/credentials/{credential_id}/events", *KEY_READS, *SUSPENSION_READS),
    "operator": (*KEY_READS, *KEY_WRITES, *SUSPENSION_READS, *SUSPENSION_WRITES),
}
OPERATIONS = {*WRITES, *HANDOFFS, *KEY_READS, *KEY_WRITES, *SUSPENSION_READS, *SUSPENSION_WRITES}


@dataclass
class Findings:
    """What the run found wrong, and each operation's statuses."""

    failures: list[str] = field(default_factory=list)
    statuses: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def note(self, event: events.EngineEvent) -> None:
        """Takes one event of schemathesis's engine."""
        if isinstance(event, (events.NonFatalError, events.FatalError)):
            self.failures.append(repr(event))
        if not isinstance(event, events.ScenarioFinished):
            return
        for case_id, checks in event.recorder.checks.items():
            operation = event.recorder.cases[case_id].value.operation.label
            interaction = event.recorder.interactions.get(case_id)
            if interaction is not None and interaction.response is not None:
                self.statuses[operation].add(interaction.response.status_code)
            for check in checks:
                if check.failure_info is not None:
                    self.failures.append(
                        f"{event.phase.name} {operation}: {check.name}: {check.failure_info.failure.title}\n"
                        f"{check.failure_info.failure.message}\n{check.failure_info.code_sample}"
                    )


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own: keys are asked to be rotated here."""
    with start_stack(tmp_path_factory.mktemp("contract")) as started:
        yield started


@pytest.fixture(scope="module")
def bearer(stack: Stack) -> Callable[..., Headers]:
    return callers(stack)


@pytest.fixture(scope="module")
async def url(stack: Stack) -> AsyncIterator[str]:
    """The service on a real socket, with an Alpaca that knows no keys, and jobs that nobody does."""
    async with AlpacaDouble() as alpaca:
        addresses = {"alpaca_base_url": alpaca.url, "polygon_base_url": alpaca.url}
        with serving(stack.settings(**addresses, **NO_WORKER)) as served:
            yield served


def document_for(caller: Headers) -> dict[str, Any]:
    """The document without `LEFT_OUT`, and without what the provider answers (`tests/integration/test_proxy.py`)."""
    document = create_app().openapi()
    kept = {}
    for path, operations in document["paths"].items():
        if path.endswith(PROXIED):
            continue
        kept[path] = {
            method: operation
            | {"parameters": [each for each in operation.get("parameters", ()) if each["name"] not in LEFT_OUT]}
            for method, operation in operations.items()
        }
    return {**document, "paths": kept}


def run(url: str, role: str, caller: Headers, ids: dict[str, str], *, doomed_id: str, coverage: bool) -> Findings:
    """Every operation with examples, boundary values, generated data and sequences; all of schemathesis's checks."""

    def good(operation: str) -> list[str]:
        also = ["422"] if operation in ALSO_422 else []
        return [*GOOD, *also, *([] if operation in RIGHTS[role] else ["403"])]

    config = SchemathesisConfig.from_dict(
        {
            "base-url": url,
            "headers": caller,
            "continue-on-failure": True,
            "generation": {"deterministic": True, "database": "none", "max-examples": 6},
            "checks": {"positive_data_acceptance": {"expected-statuses": GOOD}},
            "phases": {"coverage": {"enabled": coverage}},
            # What is there: an id or a name at random never is.
            "parameters": {f"path.{name}": value for name, value in ids.items()},
            "operations": [
                {
                    "include-name": operation,
                    "checks": {"positive_data_acceptance": {"expected-statuses": good(operation)}},
                }
                for operation in sorted(OPERATIONS)
            ]
            + [
                {
                    "include-name": "DELETE /v1/credentials/{credential_id}",
                    "parameters": {"path.credential_id": doomed_id},
                }
            ],
        }
    )
    findings = Findings()
    for event in from_schema(schemathesis.openapi.from_dict(document_for(caller), config=config)).execute():
        findings.note(event)
    return findings


@pytest.mark.parametrize("role", RIGHTS)
async def test_every_answer_is_one_that_the_document_tells(role: str, url: str, bearer: Callable[..., Headers]) -> None:
    owner = f"contract-{role}"
    caller = bearer(role, owner)
    if role == "orchestrator":
        caller["X-User-Id"] = owner
    async with httpx.AsyncClient(base_url=url, headers=bearer("user", owner)) as client:
        ids = [(await client.post("/v1/credentials", json=new_body())).json()["id"] for _ in range(2)]
        await client.patch(f"/v1/credentials/{ids[0]}", json={"api_key": "AK"})  # now it can be rolled back
        operators = bearer("operator", "olga")
        job = (await client.post("/v1/keys/credentials-polygon/rewrap", headers=operators)).json()["id"]
        robot = {**bearer("orchestrator", owner), "X-User-Id": owner}
        handed = (await client.post(f"/v1/credentials/{ids[0]}/handoff", headers=robot)).json()["handoff_id"]
        suspended = {"user_id": "contract-suspended", "account_id": str(uuid4())}
        for path in SUSPENDABLE:
            await client.post(path.format(**suspended), headers=operators)
    known = {"credential_id": ids[0], "name": KEY, "job_id": job, "handoff_id": handed, **suspended}
    # In a thread, as the doubles answer in this one's loop. Every boundary of every value once is enough.
    coverage = role in ("user", "operator")
    findings = await asyncio.to_thread(run, url, role, caller, known, doomed_id=ids[1], coverage=coverage)
    assert not findings.failures, "\n\n".join(findings.failures[:10])
    assert all(status < 500 for statuses in findings.statuses.values() for status in statuses)
    # And it is not that everything was refused.
    succeeded = {operation for operation, statuses in findings.statuses.items() if min(statuses) < 300}
    assert succeeded >= set(RIGHTS[role])
    refused = {operation for operation, statuses in findings.statuses.items() if 403 in statuses}
    assert refused == OPERATIONS - set(RIGHTS[role])


def test_every_route_is_in_the_document() -> None:
    document = create_app().openapi()
    told = {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method in operations
        if method in METHODS
    }
    others = {f"{method} /v1/credentials/validate" for method in ("GET", "PATCH", "DELETE")}  # which answer 405
    assert routes() - told == {"GET /openapi.json", "HEAD /openapi.json"} | others


async def test_the_document_of_a_proxied_call_says_whose_answer_it_is(client: httpx.AsyncClient) -> None:
    operations = create_app().openapi()["paths"][f"/v1/credentials/{{credential_id}}{PROXIED}"]
    assert set(operations) == {*METHODS} - {"trace"}
    for method, operation in operations.items():
        assert {"200", "default", "401", "403", "404", "409", "422", "429", "502", "503"} <= set(operation["responses"])
        told = operation["responses"]["default"]["headers"]["X-Answered-By"]["schema"]
        assert told == {"enum": ["provider", "service"]}
        assert ("requestBody" in operation) == (method not in ("get", "head"))
        answer = await client.request(method, "/v1/credentials/x/proxy/v2/account")
        assert (answer.status_code, answer.headers["x-answered-by"]) == (401, "service")


def test_the_document_names_the_types_that_there_are(stack: Stack) -> None:
    body = create_app().openapi()["components"]["schemas"]["StoreCredentialRequest"]
    settings = stack.settings()
    assert body["properties"]["credential_type"]["enum"] == list(
        Providers.configured(provider_client(settings), settings)
    )


async def test_a_405_names_every_method_of_the_address(client: httpx.AsyncClient) -> None:
    document = create_app().openapi()
    for path, operations in document["paths"].items():
        for method in ("PUT", "PROPFIND", "OPTIONS"):
            if method.lower() in operations:
                continue
            answer = await client.request(method, path)
            assert answer.status_code == 405
            assert answer.headers["allow"].split(", ") == sorted(method.upper() for method in operations)


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_the_address_that_validates_is_no_credentials(method: str, client: httpx.AsyncClient) -> None:
    answer = await client.request(method, "/v1/credentials/validate")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


# Requests that each operation is sent, beside its good ones: headers, query, body.
JSON = {"Content-Type": "application/json"}
WRONG: tuple[tuple[Headers, str, bytes], ...] = (
    ({}, "", b""),
    ({}, "?unknown=1", b""),
    (JSON, "", b"{}"),
    (JSON, "", b'{"is_active": false}'),
    (JSON, "", b'{"below_version": 1}'),
    (JSON, "", b'{"reason": "expired"}'),
    (JSON, "", b'{"api_key": "AK", "secret_key": "SK"}'),
    ({"Content-Type": "text/plain"}, "", b"{}"),
    (JSON, "", b" " * 20_000),
    ({**JSON, "If-Match": '"77"'}, "", b'{"is_active": false}'),
    ({**JSON, "If-Match": "77"}, "", b'{"is_active": false}'),
    ({**JSON, "Idempotency-Key": "é"}, "", b"{}"),
)


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
async def test_every_status_that_an_operation_answers_is_in_the_document(
    operation: str, stack: Stack, bearer: Callable[..., Headers], owner_conn: Connection
) -> None:
    method, path = operation.split()
    told = create_app().openapi()["paths"][path][method.lower()]["responses"]
    user, robot = bearer("user", "contract-statuses"), bearer("orchestrator", "robot")
    owner = user if operation in WRITES else bearer("operator", "olga")
    if operation in HANDOFFS:
        owner = {**robot, "X-User-Id": "contract-statuses"}
    answered = set()
    async with AlpacaDouble() as alpaca:
        for required in (False, True):
            quick = {**NO_WORKER, "job_wait_seconds": 0}
            await owner_conn.execute("DELETE FROM jobs")
            settings = stack.settings(alpaca_base_url=alpaca.url, require_if_match=required, **quick)
            async with client_on(settings) as client:
                mine = (await stored(client, user))["id"]
                job = (await client.post(f"/v1/keys/{KEY}/rewrap", headers=bearer("operator", "olga"))).json()["id"]
                callers_of = [owner, {}, {"Authorization": "Bearer nonsense"}, robot, {**owner, "X-User-Id": "bob"}]
                for caller in [*callers_of, user] if operation in HANDOFFS else callers_of:
                    for headers, query, body in WRONG:
                        for ids in ((str(uuid4()),) * 4, ("no-uuid",) * 4, (mine, job, KEY, job)):
                            known = dict(zip(("credential_id", "job_id", "name", "handoff_id"), ids, strict=True))
                            known |= {"user_id": ids[0], "account_id": ids[0]}
                            address = path.format(**known) + query
                            sent = [(name.encode(), value.encode()) for name, value in (caller | headers).items()]
                            answer = await client.request(method, address, content=body, headers=sent)
                            assert str(answer.status_code) in told, (operation, answer.status_code)
                            kinds = told[str(answer.status_code)].get("content", {})
                            assert answer.headers.get("content-type", "") in (kinds or {""})
                            answered.add(answer.status_code)
    assert answered >= {401, 403, 422}
    # Whoever is suspended need not be known.
    assert ("{" in path and operation not in ALWAYS_THERE) == (404 in answered)
    if method == "PATCH":
        assert answered >= {200, 404, 412, 413, 415, 428}
