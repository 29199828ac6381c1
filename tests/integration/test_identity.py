"""Tokens of a foreign issuer, over real HTTP: what is accepted, what is not, and how often the issuer is asked."""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.authz.identity import MAX_TOKEN_BYTES, TokenVerifier
from service.authz.jwks import IssuerKeys
from service.authz.policy import Identity, Limits, Role
from service.errors import AuthenticationFailed, ConfigurationError, IssuerUnavailable
from service.settings import Settings
from tests.doubles.oidc_issuer import DISCOVERY, KEYS, OidcIssuer, public_jwk, segment
from tests.doubles.scripted_server import json_answer, raw_answer, redirect_answer

ALGORITHMS = ("RS256", "ES256", "EdDSA")


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def verifier_of(issuer: OidcIssuer, http: httpx.AsyncClient, clock: Clock, **changes: Any) -> TokenVerifier:
    algorithms = changes.pop("algorithms", ALGORITHMS)
    keys = IssuerKeys(http, issuer=issuer.url, algorithms=algorithms, cache_seconds=300, clock=clock)
    given = {"issuer": issuer.url, "audience": "vault-credentials", "algorithms": algorithms, **changes}
    return TokenVerifier(keys, **given)


@pytest.fixture
async def verifier(issuer: OidcIssuer, http: httpx.AsyncClient, clock: Clock) -> AsyncIterator[TokenVerifier]:
    made = verifier_of(issuer, http, clock)
    yield made
    await made.aclose()


async def refused(verifier: TokenVerifier, token: str) -> None:
    with pytest.raises(AuthenticationFailed) as refusal:
        await verifier.verify(token)
    assert refusal.value.args == (AuthenticationFailed.__doc__,)
    assert refusal.value.__cause__ is None


# --- what is accepted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_good_token_is_its_subject_and_roles(
    algorithm: str, issuer: OidcIssuer, verifier: TokenVerifier
) -> None:
    issuer.add_key("mine", algorithm)
    identity = await verifier.verify(issuer.token("mine"))
    assert identity == Identity(subject="alice", roles=frozenset({Role.USER}), limits=None)


@pytest.mark.parametrize(
    ("claim", "roles"),
    [
        ("auditor", {Role.AUDITOR}),
        (["user", "auditor", "user"], {Role.USER, Role.AUDITOR}),
        (["admin", "USER", 7, None, ["user"]], set()),
        ("user auditor", set()),
        ([], set()),
        (None, set()),
        ({"user": True}, set()),
        (True, set()),
    ],
)
async def test_roles_are_the_names_that_are_known(
    claim: object, roles: set[Role], issuer: OidcIssuer, verifier: TokenVerifier
) -> None:
    assert (await verifier.verify(issuer.token("k1", roles=claim))).roles == roles


async def test_settings_name_the_claims_and_the_issuers_roles(
    issuer: OidcIssuer, http: httpx.AsyncClient, clock: Clock
) -> None:
    verifier = verifier_of(
        issuer,
        http,
        clock,
        user_claim="https://example.org/name",
        roles_claim="realm_access.roles",
        role_names={"trading-bots": "orchestrator", "people": "user"},
        limits_claim="limits",
    )
    claims: dict[str, Any] = {
        "https://example.org/name": "bob",
        "realm_access": {"roles": ["trading-bots", "auditor"]},
        "limits": {"users": ["alice"]},
    }
    assert await verifier.verify(issuer.token("k1", **claims)) == Identity(
        subject="bob", roles=frozenset({Role.ORCHESTRATOR}), limits=Limits(users=frozenset({"alice"}))
    )


async def test_a_limits_claim_that_is_null_is_not_an_absent_one(issuer: OidcIssuer, verifier: TokenVerifier) -> None:
    payload = json.dumps(issuer.claims() | {"credentials_limits": None}).encode()
    token = issuer.signed("k1", {"alg": "ES256", "kid": "k1"}, payload)
    assert (await verifier.verify(token)).limits == Limits(frozenset(), frozenset())


async def test_a_token_without_kid_is_accepted_only_while_one_key_fits(
    issuer: OidcIssuer, verifier: TokenVerifier, clock: Clock
) -> None:
    token = issuer.signed("k1", {"alg": "ES256"}, json.dumps(issuer.claims()).encode())
    assert (await verifier.verify(token)).subject == "alice"
    issuer.add_key("k2")
    clock.now += 10
    await verifier.verify(issuer.token("k2"))
    await refused(verifier, token)


