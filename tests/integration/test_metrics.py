"""`/metrics` of a service at work: what each number says, and that no label names anybody."""

import asyncio
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from service.composition import Runtime
from service.errors import DatabaseUnavailable
from service.measures import Measures
from service.modules.reconciliation import ReconciliationReport
from service.vault.client import operation_of
from tests.deployed import labels_in, listed_metrics, metrics_in, queries
from tests.exported import Exported, Series, scraped
from tests.proxying import Proxied, proxied
from tests.rest import Headers
from tests.stored import some_user, store
from tests.support import Stack, canary

Bearer = Callable[..., Headers]

QUIET: dict[str, Any] = {"reconcile_interval": 86_400, "metrics_seconds": 86_400}
"""Once, at the start: on the shared stack other tests count."""


async def _at_work(service: Proxied, user_id: str) -> None:
    """Something of everything that is counted."""
    held = await service.held(user_id=user_id)
    await service.client.post(f"/v1/credentials/{held.id}/validate", headers=held.headers)
    for _ in range(2):
        await service.call(held, "GET")
    await service.call(held, "GET", "v2/transfers/secret-place")
    stranger = service.bearer("user", some_user())
    await service.client.get(f"/v1/credentials/{held.id}/proxy/v2/account", headers=stranger)
    await service.client.get(f"/v1/credentials/{uuid4()}", headers=held.headers)
    await service.client.get(f"/v1/credentials/{uuid4()}?{canary()}={canary()}", headers=held.headers)
    robot = {**service.bearer("orchestrator", "robot"), "X-User-Id": user_id}
    await service.client.post(f"/v1/credentials/{held.id}/handoff", headers=robot)


async def _with_state(service: Proxied) -> Exported:
    """What is told once the first look at the state is over."""
    async with asyncio.timeout(60):
        while not (told := await scraped(service.client)).has("credentials_key_latest_version"):  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.05)
    return told


async def test_each_number_tells_what_was_done(stack: Stack, bearer: Bearer) -> None:
    async with proxied(stack, bearer, **QUIET) as service:
        before = await _with_state(service)
        await _at_work(service, some_user())
        told = await scraped(service.client)

    def grown(name: str, **labels: str) -> float:
        return told.value(name, **labels) - before.value(name, **labels)

    uses = "credentials_uses_total"
    assert grown(uses, action="validate", outcome="granted", reason="") == 1
    assert grown(uses, action="proxy", outcome="granted", reason="") == 3
    assert grown(uses, action="proxy", outcome="failed", reason="proxy_refused") == 1
    assert grown(uses, action="proxy", outcome="denied", reason="not_found") == 1
    assert grown(uses, action="handoff", outcome="granted", reason="") == 1
    calls = "credentials_proxy_calls_total"
    assert grown(calls, provider="alpaca", outcome="2xx") == 2
    assert grown(calls, provider="alpaca", outcome="not_allowed") == 1
    assert grown(calls, provider="none", outcome="denied") == 1
    assert grown("credentials_provider_answer_seconds_count", provider="alpaca") == 2
    assert grown("credentials_batch_items_sum", batch="opens") == 5
    assert grown("credentials_batch_wait_seconds_count", batch="handoffs") == 1
    assert grown("credentials_batch_items_sum", batch="encryptions") == 1
    for operation, least in {"encrypt": 1, "decrypt": 3, "wrap": 1, "kv_read": 1, "kv_write": 2}.items():
        assert grown("credentials_vault_request_seconds_count", operation=operation) >= least, operation
        assert grown("credentials_vault_request_seconds_sum", operation=operation) > 0, operation
    assert grown("credentials_postgres_seconds_count", statement="authorise_opens") >= 4
    assert grown("credentials_postgres_seconds_count", statement="other") >= 1
    # Read from KV once, when it was opened first.
    assert grown("credentials_ciphertext_cache_misses_total") == 1
    assert grown("credentials_ciphertext_cache_hits_total") >= 3
    assert 0 < told.value("credentials_ciphertext_cache_bytes") < told.value("credentials_ciphertext_cache_limit_bytes")
    requests = "credentials_http_requests_total"
    proxy_route = "/v1/credentials/{credential_id}/proxy/{path:path}"
    assert grown(requests, method="GET", route=proxy_route, status="200") == 2
    assert grown(requests, method="GET", route="/v1/credentials/{credential_id}", status="404") == 1
    assert grown("credentials_http_request_seconds_count", route=proxy_route) == 4


