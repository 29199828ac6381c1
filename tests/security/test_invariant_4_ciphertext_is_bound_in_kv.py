"""Invariant 4 at Vault's KV: whoever can write there can destroy a credential, and cannot make it open as another."""

import base64
from collections.abc import Callable
from typing import Any

import pytest

from service.composition import Runtime
from service.errors import CredentialsError
from tests.stored import Stored, kv_append, kv_ciphertext, kv_rewrite, last_event, opened, some_user, store, update
from tests.support import Stack
from tests.written import Connection

KEY = "credentials-alpaca"
Tamper = Callable[[Stack, Stored, Stored], None]
"""Changes KV below the first credential; the second is another one, of the same user or of another."""


def ciphertext(stack: Stack, stored: Stored, version: int | None = None) -> str:
    return kv_ciphertext(stack, stored.path, version or stored.kv_version)


def _put(stack: Stack, stored: Stored, content: Any) -> None:
    """Puts a content where the row's pin finds it."""
    stack.vault("DELETE", f"credentials/metadata/{stored.path}")
    for cas in range(stored.kv_version):
        kv_append(stack, stored.path, content, cas=cas)


def _moved_here(stack: Stack, one: Stored, other: Stored) -> None:
    _put(stack, one, {"ciphertext": ciphertext(stack, other)})


def _swapped(stack: Stack, one: Stored, other: Stored) -> None:
    ours, theirs = ciphertext(stack, one), ciphertext(stack, other)
    _put(stack, one, {"ciphertext": theirs})
    _put(stack, other, {"ciphertext": ours})


def _rolled_back(stack: Stack, one: Stored, _other: Stored) -> None:
    _put(stack, one, {"ciphertext": ciphertext(stack, one, 1)})


def _order_reversed(stack: Stack, one: Stored, _other: Stored) -> None:
    kv_rewrite(stack, one.path, [ciphertext(stack, one, 2), ciphertext(stack, one, 1)])


def _made_by_root(context: bytes) -> Tamper:
    def tamper(stack: Stack, one: Stored, _other: Stored) -> None:
        body = {
            "plaintext": base64.b64encode(b"AKforged\nSKforged").decode(),
            "context": base64.b64encode(context).decode(),
        }
        forged = stack.vault("POST", f"transit/encrypt/{KEY}", body).json()["data"]["ciphertext"]
        _put(stack, one, {"ciphertext": forged})

    return tamper


def _overwritten(content: Any) -> Tamper:
    return lambda stack, one, _other: _put(stack, one, content)


def _edited(edit: Callable[[str], str]) -> Tamper:
    return lambda stack, one, _other: _put(stack, one, {"ciphertext": edit(ciphertext(stack, one))})


def _asked(method: str, where: str) -> Tamper:
    def tamper(stack: Stack, one: Stored, _other: Stored) -> None:
        body = None if method == "DELETE" else {"versions": [one.kv_version]}
        assert stack.vault(method, f"credentials/{where}/{one.path}", body).is_success

    return tamper


TAMPERING: dict[str, tuple[Tamper, str]] = {
    "another credential's, moved here": (_moved_here, "ciphertext_rejected"),
    "swapped with another credential's": (_swapped, "ciphertext_rejected"),
    "rolled back to the secret before": (_rolled_back, "ciphertext_rejected"),
    "both versions, in the other order": (_order_reversed, "ciphertext_rejected"),
    "forged by root under another context": (_made_by_root(b"c" * 144), "ciphertext_rejected"),
    "forged by root under an empty binding": (_made_by_root(bytes(144)), "ciphertext_rejected"),
    "a bit of its tag changed": (
        _edited(lambda text: text[:-6] + ("A" if text[-6] != "A" else "B") + text[-5:]),
        "ciphertext_rejected",
    ),
    "its end cut off": (_edited(lambda text: text[:-8]), "ciphertext_rejected"),
    "said to be under another key version": (_edited(lambda text: text.replace(":v1:", ":v9:")), "reference_mismatch"),
    "not a ciphertext": (_overwritten({"ciphertext": "AKplain"}), "ciphertext_rejected"),
    "a huge text": (_overwritten({"ciphertext": "vault:v1:" + "A" * 100_000}), "ciphertext_rejected"),
    "not a text": (_overwritten({"ciphertext": ["vault:v1:AAAA"]}), "reference_mismatch"),
    "another field": (_overwritten({"api_key": "AKplain"}), "reference_mismatch"),
    "nothing": (_overwritten({}), "reference_mismatch"),
    "destroyed": (_asked("PUT", "destroy"), "ciphertext_gone"),
    "deleted": (_asked("POST", "delete"), "ciphertext_gone"),
    "its metadata deleted": (_asked("DELETE", "metadata"), "ciphertext_gone"),
}


@pytest.mark.parametrize("is_same_user", [True, False], ids=["same-user", "other-user"])
@pytest.mark.parametrize("name", TAMPERING)
async def test_tampering_with_kv_opens_it_for_nobody(
    stack: Stack, runtime: Runtime, owner_conn: Connection, name: str, is_same_user: bool
) -> None:
    one = await update(runtime, await store(runtime))
    other = await update(runtime, await store(runtime, one.user_id if is_same_user else some_user("mallory")))
    tamper, reason = TAMPERING[name]
    tamper(stack, one, other)
    with pytest.raises(CredentialsError):
        await opened(runtime, one.id, one.user_id)
    assert await last_event(owner_conn, one.user_id) == ("failed", reason)
    # Whatever the other credential opens as by now, it is not the first one.
    try:
        got = await opened(runtime, other.id, other.user_id)
    except CredentialsError:
        assert name == "swapped with another credential's"
    else:
        assert got == other.keys


async def test_a_version_written_after_the_pinned_one_changes_nothing(stack: Stack, runtime: Runtime) -> None:
    stored = await store(runtime)
    kv_append(stack, stored.path, {"ciphertext": "vault:v1:AAAA"}, cas=stored.kv_version)
    assert await opened(runtime, stored.id, stored.user_id) == stored.keys
    after = await update(runtime, stored)
    assert await opened(runtime, after.id, after.user_id) == after.keys


async def test_custom_metadata_is_for_people_and_decides_nothing(stack: Stack, runtime: Runtime) -> None:
    stored = await store(runtime)
    lies = {"credential_type": "polygon", "transit_key": "x", "transit_key_version": "9", "secret_version": "9"}
    assert stack.vault("POST", f"credentials/metadata/{stored.path}", {"custom_metadata": lies}).is_success
    assert await opened(runtime, stored.id, stored.user_id) == stored.keys


async def test_what_was_deleted_and_put_back_as_it_was_opens_again(stack: Stack, runtime: Runtime) -> None:
    stored = await store(runtime)
    assert stack.vault("POST", f"credentials/delete/{stored.path}", {"versions": [1]}).is_success
    with pytest.raises(CredentialsError):
        await opened(runtime, stored.id, stored.user_id)
    assert stack.vault("POST", f"credentials/undelete/{stored.path}", {"versions": [1]}).is_success
    assert await opened(runtime, stored.id, stored.user_id) == stored.keys