async def test_the_leeway_covers_clocks_that_differ(issuer: OidcIssuer, verifier: TokenVerifier) -> None:
    now = int(time.time())
    await verifier.verify(issuer.token("k1", exp=now - 5, iat=now - 60, nbf=now - 60))
    await verifier.verify(issuer.token("k1", nbf=now + 5, iat=now + 5))


# --- attacks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": None},
        {"iss": "https://evil.example"},
        {"iss": ["x"]},
        {"aud": None},
        {"aud": "another-service"},
        {"aud": []},
        {"exp": None},
        {"exp": 1},
        {"exp": "soon"},
        {"exp": int(time.time()) - 60},
        {"nbf": int(time.time()) + 86_400},
        {"nbf": "later"},
        {"iat": int(time.time()) + 86_400},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "a\0b"},
        {"sub": "a\nb"},
        {"sub": " a"},
        {"sub": "a\u202eb"},
        {"sub": "a\u0301"},
        {"sub": "a\ud800"},
        {"sub": "ü" * 257},
    ],
)
async def test_a_claim_that_does_not_fit_is_refused(
    changes: dict[str, Any], issuer: OidcIssuer, verifier: TokenVerifier
) -> None:
    await refused(verifier, issuer.token("k1", **changes))


async def test_an_issuer_that_differs_by_a_slash_is_another(issuer: OidcIssuer, verifier: TokenVerifier) -> None:
    await refused(verifier, issuer.token("k1", iss=issuer.url + "/"))


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
async def test_an_unsigned_token_is_refused(name: str, issuer: OidcIssuer, verifier: TokenVerifier) -> None:
    unsigned = f"{segment({'alg': name, 'kid': 'k1'})}.{segment(issuer.claims())}."
    await refused(verifier, unsigned)
    assert issuer.seen == []


@pytest.mark.parametrize("form", ["pem", "der", "jwk", "n"])
async def test_an_hmac_with_the_public_key_as_its_secret_is_refused(
    form: str, issuer: OidcIssuer, verifier: TokenVerifier
) -> None:
    issuer.add_key("rsa", "RS256")
    key = issuer.private["rsa"][0].public_key()
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    jwk = public_jwk(issuer.private["rsa"][0], "RS256")
    secret = {
        "pem": key.public_bytes(serialization.Encoding.PEM, info),
        "der": key.public_bytes(serialization.Encoding.DER, info),
        "jwk": json.dumps(jwk).encode(),
        "n": jwk["n"].encode(),
    }[form]
    for algorithm in ("HS256", "RS256"):
        signed = f"{segment({'alg': algorithm, 'kid': 'rsa'})}.{segment(issuer.claims())}"
        await refused(verifier, f"{signed}.{segment(hmac.digest(secret, signed.encode(), 'sha256'))}")
        assert algorithm == "RS256" or issuer.seen == []


async def test_hmac_stays_out_even_where_the_issuer_publishes_a_symmetric_key(
    issuer: OidcIssuer, verifier: TokenVerifier
) -> None:
    secret = b"s" * 32
    issuer.published.append({"kty": "oct", "kid": "oct", "k": segment(secret), "use": "sig"})
    await refused(verifier, jwt.encode(issuer.claims(), secret, "HS256", headers={"kid": "oct"}))


def test_symmetric_and_unknown_algorithms_cannot_be_configured(http: httpx.AsyncClient) -> None:
    for name in ("HS256", "none", "XX1"):
        with pytest.raises(ConfigurationError):
            TokenVerifier(
                IssuerKeys(http, issuer="http://x", algorithms=(), cache_seconds=1),
                issuer="http://x",
                audience="x",
                algorithms=("RS256", name),
            )


def test_a_role_that_is_not_ours_cannot_be_configured(http: httpx.AsyncClient) -> None:
    with pytest.raises(ConfigurationError):
        TokenVerifier(
            IssuerKeys(http, issuer="http://x", algorithms=(), cache_seconds=1),
            issuer="http://x",
            audience="x",
            algorithms=("RS256",),
            role_names={"root": "superuser"},
        )


async def test_an_algorithm_that_is_not_allowed_is_refused_though_the_key_is_right(
    issuer: OidcIssuer, http: httpx.AsyncClient, clock: Clock
) -> None:
    issuer.add_key("rsa", "RS256")
    verifier = verifier_of(issuer, http, clock, algorithms=("ES256",))
    await refused(verifier, issuer.token("rsa"))


