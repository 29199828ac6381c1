"""Invariant 8 at Vault, from the other side: each role does its work with its own token, and goes no further with it.

The policies are asked as they are used; `test_vault_policies_grid` has every path.
"""

from base64 import b64encode
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from service.localstack import vault_tokens
from service.localstack.policies import VaultNames
from tests.security.policy_grid import CONTEXT, PLAINTEXT
from tests.security.policy_vault import PolicyVault
from tests.support import Stack

KEY = "credentials-polygon"


def done(answer: httpx.Response) -> dict[str, Any]:
    """What Vault answered, which must be a success."""
    assert answer.is_success, f"{answer.status_code} to {answer.request.method} {answer.request.url.path}"
    return dict(answer.json().get("data") or {}) if answer.content else {}


def newest(vault: PolicyVault) -> int:
    return int(done(vault.ask("rotator", "GET", f"transit/keys/{KEY}"))["latest_version"])


@pytest.fixture
def nothing_retired(vault: PolicyVault) -> Iterator[None]:
    """The key as new: nothing retired yet, though perhaps trimmed."""
    yield
    available = int(vault.root.data("GET", f"transit/keys/{KEY}").get("min_available_version") or 1)
    body = {"min_decryption_version": max(1, available), "min_encryption_version": max(1, available)}
    vault.root.call("POST", f"transit/keys/{KEY}/config", body)


@pytest.mark.usefixtures("nothing_retired")
def test_the_rotator_rotates_rewraps_and_retires_without_ever_seeing_a_plaintext(vault: PolicyVault) -> None:
    path, sealed = f"{uuid4()}/{uuid4()}", {"plaintext": PLAINTEXT, "context": CONTEXT}
    old = done(vault.ask("runtime", "POST", f"transit/encrypt/{KEY}", sealed))["ciphertext"]
    body: dict[str, Any] = {"data": {"ciphertext": old}, "options": {"cas": 0}}
    done(vault.ask("runtime", "POST", f"credentials/data/{path}", body))

    done(vault.ask("rotator", "POST", f"transit/keys/{KEY}/rotate"))
    version = newest(vault)
    read = done(vault.ask("rotator", "GET", f"credentials/data/{path}?version=1"))["data"]["ciphertext"]
    batch = {"batch_input": [{"ciphertext": read, "context": CONTEXT}], "partial_failure_response_code": 200}
    rewrapped = done(vault.ask("rotator", "POST", f"transit/rewrap/{KEY}", batch))["batch_results"][0]["ciphertext"]
    assert rewrapped.startswith(f"vault:v{version}:")
    body = {"data": {"ciphertext": rewrapped}, "options": {"cas": 1}}
    assert done(vault.ask("rotator", "POST", f"credentials/data/{path}", body))["version"] == 2
    annotated = {"custom_metadata": {"transit_key_version": str(version)}}
    done(vault.ask("rotator", "POST", f"credentials/metadata/{path}", annotated))
    assert done(vault.ask("rotator", "GET", f"credentials/metadata/{path}"))["current_version"] == 2
    for role in ("rotator", "operator", "auditor"):
        item = {"ciphertext": rewrapped, "context": CONTEXT}
        assert vault.ask(role, "POST", f"transit/decrypt/{KEY}", item).status_code == httpx.codes.FORBIDDEN
    vault.root.call("POST", f"transit/keys/{KEY}/config", {"min_encryption_version": 0})
    done(vault.ask("rotator", "POST", f"transit/keys/{KEY}/config", {"min_decryption_version": version}))

    opened = vault.ask("runtime", "POST", f"transit/decrypt/{KEY}", {"ciphertext": rewrapped, "context": CONTEXT})
    assert done(opened)["plaintext"] == PLAINTEXT
    refused = vault.ask("runtime", "POST", f"transit/decrypt/{KEY}", {"ciphertext": old, "context": CONTEXT})
    assert refused.status_code == httpx.codes.BAD_REQUEST


