"""What `deploy/` has for Prometheus and Grafana, for tests."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
UNIT_TESTS = ROOT / "deploy" / "prometheus" / "rules_test.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "vault-credentials.json"
_METRIC = re.compile(r"\b(credentials_[a-z_]+|up)\b(?=[\s{\[)(]|$)")


def listed_metrics() -> set[str]:
    """The names in the table of docs/watching.md."""
    rows = re.findall(
        r"^\| (`credentials_[^|]*)\|", (ROOT / "docs" / "watching.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    return {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}


def alerts() -> list[dict[str, Any]]:
    """Each alert's rule."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels, rows left out."""
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Every query, and where it is."""
    for rule in alerts():
        yield f"alert {rule['alert']}", rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"]
    for variable in json.loads(DASHBOARD.read_text(encoding="utf-8"))["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", re.sub(r"^label_values\((.*), \w+\)$", r"\1", variable["query"])


def metrics_in(query: str) -> set[str]:
    """The names of the metrics that a query asks for: what stands in `by (…)` or in quotes is none."""
    bare = re.sub(r'"[^"]*"', '""', query)
    bare = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", " ", bare)
    return set(_METRIC.findall(bare))


def labels_in(query: str) -> set[tuple[str, str]]:
    """The metrics, each with a label that the query asks for by its name."""
    return {
        (name, label)
        for name, braces in re.findall(r"\b(credentials_[a-z_]+)\{([^}]*)\}", query)
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', braces))
    }
