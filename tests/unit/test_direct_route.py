"""A direct route answers as FastAPI's own does, and whatever it can't answer so is left to FastAPI."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request, Response, Security
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel

from service.api.direct_route import DirectRoute, plan_of
from service.api.error_responses import UnexpectedErrors, install_error_responses
from service.app import create_app
from service.errors import CredentialNotFound, InvalidInput


class Shown(BaseModel):
    """An answer."""

    name: str
    others: list[int] = []


class MoreShown(Shown):
    """What is not to be shown where a `Shown` is."""

    hidden: str = "hidden"


def note(request: Request, name: str) -> None:
    """Notes that this was called."""
    request.app.state.order.append(name)


async def _who(request: Request, _documented: Annotated[object, Depends(HTTPBearer(auto_error=False))]) -> str:
    note(request, f"who {_documented}")
    return request.headers.get("x-who", "nobody")


async def _second(
    request: Request,
    who: Annotated[str, Depends(_who)],
    _documented: Annotated[str | None, Header(alias="X-Who", description="Who.")] = None,
) -> str:
    note(request, "second")
    if who == "stranger":
        raise CredentialNotFound
    if who == "bad":
        raise InvalidInput("X-Who", "is bad")
    if who == "unexpected":
        raise RuntimeError("unexpected")
    return f"{who} again"


class _Third:
    async def __call__(self, request: Request, response: Response, who: Annotated[str, Depends(_who)]) -> int:
        note(request, "third")
        response.headers["X-Third"] = who
        return len(who)


Who = Annotated[str, Depends(_who)]
Second = Annotated[str, Depends(_second)]
Third = Annotated[int, Depends(_Third())]
Name = Annotated[str, Path(description="A name.")]


async def plain(second: Second, who: Who, third: Third, name: Name, request: Request, response: Response) -> Shown:
    note(request, "endpoint")
    response.headers["ETag"] = '"1"'
    if name == "teapot":
        response.status_code = 418
    return Shown(name=f"{name} {who} {second} é", others=[third])


def application(route_class: type[APIRoute]) -> FastAPI:
    """The same routes, of one class or the other, in the service's surroundings."""
    router = APIRouter(prefix="/v1", tags=["things"], route_class=route_class)
    router.get("/things/{name}")(plain)
    router.post("/things/{name}", status_code=201)(plain)
    app = FastAPI()
    app.router.routes.extend(router.routes)
    install_error_responses(app)
    app.add_middleware(UnexpectedErrors)
    app.state.order = []
    return app


async def asked(app: FastAPI, method: str, path: str, who: str | None) -> tuple[Any, ...]:
    """All that a caller sees, and what was called."""
    app.state.order.clear()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as client:
        answer = await client.request(method, path, headers={} if who is None else {"X-Who": who})
    return answer.status_code, sorted(answer.headers.multi_items()), answer.content, list(app.state.order)


@pytest.mark.parametrize("who", [None, "alice", "stranger", "bad", "unexpected"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/things/one"),
        ("POST", "/v1/things/one"),
        ("GET", "/v1/things/teapot"),
        ("GET", "/v1/things/a%20b%2Fc?x=1"),
        ("DELETE", "/v1/things/one"),
        ("GET", "/v1/things/"),
    ],
)
async def test_it_answers_as_fastapi_does(method: str, path: str, who: str | None) -> None:
    direct, usual = application(DirectRoute), application(APIRoute)
    assert all(plan_of(route) for route in direct.routes if isinstance(route, DirectRoute))
    status, headers, content, order = await asked(usual, method, path, who)
    assert await asked(direct, method, path, who) == (status, headers, content, order)
    if status in (200, 201, 418):
        assert order == ["who None", "second", "third", "endpoint"]
        assert dict(headers)["etag"] == '"1"'
    else:
        assert "endpoint" not in order


def test_its_document_is_fastapis() -> None:
    assert application(DirectRoute).openapi() == application(APIRoute).openapi()


async def by_response(name: Name, response: Response) -> Response:
    response.headers["X-Left"] = "behind"  # as FastAPI: what is returned is what is sent
    return PlainTextResponse(f"none of {name}", 203)


async def test_a_response_that_is_returned_is_what_is_sent_as_fastapi_does() -> None:
    answers = []
    for kind in (DirectRoute, APIRoute):
        router = APIRouter(route_class=kind)
        router.add_api_route("/{name}", by_response)
        app = FastAPI()
        app.router.routes.extend(router.routes)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service.test") as client:
            answers.append(await client.get("/x"))
    direct, usual = answers
    assert plan_of(DirectRoute("/{name}", by_response)) is not None
    assert (direct.status_code, direct.text) == (usual.status_code, usual.text) == (203, "none of x")
    assert direct.headers["content-type"] == usual.headers["content-type"]


