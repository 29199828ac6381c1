"""What each role may call through the proxy, by setting: on top of what a provider's own table lets anybody call."""

from collections.abc import Mapping, Sequence
from typing import Any

from service.errors import ProxyRefused


class ProxyRules:
    """`METHOD /path` rules by role.

    A `*` stands for any method, or for any characters of a path, slashes too. A rule for GET is one for HEAD. A role
    that has no list may call anything; one whose list is empty, nothing.
    """

    def __init__(self, allow: Mapping[Any, Sequence[str]]) -> None:
        """By role's name, as `UseSettings.proxy_allow`."""
        self._allow = {role: tuple(_rule(each) for each in rules) for role, rules in allow.items()}

    def check(self, role: str, method: str, path: str) -> None:
        """Raises ProxyRefused where the role has rules and none of them fits. `path` has been normalised."""
        rules = self._allow.get(role)
        if rules is None:
            return
        asked = "GET" if method == "HEAD" else method
        if not any(known in ("*", asked, method) and _fits(parts, path) for known, parts in rules):
            raise ProxyRefused


def _rule(rule: str) -> tuple[str, list[str]]:
    """The method, and what stands between the path's stars."""
    method, _, path = rule.partition(" ")
    return method, path.split("*")


def _fits(parts: Sequence[str], path: str) -> bool:
    """Whether the parts are in the path, in order, from its beginning to its end. No way is tried twice, so that no
    rule, with however many stars, takes long.
    """
    first, *between = parts
    if not between:
        return path == first
    last = between.pop()
    end = len(path) - len(last)
    at = len(first)
    if at > end or not path.startswith(first) or not path.endswith(last):
        return False
    for part in between:
        found = path.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
