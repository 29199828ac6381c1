"""What forged and twisted tokens get from the running service: one table of attacks, each sent over a real socket.

`pytest -s` prints the table. What the verifier does inside is in `tests/integration/test_identity.py`.
"""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from service.authz.identity import MAX_TOKEN_BYTES
from tests.doubles.oidc_issuer import KEYS, OidcIssuer, public_jwk, segment
from tests.proxying import RawAnswer, raw
from tests.rest import PROBLEM
from tests.support import Stack, serving

FAILED, MISSING, BROKEN = "401 authentication-failed", "401 authentication-required", "400 -"
DENIED, TAKEN, TOO_LARGE = "403 permission-denied", "200 -", "431 headers-too-large"


@dataclass
class Attacker:
    """Who knows all that is public, and has a good token of their own and another environment's keys."""

    issuer: OidcIssuer
    evil: OidcIssuer
    vaults: str
    """A good token of this stack's Vault, which is not the service's issuer here."""

    def made(self, header: dict[str, Any] | None = None, payload: bytes | None = None, **claims: Any) -> str:
        """A token with the issuer's own good signature."""
        content = json.dumps(self.issuer.claims(**claims)).encode() if payload is None else payload
        return self.issuer.signed("k1", {"alg": "ES256", "kid": "k1", **(header or {})}, content)

    def forged(self, **header: Any) -> str:
        """Good claims, signed by a key of the attacker's own."""
        return self.evil.signed("k1", {"alg": "ES256", **header}, json.dumps(self.issuer.claims()).encode())

    def hmac(self, algorithm: str, form: str) -> str:
        """An HMAC with the issuer's public key as its secret."""
        key = self.issuer.private["rsa"][0].public_key()
        info = serialization.PublicFormat.SubjectPublicKeyInfo
        secret = {
            "PEM": key.public_bytes(serialization.Encoding.PEM, info),
            "DER": key.public_bytes(serialization.Encoding.DER, info),
            "JWK": json.dumps(public_jwk(self.issuer.private["rsa"][0], "RS256")).encode(),
        }[form]
        text = f"{segment({'alg': algorithm, 'kid': 'rsa'})}.{segment(self.issuer.claims())}"
        return f"{text}.{segment(hmac.digest(secret, text.encode(), 'sha256'))}"

    def twice(self, first: str, second: str) -> str:
        """Claims with one member twice."""
        claims = json.dumps(self.issuer.claims(sub=None))
        return self.made(payload=(claims[:-1] + f", {first}, {second}}}").encode())

    def header_twice(self) -> str:
        """A header with one member twice, well signed."""
        header = b'{"alg": "none", "alg": "ES256", "kid": "k1"}'
        return self.issuer.signed("k1", header, json.dumps(self.issuer.claims()).encode())

    def spelled(self, change: Callable[[str], str]) -> str:
        """The signature of a good token in another spelling."""
        head, _, signature = self.made().rpartition(".")
        return f"{head}.{change(signature)}"

    def now(self) -> int:
        return int(time.time())


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}\r\n"


def _unsigned(by: Attacker, algorithm: str, signature: str = "") -> str:
    return f"{segment({'alg': algorithm, 'kid': 'k1'})}.{segment(by.issuer.claims())}.{signature}"


def _jwe(_by: Attacker) -> str:
    header = segment({"alg": "RSA-OAEP", "enc": "A256GCM", "cty": "JWT", "kid": "rsa"})
    return ".".join((header, segment(b"k" * 256), segment(b"i" * 12), segment(b"c" * 200), segment(b"t" * 16)))


def _last(signature: str) -> str:
    # 64 bytes leave four bits over, which the decoder ignores.
    return signature[:-1] + chr(ord(signature[-1]) + 1)


