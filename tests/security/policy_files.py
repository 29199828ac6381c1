"""The policy files, parsed: the little of HCL that they are written in, and nothing more."""

import re
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "vault-policies"
LOCAL = Path(__file__).parents[2] / "service" / "localstack"

_RULE = re.compile(r'path "([^"]+)" \{\n((?:  .*\n)+)\}\n')
_CAPABILITIES = re.compile(r"  capabilities = \[([^]]*)\]\n")
_PARAMETERS = re.compile(r"  (allowed|denied)_parameters = \{\n((?:    .*\n)+)  \}\n")
_PARAMETER = re.compile(r'    "([^"]+)" *= \[([^]]*)\]\n')


@dataclass(frozen=True)
class Rule:
    """One `path` block."""

    path: str
    capabilities: frozenset[str]
    allowed: dict[str, list[str]] | None = None
    """Parameters with the values that they may have; none listed means any value."""
    denied: dict[str, list[str]] = field(default_factory=dict)

    @property
    def parameters(self) -> frozenset[str] | None:
        """The parameters that may be sent: None stands for any."""
        if self.denied:
            assert self.denied == {"*": []}
            return frozenset()
        return None if self.allowed is None else frozenset(self.allowed)

    def covers(self, path: str) -> bool:
        """Whether a request to this path can be the rule's."""
        pattern = re.escape(self.path.removesuffix("*")).replace(r"\+", "[^/]+")
        return re.fullmatch(pattern + (".*" if self.path.endswith("*") else ""), path) is not None


def roles() -> list[str]:
    """Every role that there is a file for."""
    return sorted(file.stem for file in FOLDER.glob("*.hcl"))


def rules(file: Path) -> list[Rule]:
    """A file's rules. What is written in another way than usual fails here, and is not passed over."""
    found = []
    rest = re.sub(r"^#.*\n|^\n", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    while rest:
        block = _RULE.match(rest)
        assert block is not None, rest[:200]
        rest = rest[block.end() :]
        body = block[2]
        given = _CAPABILITIES.match(body)
        assert given is not None, body
        body = body[given.end() :]
        parameters: dict[str, dict[str, list[str]]] = {}
        while body:
            listed = _PARAMETERS.match(body)
            assert listed is not None, body
            body = body[listed.end() :]
            assert _PARAMETER.sub("", listed[2]) == "", listed[2]
            parameters[listed[1]] = {name: _words(values) for name, values in _PARAMETER.findall(listed[2])}
        rule = Rule(block[1], frozenset(_words(given[1])), parameters.get("allowed"), parameters.get("denied", {}))
        found.append(rule)
    assert len({rule.path for rule in found}) == len(found), "a path is written twice"
    return found


def _words(listed: str) -> list[str]:
    return re.findall(r'"([^"]*)"', listed)