@pytest.mark.parametrize(
    "members",
    [{"alg": "RS384"}, {"alg": "ES256"}, {"use": "enc"}, {"key_ops": ["sign"]}, {"key_ops": "verify"}, {"kty": "EC"},
     {"n": "!"}, {"e": None}],
)  # fmt: skip
async def test_a_key_that_is_for_something_else_verifies_nothing(
    members: dict[str, Any], issuer: OidcIssuer, verifier: TokenVerifier
) -> None:
    issuer.add_key("other", "RS256", **members)
    await refused(verifier, issuer.token("other"))
    await verifier.verify(issuer.token("k1"))  # and does not harm those beside it


async def test_a_short_rsa_key_verifies_nothing(issuer: OidcIssuer, verifier: TokenVerifier) -> None:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - what is to be refused
    issuer.published.append(public_jwk(weak, "RS256") | {"kid": "weak"})
    issuer.private["weak"] = (weak, "RS256")
    await refused(verifier, issuer.token("weak"))


async def test_another_keys_signature_is_refused(issuer: OidcIssuer, verifier: TokenVerifier) -> None:
    issuer.add_key("mine", publish=False)
    await refused(verifier, issuer.token("mine", headers={"kid": "k1"}))


async def test_a_changed_claim_breaks_the_signature(issuer: OidcIssuer, verifier: TokenVerifier) -> None:
    header, _, signature = issuer.token("k1").split(".")
    await refused(verifier, f"{header}.{segment(issuer.claims(roles=['operator']))}.{signature}")


async def test_keys_and_addresses_that_a_token_brings_are_never_used(
    issuer: OidcIssuer, verifier: TokenVerifier
) -> None:
    async with OidcIssuer() as evil:
        evil.add_key("k1")
        own = public_jwk(evil.private["k1"][0], "ES256")
        for brought in (
            {"kid": "k1", "jwk": own},
            {"kid": "k1", "jku": evil.url + KEYS},
            {"kid": "k1", "x5u": evil.url + KEYS},
            {"kid": "k1", "x5c": ["AAAA"]},
            {"jwk": own},
        ):
            payload = json.dumps(issuer.claims()).encode()
            await refused(verifier, evil.signed("k1", {"alg": "ES256", **brought}, payload))
        assert evil.seen == []


# With `b64` beside it, the first is an extension that PyJWT itself knows, and would let pass.
@pytest.mark.parametrize("crit", [["b64"], ["exp"], ["unknown"], [], "b64", None])
async def test_a_token_with_crit_is_refused(crit: object, issuer: OidcIssuer, verifier: TokenVerifier) -> None:
    payload = json.dumps(issuer.claims()).encode()
    await refused(verifier, issuer.signed("k1", {"alg": "ES256", "kid": "k1", "b64": True, "crit": crit}, payload))
    assert issuer.seen == []
    await verifier.verify(issuer.signed("k1", {"alg": "ES256", "kid": "k1"}, payload))  # it was that alone


@pytest.mark.parametrize("kid", [7, None, ["k1"], {"k1": 1}, "../../etc/passwd", "k1\0", "' OR 1=1 --", "", "K1"])
async def test_a_made_up_kid_finds_nothing(kid: object, issuer: OidcIssuer, verifier: TokenVerifier) -> None:
    issuer.add_key("second")  # so that no kid at all would be ambiguous, too
    _, payload, signature = issuer.token("k1").split(".")
    await refused(verifier, f"{segment({'alg': 'ES256', 'kid': kid})}.{payload}.{signature}")


async def test_a_huge_token_is_refused_before_it_is_parsed(
    issuer: OidcIssuer, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = issuer.token("k1", padding="x" * MAX_TOKEN_BYTES)

    def parsed(*_: object) -> None:
        raise AssertionError("the token was parsed")

    monkeypatch.setattr(jwt, "get_unverified_header", parsed)
    await refused(verifier, token)


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        f"{segment(b'[' * 4000)}.e30.x",
        f"{segment(b'{' + b'1' * 5000)}.e30.x",
        f"{segment(b'[]')}.e30.x",
        f"{segment(b'null')}.e30.x",
        f"{segment({'alg': ['ES256']})}.e30.x",
        f"{segment({'alg': {'ES256': 1}})}.e30.x",
        f"{segment({'kid': 'k1'})}.e30.x",
        "\u00e9.\u00e9.\u00e9",
    ],
)
async def test_what_is_no_token_is_refused_without_asking_the_issuer(
    token: str, issuer: OidcIssuer, verifier: TokenVerifier
) -> None:
    await refused(verifier, token)
    assert issuer.seen == []