# What is sent as the token, by the name of the attack, and what it gets.
TOKENS: dict[str, tuple[Callable[[Attacker], str], str]] = {
    "a good one, for comparison": (lambda by: by.made(), TAKEN),
    # algorithms
    "alg none": (lambda by: _unsigned(by, "none"), FAILED),
    "alg None": (lambda by: _unsigned(by, "None"), FAILED),
    "alg nOnE, a signature": (lambda by: _unsigned(by, "nOnE", "AAAA"), FAILED),
    "alg empty": (lambda by: _unsigned(by, "", "AAAA"), FAILED),
    "alg es256 (case)": (lambda by: by.made({"alg": "es256"}), FAILED),
    "alg RS256 with an EC key's kid": (lambda by: by.made({"alg": "RS256"}), FAILED),
    "alg ES384 with a P-256 key's kid": (lambda by: by.made({"alg": "ES384"}), FAILED),
    "alg a list": (lambda by: by.made({"alg": ["ES256"]}), FAILED),
    "HS256, the public key as PEM its secret": (lambda by: by.hmac("HS256", "PEM"), FAILED),
    "HS256, as DER": (lambda by: by.hmac("HS256", "DER"), FAILED),
    "HS256, as JWK": (lambda by: by.hmac("HS256", "JWK"), FAILED),
    "hs256": (lambda by: by.hmac("hs256", "PEM"), FAILED),
    "an HMAC that says RS256": (lambda by: by.hmac("RS256", "PEM"), FAILED),
    "ES256 with r = s = 0": (lambda by: _unsigned(by, "ES256", segment(bytes(64))), FAILED),
    "no signature": (lambda by: _unsigned(by, "ES256"), FAILED),
    "another key's signature": (lambda by: by.forged(kid="k1"), FAILED),
    # the key's id, and keys that are brought along
    **{
        f"kid {name}": (partial(Attacker.forged, kid=kid), FAILED)
        for name, kid in {
            "a path": "../../../../dev/null",
            "a file": "file:///dev/null",
            "SQL": "x' UNION SELECT 'AAAA",
            "a command": "/dev/null; id",
            "with NUL": "k1\0.pem",
            "a number": 7,
            "a list": ["k1"],
            "an object": {"k1": 1},
            "of 4 kB": "k" * 4000,
            "in another case": "K1",
            "in full width": "\uff4b\uff11",
            "empty": "",
            "null": None,
        }.items()
    },
    "kid a URL": (lambda by: by.forged(kid=by.evil.url + KEYS), FAILED),
    "jku": (lambda by: by.forged(kid="k1", jku=by.evil.url + KEYS), FAILED),
    "x5u": (lambda by: by.forged(kid="k1", x5u=by.evil.url + KEYS), FAILED),
    "x5c": (lambda by: by.forged(kid="k1", x5c=["AAAA"]), FAILED),
    "jwk": (lambda by: by.forged(jwk=public_jwk(by.evil.private["k1"][0], "ES256")), FAILED),
    "jwk beside a good signature": (lambda by: by.made({"jwk": public_jwk(by.evil.private["k1"][0], "ES256")}), TAKEN),
    "crit": (lambda by: by.made({"crit": ["exp"]}), FAILED),
    "b64 false": (lambda by: by.made({"b64": False}), FAILED),
    # times, audience, issuer
    "expired": (lambda by: by.made(exp=by.now() - 60), FAILED),
    "not yet valid": (lambda by: by.made(nbf=by.now() + 3600), FAILED),
    "made in the future": (lambda by: by.made(iat=by.now() + 3600), FAILED),
    "without exp": (lambda by: by.made(exp=None), FAILED),
    "exp as text": (lambda by: by.made(exp="9999999999"), FAILED),
    "exp true": (lambda by: by.made(exp=True), FAILED),
    "exp Infinity": (lambda by: by.made(exp=float("inf")), FAILED),
    "exp NaN": (lambda by: by.made(exp=float("nan")), FAILED),
    "nbf null": (lambda by: by.made(payload=json.dumps(by.issuer.claims() | {"nbf": None}).encode()), FAILED),
    "iat null": (lambda by: by.made(payload=json.dumps(by.issuer.claims() | {"iat": None}).encode()), FAILED),
    "another audience": (lambda by: by.made(aud="vault-credentials-staging"), FAILED),
    "an audience that begins alike": (lambda by: by.made(aud=["vault-credentials."]), FAILED),
    "without an audience": (lambda by: by.made(aud=None), FAILED),
    "another issuer, this one's key": (lambda by: by.made(iss="https://staging.example"), FAILED),
    "another environment: the issuer's name, the key's id, other keys": (
        lambda by: by.evil.token("k1", iss=by.issuer.url),
        FAILED,
    ),
    "another environment: all of it": (lambda by: by.evil.token("k1"), FAILED),
    "another environment: a Vault's identity token": (lambda by: by.vaults, FAILED),
    # form
    "empty": (lambda _: "", FAILED),
    "one part": (lambda by: by.made().split(".")[0], FAILED),
    "two parts": (lambda by: by.made().rpartition(".")[0], FAILED),
    "four parts": (lambda by: by.made() + ".AAAA", FAILED),
    "four parts, signed": (lambda by: by.made().replace(".", ".e30.", 1), FAILED),
    "a thousand parts": (lambda _: ".".join(["e30"] * 1000), FAILED),
    "dots": (lambda _: "." * 1000, FAILED),
    "a nested JWE": (_jwe, FAILED),
    "a token within a token": (lambda by: by.made({"cty": "JWT"}, by.made().encode()), FAILED),
    "longer than is looked at": (lambda by: by.made(padding="x" * MAX_TOKEN_BYTES), FAILED),
    "longer than a head may be": (lambda _: "A" * 100_000, TOO_LARGE),
    "deep JSON for a header": (lambda _: f"{segment(b'[' * 5000)}.e30.AAAA", FAILED),
    "deep JSON for claims": (lambda by: by.made(payload=b'{"a":' * 1000), FAILED),
    "deep JSON in a claim": (lambda by: by.made(payload=_deep(by)), FAILED),
    "a name twice in the header": (lambda by: by.header_twice(), FAILED),
    "a name twice in the claims": (lambda by: by.twice('"sub": "alice"', '"sub": "bob"'), FAILED),
    "a name twice, once escaped": (lambda by: by.twice('"sub": "alice"', '"s\\u0075b": "bob"'), FAILED),
    "claims in UTF-16": (lambda by: by.made(payload=json.dumps(by.issuer.claims()).encode("utf-16")), FAILED),
    "claims with a byte order mark": (lambda by: by.made(payload=b"\xef\xbb\xbf" + b"{}"), FAILED),
    "padding": (lambda by: by.spelled(lambda signature: signature + "=="), FAILED),
    "base64 instead of base64url": (lambda by: by.spelled(lambda signature: "+/" + signature[2:]), FAILED),
    "characters that decoders pass over": (lambda by: by.spelled(lambda signature: signature + "~~~~"), FAILED),
    "bits that decoders ignore": (lambda by: by.spelled(_last), FAILED),
    # subject and roles
    "sub a number": (lambda by: by.made(sub=7), FAILED),
    "sub a list": (lambda by: by.made(sub=["alice"]), FAILED),
    "sub an object": (lambda by: by.made(sub={"alice": 1}), FAILED),
    "sub with NUL": (lambda by: by.made(sub="alice\0"), FAILED),
    "sub with a line feed": (lambda by: by.made(sub="alice\n"), FAILED),
    "sub with a right-to-left override": (lambda by: by.made(sub="\u202eecila"), FAILED),
    "sub with a zero-width joiner": (lambda by: by.made(sub="al\u200dice"), FAILED),
    "sub not composed": (lambda by: by.made(sub="e\u0301"), FAILED),
    "sub half a surrogate pair": (lambda by: by.made(sub="a\ud800"), FAILED),
    "roles a number": (lambda by: by.made(roles=1), DENIED),
    "roles an object": (lambda by: by.made(roles={"user": True}), DENIED),
    "roles nested": (lambda by: by.made(roles=[["user"]]), DENIED),
    "roles in another case": (lambda by: by.made(roles=["USER", "User"]), DENIED),
    "roles in full width": (lambda by: by.made(roles=["\uff55ser"]), DENIED),
    "roles with NUL": (lambda by: by.made(roles=["user\0"]), DENIED),
    "roles one text": (lambda by: by.made(roles="operator,user"), DENIED),
}


