"""What a route gets of a body that holds secrets: the fields, with each secret in memory that is wiped.

The schema's model, whose `SecretStr` anybody's `vars`, `pickle` or `copy` would show, is gone before the route begins.
"""

from dataclasses import dataclass
from typing import Self

from pydantic import SecretStr

from service.memory.plaintext import Plaintext
from service.schemas.credential_schemas import (
    StoreCredentialRequest,
    UpdateCredentialRequest,
    ValidateCredentialRequest,
)


@dataclass(frozen=True, slots=True)
class StoreFields:
    """`StoreCredentialRequest`, the keys to be wiped by the route."""

    account_id: str
    credential_type: str
    api_key: Plaintext
    secret_key: Plaintext

    @classmethod
    def of(cls, model: StoreCredentialRequest) -> Self:
        """Copies the model's secrets."""
        return cls(model.account_id, model.credential_type, _copied(model.api_key), _copied(model.secret_key))


@dataclass(frozen=True, slots=True)
class UpdateFields:
    """`UpdateCredentialRequest`, the keys that are given to be wiped by the route."""

    api_key: Plaintext | None
    secret_key: Plaintext | None
    is_active: bool | None

    @classmethod
    def of(cls, model: UpdateCredentialRequest) -> Self:
        """Copies the model's secrets."""
        api_key, secret_key = (
            None if secret is None else _copied(secret) for secret in (model.api_key, model.secret_key)
        )
        return cls(api_key, secret_key, model.is_active)


@dataclass(frozen=True, slots=True)
class ValidateFields:
    """`ValidateCredentialRequest`, the keys to be wiped by the route."""

    api_key: Plaintext
    secret_key: Plaintext

    @classmethod
    def of(cls, model: ValidateCredentialRequest) -> Self:
        """Copies the model's secrets."""
        return cls(_copied(model.api_key), _copied(model.secret_key))


def _copied(secret: SecretStr) -> Plaintext:
    return Plaintext.copy_of(secret.get_secret_value())
