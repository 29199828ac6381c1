"""A request's body with keys in it, made in memory that is wiped once it has been sent."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Self

import httpx
from pydantic import SecretStr

from service.errors import InvalidInput
from service.memory.plaintext import Plaintext
from service.modules.secret_pair import check_key, copied

_ESCAPED = frozenset(b'"\\')


class SecretBody(httpx.AsyncByteStream):
    """One JSON object.

    Guarantees: the keys pass from the caller's `SecretStr` into pages of our own, and no `str` or `bytes` of them is
    made here; these pages are wiped when the block ends; no `repr` shows anything of them. Does not: wipe what the
    caller holds, nor reach the copies that the HTTP library, TLS and the kernel make to send it (httpx's HTTP/1.1
    makes one `bytes` of the body, freed once it is sent).
    """

    def __init__(self, members: Mapping[str, object], secrets: Mapping[str, SecretStr | None]) -> None:
        """`members` as they are, then `secrets`, but for those that are None.

        Raises InvalidInput for what no provider's key is: printable ASCII, at most 512 characters.
        """
        given = {name: secret for name, secret in secrets.items() if secret is not None}
        wrong = [name for name, secret in given.items() if not isinstance(secret, SecretStr)]
        if wrong:
            del given, secrets  # they may be keys all the same, and a traceback may show locals
            raise InvalidInput(wrong[0], "must be a SecretStr")
        keys: dict[str, Plaintext] = {}
        try:
            for name, secret in given.items():
                keys[name] = copied(name, secret.get_secret_value())
                check_key(name, keys[name], may_be_empty=True)
            self._body, self._size = _json(members, keys)
        finally:
            for key in keys.values():
                key.wipe()

    def __len__(self) -> int:
        return self._size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        # A view, so that only what sends it copies it.
        yield self._body.reveal()[: self._size]  # type: ignore[misc]  # bytes in all that is done with it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._body.wipe()


def _json(members: Mapping[str, object], keys: Mapping[str, Plaintext]) -> tuple[Plaintext, int]:
    """The object, and how long it is. The keys are printable ASCII."""
    begin = json.dumps(members).removesuffix("}").encode("ascii")
    names = [f'{", " if members or number else ""}"{name}": "'.encode("ascii") for number, name in enumerate(keys)]
    longest = len(begin) + sum(len(name) + 2 * len(key) + 1 for name, key in zip(names, keys.values(), strict=True)) + 1
    body = Plaintext.allocate(longest)
    with body.reveal() as room:
        at = len(begin)
        room[:at] = begin
        for name, key in zip(names, keys.values(), strict=True):
            room[at : at + len(name)] = name
            at += len(name)
            with key.reveal() as value:
                for byte in value:
                    if byte in _ESCAPED:
                        room[at] = 0x5C
                        at += 1
                    room[at] = byte
                    at += 1
            room[at] = 0x22
            at += 1
        room[at] = 0x7D
    return body, at + 1
