"""Bad input of every form, sent over a real socket: a refusal that names the field, and no trace of what was sent.

Each request has a random secret in it. It is in no answer and in no line that any logger writes at DEBUG, and nothing
is left of the request in either store.
"""

import asyncio
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
import pytest

from service.app import create_app
from service.server import config
from tests.evidence import every_log_line, found
from tests.rest import Headers, stored
from tests.stored import some_user
from tests.support import Stack, canary
from tests.written import Connection

SECRET = "SECRET-GOES-HERE"  # replaced by a random one in each test
USER = "bad-input"
ACCOUNT = "6f9619ff-8b86-4011-b42d-00c04fc964ff"
GOOD: dict[str, Any] = {
    "account_id": ACCOUNT,
    "credential_type": "alpaca",
    "api_key": SECRET,
    "secret_key": f"{SECRET}2",
}
STORE, PATCH, VALIDATE = "POST /v1/credentials", "PATCH /v1/credentials/ID", "POST /v1/credentials/validate"
JSON = (("Content-Type", "application/json"),)
FORM, KEY, ACTIVE = "application/x-www-form-urlencoded", "Idempotency-Key", b'{"is_active": true}'


@dataclass(frozen=True)
class Bad:
    """One request. `field` is what the refusal names; None where the status says it all."""

    status: int
    field: str | None
    request: str = STORE
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = JSON
    chunked: bool = False
    role: str = "user"


def body(**changes: Any) -> bytes:
    return json.dumps({name: value for name, value in (GOOD | changes).items() if value is not ...}).encode()


def raw(text: str, encoding: str = "utf-8") -> bytes:
    return text.encode(encoding)


RETIRE = "POST /v1/keys/credentials-alpaca/retire"


def retiring(version: str) -> Bad:
    """A retirement below what is no version."""
    return Bad(422, "below_version", RETIRE, raw(f'{{"below_version": {version}}}'), role="operator")


def with_header(name: str, value: str) -> tuple[tuple[str, str], ...]:
    return (*JSON, (name, value))


