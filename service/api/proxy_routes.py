"""Calls to a provider through the service, which adds the credential: any method, streamed both ways."""

import logging
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from service.api.credential_routes import CredentialId
from service.api.direct_route import DirectRoute
from service.api.error_responses import documented
from service.api.proxy_caller import AsgiCaller
from service.api.proxy_headers import has_body, to_provider
from service.api.rate_limiting import HEADERS, MayProxyNow, MayTradeNow
from service.api.runtime import ApiRuntime
from service.errors import CallerGone, ConfigurationError, CredentialsError, InvalidInput
from service.modules.proxy import Proxy
from service.modules.proxy_path import MAX_PATH, check_proxy_query, is_proxy_path, parse_proxy_path
from service.modules.proxy_ports import ProxyCall
from service.modules.records import OwnerAccess

_log = logging.getLogger(__name__)

READS = ("GET", "HEAD")
WRITES = ("POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PATH = "/v1/credentials/{credential_id}/proxy/{path:path}"

ProviderPath = Annotated[
    str,
    Path(
        description="The provider's own path, without its first slash, `v2/orders` say: segments of letters, "
        "digits and `._~:,+-`. The query goes on as it is.",
        json_schema_extra={"pattern": "^[A-Za-z0-9._~:,+-]+(/[A-Za-z0-9._~:,+-]+)*$", "maxLength": MAX_PATH},
    ),
]


class ProxyRoute(DirectRoute):
    """A route of every path that only a proxied call can be meant by, however wrong it is."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Looks at no part of the path, which the server has decoded: `parse_proxy_path` takes it as it was sent."""
        if scope["type"] != "http" or not is_proxy_path(scope["path"]):
            return Match.NONE, {}
        fits = Match.FULL if scope["method"] in (self.methods or ()) else Match.PARTIAL
        return fits, {"endpoint": self.endpoint, "path_params": {"credential_id": "", "path": ""}, "route": self}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As any route's, and names all the methods where it is none of them."""
        if scope["method"] not in (self.methods or ()):
            raise HTTPException(405, headers={"Allow": ", ".join(sorted((*READS, *WRITES)))})
        await super().handle(scope, receive, send)


class ProxiedAnswer(Response):
    """Passes the call on when it is sent, and sends what the provider answers as it comes.

    Guarantees: an answer that broke off doesn't look whole: the connection to the caller is closed without its end.
    """

    def __init__(self, proxy: Proxy, access: OwnerAccess, call: ProxyCall) -> None:
        super().__init__()
        self._proxy = proxy
        self._access = access
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises what `Proxy.forward` does where nothing was sent yet; ClientDisconnect when the caller hung up."""
        caller = AsgiCaller(receive, send, has_body=has_body(scope["headers"]))
        try:
            await self._proxy.forward(self._access, self._call, caller)
        except CallerGone:
            raise ClientDisconnect from None
        except CredentialsError as error:
            if not caller.begun:
                raise
            if not caller.ended:
                # To return without an end has the server cut the connection.
                _log.warning("a proxied answer broke off", extra={"error": type(error).__name__})


def _call(request: Request) -> ProxyCall:
    """What is to be passed on. Raises InvalidInput, naming the path, `query`, or a header."""
    scope = request.scope
    raw_path: bytes | None = scope.get("raw_path")
    if raw_path is None:  # optional in ASGI, but uvicorn and what tests use have it
        raise ConfigurationError("the server does not say what path was sent, so no call can be passed on")
    address = parse_proxy_path(raw_path)
    query = check_proxy_query(scope["query_string"])
    fields = scope["headers"]
    if any(name == b"upgrade" for name, _ in fields):
        raise InvalidInput("Upgrade", "is not possible here")
    with_body = has_body(fields)
    if with_body and scope["method"] in READS:
        raise InvalidInput("body", "must not come with this method")
    return ProxyCall(
        credential_id=address.credential_id,
        method=scope["method"],
        path=address.path,
        query=query,
        headers=to_provider(fields, with_body=with_body),
    )


async def pass_on_read(
    access: MayProxyNow,
    runtime: ApiRuntime,
    request: Request,
    credential_id: CredentialId,  # noqa: ARG001 - for the document; it is read from the path as it was sent
    path: ProviderPath,  # noqa: ARG001 - as the credential's id
) -> ProxiedAnswer:
    """Calls the provider with the credential's keys, which the caller doesn't see. Any other header that
    authenticates, cookies and the connection's own headers stay here. What the provider answers has
    `X-Answered-By: provider`, its errors too; an answer without it is this service's."""
    return ProxiedAnswer(runtime.proxy, access, _call(request))


async def pass_on(
    access: MayTradeNow,
    runtime: ApiRuntime,
    request: Request,
    credential_id: CredentialId,  # noqa: ARG001 - for the document; it is read from the path as it was sent
    path: ProviderPath,  # noqa: ARG001 - as the credential's id
) -> ProxiedAnswer:
    """As GET, for the right to trade. It is sent once, whatever happens; a 502 `provider-outcome-unknown` means that
    nobody knows whether the provider has done it."""
    return ProxiedAnswer(runtime.proxy, access, _call(request))


_ANSWERED_BY = {
    "X-Answered-By": {"description": "Whose answer this is.", "schema": {"enum": ["provider", "service"]}},
}
_PROVIDERS = {
    "description": "What the provider answered, with its status, body and most of its headers.",
    "headers": {**_ANSWERED_BY, **HEADERS},
    "content": {"*/*": {}},
}
_BODY = {"requestBody": {"description": "As the provider wants it.", "content": {"*/*": {}}}}


def _add(router: APIRouter, method: str, endpoint: Callable[..., Any]) -> None:
    router.add_api_route(
        PATH,
        endpoint,
        methods=[method],
        response_class=Response,
        responses={200: _PROVIDERS, "default": _PROVIDERS, **documented(401, 403, 404, 409, 422, 429, 500, 502, 503)},
        operation_id=f"proxy_{method.lower()}",
        summary="Call the provider",
        openapi_extra=None if method in READS else _BODY,
    )


router = APIRouter(tags=["use"], route_class=ProxyRoute)
for _method in (*READS, *WRITES):
    _add(router, _method, pass_on_read if _method in READS else pass_on)
