"""What is told of a key: each version's state, what may be retired, and what does not fit together."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from service.api.key_views import job_summary, key_details, remaining_time
from service.errors import KeyNotFound
from service.modules.key_inventory import KeyInventory, KeyStatus, VersionState
from service.modules.key_ports import KeyReader, KeyStore
from service.modules.key_records import Job, JobKind, JobState, KeyDescription, VersionUse
from service.modules.records import KeyReadAccess
from service.modules.vault_layout import VaultLayout
from service.modules.vault_ui import VaultUi

KEY = "credentials-alpaca"
LAYOUT = VaultLayout("transit", "credentials-", "credentials", frozenset({"alpaca", "polygon"}))
ACCESS = KeyReadAccess(actor="operator:olga")
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def described(latest: int, *, decrypts: int = 1, available: int = 0, period: timedelta | None = None) -> KeyDescription:
    return KeyDescription(
        name=KEY,
        latest_version=latest,
        min_decryption_version=decrypts,
        min_encryption_version=0,
        min_available_version=available,
        auto_rotate_period=period,
        created={version: NOW + timedelta(days=version) for version in range(decrypts, latest + 1)},
    )


def used(version: int, credentials: int = 1, previous: int = 0) -> VersionUse:
    oldest: tuple[UUID | None, datetime | None] = (uuid4(), NOW) if credentials else (None, None)
    return VersionUse(
        version=version,
        credentials=credentials,
        previous_secrets=previous,
        oldest_id=oldest[0],
        oldest_created_at=oldest[1],
    )


def job(kind: JobKind = JobKind.REWRAP, state: JobState = JobState.RUNNING, **given: Any) -> Job:
    fields: dict[str, Any] = {
        "id": uuid4(),
        "kind": kind,
        "transit_key": KEY,
        "below_version": 2 if kind is JobKind.RETIRE else None,
        "state": state,
        "requested_by": "operator:olga",
        "request_id": None,
        "requested_at": NOW,
        "started_at": NOW,
        "heartbeat_at": NOW + timedelta(seconds=10),
        "ended_at": None,
        "stop_requested_by": None,
        "from_version": None,
        "to_version": None,
        "total": 100,
        "done": 0,
        "failed": 0,
        "reason": None,
    }
    return Job(**fields | given)


class World:
    """Vault and Postgres, as they are at each look: the last one stays."""

    def __init__(self, *looks: tuple[KeyDescription, Sequence[VersionUse]], floor: int = 1) -> None:
        self.looks = list(looks)
        self.floor_version = floor
        self.known_jobs: list[Job] = []
        self.dates: Mapping[int, datetime] = {}
        self.asked: list[str] = []

    async def describe(self, key: str) -> KeyDescription:
        self.asked.append("vault")
        described, _ = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if described.name != key:
            raise KeyNotFound
        return described

    async def version_uses(self, _key: str) -> Sequence[VersionUse]:
        self.asked.append("postgres")
        return self.looks[0][1]

    async def encryptions(self, _key: str, version: int) -> int:
        return 1000 + version

    async def floor(self, _key: str) -> int:
        return self.floor_version

    async def noted_versions(self, _key: str) -> Mapping[int, datetime]:
        return self.dates

    async def jobs(self, _key: str, _limit: int) -> list[Job]:
        return self.known_jobs

    def inventory(self) -> KeyInventory:
        return KeyInventory(cast(KeyReader, self), cast(KeyStore, self), LAYOUT)

    async def key(self) -> KeyStatus:
        return await self.inventory().key(ACCESS, KEY)


def states(status: KeyStatus) -> dict[int, VersionState]:
    return {each.version: each.state for each in status.versions}


IN_USE, UNUSED, SAFE = VersionState.IN_USE, VersionState.UNUSED, VersionState.SAFE_TO_RETIRE
RETIRED, TRIMMED, MISSING = VersionState.RETIRED, VersionState.TRIMMED, VersionState.MISSING


@pytest.mark.parametrize(
    ("vault", "uses", "expected", "safe_below"),
    [
        (described(1), [], {1: IN_USE}, 1),
        (described(3), [], {3: IN_USE, 2: SAFE, 1: SAFE}, 3),
        (described(3), [used(3)], {3: IN_USE, 2: SAFE, 1: SAFE}, 3),
        (described(3), [used(2), used(3)], {3: IN_USE, 2: IN_USE, 1: SAFE}, 2),
        (described(3), [used(1)], {3: IN_USE, 2: UNUSED, 1: IN_USE}, 1),
        (described(3), [used(1, 0, previous=1)], {3: IN_USE, 2: UNUSED, 1: IN_USE}, 1),
        (described(4, decrypts=3), [used(4)], {4: IN_USE, 3: SAFE, 2: RETIRED, 1: RETIRED}, 4),
        (described(4, decrypts=3, available=3), [used(4)], {4: IN_USE, 3: SAFE}, 4),
        (described(4, decrypts=4, available=3), [used(2)], {4: IN_USE, 3: RETIRED, 2: TRIMMED}, 2),
        (described(2), [used(2), used(5)], {5: MISSING, 2: IN_USE, 1: SAFE}, 2),
        (described(2), [used(5)], {5: MISSING, 2: IN_USE, 1: SAFE}, 2),
    ],
)
async def test_each_version_has_its_state_newest_first(
    vault: KeyDescription, uses: list[VersionUse], expected: dict[int, VersionState], safe_below: int
) -> None:
    status = await World((vault, uses)).key()
    assert states(status) == expected
    assert [each.version for each in status.versions] == sorted(expected, reverse=True)
    assert status.safe_to_retire_below == safe_below
    assert status.encryptions == 1000 + vault.latest_version


async def test_a_retired_versions_date_is_the_one_that_was_noted() -> None:
    world = World((described(4, decrypts=3), [used(4)]))
    world.dates = {2: NOW, 3: NOW}  # Vault's own comes first
    status = await world.key()
    told = {each.version: (each.created_at, each.created_from) for each in status.versions}
    assert told == {
        4: (NOW + timedelta(days=4), "vault"),
        3: (NOW + timedelta(days=3), "vault"),
        2: (NOW, "noted"),
        1: (None, None),
    }


async def test_trimmed_versions_stay_listed_with_their_dates_and_no_others_do() -> None:
    world = World((described(4, decrypts=4, available=3), [used(4)]))
    world.dates = dict.fromkeys((1, 2, 4, 5), NOW)  # 5: from before Vault was restored
    status = await world.key()
    assert states(status) == {4: IN_USE, 3: RETIRED, 2: TRIMMED, 1: TRIMMED}
    assert [(each.created_at, each.created_from) for each in status.versions[2:]] == [(NOW, "noted")] * 2
    assert (status.safe_to_retire_below, status.warnings) == (4, [])


@pytest.mark.parametrize("period", [None, timedelta(days=90)])
async def test_the_next_rotation_is_due_a_period_after_the_newest_version(period: timedelta | None) -> None:
    status = await World((described(2, period=period), [])).key()
    assert status.next_rotation_at == (None if period is None else NOW + timedelta(days=2 + 90))


@pytest.mark.parametrize(
    ("vault", "uses", "floor", "said"),
    [
        (described(3, decrypts=1), [used(3)], 3, "Versions below 3 were retired, but Vault decrypts from version 1 on"),
        (described(3, decrypts=3), [used(2, 5, 1)], 1, "5 credentials and 1 kept previous secrets are under versions"),
        (described(3, decrypts=3), [used(2)], 1, "lower min_decryption_version to 2 in Vault"),
        (described(3, decrypts=3, available=3), [used(2)], 1, "trimmed in Vault: they do not open"),
        (described(3), [used(4, 7)], 1, "7 credentials and 0 kept previous secrets are under versions above 3"),
    ],
)
async def test_what_does_not_fit_is_said_after_a_second_look(
    vault: KeyDescription, uses: list[VersionUse], floor: int, said: str
) -> None:
    world = World((vault, uses), floor=floor)
    (warning,) = (await world.key()).warnings
    assert said in warning
    assert world.asked == ["postgres", "vault"] * 2


@pytest.mark.parametrize(
    ("first", "then"),
    [
        # Rewrapped and retired between the two looks at the two stores.
        ((described(2, decrypts=2), [used(1)]), (described(2, decrypts=2), [used(2)])),
    ],
)
async def test_what_changed_between_the_two_stores_is_no_trouble(first: Any, then: Any) -> None:
    assert (await World(first, then).key()).warnings == []


async def test_postgres_is_asked_before_vault_so_that_a_rotation_in_between_is_not_taken_for_a_restore() -> None:
    world = World((described(2), [used(2)]))
    await world.key()
    assert world.asked == ["postgres", "vault"]


async def test_a_retirement_under_way_is_not_taken_for_a_lowered_minimum() -> None:
    world = World((described(2), [used(2)]), floor=2)
    world.known_jobs = [job(JobKind.RETIRE)]
    assert (await world.key()).warnings == []
    world.known_jobs = [job(JobKind.RETIRE, JobState.DONE, ended_at=NOW)]
    assert len((await world.key()).warnings) == 1


@pytest.mark.parametrize(
    "name", ["credentials-idempotency", "credentials-events", "alpaca", "", "../x", "credentials-"]
)
async def test_no_other_name_is_asked_of_vault(name: str) -> None:
    world = World((described(1), []))
    for ask in (world.inventory().key, world.inventory().report):
        with pytest.raises(KeyNotFound):
            await ask(ACCESS, name)
    assert world.asked == []


async def test_a_type_without_a_key_is_left_out_of_the_list() -> None:
    assert [each.vault.name for each in await World((described(1), [])).inventory().keys(ACCESS)] == [KEY]


async def test_a_report_tells_the_rewrap_that_is_under_way() -> None:
    world = World((described(2), [used(1)]))
    running = job()
    world.known_jobs = [job(JobKind.ROTATE), job(state=JobState.DONE, ended_at=NOW), running]
    report = await world.inventory().report(ACCESS, KEY)
    assert report.rewrap_under_way is running
    world.known_jobs = world.known_jobs[:2]
    assert (await world.inventory().report(ACCESS, KEY)).rewrap_under_way is None


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({"done": 25}, 30),
        ({"done": 20, "failed": 5}, 37.5),
        ({"done": 100}, 0),
        ({"done": 120}, 0),  # there were more than it counted at its beginning
        ({"done": 0}, None),
        ({"done": 25, "total": None}, None),
        ({"done": 25, "started_at": None}, None),
        ({"done": 25, "heartbeat_at": None}, None),
        ({"done": 25, "state": JobState.DONE}, None),
        ({"done": 25, "kind": JobKind.ROTATE}, None),
    ],
)
def test_the_rest_of_a_rewrap_takes_as_long_as_its_pace_says(given: dict[str, Any], seconds: float | None) -> None:
    remaining = remaining_time(job(**given))
    assert (None if remaining is None else remaining.total_seconds()) == seconds


async def test_what_is_shown_of_a_key_and_a_job_is_complete() -> None:
    status = await World((described(2, period=timedelta(days=1)), [used(1, 3, 1), used(2)])).key()
    shown = key_details(status, "transit").model_dump()
    assert (shown["auto_rotate_seconds"], shown["transit_mount"]) == (86400, "transit")
    assert shown["next_rotation_at"] == "2026-02-03T12:00:00Z"
    assert [each["credentials"] for each in shown["versions"]] == [1, 3]
    assert shown["versions"][1]["oldest_credential_id"] == str(status.versions[1].use.oldest_id)
    told = job_summary(job(done=50)).model_dump()
    assert (told["kind"], told["state"], told["remaining_seconds"]) == ("rewrap", "running", 10)


def test_addresses_in_vaults_ui_hold_whatever_mounts_and_namespaces_are_called() -> None:
    ui = VaultUi("https://vault.example", "team/transit", "kv store", "eu/prod")
    assert ui.key("a key") == (
        "https://vault.example/ui/vault/secrets/team%2Ftransit/show/a%20key?tab=details&namespace=eu%2Fprod"
    )
    assert ui.credentials() == "https://vault.example/ui/vault/secrets/kv%20store/kv/list?namespace=eu%2Fprod"
    plain = VaultUi("https://vault.example", "transit", "credentials")
    assert plain.key_versions(KEY) == f"https://vault.example/ui/vault/secrets/transit/show/{KEY}?tab=versions"
    assert plain.credential_template() == (
        "https://vault.example/ui/vault/secrets/credentials/kv/{account_id}%2F{credential_id}/metadata"
    )
