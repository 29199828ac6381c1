"""Asks the service in this container how it is: what the image's health check runs, as there is no curl in it.

    python -m service.probe [healthz|readyz]

Exit status 0 where the answer is 200, else 1. It asks the loopback address, over HTTP, at CREDENTIALS_PORT.
"""

import http.client
import os
import sys

_SECONDS = 4.0


def is_well(path: str, port: int) -> bool:
    """Whether the service on this machine answers this path with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.request("GET", f"/{path}")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(
        not is_well(sys.argv[1] if len(sys.argv) > 1 else "healthz", int(os.environ.get("CREDENTIALS_PORT", "8080")))
    )
