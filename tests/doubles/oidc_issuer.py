"""A foreign OIDC issuer: a real HTTP server with discovery and keys, which mints tokens and can go wrong."""

import base64
import json
import time
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from tests.doubles.scripted_server import ScriptedServer

DISCOVERY = "/.well-known/openid-configuration"
KEYS = "/keys"


class OidcIssuer(ScriptedServer):
    """Publishes the keys it was given, and nothing is checked of who asks. `down` answers 503 until it is unset."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.discovery_changes: dict[str, Any] = {}
        self.private: dict[str, tuple[PrivateKeyTypes, str]] = {}
        self.published: list[dict[str, Any]] = []

    async def usual(self, request: web.Request) -> web.StreamResponse:
        """Discovery and the JWK set."""
        if self.down:
            return web.Response(status=503)
        if request.path == DISCOVERY:
            return web.json_response({"issuer": self.url, "jwks_uri": self.url + KEYS, **self.discovery_changes})
        if request.path == KEYS:
            return web.json_response({"keys": self.published})
        return web.Response(status=404)

    @property
    def key_fetches(self) -> int:
        """How often the keys were asked for."""
        return sum(request.path_qs == KEYS for request in self.seen)

    def add_key(self, kid: str, algorithm: str = "ES256", *, publish: bool = True, **members: Any) -> None:
        """A new key; `members` change its published form, None leaves a member out."""
        key = _private_key(algorithm)
        self.private[kid] = (key, algorithm)
        if publish:
            jwk = public_jwk(key, algorithm) | {"kid": kid, "use": "sig", "alg": algorithm} | members
            self.published.append({name: value for name, value in jwk.items() if value is not None})

    def withdraw(self, kid: str) -> None:
        """The key is not published any more."""
        self.published = [jwk for jwk in self.published if jwk.get("kid") != kid]

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Claims of a good token; None leaves one out."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": "vault-credentials",
            "sub": "alice",
            "roles": ["user"],
            "iat": now,
            "nbf": now,
            "exp": now + 300,
        } | changes
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, kid: str, *, headers: dict[str, Any] | None = None, **changes: Any) -> str:
        """A token that this issuer signed, with changes to its claims and further header members."""
        header = {"typ": "JWT", "alg": self.private[kid][1], "kid": kid, **(headers or {})}
        return self.signed(kid, header, json.dumps(self.claims(**changes)).encode())

    def signed(self, kid: str, header: bytes | dict[str, Any], payload: bytes) -> str:
        """Any header over any payload, whether or not it makes sense, with a good signature of this key.

        Made here and not by PyJWT, which refuses to write some of what an attacker would.
        """
        key, algorithm = self.private[kid]
        text = f"{segment(header)}.{segment(payload)}"
        return f"{text}.{segment(jwt.get_algorithm_by_name(algorithm).sign(text.encode(), key))}"


def public_jwk(key: PrivateKeyTypes, algorithm: str) -> dict[str, Any]:
    """The public half as a JWK."""
    return json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key()))  # type: ignore[no-any-return]


def segment(content: bytes | dict[str, Any]) -> str:
    """One part of a hand-made token."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _private_key(algorithm: str) -> PrivateKeyTypes:
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm.startswith("ES"):
        return ec.generate_private_key({"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1()}[algorithm])
    return rsa.generate_private_key(65537, 2048)
