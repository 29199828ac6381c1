"""The service's login to Vault: AppRole, Kubernetes, or a token file that Vault Agent keeps fresh.

One login is shared by all who wait for it. The token is renewed at two thirds of its life, and replaced by a new login
when it can't be renewed or Vault refuses it.
"""

import asyncio
import logging
import random
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx
from pydantic import SecretStr

from service.correlation import start_alone
from service.errors import (
    ConfigurationError,
    CredentialsError,
    VaultDenied,
    VaultLoginFailed,
    VaultRefused,
    VaultUnavailable,
)
from service.settings import Settings, VaultLogin
from service.vault.client import send

_log = logging.getLogger(__name__)

_RENEW_AT = 2 / 3
_REFUSED_AGAIN_WITHIN = 2.0
"""Seconds after a login in which a refusal is believed: it is the policy's, not the token's."""
_FILE_POLL = 1.0
_WRAPPED_SECRET_ID_PATH = re.compile(r"auth/.+/role/[^/]+/secret-id")


class VaultSession:
    """A token that is good, as far as can be known.

    Guarantees: at most one login is under way; the token is shown by no `repr`. Does not: guarantee that Vault accepts
    the token the next moment; `replace` is for that.
    """

    def __init__(self, http: httpx.AsyncClient, settings: Settings) -> None:
        self._http = http
        self._settings = settings
        self._token: SecretStr | None = None
        self._renewable = False
        self._lease = 0.0
        self._expires_at = float("inf")
        self._since = float("-inf")
        self._logged_in_at = float("-inf")
        self._unwrapped: tuple[SecretStr, SecretStr] | None = None  # a wrapping token, and the secret id it held
        self._file_read_at = float("-inf")
        self._login: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, http: httpx.AsyncClient, settings: Settings) -> AsyncIterator[Self]:
        """Logs in when first asked for a token; revokes the token it logged in for when the block ends.

        Raises:
            ConfigurationError: something is not set that the login takes.
        """
        settings.check_login()
        session = cls(http, settings)
        try:
            yield session
        finally:
            await session._close()

    @property
    def lifetime(self) -> tuple[float, float, float] | None:
        """Seconds since the token was had by a login, until it ends, and of its lease; None where that isn't known:
        before the first login, of a token from a file, of one that never ends.
        """
        if self._token is None or not self._lease:
            return None
        now = time.monotonic()
        return now - self._logged_in_at, max(self._expires_at - now, 0.0), self._lease

    async def token(self) -> str:
        """The present token, after a login where there is none.

        Raises:
            VaultLoginFailed: Vault refused the login. VaultUnavailable: it could not be asked.
        """
        if self._settings.vault_login is VaultLogin.TOKEN_FILE:
            self._read_token_file()
        elif self._token is None or time.monotonic() >= self._expires_at:
            await self._log_in(instead_of=self._token)
        assert self._token is not None  # noqa: S101 - set by both ways above, which raise otherwise
        return self._token.get_secret_value()

    async def replace(self, refused: str) -> bool:
        """Vault refused this token. Returns True where another one is at hand, False where that would be no use."""
        present = self._token
        if present is not None and present.get_secret_value() != refused:
            return True
        if self._settings.vault_login is VaultLogin.TOKEN_FILE:
            self._read_token_file(now=True)
            return self._token is not None and self._token.get_secret_value() != refused
        if time.monotonic() - self._since < _REFUSED_AGAIN_WITHIN or await self._still_lives(refused):
            return False
        await self._log_in(instead_of=present)
        return True

    async def _still_lives(self, token: str) -> bool:
        """Whether it was the policy that refused and not the token: another one would be refused as well."""
        try:
            await self._send("GET", "auth/token/lookup-self", headers={"X-Vault-Token": token})
        except (VaultDenied, VaultRefused):
            return False
        return True

    def _read_token_file(self, *, now: bool = False) -> None:
        if not now and time.monotonic() - self._file_read_at < _FILE_POLL:
            return
        path = self._settings.vault_token_file
        if path is None:
            raise ConfigurationError("CREDENTIALS_VAULT_TOKEN_FILE: is not set")
        self._token = SecretStr(_read(path, "CREDENTIALS_VAULT_TOKEN_FILE"))
        self._file_read_at = time.monotonic()

    async def _log_in(self, *, instead_of: SecretStr | None) -> None:
        """One login for all who ask while it is under way; all have its outcome, a failure too. (Were each to try in
        turn, then with a Vault that doesn't answer the last of them would wait for everybody's time-out.)
        """
        if self._token is not instead_of and time.monotonic() < self._expires_at:
            return  # somebody else's login has ended meanwhile
        if self._login is None or self._login.done():
            self._login = start_alone(self._log_in_once(), "vault-login")
            self._login.add_done_callback(_retrieved)
        # Shielded: a caller that gives up must not take the login from the others.
        await asyncio.shield(self._login)

    async def _log_in_once(self) -> None:
        mount = self._settings.vault_auth_mount or self._settings.vault_login.value
        try:
            answer = await self._send("POST", f"auth/{mount}/login", json=await self._credentials(mount))
        except VaultLoginFailed:
            raise
        except (VaultDenied, VaultRefused):
            raise VaultLoginFailed from None
        self._accept(answer)
        self._logged_in_at = self._since
        _log.info("logged in to Vault", extra={"lease_seconds": self._lease})
        if self._keeper is None or self._keeper.done():
            self._keeper = start_alone(self._keep(), "vault-token")

    async def _credentials(self, mount: str) -> dict[str, str]:
        settings = self._settings
        if settings.vault_login is VaultLogin.KUBERNETES:
            if settings.vault_kubernetes_role is None:
                raise ConfigurationError("CREDENTIALS_VAULT_KUBERNETES_ROLE: is not set")
            jwt = _read(settings.vault_kubernetes_jwt_file, "CREDENTIALS_VAULT_KUBERNETES_JWT_FILE")
            return {"role": settings.vault_kubernetes_role, "jwt": jwt}
        if settings.vault_role_id is None:
            raise ConfigurationError("CREDENTIALS_VAULT_ROLE_ID: is not set")
        return {"role_id": settings.vault_role_id, "secret_id": await self._secret_id_text(mount)}

    async def _secret_id_text(self, mount: str) -> str:
        """The secret id. A file is read at each login, so that a new one counts without a restart."""
        if not self._settings.vault_secret_id_wrapped:
            return self._given_secret_id()
        try:
            given = self._given_secret_id()
        except ConfigurationError:
            if self._unwrapped is None:
                raise
            given = self._unwrapped[0].get_secret_value()  # who gave it may have removed it after its one use
        # A wrapping token works once: what it held is kept for later logins.
        if self._unwrapped is None or self._unwrapped[0].get_secret_value() != given:
            self._unwrapped = SecretStr(given), SecretStr(await self._unwrap(given, mount))
        return self._unwrapped[1].get_secret_value()

    def _given_secret_id(self) -> str:
        if (path := self._settings.vault_secret_id_file) is not None:
            return _read(path, "CREDENTIALS_VAULT_SECRET_ID_FILE")
        if self._settings.vault_secret_id is not None:
            return self._settings.vault_secret_id.get_secret_value()
        raise ConfigurationError("CREDENTIALS_VAULT_SECRET_ID_FILE: is not set, nor CREDENTIALS_VAULT_SECRET_ID")

    async def _unwrap(self, wrapping_token: str, mount: str) -> str:
        """Checks where the wrapping token comes from before it is used: somebody else could have made one
        (https://developer.hashicorp.com/vault/docs/concepts/response-wrapping#response-wrapping-token-validation).
        """
        try:
            looked_up = await self._send("POST", "sys/wrapping/lookup", json={"token": wrapping_token})
            path = str(looked_up["data"]["creation_path"])
            wanted = self._settings.vault_secret_id_wrapped_path
            fits = path == wanted if wanted else path.startswith(f"auth/{mount}/role/")
            if not fits or not _WRAPPED_SECRET_ID_PATH.fullmatch(path):
                raise VaultLoginFailed("The wrapped secret id was not made by the AppRole's secret-id path")
            unwrapped = await self._send("POST", "sys/wrapping/unwrap", headers={"X-Vault-Token": wrapping_token})
            return str(unwrapped["data"]["secret_id"])
        except VaultLoginFailed:
            raise
        except (VaultDenied, VaultRefused, KeyError, TypeError):
            raise VaultLoginFailed("The wrapped secret id has expired, or somebody has used it already") from None

    def _accept(self, answer: Mapping[str, Any]) -> None:
        auth = answer.get("auth")
        if not isinstance(auth, dict) or not auth.get("client_token"):
            raise VaultLoginFailed
        self._token = SecretStr(auth["client_token"])
        self._lease = float(auth.get("lease_duration") or 0)
        self._renewable = bool(auth.get("renewable"))
        self._since = time.monotonic()
        # A lease of 0 never ends (root's, say).
        self._expires_at = self._since + self._lease if self._lease else float("inf")

    async def _keep(self) -> None:
        """Renews ahead of expiry, or logs in again, for as long as the session lives."""
        while True:
            # Replicas that started together are not to renew together.
            due = self._since + self._lease * _RENEW_AT * random.uniform(0.9, 1.0)  # noqa: S311 - not a secret
            await asyncio.sleep(max(due - time.monotonic(), 1.0) if self._lease else 3600)
            try:
                if self._lease:
                    await self._renew()
            except CredentialsError as error:
                _log.warning("the Vault token could not be renewed", extra={"error": type(error).__name__})

    async def _renew(self) -> None:
        before = self._token
        if before is None:
            return
        full = self._lease
        try:
            if not self._renewable:
                raise VaultDenied
            answer = await self._send(
                "POST", "auth/token/renew-self", json={}, headers={"X-Vault-Token": before.get_secret_value()}
            )
        except (VaultDenied, VaultRefused):
            await self._log_in(instead_of=before)
            return
        if self._token is before:
            self._accept(answer)
        if self._lease < full / 2:  # its maximum life is near
            await self._log_in(instead_of=self._token)

    async def _send(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        headers = dict(kwargs.pop("headers", None) or {})
        if self._settings.vault_namespace:
            headers["X-Vault-Namespace"] = self._settings.vault_namespace
        return await send(self._http, method, path, headers=headers, **kwargs)

    async def _close(self) -> None:
        under_way = [task for task in (self._keeper, self._login) if task is not None]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        if self._token is not None and self._settings.vault_login is not VaultLogin.TOKEN_FILE:
            with suppress(VaultUnavailable, VaultDenied, VaultRefused):
                await self._send(
                    "POST", "auth/token/revoke-self", headers={"X-Vault-Token": self._token.get_secret_value()}
                )
        self._token = None


def _retrieved(login: "asyncio.Task[None]") -> None:
    """Looks at a login's outcome, as asyncio complains where nobody did: everybody who waited may have given up."""
    if not login.cancelled():
        login.exception()


def _read(path: Path, setting: str) -> str:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        raise ConfigurationError(f"{setting}: not a readable file") from None
    if not text:
        raise ConfigurationError(f"{setting}: the file is empty")
    return text
