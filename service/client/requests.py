"""What a request's address and headers are made of: checked before anything is sent, so that errors name a field."""

import re
from collections.abc import Mapping
from typing import Literal
from uuid import UUID

from service.errors import InvalidInput
from service.modules.input_checks import check_user_id, uuid_from

AccountType = Literal["paper", "live"]
Headers = dict[str, str | bytes]
JSON: Mapping[str, str] = {"Content-Type": "application/json"}
CREDENTIALS = "/v1/credentials"

_VISIBLE = re.compile(r"[!-~]{1,1024}")


def id_of(credential_id: str | UUID) -> str:
    """A credential's id as it is written. Raises InvalidInput where it is no UUID."""
    return str(uuid_from("credential_id", credential_id))


def address_of(credential_id: str | UUID) -> str:
    """A credential's address. Raises as `id_of`."""
    return f"{CREDENTIALS}/{id_of(credential_id)}"


def headers_for(
    user_id: str | None,
    *,
    require_account_type: AccountType | None = None,
    if_match: str | None = None,
    idempotency_key: str | None = None,
) -> Headers:
    """The headers of those that are given; the user's id as UTF-8. Raises InvalidInput."""
    made: Headers = {}
    if user_id is not None:
        made["X-User-Id"] = check_user_id(user_id).encode("utf-8")
    if require_account_type is not None:
        if require_account_type not in ("paper", "live"):
            raise InvalidInput("require_account_type", "must be paper or live")
        made["X-Require-Account-Type"] = require_account_type
    for name, field, value in (
        ("If-Match", "if_match", if_match),
        ("Idempotency-Key", "idempotency_key", idempotency_key),
    ):
        if value is not None:
            if not isinstance(value, str) or not _VISIBLE.fullmatch(value):
                raise InvalidInput(field, "must be visible ASCII characters")
            made[name] = value
    return made


def parameters_of(given: Mapping[str, object]) -> dict[str, str]:
    """Query parameters, without those that are None."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in given.items()
        if value is not None
    }
