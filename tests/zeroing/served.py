"""The service with some protections taken away: `python -m tests.zeroing.served NAME...`.

As `vault-credentials serve`, but that it runs in the environment it is given, whatever that is.
"""

import sys

from tests.zeroing.without import take_away

if __name__ == "__main__":
    take_away(sys.argv[1:])

    from service import server
    from service.app import create_app
    from service.observability import configure_logging
    from service.settings import load_settings

    settings = load_settings()
    configure_logging(settings.log_level)
    server.serve(create_app(settings, collect=True), host=settings.host, port=settings.port)
