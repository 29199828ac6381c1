"""The paper/live guard where keys are saved: who may save one type of account alone has each pair asked about first."""

from dataclasses import replace
from datetime import UTC, datetime

from service.errors import AccountTypeRefused, InvalidInput
from service.memory.plaintext import Plaintext
from service.modules.ports import ProviderRegistry
from service.modules.records import Credential, OwnerAccess
from service.modules.secret_pair import copy_view, split_pair


class AccountTypeGuard:
    """Asks a pair's provider before the pair is saved, where the access is for one type of account.

    Guarantees: what comes back from `checked` is of the access's type, or of a provider whose accounts have none.
    Does not: write anything; ask where the access is for any type; look at uses, which `authorise_opens` does.
    """

    def __init__(self, providers: ProviderRegistry) -> None:
        self._providers = providers

    def concerns(self, access: OwnerAccess, credential_type: str) -> bool:
        """Whether the provider has to be asked. Raises InvalidInput for an unknown type."""
        return self._providers[credential_type].has_account_types and access.account_type is not None

    async def checked(self, access: OwnerAccess, draft: Credential, pair: Plaintext) -> Credential:
        """The draft with what was learnt of the keys: nothing, where nobody had to be asked.

        Raises:
            AccountTypeRefused: the account is of another type. InvalidInput: the provider refuses the keys.
            ProviderUnavailable: it could not be asked.
        """
        if not self.concerns(access, draft.credential_type):
            return replace(draft, validation_state="unvalidated", account_type=None, last_validated_at=None)
        with (
            split_pair(pair) as (api_view, secret_view),
            copy_view(api_view) as api_key,
            copy_view(secret_view) as secret_key,
        ):
            verdict = await self._providers[draft.credential_type].validate(api_key, secret_key)
        if not verdict.is_valid:
            raise InvalidInput("api_key", "is refused by its provider, or its secret key is")
        # An account whose type is not known counts as live.
        if (verdict.account_type or "live") != access.account_type:
            raise AccountTypeRefused
        return replace(
            draft, validation_state="valid", account_type=verdict.account_type, last_validated_at=datetime.now(UTC)
        )
