"""Tokens whose signature is not checked again: whatever else would refuse one does so all the same, with each use."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest

from service.authz.identity import TokenVerifier
from service.authz.jwks import IssuerKeys
from service.authz.policy import Identity, Limits, Role
from service.authz.verified_tokens import VerifiedToken, VerifiedTokens
from service.errors import AuthenticationFailed
from service.settings import Settings
from tests.doubles.oidc_issuer import OidcIssuer


class Verified:
    """A verifier, how often it has checked a signature, and its keys' clock."""

    def __init__(self, issuer: OidcIssuer, http: httpx.AsyncClient, **changes: Any) -> None:
        self.now = 1000.0
        algorithms = ("ES256",)
        keys = IssuerKeys(http, issuer=issuer.url, algorithms=algorithms, cache_seconds=300, clock=lambda: self.now)
        given = {"issuer": issuer.url, "audience": "vault-credentials", "algorithms": algorithms, **changes}
        self.verifier = TokenVerifier(keys, **given)
        self.checks = 0

    async def __call__(self, token: str) -> Identity:
        return await self.verifier.verify(token)

    async def refuses(self, token: str) -> bool:
        try:
            await self.verifier.verify(token)
        except AuthenticationFailed:
            return True
        return False

    @property
    def kept(self) -> VerifiedTokens:
        return self.verifier._verified


