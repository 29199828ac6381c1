"""The `.sql` files: every statement that code asks for is there, once, used, and nothing else is SQL."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.postgres.queries import FILES, SQL, load

SERVICE = Path(__file__).parents[2] / "service"
TEXT = "\n".join((SERVICE / "postgres" / name).read_text() for name in FILES)
_STATEMENT = re.compile(
    r"^\s*(SELECT\s.+\sFROM|INSERT\s+INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|WITH\s+\w+\s+AS)\s", re.I
)


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(SERVICE.rglob("*.py")):
        yield path, ast.parse(path.read_text())


def used_names() -> Iterator[tuple[str, str]]:
    """Every `SQL["name"]`, and where; an index that is no literal fails."""
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "SQL":
                assert isinstance(node.slice, ast.Constant), f"{path}:{node.lineno}: not a literal name"
                yield str(node.slice.value), f"{path.relative_to(SERVICE)}:{node.lineno}"


def test_every_statement_that_code_asks_for_exists() -> None:
    used = list(used_names())
    assert len(used) > 20
    assert [place for name, place in used if name not in SQL] == []


def test_every_statement_is_asked_for_somewhere() -> None:
    assert set(SQL) - {name for name, _place in used_names()} == set()


def test_no_name_is_given_twice() -> None:
    names = re.findall(r"^-- name: (\w+)$", TEXT, re.MULTILINE)
    assert sorted(names) == sorted(SQL)


def test_each_name_has_one_statement() -> None:
    for name, text in SQL.items():
        without_comments = re.sub(r"--.*$", "", text, flags=re.MULTILINE).strip()
        assert without_comments.endswith(";"), name
        assert without_comments.count(";") == 1, name


def test_no_statement_leaves_anything_on_its_connection() -> None:
    """The pool's connections are not reset between uses. The migrations' one connection is closed, lock and all."""
    lasting = re.compile(r"\A\s*SET\s(?!LOCAL\b)|LISTEN|DECLARE|TEMP|PREPARE|advisory(?!_xact)")
    leaving = {name for name, text in SQL.items() if lasting.search(re.sub(r"--.*$", "", text, flags=re.MULTILINE))}
    assert leaving == {"hold_migration_lock", "wait_briefly_for_tables"}
    configs = re.findall(r"set_config\([^)]*\)", TEXT)
    assert configs
    assert all(each.endswith(", true)") for each in configs)  # until the transaction's end


def test_a_name_that_does_not_exist_fails_at_once() -> None:
    with pytest.raises(KeyError):
        SQL["no_such_statement"]


def test_loading_splits_at_the_headings_alone() -> None:
    text = "-- a preface\n\n-- name: one\n-- why: because\nSELECT 1;\n\n-- name: two\nSELECT '-- name: no';\n"
    assert load(text) == {"one": "-- why: because\nSELECT 1;", "two": "SELECT '-- name: no';"}


def test_no_statement_is_written_anywhere_else() -> None:
    found = [
        f"{path.relative_to(SERVICE)}:{node.lineno}"
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _STATEMENT.match(node.value)
    ]
    assert found == []


def test_events_are_only_ever_added_and_read() -> None:
    for name, text in SQL.items():
        assert not re.search(r"\b(UPDATE|DELETE FROM|TRUNCATE)\s+credential_events", text), name
