"""What is left behind, for tests that look for secrets in it: Postgres, KV, Vault's audit log, files, log lines."""

import base64
import json
import logging
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.localstack.vault_admin import VaultAdmin
from tests.support import Stack
from tests.written import Connection

TESTS = str(Path(__file__).parent)


def forms(secret: str) -> list[bytes]:
    """The bytes a secret is found by: raw, hexadecimal, and base64 wherever in a longer text it begins."""
    raw = secret.encode()
    # Without what the neighbours on either side would change: two characters in front, three at the end.
    encoded = [base64.b64encode(b"\0" * shift + raw)[(shift + 2) // 3 * 4 : -4] for shift in range(3)]
    return [raw, raw.hex().encode(), *encoded]


def found(secrets: Iterable[str], evidence: Mapping[str, bytes | str]) -> list[str]:
    """Which places hold one of the secrets, in whichever form. The answer names the place, never the secret."""
    searched = {place: text.encode() if isinstance(text, str) else text for place, text in evidence.items()}
    wanted = [form for secret in secrets for form in forms(secret)]
    return sorted({place for place, text in searched.items() if any(form in text for form in wanted)})


async def postgres_dump(conn: Connection) -> str:
    """Every row of every table, as text; `bytea` is hexadecimal there."""
    tables = await conn.fetch(
        "SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n "
        "ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', "
        "'information_schema') AND n.nspname NOT LIKE 'pg_toast%' AND n.nspname NOT LIKE 'pg_temp%'"
    )
    lines = []
    for table in tables:
        for row in await conn.fetch(f"SELECT t::text AS line FROM {table['name']} t"):
            lines.append(f"{table['name']}: {row['line']}")
    return "\n".join(lines)


def kv_dump(stack: Stack) -> dict[str, list[Any]]:
    """Every path of the KV mount: its metadata, then the data of each version that can be read."""
    with stack.local.vault.admin() as admin:
        return {path: list(_kv_contents(admin, path)) for path in _kv_paths(admin, "")}


def _kv_paths(admin: VaultAdmin, folder: str) -> Iterator[str]:
    listed = admin.raw("LIST", f"credentials/metadata/{folder}")
    for name in listed.json()["data"]["keys"] if listed.is_success else ():
        if name.endswith("/"):
            yield from _kv_paths(admin, folder + name)
        else:
            yield folder + name


def _kv_contents(admin: VaultAdmin, path: str) -> Iterator[Any]:
    metadata = admin.raw("GET", f"credentials/metadata/{path}").json()["data"]
    yield metadata
    for version in metadata["versions"]:
        yield admin.raw("GET", f"credentials/data/{path}?version={version}").json()["data"]


def audit_file(stack: Stack) -> Path:
    """Vault's audit log."""
    return stack.local.state_dir / "vault" / "audit.log"


class AuditLog:
    """What Vault's audit device has written since this was made."""

    def __init__(self, stack: Stack) -> None:
        self._file = audit_file(stack)
        self._from = self._file.stat().st_size

    def entries(self) -> list[dict[str, Any]]:
        """The requests, as Vault wrote them down before it answered."""
        with self._file.open("rb") as file:
            file.seek(self._from)
            lines = [json.loads(line) for line in file]
        return [line for line in lines if line["type"] == "request"]

    def decryptions(self) -> list[str]:
        """The batch id of each request to decrypt; empty where one was sent without."""
        return [
            ",".join(entry["request"].get("headers", {}).get("x-credentials-batch-id", ()))
            for entry in self.entries()
            if entry["request"]["path"].startswith("transit/decrypt/")
        ]


def files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder, sockets and the like left out."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            try:
                yield str(path.relative_to(folder)), path.read_bytes()
            except FileNotFoundError:  # a server's own temporary file
                continue


@contextmanager
def every_log_line() -> Iterator[list[str]]:
    """What any logger logs during the block, at DEBUG, with all that hangs on its records."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.name} {record.getMessage()} {vars(record)!r} {self.format(record)}")

    handler = Keep(logging.DEBUG)
    root = logging.getLogger()
    names = [name for name, kind in logging.root.manager.loggerDict.items() if isinstance(kind, logging.Logger)]
    loggers = [root, *(logging.getLogger(name) for name in names)]
    before = [(logger, logger.level, logger.disabled, logger.propagate) for logger in loggers]
    disabled = logging.root.manager.disable
    logging.disable(logging.NOTSET)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.disabled = False
        logger.propagate = True
    root.addHandler(handler)
    try:
        yield lines
    finally:
        root.removeHandler(handler)
        logging.disable(disabled)
        for logger, level, was_disabled, propagate in before:
            logger.setLevel(level)
            logger.disabled = was_disabled
            logger.propagate = propagate


def shown_with_locals(error: BaseException) -> str:
    """An exception as the most talkative reporter shows it: with the locals of every frame that is not a test's."""
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    _without_tests(report)
    return "\n".join([*report.format(), repr(error), repr(error.args), repr(vars(error))])


def _without_tests(report: traceback.TracebackException | None) -> None:
    if report is None:
        return
    kept = [frame for frame in report.stack if not frame.filename.startswith(TESTS)]
    report.stack = traceback.StackSummary.from_list(kept)
    _without_tests(report.__cause__)
    _without_tests(report.__context__)
