"""Who is calling: verifies a bearer token (a signed JWT of the OIDC issuer) and reads name and roles from its claims.

Sources: RFC 7519 (JWT), RFC 7515 (JWS), RFC 8725 (best practice), OpenID Connect Core 1.0, 3.1.3.7.
"""

import base64
import json
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Self

import httpx
import jwt

from service.authz.jwks import KNOWN_ALGORITHMS, IssuerKeys
from service.authz.policy import Identity, Limits, Role
from service.authz.verified_tokens import VerifiedToken, VerifiedTokens
from service.errors import AuthenticationFailed, ConfigurationError, InvalidInput
from service.modules.input_checks import check_user_id
from service.settings import Settings

MAX_TOKEN_BYTES = 8192
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")  # RFC 7515, 7.1; and signed
_DATES = ("exp", "nbf", "iat")
# What a stranger's bytes can make the parsers raise. All of it is one refusal, and none of it is chained to it:
# some of PyJWT's messages quote the token's header.
_REFUSALS = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)


class TokenVerifier:
    """Verifies tokens of one issuer.

    Guarantees: a token is accepted only if it is signed by a key that the issuer publishes for signatures, with an
    allowed asymmetric algorithm that this key is for; `iss` and `aud` are the configured ones; `exp` is there and
    not past, `nbf` not ahead (both with the leeway). Key material or addresses that the token itself brings (`jwk`,
    `jku`, `x5c`, `x5u`) are never looked at, and a token with `crit` is refused; so is one that could be read in two
    ways: with a name twice in its header or its claims, dates that are no numbers, another encoding than UTF-8,
    or base64url in another spelling.
    No error or log line holds a token. The signature of a token that was accepted is not checked again for as long as
    its key is the one it was checked with: all else is, with each use, so that a token is refused from when it expires,
    or from when the issuer's keys were fetched without its key (see `IssuerKeys`), as if nothing was remembered.
    Nothing refused is remembered. Does not: know of tokens revoked before they expire, nor of ones used twice; look at
    `typ` or `azp`.
    """

    def __init__(
        self,
        keys: IssuerKeys,
        *,
        issuer: str,
        audience: str,
        algorithms: Iterable[str],
        leeway: float = 10.0,
        user_claim: str = "sub",
        roles_claim: str = "roles",
        role_names: Mapping[str, str] | None = None,
        limits_claim: str = "credentials_limits",
        remembered: int = 4096,
    ) -> None:
        """`role_names` maps the issuer's role names to ours; None or empty: they are the same. `leeway`: seconds.
        `remembered`: of so many tokens the signature is not checked again; 0: of none.

        Raises:
            ConfigurationError: an algorithm is not a known asymmetric one, or a role is not one of ours.
        """
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._algorithms = frozenset(algorithms)
        self._leeway = leeway
        self._user_claim = user_claim
        self._roles_claim = roles_claim
        self._limits_claim = limits_claim
        self._verified = VerifiedTokens(remembered)
        if not self._algorithms or not self._algorithms <= KNOWN_ALGORITHMS:
            raise ConfigurationError("CREDENTIALS_OIDC_ALGORITHMS: names one that is not known or not asymmetric")
        try:
            self._roles = {theirs: Role(ours) for theirs, ours in (role_names or {role: role for role in Role}).items()}
        except ValueError:
            raise ConfigurationError("CREDENTIALS_OIDC_ROLE_NAMES: maps to a role that is not known") from None

    @classmethod
    def from_settings(cls, settings: Settings, http: httpx.AsyncClient) -> Self | None:
        """The verifier that the `CREDENTIALS_OIDC_*` settings describe; None where no issuer is set.

        `http` stays the caller's to close, after `aclose` of this.
        """
        if settings.oidc_issuer is None:
            return None
        keys = IssuerKeys(
            http,
            issuer=settings.oidc_issuer,
            # An unknown name is refused by the constructor below, with its setting's name.
            algorithms=KNOWN_ALGORITHMS.intersection(settings.oidc_algorithms),
            cache_seconds=settings.oidc_cache_seconds,
        )
        return cls(
            keys,
            issuer=settings.oidc_issuer,
            audience=settings.oidc_audience,
            algorithms=settings.oidc_algorithms,
            leeway=settings.oidc_leeway,
            user_claim=settings.oidc_user_claim,
            roles_claim=settings.oidc_roles_claim,
            role_names=settings.oidc_role_names,
            limits_claim=settings.oidc_limits_claim,
            remembered=settings.oidc_tokens_remembered,
        )

    async def verify(self, token: str) -> Identity:
        """Who the token says is calling. A caller without a known role is somebody who may do nothing.

        Raises:
            AuthenticationFailed: the token is not acceptable; why is told to nobody.
            IssuerUnavailable: the key it is signed with is not known, and the issuer could not be asked.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise AuthenticationFailed
        known = self._verified.get(token)
        if known is not None:
            key = await self._keys.find(known.kid, known.algorithm)
            if known.holds(key, time.time(), self._leeway):
                return known.identity
            self._verified.forget(token)
        if not _is_compact(token):
            raise AuthenticationFailed
        header = _header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if (
            not isinstance(algorithm, str)
            or algorithm not in self._algorithms
            or not (kid is None or isinstance(kid, str))
            # No extension is understood here, so by RFC 7515, 4.1.11 a token that insists on one is invalid.
            or "crit" in header
        ):
            raise AuthenticationFailed
        key = await self._keys.find(kid, algorithm)
        if key is None:
            raise AuthenticationFailed
        claims = self._claims(token, key, algorithm)
        identity = self._identity(claims)
        begins = max(int(claims.get("nbf", 0)), int(claims.get("iat", 0)))
        self._verified.keep(token, VerifiedToken(identity, kid, algorithm, key, begins, int(claims["exp"])))
        return identity

    async def count_keys(self) -> int:
        """How many keys of the issuer a token may be signed with. Asks it, and raises, as `IssuerKeys.count`."""
        return await self._keys.count()

    async def aclose(self) -> None:
        """Ends what is under way in the background."""
        await self._keys.aclose()

    def _claims(self, token: str, key: jwt.PyJWK, algorithm: str) -> dict[str, Any]:
        claims: dict[str, Any] | None = None
        is_dated = False
        with suppress(*_REFUSALS):
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway,
                options={"require": ["exp", "iss", "aud"]},
            )
            _check_names(token.split(".")[1])
            is_dated = all(type(claims[name]) in (int, float) for name in _DATES if name in claims)
        if claims is None or not is_dated:  # raised out here, so that nothing is chained
            raise AuthenticationFailed
        return claims

    def _identity(self, claims: dict[str, Any]) -> Identity:
        subject = _claim(claims, self._user_claim)
        try:
            subject = check_user_id(subject)  # type: ignore[arg-type]  # it refuses what is no string
        except InvalidInput:
            raise AuthenticationFailed from None
        named = _claim(claims, self._roles_claim)
        names = [named] if isinstance(named, str) else named if isinstance(named, list) else []
        roles = frozenset(self._roles[name] for name in names if isinstance(name, str) and name in self._roles)
        limits = _claim(claims, self._limits_claim, absent=_ABSENT)
        return Identity(subject=subject, roles=roles, limits=None if limits is _ABSENT else Limits.parse(limits))


_ABSENT = object()


def _header(token: str) -> dict[str, Any]:
    header: dict[str, Any] | None = None
    with suppress(*_REFUSALS):
        _check_names(token.split(".")[0])
        header = jwt.get_unverified_header(token)
    if header is None:
        raise AuthenticationFailed
    return header


def _is_compact(token: str) -> bool:
    """Whether it is three parts of base64url, the signature in its one spelling: PyJWT takes padding, and its older
    versions what decoders pass over, so that from one good token its holder could make others, each remembered anew."""
    parts = _COMPACT.fullmatch(token)
    if parts is None or len(parts[3]) % 4 == 1:
        return False
    return base64.urlsafe_b64encode(_decoded(parts[3])).rstrip(b"=").decode("ascii") == parts[3]


def _check_names(part: str) -> None:
    """Raises ValueError where it isn't UTF-8, or an object, at any depth, has a name twice (RFC 7515, 4; RFC 7519, 4).

    Of bytes, as PyJWT has it, the parser would guess the encoding.
    """
    json.loads(str(_decoded(part), "utf-8"), object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name is there twice")


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _claim(claims: dict[str, Any], name: str, *, absent: object = None) -> object:
    """A claim by its name, or, where there is none of that name, by the path that its dots make.

    Keycloak keeps roles in `realm_access.roles`; others use URLs, dots included, as plain names.
    """
    if name in claims:
        return claims[name]
    value: object = claims
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return absent
        value = value[part]
    return value
