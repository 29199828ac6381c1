"""What only a broken Vault, network or load balancer answers, from a scripted server in Vault's place.

A real Vault can't be made to answer most of this when a test wants it. What a real one can be made to do is in
`test_vault_trouble.py`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web

from service.errors import (
    CasMismatch,
    CiphertextGone,
    CredentialsError,
    TemporarilyUnavailable,
    VaultDenied,
    VaultRefused,
    VaultSealed,
    VaultStandby,
    VaultThrottled,
    VaultUnavailable,
)
from service.http_clients import vault_client
from service.memory.plaintext import Plaintext
from service.settings import Settings, VaultLogin
from service.vault.ciphertext_store import KvCiphertextStore
from service.vault.client import VaultClient
from service.vault.login import VaultSession
from service.vault.transit import TransitCipher
from service.vault.wire import Wire
from tests.doubles.scripted_server import (
    Answer,
    ScriptedServer,
    cut_answer,
    html_answer,
    json_answer,
    not_http_answer,
    raw_answer,
    redirect_answer,
    reset_answer,
)
from tests.support import canary

CIPHERTEXT = "vault:v1:AAAA"
KV_READ = json_answer(200, {"data": {"data": {"ciphertext": CIPHERTEXT}, "metadata": {"version": 1}}})
KV_WRITTEN = json_answer(200, {"data": {"version": 1}})
ENCRYPTED = json_answer(200, {"data": {"batch_results": [{"ciphertext": CIPHERTEXT}]}})


class VaultsPlace(ScriptedServer):
    """Answers what it is told to, and 404 when nothing is left."""

    async def usual(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response({"errors": []}, status=404)


@dataclass(frozen=True)
class Adapters:
    """The service's own adapters, pointed at a server."""

    client: VaultClient
    cipher: TransitCipher
    kv: KvCiphertextStore

    async def read(self) -> str:
        return (await self.kv.read("a/b", 1)).ciphertext

    async def write(self) -> int:
        return await self.kv.write("a/b", CIPHERTEXT, cas=0)

    async def encrypt(self) -> object:
        with Plaintext.copy_of("x") as plaintext:
            return await self.cipher.encrypt("key", [(plaintext, b"context")])


@asynccontextmanager
async def adapters(settings: Settings) -> AsyncIterator[Adapters]:
    async with (
        vault_client(settings) as http,
        VaultSession.open(http, settings) as session,
        Wire.open(settings) as wire,
    ):
        client = VaultClient(http, session, namespace=settings.vault_namespace, retries=settings.vault_retries)
        yield Adapters(client, TransitCipher(client, wire, "transit"), KvCiphertextStore(client, "credentials"))


@pytest.fixture
def token(tmp_path: Path) -> tuple[Path, str]:
    """A token file, so that the scripted server sees no login, and the token in it."""
    text, file = canary("hvs."), tmp_path / "token"
    file.write_text(text)
    return file, text


@pytest.fixture
async def server() -> AsyncIterator[VaultsPlace]:
    async with VaultsPlace() as started:
        yield started


def settings_for(server: ScriptedServer, token: tuple[Path, str], **given: Any) -> Settings:
    base: dict[str, Any] = {"vault_timeout": 10, "vault_retries": 2}
    base |= {"vault_login": VaultLogin.TOKEN_FILE, "vault_token_file": token[0]}
    return Settings(database_url="postgresql://unused", vault_addr=server.url, **{**base, **given})


@pytest.fixture
async def vault(server: VaultsPlace, token: tuple[Path, str]) -> AsyncIterator[Adapters]:
    async with adapters(settings_for(server, token)) as opened:
        yield opened


@pytest.fixture
async def impatient(server: VaultsPlace, token: tuple[Path, str]) -> AsyncIterator[Adapters]:
    """As `vault`, for what ends in a time-out."""
    async with adapters(settings_for(server, token, vault_timeout=0.3)) as opened:
        yield opened


# --- what an answer means ---------------------------------------------------------------------------------------