async def test_two_requests_share_nothing() -> None:
    app = application(DirectRoute)
    first, second = [await asked(app, "GET", f"/v1/things/{name}", name) for name in ("one", "two")]
    assert (b"one one" in first[2], b"one" in second[2]) == (True, False)
    assert second[3] == first[3]


@pytest.mark.parametrize("returned", [MoreShown(name="x"), {"name": "x", "secret": "y"}, None])
async def test_what_is_not_the_routes_model_is_not_shown(returned: object) -> None:
    async def wrong(request: Request) -> Shown:
        note(request, "wrong")
        return returned  # type: ignore[return-value]  # that is the point

    app = application(DirectRoute)
    router = APIRouter(route_class=DirectRoute)
    router.get("/wrong")(wrong)
    app.router.routes.extend(router.routes)
    status, _, content, order = await asked(app, "GET", "/wrong", None)
    assert (status, order) == (500, ["wrong"])
    assert not any(word in content for word in (b"hidden", b"secret"))


# --- what is left to FastAPI ------------------------------------------------------------------------------------------


def _not_async(request: Request) -> str:
    return request.method


async def _with_yield() -> Any:
    yield 1


async def _scopes() -> int:
    return 1


async def by_query(limit: Annotated[int, Query()] = 1) -> Shown:
    return Shown(name=str(limit))


async def by_header(x_who: Annotated[str | None, Header()] = None) -> Shown:
    return Shown(name=str(x_who))


async def by_bare_name(name: str) -> Shown:
    return Shown(name=name)


async def by_number(name: Annotated[int, Path()]) -> Shown:
    return Shown(name=str(name))


async def by_bounded_name(name: Annotated[str, Path(max_length=3)]) -> Shown:
    return Shown(name=name)


async def by_thread(method: Annotated[str, Depends(_not_async)]) -> Shown:
    return Shown(name=method)


async def by_generator(one: Annotated[int, Depends(_with_yield)]) -> Shown:
    return Shown(name=str(one))


async def by_scopes(one: Annotated[int, Security(_scopes, scopes=["a"])]) -> Shown:
    return Shown(name=str(one))


async def by_call_each_time(one: Annotated[int, Depends(_scopes, use_cache=False)]) -> Shown:
    return Shown(name=str(one))


async def by_list() -> list[Shown]:
    return [Shown(name="x")]


def by_function() -> Shown:
    return Shown(name="x")


async def by_options() -> Shown:
    return Shown(name="x")


LEFT: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    *(
        (endpoint, {})
        for endpoint in (
            by_query,
            by_header,
            by_bare_name,
            by_number,
            by_bounded_name,
            by_thread,
            by_generator,
            by_scopes,
            by_call_each_time,
            by_list,
            by_function,
        )
    ),
    (by_options, {"response_model_exclude_unset": True}),
    (by_options, {"response_model_include": {"name"}}),
    (by_options, {"response_class": PlainTextResponse}),
    (by_options, {"response_model": None}),
    (by_options, {"dependencies": [Depends(_scopes)]}),
    (by_options, {"max_body_size": 10}),
]


@pytest.mark.parametrize(("endpoint", "options"), LEFT, ids=[f"{each.__name__} {given}" for each, given in LEFT])
def test_what_is_not_plain_is_left_to_fastapi(endpoint: Callable[..., Awaitable[Any]], options: dict[str, Any]) -> None:
    route = DirectRoute("/{name}", endpoint, **{"response_model": Shown, **options} if options else {})
    assert plan_of(route) is None
    assert plan_of(DirectRoute("/{name}", by_options)) is not None


# --- the service's own ------------------------------------------------------------------------------------------------


def test_the_services_routes_of_single_credentials_are_direct() -> None:
    plans = {route.name: plan_of(route) for route in create_app().routes if isinstance(route, APIRoute)}
    direct = {name for name, plan in plans.items() if plan is not None}
    assert direct >= {
        "store_credential",
        "get_credential",
        "update_credential",
        "roll_back_credential",
        "validate_given_keys",
        "validate_stored_keys",
    }


def test_whoever_calls_is_asked_first() -> None:
    routes = [route for route in create_app().routes if isinstance(route, APIRoute) and route.path.startswith("/v1")]
    for route in routes:
        plan = plan_of(route)
        if plan is not None:
            names = [getattr(function, "__name__", type(function).__name__) for function, _ in plan]
            assert names[:2] == ["_identity", "_on_behalf_of"]
            assert names[2] in ("_OwnerMay", "_OwnerMayUse", "_ReaderMay") or names[2].startswith("_may_")
            assert names[-1] == route.name
