"""`vault-credentials import`, as it is started from a shell: who may, what it prints, its exit status, kill -9."""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet

from service.commands import import_credentials
from service.composition import Runtime
from service.errors import ConfigurationError
from service.modules.import_records import Mode
from tests.importing import Legacy, csv_file, json_lines_file, private_file
from tests.integration.test_import_fernet import KEY, fernet_table, fill, quoted
from tests.rest import Headers
from tests.stored import opened
from tests.support import Stack, canary
from tests.written import Connection

COMMAND = [str(Path(sys.executable).with_name("vault-credentials")), "import"]
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def environment(stack: Stack, bearer: Callable[..., Headers]) -> dict[str, str]:
    """An operator's shell."""
    shell = {**stack.local.environment(), "PATH": os.environ["PATH"], "HOME": "/nonexistent", "COLUMNS": "200"}
    shell.pop("VAULT_TOKEN", None)
    return {**shell, "CREDENTIALS_TOKEN": bearer("operator", "olga")["Authorization"].removeprefix("Bearer ")}


def run(environment: Mapping[str, str], *arguments: object) -> Done:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, env=dict(environment))


async def test_it_imports_says_what_is_wrong_and_shows_no_key(
    stack: Stack, runtime: Runtime, environment: dict[str, str], tmp_path: Path, owner_conn: Connection
) -> None:
    good, bad = Legacy(), Legacy(api_key=canary("CANARY") + "é")
    path = csv_file(tmp_path, [good, bad])
    path.chmod(0o644)
    done = run(environment, "csv", path)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("line 3: refused: api_key: must be printable ASCII\n")
    assert "imported                                        1\n" in done.stdout
    assert (
        done.stderr == f"vault-credentials: warning: {path.name}: other users of this machine may read it (chmod 600)\n"
    )
    for row in (good, bad):
        assert row.api_key not in done.stdout + done.stderr
        assert row.secret_key not in done.stdout + done.stderr
    assert await opened(runtime, good.uuid, good.user_id) == (good.api_key, good.secret_key)
    same = csv_file(tmp_path, [good])
    verified, dry = (run(environment, "csv", same, option) for option in ("--verify", "--dry-run"))
    assert "already here, and the same                      1\n" in verified.stdout
    assert "already here, keys not compared                 1\n" in dry.stdout
    assert "request_id" not in dry.stdout  # nothing was recorded
    others = run(environment, "csv", csv_file(tmp_path, [Legacy(id=good.id)]), "--dry-run")
    assert "line 2: refused: id: is the id of another credential\n" in others.stdout
    run_id = others.stdout.split()[-1].removesuffix(".")
    events = "SELECT count(*) FROM credential_events WHERE request_id = $1"
    assert await owner_conn.fetchval(events, run_id) == 1
    again = run(environment, "csv", csv_file(tmp_path, [good]), "--verify", "--json", "--all-rows")
    assert (again.returncode, again.stderr) == (0, "")
    line, report = map(json.loads, again.stdout.splitlines())
    assert line == {"row": "line 2", "became": "present", "problem": None, "credential_id": good.id}
    assert (report["report"]["present"], report["report"]["complete"]) == (1, True)


