"""Routes whose dependencies are called one after the other, without FastAPI's machinery for the general case.

FastAPI works a route's dependencies out anew for each request; for reading one credential's metadata that cost more
than all the rest. What a route declares stays what FastAPI reads: its document, and what its parameters' types demand.
(https://fastapi.tiangolo.com/how-to/custom-request-and-route/ is the way in.)
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from fastapi import Request, Response
from fastapi.datastructures import DefaultPlaceholder
from fastapi.params import Depends, Path
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from starlette.types import ASGIApp, Receive, Scope, Send

DOCUMENTED = "_documented"
"""The name of a parameter that is there for the OpenAPI document alone. It is given None."""

_Function = Callable[..., Awaitable[Any]]
_Plan = tuple[tuple[_Function, tuple[tuple[str, object], ...]], ...]
"""Functions in the order they are called in, the endpoint last, each with its parameters' names and sources.

A source is the class Request or Response, None (for None), the name of a part of the path, or a function called before.
"""


class DirectRoute(APIRoute):
    """A route as FastAPI's, and faster where it is of the plain kind.

    Plain is: the endpoint and all that it depends on are async functions, whose parameters are the request, the
    response, strings of the path, `_documented` ones, and further dependencies; the endpoint returns a pydantic model,
    or, as its annotation says, a response. Guarantees, then: each dependency is called once for a request, in FastAPI's
    order, before the endpoint; one that raises ends it; the answer is the model's JSON with the status and headers that
    FastAPI would give it, or the response. Any other route is left to FastAPI, whole, and so is one that gets into an
    application by `include_router`. Does not: look at `app.dependency_overrides`.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """As FastAPI's."""
        super().__init__(path, endpoint, **options)
        plan = plan_of(self)
        if plan is not None:
            # In the place of what would catch errors, which the application does around its routes with the same
            # handlers, and close what dependencies left open, which these have nothing of.
            self.app = (
                _responding(plan)
                if self.response_model is None
                else _application(plan, self.response_model, self.status_code or 200)
            )


def _application(plan: _Plan, model: type[BaseModel], status: int) -> ASGIApp:
    to_json = TypeAdapter(model).dump_json

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        response = Response(status_code=status, media_type="application/json")
        found: dict[object, Any] = {Request: request, Response: response, None: None, **scope["path_params"]}
        result = None
        for function, parameters in plan:
            result = found[function] = await function(**{name: found[source] for name, source in parameters})
        # Of anything else pydantic would write what it finds: of a row, its binding too.
        if type(result) is not model:
            raise TypeError("the endpoint did not return the route's model")
        response.body = to_json(result)
        response.headers["content-length"] = str(len(response.body))
        await response(scope, receive, send)

    return answer


def _responding(plan: _Plan) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        found: dict[object, Any] = {Request: request, Response: Response(), None: None, **scope["path_params"]}
        for function, parameters in plan:
            found[function] = await function(**{name: found[source] for name, source in parameters})
        await found[plan[-1][0]](scope, receive, send)

    return answer


def plan_of(route: APIRoute) -> _Plan | None:
    """What a plain route calls; None for a route that is left to FastAPI."""
    if _returns_response(route.endpoint):
        if route.dependencies or route.max_body_size is not None or route.response_model is not None:
            return None
    elif not (
        isinstance(route.response_class, DefaultPlaceholder)
        and inspect.isclass(route.response_model)
        and issubclass(route.response_model, BaseModel)
        and not route.dependencies
        and route.max_body_size is None
        and route.response_model_by_alias
        and route.response_model_include is route.response_model_exclude is None
        and not (route.response_model_exclude_unset or route.response_model_exclude_defaults)
        and not route.response_model_exclude_none
    ):
        return None
    plan: dict[_Function, tuple[tuple[str, object], ...]] = {}
    try:
        _add(route.endpoint, frozenset(route.param_convertors), plan)
    except _NotPlain:
        return None
    return tuple(plan.items())


def _returns_response(endpoint: _Function) -> bool:
    returned = get_type_hints(endpoint).get("return")
    return inspect.isclass(returned) and issubclass(returned, Response)


class _NotPlain(Exception):
    """A route needs FastAPI. Never leaves this module."""


def _add(
    function: _Function, path_names: frozenset[str], plan: dict[_Function, tuple[tuple[str, object], ...]]
) -> None:
    """Notes the function, after all that it depends on. Raises _NotPlain."""
    code = function if inspect.isfunction(function) else type(function).__call__
    if not inspect.iscoroutinefunction(code):
        raise _NotPlain
    hints: Mapping[str, Any] = get_type_hints(code, include_extras=True)
    parameters = []
    for name in inspect.signature(function).parameters:
        source = _source(name, hints[name], path_names)
        if callable(source) and source not in (Request, Response):
            _add(source, path_names, plan)
        parameters.append((name, source))
    plan[function] = tuple(parameters)


def _source(name: str, annotation: Any, path_names: frozenset[str]) -> object:
    """Where a parameter's value is from. Raises _NotPlain."""
    if name == DOCUMENTED:
        return None
    if annotation in (Request, Response):
        return annotation
    kind, *extras = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    declared = [extra for extra in extras if isinstance(extra, Depends | FieldInfo)]
    match declared:
        case [Depends(dependency=dependency) as found] if dependency is not None and found == Depends(dependency):
            return dependency
        case [Path(metadata=[], alias=None)] if kind is str and name in path_names:
            return name
    raise _NotPlain