@pytest.fixture
async def verify(issuer: OidcIssuer, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """Makes a `Verified`."""
    made: list[Verified] = []
    decode = jwt.decode

    def counted(*args: Any, **kwargs: Any) -> Any:
        made[-1].checks += 1
        return decode(*args, **kwargs)

    monkeypatch.setattr(jwt, "decode", counted)

    def make(**changes: Any) -> Verified:
        made.append(Verified(issuer, http, **changes))
        return made[-1]

    yield make
    for each in made:
        await each.verifier.aclose()


async def test_a_signature_is_checked_once_for_many_uses(issuer: OidcIssuer, verify: Any) -> None:
    verified, token = verify(), issuer.token("k1")
    identities = [await verified(token) for _ in range(5)]
    assert identities == [Identity(subject="alice", roles=frozenset({Role.USER}))] * 5
    assert verified.checks == 1


async def test_a_remembered_token_is_refused_from_when_it_expires(issuer: OidcIssuer, verify: Any) -> None:
    verified = verify(leeway=0)
    token = issuer.token("k1", exp=int(time.time()) + 2)
    await verified(token)
    await verified(token)
    assert verified.checks == 1
    await asyncio.sleep(2.1)
    assert await verified.refuses(token)
    assert len(verified.kept) == 0


@pytest.mark.parametrize(
    ("changes", "now", "expected"),
    [
        ({}, 1000, True),
        ({"expires": 991}, 1000, True),
        ({"expires": 990.001}, 1000, True),
        ({"expires": 990}, 1000, False),  # PyJWT refuses `exp <= now - leeway`
        ({"begins": 1010}, 1000, True),  # and `nbf > now + leeway`
        ({"begins": 1011}, 1000, False),
        ({"begins": 1011}, 1001, True),
    ],
)
def test_the_leeway_is_counted_as_for_a_token_that_is_not_known(
    changes: dict[str, Any], now: float, expected: bool, issuer_key: jwt.PyJWK
) -> None:
    fields: dict[str, Any] = {"begins": 900, "expires": 1100, **changes}
    identity = Identity(subject="alice", roles=frozenset())
    known = VerifiedToken(identity=identity, kid="k1", algorithm="ES256", key=issuer_key, **fields)
    assert known.holds(issuer_key, now, leeway=10.0) is expected


@pytest.fixture
def issuer_key() -> jwt.PyJWK:
    return jwt.PyJWK({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}, "EdDSA")


async def test_what_was_verified_of_a_token_not_yet_begun_is_its_later_time(issuer: OidcIssuer, verify: Any) -> None:
    verified, now = verify(), int(time.time())
    tokens = [issuer.token("k1", nbf=now + 5, iat=now - 5), issuer.token("k1", nbf=now - 5, iat=now + 5)]
    tokens.append(issuer.token("k1", nbf=None, iat=None, exp=now + 77))
    for token in tokens:
        await verified(token)
    found = [verified.kept.get(token) for token in tokens]
    assert [each.begins for each in found] == [now + 5, now + 5, 0]
    assert found[-1].expires == now + 77


async def test_a_withdrawn_key_ends_the_tokens_it_signed_as_soon_as_the_keys_are_known_without_it(
    issuer: OidcIssuer, verify: Any
) -> None:
    verified, token = verify(), issuer.token("k1")
    await verified(token)
    issuer.withdraw("k1")
    issuer.add_key("k2")
    verified.now += 10
    await verified(issuer.token("k2"))  # fetches the keys: nothing has waited for the old ones' five minutes
    assert await verified.refuses(token)


async def test_another_key_under_the_same_id_is_another_key(issuer: OidcIssuer, verify: Any) -> None:
    verified, token = verify(), issuer.token("k1")
    await verified(token)
    issuer.withdraw("k1")
    issuer.add_key("k1")
    issuer.add_key("k2")
    verified.now += 10
    await verified(issuer.token("k2"))
    assert await verified.refuses(token)
    assert (await verified(issuer.token("k1"))).subject == "alice"


async def test_the_keys_of_remembered_tokens_grow_old_and_are_fetched_again(issuer: OidcIssuer, verify: Any) -> None:
    verified, token = verify(), issuer.token("k1")
    await verified(token)
    verified.now += 301
    await verified(token)
    async with asyncio.timeout(5):
        while issuer.key_fetches < 2:  # noqa: ASYNC110 - a server has no event to wait for
            await asyncio.sleep(0.01)


async def test_no_token_is_taken_for_another(issuer: OidcIssuer, verify: Any) -> None:
    verified = verify()
    expected = {}
    for number in range(30):
        role = list(Role)[number % 4]
        users = [f"client-{number}"]
        token = issuer.token("k1", sub=f"user-{number}", roles=[role.value], credentials_limits={"users": users})
        limits = Limits(users=frozenset(users))
        expected[token] = Identity(subject=f"user-{number}", roles=frozenset({role}), limits=limits)
    for _ in range(3):
        found = await asyncio.gather(*(verified(token) for token in expected))
        assert found == list(expected.values())
    assert verified.checks == 30


async def test_a_changed_copy_of_a_remembered_token_is_refused(issuer: OidcIssuer, verify: Any) -> None:
    verified, token = verify(), issuer.token("k1")
    await verified(token)
    head, payload, signature = token.split(".")
    middle = len(signature) // 2
    changed = "A" if signature[middle] != "A" else "B"
    others = [
        f"{head}.{payload}.{signature[:middle]}{changed}{signature[middle + 1 :]}",
        f"{head}.{payload}.",
        f"{head}.{issuer.token('k1', sub='eve').split('.')[1]}.{signature}",
        token + "A",
        token[:-1],
    ]
    assert [await verified.refuses(other) for other in others] == [True] * len(others)
    assert len(verified.kept) == 1


async def test_nothing_refused_is_remembered(issuer: OidcIssuer, verify: Any) -> None:
    verified = verify()
    issuer.add_key("hidden", publish=False)
    bad = [
        issuer.token("k1", exp=int(time.time()) - 60),
        issuer.token("k1", nbf=int(time.time()) + 600),
        issuer.token("k1", aud="another-service"),
        issuer.token("k1", sub="a\0b"),
        issuer.token("hidden", headers={"kid": "k1"}),
        issuer.token("hidden"),
        "no.token.",
    ]
    assert [await verified.refuses(token) for token in bad * 2] == [True] * len(bad) * 2
    assert len(verified.kept) == 0


async def test_so_many_are_remembered_and_those_not_used_for_longest_are_forgotten(
    issuer: OidcIssuer, verify: Any
) -> None:
    verified = verify(remembered=3)
    tokens = [issuer.token("k1", sub=f"user-{number}") for number in range(10)]
    await verified(tokens[0])
    for token in tokens[1:]:
        await verified(token)
        await verified(tokens[0])
    assert len(verified.kept) == 3
    assert verified.checks == 10
    await verified(tokens[9])
    assert verified.checks == 10
    await verified(tokens[1])
    assert verified.checks == 11


async def test_none_are_remembered_where_the_setting_is_0(issuer: OidcIssuer, verify: Any) -> None:
    verified, token = verify(remembered=0), issuer.token("k1")
    for _ in range(3):
        assert (await verified(token)).subject == "alice"
    assert (verified.checks, len(verified.kept)) == (3, 0)


async def test_the_token_itself_is_not_kept(issuer: OidcIssuer, verify: Any) -> None:
    verified, token = verify(), issuer.token("k1")
    await verified(token)
    ((key, kept),) = verified.kept._kept.items()
    assert len(key) == 32
    assert isinstance(kept, VerifiedToken)
    shown = repr([kept.identity, kept.kid, kept.algorithm, kept.begins, kept.expires])
    assert not any(part in shown for part in token.split("."))


def test_the_setting_reaches_the_verifier(http: httpx.AsyncClient) -> None:
    settings = Settings(
        database_url="postgresql://nowhere",
        vault_addr="https://nowhere",
        oidc_issuer="https://issuer.example",
        oidc_tokens_remembered=7,
    )
    made = TokenVerifier.from_settings(settings, http)
    assert made is not None
    assert made._verified._size == 7
