"""The orchestrator's client: an asynchronous library that needs httpx and pydantic, and nothing of the service's own.

    async with CredentialsClient("https://credentials.example", token=fresh_token) as client:
        async with client.credential(credential_id, user_id="alice") as (api_key, secret_key):
            ...
        answer = await client.proxy(credential_id, "POST", "/v2/orders", user_id="alice", json=order)

What it raises is in `service.errors`. A program that is to leave nothing of the keys in its memory is started with
`vault-credentials exec`, as one that embeds the service's own library.
"""

from service.client.answers import KnownCredential
from service.client.credentials_client import CredentialsClient
from service.client.exchange import TokenSource
from service.client.proxied import CallOptions, ProviderAnswer, ProviderStream
from service.client.vault_options import VaultOptions
from service.tls import tls_context

__all__ = [
    "CallOptions",
    "CredentialsClient",
    "KnownCredential",
    "ProviderAnswer",
    "ProviderStream",
    "TokenSource",
    "VaultOptions",
    "tls_context",
]
