"""An orchestrator that trades for a user and never holds the user's keys for longer than it takes to use them.

Each round it looks at the clock and buys one share, both through the service's proxy, which adds the keys: this process
never has them. Then it reads the account at Alpaca itself, as a client library would, with keys that it has for the
length of a block (`client.credential`) and that are wiped after it. An update of the keys it does not notice, or only
as a refusal that is over soon; when the user is suspended it is cut off, says so and ends.

    python examples/orchestrator.py CREDENTIAL_ID USER_ID [SYMBOL] [--rounds N] [--pause SECONDS]

Its surroundings: SERVICE_URL (default http://127.0.0.1:8080), ALPACA_BASE_URL (default http://127.0.0.1:8090), and
TOKEN_COMMAND, which prints a fresh token for the role orchestrator (default: the local stack mints one).

Ends with 0 after its rounds, 3 when it is cut off, 4 when somebody else may have the keys, 1 when it can't go on.
"""

import argparse
import asyncio
import os
import shlex
import sys
import time
import uuid
from typing import Unpack

import httpx

from service.client import CallOptions, CredentialsClient, ProviderAnswer
from service.errors import (
    CredentialsError,
    HandOffAlreadyUsed,
    HandOffMisdirected,
    ProviderOutcomeUnknown,
    RateLimited,
    ServiceOutcomeUnknown,
    Suspended,
    TemporarilyUnavailable,
)

DONE, STUCK, CUT_OFF, ALARM = 0, 1, 3, 4
TOKEN_COMMAND = "vault-credentials token --role orchestrator --subject example"  # noqa: S105 - a command
TOKEN_LASTS = 600.0


class Tokens:
    """Fresh tokens, by a command: what a deployment has its own way for (a projected volume, an OIDC client)."""

    def __init__(self, command: str) -> None:
        self._command = shlex.split(command)
        self._token = ""
        self._until = 0.0

    async def __call__(self) -> str:
        """A token that is good for some minutes."""
        if time.monotonic() >= self._until:
            process = await asyncio.create_subprocess_exec(*self._command, stdout=asyncio.subprocess.PIPE)
            output, _ = await process.communicate()
            if process.returncode != 0:
                raise SystemExit("no token: TOKEN_COMMAND failed")
            self._token, self._until = output.decode().strip(), time.monotonic() + TOKEN_LASTS
        return self._token


class Trader:
    """Trades one symbol for one user, with one credential."""

    def __init__(self, client: CredentialsClient, alpaca: httpx.AsyncClient, credential_id: str, user_id: str) -> None:
        self._client = client
        self._alpaca = alpaca
        self._credential_id = credential_id
        self._user_id = user_id

    async def round(self, symbol: str) -> None:
        """One round. Raises CredentialsError where the service or Vault has something against it."""
        clock = await self._call("GET", "v2/clock")
        if not clock.is_success:
            say(f"Alpaca refuses ({clock.status_code}): perhaps the keys are being changed; later again")
            return
        if clock.json()["is_open"]:
            await self._buy(symbol)
        await self._read_account()

    async def _buy(self, symbol: str) -> None:
        # Our own id for it: were the answer lost, it would tell whether there is such an order.
        ours = str(uuid.uuid4())
        order = {"symbol": symbol, "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}
        try:
            placed = await self._call("POST", "v2/orders", json={**order, "client_order_id": ours})
        except (ServiceOutcomeUnknown, ProviderOutcomeUnknown):
            # It may have been placed: never send it again without having looked.
            placed = await self._call("GET", "v2/orders:by_client_order_id", params={"client_order_id": ours})
        if placed.is_success:
            say(f"bought 1 {symbol} through the proxy: order {placed.json()['id']}")
        else:
            say(f"Alpaca did not take the order: {placed.status_code}")

    async def _read_account(self) -> None:
        async with self._client.credential(self._credential_id, user_id=self._user_id) as (api_key, secret_key):
            # As any client library for Alpaca would. What it makes of the two strings is its own: httpx's copies are
            # freed with the request, and wiped by then where this runs under `vault-credentials exec`.
            answer = await self._alpaca.get(
                "/v2/account", headers={"APCA-API-KEY-ID": api_key, "APCA-API-SECRET-KEY": secret_key}
            )
        if answer.is_success:
            account = answer.json()
            say(f"account {account['account_number']} has {account['cash']} {account['currency']}, read with the keys")
        else:
            say(f"Alpaca refuses the keys ({answer.status_code}): perhaps they are being changed; later again")

    async def _call(self, method: str, path: str, **options: Unpack[CallOptions]) -> ProviderAnswer:
        options["user_id"] = self._user_id
        return await self._client.proxy(self._credential_id, method, path, **options)


async def trade(given: argparse.Namespace) -> int:
    """Rounds, until they are done or it is cut off; the exit status."""
    tokens = Tokens(os.environ.get("TOKEN_COMMAND") or TOKEN_COMMAND)
    service = os.environ.get("SERVICE_URL") or "http://127.0.0.1:8080"
    stand_in = os.environ.get("ALPACA_BASE_URL") or "http://127.0.0.1:8090"
    async with (
        CredentialsClient(service, token=tokens) as client,
        httpx.AsyncClient(base_url=stand_in, timeout=10, follow_redirects=False) as alpaca,
    ):
        trader = Trader(client, alpaca, given.credential_id, given.user_id)
        done = 0
        while given.rounds == 0 or done < given.rounds:
            try:
                await trader.round(given.symbol)
            except Suspended as error:
                complain(f"cut off: {error}")
                return CUT_OFF
            except (HandOffAlreadyUsed, HandOffMisdirected) as error:
                complain(f"ALARM: {error}")
                return ALARM
            except (TemporarilyUnavailable, RateLimited) as error:
                say(f"not now: {error}")
            except CredentialsError as error:
                complain(f"can't go on: {error}")
                return STUCK
            except httpx.HTTPError:
                say("Alpaca does not answer")
            done += 1
            await asyncio.sleep(given.pause)
    return DONE


def say(line: str) -> None:
    """What happens, as it happens."""
    print(line, flush=True)


def complain(line: str) -> None:
    """Why it ends."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Ends with the status that the description says."""
    parser = argparse.ArgumentParser(description="Trades for a user without holding the user's keys.")
    parser.add_argument("credential_id")
    parser.add_argument("user_id")
    parser.add_argument("symbol", nargs="?", default="AAPL")
    parser.add_argument("--rounds", type=int, default=0, help="0 goes on until it is cut off")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between rounds")
    try:
        raise SystemExit(asyncio.run(trade(parser.parse_args())))
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
