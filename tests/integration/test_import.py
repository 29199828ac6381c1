"""Imports on real servers: once each, read back, nothing overwritten, whatever is repeated or run at once."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from service.composition import Runtime
from service.errors import CredentialDenied, VaultSealed
from service.modules.import_records import Became, Mode
from service.modules.importer import Importer
from service.modules.records import ImportAccess, SuspensionAccess
from tests.evidence import AuditLog
from tests.importing import OLGA, Legacy, counted, csv_file, import_file, json_lines_file
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