NO_ACTIVE_NODE = {"errors": ["local node not active but active cluster node not found"]}
CAS = {"errors": ["check-and-set parameter did not match the current version"]}
MEANINGS: list[tuple[str, Answer, type[CredentialsError], float | None]] = [
    ("sealed", json_answer(503, {"errors": ["Vault is sealed"]}), VaultSealed, 10),
    ("standby that has no active node", json_answer(500, NO_ACTIVE_NODE), VaultStandby, 2),
    ("standby that names the active node", redirect_answer("https://active.invalid/", 307), VaultStandby, 2),
    ("standby of another cluster", json_answer(472, {}), VaultStandby, 2),
    ("performance standby", json_answer(473, {}), VaultStandby, 2),
    ("quota", json_answer(429, {"errors": ["quota"]}, {"Retry-After": "7"}), VaultThrottled, 7),
    ("quota without a time", json_answer(429, {"errors": ["quota"]}), VaultThrottled, 1),
    ("a load balancer's limit", raw_answer(429, b"<html>slow", {"Retry-After": "3"}), VaultThrottled, 3),
    ("fault", json_answer(500, {"errors": ["1 error occurred"]}), VaultUnavailable, 2),
    ("bad gateway", html_answer(502), VaultUnavailable, 2),
    ("replication is behind", json_answer(412, {"errors": ["required index state not present"]}), VaultUnavailable, 2),
    ("maintenance", raw_answer(503, b"", {"Retry-After": "60"}), VaultUnavailable, 60),
    ("a page", html_answer(200), VaultUnavailable, None),
    ("a page that forbids", html_answer(403), VaultUnavailable, None),
    ("a redirect to a login page", redirect_answer("https://elsewhere.invalid/"), VaultUnavailable, None),
    ("another JSON", json_answer(200, ["not", "vault"]), VaultUnavailable, None),
    ("denied", json_answer(403, {"errors": ["permission denied"]}), VaultDenied, None),
    ("refused", json_answer(400, {"errors": ["invalid"]}), VaultRefused, None),
    ("another version", json_answer(400, CAS), CasMismatch, None),
    ("errors of no shape", json_answer(500, {"errors": 5, "data": [1]}), VaultUnavailable, 2),
]


@pytest.mark.parametrize(
    ("answer", "kind", "retry_after"), [each[1:] for each in MEANINGS], ids=[each[0] for each in MEANINGS]
)
async def test_each_answer_has_its_error_and_says_when_waiting_helps(
    server: VaultsPlace,
    vault: Adapters,
    token: tuple[Path, str],
    answer: Answer,
    kind: type[CredentialsError],
    retry_after: float | None,
) -> None:
    server.script(answer)
    with pytest.raises(kind) as failed:
        await vault.write()
    assert type(failed.value) is kind
    if isinstance(failed.value, TemporarilyUnavailable):
        assert failed.value.retry_after == retry_after
    # httpx's exceptions hang the request, token and all, on themselves.
    assert failed.value.__cause__ is None
    assert failed.value.__suppress_context__ or failed.value.__context__ is None
    assert token[1] not in repr(failed.value) + str(failed.value.args)


@pytest.mark.parametrize("body", [{}, {"data": None}, {"data": []}, {"data": {}}, {"data": {"versions": 5, "keys": 1}}])
async def test_json_that_is_not_vaults_never_looks_like_an_answer(
    server: VaultsPlace, vault: Adapters, body: object
) -> None:
    works: list[Callable[[], Awaitable[object]]] = [
        vault.read,
        vault.write,
        vault.encrypt,
        lambda: vault.cipher.decrypt("key", [(CIPHERTEXT, b"context")], batch_ids=[uuid4()]),
        lambda: vault.cipher.hmac("key", b"digest"),
        lambda: vault.kv.live_versions("a/b"),
        lambda: vault.kv.newest_version("a/b"),
        lambda: vault.kv.describe("a/b"),
        vault.kv.list_paths,
    ]
    for work in works:
        server.script(json_answer(200, body))
        with pytest.raises(CredentialsError):
            await work()
    server.script(*[json_answer(200, {"data": {"batch_results": [item]}}) for item in (5, None)])
    for _ in range(2):
        with pytest.raises(VaultUnavailable):
            await vault.encrypt()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (json_answer(200, {"initialized": True, "sealed": True}), VaultSealed),
        (json_answer(200, {"initialized": False, "sealed": True}), VaultSealed),
        (json_answer(472, {"initialized": True, "sealed": False}), VaultStandby),
        (html_answer(200), VaultUnavailable),
        (reset_answer, VaultUnavailable),
    ],
)
async def test_health_tells_what_vault_can_not_do(
    server: VaultsPlace, vault: Adapters, answer: Answer, kind: type[CredentialsError]
) -> None:
    server.script(answer)
    with pytest.raises(kind):
        await vault.client.health()
    server.script(json_answer(200, {"initialized": True, "sealed": False, "standby": True}))
    await vault.client.health()  # a standby that forwards will do


# --- what is sent again -----------------------------------------------------------------------------------------

FAULTS = [html_answer(502), json_answer(500, {"errors": []}), reset_answer, cut_answer(200), not_http_answer]


@pytest.mark.parametrize("fault", FAULTS)
async def test_reads_and_encryptions_are_tried_again_after_a_fault(
    server: VaultsPlace, vault: Adapters, fault: Answer
) -> None:
    server.script(fault, fault, KV_READ, fault, ENCRYPTED)
    assert await vault.read() == CIPHERTEXT
    assert len(server.seen) == 3
    await vault.encrypt()
    assert len(server.seen) == 5


