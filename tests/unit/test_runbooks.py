"""The pages in docs/ and the README: every command of ours in them is one that there is."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command

from service.app import create_app
from service.cli import app
from tests.deployed import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
USAGE = typer.BadParameter.__mro__[1]
"""What typer raises for a command line that it can't read; it is not exported by a name."""
PLAIN = ("/healthz", "/readyz", "/metrics", "/openapi.json")
ENDS = {"|", "||", "&&", ";", ">", "2>&1", "<"}


def commands(page: Path) -> Iterator[str]:
    """Every `vault-credentials …` of a page: in consoles, and in backticks unless it is a table's synopsis."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```(?:console|sh)\n(.*?)```", text, re.DOTALL):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            for found in re.findall(r"(?:^\s*\$ (?:\w+=\S+ )*|\$\()(vault-credentials\b[^)]*)", line):
                yield found.strip()
    for found in re.findall(r"(?<!`)`(vault-credentials [^`]+)`(?!`)", text):
        if not re.search(r"[…|\[]", found):
            yield found


def asked(text: str) -> Iterator[tuple[str, str]]:
    """Every request to the service that a page names, as its method and what comes after the host."""
    for method, path in re.findall(r"`(GET|POST|PATCH|PUT|DELETE) (/[^`\s]+)`", text):
        yield method, path
    for block in re.findall(r"```(?:console|sh)\n(.*?)```", text, re.DOTALL):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if found := re.search(r"curl\b.*?\$SERVICE_URL(/[^\s'\"]*)", line):
                method = re.search(r"-X (\w+)", line)
                yield method[1] if method else "POST" if " -d " in line or " --json " in line else "GET", found[1]


def problem_of(method: str, target: str, document: dict[str, Any]) -> str | None:
    """Why the service has no such request; None where it has."""
    path, _, query = target.partition("?")
    path = re.sub(r"\$\w+", "{x}", path)
    for template, operations in document["paths"].items():
        pattern = re.sub(r"\\{path\\}", ".+", re.escape(template))
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", pattern)
        if method.lower() in operations and re.fullmatch(
            pattern, path if path in PLAIN or path[:4] == "/v1/" else f"/v1{path}"
        ):
            there = {each["name"] for each in operations[method.lower()].get("parameters", []) if each["in"] == "query"}
            wrong = set(re.findall(r"([\w-]+)=", query)) - there
            return f"takes no {', '.join(sorted(wrong))}" if wrong and "{path}" not in template else None
    return "there is none"


def parsed(line: str) -> None:
    """Raises what typer raises where the command line is none of ours. Nothing is done."""
    words = shlex.split(line)[1:]
    words = words[: next((at for at, word in enumerate(words) if word in ENDS), len(words))]
    command, name = get_command(app), "vault-credentials"
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        name, *words = words
        found = command.get_command(command.make_context(name, [], resilient_parsing=True), name)
        if found is None:
            raise typer.BadParameter("no such command")
        command = found
    if isinstance(command, TyperGroup) and not words:
        return  # a group, named in a sentence
    command.make_context(name, words)


ALL = [(page.name, line) for page in PAGES for line in commands(page)]


@pytest.mark.parametrize(("page", "line"), ALL, ids=[f"{page}-{line}"[:70] for page, line in ALL])
def test_each_command_in_the_pages_is_one_that_there_is(
    page: str, line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    filled = re.sub(r"\bN\b", "2", line)
    parsed(filled)


def test_the_pages_have_commands() -> None:
    assert len({line for _, line in ALL}) > 30
    assert {page for page, _ in ALL} >= {page.name for page in PAGES if "runbook" in page.name}


@pytest.mark.parametrize(
    "line",
    [
        "vault-credentials keys rotates credentials-alpaca",
        "vault-credentials keys retire credentials-alpaca --under 2",
        "vault-credentials suspensions suspend --user",
        "vault-credentials doctor --fully",
        "vault-credentials keys trim --below 2",
        "vault-credentials sing",
    ],
)
def test_a_command_that_there_is_not_is_noticed(line: str) -> None:
    with pytest.raises(USAGE):
        parsed(line)


REQUESTS = [(page.name, *request) for page in PAGES for request in asked(page.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app().openapi()


@pytest.mark.parametrize(("page", "method", "target"), REQUESTS, ids=[" ".join(each) for each in REQUESTS])
def test_each_request_in_the_pages_is_one_that_there_is(
    page: str, method: str, target: str, document: dict[str, Any]
) -> None:
    assert problem_of(method, target, document) is None


def test_the_pages_have_requests() -> None:
    assert len(REQUESTS) > 20


@pytest.mark.parametrize(
    "text",
    [
        "`GET /v1/events?user_id=alice`",
        "`GET /v1/credentialz`",
        "`PUT /v1/credentials/{id}`",
        "```console\n$ curl -X DELETE $SERVICE_URL/v1/events\n```",
    ],
)
def test_a_request_that_there_is_not_is_noticed(text: str, document: dict[str, Any]) -> None:
    (request,) = asked(text)
    assert problem_of(*request, document) is not None


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_between_the_pages_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [p for p in PAGES if p.name.startswith("runbook")], ids=lambda page: page.name)
def test_a_runbook_says_how_it_begins_and_when_it_is_over(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for part in ("**Signs.**", "**It is over when**"):
        assert text.count(part) == 1


@pytest.mark.parametrize("page", [p for p in PAGES if p.name.startswith("runbook")], ids=lambda page: page.name)
def test_a_runbook_takes_no_version_for_granted_and_shows_no_secret_id(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"--below \d", text)
    for line in re.findall(r"\$ (.*vault write\b.*/secret-id\b(?!-).*)", text):
        assert "-field=secret_id" in line
        assert re.search(r"umask 077;.*>", line)
