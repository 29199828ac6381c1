"""The token issuer's public keys: found by OIDC discovery, kept, and fetched again when they are old or one is missing.

Sources: OpenID Connect Discovery 1.0, section 4; RFC 7517 (JWK); RFC 8725 (JWT best practice).
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from service.correlation import start_alone
from service.errors import IssuerUnavailable
from service.http_clients import read_limited

_log = logging.getLogger(__name__)

# What a key has to be for an algorithm: kty, and crv where the algorithm fixes it (RFC 7518, 3.1; RFC 8037, 3.1).
_KEY_KINDS: dict[str, tuple[str, frozenset[str]]] = {
    **{name: ("RSA", frozenset[str]()) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")},
    "ES256": ("EC", frozenset({"P-256"})),
    "ES256K": ("EC", frozenset({"secp256k1"})),
    "ES384": ("EC", frozenset({"P-384"})),
    "ES512": ("EC", frozenset({"P-521"})),
    "EdDSA": ("OKP", frozenset({"Ed25519", "Ed448"})),
}
KNOWN_ALGORITHMS = frozenset(_KEY_KINDS)

_MAX_DOCUMENT_BYTES = 262_144
_MAX_KEYS = 100
_FETCH_SECONDS = 5.0
_MIN_RSA_BITS = 2048  # RFC 7518, 3.3


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One public key, ready to verify with one algorithm."""

    kid: str | None
    algorithm: str
    key: jwt.PyJWK


class IssuerKeys:
    """The keys of one issuer.

    Guarantees: at most one fetch is under way, however many ask; keys that are older than `cache_seconds` are
    fetched again beside the requests, which use the old ones meanwhile and for as long as the issuer is down; a key
    that is not known makes them be fetched at most once in `min_refresh_seconds`, so that made-up key ids can't be
    turned into load on the issuer. Does not: drop a withdrawn key sooner than `cache_seconds` after the last fetch,
    nor at all while the issuer is down. Belongs to one event loop; `aclose` ends what is under way.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        *,
        issuer: str,
        algorithms: Iterable[str],
        cache_seconds: float,
        min_refresh_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`http` stays the caller's to close. Nothing is fetched before the first `find`."""
        self._http = http
        self._issuer = issuer
        self._algorithms = frozenset(algorithms)
        self._cache_seconds = cache_seconds
        self._min_refresh_seconds = min_refresh_seconds
        self._clock = clock
        self._keys: tuple[SigningKey, ...] = ()
        self._fetched_at: float | None = None  # when a fetch last succeeded
        self._tried_at: float | None = None  # when a fetch last began
        self._problem: str | None = None  # why the last fetch failed, in words
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The one key that fits, or None where the issuer has none (or, without a kid, several: which is meant?).

        Raises:
            IssuerUnavailable: none that fits is known, and the issuer could not be asked.
        """
        known = self._fitting(kid, algorithm)
        if known is not None:
            if self._is_stale() and self._may_fetch():
                self._start_fetch()
            return known
        if self._fetching is not None or self._may_fetch():
            # Shielded: when the one caller that started the fetch goes away, the others still want it.
            await asyncio.shield(self._start_fetch())
            known = self._fitting(kid, algorithm)
        if known is None and self._problem is not None:
            raise IssuerUnavailable
        return known

    async def count(self) -> int:
        """How many keys the issuer has that a token may be signed with; they are fetched for it, whatever is known.

        Raises:
            IssuerUnavailable: they could not be fetched; it says why.
        """
        await asyncio.shield(self._start_fetch())
        if self._problem is not None:
            raise IssuerUnavailable(self._problem)
        # One key may be there several times: for each algorithm that it fits.
        public = {each.key.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for each in self._keys}
        return len(public)

    async def aclose(self) -> None:
        """Ends a fetch that is under way."""
        task = self._fetching
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _fitting(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        found = [k.key for k in self._keys if k.algorithm == algorithm and (kid is None or k.kid == kid)]
        return found[0] if len(found) == 1 else None

    def _is_stale(self) -> bool:
        return self._fetched_at is None or self._clock() - self._fetched_at >= self._cache_seconds

    def _may_fetch(self) -> bool:
        return self._tried_at is None or self._clock() - self._tried_at >= self._min_refresh_seconds

    def _start_fetch(self) -> asyncio.Task[None]:
        if self._fetching is None:
            self._tried_at = self._clock()
            self._fetching = start_alone(self._fetch(), "issuer-keys")
            self._fetching.add_done_callback(self._fetch_ended)
        return self._fetching

    def _fetch_ended(self, _task: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _fetch(self) -> None:
        """Replaces the keys by the issuer's, or leaves them and notes the failure. Raises nothing but cancellation."""
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                discovery = await self._get_json(self._issuer.rstrip("/") + "/.well-known/openid-configuration")
                # Or one issuer could hand out another's keys (OIDC Discovery, 4.3).
                if discovery.get("issuer") != self._issuer:
                    raise _Unusable("its discovery document names another issuer")
                keys = _parsed(await self._get_json(self._jwks_uri(discovery)), self._algorithms)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, RecursionError) as error:
            self._problem = _in_words(error)
            _log.warning("the token issuer's keys could not be fetched: %s", type(error).__name__)
            return
        self._keys = keys
        self._fetched_at = self._clock()
        self._problem = None

    def _jwks_uri(self, discovery: dict[str, Any]) -> str:
        uri = discovery.get("jwks_uri")
        # Keys that came over plain HTTP would undo an issuer's HTTPS.
        schemes = ("https://",) if self._issuer.startswith("https://") else ("https://", "http://")
        if not isinstance(uri, str) or not uri.startswith(schemes):
            raise _Unusable("its discovery document has no usable jwks_uri")
        return uri

    async def _get_json(self, url: str) -> dict[str, Any]:
        async with self._http.stream("GET", url, follow_redirects=False) as response:
            if response.status_code != httpx.codes.OK:
                raise _Unusable(f"it answered {response.status_code}, not 200")
            document = json.loads(await read_limited(response, _MAX_DOCUMENT_BYTES))
        if not isinstance(document, dict):
            raise _Unusable("its document is not an object")
        return document