def test_the_rotator_does_not_bring_back_a_path_that_was_deleted(vault: PolicyVault) -> None:
    path = vault.credential()
    body: dict[str, Any] = {"data": {"ciphertext": "vault:v1:x"}, "options": {"cas": 3}}
    done(vault.ask("rotator", "POST", f"credentials/data/{path}", body))
    done(vault.ask("runtime", "DELETE", f"credentials/metadata/{path}"))
    body["options"] = {"cas": 0}
    for where, what in ((f"credentials/data/{path}", body), (f"credentials/metadata/{path}", {"custom_metadata": {}})):
        assert vault.ask("rotator", "POST", where, what).status_code == httpx.codes.FORBIDDEN
    assert vault.ask("root", "GET", f"credentials/metadata/{path}").status_code == httpx.codes.NOT_FOUND


def test_the_rotator_seals_and_writes_the_anchor_from_the_first_one_on(vault: PolicyVault) -> None:
    vault.root.call("DELETE", "credentials/metadata/event-seal")
    seal = b64encode(b"a seal over events").decode()
    signature = done(vault.ask("rotator", "POST", "transit/sign/credentials-events", {"input": seal}))["signature"]
    for cas in (0, 1):
        body = {"data": {"number": str(cas + 1)}, "options": {"cas": cas}}
        assert done(vault.ask("rotator", "POST", "credentials/data/event-seal", body))["version"] == cas + 1
    for role in ("runtime", "rotator", "auditor"):
        assert done(vault.ask(role, "GET", "credentials/data/event-seal"))["data"] == {"number": "2"}
    assert vault.ask("operator", "GET", "credentials/data/event-seal").status_code == httpx.codes.FORBIDDEN
    # Whoever may read the key has its public half, which is all that checking a signature takes.
    assert done(vault.ask("auditor", "GET", "transit/keys/credentials-events"))["keys"]["1"]["public_key"]
    assert signature.startswith("vault:v1:")


@pytest.mark.usefixtures("nothing_retired")
def test_the_operator_rotates_and_trims_what_is_retired_and_nothing_else(vault: PolicyVault) -> None:
    keys = f"transit/keys/{KEY}"
    done(vault.ask("operator", "POST", f"{keys}/rotate"))
    version = newest(vault)
    done(vault.ask("operator", "POST", f"{keys}/config", {"auto_rotate_period": "2160h"}))
    assert done(vault.ask("auditor", "GET", keys))["auto_rotate_period"] == 2160 * 3600
    done(vault.ask("operator", "POST", f"{keys}/config", {"min_encryption_version": version}))
    # Not retired yet: Vault refuses to throw its versions away.
    trim = {"min_available_version": version}
    assert vault.ask("operator", "POST", f"{keys}/trim", trim).status_code == httpx.codes.BAD_REQUEST
    body = {"min_decryption_version": version}
    assert vault.ask("operator", "POST", f"{keys}/config", body).status_code == httpx.codes.FORBIDDEN
    done(vault.ask("rotator", "POST", f"{keys}/config", body))
    assert vault.ask("rotator", "POST", f"{keys}/trim", trim).status_code == httpx.codes.FORBIDDEN
    done(vault.ask("operator", "POST", f"{keys}/trim", trim))
    assert list(done(vault.ask("operator", "GET", keys))["keys"]) == [str(version)]


@pytest.mark.usefixtures("nothing_retired")
def test_a_min_encryption_version_below_what_is_retired_makes_vault_refuse_to_retire(vault: PolicyVault) -> None:
    """Vault's own rule, which the README tells operators: once versions were trimmed it can't be 0 again either."""
    keys = f"transit/keys/{KEY}"
    before = newest(vault)
    done(vault.ask("operator", "POST", f"{keys}/config", {"min_encryption_version": before}))
    done(vault.ask("rotator", "POST", f"{keys}/rotate"))
    retire = {"min_decryption_version": before + 1}
    assert vault.ask("rotator", "POST", f"{keys}/config", retire).status_code == httpx.codes.BAD_REQUEST
    done(vault.ask("operator", "POST", f"{keys}/config", {"min_encryption_version": before + 1}))
    done(vault.ask("rotator", "POST", f"{keys}/config", retire))


# --- the Vault UI ----------------------------------------------------------------------------------------------------

