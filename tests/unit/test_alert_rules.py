"""The alert rules and the dashboard as files: whole, tested, and each alert says what to do."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deployed import DASHBOARD, ROOT, RULES, UNIT_TESTS, alerts, metrics_in, panels, queries

ALERTS = [rule["alert"] for rule in alerts()]


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("there is no promtool on PATH, so the rules are not evaluated (Debian has it in `prometheus`)")
    return found


def test_promtool_takes_the_rules(promtool: str) -> None:
    done = subprocess.run([promtool, "check", "rules", str(RULES)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(ALERTS)} rules found" in done.stdout


def test_each_alert_fires_where_it_should_and_is_quiet_where_all_is_well(promtool: str) -> None:
    done = subprocess.run(
        [promtool, "test", "rules", UNIT_TESTS.name], cwd=UNIT_TESTS.parent, capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_seen_firing_in_the_rules_own_tests() -> None:
    tests = yaml.safe_load(UNIT_TESTS.read_text(encoding="utf-8"))["tests"]
    firing = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert firing == set(ALERTS)
    assert len(ALERTS) == len(set(ALERTS)) > 15


@pytest.mark.parametrize("rule", alerts(), ids=ALERTS)
def test_each_alert_has_a_runbook_that_names_it(rule: dict[str, dict[str, str]]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    runbook = ROOT / rule["annotations"]["runbook_url"]
    assert runbook.is_file()
    assert f"`{rule['alert']}`" in runbook.read_text(encoding="utf-8")


def test_runbooks_name_no_alert_that_there_is_not() -> None:
    named = {
        (page.name, name)
        for page in (ROOT / "docs").glob("*.md")
        for name in re.findall(r"`(Credentials[A-Z]\w+)`", page.read_text(encoding="utf-8"))
    }
    errors = {name for _, name in named if name.endswith(("Client", "Error"))}
    assert {name for _, name in named} - set(ALERTS) - errors == set()


def test_alerts_show_no_label_that_could_name_somebody() -> None:
    shown = {label for rule in alerts() for label in re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))}
    assert shown <= {"operation", "check", "reason", "key", "use", "provider"}


def test_the_dashboard_is_one_that_grafana_can_lay_out() -> None:
    whole = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert (whole["uid"], whole["title"]) == ("vault-credentials", "vault-credentials")
    ids = [panel["id"] for panel in whole["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in whole["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, panel["title"]
        taken |= cells
    for panel in panels():
        assert panel["targets"], panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs)), panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"


def test_each_query_asks_for_something_and_its_brackets_close() -> None:
    for place, query in queries():
        assert metrics_in(query), place
        for opening, closing in ("()", "{}", "[]"):
            assert query.count(opening) == query.count(closing), place


def test_the_files_are_where_the_readme_says() -> None:
    readme = Path(ROOT / "README.md").read_text(encoding="utf-8")
    for file in (RULES, DASHBOARD):
        assert str(file.relative_to(ROOT)) in readme