FORMS: dict[str, Bad] = {
    # wrong types
    **{
        f"{name} is {label}": Bad(422, name, body=body(**{name: value}))
        for name in GOOD
        for label, value in (
            ("a number", 7),
            ("a boolean", True),
            ("null", None),
            ("a list", [SECRET]),
            ("an object", {SECRET: SECRET}),
        )
    },
    "is_active is text": Bad(422, "is_active", PATCH, raw(f'{{"is_active": "{SECRET}"}}')),
    "is_active is 1": Bad(422, "is_active", PATCH, b'{"is_active": 1}'),
    "a key to validate is a number": Bad(422, "api_key", VALIDATE, raw(f'{{"api_key": 1, "secret_key": "{SECRET}"}}')),
    # missing, unknown
    **{f"{name} is missing": Bad(422, name, body=body(**{name: ...})) for name in GOOD},
    "everything is missing": Bad(422, "account_id", body=b"{}"),
    "nothing to change": Bad(422, "body", PATCH, b"{}"),
    "nothing but null to change": Bad(422, "body", PATCH, b'{"api_key": null, "is_active": null}'),
    "an unknown field": Bad(422, "body", body=body(user_id=SECRET)),
    "an unknown field to validate": Bad(422, "body", VALIDATE, body(account_id=...)),
    "a secret as a field's name": Bad(422, "body", body=body(**{SECRET: "x"})),
    "a secret as a field's name, to change": Bad(422, "body", PATCH, raw(f'{{"{SECRET}": true}}')),
    # keys
    **{
        f"{name} {label}": Bad(422, name, body=body(**{name: value}))
        for name in ("api_key", "secret_key")
        for label, value in (
            ("is empty", ""),
            ("is over-long", SECRET + "x" * 512),
            ("is not ASCII", f"{SECRET}é"),
            ("has an emoji", f"{SECRET}\U0001f600"),
            ("has a newline", f"{SECRET}\n"),
            ("has a tab", f"{SECRET}\tx"),
            ("has DEL", f"{SECRET}\x7f"),
            ("has an escape", f"\x1b[2J{SECRET}"),
            ("has NUL", f"{SECRET}\0"),
            ("has half a surrogate pair", f"{SECRET}\ud800"),
            ("begins with a space", f" {SECRET}"),
            ("ends with a space", f"{SECRET} "),
            ("is only a space", " "),
        )
    },
    "a new key that is not ASCII": Bad(422, "secret_key", PATCH, raw(json.dumps({"secret_key": f"{SECRET}é"}))),
    "a new key that is empty": Bad(422, "api_key", PATCH, raw(f'{{"api_key": "", "secret_key": "{SECRET}"}}')),
    "a key to validate that has a newline": Bad(
        422, "api_key", VALIDATE, raw(json.dumps({"api_key": f"{SECRET}\r\nX: y", "secret_key": SECRET}))
    ),
    # ids and types
    **{
        f"account_id {label}": Bad(422, "account_id", body=body(account_id=value))
        for label, value in (
            ("is no UUID", SECRET),
            ("is empty", ""),
            ("is in braces", f"{{{ACCOUNT}}}"),
            ("has no dashes", ACCOUNT.replace("-", "")),
            ("is a URN", f"urn:uuid:{ACCOUNT}"),
            ("has a newline", f"{ACCOUNT}\n"),
            ("has NUL", f"{ACCOUNT}\0"),
            ("has digits that are not ASCII", "６" + ACCOUNT[1:]),
            ("climbs the KV path", "../../sys/seal"),
        )
    },
    "the type is unknown": Bad(422, "credential_type", body=body(credential_type=SECRET)),
    "the type in capitals": Bad(422, "credential_type", body=body(credential_type="ALPACA")),
    "the type has NUL": Bad(422, "credential_type", body=body(credential_type="alpaca\0")),
    "the type is another transit key": Bad(422, "credential_type", body=body(credential_type="idempotency")),
    "an id in the path that is no UUID": Bad(422, "credential_id", f"PATCH /v1/credentials/{SECRET}", ACTIVE),
    "an id to delete that is no UUID": Bad(422, "credential_id", f"DELETE /v1/credentials/{SECRET}", headers=()),
    "an id to read that is no UUID": Bad(422, "credential_id", f"GET /v1/credentials/{SECRET}", headers=()),
    "an id with NUL": Bad(422, "credential_id", f"GET /v1/credentials/{SECRET}%00", headers=()),
    "an id that is no UTF-8": Bad(422, "credential_id", f"GET /v1/credentials/{SECRET}%ff", headers=()),
    "an id with a slash": Bad(404, None, f"GET /v1/credentials/{ACCOUNT}%2F{SECRET}", headers=()),
    "events of what is no UUID": Bad(422, "credential_id", f"GET /v1/credentials/{SECRET}/events", headers=()),
    # the body as a whole
    "no body": Bad(422, "body"),
    "not JSON": Bad(422, "body", body=raw(f"{{{SECRET}")),
    "cut off": Bad(422, "body", body=body()[:-1]),
    "something after the object": Bad(422, "body", body=body() + raw(SECRET)),
    "a list": Bad(422, "body", body=b"[" + body() + b"]"),
    "a string": Bad(422, "body", body=raw(f'"{SECRET}"')),
    "null": Bad(422, "body", body=b"null"),
    "bad UTF-8": Bad(422, "body", body=raw(f'{{"api_key": "{SECRET}') + b'\xff"}'),
    "UTF-16": Bad(422, "body", body=raw(body().decode(), "utf-16")),
    "Latin-1": Bad(422, "body", body=raw(f'{{"api_key": "{SECRET}é"}}', "latin-1")),
    "a byte order mark": Bad(422, "body", body=b"\xef\xbb\xbf" + body()),
    "a NUL byte": Bad(422, "body", body=raw(f'{{"api_key": "{SECRET}') + b'\0"}'),
    "a duplicate key": Bad(422, "body", body=body()[:-1] + raw(f', "api_key": "{SECRET}"}}')),
    "a duplicate key by an escape": Bad(422, "body", body=body()[:-1] + raw(f', "api\\u005fkey": "{SECRET}"}}')),
    "a duplicate key inside": Bad(422, "body", body=raw(f'{{"x": {{"a": 1, "a": "{SECRET}"}}}}')),
    "NaN": Bad(422, "body", body=body()[:-1] + b', "x": NaN}'),
    "Infinity": Bad(422, "body", body=body()[:-1] + b', "x": -Infinity}'),
    "a number of 5,000 digits": Bad(422, "body", body=raw(f'{{"x": {"1" * 5000}, "api_key": "{SECRET}"}}')),
    "deep lists": Bad(422, "body", body=raw(f'{{"api_key": "{SECRET}", "x": ') + b"[" * 15_000),
    "deep objects": Bad(422, "body", body=raw(f'{{"api_key": "{SECRET}", "x": ') + b'{"a":' * 3_000),
    # versions to retire
    **{
        f"below_version is {label}": retiring(version)
        for label, version in (
            ("0", "0"),
            ("negative", "-1"),
            ("true", "true"),
            ("false", "false"),
            ("null", "null"),
            ("a float", "1.5"),
            ("an exponent", "15e-1"),
            ("beyond all floats", "1e400"),
            ("a whole float that is too large", "1e300"),
            ("a whole float that is too small", "0.0"),
            ("text", '"1"'),
            ("a secret", f'"{SECRET}"'),
            ("a list", "[1]"),
            ("an object", f'{{"{SECRET}": 1}}'),
            ("above the newest", "2147483647"),
            ("more than a column holds", "2147483648"),
            ("more than 64 bits", "18446744073709551616"),
        )
    },
    "below_version is missing": Bad(422, "below_version", RETIRE, b"{}", role="operator"),
    "below_version has 5,000 digits": Bad(
        422, "body", RETIRE, b'{"below_version": %b}' % (b"9" * 5000), role="operator"
    ),
    "below_version is infinite": Bad(422, "body", RETIRE, b'{"below_version": Infinity}', role="operator"),
    "below_version twice": Bad(422, "body", RETIRE, b'{"below_version": 1, "below_version": 1}', role="operator"),
    "more than below_version": Bad(
        422, "body", RETIRE, raw(f'{{"below_version": 1, "{SECRET}": 1}}'), role="operator"
    ),
    "no body to retire": Bad(422, "body", RETIRE, role="operator"),
    "a huge body to retire": Bad(413, None, RETIRE, b'{"below_version": 1}' + b" " * 20_000, role="operator"),
    "a form to retire": Bad(
        415, None, RETIRE, raw(f"below_version={SECRET}"), (("Content-Type", FORM),), role="operator"
    ),
    "a secret in the query to retire": Bad(
        422, "query", f"{RETIRE}?below_version={SECRET}", b'{"below_version": 1}', role="operator"
    ),
    "a secret as a key": Bad(404, None, f"GET /v1/keys/{SECRET}", headers=(), role="operator"),
    "a secret as a key to rotate": Bad(404, None, f"POST /v1/keys/{SECRET}/rotate", headers=(), role="operator"),
    "a key with NUL": Bad(404, None, f"POST /v1/keys/{SECRET}%00/rewrap", headers=(), role="operator"),
    "a key that is no UTF-8": Bad(404, None, f"POST /v1/keys/{SECRET}%ff/rewrap", headers=(), role="operator"),
    "a key with a slash": Bad(404, None, f"POST /v1/keys/..%2f{SECRET}/rewrap", headers=(), role="operator"),
    "a key to retire that is none": Bad(
        404, None, f"POST /v1/keys/{SECRET}/retire", b'{"below_version": 1}', role="operator"
    ),
    "a secret as a job": Bad(422, "job_id", f"GET /v1/jobs/{SECRET}", headers=(), role="operator"),
    "a secret as a job to stop": Bad(422, "job_id", f"POST /v1/jobs/{SECRET}/stop", headers=(), role="operator"),
    "a job in braces": Bad(422, "job_id", f"GET /v1/jobs/%7B{ACCOUNT}%7D", headers=(), role="operator"),
    "a secret as X-User-Id of an operator": Bad(
        403, None, RETIRE, b'{"below_version": 1}', with_header("X-User-Id", SECRET), role="operator"
    ),
    "a secret to rotate, by a query": Bad(
        422, "query", f"POST /v1/keys/credentials-alpaca/rotate?{SECRET}", headers=(), role="operator"
    ),
    # size
    "a huge body": Bad(413, None, body=body(secret_key=SECRET * 10_000)),
    "a huge body without content-length": Bad(413, None, body=body(secret_key=SECRET * 10_000), chunked=True),
    "a huge body that is only space": Bad(413, None, body=body() + b" " * 20_000),
    "a huge body to change": Bad(413, None, PATCH, body(account_id=..., credential_type=...) + b" " * 20_000),
    "a huge body to validate": Bad(413, None, VALIDATE, body() + b" " * 20_000, chunked=True),
    # content type
    "no content type": Bad(415, None, body=body(), headers=()),
    "a form": Bad(415, None, body=raw(f"api_key={SECRET}"), headers=(("Content-Type", FORM),)),
    "text": Bad(415, None, body=body(), headers=(("Content-Type", "text/plain"),)),
    "another charset": Bad(415, None, body=body(), headers=(("Content-Type", "application/json; charset=latin-1"),)),
    "two content types": Bad(415, None, body=body(), headers=(*JSON, ("Content-Type", "text/plain"))),
    "a secret as content type": Bad(415, None, body=body(), headers=(("Content-Type", SECRET),)),
    "compressed": Bad(415, None, body=body(), headers=with_header("Content-Encoding", "gzip")),
    # secrets in wrong places
    "a secret in the query": Bad(422, "query", f"{STORE}?api_key={SECRET}", body()),
    "a secret as a parameter": Bad(422, "query", f"GET /v1/credentials?{SECRET}=1", headers=()),
    "a secret as a cursor": Bad(422, "cursor", f"GET /v1/credentials?cursor={SECRET}", headers=()),
    "a secret as a limit": Bad(422, "limit", f"GET /v1/credentials?limit={SECRET}", headers=()),
    "a secret as an age": Bad(422, "updated_before", f"GET /v1/credentials?updated_before={SECRET}", headers=()),
    "a secret as a yes or no": Bad(422, "used", f"GET /v1/credentials?used={SECRET}", headers=()),
    "a secret as what is accepted": Bad(
        422, "limit", f"GET /v1/events?limit={SECRET}", headers=(("Accept", f"application/x-ndjson;q={SECRET}"),)
    ),
    "a secret as a time": Bad(422, "since", f"GET /v1/events?since={SECRET}", headers=()),
    "a secret as an action": Bad(422, "action", f"GET /v1/events?action={SECRET}", headers=()),
    "a secret as an address": Bad(404, None, f"GET /{SECRET}", headers=()),
    "a secret as an address under v1": Bad(404, None, f"POST /v1/{SECRET}", body()),
    "a secret as Idempotency-Key": Bad(422, KEY, body=body(), headers=with_header(KEY, f"{SECRET} x")),
    "a secret as If-Match": Bad(422, "If-Match", PATCH, ACTIVE, with_header("If-Match", SECRET)),
    "a secret as X-User-Id": Bad(403, None, body=body(), headers=with_header("X-User-Id", SECRET)),
    "a secret as X-Request-Id": Bad(422, "body", body=b"", headers=with_header("X-Request-Id", f"{SECRET}!")),
    "a secret as another header": Bad(422, "body", body=b"", headers=with_header("X-Api-Key", SECRET)),
    "a secret as a cookie": Bad(422, "body", body=b"", headers=with_header("Cookie", f"key={SECRET}")),
}  # fmt: skip


