"""Vault as people set it up: mounts under other names, a private CA, clients known by their certificates."""

import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service.composition import Runtime
from service.errors import ConfigurationError, InstallationMismatch, VaultUnavailable
from service.localstack import provisioning
from service.localstack.policies import VaultNames
from service.localstack.state_dir import free_port
from service.localstack.vault_admin import VaultAdmin
from service.localstack.vault_binary import VaultProgram
from service.localstack.vault_server import RunningVault
from service.postgres.migrate import installation_id, migrate
from service.settings import load_settings
from tests.conftest import backend
from tests.databases import in_database, own_database
from tests.doubles.certificate_authority import CertificateAuthority
from tests.own_vault import NAMES, vault_source
from tests.support import Stack
from tests.written import Somebody, pair_of_keys

OTHER_NAMES = VaultNames(
    transit="team-a/transit",
    kv="team-a/secrets",
    approle="team-a/approle",
    key_prefix="cred_",
    role="team-a-service",
    rotator="team-a-rotator",
    operator="team-a-operator",
    auditor="team-a-auditor",
)


async def works(runtime: Runtime, credential_type: str = "alpaca") -> None:
    """Does all there is to do, and is ready."""
    somebody, keys = Somebody(), pair_of_keys()
    stored = await somebody.store(runtime, pair_of_keys(), credential_type, idempotency_key="key")
    await somebody.update(runtime, stored.id, secret_key=keys[1])
    await somebody.update(runtime, stored.id, *keys)
    await runtime.writer.rollback(somebody.access, stored.id, if_match=None)
    await runtime.writer.rollback(somebody.access, stored.id, if_match=None)
    assert await somebody.opens(runtime, stored.id) == keys
    report = await runtime.reconciler.run(apply=True)
    assert report.failed == 0
    assert (await runtime.reconciler.scan(apply=False)).broken == []
    await runtime.writer.delete(somebody.access, stored.id, if_match=None)
    assert {check.name for check in await runtime.readiness.check() if not check.ok} == set()


# --- names ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def database(stack: Stack) -> AsyncIterator[str]:
    """The name of a database that is migrated for both sets of names."""
    async with own_database(stack) as name:
        keys = [names.type_key(each) for names in (NAMES, OTHER_NAMES) for each in provisioning.CREDENTIAL_TYPES]
        await migrate(in_database(stack.owner_url, name), transit_keys=keys)
        yield name


async def test_mounts_keys_and_role_may_have_other_names(stack: Stack, database: str) -> None:
    installation = await installation_id(in_database(stack.owner_url, database))
    with stack.local.vault.admin() as admin:
        provisioning.provision(admin, installation, OTHER_NAMES)
        provisioning.provision(admin, installation, OTHER_NAMES)  # again: nothing is in the way
        login = provisioning.runtime_login(admin, OTHER_NAMES, None)
    settings = load_settings(
        database_url=in_database(stack.runtime_url, database),
        vault_addr=stack.vault_addr,
        transit_mount=OTHER_NAMES.transit,
        kv_mount=OTHER_NAMES.kv,
        transit_key_prefix=OTHER_NAMES.key_prefix,
        vault_auth_mount=OTHER_NAMES.approle,
        vault_role_id=login.role_id,
        vault_secret_id=login.secret_id,
    )
    async with Runtime.open(settings) as runtime:
        await works(runtime, "alpaca")
        await works(runtime, "polygon")
    policies = stack.vault("GET", "auth/team-a/approle/role/team-a-service").json()["data"]["token_policies"]
    assert policies == ["team-a-service"]
    # The other set's role reaches nothing of the first's.
    body = {"role_id": login.role_id, "secret_id": login.secret_id}
    token = stack.vault("POST", "auth/team-a/approle/login", body).json()["auth"]["client_token"]
    for path in ("credentials/data/a/b", "transit/keys/credentials-alpaca", "credentials/data/installation"):
        assert stack.vault("GET", path, token=token).status_code == 403
    # A Vault that has been claimed for one database is not given to another one.
    with stack.local.vault.admin() as admin, pytest.raises(InstallationMismatch):
        provisioning.provision(admin, stack.installation_id, OTHER_NAMES)
    for made in ("mounts/team-a/transit", "mounts/team-a/secrets", "auth/team-a/approle"):
        stack.vault("DELETE", f"sys/{made}")


