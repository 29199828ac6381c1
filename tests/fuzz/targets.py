"""What is fuzzed, and what has to hold whatever comes: errors of our own alone, and nothing read that others don't."""

import asyncio
import base64
import json
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import strategies as st

from service.api.pagination import credential_cursor, encode_cursor, event_cursor
from service.authz.identity import TokenVerifier
from service.authz.policy import Identity
from service.client import unwrapping
from service.errors import AuthenticationFailed, CredentialsError, InvalidInput, UnexpectedAnswer, VaultUnavailable
from service.memory.plaintext import Plaintext
from service.memory.secret_pages import SecretBuffer
from service.vault import wrapping
from service.vault.batch_answer import find_items, open_items
from service.vault.http_answer import AnswerReader, AnswerRefused
from service.vault.json_spans import NotVaults
from service.vault.wire import Wire, WireAddress, WireAnswer
from service.vault.wire_connection import WireConnection
from tests.doubles.oidc_issuer import segment
from tests.fuzz.mutations import CUTS, mutated, pieces
from tests.fuzz.reference import NotRead, answer_of, object_of, plaintext_of

LIMIT = 4096
SMALL = 256

PLAINTEXTS = st.binary(min_size=1, max_size=60)
ITEMS = st.lists(
    PLAINTEXTS.map(lambda plain: {"plaintext": base64.b64encode(plain).decode(), "reference": ""})
    | st.sampled_from(["cipher: message authentication failed", "disallowed by policy (too old)"]).map(
        lambda error: {"plaintext": "", "error": error, "reference": ""}
    ),
    max_size=5,
)


def _document(data: Any, **members: Any) -> bytes:
    beside = {"request_id": "2590c1ea-6516", "lease_id": "", "renewable": False, "lease_duration": 0}
    return json.dumps({**beside, "data": data, "auth": None, **members}, separators=(",", ":")).encode() + b"\n"


BATCHES = ITEMS.map(lambda items: _document({"batch_results": items}))
ERRORS = st.sampled_from([[], ["Vault is sealed"], ["permission denied", "x"]]).map(
    lambda told: json.dumps({"errors": told}).encode()
)


@st.composite
def _framed(draw: st.DrawFn, body: st.SearchStrategy[bytes]) -> bytes:
    """An HTTP answer around a body, in one of the ways that there are."""
    content = draw(body)
    status = draw(st.sampled_from([200, 200, 200, 400, 403, 503, 204]))
    head = b"HTTP/1.1 %d Any\r\nContent-Type: application/json\r\n" % status
    match draw(st.sampled_from(["length", "chunks", "chunks", "close"])):
        case "length":
            return head + b"Content-Length: %d\r\n\r\n%s" % (len(content), content)
        case "chunks":
            parts = pieces(content, draw(st.lists(st.integers(0, 600), max_size=4)))
            framed = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
            return head + b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"
        case _:
            return head + b"Connection: close\r\n\r\n" + content


# --- the framing of an answer -----------------------------------------------------------------------------------------


def _read_framing(content: bytes, cuts: list[int]) -> tuple[int, bytes] | None:
    """Status and body as the reader finds them; None where it waits for more, or refuses."""
    with SecretBuffer(len(content) + 16) as buffer:
        buffer.view[: len(content)] = content
        reader, used = AnswerReader(LIMIT), 0
        try:
            whole = False
            for piece in pieces(content, cuts):
                used += len(piece)
                whole = reader.feed(buffer.view, used)
                if whole:
                    break
            whole = whole or reader.closed(used)
        except AnswerRefused:
            return None
        if not whole or reader.head is None:
            return None
        return reader.head.status, bytes(buffer.view[slice(*reader.body)])


def framing(example: tuple[bytes, list[int]]) -> None:
    """An answer's end and body are found as h11 finds them, and however it is cut, or it is refused."""
    content, cuts = example
    found = _read_framing(content, cuts)
    assert found == _read_framing(content, []) == _read_framing(content, [-1])
    if found is None:
        return
    assert len(found[1]) <= LIMIT
    with suppress(NotRead):  # h11 refuses some that is harmless here, such as what trailers have in them
        assert answer_of(content) == found


# --- the whole wire ---------------------------------------------------------------------------------------------------


class _OneEnd(Wire):
    """A wire whose connection is one end of a pair of sockets."""

    def __init__(self, end: socket.socket) -> None:
        super().__init__(WireAddress(url="http://vault.test", timeout=60))
        self._end = end
        self.connection: WireConnection | None = None

    async def _connect(self) -> WireConnection:
        self.connection = WireConnection(self._end, limit=LIMIT, small_buffer=SMALL)
        return self.connection


