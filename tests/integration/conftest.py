"""Fixtures of the tests of callers' tokens: a foreign issuer, and the client that asks it."""

from collections.abc import AsyncIterator

import httpx
import pytest

from service.http_clients import issuer_client
from service.settings import Settings
from tests.doubles.oidc_issuer import OidcIssuer


@pytest.fixture
async def issuer() -> AsyncIterator[OidcIssuer]:
    async with OidcIssuer() as server:
        server.add_key("k1")
        yield server


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(database_url="postgresql://nowhere", vault_addr="https://nowhere")
    async with issuer_client(settings) as client:
        yield client
