"""Keys over REST: what is told of them, and rotating, rewrapping and retiring by a worker inside the service.

On a stack of this module's own, as keys are rotated and retired here.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx
import pytest

from tests.conftest import start_stack
from tests.keys import KEY, WORKER, Operator, callers, somebodys
from tests.rest import Headers, client_on, problem_of, stored
from tests.stored import some_user
from tests.support import Stack
from tests.written import Connection

Callers = Callable[[str, str], Headers]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own."""
    with start_stack(tmp_path_factory.mktemp("keys")) as started:
        yield started


@pytest.fixture(scope="module")
def caller(stack: Stack) -> Callers:
    return callers(stack)


@pytest.fixture(scope="module")
async def rest(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with client_on(stack.settings(**WORKER)) as client:
        yield client


@pytest.fixture
def operator(rest: httpx.AsyncClient, caller: Callers) -> Operator:
    return Operator(rest, caller("operator", "olga"))


@pytest.fixture
def user(caller: Callers) -> Headers:
    return caller("user", some_user())


async def test_every_key_is_told_with_its_type_and_versions(rest: httpx.AsyncClient, caller: Callers) -> None:
    for role in ("operator", "auditor"):
        told = await Operator(rest, caller(role, "olga")).get("/v1/keys")
        assert (told["status"], told["count"]) == ("success", 2)
        assert {key["name"]: key["credential_type"] for key in told["keys"]} == {
            "credentials-alpaca": "alpaca",
            "credentials-polygon": "polygon",
        }
        assert all(key["versions"][0]["version"] == key["latest_version"] for key in told["keys"])


async def test_a_key_tells_what_is_under_each_version_and_which_credential_is_the_oldest(
    operator: Operator, user: Headers
) -> None:
    before = await operator.get()
    old = before["latest_version"]
    first, second = await somebodys(operator.rest, user, 2)
    new = await operator.rotate()
    assert new == old + 1
    (third,) = await somebodys(operator.rest, user, 1)
    key = await operator.get()
    under = {each["version"]: each for each in key["versions"]}
    assert under[old]["credentials"] == before["versions"][0]["credentials"] + 2
    assert (under[new]["credentials"], under[new]["oldest_credential_id"]) == (1, third)
    assert (under[new]["state"], under[old]["state"]) == ("in_use", "in_use")
    made = datetime.fromisoformat(under[new]["created_at"])
    assert abs(datetime.now(UTC) - made) < timedelta(minutes=5)
    assert under[new]["created_from"] == "vault"
    assert key["safe_to_retire_below"] <= old
    assert key["encryptions"] == 1
    # Of those under the old version, once the ones before are gone.
    if before["versions"][0]["credentials"] == 0:
        assert under[old]["oldest_credential_id"] == first
    shown = (await operator.rest.get(f"/v1/credentials/{first}", headers=user)).json()
    assert shown["created_at"] >= under[old]["oldest_credential_created_at"]
    assert second not in str(key)


async def test_secrets_kept_for_a_rollback_are_counted_by_their_own_version(operator: Operator, user: Headers) -> None:
    old = (await operator.get())["latest_version"]
    made = (await stored(operator.rest, user))["id"]
    before = await operator.version(old)
    new = await operator.rotate()
    changed = await operator.rest.patch(f"/v1/credentials/{made}", json={"api_key": "AK"}, headers=user)
    assert changed.status_code == 200
    after = await operator.version(old)
    assert after["credentials"] == before["credentials"] - 1
    assert after["previous_secrets"] == before["previous_secrets"] + 1
    assert after["state"] == "in_use"
    assert (await operator.version(new))["credentials"] == 1


async def test_a_rewrap_is_a_job_that_ends_with_everything_under_the_newest_version(
    operator: Operator, user: Headers
) -> None:
    made = await somebodys(operator.rest, user, 3)
    new = await operator.rotate()
    answer = await operator.ask("rewrap")
    assert (answer.status_code, answer.json()["kind"]) == (202, "rewrap")
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    job = await operator.over(answer.headers["location"])
    assert (job["state"], job["reason"], job["to_version"], job["failures"]) == ("done", None, new, [])
    assert (job["done"], job["failed"]) == (job["total"], 0)
    assert job["total"] >= 3
    assert job["requested_by"] == "operator:olga"
    key = await operator.get()
    assert key["safe_to_retire_below"] == new
    assert [each["state"] for each in key["versions"]][:2] == ["in_use", "safe_to_retire"]
    for each in made:
        shown = (await operator.rest.get(f"/v1/credentials/{each}", headers=user)).json()
        assert shown["transit_key_version"] == new


async def test_a_retirement_is_refused_with_count_and_list_and_changes_nothing(
    operator: Operator, user: Headers, owner_conn: Connection
) -> None:
    operator = Operator(operator.rest, operator.headers, "credentials-polygon")  # which nobody else here uses
    polygon = {"credential_type": "polygon", "secret_key": ""}
    made = [(await stored(operator.rest, user, **polygon))["id"] for _ in range(3)]
    new = await operator.rotate()
    before = await operator.get()
    answer = await operator.ask("retire", {"below_version": new})
    assert problem_of(answer)[:2] == (409, "versions-still-needed")
    told = answer.json()
    assert told["count"] == 3
    assert sorted(told["credentials"]) == sorted(made)
    assert await operator.get() == before
    assert (
        await owner_conn.fetchval("SELECT min_version FROM key_floors WHERE transit_key = 'credentials-polygon'") == 1
    )


async def test_what_is_retired_opens_nothing_and_keeps_its_date(
    operator: Operator, user: Headers, stack: Stack
) -> None:
    assert stack.vault("POST", f"transit/keys/{KEY}/rotate").is_success  # a version that no job has made
    old = (await operator.get())["latest_version"]
    await somebodys(operator.rest, user, 1)
    dated = (await operator.version(old))["created_at"]
    new = await operator.rotate()
    await operator.rewrap()
    answer = await operator.ask("retire", {"below_version": new})
    assert answer.status_code == 200, answer.text
    assert answer.json() == await operator.get()
    key = answer.json()
    assert (key["min_decryption_version"], key["floor"]) == (new, new)
    assert key["warnings"] == []
    retired = await operator.version(old)
    assert (retired["state"], retired["created_from"], retired["created_at"]) == ("retired", "noted", dated)
    assert all(each["created_at"] for each in key["versions"])
    vault = stack.vault("GET", f"transit/keys/{KEY}").json()["data"]
    assert vault["min_decryption_version"] == new
    # Once more is no harm, and what is below is refused.
    assert (await operator.ask("retire", {"below_version": new})).status_code == 200
    below = await operator.ask("retire", {"below_version": new - 1})
    assert (below.status_code, below.json()["errors"][0]["field"]) == (422, "below_version")


async def test_more_in_the_way_than_are_listed_are_counted(
    operator: Operator, user: Headers, owner_conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The copies are rows alone, which Vault has nothing of.
    monkeypatch.setattr("service.modules.skew._PINS_BEFORE_RETIRING", 0)
    (made,) = await somebodys(operator.rest, user, 1)
    await operator.rotate()
    await operator.rewrap()
    new = (await operator.get())["latest_version"]
    copies = 130
    await owner_conn.execute(
        "INSERT INTO credentials (id, user_id, account_id, credential_type, transit_mount, transit_key,"
        " transit_key_version, binding, kv_mount, kv_path, kv_version, secret_version)"
        " SELECT gen_random_uuid(), 'many', account_id, credential_type, transit_mount, transit_key,"
        " transit_key_version - 1, binding, kv_mount, kv_path, kv_version, secret_version"
        " FROM credentials, generate_series(1, $2) WHERE id = $1",
        UUID(made),
        copies,
    )
    try:
        answer = await operator.ask("retire", {"below_version": new})
    finally:
        await owner_conn.execute("DELETE FROM credentials WHERE user_id = 'many'")
    assert problem_of(answer)[:2] == (409, "versions-still-needed")
    assert answer.json()["count"] == copies
    assert len(set(answer.json()["credentials"])) == 100


async def test_a_minimum_that_was_lowered_by_hand_is_said_and_retiring_again_mends_it(
    operator: Operator, stack: Stack
) -> None:
    new = await operator.rotate()
    await operator.rewrap()
    assert (await operator.ask("retire", {"below_version": new})).status_code == 200
    config = {"min_decryption_version": new - 1}
    assert stack.vault("POST", f"transit/keys/{KEY}/config", config).is_success
    (warning,) = (await operator.get())["warnings"]
    assert f"Versions below {new} were retired, but Vault decrypts from version {new - 1} on" in warning
    answer = await operator.ask("retire", {"below_version": new})
    assert (answer.status_code, answer.json()["warnings"]) == (200, [])


async def test_a_retirement_that_vault_would_refuse_is_no_job(operator: Operator, stack: Stack) -> None:
    """Vault wants min_encryption_version, where it is set, at or above what is retired. Trimming sets it."""
    new = await operator.rotate()
    await operator.rewrap()
    config = f"transit/keys/{KEY}/config"
    assert stack.vault("POST", config, {"min_encryption_version": new - 1}).is_success
    before = await operator.get("/report")
    answer = await operator.ask("retire", {"below_version": new})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "below_version")
    assert await operator.get("/report") == before
    assert stack.vault("POST", config, {"min_encryption_version": new}).is_success
    assert (await operator.ask("retire", {"below_version": new})).status_code == 200
    assert stack.vault("POST", config, {"min_encryption_version": 0}).is_success


async def test_credentials_that_vault_does_not_decrypt_any_more_or_not_yet_are_said(
    operator: Operator, user: Headers, stack: Stack, owner_conn: Connection
) -> None:
    old = (await operator.get())["latest_version"]
    (made,) = await somebodys(operator.rest, user, 1)
    new = await operator.rotate()
    before = (await operator.get())["min_decryption_version"]
    stack.vault("POST", f"transit/keys/{KEY}/config", {"min_decryption_version": new})
    try:
        warnings = (await operator.get())["warnings"]
    finally:
        stack.vault("POST", f"transit/keys/{KEY}/config", {"min_decryption_version": before})
    assert any("do not open" in each and f"lower min_decryption_version to {old}" in each for each in warnings)
    await owner_conn.execute("UPDATE credentials SET transit_key_version = 999 WHERE id = $1", UUID(made))
    try:
        key = await operator.get()
    finally:
        await owner_conn.execute("UPDATE credentials SET transit_key_version = $2 WHERE id = $1", UUID(made), old)
    assert (key["versions"][0]["version"], key["versions"][0]["state"]) == (999, "missing")
    assert any(
        f"1 credentials and 0 kept previous secrets are under versions above {new}" in w for w in key["warnings"]
    )


async def test_a_rotation_that_vault_does_by_itself_is_foretold(operator: Operator, stack: Stack) -> None:
    assert (await operator.get())["next_rotation_at"] is None
    stack.vault("POST", f"transit/keys/{KEY}/config", {"auto_rotate_period": "720h"})
    try:
        key = await operator.get()
    finally:
        stack.vault("POST", f"transit/keys/{KEY}/config", {"auto_rotate_period": "0"})
    assert key["auto_rotate_seconds"] == 720 * 3600
    due = datetime.fromisoformat(key["next_rotation_at"]) - datetime.fromisoformat(key["versions"][0]["created_at"])
    assert due == timedelta(hours=720)


async def test_a_report_has_the_key_who_did_what_and_addresses_in_vaults_ui(
    operator: Operator, stack: Stack, caller: Callers
) -> None:
    await Operator(operator.rest, caller("operator", "otto")).rotate()
    await operator.rewrap()
    report = await Operator(operator.rest, caller("auditor", "audrey")).get("/report")
    assert report["key"] == await operator.get()
    assert report["rewrap"] is None
    newest = [(job["kind"], job["state"], job["requested_by"]) for job in report["jobs"][:2]]
    assert newest == [("rewrap", "done", "operator:olga"), ("rotate", "done", "operator:otto")]
    assert all(job["requested_at"] <= job["started_at"] <= job["ended_at"] for job in report["jobs"][:2])
    ui = f"{stack.vault_addr}/ui/vault/secrets"
    assert report["links"] == {
        "key": f"{ui}/transit/show/{KEY}?tab=details",
        "key_versions": f"{ui}/transit/show/{KEY}?tab=versions",
        "credentials": f"{ui}/credentials/kv/list",
        "credential_template": f"{ui}/credentials/kv/{{account_id}}%2F{{credential_id}}/metadata",
    }


async def test_rotations_and_retirements_are_events_that_name_who_asked(operator: Operator, caller: Callers) -> None:
    new = await operator.rotate()
    auditor = caller("auditor", "audrey")
    answer = await operator.rest.get("/v1/events?action=rotate&limit=1", headers=auditor)
    (event,) = answer.json()["events"]
    assert (event["actor"], event["outcome"], event["transit_key"]) == ("operator:olga", "done", KEY)
    assert (event["transit_key_version"], event["credential_id"], event["acting_user"]) == (new, None, None)


@pytest.mark.parametrize(
    "name", ["credentials-idempotency", "credentials-events", "alpaca", "x", "a b", "%00", "..%20"]
)
@pytest.mark.parametrize("what", ["", "/report", "/rotate", "/rewrap", "/retire"])
async def test_no_key_but_those_of_credential_types_is_known(name: str, what: str, operator: Operator) -> None:
    address = f"/v1/keys/{name}{what}"
    if what in ("", "/report"):
        answer = await operator.rest.get(address, headers=operator.headers)
    else:
        answer = await operator.rest.post(address, json={"below_version": 1}, headers=operator.headers)
    assert problem_of(answer)[:2] == (404, "key-not-found")


async def test_a_job_that_is_not_there_is_404_and_an_id_that_is_none_is_named(operator: Operator) -> None:
    for method, what in (("GET", ""), ("POST", "/stop")):
        absent = await operator.rest.request(method, f"/v1/jobs/{uuid4()}{what}", headers=operator.headers)
        assert problem_of(absent)[:2] == (404, "job-not-found")
        for none in ("x", "%00", "6f9619ff8b86d011b42d00c04fc964ff"):
            refused = await operator.rest.request(method, f"/v1/jobs/{none}{what}", headers=operator.headers)
            assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "job_id")
