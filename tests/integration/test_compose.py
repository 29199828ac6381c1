"""docker-compose.yml with a real Docker, where the tests' servers are containers: up, used, down, up, the data kept.

`TEST_SERVICE_IMAGE` names an image of ours that is there already; else it is built (from Docker's and PyPI's servers).
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.localstack.state_dir import free_port
from tests import containers
from tests.conftest import backend
from tests.support import canary

CHECKOUT = Path(__file__).parents[2]
UP_SECONDS = 900

pytestmark = [
    pytest.mark.skipif(backend()[0] != "containers", reason="no Docker with the images, or TEST_BACKEND=local"),
    pytest.mark.timeout(2 * UP_SECONDS),
]


class Compose:
    """docker-compose.yml as a project of its own, on free ports."""

    def __init__(self) -> None:
        vault, postgres = containers.images()
        self._environment = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": canary("test").lower(),
            "VAULT_IMAGE": vault,
            "POSTGRES_IMAGE": postgres,
            "VAULT_PORT": str(free_port()),
            "SERVICE_PORT": str(free_port()),
        }
        if image := os.environ.get("TEST_SERVICE_IMAGE"):
            self._environment["SERVICE_IMAGE"] = image

    def run(self, *command: str, **given: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=CHECKOUT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=UP_SECONDS,
            **given,
        )

    def __call__(self, *arguments: str) -> str:
        done = self.run("docker", "compose", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def inspected(self) -> str:
        """All that Docker tells about all containers."""
        return self.run("docker", "inspect", *self("ps", "-aq").split(), check=True).stdout

    def secrets(self) -> set[str]:
        """Every secret that the jobs have made."""
        read = (
            "cd /var/lib/vault-credentials; "
            "for f in */*; do case $f in *.pem|*.key|*/lock) ;; *) echo; cat $f; esac; done"
        )
        text = self("run", "--rm", "--no-deps", "-T", "--entrypoint", "sh", "provision", "-c", read)
        words = {word.strip('",') for line in text.splitlines() for word in line.split()}
        passwords = {word.partition("@")[0].rpartition(":")[2] for word in words if "://" in word}
        return {word for word in words | passwords if len(word) >= 20 and "/" not in word}

    def smoke(self) -> str:
        done = self.run("scripts/compose_smoke.py")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    made = Compose()
    if made.run("docker", "compose", "version").returncode != 0:
        pytest.skip("docker compose is not there")
    try:
        made("up", "-d")
        yield made
    finally:
        made("down", "-v", "--timeout", "10")


def test_it_works_and_keeps_its_data_and_vault_is_unsealed_again(compose: Compose) -> None:
    assert "kept from earlier runs: 0" in compose.smoke()
    compose("down")
    compose("up", "-d")
    assert "kept from earlier runs: 1" in compose.smoke()


def test_the_smoke_script_fails_where_no_worker_works(compose: Compose) -> None:
    compose("stop", "worker")
    without = compose.run("scripts/compose_smoke.py")
    compose("start", "worker")
    assert (without.returncode, "FAILED: a rewrap is waiting" in without.stdout) == (1, True), without.stdout
    assert "rewrapped by the worker: " in compose.smoke()


def test_docker_shows_no_secret_of_it(compose: Compose) -> None:
    secrets = compose.secrets()
    assert len(secrets) >= 8
    told = {"docker inspect": compose.inspected(), "docker compose logs": compose("logs")}
    assert [where for where, text in told.items() for secret in secrets if secret in text] == []


def test_every_server_runs_read_only_and_not_as_root(compose: Compose) -> None:
    for name in ("vault", "postgres", "service", "worker"):
        assert compose("exec", "-T", name, "id", "-u").strip() != "0"
        refused = compose.run("docker", "compose", "exec", "-T", name, "touch", "/written")
        assert "Read-only file system" in refused.stderr
        status = compose("exec", "-T", name, "grep", "-E", "^(CapEff|NoNewPrivs)", "/proc/1/status").split()
        assert status == ["CapEff:", "0" * 16, "NoNewPrivs:", "1"]


def test_freed_memory_is_wiped_in_it(compose: Compose) -> None:
    for name in ("service", "worker"):
        lines = [
            json.loads(line.partition("|")[2]) for line in compose("logs", name).splitlines() if '"zeroing"' in line
        ]
        assert {each["zeroing"] for each in lines if each["message"] == "zeroing"} == {"shim"}
        assert not any(each["not_in_force"] for each in lines if each["message"] == "zeroing")


def test_its_bill_of_materials_is_what_is_installed(compose: Compose) -> None:
    bill = json.loads(compose("exec", "-T", "service", "cat", "/opt/vault-credentials/sbom.cdx.json"))
    listed = {each["name"].lower().replace("_", "-"): each["version"] for each in bill["components"]}
    program = "import importlib.metadata as m; print(*(f'{d.name} {d.version}' for d in m.distributions()), sep='\\n')"
    found = compose("exec", "-T", "service", "/opt/vault-credentials/bin/python", "-c", program)
    installed = dict(line.split() for line in found.lower().replace("_", "-").splitlines())
    assert installed.pop("vault-credentials")
    assert installed.items() <= listed.items()
