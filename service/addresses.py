"""What a base URL has to be, wherever one is given."""

from ipaddress import ip_address
from urllib.parse import urlsplit


def http_url(value: str, *, allow_plain: bool = False) -> str:
    """A base URL without its trailing slash.

    Raises ValueError, with fixed text, for anything but https and, to this machine alone, http: what goes over the
    wire is tokens and keys. `allow_plain`: http to anywhere.
    """
    if not value.startswith(("https://", "http://")):
        raise ValueError("must begin with https:// or http://")
    try:
        host = urlsplit(value).hostname
    except ValueError:
        host = None
    if not host:
        raise ValueError("must name a host")
    if value.startswith("http://") and not allow_plain and not _is_this_machine(host):
        raise ValueError(
            "must begin with https:// (CREDENTIALS_ALLOW_PLAIN_HTTP=true allows http:// to other machines)"
        )
    return value.rstrip("/")


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
