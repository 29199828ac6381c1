"""What answers in Vault's place is not believed, and never asked twice to unwrap."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from service.client import VaultOptions, tls_context
from service.client.unwrapping import HandOff, Unwrapper
from service.errors import (
    CredentialsError,
    HandOffAlreadyUsed,
    HandOffMisdirected,
    HandOffUnreadable,
    VaultDenied,
    VaultUnavailable,
)
from service.memory.plaintext import Plaintext
from tests.doubles.raw_server import (
    RawServer,
    Script,
    answer,
    sends,
    sends_and_closes,
    sends_and_resets,
    sends_and_stalls,
)
from tests.shown import shown_by_reporters
from tests.support import canary

PATH = "transit/decrypt/credentials-alpaca"
TLS = tls_context()
GONE = answer(b'{"errors":["wrapping token is not valid or does not exist"]}', status="400 Bad Request")


def looked_up(**changes: Any) -> bytes:
    told = {"creation_path": PATH, "creation_time": "2026-01-01T00:00:00Z", "creation_ttl": 30} | changes
    return answer(json.dumps({"data": told}).encode())


WRAPPED = answer(b'{"data":{"plaintext":"UEtFWEFNUExFCnNlY3JldA=="}}')


@pytest.fixture
async def vault() -> AsyncIterator[RawServer]:
    async with RawServer(sends(GONE)) as server:
        yield server


async def unwrapped(vault: RawServer, token: str = "hvs.token", **options: Any) -> bytes:  # noqa: S107 - it is nobody's
    handoff = HandOff(
        handoff_id=str(uuid4()),
        token=Plaintext.copy_of(token),
        creation_path=PATH,
        vault_addr=vault.url,
        vault_namespace=None,
        credential_type="alpaca",
    )
    unwrapper = Unwrapper(VaultOptions(tls=TLS, **{"timeout": 5.0} | options))
    try:
        with await unwrapper.unwrap(handoff, asked_at=time.monotonic(), ttl=30) as pair:
            return bytes(pair.reveal())
    finally:
        unwrapper.close()


async def test_the_token_is_looked_up_in_the_body_and_then_unwrapped_by_the_header_on_one_connection(
    vault: RawServer,
) -> None:
    vault.scripts.extend([sends(looked_up()), sends(WRAPPED)])
    assert await unwrapped(vault, "hvs.CAES_x-1") == b"PKEXAMPLE\nsecret"
    lookup, unwrap = vault.requests
    assert lookup.connection == unwrap.connection == 1
    assert lookup.head.startswith("POST /v1/sys/wrapping/lookup HTTP/1.1\r\n")
    assert json.loads(lookup.body) == {"token": "hvs.CAES_x-1"}
    assert "x-vault-token" not in lookup.head.lower()
    assert unwrap.head.startswith("POST /v1/sys/wrapping/unwrap HTTP/1.1\r\n")
    assert "X-Vault-Token: hvs.CAES_x-1\r\n" in unwrap.head
    assert unwrap.body == b""


async def test_a_namespace_is_named_in_both_requests(vault: RawServer) -> None:
    vault.scripts.extend([sends(looked_up()), sends(WRAPPED)])
    await unwrapped(vault, namespace="team/a")
    assert all("X-Vault-Namespace: team/a\r\n" in request.head for request in vault.requests)


@pytest.mark.parametrize(
    ("lookup", "kind"),
    [
        (sends(GONE), HandOffAlreadyUsed),
        (sends(looked_up(creation_path="sys/wrapping/wrap")), HandOffMisdirected),
        (sends(looked_up(creation_path=f"/{PATH}")), HandOffMisdirected),
        (sends(looked_up(creation_ttl=31)), HandOffMisdirected),
        (sends(looked_up(creation_ttl="30")), VaultUnavailable),
        (sends(answer(b"<html>")), VaultUnavailable),
        (
            sends(answer(b"", status="307 Temporary Redirect", fields="Location: http://elsewhere.test/\r\n")),
            VaultUnavailable,
        ),
        (sends(answer(b"{}", status="403 Forbidden")), VaultDenied),
        (sends(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), VaultUnavailable),
        (sends_and_closes(looked_up()[:-5]), VaultUnavailable),
        (sends_and_resets(looked_up()[:-5]), VaultUnavailable),
        (sends(f"HTTP/1.1 200 OK\r\nContent-Length: {10**9}\r\n\r\n".encode()), VaultUnavailable),
        (
            sends_and_stalls(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"20000\r\n" + bytes(0x20000)),
            VaultUnavailable,
        ),
    ],
    ids=[
        *("unknown", "wrapped again", "a slash more", "lasts longer", "no number", "no json", "redirect", "denied"),
        *("no http", "cut short", "reset", "announced huge", "huge"),
    ],
)
async def test_after_a_lookup_that_is_not_what_was_asked_for_nothing_is_unwrapped(
    lookup: Script, kind: type[CredentialsError], vault: RawServer
) -> None:
    vault.scripts.append(lookup)
    secret = canary("T")
    with pytest.raises(kind) as raised:
        await unwrapped(vault, f"hvs.{secret}")
    assert len(vault.requests) == 1
    assert not [where for where, text in shown_by_reporters(raised.value).items() if secret in text]


@pytest.mark.parametrize(
    ("unwrap", "kind"),
    [
        (sends(GONE), HandOffAlreadyUsed),
        (sends(answer(b'{"data":{"token":"x"}}')), HandOffUnreadable),
        (sends(answer(b"", status="204 No Content")), VaultUnavailable),
        (sends(answer(b"{}", status="500 Internal Server Error")), VaultUnavailable),
        (sends_and_closes(WRAPPED[:-5]), VaultUnavailable),
        (sends_and_resets(WRAPPED[:-5]), VaultUnavailable),
        (sends_and_resets(), VaultUnavailable),
    ],
    ids=["unknown", "no decryption", "nothing", "fault", "cut short", "reset", "reset at once"],
)
async def test_unwrapping_is_asked_for_once_whatever_comes(
    unwrap: Script, kind: type[CredentialsError], vault: RawServer
) -> None:
    vault.scripts.extend([sends(looked_up()), unwrap])
    with pytest.raises(kind):
        await unwrapped(vault)
    assert len(vault.requests) == 2


async def test_a_vault_that_says_nothing_is_given_up(vault: RawServer) -> None:
    vault.scripts.append(sends_and_stalls())
    with pytest.raises(VaultUnavailable):
        await unwrapped(vault, timeout=0.1)
