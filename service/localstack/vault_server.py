"""Starts Vault on this machine: raft storage on disk, initialised and unsealed by this launcher.

FOR ONE MACHINE ONLY. A production Vault is unsealed by people or a KMS; here the unseal key and the root token lie in
the state folder beside the storage they open, so whoever reads that folder has it all.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from service.errors import ConfigurationError, VaultUnavailable
from service.localstack.processes import ChildProcess
from service.localstack.state_dir import StateDir, free_port
from service.localstack.vault_admin import VaultAdmin
from service.localstack.vault_binary import GivenVault, VaultImage, VaultProgram, VaultSource
from service.localstack.vault_container import INNER_PORT, INNER_STATE, VaultContainer

NOTICE = (
    "The unseal key and the root token of this Vault lie in {file}: FOR THIS ONE MACHINE ONLY, never for production."
)

_START_SECONDS = 60.0


@dataclass(frozen=True)
class RunningVault:
    """A Vault that answers and is unsealed. `token` may do anything that provisioning does."""

    address: str
    token: str = field(repr=False)
    origin: str
    is_ours: bool
    audit_path: str | None = None
    """Where this Vault writes its audit log, as it sees the path; None where that is not ours to say."""
    namespace: str | None = None
    cacert: str | None = None

    def admin(self) -> VaultAdmin:
        """A client with the privileged token."""
        return VaultAdmin(self.address, self.token, namespace=self.namespace, cacert=self.cacert)


@contextmanager
def running_vault(source: VaultSource, state: StateDir, progress: Callable[[str], None]) -> Iterator[RunningVault]:
    """Vault for as long as the block lasts; stopped afterwards if it was started here. Its data stays.

    Raises:
        ConfigurationError: it does not start, does not answer, is sealed (a given one), or its keys are lost.
    """
    if isinstance(source, GivenVault):
        yield _given(source)
        return
    folder = state.folder("vault")
    (folder / "raft").mkdir(mode=0o700, exist_ok=True)
    port = state.port("vault")
    address = f"http://127.0.0.1:{port}"
    if isinstance(source, VaultProgram):
        origin = f"{source.executable} ({source.origin})"
        process: ChildProcess | VaultContainer = _start_program(source, state, folder, port)
        seen_at = str(folder)
    else:
        origin = f"Docker image {source.image}"
        process = _start_container(source, folder, port)
        seen_at = INNER_STATE
    try:
        with VaultAdmin(address) as anyone:
            token = opened(anyone, state, progress, process.check_alive)
        yield RunningVault(address, token, origin, is_ours=True, audit_path=f"{seen_at}/audit.log")
    finally:
        process.stop()


def _given(source: GivenVault) -> RunningVault:
    vault = RunningVault(
        source.address.rstrip("/"), source.token, "VAULT_ADDR", False, namespace=source.namespace, cacert=source.cacert
    )
    with vault.admin() as admin:
        status = _health(admin)
        if status is None:
            raise ConfigurationError(f"VAULT_ADDR: no Vault answers at {source.address}")
        if status not in (200, 429, 473):
            raise ConfigurationError(f"VAULT_ADDR: the Vault at {source.address} is sealed or not initialised")
        if admin.raw("GET", "auth/token/lookup-self").status_code != httpx.codes.OK:
            raise ConfigurationError(f"VAULT_TOKEN: the Vault at {source.address} does not accept it")
    return vault


def _start_program(source: VaultProgram, state: StateDir, folder: Path, port: int) -> ChildProcess:
    _write_config(folder, folder, listen=f"127.0.0.1:{port}", api=f"http://127.0.0.1:{port}")
    process = ChildProcess("vault", state, signal.SIGTERM)
    # VAULT_* of the user's is about another Vault. `vault server` reads several of them.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VAULT_")}
    process.start([str(source.executable), "server", f"-config={folder / 'config.json'}"], environment=environment)
    return process


def _start_container(source: VaultImage, folder: Path, port: int) -> VaultContainer:
    _write_config(folder, Path(INNER_STATE), listen=f"0.0.0.0:{INNER_PORT}", api=f"http://127.0.0.1:{port}")
    container = VaultContainer(source.image, folder, port)
    container.start()
    return container


def _write_config(folder: Path, seen_at: Path, *, listen: str, api: str) -> None:
    cluster = f"127.0.0.1:{free_port()}"
    config = {
        # The multiplier shortens the time a lone node waits before it elects itself.
        "storage": {"raft": {"path": f"{seen_at}/raft", "node_id": "local", "performance_multiplier": 1}},
        "listener": {"tcp": {"address": listen, "cluster_address": cluster, "tls_disable": True}},
        "api_addr": api,
        "cluster_addr": f"https://{cluster}",
        "disable_mlock": True,  # as HashiCorp advises with raft, whose storage is a mapped file
        "ui": True,
        "log_level": "warn",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def _health(admin: VaultAdmin) -> int | None:
    try:
        return admin.raw("GET", "sys/health").status_code
    except VaultUnavailable:
        return None


def opened(
    admin: VaultAdmin, state: StateDir, progress: Callable[[str], None], check_alive: Callable[[], None] = lambda: None
) -> str:
    """Waits for a Vault that is starting, initialises it where it is new, unseals it where it is sealed, and waits
    until it serves. Returns the root token. That and the unseal key are kept in `state`.

    Raises:
        ConfigurationError: it does not answer, or not in time; it and what is kept do not belong together; or what
            `check_alive`, which is called now and then, raises.
    """
    _wait("did not answer", check_alive, lambda: _health(admin) in (200, 429, 501, 503))
    token = _initialise(admin, state, progress)
    _unseal(admin, state)
    _wait("did not become active", check_alive, lambda: _health(admin) == httpx.codes.OK)
    return token


def _wait(what: str, check_alive: Callable[[], None], is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while not is_so():
        check_alive()
        if time.monotonic() > give_up:
            raise ConfigurationError(f"Vault {what} within {_START_SECONDS:.0f} s")
        time.sleep(0.1)


def _initialise(admin: VaultAdmin, state: StateDir, progress: Callable[[str], None]) -> str:
    """The root token: of the initialisation done now, or of the one kept."""
    is_initialised = admin.call("GET", "sys/init")["initialized"]
    kept = state.read_json("init.json")
    if not is_initialised:
        if kept:
            raise ConfigurationError(f"{state.path}: init.json is there, but Vault's storage is empty")
        made = admin.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        kept = {"unseal_key": made["keys_base64"][0], "root_token": made["root_token"]}
        state.write_json("init.json", kept)
    if not kept:
        raise ConfigurationError(
            f"{state.path}: Vault is initialised, but init.json, which opens it, is gone. "
            "Put it back, or delete the folder to start anew"
        )
    progress(NOTICE.format(file=state.path / "init.json"))
    return str(kept["root_token"])


def _unseal(admin: VaultAdmin, state: StateDir) -> None:
    if admin.call("GET", "sys/seal-status")["sealed"]:
        admin.call("PUT", "sys/unseal", {"key": state.read_json("init.json")["unseal_key"]})
