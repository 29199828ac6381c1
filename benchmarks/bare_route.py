"""A bare FastAPI route on the service's own server settings: what any route costs before it does anything."""

import sys

from fastapi import FastAPI
from pydantic import BaseModel

from service.server import serve


class Small(BaseModel):
    """A small answer."""

    id: str
    status: str
    is_active: bool


def app() -> FastAPI:
    """The application, with its one route."""
    made = FastAPI()

    @made.get("/v1/credentials/{credential_id}")
    async def get(credential_id: str) -> Small:
        return Small(id=credential_id, status="success", is_active=True)

    return made


if __name__ == "__main__":
    serve(app(), port=int(sys.argv[1]))
