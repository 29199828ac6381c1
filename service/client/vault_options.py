"""Where an orchestrator may unwrap what it was handed off, and addresses in one spelling."""

import re
import ssl
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from service.addresses import http_url
from service.errors import ConfigurationError

NAMESPACE = re.compile(r"[!-~]{1,1024}")
_URL = re.compile(r"https?://[!-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultOptions:
    """Where hand-offs may be unwrapped, and how Vault is spoken to there.

    Without `addr` and `allowed_addrs` it is the service that says where: any https address, or http of this machine.
    Whoever doesn't want to believe it names one of the two.
    """

    addr: str | None = None
    """Vault's address. What the service says is then not looked at."""
    allowed_addrs: Collection[str] | None = None
    """The addresses, of which the service may name one."""
    namespace: str | None = None
    """Vault's namespace, empty for the root one; None: the one that the service names."""
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    """As `service.tls.tls_context` makes one, of a private authority's certificate for instance; None: the system's."""
    server_name: str | None = None
    """The name that Vault's certificate has to have, where that isn't the address's."""
    timeout: float = 5.0
    """Seconds for each of the two requests."""
    allow_plain_http: bool = False
    """Whether http to other machines is possible, which shows the token and the keys to whoever is on the way."""
    transit_mount: str = "transit"
    key_prefix: str = "credentials-"
    """With these two, what the service has to have used: `<transit_mount>/decrypt/<key_prefix><credential type>`."""


def plain_url(url: str, *, allow_plain: bool) -> str:
    """As `http_url`, in one spelling, with neither user, query nor fragment. Raises ValueError, with fixed text."""
    checked = http_url(url, allow_plain=allow_plain)
    if not _URL.fullmatch(checked) or not {"@", "?", "#", "\\"}.isdisjoint(checked):
        raise ValueError("must be an address alone")
    parts = urlsplit(checked)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("must name a port that there is")
    usual = f":{443 if parts.scheme == 'https' else 80}"
    return f"{parts.scheme}://{parts.netloc.lower().removesuffix(usual).removesuffix(':')}{parts.path}"


def check_verifies(name: str, context: ssl.SSLContext) -> None:
    """Raises ConfigurationError for a context that takes any certificate, or anybody's."""
    if context.verify_mode is not ssl.CERT_REQUIRED or not context.check_hostname:
        raise ConfigurationError(f"{name}: must verify certificates and their names")