async def test_the_state_of_token_keys_tables_and_checks_is_told(stack: Stack, bearer: Bearer) -> None:
    began = time.time()
    async with proxied(stack, bearer, **QUIET) as service:
        operator = bearer("operator", "olga")
        user = some_user()
        await service.client.post(f"/v1/users/{user}/suspension", headers=operator, json={"reason": "test"})
    async with proxied(stack, bearer, **QUIET) as service:
        told = await _with_state(service)
        await service.client.delete(f"/v1/users/{user}/suspension", headers=operator)
    assert told.value("credentials_suspensions", of="user") >= 1
    assert told.has("credentials_suspects")
    assert told.has("credentials_write_intents")
    assert told.value("credentials_key_latest_version", key="credentials-alpaca") >= 1
    assert told.value("credentials_key_min_decryption_version", key="credentials-polygon") >= 1
    assert told.has("credentials_key_credentials_below_latest")
    assert told.value("credentials_key_latest_version_timestamp_seconds", key="credentials-alpaca") > 1.6e9
    for check in ("vault", "transit", "postgres", "installation"):
        assert told.value("credentials_check_ok", check=check) == 1, check
    lease = told.value("credentials_vault_token_lease_seconds")
    assert lease == 3600
    assert 0 < told.value("credentials_vault_token_left_seconds") <= lease
    assert 0 <= told.value("credentials_vault_token_age_seconds") < 600
    assert told.value("credentials_state_timestamp_seconds") >= began
    assert told.value("credentials_reconciliations_total", outcome="done") == 1
    assert told.value("credentials_reconciled_timestamp_seconds") >= began


async def test_no_label_names_anybody_and_more_users_make_no_more_series(stack: Stack, bearer: Bearer) -> None:
    names = [canary("user-")[:40] for _ in range(3)]

    def steady(told: Exported) -> set[Series]:
        return {(name, labels) for name, labels in told.series if ("route", "none") not in labels}

    async with proxied(stack, bearer, **QUIET) as service:
        await _with_state(service)
        await _at_work(service, names[0])
        first = await scraped(service.client)
        for name in names[1:]:
            await _at_work(service, name)
        await service.client.get(f"/{canary()}")
        last = await scraped(service.client)
    assert steady(last) == steady(first)
    assert last.value("credentials_http_requests_total", method="GET", route="none", status="404") == 1
    assert not [name for name in names if name in last.text]
    allowed = {"action", "outcome", "reason", "batch", "operation", "error", "statement", "provider", "le", "route"}
    allowed |= {"method", "status", "state", "check", "of", "age", "key", "use", "limit"}
    zeroing = {"mode", "pymalloc_off", "bind_now", "dumpable"}
    assert {label for name, label, _ in last.label_values() if name != "credentials_zeroing_info"} <= allowed
    assert {label for name, label, _ in last.label_values() if name == "credentials_zeroing_info"} == zeroing
    # The bound: whatever is asked for, no family has more samples than words that the code knows.
    assert max(len(family.samples) for family in last.families.values()) < 1000


async def test_a_batch_that_postgres_could_not_authorise_is_counted(runtime: Runtime) -> None:
    stored = await store(runtime)
    assert runtime.metrics is not None
    await runtime.metrics._database._pool.close()
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable):
            async with runtime.opener.reveal(stored.access, stored.id):
                pass
    uses = {tuple(s.labels.values()): s.value for f in runtime.metrics.collect() for s in f.samples if "uses" in s.name}
    assert uses["open", "failed", "unrecorded"] == 2
    failures = [s.value for f in runtime.metrics.collect() for s in f.samples if "postgres_failures" in s.name]
    assert failures == [2]


