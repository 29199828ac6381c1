"""Restore drills: back both up, go on, restore one of the two. It is told exactly which credentials don't fit and what
to do; what can be mended is, what can't is listed; and nothing ever opens as what it isn't.

Each on a stack of its own, with Vault's raft snapshots and copies of the database.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
import pytest

from service.composition import Runtime, key_ring
from service.errors import CiphertextGone, CredentialUnreadable
from service.modules.event_chain import SealSkew
from service.modules.key_records import JobReason, JobState
from service.modules.skew_mending import Diagnosis, Remedy
from service.modules.skew_records import SkewKind
from service.rotator import Rotator
from tests.restoring import back_up, restore_postgres, restore_vault
from tests.rotating import do, rotator_of
from tests.support import Stack
from tests.written import Connection, Pair, Somebody, assert_agree, pair_of_keys

KEY = "credentials-alpaca"


@dataclass
class Owned:
    """A credential, the keys it has had (the present ones last), and what the one before the last is kept as."""

    somebody: Somebody
    id: UUID
    keys: list[Pair]

    @property
    def present(self) -> Pair:
        return self.keys[-1]


@dataclass
class Drill:
    """A stack, and what is open on it between two restores: nothing may be, during one."""

    stack: Stack
    snapshot: bytes = b""
    open: AsyncExitStack = field(default_factory=AsyncExitStack)
    runtime: Runtime = None  # type: ignore[assignment]  # set by `start`, which comes first
    rotator: Rotator = None  # type: ignore[assignment]  # as well
    conn: Connection = None  # type: ignore[assignment]  # as well

    async def start(self) -> None:
        """Opens what a service and a worker hold open."""
        self.runtime = await self.open.enter_async_context(Runtime.open(self.stack.settings()))
        self.rotator = await self.open.enter_async_context(rotator_of(self.stack.settings()))
        self.conn = await asyncpg.connect(self.stack.owner_url)
        self.open.push_async_callback(self.conn.close)

    async def stop(self) -> None:
        await self.open.aclose()
        self.open = AsyncExitStack()

    async def back_up(self) -> None:
        await self.rotator.sealer.run()
        await self.stop()
        self.snapshot = await back_up(self.stack)
        await self.start()

    async def restore(self, which: str) -> None:
        """Vault or Postgres, to the backup. What was due by then is settled first, as a running service does it."""
        await self.settle()
        await self.rotator.sealer.run()
        await self.stop()
        if which == "vault":
            await asyncio.to_thread(restore_vault, self.stack, self.snapshot)
        else:
            await restore_postgres(self.stack)
        await self.start()

    async def settle(self) -> None:
        assert (await self.runtime.reconciler.run(apply=True)).failed == 0

    # --- what users do

    async def store(self) -> Owned:
        somebody, keys = Somebody(), pair_of_keys()
        return Owned(somebody, (await somebody.store(self.runtime, keys)).id, [keys])

    async def update(self, owned: Owned) -> None:
        keys = pair_of_keys()
        await owned.somebody.update(self.runtime, owned.id, *keys)
        owned.keys.append(keys)

    async def roll_back(self, owned: Owned) -> None:
        await self.runtime.writer.rollback(owned.somebody.access, owned.id, if_match=None)
        owned.keys.append(owned.keys[-2])

    async def delete(self, owned: Owned) -> None:
        await self.runtime.writer.delete(owned.somebody.access, owned.id, if_match=None)

    async def opens(self, owned: Owned) -> Pair:
        return await owned.somebody.opens(self.runtime, owned.id)

    # --- what an operator does

    async def found(self) -> dict[UUID, tuple[SkewKind, ...]]:
        """What the full comparison says, by credential."""
        report = await self.runtime.skew.full()
        assert report.complete
        return {each.credential.id: each.kinds for each in report.credentials}

    async def diagnosed(self) -> dict[UUID, Diagnosis]:
        """What can be done about each."""
        report = await self.runtime.skew.full()
        async with key_ring(self.stack.settings()) as keys:
            return {
                each.credential.id: await self.runtime.skew_mender.diagnose(each, keys) for each in report.credentials
            }

    async def mend(self) -> dict[UUID, Remedy]:
        """Mends what can be mended. What is left is returned: what somebody has to do."""
        left: dict[UUID, Remedy] = {}
        for credential_id, diagnosis in (await self.diagnosed()).items():
            is_mended = await self.runtime.skew_mender.mend(diagnosis, actor="test")
            assert is_mended == diagnosis.can_be_mended
            if diagnosis.remedy not in (Remedy.REPIN, Remedy.ANNOTATE):
                left[credential_id] = diagnosis.remedy
        return left

    async def fits(self, *, but_for: SkewKind | None = None) -> bool:
        """Whether everything does. The seals are for a person to decide about."""
        report = await self.runtime.skew.full()
        kinds = {kind for each in report.credentials for kind in each.kinds}
        return report.complete and not report.keys and kinds <= {but_for}


@pytest.fixture
async def drill(private_stack: Stack) -> AsyncIterator[Drill]:
    made = Drill(private_stack)
    await made.start()
    yield made
    await made.stop()


async def of_each_kind(drill: Drill, *, number: int = 2) -> dict[str, list[Owned]]:
    """Credentials for each thing that can happen to them, as they are before the backup."""
    names = ("untouched", "updated", "updated twice", "rolled back", "deleted")
    made = {name: [await drill.store() for _ in range(number)] for name in names}
    for owned in made["rolled back"]:
        await drill.update(owned)
    return made


async def go_on(drill: Drill, made: dict[str, list[Owned]]) -> None:
    """What happens to them after it; and some are stored."""
    for owned in (*made["updated"], *made["updated twice"], *made["updated twice"]):
        await drill.update(owned)
    for owned in made["rolled back"]:
        await drill.roll_back(owned)
    for owned in made["deleted"]:
        await drill.delete(owned)
    made["stored"] = [await drill.store() for _ in made["updated"]]


def ids(made: Mapping[str, list[Owned]], *names: str) -> set[UUID]:
    return {owned.id for name in names for owned in made[name]}


async def assert_opens(drill: Drill, owned: Owned) -> None:
    assert await drill.opens(owned) == owned.present
    await assert_agree(drill.stack, drill.conn, owned.id)


# --- without a rotation ------------------------------------------------------------------------------------------


async def test_vault_restored_to_before_postgres(drill: Drill) -> None:
    made = await of_each_kind(drill)
    await drill.back_up()
    await go_on(drill, made)
    assert await drill.fits()
    await drill.restore("vault")

    affected = ids(made, "updated", "updated twice", "rolled back", "stored")
    found = await drill.found()
    assert found.keys() == affected
    assert all(SkewKind.PIN_GONE in kinds for kinds in found.values())
    quick = await drill.runtime.skew.quick()
    assert set(quick.credential_ids) == affected
    for name in ("updated", "updated twice", "rolled back", "stored"):
        for owned in made[name]:
            with pytest.raises(CiphertextGone):
                await drill.opens(owned)
    # What was deleted from both is in the restored Vault again, and opens for nobody.
    scanned = await drill.runtime.reconciler.scan(apply=False)
    without_row = {each for each in scanned.unaccounted if not any(str(known) in each for known in affected)}
    assert without_row == {f"{owned.somebody.account_id}/{owned.id}@1" for owned in made["deleted"]}
    assert set(scanned.broken) == affected

    left = await drill.mend()
    assert left == {
        **dict.fromkeys(ids(made, "updated", "rolled back"), Remedy.ROLL_BACK),
        **dict.fromkeys(ids(made, "updated twice"), Remedy.STORE_ANEW),
        **dict.fromkeys(ids(made, "stored"), Remedy.STORE_ANEW_OR_DELETE),
    }
    # As it says.
    for owned in (*made["updated"], *made["rolled back"]):
        await drill.roll_back(owned)
    for owned in (*made["updated twice"], *made["stored"]):
        await drill.update(owned)
    await drill.settle()
    # What is kept for a rollback after that is what was lost.
    assert await drill.fits(but_for=SkewKind.PREVIOUS_GONE)
    assert (await drill.runtime.skew.full()).fits
    for owned in (each for name in made if name != "deleted" for each in made[name]):
        assert await drill.opens(owned) == owned.present


async def test_postgres_restored_to_before_vault(drill: Drill) -> None:
    made = await of_each_kind(drill)
    await drill.back_up()
    await go_on(drill, made)
    await drill.restore("postgres")

    found = await drill.found()
    assert found == {
        **dict.fromkeys(ids(made, "updated"), (SkewKind.SECRET_BEHIND,)),
        # Two updates discard the version that the restored row pins; so does a rollback with the one before it.
        **dict.fromkeys(ids(made, "updated twice"), (SkewKind.PIN_GONE, SkewKind.SECRET_BEHIND)),
        **dict.fromkeys(ids(made, "rolled back"), (SkewKind.SECRET_BEHIND, SkewKind.PREVIOUS_GONE)),
        **dict.fromkeys(ids(made, "deleted"), (SkewKind.PIN_GONE,)),
    }
    scanned = await drill.runtime.reconciler.scan(apply=False)
    told = {path.partition("@")[0] for path in scanned.unaccounted}
    assert {f"{owned.somebody.account_id}/{owned.id}" for owned in made["stored"]} <= told
    assert (await drill.runtime.skew.full()).seals is SealSkew.CUT
    for owned in made["updated"]:
        assert await drill.opens(owned) == owned.keys[0]  # what was right when the backup was made

    before = {row["id"]: row for row in await drill.conn.fetch("SELECT * FROM credentials")}
    assert await drill.mend() == dict.fromkeys(ids(made, "deleted"), Remedy.STORE_ANEW_OR_DELETE)
    for name in ("untouched", "updated", "updated twice", "rolled back"):
        for owned in made[name]:
            assert await drill.opens(owned) == owned.present
    for row in await drill.conn.fetch("SELECT * FROM credentials WHERE id = ANY($1)", list(ids(made, "updated"))):
        assert row["row_version"] == before[row["id"]]["row_version"] + 1
        assert (row["secret_version"], row["validation_state"]) == (2, "unvalidated")
    events = await drill.conn.fetch("SELECT credential_id FROM credential_events WHERE action = 'reconcile'")
    assert {row["credential_id"] for row in events} == ids(made, "updated", "updated twice", "rolled back")
    for owned in made["deleted"]:
        await drill.delete(owned)
    await drill.settle()
    assert await drill.fits()
    # The one before the last update is kept again.
    for owned in (*made["updated"], *made["updated twice"]):
        await drill.roll_back(owned)
        assert await drill.opens(owned) == owned.keys[-3]
    await drill.conn.execute("UPDATE write_intents SET due_at = now()")
    await drill.settle()
    for owned in (*made["untouched"], *made["updated"], *made["updated twice"], *made["rolled back"]):
        await assert_opens(drill, owned)


# --- with a rotation, a rewrap and a retirement --------------------------------------------------------------------


async def rotate(drill: Drill) -> None:
    for kind in ("rotate", "rewrap"):
        assert (await do(drill.rotator, drill.conn, kind)).state is JobState.DONE


async def test_vault_restored_to_before_a_rotation(drill: Drill) -> None:
    made = {name: [await drill.store() for _ in range(2)] for name in ("rewrapped", "with previous", "updated")}
    for owned in made["with previous"]:
        await drill.update(owned)
    await drill.back_up()
    await rotate(drill)
    assert (await do(drill.rotator, drill.conn, "retire", below=2)).state is JobState.DONE
    for owned in made["updated"]:
        await drill.update(owned)
    made["stored"] = [await drill.store()]
    assert await drill.fits()
    await drill.restore("vault")

    report = await drill.runtime.skew.full()
    everything = ids(made, *made)
    assert {each.credential.id for each in report.credentials} == everything
    assert all(each.kinds[:2] == (SkewKind.PIN_GONE, SkewKind.KEY_VERSION_AHEAD) for each in report.credentials)
    (key,) = report.keys
    assert (key.key, key.latest_version, key.floor, key.credentials) == (KEY, 1, 2, 7)
    assert set(key.first_ids) <= everything
    told = (await drill.runtime.skew.quick()).advice() or ""
    assert "Nothing can be stored" in told
    assert sum(str(each) in told for each in everything) == 5

    left = await drill.mend()
    assert left == {
        **dict.fromkeys(ids(made, "updated"), Remedy.ROLL_BACK),
        **dict.fromkeys(ids(made, "stored"), Remedy.STORE_ANEW_OR_DELETE),
    }
    for owned in (*made["rewrapped"], *made["with previous"]):
        await assert_opens(drill, owned)
    # Retired versions are in use again, so nothing is written before the key is there again: then all moves on.
    assert (await do(drill.rotator, drill.conn, "rotate")).to_version == 2
    for owned in (*made["updated"], *made["with previous"]):
        await drill.roll_back(owned)
    await drill.update(made["stored"][0])
    assert (await do(drill.rotator, drill.conn, "rewrap")).state is JobState.DONE
    assert (await do(drill.rotator, drill.conn, "retire", below=2)).state is JobState.DONE
    await drill.conn.execute("UPDATE write_intents SET due_at = now()")
    await drill.settle()
    assert await drill.fits(but_for=SkewKind.PREVIOUS_GONE)
    for owned in (each for name in made for each in made[name]):
        assert await drill.opens(owned) == owned.present
    for owned in (*made["rewrapped"], *made["with previous"]):
        await assert_opens(drill, owned)


async def test_postgres_restored_to_before_a_rotation(drill: Drill) -> None:
    made = {name: [await drill.store() for _ in range(2)] for name in ("rewrapped", "with previous", "updated")}
    for owned in made["with previous"]:
        await drill.update(owned)
    await drill.back_up()
    await rotate(drill)
    assert (await do(drill.rotator, drill.conn, "retire", below=2)).state is JobState.DONE
    for owned in made["updated"]:
        await drill.update(owned)
    await drill.restore("postgres")

    found = await drill.found()
    behind, retired = SkewKind.KEY_VERSION_BEHIND, SkewKind.KEY_VERSION_RETIRED
    assert found == {
        **dict.fromkeys(ids(made, "rewrapped", "with previous"), (behind, retired)),
        **dict.fromkeys(ids(made, "updated"), (SkewKind.SECRET_BEHIND, retired)),
    }
    for owned in (each for name in made for each in made[name]):
        with pytest.raises(CredentialUnreadable):
            await drill.opens(owned)
    before = {row["id"]: row for row in await drill.conn.fetch("SELECT * FROM credentials")}
    assert await drill.mend() == {}
    assert await drill.fits()
    # The same secret elsewhere is no change that a user sees.
    for row in await drill.conn.fetch(
        "SELECT * FROM credentials WHERE id = ANY($1)", list(ids(made, "rewrapped", "with previous"))
    ):
        assert (row["row_version"], row["updated_at"]) == tuple(
            before[row["id"]][name] for name in ("row_version", "updated_at")
        )
        assert row["transit_key_version"] == 2
    for owned in (*made["with previous"], *made["updated"]):
        assert await drill.opens(owned) == owned.present
        await drill.roll_back(owned)
    await drill.conn.execute("UPDATE write_intents SET due_at = now()")
    await drill.settle()
    for owned in (each for name in made for each in made[name]):
        await assert_opens(drill, owned)


async def old_pins(drill: Drill) -> None:
    """As if a day had passed since the last pins, so that no tolerance for clocks covers them."""
    await drill.conn.execute("UPDATE credentials SET pinned_at = pinned_at - interval '1 day'")


@pytest.mark.parametrize("shows_in", ["pins in KV", "times"])
async def test_versions_of_a_restored_vault_that_was_rotated_again_are_not_retired_before_mending(
    drill: Drill, monkeypatch: pytest.MonkeyPatch, shows_in: str
) -> None:
    """The rows name version 2, which Vault has made anew; the ciphertexts it has are under version 1."""
    made = [await drill.store() for _ in range(3)]
    await drill.back_up()
    await rotate(drill)
    await drill.restore("vault")
    if shows_in == "times":
        # What is newest fits: those that don't are further back than are looked at one by one.
        await old_pins(drill)
        monkeypatch.setattr("service.modules.skew._PINS_BEFORE_RETIRING", 0)
        monkeypatch.setattr("service.modules.skew._NEWEST_PINS", 0)
    assert (await do(drill.rotator, drill.conn, "rotate")).to_version == 2

    refused = await do(drill.rotator, drill.conn, "retire", below=2)
    assert (refused.state, refused.reason) == (JobState.FAILED, JobReason.SKEW)
    described = drill.stack.vault("GET", f"transit/keys/{KEY}").json()["data"]
    assert described["min_decryption_version"] == 1
    assert await drill.conn.fetchval("SELECT min_version FROM key_floors WHERE transit_key = $1", KEY) == 1
    report = await drill.runtime.skew.quick()
    assert set(report.credential_ids) == {owned.id for owned in made}
    if shows_in == "times":
        (key,) = report.keys
        assert (key.remade, key.remade_all, key.credentials, set(key.remade_ids)) == (
            3,
            True,
            0,
            {owned.id for owned in made},
        )
        assert "retire or trim none before this is mended" in (report.advice() or "")

    assert await drill.mend() == {}
    assert await drill.fits()
    for owned in made:
        assert await drill.opens(owned) == owned.present
    still_needed = await do(drill.rotator, drill.conn, "retire", below=2)
    assert (still_needed.state, still_needed.reason) == (JobState.FAILED, JobReason.STILL_NEEDED)
    assert (await do(drill.rotator, drill.conn, "rewrap")).state is JobState.DONE
    assert (await do(drill.rotator, drill.conn, "retire", below=2)).state is JobState.DONE
    await drill.conn.execute("UPDATE write_intents SET due_at = now()")
    await drill.settle()
    for owned in made:
        await assert_opens(drill, owned)


async def test_a_secret_under_a_retired_version_is_not_called_lost(drill: Drill) -> None:
    """Somebody retires past this service's check: it is said to allow decryption again, and then all can be mended."""
    made = [await drill.store() for _ in range(2)]
    await drill.update(made[1])
    await drill.back_up()
    await rotate(drill)
    await drill.restore("vault")
    config = f"transit/keys/{KEY}/config"
    assert (await do(drill.rotator, drill.conn, "rotate")).to_version == 2
    assert drill.stack.vault("POST", config, {"min_decryption_version": 2}).is_success

    assert await drill.mend() == dict.fromkeys((owned.id for owned in made), Remedy.ALLOW_DECRYPTION)
    assert drill.stack.vault("POST", config, {"min_decryption_version": 1}).is_success
    assert await drill.mend() == {}
    for owned in made:
        assert await drill.opens(owned) == owned.present
