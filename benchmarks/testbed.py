"""What everything is measured on: a local stack of its own in a temporary folder, filled, its terms checked."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from benchmarks.contender import Terms
from benchmarks.cpu_usage import cpu_seconds
from benchmarks.loading import Loaded, connected, fill
from benchmarks.statements import QUERIES
from service.localstack.postgres_server import blocking
from service.localstack.provisioning import CREDENTIAL_TYPES
from service.localstack.stack import LocalStack, local_stack
from service.postgres.migrate import migrate

_POLICY = "benchmarks-decrypt"
_AUDIT_LIMIT = 200_000_000  # bytes; about as much as a round of Vault alone writes

Progress = Callable[[str], None]


class WrongTerms(RuntimeError):
    """A server isn't set up as the figures say it is."""


@dataclass(frozen=True)
class Testbed:
    """A stack with credentials in it."""

    __test__ = False  # not a test class, whatever pytest makes of its name

    stack: LocalStack
    folder: Path
    servers: dict[str, Any]
    """What the servers say of themselves."""
    vault_token: str = field(repr=False)

    def terms(self, contender: str, credentials_file: Path, database: str | None = None) -> Terms:
        """What a contender is told. `database`: another one than the stack's; ours gets the runtime's login."""
        alternative = contender in ("usual", "one by one")
        url = self.stack.owner_database_url if alternative else self.stack.database_url
        return Terms(
            contender=contender,
            credentials_file=str(credentials_file),
            database_url=_other_database(url, database) if database else url,
            vault_addr=self.stack.vault.address,
            vault_token=self.vault_token if alternative else "",
            transit_mount=self.stack.names.transit,
            transit_key=self.stack.names.type_key("alpaca"),
        )

    def filled(self, rows: int, ciphertexts: int, progress: Progress) -> Path:
        """Fills the stack's own database, with the usual service's tables; returns the file that lists the sample."""
        progress(f"storing {rows:,} credentials")
        loaded = blocking(fill(self.stack, self.stack.owner_database_url, rows, ciphertexts, usual=True))
        return self._listed("credentials", loaded)

    def filled_database(self, statement: str, name: str, rows: int, ciphertexts: int, progress: Progress) -> Path:
        """Makes and fills another database on the same Postgres, for the same Vault."""
        progress(f"storing {rows:,} credentials in a database of their own")
        url = _other_database(self.stack.owner_database_url, name)

        async def make() -> list[Loaded]:
            async with connected(self.stack.owner_database_url) as connection:
                await connection.execute(QUERIES[statement])
            await migrate(url, transit_keys=[self.stack.names.type_key(each) for each in CREDENTIAL_TYPES])
            return await fill(self.stack, url, rows, ciphertexts, usual=False)

        return self._listed(name, blocking(make()))

    def cpu_seconds(self) -> dict[str, float]:
        """CPU that the two servers have used; empty where they are not this machine's own processes."""
        used = {}
        for name, with_children in (("vault", False), ("postgres", True)):
            noted = self.folder / f"{name}.pid.json"
            if noted.exists():
                pid = int(json.loads(noted.read_text(encoding="utf-8"))["pid"])
                used[name] = cpu_seconds(pid, with_children=with_children)
        return used

    def trim_audit_log(self) -> None:
        """Between rounds: a whole run would leave gigabytes of it. Vault appends, so it goes on at the new end."""
        log = self.folder / "vault" / "audit.log"
        if log.exists() and log.stat().st_size > _AUDIT_LIMIT:
            os.truncate(log, 0)

    def _listed(self, name: str, loaded: Sequence[Loaded]) -> Path:
        file = self.folder / f"{name}.list.json"
        file.write_text(json.dumps([(str(each.id), each.user_id) for each in loaded]), encoding="ascii")
        return file


@contextmanager
def testbed(progress: Progress) -> Iterator[Testbed]:
    """A stack for as long as the block lasts, thrown away afterwards.

    Raises:
        WrongTerms: Vault's storage isn't raft or it isn't audited, or Postgres answers before it is on disk.
    """
    # The shell's own Vault, database and settings are none of this.
    for name in list(os.environ):
        ours = name == "DATABASE_URL" or name.startswith(("VAULT_", "CREDENTIALS_"))
        if ours and name != "CREDENTIALS_LOCAL_VAULT":
            del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="vault-credentials-bench-", ignore_cleanup_errors=True) as folder:
        state = Path(folder, "stack")
        with local_stack(state, os.environ, progress) as stack:
            yield Testbed(stack, state, _servers(stack), _decrypting_token(stack))


def _servers(stack: LocalStack) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        async with connected(stack.owner_database_url) as connection:
            return dict(await connection.fetchrow(QUERIES["server"]) or {})

    postgres = blocking(ask())
    with stack.vault.admin() as admin:
        status = admin.call("GET", "sys/seal-status")
        devices = admin.data("GET", "sys/audit")
    vault = {
        "version": status["version"],
        "storage": status["storage_type"],
        "audit": sorted(str(device["type"]) for device in devices.values()),
    }
    if (vault["storage"], vault["audit"]) != ("raft", ["file"]):
        raise WrongTerms(f"Vault: {vault}")
    if (postgres["fsync"], postgres["synchronous_commit"]) != ("on", "on"):
        raise WrongTerms(f"Postgres: {postgres}")
    return {"vault": vault, "postgres": postgres}


def _decrypting_token(stack: LocalStack) -> str:
    """The alternatives' token: it may decrypt under the one key."""
    path = f"{stack.names.transit}/decrypt/{stack.names.type_key('alpaca')}"
    with stack.vault.admin() as admin:
        policy = f'path "{path}" {{\n  capabilities = ["update"]\n}}\n'
        admin.call("PUT", f"sys/policies/acl/{_POLICY}", {"policy": policy})
        made = admin.call(
            "POST",
            "auth/token/create-orphan",
            {"policies": [_POLICY], "no_default_policy": True, "period": "24h"},
        )
    return str(made["auth"]["client_token"])


def _other_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
