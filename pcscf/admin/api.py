"""The HTTP API: its operations as a table, and the one way every request goes.

A request is admitted, its path, query and body are read by pydantic models, the operation is called, and its answer is
written by a model again. `openapi` describes the same table, so that it cannot say anything else.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from aiohttp import web
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pcscf import PcscfError
from pcscf.admin.access import Access, Scope
from pcscf.admin.facts import UnknownUe, find
from pcscf.admin.feed import Feed
from pcscf.admin.history import History
from pcscf.admin.problem import Refused, as_problems
from pcscf.admin.views import Inside
from xfrm.model import IPAddress

LARGEST_BODY = 65_536
JSON = "application/json"


class Asked(BaseModel):
    """What may stand in the query of an operation, or in its body. What is not known is refused."""

    model_config = ConfigDict(extra="forbid")


@dataclass(slots=True, eq=False)
class Service:
    """What operations work with. `reload` takes the configuration file over; it raises PcscfError."""

    inside: Inside
    history: History
    feed: Feed
    reload: Callable[[], tuple[list[str], list[str]]]


@dataclass(slots=True, eq=False)
class Call:
    """One request to an operation. `query` and `body` are of the models that the operation names."""

    service: Service
    request: web.Request
    scope: Scope
    query: Any
    body: Any
    ue: tuple[str, IPAddress] | None = None
    """Whom the path or the query names."""

    @property
    def inside(self) -> Inside:
        return self.service.inside

    @property
    def now(self) -> float:
        """Of the core's clock."""
        return asyncio.get_running_loop().time()

    def path(self, name: str) -> str:
        """A part of the path, decoded."""
        return self.request.match_info[name]


def service_of(inside: Inside, reload: Callable[[], tuple[list[str], list[str]]]) -> Service:
    """What operations work with, made. Its history has to be started, its feed and history stopped."""
    history = History(inside)
    return Service(inside, history, Feed(inside, history), reload)


Handler: TypeAlias = Callable[[Call], object] | Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One row of the table. `scope` None: anybody may ask.

    `answer` is the model of the JSON that comes back, None for nothing (204); of other `media` the handler makes the
    response itself. `errors` are its own statuses, beside those that every operation has.
    """

    method: str
    path: str
    summary: str
    handler: Handler
    answer: Any = None
    media: tuple[str, ...] = (JSON,)
    query: type[Asked] | None = None
    body: type[Asked] | None = None
    scope: Scope | None = Scope.READ
    errors: tuple[int, ...] = ()
    _adapter: dict[str, TypeAdapter[Any]] = field(default_factory=dict)

    def written(self, value: object) -> web.Response:
        """The answer as JSON."""
        if self.answer is None:
            return web.Response(status=204)
        if "adapter" not in self._adapter:
            self._adapter["adapter"] = TypeAdapter(self.answer)
        return web.Response(body=self._adapter["adapter"].dump_json(value), content_type=JSON)


def application(service: Service, access: Access, operations: Sequence[Operation]) -> web.Application:
    """The operations as a web application."""
    app = web.Application(middlewares=[as_problems], client_max_size=LARGEST_BODY)
    for each in operations:
        app.router.add_route(each.method, each.path, _served(each, service, access))
    return app


def _served(
    operation: Operation, service: Service, access: Access
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def serve(request: web.Request) -> web.StreamResponse:
        scope = Scope.READ
        if operation.scope is not None:
            scope = access.scope(request)
            if scope < operation.scope:
                raise Refused(403, f"the token for {scope.name.lower()} is not good for this")
        query = _query(operation.query, request)
        body = await _body(operation.body, request)
        try:
            name = request.match_info.get("ue") or getattr(query, "ue", "")
            ue = await find(service.inside, name) if name else None
            made = operation.handler(Call(service, request, scope, query, body, ue))
            if asyncio.iscoroutine(made):
                made = await made
        except UnknownUe as error:
            raise Refused(404, str(error)) from error
        except PcscfError as error:
            raise Refused(409, str(error)) from error
        return made if isinstance(made, web.StreamResponse) else operation.written(made)

    return serve


def _query(model: type[Asked] | None, request: web.Request) -> Asked:
    given: dict[str, object] = {}
    for name in request.query:
        if len(request.query.getall(name)) > 1:
            raise Refused(400, f"the query has {name[:40]} twice")
        given[name] = request.query[name]
    try:
        return (model or Asked).model_validate(given)
    except ValidationError as error:
        raise Refused(400, f"the query: {_finding(error)}") from error


async def _body(model: type[Asked] | None, request: web.Request) -> Asked | None:
    if model is None:
        return None
    if request.content_type != JSON:
        raise Refused(415, f"a body of {JSON} is needed")
    try:
        return model.model_validate_json(await request.read(), strict=True)
    except ValidationError as error:
        raise Refused(400, f"the body: {_finding(error)}") from error


def _finding(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))[:80]
    return f"{where}: {first['msg']}" if where else str(first["msg"])
