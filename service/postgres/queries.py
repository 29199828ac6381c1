"""Loads `queries.sql` once, at import: a name that is not in the file fails there, not in production."""

import re
from importlib.resources import files

_HEADING = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load(text: str) -> dict[str, str]:
    """Splits a file of `-- name: x` statements into a dict."""
    parts = _HEADING.split(text)
    return {name: statement.strip() for name, statement in zip(parts[1::2], parts[2::2], strict=True)}


# The file ships with the code and nothing is ever put into its text.
SQL = load((files("service.postgres") / "queries.sql").read_text())
