"""Credentials in files: CSV with a heading line (RFC 4180), or JSON lines. One line, one credential.

A file's text passes through Python's strings, which can't be wiped in place: they are wiped when they are freed, in a
process where freed memory is. No error holds any of it.
"""

import csv
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from service.errors import ConfigurationError, InvalidInput
from service.modules.import_records import Check, SourceRow, UnreadableRow
from service.modules.input_checks import uuid_from
from service.modules.secret_pair import copied
from service.sources.secret_lines import SecretLines

REQUIRED = ("user_id", "account_id", "credential_type", "api_key")
OPTIONAL = ("secret_key", "id", "is_active", "created_at")
COLUMNS = (*REQUIRED, *OPTIONAL)

_SAME_ID = "an earlier row is of the same id"
# Only this one: the earlier row may be imported by now, and with an id given to it would be stored a second time.
_SAME_ACCOUNT = (
    "an earlier row is of the same user, account and type, and has no `id` either;"
    " if this is another credential, give it an `id`"
)
_BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}

Row = Mapping[str, Any]
Parser = Callable[[str], Row | str]
"""A line's values by their names, or what is wrong with it."""


class Kind(StrEnum):
    """What a line is."""

    CSV = "csv"
    JSON_LINES = "jsonl"


class FileSource:
    """A `Source`: the lines of a file.

    Guarantees: a line that is wrong is one refused row, told by its own fault, and takes none of the others with it; of
    two rows that are not wrong and would be the same credential the second is refused, in every run. That costs about
    90 bytes of memory a row. Does not: take values with line breaks in them, which none of these has; know which line
    the first of the two was, which would cost half as much again and more.
    """

    def __init__(self, lines: SecretLines, kind: Kind) -> None:
        self._lines = lines
        self._kind = kind
        self._seen: set[int] = set()

    @property
    def total(self) -> int:
        return self._lines.size

    @property
    def position(self) -> int:
        return self._lines.position

    async def rows(self, check: Check) -> AsyncIterator[SourceRow | UnreadableRow]:
        """Raises ConfigurationError where the file is no text, or its heading is none."""
        lines = iter(self._lines)
        parse = _json_parser() if self._kind is Kind.JSON_LINES else _csv_parser(lines, self._lines.name)
        for number, text, problem in lines:
            where = f"line {number}"
            if text is None:
                yield UnreadableRow(where, problem or "")
            elif text.strip():
                yield self._row(where, parse(text), check)

    def _row(self, where: str, row: Row | str, check: Check) -> SourceRow | UnreadableRow:
        if isinstance(row, str):
            return UnreadableRow(where, row)
        try:
            read = _read(where, row)
            try:
                check(read)
                self._ensure_first(read)
            except BaseException:
                read.api_key.wipe()
                read.secret_key.wipe()
                raise
        except InvalidInput as error:
            return UnreadableRow(where, str(error))
        return read

    def _ensure_first(self, row: SourceRow) -> None:
        """Raises InvalidInput where an earlier row, which was not wrong, is the same credential."""
        identity = int.from_bytes(hashlib.blake2b(row.credential_id.bytes, digest_size=8).digest(), "big")
        if identity in self._seen:
            raise InvalidInput("id", _SAME_ID if row.id else _SAME_ACCOUNT)
        self._seen.add(identity)


def _read(where: str, row: Row) -> SourceRow:
    for name in REQUIRED:
        if not isinstance(row.get(name), str):
            raise InvalidInput(name, "must be text" if name in row else "is missing")
    secret_key = row.get("secret_key")
    given = row.get("id")
    return SourceRow(
        where=where,
        id=uuid_from("id", given) if given not in (None, "") else None,
        user_id=row["user_id"],
        account_id=str(uuid_from("account_id", row["account_id"])),
        credential_type=row["credential_type"],
        is_active=_boolean("is_active", row["is_active"]) if "is_active" in row else True,
        created_at=_moment("created_at", row.get("created_at")),
        api_key=copied("api_key", row["api_key"]),
        secret_key=copied("secret_key", "" if secret_key is None else secret_key),
    )


def _boolean(field: str, value: object) -> bool:
    found = value if isinstance(value, bool) else _BOOLEANS.get(str(value).lower())
    # Nothing is not true: it might be that the source doesn't know, and a disabled credential must not become active.
    if found is None:
        raise InvalidInput(field, "must be true or false")
    return found


def _moment(field: str, value: object) -> datetime | None:
    if value in (None, ""):
        return None
    try:
        moment = datetime.fromisoformat(value)  # type: ignore[arg-type]  # it refuses what is no string
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        pass
    raise InvalidInput(field, "must be a date and time with its offset from UTC (RFC 3339)")


# --- CSV ----------------------------------------------------------------------------------------------------------


def _csv_parser(lines: Iterator[tuple[int, str | None, str | None]], name_of_file: str) -> Parser:
    """For the lines after the heading, which it reads.

    Raises:
        ConfigurationError: the heading is none. It is shown by none of its words: it may be somebody's keys.
    """
    _, text, _ = next(lines, (0, None, None))
    cells = _cells(text) if text is not None else None
    if text is not None and text.lstrip().startswith("{"):
        hint = "for JSON lines, use `import jsonl`"
        raise ConfigurationError(f"{name_of_file}: its first line names no known column; {hint}")
    if cells is None or isinstance(cells, str):
        raise ConfigurationError(f"{name_of_file}: has no heading line")
    unknown = [f"column {number}" for number, name in enumerate(cells, 1) if name not in COLUMNS]
    if missing := [name for name in REQUIRED if name not in cells]:
        more = f"; unknown: {', '.join(unknown[:10])}" if unknown else ""
        raise ConfigurationError(f"{name_of_file}: the heading line lacks {', '.join(missing)}{more}")
    if unknown:
        known = ", ".join(COLUMNS)
        raise ConfigurationError(f"{name_of_file}: {unknown[0]} of the heading line is not one of {known}")
    for number, name in enumerate(cells, 1):
        if name in cells[: number - 1]:
            raise ConfigurationError(f"{name_of_file}: the heading line has {name} twice")
    heading = tuple(cells)

    def parse(line: str) -> Row | str:
        cells = _cells(line)
        if isinstance(cells, str):
            return cells
        if len(cells) != len(heading):
            return f"row: has {'more' if len(cells) > len(heading) else 'fewer'} cells than the heading line"
        return dict(zip(heading, cells, strict=True))

    return parse


def _cells(line: str) -> Sequence[str] | str:
    # Each line by itself, so that a quote that nobody closes takes no further lines with it.
    try:
        return next(csv.reader((line,), strict=True), ())
    except csv.Error:
        return "row: is no line of CSV; a quote is wrong, or not closed in its line"


# --- JSON lines ---------------------------------------------------------------------------------------------------


class _Refused(ValueError):
    pass


def _json_parser() -> Parser:
    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(members)
        if len(made) != len(members):
            raise _Refused("row: has a member twice")
        return made

    decode = json.JSONDecoder(object_pairs_hook=pairs).decode

    def parse(line: str) -> Row | str:
        problem = "row: is no JSON"  # the parser's own errors hold the line
        try:
            found = decode(line)
        except _Refused as error:
            problem = str(error)
        except (ValueError, RecursionError):
            pass
        else:
            if not isinstance(found, dict):
                return "row: is no JSON object"
            if found.keys() <= set(COLUMNS):
                return found
            return f"row: has a member that is not one of {', '.join(COLUMNS)}"
        return problem

    return parse
