"""Whether Vault and Postgres belong together: both carry the id that migration made and provisioning copied."""

from typing import Protocol
from uuid import UUID

from service.errors import InstallationMismatch


class Installed(Protocol):
    """A store that carries the id."""

    async def installation_id(self) -> UUID | None: ...


async def ensure_same_installation(postgres: Installed, vault: Installed) -> None:
    """Raises InstallationMismatch unless both carry the same id."""
    ours, theirs = await postgres.installation_id(), await vault.installation_id()
    if ours is None or ours != theirs:
        raise InstallationMismatch
