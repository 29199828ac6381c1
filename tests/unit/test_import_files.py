"""Files of credentials as a hostile or careless hand makes them: one refused row each, fixed text, never a value."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import ConfigurationError
from service.memory.secret_pages import SecretBuffer
from service.modules.import_records import SourceRow, UnreadableRow
from service.modules.secret_pair import check_key
from service.sources import secret_lines
from service.sources.files import REQUIRED
from service.sources.secret_lines import MAX_LINE, SecretLines, exposure, secret_file
from tests.importing import Legacy, csv_file, json_lines_file, private_file, read
from tests.support import canary

HEADING = b"user_id,account_id,credential_type,api_key,secret_key\n"
ACCOUNT = "6f9619ff-8b86-4011-b42d-00c04fc964ff"
CANARY = canary("CANARY").encode()
ROW = b"alice," + ACCOUNT.encode() + b",alpaca," + CANARY + b",secret\n"
JSON_HINT = "its first line names no known column; for JSON lines, use `import jsonl`"


def keys(row: SourceRow) -> tuple[str, str]:
    return str(row.api_key.reveal(), "ascii"), str(row.secret_key.reveal(), "ascii")


async def rows_of(path: Path, content: bytes) -> list[SourceRow | UnreadableRow]:
    return await read(private_file(path, content))


async def problem_of(path: Path, content: bytes) -> str:
    """What is wrong with the one row that there is."""
    (row,) = await rows_of(path, content)
    assert isinstance(row, UnreadableRow), row
    assert CANARY.decode() not in f"{row!r} {row.problem}"
    return f"{row.where}: {row.problem}"


@pytest.mark.parametrize("write", [csv_file, json_lines_file], ids=["csv", "jsonl"])
async def test_rows_are_read_as_they_were_written(tmp_path: Path, write: Callable[[Path, list[Legacy]], Path]) -> None:
    rows = [Legacy(f'o"brien, {number}', api_key=f'a"{number},b') for number in range(3)]
    found = await read(write(tmp_path, rows))
    assert [row.where for row in found] == [f"line {n + (2 if write is csv_file else 1)}" for n in range(3)]
    for row, wanted in zip(found, rows, strict=True):
        assert isinstance(row, SourceRow)
        assert (row.user_id, row.account_id, row.id) == (wanted.user_id, wanted.account_id, wanted.uuid)
        assert keys(row) == (wanted.api_key, wanted.secret_key)
        assert row.is_active


@pytest.mark.parametrize(
    "content",
    [
        HEADING + ROW,
        b"\xef\xbb\xbf" + HEADING + ROW,
        (HEADING + ROW).replace(b"\n", b"\r\n"),
        (HEADING + ROW).rstrip(b"\n"),
        HEADING + b"\n   \n" + ROW + b"\r\n\n",
        HEADING + ROW.replace(CANARY, b'"' + CANARY + b'"'),
        HEADING + ROW.replace(ACCOUNT.encode(), ACCOUNT.upper().encode()),
    ],
    ids=["plain", "bom", "crlf", "no newline at the end", "empty lines", "quoted", "upper case"],
)
async def test_files_of_any_platform_are_read(tmp_path: Path, content: bytes) -> None:
    (row,) = await rows_of(tmp_path / "old.csv", content)
    assert isinstance(row, SourceRow), row
    assert (row.user_id, row.account_id, keys(row)) == ("alice", ACCOUNT, (CANARY.decode(), "secret"))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'"' + ROW, "row: is no line of CSV; a quote is wrong, or not closed in its line"),
        (
            ROW.replace(CANARY, b'"' + CANARY + b'"x'),
            "row: is no line of CSV; a quote is wrong, or not closed in its line",
        ),
        (
            ROW.replace(CANARY, CANARY + b"\r" + CANARY),
            "row: is no line of CSV; a quote is wrong, or not closed in its line",
        ),
        (ROW.rstrip() + b",more\n", "row: has more cells than the heading line"),
        (CANARY + b"\n", "row: has fewer cells than the heading line"),
        (b"\xff" + ROW, "row: is not UTF-8"),
        (ROW.replace(CANARY, CANARY + b"\0"), "row: holds a NUL character"),
        (ROW.replace(CANARY, CANARY * 4000), f"row: is longer than {MAX_LINE} bytes"),
        (ROW.replace(ACCOUNT.encode(), CANARY), "account_id: must be a UUID"),
        (ROW.replace(ACCOUNT.encode(), b"{" + ACCOUNT.encode() + b"}"), "account_id: must be a UUID"),
        (ROW.replace(ACCOUNT.encode(), b""), "account_id: must be a UUID"),
    ],
)
async def test_a_line_of_csv_that_is_wrong_is_one_refused_row(tmp_path: Path, line: bytes, problem: str) -> None:
    assert await problem_of(tmp_path / "old.csv", HEADING + line) == f"line 2: {problem}"
    *_, last = await rows_of(tmp_path / "old.csv", HEADING + line + ROW)
    assert isinstance(last, SourceRow)
    assert keys(last)[0] == CANARY.decode()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "has no heading line"),
        (b"\n" + HEADING + ROW, "lacks user_id, account_id, credential_type, api_key"),
        (ROW, "lacks user_id, account_id, credential_type, api_key"),
        (HEADING.replace(b"account_id", b"account"), "lacks account_id"),
        (HEADING.replace(b"secret_key", CANARY) + ROW, "column 5 of the heading line is not one of user_id, "),
        (HEADING.replace(b"secret_key", b"api_key") + ROW, "has api_key twice"),
        (HEADING.replace(b"user_id", b"User_Id") + ROW, "lacks user_id"),
        (b"\xff\xfe" + (HEADING + ROW).decode().encode("utf-16-le"), "is UTF-16"),
        (b"\xff" + HEADING, "has no heading line"),
        (b'"' + HEADING, "has no heading line"),
        (json.dumps({"user_id": "alice", "api_key": CANARY.decode()}).encode(), JSON_HINT),
        (json.dumps({"user_id": "alice", "api_key": CANARY.decode()}, separators=(",", ":")).encode(), JSON_HINT),
        (b"a" * (MAX_LINE + 1) + HEADING, "has no heading line"),
    ],
)
async def test_a_heading_that_is_wrong_ends_it_before_the_first_row(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        await rows_of(tmp_path / "old.csv", content)
    assert problem in str(refused.value)
    assert CANARY.decode() not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


MEMBERS = dict(zip(REQUIRED, ("alice", ACCOUNT, "alpaca", CANARY.decode()), strict=True))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (CANARY.decode(), "row: is no JSON"),
        ("[" * 50_000, "row: is no JSON"),
        (f'{{"api_key": {"9" * 5000}}}', "row: is no JSON"),
        (json.dumps([CANARY.decode()]), "row: is no JSON object"),
        (json.dumps(CANARY.decode()), "row: is no JSON object"),
        (f'{{"api_key": "{CANARY.decode()}", "api_key": "b"}}', "row: has a member twice"),
        (json.dumps({**MEMBERS, CANARY.decode(): 1}), "row: has a member that is not one of user_id, account_id,"),
        *((json.dumps({**MEMBERS, name: 5}), f"{name}: must be text") for name in REQUIRED),
        *((json.dumps({k: v for k, v in MEMBERS.items() if k != name}), f"{name}: is missing") for name in REQUIRED),
        (json.dumps({**MEMBERS, "api_key": [CANARY.decode()]}), "api_key: must be text"),
        (json.dumps({**MEMBERS, "secret_key": {"a": CANARY.decode()}}), "secret_key: must be text"),
        (json.dumps({**MEMBERS, "id": CANARY.decode()}), "id: must be a UUID"),
        (json.dumps({**MEMBERS, "id": 7}), "id: must be a UUID"),
        *(
            (json.dumps({**MEMBERS, "is_active": value}), "is_active: must be true or false")
            for value in (None, "", "maybe", 2, CANARY.decode())
        ),
        *(
            (json.dumps({**MEMBERS, "created_at": value}), "created_at: must be a date and time with its offset")
            for value in ("2024-01-01T00:00:00", "yesterday", 5, CANARY.decode())
        ),
    ],
)
async def test_a_line_of_json_that_is_wrong_is_one_refused_row(tmp_path: Path, line: str, problem: str) -> None:
    assert (await problem_of(tmp_path / "old.jsonl", line.encode() + b"\n")).startswith(f"line 1: {problem}")


async def test_the_second_row_of_a_credential_is_refused_whatever_its_keys(tmp_path: Path) -> None:
    one = Legacy()
    same = Legacy(one.user_id, one.account_id)
    same_id = Legacy(id=one.id)
    anonymous = [Legacy(one.user_id, one.account_id, id=None) for _ in range(2)]
    found = await read(json_lines_file(tmp_path, [one, same, same_id, *anonymous, one]))
    told = [row.problem if isinstance(row, UnreadableRow) else None for row in found]
    of_id = "id: an earlier row is of the same id"
    of_account = (
        "id: an earlier row is of the same user, account and type, and has no `id` either;"
        " if this is another credential, give it an `id`"
    )
    assert told == [None, None, of_id, None, of_account, of_id]


async def test_a_row_that_is_wrong_takes_no_id_and_a_wrong_copy_is_told_its_own_fault(tmp_path: Path) -> None:
    def check(row: SourceRow) -> None:
        check_key("api_key", row.api_key)

    for id_given in (str(uuid4()), None):
        good = Legacy("alice", ACCOUNT, id=id_given)
        wrong = Legacy("alice", ACCOUNT, api_key="", id=id_given)
        wrong_at_reading = Legacy("alice", ACCOUNT, id=id_given, more={"is_active": "maybe"})
        rows = [wrong, wrong_at_reading, good, wrong, wrong_at_reading, good]
        found = await read(json_lines_file(tmp_path, rows), check)
        told = [row.problem.split(" an earlier")[0] if isinstance(row, UnreadableRow) else None for row in found]
        faults = ["api_key: must not be empty", "is_active: must be true or false"]
        assert told == [*faults, None, *faults, "id:"]


async def test_a_row_without_an_id_has_the_same_one_in_every_run_and_under_any_name(tmp_path: Path) -> None:
    rows = [Legacy("alice", ACCOUNT, id=None), Legacy("alice", ACCOUNT, "polygon", id=None)]
    first = await read(csv_file(tmp_path, rows, "a.csv"))
    again = await read(json_lines_file(tmp_path, rows, "b.jsonl"))
    ids = [[row.credential_id for row in found if isinstance(row, SourceRow)] for found in (first, again)]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2
    assert str(ids[0][0]) == "43f6ead0-8cbc-5ba6-bef8-babcb9680434"


@pytest.mark.parametrize("kind", ["directory", "pipe", "link", "socket", "absent", "below a file"])
def test_what_is_no_regular_file_is_said_and_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "old.csv"
    told = {
        "directory": "is a directory",
        "pipe": "is a pipe, which can't be read again after a failure; it has to be a file",
        "link": "is a symbolic link; name the file itself",
        "socket": "is no regular file",
        "absent": "is not there",
        "below a file": "is not there",
    }
    match kind:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "link":
            path.symlink_to(private_file(tmp_path / "other", HEADING))
        case "socket":
            os.mknod(path, 0o600 | 0o140000)
        case "below a file":
            path = private_file(path, b"") / "old.csv"
    with pytest.raises(ConfigurationError) as refused, secret_file(path):
        pytest.fail("it was opened")
    assert str(refused.value) == f"FILE: {told[kind]}"


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        (0o600, None),
        (0o400, None),
        (0o640, "FILE: other users of this machine may read it (chmod 600)"),
        (0o604, "FILE: other users of this machine may read it (chmod 600)"),
        (0o620, "FILE: other users of this machine may change it (chmod 600)"),
        (0o666, "FILE: other users of this machine may change it (chmod 600)"),
    ],
)
def test_a_file_that_others_may_read_or_change_is_said(tmp_path: Path, mode: int, told: str | None) -> None:
    path = private_file(tmp_path / "old.csv", b"")
    with secret_file(path) as descriptor:
        path.chmod(mode)
        assert exposure(descriptor) == told


def test_a_file_of_another_user_is_said_whatever_its_mode_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = private_file(tmp_path / "old.csv", b"")
    with secret_file(path) as descriptor:
        if os.geteuid() == 0:
            assert exposure(descriptor) is None
            os.chown(path, 12345, -1)  # root is let in, and so is who owns it
        else:
            monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
        assert exposure(descriptor) == "FILE: it belongs to another user of this machine (chown)"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), max_size=40)), st.integers(1, 64))
def test_lines_are_the_same_however_they_fall_into_the_buffer(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], size: int
) -> None:
    path = private_file(tmp_path_factory.getbasetemp() / "lines", "\n".join(lines).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secret_lines, "MAX_LINE", 200)
        patch.setattr(secret_lines, "_BUFFER", 200 + size)
        with secret_file(path) as descriptor:
            found = list(SecretLines(descriptor))
    wanted = lines if not lines or lines[-1] else lines[:-1]  # what ends in a newline has no line after it
    assert [text for _, text, _ in found] == wanted or (lines and lines[0].startswith("\ufeff"))
    assert [number for number, _, _ in found] == list(range(1, len(found) + 1))


def test_the_buffer_that_a_file_is_read_into_is_wiped_when_its_lines_are_over_or_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[SecretBuffer] = []
    wiped: list[bytes] = []

    class Watched(SecretBuffer):
        def __init__(self, size: int) -> None:
            super().__init__(size)
            made.append(self)

        def wipe(self, used: int | None = None) -> None:
            super().wipe(used)
            wiped.append(bytes(self.view))

    monkeypatch.setattr(secret_lines, "SecretBuffer", Watched)
    path = private_file(tmp_path / "old.csv", HEADING + ROW + ROW)
    with secret_file(path) as descriptor:
        lines = iter(SecretLines(descriptor))
        next(lines)
        assert CANARY in bytes(made[0].view)
        del lines
    with secret_file(path) as descriptor:
        list(SecretLines(descriptor))
    assert len(made) == len(wiped) == 2
    assert not any(any(each) for each in wiped)