# --- TLS --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TlsVault:
    """A Vault that speaks TLS, to clients with a certificate of its CA's alone."""

    authority: CertificateAuthority
    settings: dict[str, Any]


@contextmanager
def vault_process(folder: Path, program: VaultProgram, listeners: list[dict[str, Any]]) -> Iterator[None]:
    """`vault server`, with its storage in memory."""
    config = {"storage": {"inmem": {}}, "listener": [{"tcp": each} for each in listeners], "disable_mlock": True}
    file = folder / "config.json"
    file.write_text(json.dumps(config))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VAULT_")}
    with (folder / "vault.log").open("w") as log:
        process = subprocess.Popen(
            [str(program.executable), "server", f"-config={file}"], env=environment, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def opened(address: str) -> RunningVault:
    """Initialises and unseals the Vault there."""
    with VaultAdmin(address) as anyone:
        while True:
            try:
                made = anyone.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
                break
            except VaultUnavailable:  # it is starting
                time.sleep(0.05)
        anyone.call("PUT", "sys/unseal", {"key": made["keys_base64"][0]})
        while anyone.raw("GET", "sys/health").status_code != 200:
            time.sleep(0.05)
    return RunningVault(address, made["root_token"], "test", is_ours=True)


@pytest.fixture
async def tls_vault(stack: Stack, database: str, tmp_path: Path) -> AsyncIterator[TlsVault]:
    """A provisioned Vault whose TLS listener asks clients for a certificate. (A second one is for provisioning.)"""
    program = vault_source(backend()[0])
    if not isinstance(program, VaultProgram):
        pytest.skip("a container's Vault can't be given these files")
    authority = CertificateAuthority(tmp_path)
    certificate, key = authority.issue("vault.internal")  # for its name alone, and not for the address
    plain, tls = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    listeners: list[dict[str, Any]] = [
        {"address": plain, "tls_disable": True},
        {
            "address": tls,
            "tls_cert_file": str(certificate),
            "tls_key_file": str(key),
            "tls_client_ca_file": str(authority.certificate_file),
            "tls_require_and_verify_client_cert": True,
        },
    ]
    with vault_process(tmp_path, program, listeners), opened(f"http://{plain}").admin() as admin:
        provisioning.provision(admin, await installation_id(in_database(stack.owner_url, database)), NAMES)
        login = provisioning.runtime_login(admin, NAMES, None)
        client_certificate, client_key = authority.issue("service")
        yield TlsVault(
            authority,
            {
                "vault_addr": f"https://{tls}",
                "vault_role_id": login.role_id,
                "vault_secret_id": login.secret_id,
                "database_url": in_database(stack.runtime_url, database),
                "vault_cacert": authority.certificate_file,
                "vault_client_cert": client_certificate,
                "vault_client_key": client_key,
                "vault_tls_server_name": "vault.internal",
            },
        )


async def test_a_vault_behind_a_private_ca_that_asks_for_client_certificates_is_used(tls_vault: TlsVault) -> None:
    async with Runtime.open(load_settings(**tls_vault.settings)) as runtime:
        await works(runtime)


@pytest.mark.parametrize("wrong", ["no certificate", "another CA's", "its CA is unknown", "its name is another"])
async def test_a_vault_whose_tls_does_not_fit_is_unavailable_and_sees_no_secret(
    tls_vault: TlsVault, tmp_path: Path, wrong: str
) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    foreign = CertificateAuthority(folder, name="foreign-ca")
    certificate, key = foreign.issue("service")
    changed: dict[str, dict[str, Any]] = {
        "no certificate": {"vault_client_cert": None, "vault_client_key": None},
        "another CA's": {"vault_client_cert": certificate, "vault_client_key": key},
        "its CA is unknown": {"vault_cacert": foreign.certificate_file},
        "its name is another": {"vault_tls_server_name": "vault.elsewhere"},
    }
    async with Runtime.open(load_settings(**{**tls_vault.settings, **changed[wrong]})) as runtime:
        with pytest.raises(VaultUnavailable):
            await works(runtime)


async def test_a_client_key_that_does_not_fit_is_a_wrong_setting_at_start(tls_vault: TlsVault) -> None:
    _certificate, another_key = tls_vault.authority.issue("somebody-else")
    with pytest.raises(ConfigurationError, match="VAULT_CLIENT_KEY"):
        async with Runtime.open(load_settings(**{**tls_vault.settings, "vault_client_key": another_key})):
            pass
