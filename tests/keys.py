"""What tests of keys over REST share: callers, an application with a worker or without one, and jobs followed."""

import asyncio
from collections.abc import Callable
from functools import cache
from typing import Any

import httpx

from tests.rest import Headers, stored
from tests.support import Stack

KEY = "credentials-alpaca"
NO_WORKER: dict[str, Any] = {"rotator_database_url": None, "job_wait_seconds": 0.3}
WORKER: dict[str, Any] = {"job_poll_seconds": 0.05, "job_wait_seconds": 60}


def callers(stack: Stack) -> Callable[[str, str], Headers]:
    """`(role, subject)` to that caller's headers, minted once for each."""

    @cache
    def headers(role: str, subject: str) -> Headers:
        return {"Authorization": f"Bearer {stack.mint(role, subject)}"}

    return lambda role, subject: dict(headers(role, subject))


class Operator:
    """Somebody who looks after keys, over REST."""

    def __init__(self, rest: httpx.AsyncClient, headers: Headers, key: str = KEY) -> None:
        self.rest = rest
        self.headers = headers
        self.path = f"/v1/keys/{key}"

    async def get(self, path: str = "") -> Any:
        """What is told at an address below the key's, or at another one."""
        answer = await self.rest.get(path if path.startswith("/v1") else self.path + path, headers=self.headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def ask(self, what: str, body: Any = None) -> httpx.Response:
        """`rotate`, `rewrap` or `retire`."""
        return await self.rest.post(f"{self.path}/{what}", json=body, headers=self.headers)

    async def rotate(self) -> int:
        """Rotates, by a worker; the new version."""
        answer = await self.ask("rotate")
        assert answer.status_code == 200, answer.text
        return int(answer.json()["latest_version"])

    async def rewrap(self) -> Any:
        """Rewraps, by a worker; the job when it is over."""
        answer = await self.ask("rewrap")
        assert answer.status_code == 202, answer.text
        return await self.over(answer.headers["location"])

    async def over(self, address: str) -> Any:
        """The job when it is over."""
        async with asyncio.timeout(60):
            while (job := await self.get(address))["state"] not in ("done", "failed"):  # noqa: ASYNC110 - only asking tells
                await asyncio.sleep(0.05)
        return job

    async def version(self, number: int) -> Any:
        """What is told of one version."""
        return next(each for each in (await self.get())["versions"] if each["version"] == number)


async def somebodys(rest: httpx.AsyncClient, headers: Headers, count: int) -> list[str]:
    """New credentials of one user; their ids, oldest first."""
    return [str((await stored(rest, headers))["id"]) for _ in range(count)]
