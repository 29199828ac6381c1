"""What tests over REST share: the application in this process, its routes, bodies and answers."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from service.app import create_app
from service.settings import Settings
from tests.support import canary

PROBLEM = "urn:vault-credentials:error:"
Headers = dict[str, str]


@asynccontextmanager
async def client_on(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application on these settings, in this process."""
    app = create_app(settings)
    async with app.router.lifespan_context(app), client_of(app) as client:
        yield client


def client_of(app: FastAPI) -> httpx.AsyncClient:
    """A client of an application whose lifespan is under way."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://service.test")


def routes() -> set[str]:
    """`METHOD path` of everything the application answers, in its document or not."""
    contexts = iter_route_contexts(create_app().routes)
    # What a part of an address may hold ({path:path}) is the router's matter.
    return {
        f"{method} {re.sub(':path}', '}', context.path or '')}"
        for context in contexts
        for method in context.methods or ()
    }


def new_body(**changes: Any) -> dict[str, Any]:
    """A credential to store, of random keys and an account that nobody has; None leaves a field out."""
    body = {
        "account_id": str(uuid4()),
        "credential_type": "alpaca",
        "api_key": canary("AK"),
        "secret_key": canary("SK"),
    } | changes
    return {name: value for name, value in body.items() if value is not None}


async def stored(client: httpx.AsyncClient, headers: Headers, **changes: Any) -> dict[str, Any]:
    """Stores one; its metadata as answered."""
    answer = await client.post("/v1/credentials", json=new_body(**changes), headers=headers)
    assert answer.status_code == 201, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def problem_of(answer: httpx.Response) -> tuple[int, str, str | None]:
    """Status, the problem's name, and Retry-After."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    told = answer.json()
    assert told["status"] == answer.status_code
    assert told["type"].startswith(PROBLEM)
    return answer.status_code, told["type"].removeprefix(PROBLEM), answer.headers.get("retry-after")