@pytest.mark.parametrize("fault", [*FAULTS, json_answer(429, {"errors": []}), json_answer(503, {"errors": []})])
async def test_a_kv_write_is_never_sent_twice(server: VaultsPlace, vault: Adapters, fault: Answer) -> None:
    server.script(fault, KV_WRITTEN)
    with pytest.raises(VaultUnavailable):
        await vault.write()
    assert len(server.seen) == 1


async def test_a_kv_write_that_got_no_answer_is_not_sent_twice_either(server: VaultsPlace, impatient: Adapters) -> None:
    server.script(server.silent, KV_WRITTEN)
    with pytest.raises(VaultUnavailable):
        await impatient.write()
    assert len(server.seen) == 1


async def test_retries_are_as_many_as_set_and_end(server: VaultsPlace, token: tuple[Path, str]) -> None:
    for retries in (0, 3):
        server.reset()
        server.script(*[html_answer(502)] * 10)
        async with adapters(settings_for(server, token, vault_retries=retries)) as vault:
            with pytest.raises(VaultUnavailable):
                await vault.read()
        assert len(server.seen) == 1 + retries


@pytest.mark.parametrize(
    "answer",
    [json_answer(503, {"errors": ["Vault is sealed"]}), json_answer(403, {"errors": []}), json_answer(404, {})],
)
async def test_what_does_not_pass_by_itself_is_not_tried_again(
    server: VaultsPlace, vault: Adapters, answer: Answer
) -> None:
    server.script(answer, KV_READ)
    with pytest.raises(CredentialsError):
        await vault.read()
    assert len(server.seen) == 1


# --- time-outs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", ["silent", "trickle"])
async def test_an_answer_that_does_not_end_in_time_is_given_up_on(
    server: VaultsPlace, impatient: Adapters, slow: str
) -> None:
    server.script(*[getattr(server, slow)] * 4)
    for work, longest in ((impatient.write, 0.3), (impatient.read, 3 * 0.3 + 2)):
        began = time.monotonic()
        with pytest.raises(VaultUnavailable) as failed:
            await work()
        assert failed.value.retry_after
        assert 0.25 < time.monotonic() - began < longest + 5


async def test_callers_that_wait_for_a_login_that_gets_no_answer_all_have_its_time_out(server: VaultsPlace) -> None:
    settings = Settings(
        database_url="postgresql://unused",
        vault_addr=server.url,
        vault_role_id="role",
        vault_secret_id=canary(),
        vault_timeout=1,
        vault_retries=0,
    )
    server.script(*[server.silent] * 32)
    async with adapters(settings) as vault:
        began = time.monotonic()
        results = await asyncio.gather(*(vault.read() for _ in range(32)), return_exceptions=True)
        assert time.monotonic() - began < 10  # and not 32 times 1
        assert {type(result) for result in results} == {VaultUnavailable}
        assert len(server.seen) == 1
        # The failure isn't kept: the next caller asks again.
        server.reset()
        server.script(json_answer(200, {"auth": {"client_token": canary("hvs."), "lease_duration": 60}}), KV_READ)
        assert await vault.read() == CIPHERTEXT


# --- what is sent -----------------------------------------------------------------------------------------------


async def test_the_namespace_goes_with_every_request_the_login_included(server: VaultsPlace) -> None:
    """This Vault's community edition has no namespaces, so what is sent is all that can be shown."""
    settings = Settings(
        database_url="postgresql://unused",
        vault_addr=server.url,
        vault_namespace="team/a",
        vault_role_id="role",
        vault_secret_id=canary(),
    )
    login = json_answer(200, {"auth": {"client_token": canary("hvs."), "lease_duration": 60}})
    server.script(login, KV_READ, KV_WRITTEN, ENCRYPTED)
    async with adapters(settings) as vault:
        await vault.read()
        await vault.write()
        await vault.encrypt()
    paths = [seen.path_qs.partition("?")[0] for seen in server.seen]
    assert paths == [
        "/v1/auth/approle/login",
        "/v1/credentials/data/a/b",
        "/v1/credentials/data/a/b",
        "/v1/transit/encrypt/key",
        "/v1/auth/token/revoke-self",
    ]
    assert [seen.headers.get("X-Vault-Namespace") for seen in server.seen] == ["team/a"] * 5


async def test_without_a_namespace_none_is_sent(server: VaultsPlace, vault: Adapters) -> None:
    with pytest.raises(CiphertextGone):
        await vault.read()
    assert "X-Vault-Namespace" not in server.seen[0].headers
    assert server.seen[0].headers["X-Vault-Request"] == "true"
