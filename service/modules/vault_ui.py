"""Addresses of pages in Vault's own UI, for people. They hold names, no secret; what they show takes Vault's login.

The routes are those of Vault 1.15 to 1.21 (`ui/app/router.js` and `ui/lib/kv/addon/routes.js` in hashicorp/vault).
"""

from dataclasses import dataclass
from urllib.parse import quote, urlencode


@dataclass(frozen=True, slots=True)
class VaultUi:
    """Where people reach Vault's UI, and what this installation's mounts are called there."""

    url: str  # of Vault, without `/ui`
    transit_mount: str
    kv_mount: str
    namespace: str | None = None

    def key(self, name: str) -> str:
        """A transit key's details."""
        return self._page(self.transit_mount, f"show/{quote(name, safe='')}", tab="details")

    def key_versions(self, name: str) -> str:
        """A transit key's versions, with their dates."""
        return self._page(self.transit_mount, f"show/{quote(name, safe='')}", tab="versions")

    def credentials(self) -> str:
        """The accounts, below each of which are its credentials."""
        return self._page(self.kv_mount, "kv/list")

    def credential_template(self) -> str:
        """One credential's metadata: a URI template (RFC 6570) of `account_id` and `credential_id`."""
        return self._page(self.kv_mount, "kv/{account_id}%2F{credential_id}/metadata")

    def _page(self, mount: str, page: str, **query: str) -> str:
        if self.namespace:
            query["namespace"] = self.namespace
        asked = f"?{urlencode(query)}" if query else ""
        return f"{self.url}/ui/vault/secrets/{quote(mount, safe='')}/{page}{asked}"
