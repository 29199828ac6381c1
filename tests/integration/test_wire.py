"""The wire keeps its word whatever answers: nothing is left in its buffers, nothing is confused, nothing waits long.

Most of these servers are raw ones on loopback, which send what no Vault would; the last tests ask the real one.
"""

import asyncio
import base64
import json
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from service.errors import (
    CiphertextRejected,
    ConfigurationError,
    KeyVersionRetired,
    VaultDenied,
    VaultRefused,
    VaultUnavailable,
)
from service.http_clients import vault_client
from service.memory.plaintext import Plaintext
from service.memory.secret_pages import SecretBuffer
from service.modules.records import Seal
from service.settings import Settings
from service.vault import batch_request, wire_connection
from service.vault.client import VaultClient
from service.vault.transit import TransitCipher
from service.vault.wire import Wire, WireAddress
from tests.doubles.certificate_authority import CertificateAuthority
from tests.doubles.raw_server import (
    RawRequest,
    RawServer,
    Script,
    answer,
    sends,
    sends_and_closes,
    sends_and_resets,
    sends_and_stalls,
)
from tests.support import Stack

ITEM = [("vault:v1:AAAA", b"context")]
SECRET = secrets.token_urlsafe(48).encode()
ENCODED = base64.b64encode(SECRET)


def decrypted(*plaintexts: bytes) -> bytes:
    """The body of Vault's answer."""
    results = [{"plaintext": base64.b64encode(each).decode(), "reference": ""} for each in plaintexts]
    return json.dumps({"data": {"batch_results": results}}).encode()


USUAL = decrypted(SECRET)


class WatchedBuffer(SecretBuffer):
    """A buffer that can be looked at after it has been closed, and remembers whether the secret was ever in it."""

    made: list["WatchedBuffer"]

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.kept = self.view[:]
        self.held_secret = False
        self.made.append(self)

    def wipe(self, used: int | None = None) -> None:
        self.held_secret |= ENCODED[:16] in bytes(self.kept) or SECRET[:12] in bytes(self.kept)
        super().wipe(used)


@pytest.fixture(autouse=True)
def buffers(monkeypatch: pytest.MonkeyPatch) -> list[WatchedBuffer]:
    """Every buffer that the wire makes."""
    made: list[WatchedBuffer] = []
    watched = type("Watched", (WatchedBuffer,), {"made": made})
    monkeypatch.setattr(wire_connection, "SecretBuffer", watched)
    monkeypatch.setattr(batch_request, "SecretBuffer", watched)
    return made


def assert_wiped(buffers: list[WatchedBuffer], *, held: bool = True) -> None:
    """They all read as zeros; and (else this would show nothing) some of them did hold the secret."""
    assert any(buffer.held_secret for buffer in buffers) is held
    for buffer in buffers:
        assert not any(buffer.kept)


class Token:
    """A token that is never replaced."""

    async def token(self) -> str:
        return "hvs.test"

    async def replace(self, refused: str) -> bool:  # noqa: ARG002 - the name is the protocol's
        return False


@dataclass(frozen=True)
class Asking:
    """The cipher over one wire."""

    wire: Wire
    cipher: TransitCipher

    async def decrypt(self, count: int = 1) -> list[Plaintext | Exception]:
        return await self.cipher.decrypt("key", ITEM * count, batch_ids=[uuid4()])

    async def opens(self) -> bytes:
        """One secret, as the server sends it."""
        (result,) = await self.decrypt()
        assert isinstance(result, Plaintext)
        with result:
            return bytes(result.reveal())

    async def encrypt(self, *plaintexts: bytes) -> list[Seal | Exception]:
        items = [(Plaintext(bytearray(each)), b"context") for each in plaintexts]
        try:
            return await self.cipher.encrypt("key", items)
        finally:
            for plaintext, _ in items:
                plaintext.wipe()


