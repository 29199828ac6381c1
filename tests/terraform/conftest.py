"""Terraform, where it is; the Vault provider, where `terraform init` can get it; Vaults that nobody has provisioned.

The provider comes from the registry, or from wherever TF_CLI_CONFIG_FILE or TF_PLUGIN_CACHE_DIR say. Where it cannot
be had, the tests that need it are skipped, and pytest's summary gives the reason.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.localstack.state_dir import StateDir
from service.localstack.vault_server import RunningVault, running_vault
from tests.conftest import backend
from tests.own_vault import vault_source
from tests.terraform.cli import POLICIES, Terraform


@pytest.fixture(scope="session")
def program() -> str:
    """The path of `terraform`."""
    found = shutil.which("terraform")
    if found is None:
        pytest.skip("there is no terraform on PATH")
    return found


@pytest.fixture(scope="session")
def provider(program: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables with which `terraform init` gets the Vault provider quickly."""
    folder = tmp_path_factory.mktemp("provider")
    shutil.copy(POLICIES / "terraform" / "versions.tf", folder)
    environment = {}
    if "TF_PLUGIN_CACHE_DIR" not in os.environ:
        (folder / "cache").mkdir()
        environment["TF_PLUGIN_CACHE_DIR"] = str(folder / "cache")
    # Where there is no network, this must not take long.
    asked = Terraform(program, folder, TF_REGISTRY_DISCOVERY_RETRY="0", TF_REGISTRY_CLIENT_TIMEOUT="10", **environment)
    try:
        tried = asked.run("init", "-no-color")
    except subprocess.TimeoutExpired:
        pytest.skip("terraform init did not get the provider hashicorp/vault in time")
    if tried.returncode != 0:
        reason = " ".join(tried.stderr.partition("Error: ")[2].split()) or f"exit code {tried.returncode}"
        pytest.skip(f"terraform init cannot get the provider hashicorp/vault: {reason}")
    return environment


@pytest.fixture(scope="module")
def fresh_vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], RunningVault]]:
    """Starts a Vault that has nothing in it but what every new one has."""
    with ExitStack() as running:

        def start() -> RunningVault:
            state = StateDir(tmp_path_factory.mktemp("vault"))
            state.create()
            return running.enter_context(running_vault(vault_source(backend()[0]), state, print))

        yield start


@pytest.fixture(scope="module")
def terraform_at(program: str, provider: dict[str, str]) -> Callable[[Path, RunningVault], Terraform]:
    """`terraform_at(folder, vault)`: Terraform in that root module, as that Vault's root."""

    def at(folder: Path, vault: RunningVault) -> Terraform:
        made = Terraform(program, folder, VAULT_ADDR=vault.address, VAULT_TOKEN=vault.token, **provider)
        made("init", "-no-color")
        return made

    return at
