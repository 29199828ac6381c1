"""What `make lint` asks beside the code: a planted secret is found, an advisory fails, and a silent service is said."""

import asyncio
import os
import secrets
import socket
import string
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.doubles.scripted_server import ScriptedServer

ROOT = Path(__file__).parents[2]
ADVISORY = "PYSEC-2099-1"


def random_of(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


LETTERS = string.ascii_letters + string.digits
PLANTED = {
    "a GitHub token": lambda: f'TOKEN = "ghp_{random_of(LETTERS, 36)}"',
    "a Vault token": lambda: f"export VAULT_TOKEN=hvs.CAESI{random_of(LETTERS, 90)}",
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_secret_is_found_and_not_shown(what: str, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "clean.py").write_text("nothing = 1\n")
    line = PLANTED[what]()
    (tmp_path / "leak.txt").write_text(f"first\n{line}\n")
    ran = subprocess.run([sys.executable, ROOT / "scripts/check_secrets.py", tmp_path], capture_output=True, text=True)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "leak.txt:2: looks like a secret" in ran.stdout
    assert "clean.py" not in ran.stdout
    assert line[-30:] not in ran.stdout + ran.stderr
    (tmp_path / "leak.txt").unlink()
    ran = subprocess.run([sys.executable, ROOT / "scripts/check_secrets.py", tmp_path], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


class Osv(ScriptedServer):
    """OSV's two questions (https://google.github.io/osv.dev/api/): one advisory, against the packages named."""

    def __init__(self) -> None:
        super().__init__()
        self.against: set[str] = set()
        self.asked_about: set[str] = set()

    async def usual(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/querybatch":
            names = [query["package"]["name"] for query in (await request.json())["queries"]]
            self.asked_about |= set(names)
            known = {"vulns": [{"id": ADVISORY, "modified": "2099-01-01T00:00:00Z"}]}
            return web.json_response({"results": [known if name in self.against else {} for name in names]})
        every = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]
        affected = [{"package": {"ecosystem": "PyPI", "name": name}, "ranges": every} for name in self.against]
        advisory: dict[str, Any] = {"id": ADVISORY, "modified": "2099-01-01T00:00:00Z", "affected": affected}
        return web.json_response(advisory)


@pytest.fixture
async def osv() -> AsyncIterator[Osv]:
    async with Osv() as server:
        yield server


async def audited(url: str, **environment: str) -> tuple[int, str]:
    command = [str(ROOT / "scripts/audit_dependencies"), "--service-url", url]
    ran = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **environment, "UV_HTTP_RETRIES": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await ran.communicate()
    return ran.returncode or 0, told.decode()


async def test_an_advisory_against_what_we_run_on_fails(osv: Osv) -> None:
    status, told = await audited(osv.url)
    assert (status, "no advisory" in told) == (0, True), told
    assert {"aiohttp", "asyncpg", "cryptography", "fastapi", "pyjwt", "pytest"} <= osv.asked_about
    osv.against = {"cryptography"}
    status, told = await audited(osv.url)
    assert status == 1, told
    assert ADVISORY in told


async def test_without_an_answer_it_says_that_nothing_was_audited() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert await audited(url) == (
            0,
            "DEPENDENCIES WERE NOT AUDITED: the advisory service (api.osv.dev) could not be reached\n",
        )
        status, told = await audited(url, AUDIT="require")
    assert status != 0
    assert "DEPENDENCIES WERE NOT AUDITED" in told
