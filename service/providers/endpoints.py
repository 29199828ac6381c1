"""Which calls may be made to a provider: the methods and paths that its documentation lists, and nothing else."""

import re
import unicodedata
from typing import Generic, TypeVar
from urllib.parse import unquote

from service.errors import InvalidInput, ProxyRefused

_Host = TypeVar("_Host")

# Tickers ("BRK.B", "O:SPY251219C00650000"), ids, dates, names. It begins with a letter or a digit, so that `.` and `..`
# are none; there is no `%` in it, so that nothing is decoded into something else on the way.
_PARAMETER = "[A-Za-z0-9][A-Za-z0-9._:-]{0,63}"


class Endpoints(Generic[_Host]):
    """A table of a provider's endpoints, each with the host that has it.

    Guarantees: a call is found if a line has its method and all of its path, a path parameter being one segment of
    letters, digits, `.`, `_`, `:` and `-`; else it is refused. HEAD may be sent wherever GET may. Does not: look at
    the query, or decode anything.
    """

    def __init__(self, tables: dict[_Host, str]) -> None:
        """`tables`: for each host a text of one endpoint a line, `METHOD METHOD… /path/{parameter}`."""
        paths: dict[tuple[str, _Host], list[str]] = {}
        for host, table in tables.items():
            for line in table.strip().splitlines():
                *methods, path = line.split()
                for method in (*methods, "HEAD") if "GET" in methods else methods:
                    paths.setdefault((method, host), []).append(_pattern(path))
        self._patterns: dict[str, list[tuple[re.Pattern[str], _Host]]] = {}
        for (method, host), listed in paths.items():
            self._patterns.setdefault(method, []).append((re.compile("|".join(listed)), host))

    def host(self, method: str, path: str) -> _Host:
        """Which host has this endpoint.

        Raises:
            ProxyRefused: none has.
        """
        for pattern, host in self._patterns.get(method, ()):
            if pattern.fullmatch(path):
                return host
        raise ProxyRefused


def _pattern(path: str) -> str:
    return "/".join(_PARAMETER if segment.startswith("{") else re.escape(segment) for segment in path.split("/"))


def names_in_query(query: str) -> set[str]:
    """The names of a raw query's parameters, as anyone might read them: decoded, and only their letters and digits,
    in lower case. So `api%4bey`, `API_KEY` and `apiKey%00` are all `apikey`, whatever the provider makes of them.

    Raises:
        InvalidInput: a name holds an escape once it has been decoded, so that it is read one way or another.
    """
    names = set()
    for parameter in re.split("[&;]", query):
        name = unquote(parameter.partition("=")[0])
        if unquote(name) != name:
            raise InvalidInput("query", "must have no name that is escaped twice")
        folded = unicodedata.normalize("NFKC", name).casefold()
        names.add("".join(character for character in folded if character.isalnum()))
    return names