# What the UI of Vault 1.21.2 asked, by its network log and Vault's audit log, for the pages in the first column.
UI_CALLS: list[tuple[str, str, str, Any]] = [
    ("login", "GET", "auth/token/lookup-self", None),
    ("login", "GET", "sys/internal/ui/mounts", None),
    ("login", "GET", "sys/internal/ui/resultant-acl", None),
    ("transit/list", "GET", "sys/internal/ui/mounts/transit", None),
    ("transit/list", "GET", "transit/keys/?list=true", None),
    ("transit/list", "POST", "sys/capabilities-self", {"paths": ["transit/keys/credentials-alpaca"]}),
    ("transit/show/credentials-alpaca?tab=details", "GET", "transit/keys/credentials-alpaca", None),
    ("transit/show/credentials-alpaca?tab=versions", "GET", "transit/keys/credentials-alpaca", None),
    (
        "transit/show/credentials-alpaca?tab=versions",
        "POST",
        "sys/capabilities-self",
        {"paths": ["transit/keys/credentials-alpaca/rotate"]},
    ),
    ("credentials/kv/list", "GET", "sys/internal/ui/mounts/credentials", None),
    ("credentials/kv/list", "GET", "credentials/metadata/?list=true", None),
    ("credentials/kv/list", "POST", "sys/capabilities-self", {"paths": ["credentials/metadata/"]}),
    ("credentials/kv/list/{account}/", "GET", "credentials/metadata/{account}/?list=true", None),
    ("credentials/kv/list/{account}/", "POST", "sys/capabilities-self", {"paths": ["credentials/metadata/{account}/"]}),
    (
        "credentials/kv/{account}%2F{id}/metadata",
        "POST",
        "sys/capabilities-self",
        {
            "paths": [
                "credentials/metadata/{account}/{id}",
                "credentials/data/{account}/{id}",
                "credentials/subkeys/{account}/{id}",
                "credentials/delete/{account}/{id}",
                "credentials/undelete/{account}/{id}",
            ]
        },
    ),
    ("credentials/kv/{account}%2F{id}/metadata", "GET", "credentials/metadata/{account}%2F{id}", None),
    ("credentials/kv/{account}%2F{id}/metadata/versions", "GET", "credentials/metadata/{account}%2F{id}", None),
]
AUDITORS_CALLS: list[tuple[str, str, str, Any]] = [
    ("credentials/kv/configuration", "GET", "credentials/config", None),
    ("policy/acl/credentials-rotator", "GET", "sys/policies/acl/credentials-rotator", None),
    (
        "policy/acl/credentials-rotator",
        "POST",
        "sys/capabilities-self",
        {"paths": ["sys/policies/acl/credentials-rotator"]},
    ),
]


@pytest.mark.parametrize("role", ["auditor", "operator"])
def test_the_vault_uis_calls_for_the_pages_of_keys_and_metadata_are_answered(vault: PolicyVault, role: str) -> None:
    account, _, credential = vault.credential().partition("/")
    for page, method, path, asked in UI_CALLS + (AUDITORS_CALLS if role == "auditor" else []):
        names = {"account": account, "id": credential}
        body = asked and {"paths": [each.format(**names) for each in asked["paths"]]}
        answer = vault.ask(role, method, path.format(**names), body)
        assert answer.is_success, f"{answer.status_code} to {method} {path} for {page}"


def test_the_vault_ui_shows_an_auditor_key_and_version_of_a_credential_and_not_its_data(vault: PolicyVault) -> None:
    path = vault.credential()
    encoded = path.replace("/", "%2F")
    metadata = done(vault.ask("auditor", "GET", f"credentials/metadata/{encoded}"))
    assert metadata["custom_metadata"] == {"transit_key_version": "1"}
    assert list(metadata["versions"]) == ["1", "2", "3"]
    for where in (f"data/{encoded}", f"data/{encoded}?version=1", f"subkeys/{encoded}"):
        assert vault.ask("auditor", "GET", f"credentials/{where}").status_code == httpx.codes.FORBIDDEN


@pytest.mark.parametrize(("role", "rotates"), [("auditor", ["read"]), ("operator", ["update"])])
def test_the_vault_ui_offers_to_rotate_to_an_operator_alone_and_to_change_settings_to_nobody(
    vault: PolicyVault, role: str, rotates: list[str]
) -> None:
    """It draws its buttons by these answers."""
    rotate, key = "transit/keys/credentials-alpaca/rotate", "transit/keys/credentials-alpaca"
    data, metadata = (f"credentials/{each}/{vault.credential()}" for each in ("data", "metadata"))
    able = vault.ask(role, "POST", "sys/capabilities-self", {"paths": [rotate, key, data, metadata]}).json()
    assert [able[each] for each in (rotate, key, data, metadata)] == [rotates, ["read"], ["deny"], ["read"]]