async def test_a_signed_payload_that_is_no_claims_is_refused(issuer: OidcIssuer, verifier: TokenVerifier) -> None:
    overflow = json.dumps(issuer.claims()).replace('"exp": ', '"exp": 1e400, "x": ').encode()
    for payload in (b"", b"[]", b"null", b"[" * 2000, b"\xff", overflow):
        await refused(verifier, issuer.signed("k1", {"alg": "ES256", "kid": "k1"}, payload))


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "b64", "crit", "x"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["ES256", "k1"]) | st.text(),
    ),
    st.binary(max_size=50),
)
async def test_no_header_gets_anything_but_a_refusal(
    issuer: OidcIssuer, verifier: TokenVerifier, header: dict[str, Any], rest: bytes
) -> None:
    await refused(verifier, f"{segment(header)}.{segment(rest)}.{segment(rest)}")


async def test_no_log_line_and_no_error_holds_the_token(
    issuer: OidcIssuer, verifier: TokenVerifier, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = issuer.token("k1", aud="another")
    await refused(verifier, token)
    issuer.down = True
    clock.now += 10
    unknown = issuer.token("k1", headers={"kid": "unknown"})
    with pytest.raises(IssuerUnavailable) as error:
        await verifier.verify(unknown)
    for part in (*token.split("."), *unknown.split(".")):
        assert part not in caplog.text + str(error.value)


# --- asking the issuer --------------------------------------------------------------------------------------------


async def test_a_hundred_at_once_are_one_fetch(issuer: OidcIssuer, verifier: TokenVerifier) -> None:
    token = issuer.token("k1")
    await asyncio.gather(*(verifier.verify(token) for _ in range(100)))
    assert issuer.key_fetches == 1


async def test_a_caller_that_goes_away_does_not_take_the_fetch_with_it(
    issuer: OidcIssuer, verifier: TokenVerifier
) -> None:
    token = issuer.token("k1")
    first = asyncio.create_task(verifier.verify(token))
    await asyncio.sleep(0)
    second = asyncio.create_task(verifier.verify(token))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).subject == "alice"
    assert issuer.key_fetches == 1


async def test_made_up_kids_do_not_load_the_issuer(issuer: OidcIssuer, verifier: TokenVerifier, clock: Clock) -> None:
    issuer.add_key("hidden", publish=False)
    for number in range(20):
        await refused(verifier, issuer.token("hidden", headers={"kid": f"made-up-{number}"}))
    assert issuer.key_fetches == 1
    clock.now += 5
    for number in range(20):
        await refused(verifier, issuer.token("hidden", headers={"kid": f"made-up-{number}"}))
    assert issuer.key_fetches == 2


async def test_a_new_key_is_found_by_one_refresh(issuer: OidcIssuer, verifier: TokenVerifier, clock: Clock) -> None:
    await verifier.verify(issuer.token("k1"))
    issuer.add_key("k2")
    clock.now += 10
    await asyncio.gather(*(verifier.verify(issuer.token("k2")) for _ in range(20)))
    await verifier.verify(issuer.token("k1"))
    assert issuer.key_fetches == 2


async def test_old_keys_are_used_while_they_are_fetched_again(
    issuer: OidcIssuer, verifier: TokenVerifier, clock: Clock
) -> None:
    token = issuer.token("k1")
    await verifier.verify(token)
    clock.now += 301
    issuer.script(issuer.silent)  # the refresh hangs, and nobody waits for it
    async with asyncio.timeout(5):
        await asyncio.gather(*(verifier.verify(token) for _ in range(20)))
    assert sum(request.path_qs == DISCOVERY for request in issuer.seen) <= 2


async def test_a_withdrawn_key_is_dropped_when_the_keys_are_old(
    issuer: OidcIssuer, verifier: TokenVerifier, clock: Clock
) -> None:
    token = issuer.token("k1")
    await verifier.verify(token)
    issuer.withdraw("k1")
    issuer.add_key("k2")
    clock.now += 301
    await verifier.verify(token)  # the old keys' last use, beside the fetch
    async with asyncio.timeout(5):
        while issuer.key_fetches < 2:  # noqa: ASYNC110 - a server has no event to wait for
            await asyncio.sleep(0.01)
    await verifier.verify(issuer.token("k2"))
    await refused(verifier, token)


async def test_while_the_issuer_is_down_known_keys_go_on(
    issuer: OidcIssuer, verifier: TokenVerifier, clock: Clock
) -> None:
    token = issuer.token("k1")
    await verifier.verify(token)
    issuer.down = True
    for _ in range(5):
        clock.now += 400
        assert (await verifier.verify(token)).subject == "alice"