class _Unusable(ValueError):
    """What the issuer answered can't be used; the text is ours, but for a status."""


def _in_words(error: Exception) -> str:
    match error:
        case TimeoutError():
            return "no answer in time"
        case _Unusable() | httpx.TransportError():  # `http_clients` gives the latter fixed texts
            return str(error)
        case httpx.InvalidURL():
            return "not a URL that can be asked"
        case _:
            return "its document is not JSON"  # the parser's own text would quote it


def _parsed(document: dict[str, Any], algorithms: frozenset[str]) -> tuple[SigningKey, ...]:
    """Every key of a JWK set, once for each accepted algorithm it fits; those that fit none are left out."""
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise _Unusable("its JWK set has no list of keys")
    keys: list[SigningKey] = []
    for entry in entries[:_MAX_KEYS]:
        if isinstance(entry, dict):
            keys += [key for name in sorted(algorithms) if (key := _fitted(entry, name)) is not None]
    return tuple(keys)


def _fitted(entry: dict[str, Any], algorithm: str) -> SigningKey | None:
    """The key for this algorithm, or None if its own type, curve, `alg`, `use` or `key_ops` say otherwise."""
    kind, curves = _KEY_KINDS[algorithm]
    operations = entry.get("key_ops", ["verify"])
    kid = entry.get("kid")
    if (
        entry.get("kty") != kind
        or (curves and entry.get("crv") not in curves)
        or entry.get("alg", algorithm) != algorithm
        or entry.get("use", "sig") != "sig"
        or not isinstance(operations, list)
        or "verify" not in operations
        or not (kid is None or isinstance(kid, str))
    ):
        return None
    # Only the public members: an issuer that publishes a private key by mistake doesn't make us hold it.
    public: dict[str, Any] = {name: entry[name] for name in ("kty", "crv", "n", "e", "x", "y") if name in entry}
    try:
        key = jwt.PyJWK(public, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < _MIN_RSA_BITS:
        return None
    return SigningKey(kid, algorithm, key)
