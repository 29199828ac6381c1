"""Alpaca's Trading API: two keys in two headers; paper and live accounts on two hosts with separate keys.

Sources: https://docs.alpaca.markets/docs/authentication (hosts, headers),
https://alpaca.markets/learn/how-to-fix-common-trading-api-errors-at-alpaca (401: keys not accepted here),
https://docs.alpaca.markets/docs/getting-started-with-trading-api (403: keys missing or malformed).
"""

from dataclasses import dataclass
from typing import Literal

import httpx

from service.errors import ProviderRefused, ProviderUnavailable
from service.memory.plaintext import Plaintext
from service.modules.records import ProviderVerdict
from service.providers.exchange import Answer, ask, header_text

AccountType = Literal["paper", "live"]


@dataclass(frozen=True, slots=True)
class AlpacaHosts:
    """The base URLs of Alpaca's two environments. Keys of the one are refused by the other."""

    paper: str = "https://paper-api.alpaca.markets"
    live: str = "https://api.alpaca.markets"

    def account_type(self, base_url: str) -> AccountType | None:
        """Which environment this base URL is; None if it is neither."""
        given = httpx.URL(base_url)
        for name, host in self._named():
            known = httpx.URL(host)
            if (given.scheme, given.host, given.port) == (known.scheme, known.host, known.port):
                return name
        return None

    def _named(self) -> tuple[tuple[AccountType, str], ...]:
        return ("paper", self.paper), ("live", self.live)

    def other(self, account_type: AccountType) -> tuple[AccountType, str]:
        """The other environment's account type and base URL."""
        return ("live", self.live) if account_type == "paper" else ("paper", self.paper)


class Alpaca:
    """Asks Alpaca for the account that a pair of keys opens. Implements `Provider`."""

    credential_type = "alpaca"
    needs_secret_key = True
    has_account_types = True

    def __init__(self, client: httpx.AsyncClient, base_url: str, hosts: AlpacaHosts | None = None) -> None:
        """`hosts` are Alpaca's own unless a test says otherwise."""
        self._client = client
        # Alpaca's dashboard shows the endpoint with /v2, so that is what people paste.
        self._base_url = base_url.rstrip("/").removesuffix("/v2")
        self._hosts = hosts or AlpacaHosts()

    def headers(self, api_key: Plaintext, secret_key: Plaintext) -> dict[str, str]:
        """What authenticates a request. Strings, which can't be wiped: make them at the last moment."""
        return {
            "APCA-API-KEY-ID": header_text(api_key, "api_key"),
            "APCA-API-SECRET-KEY": header_text(secret_key, "secret_key"),
        }

    async def validate(self, api_key: Plaintext, secret_key: Plaintext) -> ProviderVerdict:
        """Whether Alpaca accepts the keys, and whether they are a paper or a live account's.

        Where the base URL is one of Alpaca's two hosts, the host that accepts tells the account type, and
        keys count as refused only when both hosts have refused them. Any other base URL is asked alone, and the
        account number tells: a paper account's begins with PA. Each host is asked once, nothing is retried.

        Raises:
            InvalidInput: a key can't be sent.
            ProviderUnavailable: (and its kinds) a host that had to be asked couldn't be.
        """
        first = self._hosts.account_type(self._base_url)
        account_number = await self._account_number(self._base_url, api_key, secret_key)
        if first is None:
            if account_number is None:
                return ProviderVerdict(is_valid=False)
            account_type: AccountType = "paper" if account_number.startswith("PA") else "live"
            return ProviderVerdict(is_valid=True, account_type=account_type)
        if account_number is not None:
            return ProviderVerdict(is_valid=True, account_type=first)
        second, base_url = self._hosts.other(first)
        if await self._account_number(base_url, api_key, secret_key) is not None:
            return ProviderVerdict(is_valid=True, account_type=second)
        return ProviderVerdict(is_valid=False)

    async def _account_number(self, base_url: str, api_key: Plaintext, secret_key: Plaintext) -> str | None:
        """The number of the account that the keys open at this host; None where it refuses the keys."""
        url = f"{base_url}/v2/account"
        answer = await ask(self._client, url, lambda: self.headers(api_key, secret_key), provider=self.credential_type)
        if answer.status == 200:
            account_number = (answer.json_object() or {}).get("account_number")
            if not isinstance(account_number, str) or not account_number:
                raise ProviderUnavailable("Alpaca's answer is not an account.")
            return account_number
        if _is_someone_elses(answer):
            raise ProviderRefused
        return None


def _is_someone_elses(answer: Answer) -> bool:
    """Whether a 403 is a firewall's page and not Alpaca's JSON: it says nothing of the keys."""
    return answer.status == 403 and bool(answer.body.strip()) and answer.json_object() is None
