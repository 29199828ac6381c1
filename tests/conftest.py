"""Fixtures for tests against real servers: one stack for the whole run, started when the first test asks for it.

`TEST_BACKEND` chooses how the servers are had: `local` (embedded Postgres, Vault from PATH or built), `containers`
(testcontainers for both, or no test at all) or `auto` (containers where Docker and both images are there, local
otherwise).
"""

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from service.localstack.provisioning import CREDENTIAL_TYPES
from service.localstack.stack import local_stack
from service.localstack.vault_binary import find_vault
from tests import containers

if TYPE_CHECKING:
    import asyncpg
    from fastapi import FastAPI

    from service.composition import Runtime
    from tests.support import Stack


def pytest_configure() -> None:
    """The tests' servers are their own: whatever the shell knows of other ones is forgotten."""
    for name in list(os.environ):
        ours = name == "DATABASE_URL" or name.startswith(("VAULT_", "CREDENTIALS_", "ALPACA_", "POLYGON_"))
        if ours and name != "CREDENTIALS_LOCAL_VAULT":
            del os.environ[name]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started in a shell's background. What the tests start would inherit it, and Ctrl-C end nothing.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@cache
def backend() -> tuple[str, str]:
    """`local` or `containers`, and why."""
    wanted = os.environ.get("TEST_BACKEND", "auto")
    if wanted not in ("local", "containers", "auto"):
        raise pytest.UsageError("TEST_BACKEND must be local, containers or auto")
    if wanted == "local":
        return wanted, "TEST_BACKEND"
    # Who asks for containers is told that there are none, and is not given something else.
    problem = containers.why_not(pull=wanted == "containers")
    if problem is None:
        return "containers", " and ".join(containers.images())
    if wanted == "containers":
        raise pytest.UsageError(f"TEST_BACKEND=containers: {problem}")
    return "local", problem


def pytest_report_header() -> str:
    """Says which servers the tests will use."""
    name, reason = backend()
    return f"test servers: {name} ({reason})"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests first: they are quick, and the network that they turn off is nobody's yet."""
    items.sort(key=lambda item: "unit" not in item.path.parts)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Has Vault built before the first test that needs it, whose time-out is not meant for that."""
    if backend()[0] != "local" or session.config.option.collectonly:
        return
    if all("unit" in item.path.parts for item in session.items):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        find_vault(os.environ, print)


@contextmanager
def start_stack(folder: Path, types: Sequence[str] = CREDENTIAL_TYPES) -> Iterator["Stack"]:
    """A stack on the chosen backend, for these types of credentials."""
    from tests.support import Stack

    environment = {name: value for name, value in os.environ.items() if name != "CREDENTIALS_LOCAL_VAULT"}
    if backend()[0] == "local":
        way = os.environ.get("CREDENTIALS_LOCAL_VAULT")
        if way:
            environment["CREDENTIALS_LOCAL_VAULT"] = way
        with local_stack(folder, environment, print, types) as local:
            yield Stack(local)
        return
    with containers.postgres_container() as superuser_url:
        environment |= {**containers.vault_environment(), "DATABASE_URL": superuser_url}
        with local_stack(folder, environment, print, types) as local:
            yield Stack(local)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Stack"]:
    """Real Vault and Postgres, shared by all tests: use users and accounts of your own, seal and stop nothing."""
    with start_stack(tmp_path_factory.mktemp("stack")) as started:
        yield started


@pytest.fixture
def private_stack(tmp_path: Path) -> Iterator["Stack"]:
    """Real Vault and Postgres of this test's own, to seal, stop and break (some seconds to start)."""
    with start_stack(tmp_path / "stack") as started:
        yield started


@pytest.fixture
async def runtime(stack: "Stack") -> AsyncIterator["Runtime"]:
    """What a process holds open, on the shared stack."""
    from service.composition import Runtime

    async with Runtime.open(stack.settings()) as opened:
        yield opened


@pytest.fixture
async def owner_conn(stack: "Stack") -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection as the owner of the tables: for tampering, and for looking at what is there."""
    import asyncpg

    connection = await asyncpg.connect(stack.owner_url)
    yield connection
    await connection.close()


@pytest.fixture
async def runtime_conn(stack: "Stack") -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection as the service's own role."""
    import asyncpg

    connection = await asyncpg.connect(stack.runtime_url)
    yield connection
    await connection.close()


@pytest.fixture
async def app(stack: "Stack") -> AsyncIterator["FastAPI"]:
    """The application on the shared stack, with its lifespan under way."""
    from service.app import create_app

    made = create_app(stack.settings())
    async with made.router.lifespan_context(made):
        yield made


@pytest.fixture
async def client(app: "FastAPI") -> AsyncIterator[httpx.AsyncClient]:
    """A client of `app`, in this process; what the application lets through becomes a 500, as on the wire."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as made:
        yield made


@pytest.fixture(scope="session")
def server(stack: "Stack") -> Iterator[str]:
    """The URL of the service behind a real socket, on the shared stack. It reconciles once: other tests count."""
    from tests.support import serving

    with serving(stack.settings(reconcile_interval=86_400)) as url:
        yield url


@pytest.fixture(scope="session")
def bearer(stack: "Stack") -> Callable[..., dict[str, str]]:
    """`bearer(role, subject)`: the headers of that caller. Tokens are minted once for each."""

    @cache
    def headers(role: str = "user", subject: str = "alice") -> dict[str, str]:
        return {"Authorization": f"Bearer {stack.mint(role, subject)}"}

    return lambda role="user", subject="alice": dict(headers(role, subject))
