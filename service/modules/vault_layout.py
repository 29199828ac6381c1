"""Where this installation keeps things in Vault. A row that points elsewhere is not followed."""

from dataclasses import dataclass
from uuid import UUID

from service.errors import CredentialUnreadable
from service.modules.records import Credential, TransitReference

INSTALLATION_PATH = "installation"
"""Below the KV mount: the id that ties this Vault to one Postgres database. It is no credential's path."""

ANCHOR_PATH = "event-seal"
"""Below the KV mount: the newest seal over the events. It is no credential's path either."""


@dataclass(frozen=True, slots=True)
class VaultLayout:
    """Mounts and names, from the settings."""

    transit_mount: str
    transit_key_prefix: str
    kv_mount: str
    credential_types: frozenset[str]

    def transit_key(self, credential_type: str) -> str:
        """The transit key of a credential type."""
        return f"{self.transit_key_prefix}{credential_type}"

    def kv_path(self, account_id: UUID, credential_id: UUID) -> str:
        """Where a credential's ciphertext is, below the KV mount."""
        return f"{account_id}/{credential_id}"

    def checked(self, credential: Credential) -> TransitReference:
        """The row's reference, if it says what the settings say.

        Raises:
            CredentialUnreadable: somebody has written a mount, key or path into the row that this service didn't.
        """
        # The key's name is made from the row's type: one that isn't known could be a path to elsewhere in Vault.
        if credential.credential_type not in self.credential_types:
            raise CredentialUnreadable
        reference = credential.reference
        expected = (
            self.transit_mount,
            self.transit_key(credential.credential_type),
            self.kv_mount,
            self.kv_path(credential.account_id, credential.id),
        )
        if (reference.transit_mount, reference.transit_key, reference.kv_mount, reference.kv_path) != expected:
            raise CredentialUnreadable
        return reference
