"""`vault-credentials keys` at a terminal: a bar that moves, Ctrl-C, and nothing that an answer could do to it.

The service is a double: what it answers is what a test needs, which no real one would.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from service.commands.service_client import ServiceClient, ServiceProblem, Target
from service.schemas.key_schemas import KeyDetails
from tests.doubles.scripted_server import ScriptedServer

COMMAND = [str(Path(sys.executable).with_name("vault-credentials")), "keys"]
JOB_ID = "6f9619ff-8b86-4011-b42d-00c04fc964ff"
EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e[bold]x[/bold]\x7f"


def job(**given: Any) -> dict[str, Any]:
    return {
        "id": JOB_ID,
        "kind": "rewrap",
        "transit_key": "credentials-alpaca",
        "below_version": None,
        "state": "running",
        "reason": None,
        "requested_by": "operator:olga",
        "request_id": None,
        "heartbeat_at": None,
        "from_version": None,
        "requested_at": "2026-01-31T12:00:00Z",
        "started_at": "2026-01-31T12:00:00Z",
        "ended_at": None,
        "stop_requested_by": None,
        "to_version": 2,
        "total": 1000,
        "done": 250,
        "failed": 0,
        "remaining_seconds": 300,
        "failures": [],
    } | given


def key(text: str) -> dict[str, Any]:
    version = {
        "version": 1,
        "state": "in_use",
        "created_at": text,
        "created_from": None,
        "credentials": 1,
        "previous_secrets": 0,
        "oldest_credential_id": text,
        "oldest_credential_created_at": text,
    }
    return {
        "name": text,
        "credential_type": text,
        "transit_mount": text,
        "latest_version": 1,
        "min_decryption_version": 1,
        "min_encryption_version": 0,
        "min_available_version": 0,
        "floor": 1,
        "safe_to_retire_below": 1,
        "auto_rotate_seconds": 3,
        "next_rotation_at": text,
        "encryptions": 0,
        "versions": [version],
        "warnings": [text],
    }


class Service(ScriptedServer):
    """Has one job, which goes on until it is told what comes next."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, Any] = {}
        self.states: list[dict[str, Any]] = [job()]

    async def usual(self, request: web.Request) -> web.StreamResponse:
        if request.path in self.answers:
            return web.json_response(self.answers[request.path])
        if request.method == "POST":
            return web.json_response(job(state="waiting", done=0, remaining_seconds=None), status=202)
        return web.json_response(self.states.pop(0) if len(self.states) > 1 else self.states[0])


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with Service() as started:
        yield started


class Terminal:
    """A command at a terminal of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.shown = ""

    async def start(self, *arguments: str) -> None:
        self._screen, screen_of_the_command = os.openpty()
        os.set_blocking(self._screen, False)
        self._process = await asyncio.create_subprocess_exec(
            *COMMAND,
            *arguments,
            stdin=screen_of_the_command,
            stdout=screen_of_the_command,
            stderr=screen_of_the_command,
            env={
                "PATH": os.environ["PATH"],
                "TERM": "xterm-256color",
                "COLUMNS": "160",
                "SERVICE_URL": self._url,
                "CREDENTIALS_TOKEN": "token",
            },
            start_new_session=True,
        )
        os.close(screen_of_the_command)

    def _read(self) -> None:
        with suppress(BlockingIOError, OSError):  # at its end, Linux says EIO
            while found := os.read(self._screen, 65536):
                self.shown += found.decode(errors="replace")

    async def shows(self, text: str) -> None:
        """Waits until it does."""
        async with asyncio.timeout(60):
            while text not in self.shown:
                await asyncio.sleep(0.05)
                self._read()

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    async def ended(self) -> int:
        """Its exit status."""
        async with asyncio.timeout(60):
            while self._process.returncode is None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), 0.05)
                self._read()
        self._read()
        os.close(self._screen)
        return int(self._process.returncode)


async def run(service: Service, *arguments: str) -> tuple[int, str, str]:
    """A command without a terminal: status, what it printed, what it complained of."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            "PATH": os.environ["PATH"],
            "COLUMNS": "300",
            "SERVICE_URL": service.url,
            "CREDENTIALS_TOKEN": "token",
        },
    )
    async with asyncio.timeout(60):
        out, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), said.decode()


async def test_a_rewrap_shows_a_bar_with_an_estimate_and_ends_with_its_job(service: Service) -> None:
    terminal = Terminal(service.url)
    await terminal.start("rewrap", "credentials-alpaca")
    await terminal.shows("250/1000")
    await terminal.shows("5 minutes left")
    service.states = [job(done=777, remaining_seconds=61), job(state="done", done=1000)]
    assert await terminal.ended() == 0
    assert "rewrap done: 1000 of 1000 credentials" in terminal.shown


async def test_a_rewrap_that_fails_is_exit_status_1(service: Service) -> None:
    failure = {"credential_id": JOB_ID, "reason": "ciphertext_gone"}
    service.states = [job(state="failed", reason="some_failed", done=999, failed=1, failures=[failure])]
    status, shown, _ = await run(service, "rewrap", "credentials-alpaca")
    assert status == 1
    assert "rewrap failed: some failed, 999 done, 1 not" in shown
    assert f"{JOB_ID}: ciphertext_gone" in shown