@dataclass(frozen=True)
class Place:
    """How to have a server, and how to ask it. (Only what is to end in a time-out has a short one: machines stall.)"""

    server_tls: ssl.SSLContext | None
    settings: dict[str, Any]

    def server(self, usual: Script | None = None, **given: Any) -> RawServer:
        return RawServer(usual or sends(answer(USUAL)), self.server_tls, **given)

    @asynccontextmanager
    async def asking(
        self, server: RawServer, wire: dict[str, Any] | None = None, **given: Any
    ) -> AsyncIterator[Asking]:
        values = {"vault_timeout": 10, "vault_retries": 0, **self.settings, **given}
        settings = Settings(database_url="postgresql://unused", vault_addr=server.url, **values)
        made = Wire(WireAddress.of(settings), **(wire or {}))
        async with vault_client(settings) as http:
            client = VaultClient(http, Token(), namespace=settings.vault_namespace, retries=settings.vault_retries)
            try:
                yield Asking(made, TransitCipher(client, made, "transit"))
            finally:
                made.close()


@pytest.fixture(params=["http", "tls"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "http":
        return Place(None, {})
    authority = CertificateAuthority(tmp_path)
    context = authority.server_context("vault.internal", addresses=("127.0.0.1",))
    return Place(context, {"vault_cacert": authority.certificate_file})


SHORT: dict[str, Any] = {"vault_timeout": 1.0}

# --- nothing is left --------------------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\n"
HALF = HEAD + b"Content-Length: %d\r\n\r\n" % len(USUAL) + USUAL[:-10]
CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%s\r\n" % (len(USUAL), USUAL)
TWO = decrypted(SECRET).replace(b"]", b',{"plaintext":"A"}]')

FAILURES: dict[str, Script] = {
    "stalls in the body": sends_and_stalls(HALF),
    "stalls between chunks": sends_and_stalls(CHUNKS),
    "is reset in the body": sends_and_resets(HALF),
    "is reset between chunks": sends_and_resets(CHUNKS),
    "closes in the body": sends_and_closes(HALF),
    "closes between chunks": sends_and_closes(CHUNKS),
    "is garbage with the secret in it": sends_and_stalls(b"HTTP/1.1 200 OK\r\nX: " + ENCODED + b"\r\n\x00: \r\n\r\n"),
    "has a bad chunk after a good one": sends_and_stalls(CHUNKS + b"nonsense" * 50),
    "is no JSON": sends(answer(ENCODED)),
    "is cut JSON": sends(answer(USUAL[:-3])),
    "is another JSON": sends(answer(b'["' + ENCODED + b'"]')),
    "has too many results": sends(answer(decrypted(SECRET, b"x"))),
    "has a bad item after a good one": sends(answer(TWO)),
    "is an error that shows the secret": sends(answer(USUAL, status="500 Oops")),
    "is a refusal that shows the secret": sends(answer(b'{"errors":["' + ENCODED + b'"]}', status="403 No")),
    "is a redirect": sends(answer(USUAL, status="302 Found", fields="Location: http://127.0.0.1:1/\r\n")),
    "is compressed": sends_and_stalls(answer(USUAL, fields="Content-Encoding: gzip\r\n")),
    "is larger than allowed": sends_and_stalls(HEAD + b"Content-Length: 99999999\r\n\r\n" + USUAL),
    "is more chunks than allowed": sends_and_stalls(CHUNKS + (b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 40),
    "never ends": sends_and_stalls(HEAD + b"\r\n" + USUAL + b"x" * 1_100_000),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_nothing_is_left_of_an_answer_that(place: Place, buffers: list[WatchedBuffer], failure: str) -> None:
    async with place.server() as server, place.asking(server, {"max_answer": 1_000_000}, **SHORT) as asking:
        server.scripts.append(FAILURES[failure])
        began = time.monotonic()
        with pytest.raises((VaultUnavailable, VaultDenied, VaultRefused)) as failed:
            await asking.decrypt(2 if failure == "has a bad item after a good one" else 1)
        assert time.monotonic() - began < 5
        assert failed.value.__cause__ is None
        assert failed.value.__suppress_context__ or failed.value.__context__ is None
        assert_wiped(buffers)
        # And the next one has its own answer.
        assert await asking.opens() == SECRET
        assert_wiped(buffers)


@pytest.mark.parametrize("count", [1, 300])
async def test_nothing_is_left_of_an_answer_that_was_read(
    place: Place, buffers: list[WatchedBuffer], count: int
) -> None:
    large = decrypted(*[SECRET] * count)  # 300: larger than the buffer that a connection begins with
    pieces = [large[start : start + 7000] for start in range(0, len(large), 7000)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    async with place.server() as server, place.asking(server) as asking:
        for sent in (answer(large), HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"):
            for cut in (0, 20, len(sent) // 2):
                server.scripts.append(sends(sent[:cut], sent[cut:], pause=0.02))
                results = await asking.decrypt(count)
                assert_wiped(buffers)
                assert len(results) == count
                for result in results:
                    assert isinstance(result, Plaintext)
                    assert bytes(result.reveal()) == SECRET
                    result.wipe()
        assert server.connections == 1
    assert all(buffer.address == 0 for buffer in buffers)


async def test_what_comes_after_a_time_out_lands_nowhere(place: Place, buffers: list[WatchedBuffer]) -> None:
    late = asyncio.Event()
    tried = asyncio.Event()

    async def answers_late(request: RawRequest) -> None:
        await request.send(HALF)
        await late.wait()
        try:
            for _ in range(20):
                await request.send(USUAL)
                await asyncio.sleep(0.01)
        finally:
            tried.set()

    async with place.server() as server, place.asking(server, **SHORT) as asking:
        server.scripts.append(answers_late)
        with pytest.raises(VaultUnavailable):
            await asking.decrypt()
        assert_wiped(buffers)
        late.set()
        assert await asking.opens() == SECRET
        await asyncio.wait_for(tried.wait(), 5)
        assert_wiped(buffers)
        assert all(buffer.address == 0 for buffer in buffers[:1])


@pytest.mark.parametrize("begun", [b"", HALF, CHUNKS])
async def test_nothing_is_left_when_the_caller_gives_up(
    place: Place, buffers: list[WatchedBuffer], begun: bytes
) -> None:
    async with place.server() as server, place.asking(server, vault_timeout=30) as asking:
        server.scripts.append(sends_and_stalls(begun))
        task = asyncio.create_task(asking.decrypt())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert_wiped(buffers, held=bool(begun))
        assert await asking.opens() == SECRET
        assert server.requests[-1].connection == 2


@pytest.mark.parametrize("failing", ["answers", "stalls", "is reset", "is cancelled", "takes it slowly"])
async def test_nothing_is_left_of_a_request_that(place: Place, buffers: list[WatchedBuffer], failing: str) -> None:
    async def answers(request: RawRequest) -> None:
        assert ENCODED[:-4] in request.body  # the padding's group differs in the longer one
        await request.send(answer(b'{"data":{"batch_results":[{"ciphertext":"vault:v1:AAAA"}]}}'))

    script = {"stalls": sends_and_stalls(), "is reset": sends_and_resets()}.get(failing, answers)
    secret = SECRET
    if failing == "takes it slowly":  # more than the kernel's buffers hold, so that most of it waits with us
        secret = SECRET * 200_000
    timeout = 30 if failing in ("is cancelled", "takes it slowly") else 0.4
    async with place.server(script) as server, place.asking(server, vault_timeout=timeout) as asking:
        if failing == "is cancelled":
            server.scripts.append(sends_and_stalls())
        task = asyncio.create_task(asking.encrypt(secret))
        if failing == "is cancelled":
            await asyncio.sleep(0.2)
            task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        if failing in ("answers", "takes it slowly"):
            assert outcome == [Seal(ciphertext="vault:v1:AAAA", transit_key_version=1)]
            sent = json.loads(server.requests[0].body)["batch_input"][0]
            assert base64.b64decode(sent["plaintext"]) == secret
        else:
            assert isinstance(outcome, VaultUnavailable | asyncio.CancelledError)
        assert_wiped(buffers)


@pytest.mark.parametrize("ending", ["time-out", "cancelled"])
async def test_nothing_is_left_of_a_request_that_was_half_sent(
    place: Place, buffers: list[WatchedBuffer], ending: str
) -> None:
    async with (
        place.server(reads=lambda number: number > 1) as server,
        place.asking(server, vault_timeout=0.5 if ending == "time-out" else 30) as asking,
    ):
        task = asyncio.create_task(asking.encrypt(SECRET * 300_000))
        await asyncio.sleep(0.3)
        assert any(any(buffer.kept[:100]) for buffer in buffers)  # it is there, waiting to be sent
        if ending == "cancelled":
            task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(outcome, VaultUnavailable if ending == "time-out" else asyncio.CancelledError)
        assert_wiped(buffers)
        assert await asking.opens() == SECRET


async def test_closing_the_wire_ends_what_is_under_way(place: Place, buffers: list[WatchedBuffer]) -> None:
    async with place.server() as server, place.asking(server, vault_timeout=30) as asking:
        assert await asking.opens() == SECRET
        server.scripts.append(sends_and_stalls(HALF))
        task = asyncio.create_task(asking.decrypt())
        await asyncio.sleep(0.1)
        asking.wire.close()
        with pytest.raises(VaultUnavailable):
            await asyncio.wait_for(task, 2)
        assert_wiped(buffers)
        assert all(buffer.address == 0 for buffer in buffers)


# --- nothing is confused ----------------------------------------------------------------------------------------


async def test_a_connection_is_used_again_and_the_newest_first(place: Place) -> None:
    async with place.server() as server, place.asking(server) as asking:
        for _ in range(5):
            assert await asking.opens() == SECRET
        assert server.connections == 1
        await asyncio.gather(*(asking.opens() for _ in range(4)))
        assert server.connections == 4
        for _ in range(5):
            await asking.opens()
        assert len({request.connection for request in server.requests[-5:]}) == 1


@pytest.mark.parametrize("ends", ["in order", "by a reset"])
async def test_a_connection_that_the_server_closed_meanwhile_is_not_used(place: Place, ends: str) -> None:
    async with place.server() as server, place.asking(server) as asking:
        for used in range(1, 4):
            assert await asking.opens() == SECRET
            for writer in server.writers:
                if ends == "in order":
                    writer.close()
                else:
                    writer.transport.abort()
            await asyncio.sleep(0.05)
            assert server.connections == used


async def test_a_connection_that_closes_in_the_very_moment_is_not_used_either() -> None:
    """Without a turn of the event loop in which it would notice by itself."""
    place = Place(None, {})
    async with place.server() as server, place.asking(server) as asking:
        assert await asking.opens() == SECRET
        server.writers[0].transport.get_extra_info("socket")._sock.shutdown(1)
        assert await asking.opens() == SECRET
        assert server.connections == 2


async def test_a_connection_that_says_something_unasked_is_dropped(place: Place) -> None:
    forged = answer(decrypted(b"forged"))
    async with place.server() as server, place.asking(server) as asking:
        server.scripts.append(sends(answer(USUAL), forged, pause=0.05))
        assert await asking.opens() == SECRET
        await asyncio.sleep(0.1)
        assert await asking.opens() == SECRET
        server.scripts.append(sends(answer(USUAL) + forged))  # in the same breath
        assert await asking.opens() == SECRET
        assert await asking.opens() == SECRET
        assert server.connections == 3


@pytest.mark.parametrize(
    "last",
    [
        answer(USUAL, fields="Connection: close\r\n"),
        answer(USUAL).replace(b"HTTP/1.1", b"HTTP/1.0"),
        answer(USUAL) + b"x",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n0\r\n\r\n" % (len(USUAL), USUAL),
    ],
)
async def test_a_connection_whose_end_was_told_is_not_used_again(place: Place, last: bytes) -> None:
    async with place.server() as server, place.asking(server) as asking:
        server.scripts.append(sends(last))
        assert await asking.opens() == SECRET
        assert await asking.opens() == SECRET
        assert server.connections == 2


async def test_an_answer_without_a_length_ends_with_its_connection(place: Place) -> None:
    async with place.server() as server, place.asking(server) as asking:
        server.scripts.append(sends_and_closes(HEAD + b"\r\n" + USUAL[:30], USUAL[30:]))
        assert await asking.opens() == SECRET
        assert await asking.opens() == SECRET
        assert server.connections == 2


async def test_an_interim_answer_is_not_the_answer(place: Place) -> None:
    async with place.server() as server, place.asking(server) as asking:
        server.scripts.append(sends(b"HTTP/1.1 100 Continue\r\n\r\n", answer(USUAL), pause=0.02))
        assert await asking.opens() == SECRET
        assert server.connections == 1


@pytest.mark.parametrize(
    ("script", "keeps"),
    [
        (sends(b"HTTP/1.1 204 No Content\r\n\r\n"), True),
        (sends(answer(b"")), True),
        (sends(answer(b"", status="307 Temporary Redirect", fields="Location: https://elsewhere.invalid/\r\n")), True),
        (sends(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), False),
        (sends(b"SSH-2.0-OpenSSH_9.6\r\n"), False),
        (sends(b"\x16\x03\x01\x02\x00" * 20), False),
        (sends(HEAD + b"X: y\r\n" * 5000), False),
        (sends_and_closes(), False),
    ],
)
async def test_an_answer_that_is_none_is_unavailable_and_the_next_is_fine(
    place: Place, script: Script, keeps: bool
) -> None:
    async with place.server() as server, place.asking(server, vault_timeout=5) as asking:
        server.scripts.append(script)
        began = time.monotonic()
        with pytest.raises(VaultUnavailable):
            await asking.opens()
        assert time.monotonic() - began < 2  # nobody waited for the time-out
        assert await asking.opens() == SECRET
        assert (server.connections == 1) is keeps


async def test_an_answer_before_the_request_has_been_sent_is_taken(place: Place) -> None:
    """As when a load balancer finds the request too large."""
    async with place.server(reads=lambda number: number > 1) as server, place.asking(server, vault_timeout=5) as asking:
        task = asyncio.create_task(asking.encrypt(SECRET * 300_000))
        await asyncio.wait_for(server.connected.wait(), 20)
        await asyncio.sleep(0.2)
        server.writers[0].write(answer(b'{"errors":["too large"]}', status="413 Too Large"))
        with pytest.raises(VaultRefused):
            await task
        assert await asking.opens() == SECRET
        assert server.connections == 2


# --- nothing waits for ever, nor is more than was allowed --------------------------------------------------------


async def test_idle_connections_are_closed_after_their_time(place: Place, buffers: list[WatchedBuffer]) -> None:
    async with place.server() as server, place.asking(server, {"idle_seconds": 0.2}) as asking:
        await asyncio.gather(*(asking.opens() for _ in range(3)))
        for _ in range(4):  # one of them stays in use
            await asyncio.sleep(0.1)
            await asking.opens()
        assert server.connections == 3
        assert len([buffer for buffer in buffers if buffer.address]) == 1
        await asyncio.sleep(0.4)
        assert not any(buffer.address for buffer in buffers)


async def test_no_more_connections_are_made_than_allowed_and_waiting_ends(place: Place) -> None:
    async with place.server() as server, place.asking(server, {"max_connections": 2}, **SHORT) as asking:
        assert await asyncio.gather(*(asking.opens() for _ in range(20))) == [SECRET] * 20
        assert server.connections == 2
        server.scripts.extend([sends_and_stalls()] * 2)
        began = time.monotonic()
        outcomes = await asyncio.gather(*(asking.opens() for _ in range(6)), return_exceptions=True)
        assert time.monotonic() - began < 5
        assert {type(outcome) for outcome in outcomes} == {VaultUnavailable}
        assert await asking.opens() == SECRET


async def test_a_server_that_sends_a_byte_at_a_time_is_given_up_on(place: Place) -> None:
    async with place.server() as server, place.asking(server, **SHORT) as asking:
        server.scripts.append(sends(HALF[:40], *[b"X"] * 1000, pause=0.02))
        began = time.monotonic()
        with pytest.raises(VaultUnavailable):
            await asking.opens()
        assert time.monotonic() - began < 5


async def test_a_server_that_accepts_and_says_nothing_is_given_up_on(tmp_path: Path) -> None:
    """TLS as well: a handshake that never ends is within the same time."""
    place = Place(None, {"vault_cacert": CertificateAuthority(tmp_path).certificate_file})
    async with place.server(reads=lambda _: False) as server:
        server.url = server.url.replace("http:", "https:")
        async with place.asking(server, **SHORT) as asking:
            began = time.monotonic()
            with pytest.raises(VaultUnavailable):
                await asking.opens()
            assert time.monotonic() - began < 5


async def test_a_certificate_that_does_not_fit_sees_no_request(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    (tmp_path / "other").mkdir()
    other = CertificateAuthority(tmp_path / "other", "other-ca")
    tls = authority.server_context("vault.internal")
    cases: list[tuple[dict[str, Any], bool]] = [
        ({"vault_cacert": authority.certificate_file, "vault_tls_server_name": "vault.internal"}, True),
        ({"vault_cacert": authority.certificate_file}, False),
        ({"vault_cacert": authority.certificate_file, "vault_tls_server_name": "other.internal"}, False),
        ({"vault_cacert": other.certificate_file, "vault_tls_server_name": "vault.internal"}, False),
    ]
    for settings, fits in cases:
        place = Place(tls, settings)
        async with place.server() as server, place.asking(server) as asking:
            if fits:
                assert await asking.opens() == SECRET
            else:
                with pytest.raises(VaultUnavailable):
                    await asking.opens()
            assert bool(server.requests) is fits


async def test_nobody_there_is_unavailable_at_once() -> None:
    async with Place(None, {}).server() as server:
        pass
    async with Place(None, {}).asking(server, vault_timeout=30) as asking:
        began = time.monotonic()
        with pytest.raises(VaultUnavailable):
            await asking.opens()
        assert time.monotonic() - began < 5


# --- what is sent -----------------------------------------------------------------------------------------------


async def test_a_request_is_vaults_with_the_namespace_the_token_and_every_batch(place: Place) -> None:
    async with place.server() as server, place.asking(server, vault_namespace="team/a") as asking:
        first, second = uuid4(), uuid4()
        (opened,) = await asking.cipher.decrypt("key", ITEM, batch_ids=[first, second, first])
        assert isinstance(opened, Plaintext)
        opened.wipe()
        lines = server.requests[0].head.split("\r\n")
        assert lines[0] == "POST /v1/transit/decrypt/key HTTP/1.1"
        fields = dict(line.split(": ", 1) for line in lines[1:] if line)
        assert fields["Host"] == f"127.0.0.1:{server.port}"
        assert fields["X-Vault-Request"] == "true"
        assert fields["X-Vault-Namespace"] == "team/a"
        assert fields["X-Vault-Token"] == "hvs.test"
        assert fields["X-Credentials-Batch-Id"] == f"{first},{second}"
        assert fields["Accept-Encoding"] == "identity"


async def test_a_path_before_vault_goes_with_every_request() -> None:
    place = Place(None, {})
    async with place.server() as server:
        server.url += "/behind/a gate"
        async with place.asking(server) as asking:
            assert await asking.opens() == SECRET
        assert server.requests[0].head.startswith("POST /behind/a%20gate/v1/transit/decrypt/key HTTP/1.1\r\n")


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "a\nb", "\u00e9", "a\x00"])
async def test_a_token_that_can_not_be_a_header_is_not_sent(token: str) -> None:
    place = Place(None, {})
    async with place.server() as server, place.asking(server) as asking:
        with pytest.raises(VaultUnavailable):
            asking.wire.head("transit/decrypt/key", 0, token, {})
        with pytest.raises(VaultRefused):
            await asking.cipher.decrypt("key HTTP/1.1\r\nX: y", ITEM, batch_ids=[])
        assert server.requests == []


async def test_a_namespace_that_can_not_be_a_header_is_a_wrong_setting() -> None:
    settings = Settings(database_url="postgresql://unused", vault_addr="http://127.0.0.1:1", vault_namespace="a\r\nb")
    with pytest.raises(ConfigurationError, match="VAULT_NAMESPACE"):
        Wire(WireAddress.of(settings))


async def test_a_host_of_other_letters_is_named_as_dns_does() -> None:
    settings = Settings(database_url="postgresql://unused", vault_addr="https://v\u00e4ult.example:8200")
    assert b"\r\nHost: xn--vult-loa.example:8200\r\n" in Wire(WireAddress.of(settings)).head("a", 0, "token", {})


# --- the real Vault -----------------------------------------------------------------------------------------------


@pytest.fixture
async def real(stack: Stack) -> AsyncIterator[Callable[[str], TransitCipher]]:
    """The cipher of a service on the shared stack, but as root, on its own mount."""
    mount = f"wire-{uuid4().hex[:8]}"
    assert stack.vault("POST", f"sys/mounts/{mount}", {"type": "transit"}).is_success
    assert stack.vault("POST", f"{mount}/keys/key", {"derived": True}).is_success
    settings = stack.settings()

    class Root(Token):
        async def token(self) -> str:
            return stack.root_token

    async with vault_client(settings) as http, Wire.open(settings) as wire:
        client = VaultClient(http, Root(), namespace=None, retries=0)
        yield lambda _key: TransitCipher(client, wire, mount)
    assert stack.vault("DELETE", f"sys/mounts/{mount}").is_success


async def test_every_length_comes_back_from_vault_as_it_went(
    real: Callable[[str], TransitCipher], buffers: list[WatchedBuffer]
) -> None:
    cipher = real("key")
    plain = [secrets.token_bytes(length) for length in (*range(1, 140), 1025, 5000)]
    seals = await cipher.encrypt("key", [(Plaintext(bytearray(each)), b"c%d" % at) for at, each in enumerate(plain)])
    items = [(seal.ciphertext, b"c%d" % at) for at, seal in enumerate(seals) if isinstance(seal, Seal)]
    opened = await cipher.decrypt("key", items, batch_ids=[uuid4()])
    assert [bytes(each.reveal()) for each in opened if isinstance(each, Plaintext)] == plain
    for buffer in buffers:
        assert not any(buffer.kept)


async def test_a_bad_item_fails_alone_and_all_bad_ones_fail_each_by_itself(
    real: Callable[[str], TransitCipher], stack: Stack
) -> None:
    cipher = real("key")
    (old,) = await cipher.encrypt("key", [(Plaintext(bytearray(b"old")), b"c")])
    mount = cipher._mount
    assert stack.vault("POST", f"{mount}/keys/key/rotate").is_success
    (new,) = await cipher.encrypt("key", [(Plaintext(bytearray(b"new")), b"c")])
    assert stack.vault("POST", f"{mount}/keys/key/config", {"min_decryption_version": 2}).is_success
    assert isinstance(old, Seal)
    assert isinstance(new, Seal)
    good, retired, moved = (new.ciphertext, b"c"), (old.ciphertext, b"c"), (new.ciphertext, b"d")
    broken = ('no ciphertext \u00e9\\"\n', b"c")
    mixed = await cipher.decrypt("key", [moved, good, retired, broken], batch_ids=[uuid4()])
    assert [type(each) for each in mixed] == [CiphertextRejected, Plaintext, KeyVersionRetired, CiphertextRejected]
    all_bad = await cipher.decrypt("key", [retired, moved, broken], batch_ids=[uuid4()])
    assert [type(each) for each in all_bad] == [KeyVersionRetired, CiphertextRejected, CiphertextRejected]
    with pytest.raises(VaultRefused):
        await cipher.decrypt("no-such-key", [good], batch_ids=[uuid4()])