async def test_a_login_that_vault_does_not_answer_is_counted(stack: Stack) -> None:
    async with Runtime.open(stack.settings(vault_addr="http://127.0.0.1:1", vault_retries=0)) as runtime:
        with pytest.raises(Exception, match="Vault"):
            await store(runtime)
        assert runtime.metrics is not None
        counts = runtime.metrics._measures.vault_failures.counts
        assert {labels for labels, count in counts.items() if count} == {("login", "unavailable")}


async def test_a_reconciliation_that_failed_leaves_the_last_good_ones_numbers(runtime: Runtime) -> None:
    assert runtime.metrics is not None
    runtime.metrics.note_reconciliation(ReconciliationReport(due=3, removed=2, failed=1))
    runtime.metrics.note_reconciliation(None)
    told = {
        s.name: s.value for f in runtime.metrics.collect() for s in f.samples if "reconcil" in s.name and not s.labels
    }
    assert (told["credentials_reconciled_total"], told["credentials_reconcile_left"]) == (2, 1)


@pytest.mark.parametrize(
    ("method", "path", "word"),
    [
        ("GET", "credentials/data/7a5cd1b4-3d0b-4c5e-9f4e-6f0b4f5f9a10/keys", "kv_read"),
        ("POST", "credentials/data/a/b", "kv_write"),
        ("LIST", "credentials/metadata/a", "kv_read"),
        ("GET", "transit/keys/credentials-alpaca", "keys"),
        ("GET", "auth/token/lookup-self", "other"),
        ("POST", "data/anything", "other"),
    ],
)
def test_a_path_in_vault_is_counted_as_one_of_a_few_words(method: str, path: str, word: str) -> None:
    assert operation_of(method, path) == word


def test_counting_a_lone_open_costs_a_few_microseconds() -> None:
    measures = Measures()
    meter = measures.batches("opens")

    def noted() -> float:
        began = time.process_time()
        for _ in range(1000):
            meter(1, 0.001)
            measures.uses.add(("open", "granted", ""))
            measures.statement_ended("authorise_opens", began)
            measures.vault_answered("decrypt", began, None)
        return time.process_time() - began

    assert min(noted() for _ in range(20)) < 0.05  # 50 µs each; it takes 2 to 8


async def test_every_metric_and_label_that_rules_and_dashboard_ask_for_is_told(stack: Stack, bearer: Bearer) -> None:
    async with proxied(stack, bearer, **QUIET) as service:
        told = await _with_state(service)
        await _at_work(service, some_user())
        told = await scraped(service.client)
    # Of a process that is the service and nothing else; tests/integration/test_zeroing_processes.py looks at one.
    told_elsewhere = {"credentials_garbage_collection_seconds_total", "up"}
    collector = {"credentials_garbage_collections_total", "credentials_garbage_collection_seconds_total"}
    ours = {name for name in told.told if name.startswith("credentials_")}
    assert listed_metrics() == ours | collector  # docs/watching.md
    asked = {name: place for place, query in queries() for name in metrics_in(query)}
    assert len(asked) > 30
    assert {name: asked[name] for name in asked.keys() - told.names - told_elsewhere} == {}
    known = {(name, label) for name, label, _ in told.label_values()}
    wanted = {pair for _, query in queries() for pair in labels_in(query) if pair[1] not in ("job", "instance")}
    assert wanted - known == set()


async def test_what_an_alert_counts_is_there_before_it_happens(runtime: Runtime) -> None:
    """`increase()` of a series that comes into being as 1 is 0."""
    assert runtime.metrics is not None
    registry = CollectorRegistry()
    registry.register(runtime.metrics)
    series = Exported(generate_latest(registry).decode()).series
    for name, labels in (
        ("credentials_uses_total", {"action": "handoff", "outcome": "failed", "reason": "already_used"}),
        ("credentials_uses_total", {"action": "open", "outcome": "failed", "reason": "ciphertext_rejected"}),
        ("credentials_uses_total", {"action": "proxy", "outcome": "denied", "reason": "not_found"}),
        ("credentials_vault_failures_total", {"operation": "decrypt", "error": "sealed"}),
        ("credentials_vault_failures_total", {"operation": "kv_write", "error": "denied"}),
        ("credentials_proxy_calls_total", {"provider": "polygon", "outcome": "outcome_unknown"}),
    ):
        assert (name, frozenset(labels.items())) in series
