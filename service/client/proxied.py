"""Proxied calls: what may be asked for, and a provider's answer as it was given."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict
from uuid import UUID

import httpx

from service.client.exchange import Call
from service.client.requests import JSON, AccountType, Headers, headers_for, id_of
from service.errors import InvalidInput
from service.modules.proxy_path import parse_proxy_path

_METHOD = re.compile(r"[A-Z]{1,16}")
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")  # RFC 9110, 5.1
_VALUE = re.compile(r"(?:[!-~](?:[\t -~]*[!-~])?)?")
_OURS = frozenset(
    {"authorization", "x-user-id", "x-require-account-type", "host", "content-length", "transfer-encoding", "cookie"}
    | {"connection", "expect", "upgrade"}
)


class CallOptions(TypedDict, total=False):
    """What may go with a proxied call."""

    user_id: str
    """Of orchestrators: the user whom it is done for."""
    params: Mapping[str, Any]
    """The query."""
    json: object
    """The body, as JSON."""
    content: bytes | AsyncIterator[bytes]
    """The body, as it is; what comes piece by piece is sent piece by piece."""
    headers: Mapping[str, str]
    """For the provider. Which ones go on is the service's to decide."""
    require_account_type: AccountType
    """Refuse it where the account is of the other type; not yet known counts as live."""
    timeout: float
    """Seconds; by default the client's."""


@dataclass(frozen=True, slots=True)
class ProviderAnswer:
    """What the provider answered, its own errors included: look at `status_code`.

    `content` is as it was sent: packed only where `headers` of the call's own asked for that.
    """

    status_code: int
    headers: httpx.Headers = field(repr=False)
    content: bytes = field(repr=False)

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status_code < 300

    @property
    def text(self) -> str:
        """The body as UTF-8; what isn't becomes U+FFFD."""
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON. Raises ValueError where it is none."""
        return json.loads(self.content)


@dataclass(frozen=True, slots=True)
class ProviderStream:
    """A provider's answer whose body is still coming. Good within its block alone."""

    status_code: int
    headers: httpx.Headers = field(repr=False)
    parts: AsyncIterator[bytes] = field(repr=False)
    """The body, as it comes. Raises ServiceUnavailable, or ServiceOutcomeUnknown, where it breaks off."""


def proxied_call(credential_id: str | UUID, method: str, path: str, options: CallOptions) -> Call:
    """The request to the service. Raises InvalidInput for what can't be asked for."""
    own: Headers = dict(checked_headers(options.get("headers")))
    content = options.get("content")
    if (body := options.get("json")) is not None:
        if content is not None:
            raise InvalidInput("content", "must not come with json")
        content = json.dumps(body).encode("ascii")
        own = {name: value for name, value in own.items() if name.lower() != "content-type"}
        own.update(JSON)
    own.update(headers_for(options.get("user_id"), require_account_type=options.get("require_account_type")))
    return Call(
        method=checked_method(method),
        path=proxy_address(id_of(credential_id), path),
        headers=own,
        params=options.get("params"),
        content=content,
        timeout=options.get("timeout"),
    )


def checked_method(method: str) -> str:
    """Raises InvalidInput for what is no method in capital letters."""
    if not _METHOD.fullmatch(method):
        raise InvalidInput("method", "must be an HTTP method, in capital letters")
    return method


def proxy_address(credential_id: str, path: str) -> str:
    """Where a call of this provider's path (`/v2/orders`, with its first slash or without) is sent.

    By the service's own rules for such a path, so that nothing on the way there could read it in another way: raises
    InvalidInput for all that the service would refuse. Parameters are no part of it.
    """
    start = f"/v1/credentials/{credential_id}/proxy/"
    given = f"{start}{path.removeprefix('/')}".encode("utf-8", "surrogatepass")
    return start + parse_proxy_path(given).path.removeprefix("/")


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The caller's headers for the provider.

    Raises InvalidInput for those that this client sends itself, and for what is no header.
    """
    given = dict(headers or {})
    for name, value in given.items():
        if not _NAME.fullmatch(name) or not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise InvalidInput("headers", "must be names of RFC 9110, and values of printable ASCII")
        if name.lower() in _OURS:
            raise InvalidInput("headers", "must not have what the client sends itself")
    return given
