"""Imports on real servers: once each, read back, nothing overwritten, whatever is repeated or run at once."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.composition import Runtime
from service.errors import CredentialDenied, VaultSealed
from service.modules import importer
from service.modules.import_records import Became, Mode, RowResult
from service.modules.importer import Importer
from service.modules.records import ImportAccess, SuspensionAccess
from service.modules.row_importer import RowImporter
from tests.evidence import AuditLog
from tests.importing import Legacy, counted, csv_file, import_file, json_lines_file
from tests.port_hooks import hooked_runtime
from tests.stored import opened, some_user, store, update
from tests.support import Stack, canary
from tests.written import Connection, assert_agree, live_versions


async def rows_of(conn: Connection, user_id: str) -> list[dict[str, object]]:
    rows = await conn.fetch("SELECT * FROM credentials WHERE user_id = $1 ORDER BY created_at", user_id)
    return [dict(row) for row in rows]


@pytest.mark.parametrize("write", [csv_file, json_lines_file], ids=["csv", "jsonl"])
async def test_what_is_imported_opens_to_the_same_keys_and_keeps_its_id_state_and_time(
    stack: Stack,
    runtime: Runtime,
    owner_conn: Connection,
    tmp_path: Path,
    write: Callable[[Path, list[Legacy]], Path],
) -> None:
    made = datetime(2024, 2, 29, 12, 0, 0, 5, tzinfo=UTC)
    user = some_user()
    on = Legacy(user, more={"is_active": True, "created_at": made.isoformat()})
    off = Legacy(user, more={"is_active": False, "created_at": "2023-01-01T00:00:00+02:00"})
    future = Legacy(user, credential_type="polygon", more={"is_active": True, "created_at": "2999-01-01T00:00:00Z"})
    future.secret_key = ""
    report, _ = await import_file(runtime, write(tmp_path, [on, off, future]))
    assert counted(report) == {Became.IMPORTED: 3}
    assert report.is_complete
    rows = await rows_of(owner_conn, user)
    assert [row["id"] for row in rows] == [off.uuid, on.uuid, future.uuid]
    assert [row["is_active"] for row in rows] == [False, True, True]
    assert rows[1]["created_at"] == made
    assert rows[2]["created_at"] <= datetime.now(UTC)  # type: ignore[operator]  # a column's value
    assert [row["last_used_at"] for row in rows] == [None] * 3  # a comparison is no use
    assert await opened(runtime, on.uuid, user) == (on.api_key, on.secret_key)
    assert await opened(runtime, future.uuid, user) == (future.api_key, "")
    with pytest.raises(CredentialDenied):
        await opened(runtime, off.uuid, user)
    for each in (on, off, future):
        await assert_agree(stack, owner_conn, each.uuid)


async def test_importing_again_stores_nothing_and_finds_all_of_it_here(
    runtime: Runtime, owner_conn: Connection, tmp_path: Path
) -> None:
    user = some_user()
    rows = [Legacy(user), Legacy(user, id=None)]
    path = json_lines_file(tmp_path, rows)
    await import_file(runtime, path)
    before = await rows_of(owner_conn, user)
    report, _ = await import_file(runtime, path)
    assert counted(report) == {Became.PRESENT: 2}
    assert report.is_complete
    after = await rows_of(owner_conn, user)
    assert [(row["id"], row["row_version"], row["kv_version"]) for row in after] == [
        (row["id"], row["row_version"], row["kv_version"]) for row in before
    ]


async def test_what_is_here_and_different_is_said_and_left_as_it_is(
    runtime: Runtime, owner_conn: Connection, tmp_path: Path
) -> None:
    others, changed, updated, moved = await store(runtime), Legacy(), await store(runtime), await store(runtime)
    await import_file(runtime, json_lines_file(tmp_path, [changed]))
    newer = await update(runtime, updated)
    rows = [
        Legacy(id=str(others.id), account_id=str(others.account_id)),  # somebody else's, at its very path in KV
        Legacy(changed.user_id, changed.account_id, id=changed.id),
        Legacy(
            updated.user_id, str(updated.account_id), "alpaca", updated.api_key, updated.secret_key, str(updated.id)
        ),
        Legacy(moved.user_id, api_key=moved.api_key, secret_key=moved.secret_key, id=str(moved.id)),
    ]
    report, results = await import_file(runtime, json_lines_file(tmp_path, rows))
    assert [(each.became, each.problem) for _, each in sorted(results.items())] == [
        (Became.REFUSED, "id: is the id of another credential"),
        (Became.DIFFERS, "opens to other keys"),
        (Became.DIFFERS, "its keys were updated here since"),
        (Became.DIFFERS, "here it is of another account or type"),
    ]
    assert not report.is_complete
    assert await opened(runtime, others.id, others.user_id) == others.keys
    assert await opened(runtime, changed.uuid, changed.user_id) == (changed.api_key, changed.secret_key)
    assert await opened(runtime, updated.id, updated.user_id) == newer.keys
    assert await opened(runtime, moved.id, moved.user_id) == moved.keys
    assert await owner_conn.fetchval("SELECT count(*) FROM credentials WHERE user_id = $1", rows[0].user_id) == 0


async def test_another_users_path_in_kv_is_never_written_to(
    stack: Stack, runtime: Runtime, owner_conn: Connection, tmp_path: Path
) -> None:
    """Each try would leave a version there, and a hundred of them push out the one that is pinned."""
    theirs = await store(runtime)
    path = json_lines_file(tmp_path, [Legacy(id=str(theirs.id), account_id=str(theirs.account_id))])
    log = AuditLog(stack)
    await import_file(runtime, path)
    assert not [entry for entry in log.entries() if theirs.path in entry["request"]["path"]]
    await assert_agree(stack, owner_conn, theirs.id)


async def test_a_row_that_is_wrong_is_refused_alone(runtime: Runtime, tmp_path: Path) -> None:
    secret = canary("CANARY")
    wrong = {
        "credential_type: ": Legacy(credential_type=secret),
        "api_key: must be printable ASCII": Legacy(api_key=secret + "é"),
        "api_key: must have at most 512 characters": Legacy(api_key=secret * 20),
        "api_key: must not be empty": Legacy(api_key=""),
        "secret_key: must not be empty": Legacy(secret_key=""),
        "secret_key: must not begin or end with a space": Legacy(secret_key=secret + " "),
        "user_id: must not contain control characters": Legacy(secret + "\t"),
        "user_id: must not be empty": Legacy(""),
        "user_id: must have at most": Legacy(secret * 20),
    }
    good = [Legacy() for _ in wrong]
    mixed = [row for pair in zip(wrong.values(), good, strict=True) for row in pair]
    report, results = await import_file(runtime, json_lines_file(tmp_path, mixed))
    assert counted(report) == {Became.IMPORTED: len(good), Became.REFUSED: len(wrong)}
    for number, problem in enumerate(wrong):
        told = results[f"line {2 * number + 1}"].problem
        assert told is not None
        assert told.startswith(problem)
    assert secret not in repr(results)
    for row in good:
        assert await opened(runtime, row.uuid, row.user_id) == (row.api_key, row.secret_key)


@pytest.mark.parametrize("mode", [Mode.DRY_RUN, Mode.IMPORT])
async def test_a_row_that_is_wrong_is_not_in_the_way_of_its_good_twin(
    runtime: Runtime, tmp_path: Path, mode: Mode
) -> None:
    good, other = Legacy(id=None), Legacy()
    wrong = [
        Legacy(good.user_id, good.account_id, api_key="", id=None),
        Legacy(other.user_id, other.account_id, credential_type="alpca", id=other.id),
        Legacy(other.user_id, other.account_id, secret_key="", id=other.id),
    ]
    report, results = await import_file(runtime, json_lines_file(tmp_path, [*wrong, good, other, *wrong]), mode)
    problems = [str(results[f"line {number}"].problem) for number in (1, 2, 3, 6, 7, 8)]
    fields = ["api_key", "credential_type", "secret_key"]
    assert [problem.split(":")[0] for problem in problems] == [*fields, *fields]
    stored = Became.VALID if mode is Mode.DRY_RUN else Became.IMPORTED
    assert counted(report) == {stored: 2, Became.REFUSED: 6}


async def test_a_dry_run_writes_opens_and_records_nothing(
    stack: Stack, runtime: Runtime, owner_conn: Connection, tmp_path: Path
) -> None:
    here, new, wrong = await store(runtime), Legacy(), Legacy(api_key="é")
    there = Legacy(here.user_id, str(here.account_id), id=str(here.id))
    path = json_lines_file(tmp_path, [there, new, wrong])
    events = "SELECT count(*) FROM credential_events WHERE request_id = 'dry'"
    log = AuditLog(stack)
    report, _ = await import_file(runtime, path, Mode.DRY_RUN, ImportAccess(actor="operator:olga", request_id="dry"))
    assert counted(report) == {Became.PRESENT: 1, Became.VALID: 1, Became.REFUSED: 1}
    assert await rows_of(owner_conn, new.user_id) == []
    assert await owner_conn.fetchval(events) == 0
    asked = [entry["request"]["path"] for entry in log.entries() if new.account_id in entry["request"]["path"]]
    assert asked == []
    assert log.decryptions() == []


async def test_a_verification_stores_nothing_and_says_what_is_missing_or_differs(
    runtime: Runtime, owner_conn: Connection, tmp_path: Path
) -> None:
    same, other, missing = Legacy(), Legacy(), Legacy()
    await import_file(runtime, json_lines_file(tmp_path, [same, other]))
    other.secret_key = other.secret_key[:-1] + "!"
    report, results = await import_file(runtime, json_lines_file(tmp_path, [same, other, missing]), Mode.VERIFY)
    assert [results[f"line {n}"].became for n in (1, 2, 3)] == [Became.PRESENT, Became.DIFFERS, Became.MISSING]
    assert not report.is_complete
    assert await rows_of(owner_conn, missing.user_id) == []


async def test_the_events_name_the_operator_and_the_run_and_the_comparison_is_one(
    runtime: Runtime, owner_conn: Connection, tmp_path: Path
) -> None:
    row = Legacy()
    await import_file(
        runtime, json_lines_file(tmp_path, [row]), access=ImportAccess(actor="operator:olga", request_id="r")
    )
    rows = await owner_conn.fetch(
        "SELECT actor, acting_user, action, outcome, request_id FROM credential_events WHERE credential_id = $1"
        " ORDER BY at, id",
        row.uuid,
    )
    olga = ("operator:olga", row.user_id)
    assert [tuple(each) for each in rows] == [(*olga, "store", "done", "r"), (*olga, "import", "granted", "r")]


async def test_a_suspended_users_row_is_stored_and_said_not_to_have_been_compared(
    runtime: Runtime, tmp_path: Path
) -> None:
    row, fine = Legacy(), Legacy()
    await runtime.suspensions.suspend(SuspensionAccess(actor="operator:olga"), user_id=row.user_id)
    report, results = await import_file(runtime, json_lines_file(tmp_path, [row, fine]))
    assert results["line 1"].became is Became.FAILED
    assert str(results["line 1"].problem).startswith(
        "is here, and was not compared: The user or the account is suspended"
    )
    assert counted(report) == {Became.FAILED: 1, Became.IMPORTED: 1}


async def test_where_live_accounts_are_refused_keys_that_nobody_asked_about_are_not_imported(
    runtime: Runtime, owner_conn: Connection, tmp_path: Path
) -> None:
    row = Legacy()
    access = ImportAccess(actor="operator:olga", account_type="paper")
    report, _ = await import_file(runtime, json_lines_file(tmp_path, [row]), access=access, patience=0.0)
    assert report.stopped_by is not None  # there is no provider to ask on this stack
    assert await rows_of(owner_conn, row.user_id) == []


@pytest.mark.parametrize("bulk", [False, True], ids=["one by one", "bulk"])
async def test_two_imports_of_the_same_rows_at_once_store_each_once(
    stack: Stack, owner_conn: Connection, tmp_path: Path, bulk: bool
) -> None:
    user = some_user()
    rows = [Legacy(user) for _ in range(8)]
    path = json_lines_file(tmp_path, rows)
    async with Runtime.open(stack.settings(), bulk=bulk) as one, Runtime.open(stack.settings(), bulk=bulk) as other:
        reports = await asyncio.gather(import_file(one, path), import_file(other, path))
        for report, results in reports:
            assert report.is_complete, results
        assert sum(report.counts[Became.IMPORTED] for report, _ in reports) == len(rows)
        for row in rows:
            assert await opened(one, row.uuid, user) == (row.api_key, row.secret_key)
    found = await rows_of(owner_conn, user)
    assert len(found) == len(rows)
    for each in found:
        assert live_versions(stack, str(each["kv_path"])) == {each["kv_version"]}
    assert (
        await owner_conn.fetchval(
            "SELECT count(*) FROM write_intents WHERE credential_id = ANY($1)", [r.uuid for r in rows]
        )
        == 0
    )
    stored = "SELECT count(*) FROM credential_events WHERE user_id = $1 AND action = 'store'"
    assert await owner_conn.fetchval(stored, user) == len(rows)


async def test_what_does_not_answer_is_waited_for_and_then_gone_on_with(stack: Stack, tmp_path: Path) -> None:
    sealed = 3

    async def hook(when: str, step: str) -> None:
        nonlocal sealed
        if (when, step) == ("before", "cipher.encrypt") and sealed > 0:
            sealed -= 1
            raise VaultSealed

    said: list[str] = []
    rows = [Legacy() for _ in range(4)]
    async with hooked_runtime(stack.settings(), hook) as runtime:
        report, _ = await import_file(
            runtime,
            json_lines_file(tmp_path, rows),
            progress=lambda report: said.append(str(report.trouble)) if report.trouble else None,
        )
    assert counted(report) == {Became.IMPORTED: 4}
    assert set(said) == {"Vault is sealed."}


async def test_what_does_not_answer_for_too_long_stops_the_run_and_the_next_one_goes_on(
    stack: Stack, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "_TOGETHER", 8)
    is_sealed = False

    async def hook(when: str, step: str) -> None:
        nonlocal is_sealed
        is_sealed = is_sealed or (when, step) == ("after", "cipher.decrypt")  # the first group is done
        if is_sealed and step == "cipher.encrypt":
            raise VaultSealed

    path = json_lines_file(tmp_path, [Legacy() for _ in range(40)])
    async with hooked_runtime(stack.settings(), hook) as unlucky:
        report, results = await import_file(unlucky, path, patience=0.5)
    assert isinstance(report.stopped_by, VaultSealed)
    done = report.counts[Became.IMPORTED]
    assert done == len(results)  # the others were not called failed: nothing is wrong with them
    assert not report.is_complete
    report, _ = await import_file(runtime, path)
    assert report.is_complete
    assert report.rows == 40
    assert report.counts[Became.PRESENT] >= done


async def test_one_that_is_asked_to_stop_ends_what_is_under_way_and_says_so(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "_TOGETHER", 4)
    stop = asyncio.Event()
    path = json_lines_file(tmp_path, [Legacy() for _ in range(60)])
    report, results = await import_file(runtime, path, stop=stop, progress=lambda _report: stop.set())
    assert report.was_stopped
    assert not report.is_complete
    assert 0 < report.rows < 60
    assert {each.became for each in results.values()} == {Became.IMPORTED}


def test_an_importer_hands_out_no_pair() -> None:
    """What it returns has no room for a key: an import is no way for an operator to read one."""
    assert set(RowResult.__dataclass_fields__) == {"where", "became", "problem", "credential_id"}
    assert [name for name in vars(Importer) if not name.startswith("_")] == ["run"]
    assert [name for name in vars(RowImporter) if not name.startswith("_")] == ["check", "place", "compare"]
