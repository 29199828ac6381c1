"""Asking the provider whether keys work: given ones, or stored ones."""

from uuid import UUID

from service.errors import ProviderUnavailable
from service.memory.plaintext import Plaintext
from service.modules.credential_opener import CredentialOpener
from service.modules.ports import CredentialStore, ProviderRegistry
from service.modules.provider_pauses import ProviderPauses
from service.modules.records import Action, Event, Outcome, OwnerAccess, ProviderVerdict
from service.modules.secret_pair import check_key, copy_view, split_pair
from service.modules.suspects import Suspects


async def validate_keys(
    providers: ProviderRegistry, credential_type: str, api_key: Plaintext, secret_key: Plaintext
) -> ProviderVerdict:
    """Checks the keys' form, then asks their provider.

    Raises:
        InvalidInput: names the field. ProviderUnavailable: the provider could not be asked.
    """
    provider = providers[credential_type]
    check_key("api_key", api_key)
    check_key("secret_key", secret_key, may_be_empty=not provider.needs_secret_key)
    return await provider.validate(api_key, secret_key)


class CredentialValidator:
    """Validates keys at their provider.

    Guarantees: "could not ask" is an error and never "invalid"; a verdict on keys that have been replaced meanwhile is
    not noted; stored keys that are refused are noted as suspect; a provider that names a time to be asked again is not
    asked about that credential before, by this process. Does not: disable anything.
    """

    def __init__(
        self,
        store: CredentialStore,
        opener: CredentialOpener,
        providers: ProviderRegistry,
        suspects: Suspects,
        pauses: ProviderPauses,
    ) -> None:
        self._store = store
        self._opener = opener
        self._providers = providers
        self._suspects = suspects
        self._pauses = pauses

    async def validate_given(
        self,
        _access: OwnerAccess,
        api_key: Plaintext,
        secret_key: Plaintext,
        credential_type: str = "alpaca",
    ) -> ProviderVerdict:
        """Asks about keys that are not stored. The access is only proof that the caller may ask.

        Raises as `validate_keys`.
        """
        return await validate_keys(self._providers, credential_type, api_key, secret_key)

    async def validate_stored(self, access: OwnerAccess, credential_id: str | UUID) -> ProviderVerdict:
        """Opens a credential, also a disabled one, asks its provider, and notes the verdict.

        Raises:
            CredentialDenied, CredentialUnreadable, ProviderUnavailable: nothing was noted.
        """
        opened = await self._opener.open(
            access, credential_id, action=Action.VALIDATE, allow_inactive=True, accept=self._pauses.check
        )
        credential = opened.credential
        with (
            opened.pair,
            split_pair(opened.pair) as (api_view, secret_view),
            copy_view(api_view) as api_key,
            copy_view(secret_view) as secret_key,
        ):
            try:
                verdict = await self._providers[credential.credential_type].validate(api_key, secret_key)
            except ProviderUnavailable as error:
                self._pauses.note(credential, error)
                raise
        event = Event(
            access=access,
            credential_id=credential.id,
            account_id=credential.account_id,
            owner=credential.user_id,
            action=Action.VALIDATE,
            outcome=Outcome.DONE,
            reason="valid" if verdict.is_valid else "invalid",
            transit_key=credential.transit_key,
            transit_key_version=credential.transit_key_version,
        )
        await self._store.record_validation(credential, verdict, event)
        if verdict.is_valid:
            await self._suspects.accepted(access, credential)
        else:
            await self._suspects.refused(access, credential)
        return verdict