def _deep(by: Attacker) -> bytes:
    claims = json.dumps(by.issuer.claims()).encode()
    return claims[:-1] + b', "x": ' + b"[" * 2500 + b"]" * 2500 + b"}"


# The request's target and headers, of a good token but for what is said.
PLACES: dict[str, tuple[Callable[[str, str], tuple[str, str]], str]] = {
    "no token": (lambda path, _: (path, ""), MISSING),
    "the scheme in another case": (lambda path, token: (path, f"authorization: bEARER {token}\r\n"), TAKEN),
    "twice the same": (lambda path, token: (path, bearer(token) * 2), FAILED),
    "two, the good one first": (lambda path, token: (path, bearer(token) + bearer("e30.e30.AA")), FAILED),
    "two, the good one last": (lambda path, token: (path, bearer("e30.e30.AA") + bearer(token)), FAILED),
    "Basic before it": (lambda path, token: (path, "Authorization: Basic YTpi\r\n" + bearer(token)), FAILED),
    "two in one": (lambda path, token: (path, bearer(f"{token}, Bearer {token}")), FAILED),
    "without a scheme": (lambda path, token: (path, f"Authorization: {token}\r\n"), MISSING),
    "another scheme": (lambda path, token: (path, f"Authorization: DPoP {token}\r\n"), MISSING),
    "a tab for the space": (lambda path, token: (path, f"Authorization: Bearer\t{token}\r\n"), FAILED),
    "a space before the colon": (lambda path, token: (path, f"Authorization : Bearer {token}\r\n"), BROKEN),
    "folded over two lines": (lambda path, token: (path, f"Authorization: Bearer\r\n {token}\r\n"), BROKEN),
    "NUL behind it": (lambda path, token: (path, bearer(token + "\0")), BROKEN),
    "a byte that is no ASCII behind it": (lambda path, token: (path, bearer(token + "\xa0")), FAILED),
    "in the query": (lambda path, token: (f"{path}?access_token={token}", ""), MISSING),
    "in a cookie": (
        lambda path, token: (path, f"Cookie: access_token={token}; Authorization={token}\r\n"),
        MISSING,
    ),
    "in another header": (
        lambda path, token: (path, f"X-Authorization: Bearer {token}\r\n"),
        MISSING,
    ),
    "in Proxy-Authorization": (lambda path, token: (path, f"Proxy-Authorization: Bearer {token}\r\n"), MISSING),
    "X-User-Id alone": (lambda path, _: (path, "X-User-Id: alice\r\nX-Forwarded-User: alice\r\n"), MISSING),
    "underscores for hyphens": (lambda path, token: (path, bearer(token) + "X_User_Id: bob\r\n"), TAKEN),
}


