"""The web application: routes, errors and middleware around one runtime."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.routing import Route

from service.api import (
    credential_routes,
    event_routes,
    handoff_routes,
    health_routes,
    job_routes,
    key_routes,
    metrics_route,
    proxy_routes,
    suspension_routes,
    use_routes,
)
from service.api.error_responses import UnexpectedErrors, install_error_responses
from service.api.event_export import install_exports
from service.api.openapi_document import install_openapi
from service.api.response_headers import NoStore
from service.composition import Runtime
from service.errors import ConfigurationError
from service.memory.collector import CollectAfterSecrets
from service.observability import RequestLog
from service.providers.registry import credential_types
from service.settings import ProviderSettings, Settings, load_settings


def create_app(settings: Settings | None = None, *, runtime: Runtime | None = None, collect: bool = False) -> FastAPI:
    """The application. Nothing is opened, and no setting read, before its lifespan begins.

    With `runtime`, that one is used and stays the caller's to close; else one is opened from `settings` (default: the
    environment's) and closed with the lifespan. `collect`: this process is the service and nothing else, so its garbage
    is collected often (see `Runtime.open`). Logging is the caller's to configure.

    Raises:
        ConfigurationError: `settings` name no token issuer. The environment's are looked at when the lifespan begins,
            which raises it then.
    """
    if settings is not None and runtime is None:
        _need_an_issuer(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if runtime is not None:
            app.state.runtime = runtime
            yield
            return
        used = settings or load_settings()
        _need_an_issuer(used)
        app.state.credential_types = credential_types(used)
        async with Runtime.open(used, background=True, collect=collect) as opened:
            app.state.runtime = opened
            yield

    app = FastAPI(
        title="vault-credentials",
        summary="Keeps users' broker and market-data API credentials, encrypted by Vault.",
        version=version("vault-credentials"),
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        # The pages for people would load their scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        # A redirect to the address with or without a slash would be built from the caller's Host header.
        redirect_slashes=False,
        # FastAPI records validation failures and exceptions with their messages, to whatever exporter the environment
        # names; these quote what was sent. Ours are in `observability.py`.
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    # `/credentials/validate` has to be found before `/credentials/{credential_id}`'s routes are asked.
    # Not `include_router`, which would look for each request's route in one router after the other, twice.
    # What is asked most often comes first, as each route before it is tried.
    modules = (
        use_routes,
        credential_routes,
        proxy_routes,
        handoff_routes,
        event_routes,
        key_routes,
        job_routes,
        suspension_routes,
        health_routes,
        metrics_route,
    )
    for routes in modules:
        app.router.routes.extend(routes.router.routes)
    answered = metrics_route.install_metrics(app)
    install_exports(app)
    install_error_responses(app)
    app.state.credential_types = credential_types(settings or ProviderSettings.model_construct())
    install_openapi(app)
    _end_paths_strictly(app)
    # The last one added is the outermost.
    app.add_middleware(CollectAfterSecrets)
    app.add_middleware(UnexpectedErrors)
    app.add_middleware(NoStore)
    app.add_middleware(RequestLog, answered=answered)
    return app


def _end_paths_strictly(app: FastAPI) -> None:
    """Starlette ends its patterns in `$`, which matches before a last newline, too: `/metrics%0A` would be `/metrics`
    here, and not to a front that refuses that one. (The proxy looks at its whole path by itself.)
    """
    for route in app.router.routes:
        if isinstance(route, Route) and not route.path.endswith(":path}"):
            route.path_regex = re.compile(route.path_regex.pattern.removesuffix("$") + r"\Z")


def _need_an_issuer(settings: Settings) -> None:
    """A library needs none; a service without one could let nobody in."""
    if settings.oidc_issuer is None:
        raise ConfigurationError("CREDENTIALS_OIDC_ISSUER: is not set, so no caller's token could be checked")