async def test_a_table_is_imported_with_the_key_in_a_file_and_wiped_when_that_is_asked_for(
    stack: Stack, runtime: Runtime, environment: dict[str, str], tmp_path: Path, owner_conn: Connection
) -> None:
    row = Legacy()
    key_file = private_file(tmp_path / "fernet.keys", f"{Fernet.generate_key().decode()}\n{KEY}\n".encode())
    async with fernet_table(owner_conn) as table:
        await fill(owner_conn, table, [row])
        environment["IMPORT_DATABASE_URL"] = stack.owner_url
        options = ["fernet-table", "--table", f"public.{table.table}", "--key-file", key_file]
        dry = await asyncio.to_thread(run, environment, *options, "--dry-run")
        assert (dry.returncode, "would be imported" in dry.stdout) == (0, True), dry.stderr
        done = await asyncio.to_thread(run, environment, *options, "--wipe-source", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["report"]["wiped_now"] == 1
    assert await opened(runtime, row.uuid, row.user_id) == (row.api_key, row.secret_key)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["csv", "{folder}"], "{name}: is a directory"),
        (["csv", "{folder}/pipe"], "pipe: is a pipe, which can't be read again after a failure; it has to be a file"),
        (["csv", "{folder}/no", "--dry-run", "--verify"], "--verify: not with --dry-run, which opens nothing"),
        (
            ["fernet-table", "--table", "t", "--dry-run", "--wipe-source"],
            "--wipe-source: not with --dry-run, which changes nothing",
        ),
        (["fernet-table", "--table", "t", "--column", "x=y"], "--column: must be OURS=THEIRS, with one of "),
        (["fernet-table", "--table", "t"], "IMPORT_FERNET_KEY or --key-file: one of them has to be given"),
        (["csv", "{folder}/empty"], "empty: has no heading line\n"),
        (
            ["csv", "{folder}/other"],
            "other: the heading line lacks user_id, account_id, credential_type, api_key; unknown: column 1, ",
        ),
    ],
)
def test_what_is_given_wrong_is_said_with_status_2(
    environment: dict[str, str], tmp_path: Path, arguments: list[str], told: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    private_file(tmp_path / "empty", b"")
    private_file(tmp_path / "other", b"somebodys,keys\n")
    done = run(environment, *(each.format(folder=tmp_path) for each in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("vault-credentials: " + told.replace("{name}", tmp_path.name))


async def test_a_run_that_stored_something_before_its_source_refused_is_reported_with_status_1(
    stack: Stack, environment: dict[str, str], tmp_path: Path, owner_conn: Connection
) -> None:
    """A login that may read the old table, and not change it."""
    row, reader = Legacy(), f"reader_{secrets.token_hex(6)}"
    key_file = private_file(tmp_path / "fernet.keys", KEY.encode())
    async with fernet_table(owner_conn) as table:
        await fill(owner_conn, table, [row])
        password = canary("PW")
        await owner_conn.execute(f"CREATE ROLE {reader} LOGIN PASSWORD '{password}'")
        await owner_conn.execute(f"GRANT SELECT ON {quoted(table)} TO {reader}")
        owner = httpx.URL(stack.owner_url)
        environment["IMPORT_DATABASE_URL"] = str(owner.copy_with(username=reader, password=password))
        options = ["--table", f"public.{table.table}", "--key-file", key_file, "--wipe-source", "--json"]
        done = await asyncio.to_thread(run, environment, "fernet-table", *options)
        await owner_conn.execute(f"DROP OWNED BY {reader}; DROP ROLE {reader}")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])["report"]
    assert (report["failed"], report["wiped_now"], report["complete"]) == (1, 0, False)
    noted = await owner_conn.fetchval(
        "SELECT DISTINCT request_id FROM credential_events WHERE credential_id = $1", row.uuid
    )
    assert noted == report["run"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_source_without_rows_is_no_success(environment: dict[str, str], tmp_path: Path, kind: str) -> None:
    """It may be what is left of an export that broke off."""
    heading = b"user_id,account_id,credential_type,api_key\n" if kind == "csv" else b""
    done = run(environment, kind, private_file(tmp_path / "old", heading))
    assert (done.returncode, done.stderr) == (1, "vault-credentials: there are no rows in the source\n")


@pytest.mark.parametrize("role", [None, "user", "orchestrator", "auditor", "garbage"])
async def test_nobody_but_an_operator_imports_and_the_source_is_not_even_opened(
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    bearer: Callable[..., Headers],
    role: str | None,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    @asynccontextmanager
    async def opening() -> AsyncIterator[Any]:
        yield pytest.fail("the source was opened")

    match role:
        case None:
            token = ""
        case "garbage":
            token = "garbage"
        case _:
            token = bearer(role, "olga")["Authorization"].removeprefix("Bearer ")
    with pytest.raises(ConfigurationError) as refused:
        await import_credentials._imported(opening, Mode.IMPORT, print, token, "run")
    assert str(refused.value) == "CREDENTIALS_TOKEN: " + {
        None: "is not set; it says which operator imports",
        "garbage": "is not accepted: it may have expired, or not be of this issuer and audience",
    }.get(role, "is not an operator's")


async def test_a_command_that_is_killed_is_run_again_and_its_freed_memory_is_wiped(
    stack: Stack, runtime: Runtime, environment: dict[str, str], tmp_path: Path, owner_conn: Connection
) -> None:
    user = Legacy().user_id
    rows = [Legacy(user) for _ in range(150)]
    path = json_lines_file(tmp_path, rows)
    count = "SELECT count(*) FROM credentials WHERE user_id = $1"
    environment["CREDENTIALS_DUMPABLE"] = "true"  # so that whoever runs the tests may look
    nowhere = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "jsonl", str(path), env=environment, stdout=nowhere, stderr=nowhere
    )
    try:
        while process.returncode is None:
            if await owner_conn.fetchval(count, user):
                break
            await asyncio.sleep(0.005)
        variables = await asyncio.to_thread(Path(f"/proc/{process.pid}/environ").read_bytes)
    finally:
        process.kill()
        await process.wait()
    assert process.returncode == -signal.SIGKILL
    assert b"PYTHONMALLOC=malloc" in variables
    done = await asyncio.to_thread(run, environment, "jsonl", path, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])["report"]
    assert report["imported"] + report["present"] == report["rows"] == len(rows)
    assert report["present"] > 0
    assert await owner_conn.fetchval(count, user) == len(rows)
    assert await opened(runtime, rows[-1].uuid, user) == (rows[-1].api_key, rows[-1].secret_key)
