"""Contender: this project, as a program that embeds it uses it. Settings are from the environment."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.contender import Opener, Terms
from benchmarks.loading import Loaded
from service.composition import Runtime
from service.modules.records import OwnerAccess
from service.settings import load_settings


@asynccontextmanager
async def opener(terms: Terms) -> AsyncIterator[Opener]:
    """`Runtime.opener.reveal`, over the runtime's own pool."""
    async with Runtime.open(load_settings(database_url=terms.database_url)) as runtime:

        async def open_one(credential: Loaded) -> None:
            access = OwnerAccess(user_id=credential.user_id, actor="library")
            async with runtime.opener.reveal(access, credential.id) as (_api_key, _secret_key):
                pass

        yield open_one
