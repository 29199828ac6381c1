"""A small synchronous client of Vault's HTTP API, for provisioning and the local stack. The service has its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from service.errors import VaultDenied, VaultRefused, VaultSealed, VaultUnavailable
from service.tls import tls_context

_TIMEOUT = 15.0


class VaultAdmin:
    """Speaks to one Vault with one token. Does not follow redirects, reads no `~/.vault-token`, uses no proxy."""

    def __init__(
        self, address: str, token: str | None = None, *, namespace: str | None = None, cacert: str | None = None
    ) -> None:
        """Raises ConfigurationError where `cacert` cannot be used."""
        self.address = address.rstrip("/")
        self.namespace = namespace
        self.cacert = cacert
        headers = {"X-Vault-Request": "true"}
        if token:
            headers["X-Vault-Token"] = token
        if namespace:
            headers["X-Vault-Namespace"] = namespace
        # Always given: the context that httpx makes by itself writes session keys to $SSLKEYLOGFILE.
        context = tls_context(cafile=Path(cacert) if cacert else None, setting="VAULT_CACERT")
        self._http = httpx.Client(
            base_url=f"{self.address}/v1/", headers=headers, verify=context, timeout=_TIMEOUT, trust_env=False
        )

    def with_token(self, token: str) -> "VaultAdmin":
        """The same Vault, as somebody else."""
        return VaultAdmin(self.address, token, namespace=self.namespace, cacert=self.cacert)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def raw(
        self, method: str, path: str, json: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """One request, whatever the answer's status. `path` is without `/v1/`.

        Raises:
            VaultUnavailable: Vault does not answer.
        """
        try:
            return self._http.request(method, path, json=json, headers=headers)
        except httpx.HTTPError:
            raise VaultUnavailable(f"Vault at {self.address} does not answer") from None

    def call(self, method: str, path: str, json: Any = None) -> dict[str, Any]:
        """One request that must succeed; the answer's JSON object, empty where there is none.

        Raises:
            VaultDenied, VaultRefused, VaultSealed, VaultUnavailable: they name the method, the path and the status;
                never what was sent or answered.
        """
        answer = self.raw(method, path, json)
        if answer.is_success:
            return dict(answer.json()) if answer.content else {}
        what = f"Vault answered {answer.status_code} to {method} {path}"
        if answer.status_code == httpx.codes.FORBIDDEN:
            raise VaultDenied(what)
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise VaultSealed(f"Vault is sealed, or not up yet: it answered 503 to {method} {path}")
        if answer.is_server_error:
            raise VaultUnavailable(what)
        raise VaultRefused(what)

    def data(self, method: str, path: str, json: Any = None) -> dict[str, Any]:
        """`call`, of which only `data` is of interest."""
        return dict(self.call(method, path, json).get("data") or {})

    def find(self, path: str) -> dict[str, Any] | None:
        """What is read at the path (`data`), or None where there is nothing.

        Raises: as `call`.
        """
        if self.raw("GET", path).status_code == httpx.codes.NOT_FOUND:
            return None
        return self.data("GET", path)
