"""Headers that every answer under /v1 carries."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PREFIX = "/v1"


class NoStore:
    """ASGI middleware: no cache keeps an answer about credentials (RFC 9111, 5.2.2.5), errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not (scope["path"] + "/").startswith(f"{_PREFIX}/"):
            await self._app(scope, receive, send)
            return

        async def send_uncached(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name.lower() != b"cache-control"]
                headers = [*kept, (b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_uncached)
