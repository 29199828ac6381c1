"""Tokens whose signature was good: checking it again for every request is most of what a small request costs.

What is kept is kept under the token's SHA-256 (FIPS 180-4), never under the token itself.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import jwt

from service.authz.policy import Identity


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """What was verified of one token, and by what."""

    identity: Identity
    kid: str | None
    algorithm: str
    key: jwt.PyJWK
    begins: float  # seconds since 1970: the later of `nbf` and `iat`
    expires: float

    def holds(self, key: jwt.PyJWK | None, now: float, leeway: float) -> bool:
        """Whether verifying the token again, at `now`, with `key`, would come to the same. As PyJWT has it, `nbf` and
        `iat` may be as far ahead as the leeway, and `exp` less far past.
        """
        return self.key is key and self.begins <= now + leeway and self.expires > now - leeway


class VerifiedTokens:
    """The tokens last used, at most `size`. 0: none.

    Does not: judge. Whoever asks has to look whether what was verified still holds.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[bytes, VerifiedToken] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, token: str) -> VerifiedToken | None:
        """What was verified of this very token."""
        digest = _digest(token)
        found = self._kept.get(digest)
        if found is not None:
            self._kept.move_to_end(digest)
        return found

    def keep(self, token: str, verified: VerifiedToken) -> None:
        """Keeps it, in the place of the one that has not been used for longest."""
        self._kept[_digest(token)] = verified
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)

    def forget(self, token: str) -> None:
        """Keeps it no longer."""
        self._kept.pop(_digest(token), None)


def _digest(token: str) -> bytes:
    # A token has no half surrogate pairs, but whatever is asked about must not end in another error than a refusal.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
