"""Invariant 8 at Vault, cell by cell: each role may do what `policy_grid` says at each kind of path, and nothing else.

A refusal is 403: what is refused for another reason (404, 400) would be allowed on another day.
"""

from typing import Any

import httpx
import pytest

from tests.security import policy_files
from tests.security.policy_grid import CONTEXT, GRID, METHODS, PLAINTEXT, ROLES, Row
from tests.security.policy_vault import PolicyVault

CAPABILITIES = {
    "GET": {"read"},
    "LIST": {"list"},
    "PATCH": {"patch"},
    "POST": {"create", "update"},
    "DELETE": {"delete"},
}
NOT_MADE_FOR_THIS = {httpx.codes.METHOD_NOT_ALLOWED, httpx.codes.NOT_FOUND}


def filled(vault: PolicyVault, row: Row) -> tuple[str, Any]:
    """The row's path and body, about things that are there to be used (or, where it says so, are not)."""
    names = {"absent": "no-account/no-credential"}
    if "{credential}" in row.path or "{account}" in row.path:
        names["credential"] = vault.credential()
        names["account"] = names["credential"].partition("/")[0]
    path = row.path.format(**names)
    return path, with_values(vault, path.rpartition("/")[2], row.body)


def with_values(vault: PolicyVault, key: str, body: Any) -> Any:
    if isinstance(body, dict):
        return {name: with_values(vault, key, value) for name, value in body.items()}
    if isinstance(body, list):
        return [with_values(vault, key, value) for value in body]
    if body == "{ciphertext}":
        sealed = {"plaintext": PLAINTEXT, "context": CONTEXT}
        return vault.root.data("POST", f"transit/encrypt/{key}", sealed)["ciphertext"]
    if body == "{hmac}":
        return vault.root.data("POST", f"transit/hmac/{key}", {"input": PLAINTEXT})["hmac"]
    return body


@pytest.mark.parametrize("row", GRID, ids=map(str, GRID))
def test_invariant_8_each_role_may_do_this_and_nothing_else(vault: PolicyVault, row: Row) -> None:
    wrong = []
    for role in ROLES:
        path, body = filled(vault, row)
        for method in METHODS:
            status = vault.ask(role, method, path, body if method in ("POST", "PATCH") else None).status_code
            if row.allows(role, method):
                as_written = httpx.codes.is_success(status) or (method != "POST" and status in NOT_MADE_FOR_THIS)
            elif row.asks_no_policy:
                as_written = status in {httpx.codes.FORBIDDEN, *NOT_MADE_FOR_THIS}
            else:
                as_written = status == httpx.codes.FORBIDDEN
            if not as_written:
                wrong.append(f"{status} to {method} {path} by {role}")
        if path == "auth/token/revoke-self":
            vault.forget(role)
        if "{absent}" in row.path:
            vault.ask("root", "DELETE", path.replace("/data/", "/metadata/"))
    assert not wrong


def test_every_role_that_has_a_file_has_a_column() -> None:
    assert sorted(ROLES) == policy_files.roles()
    assert {role for row in GRID for role in row.may} == set(ROLES)


@pytest.mark.parametrize("role", ROLES)
def test_everything_that_a_policy_grants_is_in_the_grid(role: str) -> None:
    for rule in policy_files.rules(policy_files.FOLDER / f"{role}.hcl"):
        granted = rule.capabilities - {"deny"}
        rows = [row for row in GRID if rule.covers(example_of(row.path, rule.path))]
        assert rows, f"no row is about {rule.path}"
        used = {each for row in rows for method in METHODS if row.allows(role, method) for each in CAPABILITIES[method]}
        assert granted <= used, f"no row needs {granted - used} on {rule.path}"


def example_of(path: str, rule: str) -> str:
    example = path.format(credential="account/credential", account="account", absent="account/absent")
    return f"{example}/" if rule.endswith("/") else example


def test_what_is_refused_is_there_to_be_refused(vault: PolicyVault) -> None:
    """The refusals would also be green on a Vault where nothing exists: root is answered at the same paths."""
    for path in sorted({row.path for row in GRID}):
        answer = vault.ask("root", "GET", filled(vault, Row(path))[0])
        assert answer.status_code != httpx.codes.FORBIDDEN, path
