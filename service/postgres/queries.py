"""Loads the .sql files once, at import: a name that is not in them fails there, not in production."""

import re
from importlib.resources import files

_HEADING = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load(text: str) -> dict[str, str]:
    """Splits a file of `-- name: x` statements into a dict."""
    parts = _HEADING.split(text)
    return {name: statement.strip() for name, statement in zip(parts[1::2], parts[2::2], strict=True)}


FILES = ("bulk.sql", "controls.sql", "fernet.sql", "queries.sql", "rotation.sql", "seals.sql", "skew.sql", "state.sql")

# The files ship with the code and nothing is ever put into their text.
SQL = load("\n".join((files("service.postgres") / name).read_text() for name in FILES))