async def test_a_job_that_failed_before_it_was_answered_says_why(service: Service) -> None:
    async def failed(_request: web.Request) -> web.StreamResponse:
        problem = {"title": "It failed.", "type": "urn:vault-credentials:error:job-failed", "job": JOB_ID}
        return web.json_response(problem, status=409)

    service.script(failed)
    service.states = [job(kind="rotate", state="failed", reason="vault_denied")]
    status, shown, _ = await run(service, "rotate", "credentials-alpaca")
    assert (status, shown) == (1, "rotate failed: vault denied\n")


async def test_ctrl_c_stops_the_following_and_tells_how_to_stop_the_job(service: Service) -> None:
    terminal = Terminal(service.url)
    await terminal.start("rewrap", "credentials-alpaca")
    await terminal.shows("250/1000")
    terminal.interrupt()
    assert await terminal.ended() == 130
    assert f"The job goes on; this stops it: vault-credentials keys stop {JOB_ID}" in terminal.shown
    assert "Traceback" not in terminal.shown
    assert not [seen for seen in service.seen if seen.path_qs.endswith("/stop")]


async def test_a_service_that_is_away_for_a_moment_does_not_end_the_following(service: Service) -> None:
    async def away(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"title": "The database does not answer.", "type": "x"}, status=503)

    async def broken(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async def accepted(_request: web.Request) -> web.StreamResponse:
        return web.json_response(job(), status=202)

    service.script(accepted, away, broken, away)
    service.states = [job(state="done", done=1000)]
    assert (await run(service, "rewrap", "credentials-alpaca"))[0] == 0


@pytest.mark.parametrize(
    "arguments", [("list",), ("show", "k"), ("report", "k"), ("jobs", "k"), ("stop", "j"), ("rotate", "k")]
)
async def test_nothing_in_an_answer_does_anything_to_a_terminal(arguments: tuple[str, ...], service: Service) -> None:
    evil_job = job(id=EVIL, requested_by=EVIL, state="failed", reason=EVIL, requested_at=EVIL)
    evil_job["failures"] = [{"credential_id": EVIL, "reason": EVIL}]
    links = dict.fromkeys(("key", "key_versions", "credentials", "credential_template"), EVIL)
    service.answers = {
        "/v1/keys": {"status": "success", "keys": [key(EVIL)], "count": 1},
        "/v1/keys/k": key(EVIL),
        "/v1/keys/k/report": {"key": key(EVIL), "rewrap": evil_job, "jobs": [evil_job], "links": links},
        "/v1/keys/k/rotate": key(EVIL),
        "/v1/jobs/j/stop": evil_job,
    }
    for form in ((), ("--json",) if arguments[0] != "stop" else ()):
        status, shown, said = await run(service, *arguments, *form)
        assert status == 0, said
        assert_harmless(shown + said)
        assert "[bold]" in shown  # as it is, and not as a command to the printer


async def test_nothing_in_a_refusal_does_anything_to_a_terminal(service: Service) -> None:
    problem = {
        "type": "urn:vault-credentials:error:versions-still-needed",
        "title": EVIL,
        "errors": [{"field": EVIL, "problem": EVIL}],
        "count": 3,
        "credentials": [EVIL],
    }

    async def refused(_request: web.Request) -> web.StreamResponse:
        return web.json_response(problem, status=409)

    for form in ((), ("--json",)):
        service.script(refused)
        status, shown, said = await run(service, "retire", "k", "--below", "2", *form)
        assert (status, "[bold]" in shown) == (1, True)
        assert_harmless(shown + said)
    service.script(refused)
    status, shown, said = await run(service, "show", "k")
    assert (status, "[bold]" in said) == (1, True)
    assert_harmless(shown + said)


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"<html>", b'{"title": 1}', b"\xff", json.dumps({"errors": [1]}).encode()]
)
@pytest.mark.parametrize("status", [200, 302, 404, 500])
async def test_what_is_no_service_is_said_to_be_none(body: bytes, status: int, service: Service) -> None:
    async def other(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers={"Location": f"{service.url}/elsewhere"})

    service.script(other)
    target = Target(service.url, lambda: "token", may_be_renewed=False)
    async with ServiceClient.open(target) as client:
        with pytest.raises(ServiceProblem, match=f"what answers there with {status} is not this service"):
            await client.call("GET", "/v1/keys/k", KeyDetails)
    assert len(service.seen) == 1


async def test_a_minted_token_that_has_expired_is_minted_anew_and_a_given_one_is_not(service: Service) -> None:
    async def expired(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"title": "The bearer token is not acceptable."}, status=401)

    for may_be_renewed in (True, False):
        service.reset()
        service.script(expired)
        service.answers = {"/v1/keys/k": key("k")}
        tokens = iter(("one", "two"))
        target = Target(service.url, lambda tokens=tokens: next(tokens), may_be_renewed=may_be_renewed)  # type: ignore[misc]  # binds this round's
        async with ServiceClient.open(target) as client:
            if may_be_renewed:
                await client.call("GET", "/v1/keys/k", KeyDetails)
            else:
                with pytest.raises(ServiceProblem, match="not acceptable"):
                    await client.call("GET", "/v1/keys/k", KeyDetails)
        sent = [seen.headers["Authorization"] for seen in service.seen]
        assert sent == (["Bearer one", "Bearer two"] if may_be_renewed else ["Bearer one"])
        assert "one" not in repr(target)


def assert_harmless(shown: str) -> None:
    """Only what shows, and ends of lines."""
    assert [each for each in shown if not each.isprintable() and each != "\n"] == []
