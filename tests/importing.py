"""What tests of imports share: rows of random keys, files of them, and an import of a file."""

import csv
import io
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from service.composition import Runtime
from service.modules.import_records import Became, Check, ImportReport, Mode, RowResult, SourceRow, UnreadableRow
from service.modules.records import ImportAccess
from service.sources.files import FileSource, Kind
from service.sources.secret_lines import SecretLines, secret_file
from tests.stored import some_user
from tests.support import canary

OLGA = ImportAccess(actor="operator:olga", request_id="import-test")


@dataclass
class Legacy:
    """One credential as it is kept elsewhere."""

    user_id: str = field(default_factory=some_user)
    account_id: str = field(default_factory=lambda: str(uuid4()))
    credential_type: str = "alpaca"
    api_key: str = field(default_factory=lambda: canary("AK"), repr=False)
    secret_key: str = field(default_factory=lambda: canary("SK"), repr=False)
    id: str | None = field(default_factory=lambda: str(uuid4()))
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, Any]:
        known = {name: getattr(self, name) for name in ("user_id", "account_id", "credential_type")}
        known |= {"api_key": self.api_key, "secret_key": self.secret_key}
        return {**known, **({} if self.id is None else {"id": self.id}), **self.more}

    @property
    def uuid(self) -> UUID:
        assert self.id is not None
        return UUID(self.id)


def csv_file(folder: Path, rows: Sequence[Legacy], name: str = "old.csv") -> Path:
    """A CSV file of these rows, readable by its owner alone."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0].columns.keys())
    writer.writeheader()
    writer.writerows(row.columns for row in rows)
    return private_file(folder / name, text.getvalue().encode())


def json_lines_file(folder: Path, rows: Iterable[Legacy], name: str = "old.jsonl") -> Path:
    """The same as JSON lines."""
    return private_file(folder / name, "".join(json.dumps(row.columns) + "\n" for row in rows).encode())


def private_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


@asynccontextmanager
async def source_of(path: Path) -> AsyncIterator[FileSource]:
    """The file, opened as a source."""
    with secret_file(path) as descriptor:
        yield FileSource(SecretLines(descriptor), Kind(path.suffix.removeprefix(".")))


async def read(path: Path, check: Check = lambda _row: None) -> list[SourceRow | UnreadableRow]:
    """All rows of a file."""
    async with source_of(path) as source:
        return [row async for row in source.rows(check)]


async def import_file(
    runtime: Runtime, path: Path, mode: Mode = Mode.IMPORT, access: ImportAccess = OLGA, **given: Any
) -> tuple[ImportReport, dict[str, RowResult]]:
    """Imports a file; the report, and each row's result by where it is."""
    results: dict[str, RowResult] = {}
    async with source_of(path) as source:
        report = await runtime.importer.run(
            access, source, mode, told=lambda result: results.update({result.where: result}), **given
        )
    return report, results


def counted(report: ImportReport) -> dict[Became, int]:
    """What became of how many."""
    return {each: count for each, count in report.counts.items() if count}
