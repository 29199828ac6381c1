"""docker-compose.yml's jobs, without Docker: on a Vault that nobody has initialised and a Postgres with a superuser."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import jwt
import pytest

from service.composition import Runtime
from service.errors import ConfigurationError
from service.localstack import compose_jobs, vault_server
from service.localstack.postgres_server import running_postgres
from service.localstack.state_dir import StateDir, free_port
from service.localstack.vault_admin import VaultAdmin
from service.localstack.vault_binary import VaultProgram
from service.memory.shim import glibc_version
from service.probe import is_well
from service.settings import Settings, load_settings
from tests.conftest import backend
from tests.own_vault import vault_source


class Machine:
    """The servers of docker-compose.yml as processes of this machine, and its volumes as folders."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.volumes = folder / "volumes"
        for name in ("keys", "vault-tls", "postgres", "service", "worker"):
            (self.volumes / name).mkdir(mode=0o700, parents=True)
        self._running = ExitStack()
        self._state = StateDir(folder / "state")
        self._state.create()
        postgres = self._running.enter_context(running_postgres(None, self._state, print))
        self._data = self._state.folder("vault")
        (self._data / "raft").mkdir()
        self._port = free_port()
        self.address = f"http://127.0.0.1:{self._port}"
        monkeypatch.setattr(compose_jobs, "FOLDER", self.volumes)
        monkeypatch.setattr(compose_jobs, "_VAULT", self.address)
        monkeypatch.setattr(compose_jobs, "_POSTGRES", urlsplit(postgres.owner_url).netloc.rpartition("@")[2])
        monkeypatch.setattr(compose_jobs, "_AUDIT_LOG", str(self._data / "audit.log"))
        # The password that this superuser has already; docker-compose.yml's gets the one that the job has made.
        password = self._state.read_json("postgres.json")["superuser_password"]
        (self.volumes / "postgres" / "superuser-password").write_text(password)

    def start_vault(self) -> None:
        """As a container starts it: not initialised, or sealed."""
        source = vault_source(backend()[0])
        assert isinstance(source, VaultProgram)
        vault = vault_server._start_program(source, self._state, self._data, self._port)
        self._running.callback(vault.stop)

    def kill_vault(self) -> None:
        os.kill(int(self._state.read_json("vault.pid.json")["pid"]), signal.SIGKILL)

    def close(self) -> None:
        self._running.close()

    def settings(self, monkeypatch: pytest.MonkeyPatch) -> Settings:
        """As the service's container has them."""
        monkeypatch.setenv("CREDENTIALS_SETTINGS_DIR", str(self.volumes / "service"))
        return load_settings(
            vault_addr=self.address, vault_secret_id_file=self.volumes / "service" / "secret-id", vault_retries=0
        )

    def files(self) -> dict[str, str]:
        """What is in the volumes, by name."""
        found = (each for each in self.volumes.rglob("*") if each.is_file() and each.name != "lock")
        return {str(each.relative_to(self.volumes)): each.read_text() for each in found}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(tmp_path, monkeypatch)
    yield made
    made.close()


@pytest.mark.skipif(backend()[0] != "local", reason="docker-compose.yml's own containers show it there")
async def test_the_jobs_bring_a_machine_up_and_up_again_with_its_data_kept(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigurationError, match="nothing is provisioned yet"):
        compose_jobs.token("alice")
    machine.start_vault()
    compose_jobs.prepare()
    compose_jobs.provision()
    first = machine.files()
    async with Runtime.open(machine.settings(monkeypatch)) as runtime:
        assert [each.name for each in await runtime.readiness.check() if not each.ok] == []
    for name in ("keys/init.json", "service/DATABASE_URL", "service/secret-id", "worker/secret-id"):
        assert (machine.volumes / name).stat().st_mode & 0o077 == 0, name
    # What opens Vault, and what owns the tables, is in the one volume that no server has.
    secrets = [*json.loads(first["keys/init.json"]).values(), first["keys/owner.password"], first["keys/minting.token"]]
    assert not [
        name for name, text in first.items() for each in secrets if each in text and not name.startswith("keys/")
    ]
    said = capsys.readouterr()
    assert not [each for each in first.values() for line in (said.out, said.err) if each.strip() in line]

    machine.kill_vault()
    machine.start_vault()
    compose_jobs.prepare()
    compose_jobs.provision()
    assert machine.files() == first
    async with Runtime.open(machine.settings(monkeypatch)) as runtime:
        assert [each.name for each in await runtime.readiness.check() if not each.ok] == []

    capsys.readouterr()
    compose_jobs.token("alice", compose_jobs.TokenRole.ORCHESTRATOR)
    claims = jwt.decode(capsys.readouterr().out.strip(), options={"verify_signature": False})
    assert (claims["user"], claims["roles"]) == ("alice", ["orchestrator"])
    compose_jobs.token("carol", compose_jobs.TokenRole.AUDITOR, vault=True)
    minted = capsys.readouterr().out.strip()
    with VaultAdmin(machine.address, json.loads(first["keys/init.json"])["root_token"]) as root:
        assert root.data("POST", "auth/token/lookup", {"token": minted})["policies"] == ["credentials-auditor"]


def test_the_probe_tells_whether_the_service_answers(server: str) -> None:
    port = urlsplit(server).port
    assert port is not None
    assert is_well("healthz", port)
    assert is_well("readyz", port)
    assert not is_well("nothing-there", port)
    assert not is_well("healthz", free_port())


@pytest.fixture
def decoy(tmp_path: Path) -> Path:
    """A folder with a package of our name, as the folder of the volumes is: `service` is a mount in it."""
    package = tmp_path / "service"
    (package / "localstack").mkdir(parents=True)
    for name in ("__init__", "probe", "localstack/__init__", "localstack/compose_jobs"):
        (package / f"{name}.py").write_text("print('not ours')\nraise SystemExit(0)\n")
    return tmp_path


def run_module(folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """`python -m`, as the image runs it, from this folder."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_in_the_image_no_module_is_taken_from_the_working_folder(decoy: Path, server: str) -> None:
    assert run_module(decoy, "service.probe").stdout == "not ours\n"  # what would be, without the image's variable
    ports = {"well": str(urlsplit(server).port), "nobody's": str(free_port())}
    status = {
        name: run_module(decoy, "service.probe", PYTHONSAFEPATH="1", CREDENTIALS_PORT=port).returncode
        for name, port in ports.items()
    }
    assert status == {"well": 0, "nobody's": 1}
    # It starts itself anew, and is as safe then.
    job = run_module(decoy, "service.localstack.compose_jobs", "--help", PYTHONSAFEPATH="1")
    assert job.returncode == 0
    assert "provision" in job.stdout
    assert "not ours" not in job.stdout


@pytest.mark.skipif(glibc_version() is None, reason="for glibc alone")
def test_the_jobs_wipe_what_they_free_and_leave_nothing_to_debuggers_and_core_dumps(decoy: Path) -> None:
    program = """
import dataclasses, json, os, resource, sys
from service.localstack import compose_jobs
from service.memory.zeroing import in_force
compose_jobs.app = lambda: print(json.dumps([
    dataclasses.asdict(in_force()), resource.getrlimit(resource.RLIMIT_CORE), sys.flags.safe_path, dict(os.environ)]))
compose_jobs.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=decoy,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    zeroing, core, is_safe, environment = json.loads(done.stdout)
    assert zeroing["mode"] != "none"
    assert (zeroing["dumpable"], core, is_safe) == (False, [0, 0], True)
    assert "zero_on_free" not in environment.get("LD_PRELOAD", "")  # of no use to what it starts