def _opened(answer: WireAnswer) -> tuple[int, list[bytes | None] | None]:
    """As `transit` reads a batch."""
    found = find_items(answer.body)
    if found.items is None or answer.status != 200:
        return answer.status, None
    results: list[bytes | None] = []
    for result in open_items(answer.body, answer.address, found.items):
        if isinstance(result, Plaintext):
            with result.reveal() as view:
                results.append(bytes(view))
            result.wipe()
        else:
            assert isinstance(result, CredentialsError)
            results.append(None)
    return answer.status, results


async def _exchanged(content: bytes, cuts: list[int]) -> tuple[int, list[bytes | None] | None] | None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    wire = _OneEnd(ours)
    asked = asyncio.create_task(wire.post(b"POST / HTTP/1.1\r\n\r\n", _opened))
    largest = 0
    try:
        await asyncio.sleep(0)
        for piece in pieces(content, cuts):
            with suppress(OSError):  # it may have hung up
                theirs.send(piece)
            await asyncio.sleep(0)
            if wire.connection is not None and wire.connection.is_open:
                largest = max(largest, wire.connection.buffer.size)
        theirs.close()
        try:
            return await asked
        except (VaultUnavailable, NotVaults):  # the second is caught in `transit`
            return None
    finally:
        connection = wire.connection
        assert connection is not None
        assert largest <= 4 * LIMIT
        if connection.is_open:  # wiped, and of its small size again; else its pages are gone
            assert connection.buffer.size == SMALL
            assert not any(connection.buffer.view)
        wire.close()
        theirs.close()
        assert not connection.is_open
        assert not connection.buffer.address  # unmapped


def wire(example: tuple[bytes, list[int]]) -> None:
    """Whatever a Vault sends: our error or what is encrypted there by h11 and json; buffers wiped, memory bounded."""
    content, cuts = example
    with asyncio.Runner() as runner:
        found = runner.run(_exchanged(content, cuts))
    if found is None or found[1] is None:
        return
    try:
        status, body = answer_of(content)
    except NotRead:
        # What h11 is stricter in: then no more is known than what json says of the body that was found.
        told = _read_framing(content, [])
        assert told is not None
        status, body = told
    assert status == found[0]
    assert [plaintext_of(item) for item in object_of(body)["data"]["batch_results"]] == found[1]


# --- bodies -----------------------------------------------------------------------------------------------------------


def _answered(document: bytes, read: Callable[[WireAnswer], Any], status: int = 200) -> Any:
    with SecretBuffer(len(document) + 10) as buffer:
        buffer.view[:] = b"]" * 5 + document + b"}" * 5
        with buffer.view[5:-5] as body:
            result = read(WireAnswer(status, "", body, buffer.address + 5))
        assert bytes(buffer.view[:5]) + bytes(buffer.view[-5:]) == b"]]]]]}}}}}"  # it keeps to its place
        return result


def batch(document: bytes) -> None:
    """A batch's plaintexts are those that json finds, or it is none of Vault's."""
    try:
        _, found = _answered(document, _opened)
    except NotVaults:
        return
    told = object_of(document)
    if found is not None:
        assert [plaintext_of(item) for item in told["data"]["batch_results"]] == found


def unwrapped(document: bytes) -> None:
    """The client's unwrapping: the plaintext that json finds, or a refusal."""
    found = _answered(document, unwrapping._unwrapped)
    if isinstance(found, Plaintext):
        with found.reveal() as view:
            assert bytes(view) == base64.b64decode(object_of(document)["data"]["plaintext"], validate=True)
        found.wipe()
    else:
        assert isinstance(found.error, CredentialsError)


def looked_up(example: tuple[bytes, int]) -> None:
    """The client's look-up of a token, of any status."""
    found = _answered(example[0], unwrapping._looked_up, example[1])
    assert isinstance(found, tuple) or isinstance(found.error, CredentialsError)


def handed_off(document: bytes) -> None:
    """The service's answer to a hand-off, as the client takes it."""
    try:
        found = unwrapping.handed_off(document)
    except UnexpectedAnswer:
        return
    with found.token.reveal() as view:
        assert bytes(view) == json.loads(document)["wrapping_token"].encode()
    found.token.wipe()


PATH = "transit/decrypt/credentials-alpaca"
WRAP = {
    "token": "hvs.CAESIAbcdefghijklmnopqrstuvwxyz0123456789",
    "accessor": "x",
    "ttl": 30,
    "creation_time": "2026-01-31T12:00:00.123456789Z",
    "creation_path": PATH,
}