@pytest.mark.parametrize("role", ["auditor", "operator"])
def test_the_vault_ui_hears_of_no_mount_but_this_services(vault: PolicyVault, role: str) -> None:
    mounts = vault.ask(role, "GET", "sys/internal/ui/mounts").json()["data"]
    assert {"transit/", "credentials/"} <= set(mounts["secret"])
    assert not {each for each in mounts["secret"] if each.startswith("other-")}


# --- on the local stack ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["operator", "auditor"])
def test_the_local_stack_gives_a_person_a_token_with_the_roles_policy_and_no_other(stack: Stack, role: str) -> None:
    with stack.local.vault.admin() as root, root.with_token(stack.minting_token) as minting:
        token = vault_tokens.mint(minting, role, "carol")
    seen = stack.vault("GET", "auth/token/lookup-self", token=token).json()["data"]
    assert seen["policies"] == [getattr(VaultNames(), role)]
    assert seen["entity_id"] == ""  # nobody's groups add to it
    assert seen["display_name"] == f"token-{role}-carol"
    assert 0 < seen["ttl"] <= 8 * 3600
    assert seen["orphan"]
    assert not seen["renewable"]


def test_the_rotators_token_has_its_own_policy_and_no_other(stack: Stack) -> None:
    seen = stack.vault("GET", "auth/token/lookup-self", token=stack.rotator_token()).json()["data"]
    assert seen["policies"] == ["credentials-rotator"]
    assert seen["ttl"] <= 3600
    assert seen["renewable"]


def test_the_runtime_hands_off_and_does_not_unwrap_itself(vault: PolicyVault) -> None:
    sealed = done(vault.ask("runtime", "POST", f"transit/encrypt/{KEY}", {"plaintext": PLAINTEXT, "context": CONTEXT}))
    item = {"ciphertext": sealed["ciphertext"], "context": CONTEXT}
    for role in ("rotator", "operator", "auditor"):
        refused = vault.ask(role, "POST", f"transit/decrypt/{KEY}", item, wrap="30s")
        assert refused.status_code == httpx.codes.FORBIDDEN
    wrapped = vault.ask("runtime", "POST", f"transit/decrypt/{KEY}", item, wrap="300s").json()
    assert (wrapped["data"], wrapped["wrap_info"]["ttl"]) == (None, 300)
    token = wrapped["wrap_info"]["token"]
    for role in ("runtime", "rotator", "operator", "auditor"):
        refused = vault.ask(role, "POST", "sys/wrapping/unwrap", {"token": token})
        assert refused.status_code == httpx.codes.FORBIDDEN
    with vault.root.with_token(token) as holder:
        assert done(holder.raw("POST", "sys/wrapping/unwrap"))["plaintext"] == PLAINTEXT


def test_a_bound_on_wrapping_in_the_policy_would_refuse_what_is_not_wrapped(vault: PolicyVault) -> None:
    """Which is why there is none: opens would be denied."""
    path = f"transit/decrypt/{KEY}"
    policy = f'path "{path}" {{ capabilities = ["update"] max_wrapping_ttl = "300s" }}'
    vault.root.call("POST", "sys/policies/acl/bounded", {"policy": policy})
    body = {"policies": ["bounded"], "no_default_policy": True, "ttl": "10m"}
    token = vault.root.call("POST", "auth/token/create-orphan", body)["auth"]["client_token"]
    sealed = done(vault.ask("runtime", "POST", f"transit/encrypt/{KEY}", {"plaintext": PLAINTEXT, "context": CONTEXT}))
    item = {"ciphertext": sealed["ciphertext"], "context": CONTEXT}
    with vault.root.with_token(token) as bounded:
        assert bounded.raw("POST", path, item).status_code == httpx.codes.FORBIDDEN
        assert bounded.raw("POST", path, item, headers={"X-Vault-Wrap-TTL": "30s"}).is_success
        assert (
            bounded.raw("POST", path, item, headers={"X-Vault-Wrap-TTL": "301s"}).status_code == httpx.codes.FORBIDDEN
        )
