"""What each role may call through the proxy, by setting: on top of what a provider's own table lets anybody call."""

import re
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
        if not any(known in ("*", asked, method) and pattern.fullmatch(path) for known, pattern in rules):
            raise ProxyRefused


def _rule(rule: str) -> tuple[str, re.Pattern[str]]:
    method, _, path = rule.partition(" ")
    return method, re.compile(".*".join(re.escape(part) for part in path.split("*")))