@pytest.fixture(scope="module")
async def attacker(stack: Stack) -> AsyncIterator[Attacker]:
    async with OidcIssuer() as issuer, OidcIssuer() as evil:
        issuer.add_key("k1")
        issuer.add_key("rsa", "RS256")
        evil.add_key("k1")
        yield Attacker(issuer, evil, await asyncio.to_thread(stack.mint))


@pytest.fixture(scope="module")
async def port(stack: Stack, attacker: Attacker) -> AsyncIterator[int]:
    """The service, on a socket, with the attacked issuer."""
    settings = stack.settings(oidc_issuer=attacker.issuer.url, oidc_user_claim="sub", reconcile_interval=86_400)
    here = serving(settings)
    url = await asyncio.to_thread(here.__enter__)
    yield int(url.rpartition(":")[2])
    await asyncio.to_thread(here.__exit__, None, None, None)


@pytest.fixture(scope="module")
def told() -> Iterator[list[str]]:
    """The table, line by line; printed at the end."""
    lines: list[str] = []
    yield lines
    print("\n" + "\n".join(lines))  # noqa: T201 - it is what `-s` is for


async def asked(port: int, target: str, fields: str) -> RawAnswer:
    request = f"GET {target} HTTP/1.1\r\nHost: x\r\n{fields}Connection: close\r\n\r\n"
    return await raw(port, request.encode("latin-1"))


def outcome(answer: RawAnswer) -> str:
    """The status and the problem's name."""
    if b"application/problem+json" not in answer.head:
        return f"{answer.status} -"
    return f"{answer.status} {json.loads(answer.body)['type'].removeprefix(PROBLEM)}"


@pytest.mark.parametrize("name", TOKENS)
async def test_a_token_gets_what_the_table_says(
    name: str, port: int, attacker: Attacker, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    make, expected = TOKENS[name]
    token = make(attacker)
    answer = await asked(port, "/v1/credentials", bearer(token))
    got = outcome(answer)
    told.append(f"{name:66} {got}")
    assert got == expected
    assert not attacker.evil.seen  # no address that a token names is ever asked
    for part in (each for each in token.split(".") if len(each) > 20):
        assert part not in caplog.text
        assert part.encode() not in answer.head + answer.body
    # The next good one is taken: what came before harmed nobody.
    assert outcome(await asked(port, "/v1/credentials", bearer(attacker.made()))) == TAKEN


@pytest.mark.parametrize("name", PLACES)
async def test_a_token_is_taken_from_one_place_and_one_only(
    name: str, port: int, attacker: Attacker, told: list[str]
) -> None:
    make, expected = PLACES[name]
    got = outcome(await asked(port, *make("/v1/credentials", attacker.made())))
    told.append(f"{name:66} {got}")
    assert got == expected


async def test_every_refused_token_is_answered_alike(port: int, attacker: Attacker) -> None:
    """What was wrong with it is told to nobody: one answer, but for the request's own id and the date."""
    refused = [make(attacker) for make, expected in TOKENS.values() if expected == FAILED]
    answers = set()
    for token in refused:
        answer = await asked(port, "/v1/credentials", bearer(token))
        told = json.loads(answer.body)
        own_id = told.pop("instance")
        fields = [line for line in answer.head.split(b"\r\n") if not line.lower().startswith(b"date:")]
        answers.add((repr(fields).replace(own_id, "-"), json.dumps(told)))
    assert len(refused) > 60
    assert len(answers) == 1