@dataclass
class Seen:
    """An answer, as it came over the wire."""

    whole: bytes
    status: int = field(init=False)
    document: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        head, _, content = self.whole.partition(b"\r\n\r\n")
        self.status = int(head.split(b" ", 2)[1])
        assert b"content-type: application/problem+json" in head.lower()
        self.document = json.loads(content)


async def exchange(url: str, bad: Bad, caller: Headers, secret: str, credential_id: str) -> Seen:
    """Sends the request by hand: an HTTP library would refuse some, and log addresses itself."""
    line = bad.request.replace(SECRET, secret).replace("ID", credential_id)
    content = bad.body.replace(SECRET.encode(), secret.encode()).replace(
        SECRET.encode("utf-16-le"), secret.encode("utf-16-le")
    )
    headers = [("Host", urlsplit(url).netloc), *caller.items()]
    headers += [(name, value.replace(SECRET, secret)) for name, value in bad.headers]
    if bad.chunked:
        headers.append(("Transfer-Encoding", "chunked"))
        content = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in _parts(content)) + b"0\r\n\r\n"
    elif content or line.startswith(("POST", "PATCH")):
        headers.append(("Content-Length", str(len(content))))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return Seen(await send(url, f"{line} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + content))


async def send(url: str, request: bytes) -> bytes:
    """The whole answer. The connection is kept until it is there, as clients do."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(request)
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: ([0-9]+)\r\n", head)
            assert length is not None
            return head + await reader.readexactly(int(length[1]))
    finally:
        writer.close()


def _parts(content: bytes) -> list[bytes]:
    return [content[start : start + 4096] for start in range(0, len(content), 4096)]


async def answered(logged: list[str]) -> None:
    """Waits for the request's last log line, which comes after the answer."""
    async with asyncio.timeout(10):
        while not any(line.startswith("service.access ") for line in list(logged)):  # noqa: ASYNC110 - it runs in another thread
            await asyncio.sleep(0.002)


async def kept(conn: Connection, stack: Stack) -> list[Any]:
    """The user's rows, what is under way or remembered for them, and what KV has of the account."""
    return [
        await conn.fetch("SELECT * FROM credentials WHERE user_id = $1", USER),
        await conn.fetch("SELECT * FROM idempotency_keys WHERE user_id = $1", USER),
        await conn.fetch("SELECT * FROM write_intents WHERE kv_path LIKE $1", f"{ACCOUNT}/%"),
        await conn.fetch("SELECT * FROM jobs"),
        stack.vault("LIST", f"credentials/metadata/{ACCOUNT}/").json()["data"]["keys"],
    ]


def logged_secrets(secret: str, logged: list[str]) -> list[str]:
    """The lines that hold it. uvicorn's own access log aside: it is off, and only `every_log_line` turned it on."""
    ours = [line for line in logged if not line.startswith("uvicorn.access ")]
    return found([secret], {f"log: {line[:80]}": line for line in ours})


@pytest.fixture(scope="module")
async def victim(server: str, bearer: Callable[..., Headers]) -> str:
    """A credential of the user's, to change for the worse."""
    async with httpx.AsyncClient(base_url=server) as client:
        return str((await stored(client, bearer("user", USER), account_id=ACCOUNT))["id"])


@pytest.mark.parametrize("form", FORMS)
async def test_bad_input_is_refused_by_its_field_and_leaves_no_trace(
    form: str, server: str, victim: str, stack: Stack, bearer: Callable[..., Headers], owner_conn: Connection
) -> None:
    bad, secret = FORMS[form], canary("").upper()
    before = await kept(owner_conn, stack)
    with every_log_line() as logged:
        seen = await exchange(server, bad, bearer(bad.role, USER), secret, victim)
        await answered(logged)
    assert seen.status == bad.status, seen.document
    fields = [error["field"] for error in seen.document.get("errors", ())]
    assert fields[:1] == ([] if bad.field is None else [bad.field])
    assert all(error["problem"] for error in seen.document.get("errors", ()))
    assert found([secret], {"answer": seen.whole}) == []
    assert logged_secrets(secret, logged) == []
    assert await kept(owner_conn, stack) == before


def test_the_servers_own_access_log_which_has_addresses_is_off() -> None:
    assert config(create_app()).access_log is False


async def test_what_is_no_http_is_400_and_not_repeated(server: str) -> None:
    secret = canary("").upper()
    with every_log_line() as logged:
        whole = await send(server, f"{secret} /{secret} HTTP/1.1\r\n{secret}\r\n\r\n".encode())
    assert whole.startswith(b"HTTP/1.1 400 ")
    assert found([secret], {"answer": whole}) == logged_secrets(secret, logged) == []


async def test_the_same_request_without_what_is_bad_is_stored(
    server: str, bearer: Callable[..., Headers], owner_conn: Connection
) -> None:
    """Else all of the above could be refused for another reason."""
    user, account = some_user("good"), str(uuid4())
    good = Bad(201, None, body=body(account_id=account))
    with pytest.raises(AssertionError, match="problem"):  # `Seen` takes problems alone, and this is none
        await exchange(server, good, bearer("user", user), canary(), "")
    assert await owner_conn.fetchval("SELECT account_id FROM credentials WHERE user_id = $1", user) == UUID(account)


@pytest.mark.parametrize(
    "token",
    [SECRET, f"{SECRET}.{SECRET}.{SECRET}", "a" * 8193, "..", "eyJhbGciOiJub25lIn0.e30."],
    ids=["a secret", "three parts", "too long", "empty parts", "no signature"],
)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "Basic", ""])
async def test_a_bad_token_is_401_and_is_logged_nowhere(token: str, scheme: str, server: str) -> None:
    secret = canary("")
    given = token.replace(SECRET, secret)
    with every_log_line() as logged:
        caller = {"Authorization": f"{scheme} {given}".strip()}
        seen = await exchange(server, Bad(401, None, "GET /v1/credentials", headers=()), caller, secret, "")
        await answered(logged)
    assert seen.status == 401
    assert b"www-authenticate: bearer" in seen.whole.lower()
    assert found([secret], {"answer": seen.whole}) == logged_secrets(secret, logged) == []


def test_the_search_finds_what_is_logged() -> None:
    secret = canary()
    with every_log_line() as logged:
        logging.getLogger("service.api").debug("%s", secret)
    assert len(logged_secrets(secret, logged)) == 1