def wrapped(example: tuple[bytes, int]) -> None:
    """Vault's answer to a wrapped decryption: the token that json finds, or an error of ours."""
    document, status = example
    try:
        found = _answered(document, partial(wrapping._wrapped, PATH, 30), status)
    except CredentialsError:
        return
    info = object_of(document)
    assert info.get("data") is None
    with found.token.reveal() as view:
        assert bytes(view) == info["wrap_info"]["token"].encode()
    found.token.wipe()


# --- what callers send ------------------------------------------------------------------------------------------------

_KEY = ec.generate_private_key(ec.SECP256R1())
_PUBLIC = jwt.PyJWK(json.loads(jwt.get_algorithm_by_name("ES256").to_jwk(_KEY.public_key())), "ES256")


class _Keys:
    """An issuer's keys: one, whatever is asked for."""

    async def find(self, _kid: str | None, _algorithm: str) -> jwt.PyJWK:
        return _PUBLIC


def _signed(header: bytes, payload: bytes) -> bytes:
    text = f"{segment(header)}.{segment(payload)}"
    return f"{text}.{segment(jwt.get_algorithm_by_name('ES256').sign(text.encode(), _KEY))}".encode()


CLAIMS = {"iss": "https://issuer.test", "aud": "x", "sub": "alice", "roles": ["user"], "exp": 4102444800, "nbf": 1}
GOOD_HEADER, GOOD_CLAIMS = b'{"alg":"ES256","kid":"k1","typ":"JWT"}', json.dumps(CLAIMS).encode()
GOOD = _signed(GOOD_HEADER, GOOD_CLAIMS)


def _verified(token: bytes) -> Identity | None:
    keys: Any = _Keys()
    verifier = TokenVerifier(keys, issuer="https://issuer.test", audience="x", algorithms=["ES256"])
    with asyncio.Runner() as runner:
        try:
            return runner.run(verifier.verify(token.decode("latin-1")))
        except AuthenticationFailed:
            return None


def token(given: bytes) -> None:
    """No changed token is taken."""
    assert (_verified(given) is not None) == (given == GOOD)


def claims(example: tuple[bytes, bytes]) -> None:
    """Of whatever the issuer has signed: refused, or the claims that json finds."""
    header, payload = example
    found = _verified(_signed(header, payload))
    if found is not None:
        told = json.loads(payload)
        assert (told["sub"], told["iss"]) == (found.subject, "https://issuer.test")
        assert "x" in told["aud"]
        assert json.loads(header)["alg"] == "ES256"


def cursor(text: str) -> None:
    """A cursor has one spelling, or is refused."""
    for parse in (credential_cursor, event_cursor):
        with suppress(InvalidInput):
            found = parse(text)
            assert found is not None
            assert encode_cursor(found) == text


@dataclass(frozen=True)
class Target:
    """Something that reads what others send."""

    examples: st.SearchStrategy[Any]
    holds: Callable[[Any], None]


HAND_OFF = json.dumps(
    {
        "handoff_id": "6f9619ff-8b86-4011-b42d-00c04fc964ff",
        "wrapping_token": WRAP["token"],
        "creation_path": PATH,
        "vault_addr": "https://vault.test",
        "vault_namespace": None,
        "credential_type": "alpaca",
    }
).encode()
STATUSES = st.sampled_from([200, 200, 200, 204, 400, 403, 404, 429, 500, 503])
CURSORS = st.sampled_from(
    [b"YwAGAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", b"ZQAGAAAAAAAAAAAAAAAAAAE", b"ZQAGSZ-lIwAAAAAAAAAAACo", b""]
)

TARGETS = {
    "framing of answers": Target(st.tuples(mutated(_framed(BATCHES | ERRORS)), CUTS), framing),
    "the wire": Target(st.tuples(mutated(_framed(mutated(BATCHES, 2) | ERRORS), 3), CUTS), wire),
    "batches": Target(mutated(BATCHES), batch),
    "unwrapping": Target(
        mutated(PLAINTEXTS.map(lambda plain: _document({"plaintext": base64.b64encode(plain).decode()}))), unwrapped
    ),
    "look-ups": Target(
        st.tuples(mutated(st.just(_document({"creation_path": PATH, "creation_ttl": 30}))), STATUSES), looked_up
    ),
    "hand-offs": Target(mutated(st.just(HAND_OFF)), handed_off),
    "wrapped answers": Target(st.tuples(mutated(st.just(_document(None, wrap_info=WRAP))), STATUSES), wrapped),
    "tokens": Target(mutated(st.just(GOOD)), token),
    "claims": Target(st.tuples(mutated(st.just(GOOD_HEADER), 1), mutated(st.just(GOOD_CLAIMS))), claims),
    "cursors": Target(mutated(CURSORS).map(lambda raw: raw.decode("latin-1")) | st.text(max_size=80), cursor),
}
