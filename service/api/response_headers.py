"""Headers that every answer under /v1 carries."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.rate_limiting import rate_limit_fields
from service.modules.proxy_path import is_proxy_path

_PREFIX = "/v1"


class NoStore:
    """ASGI middleware: no cache keeps an answer about credentials (RFC 9111, 5.2.2.5), errors included.

    At a proxied call's address, an answer that isn't said to be the provider's is said to be the service's. Where the
    request was counted, how the rate limits stand is told, the provider's answers and refusals included.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not (scope["path"] + "/").startswith(f"{_PREFIX}/"):
            await self._app(scope, receive, send)
            return

        of_proxy = is_proxy_path(scope["path"])

        async def send_uncached(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name.lower() != b"cache-control"]
                headers = [*kept, (b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
                headers += rate_limit_fields(scope)
                if of_proxy and all(name != b"x-answered-by" for name, _ in kept):
                    headers.append((b"x-answered-by", b"service"))
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_uncached)