async def test_while_the_issuer_is_down_an_unknown_key_is_503_and_not_401(
    issuer: OidcIssuer, verifier: TokenVerifier, clock: Clock
) -> None:
    issuer.down = True
    token = issuer.token("k1")
    for _ in range(5):
        with pytest.raises(IssuerUnavailable):
            await verifier.verify(token)
    assert len(issuer.seen) == 1  # and it is not asked again at once
    issuer.down = False
    clock.now += 5
    assert (await verifier.verify(token)).subject == "alice"


BROKEN = {
    "another issuer in discovery": json_answer(200, {"issuer": "https://evil.example", "jwks_uri": "https://x"}),
    "no jwks_uri": json_answer(200, {"issuer": "SELF"}),
    "a list": json_answer(200, []),
    "not JSON": raw_answer(200, b"<html>"),
    "deep nesting": raw_answer(200, b"[" * 100_000),
    "too large": raw_answer(200, b" " * 300_000),
    "an error": json_answer(500, {}),
    "a redirect": redirect_answer("http://127.0.0.1:9/"),
    "compressed": raw_answer(200, b"x", {"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_discovery_is_an_issuer_that_is_not_available(
    answer: Any, issuer: OidcIssuer, verifier: TokenVerifier
) -> None:
    issuer.script(answer)
    with pytest.raises(IssuerUnavailable):
        await verifier.verify(issuer.token("k1"))
    assert issuer.key_fetches == 0


@pytest.mark.parametrize("changes", [{"jwks_uri": "file:///etc/passwd"}, {"jwks_uri": 7}, {"issuer": None}])
async def test_a_discovery_that_points_elsewhere_is_not_followed(
    changes: dict[str, Any], issuer: OidcIssuer, verifier: TokenVerifier
) -> None:
    issuer.discovery_changes = changes
    with pytest.raises(IssuerUnavailable):
        await verifier.verify(issuer.token("k1"))


async def test_an_issuer_that_never_finishes_is_given_up(issuer: OidcIssuer, verifier: TokenVerifier) -> None:
    issuer.script(issuer.trickle)
    began = time.monotonic()
    with pytest.raises(IssuerUnavailable):
        await verifier.verify(issuer.token("k1"))
    assert time.monotonic() - began < 10


async def test_an_issuer_without_keys_makes_tokens_unacceptable_and_not_the_issuer_unavailable(
    issuer: OidcIssuer, verifier: TokenVerifier
) -> None:
    issuer.published = []
    await refused(verifier, issuer.token("k1"))


async def test_keys_are_counted_once_each_and_fetched_for_it(issuer: OidcIssuer, http: httpx.AsyncClient) -> None:
    verifier = verifier_of(issuer, http, Clock(), algorithms=("RS256", "RS384", "ES256"))
    issuer.add_key("fits two algorithms", "RS256", alg=None)
    issuer.add_key("fits none", "EdDSA")
    assert await verifier.count_keys() == 2
    issuer.withdraw("k1")
    assert await verifier.count_keys() == 1


IN_WORDS = {
    "another issuer in discovery": "its discovery document names another issuer",
    "not JSON": "its document is not JSON",
    "deep nesting": "its document is not JSON",
    "too large": "the answer is larger than allowed",
    "an error": "it answered 500, not 200",
    "a redirect": "it answered 302, not 200",
}


@pytest.mark.parametrize("kind", IN_WORDS)
async def test_who_counts_keys_is_told_in_words_why_there_are_none(
    kind: str, issuer: OidcIssuer, verifier: TokenVerifier
) -> None:
    issuer.script(BROKEN[kind])
    with pytest.raises(IssuerUnavailable, match=rf"^{IN_WORDS[kind]}$"):
        await verifier.count_keys()


async def test_an_issuers_name_may_end_in_a_slash(issuer: OidcIssuer, http: httpx.AsyncClient) -> None:
    name = issuer.url + "/"
    issuer.discovery_changes = {"issuer": name}
    settings = Settings(database_url="postgresql://nowhere", vault_addr="https://nowhere", oidc_issuer=name)
    verifier = TokenVerifier.from_settings(settings, http)
    assert verifier is not None
    assert (await verifier.verify(issuer.token("k1", iss=name))).subject == "alice"
    await refused(verifier, issuer.token("k1"))
    await verifier.aclose()


def test_without_an_issuer_there_is_no_verifier(http: httpx.AsyncClient) -> None:
    settings = Settings(database_url="postgresql://nowhere", vault_addr="https://nowhere")
    assert TokenVerifier.from_settings(settings, http) is None
