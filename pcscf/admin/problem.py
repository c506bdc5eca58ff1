"""What goes wrong in a request to the API, as problem details (RFC 9457): never a traceback, never a page of HTML."""

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web
from pydantic import BaseModel

from pcscf.printable import printable
from xfrm.model import XfrmError

MEDIA = "application/problem+json"
log = logging.getLogger("pcscf")


class ProblemDetails(BaseModel):
    """RFC 9457 3. `detail` is for people."""

    title: str
    status: int
    detail: str


class Refused(Exception):
    """A request that gets no more than problem details; `str` is for people."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def response(status: int, detail: str) -> web.Response:
    """Problem details as an answer."""
    told = ProblemDetails(title=HTTPStatus(status).phrase, status=status, detail=printable(detail))
    headers = {"WWW-Authenticate": 'Bearer realm="pcscf"'} if status == 401 else {}
    return web.Response(status=status, text=told.model_dump_json(), content_type=MEDIA, headers=headers)


@web.middleware
async def as_problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer whatever goes wrong with problem details."""
    try:
        return await handler(request)
    except Refused as refused:
        return response(refused.status, str(refused))
    except XfrmError as error:
        return response(503, f"the ESP backend could not be asked: {error}")
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        answer = response(405, f"{request.method} is not possible here; {allowed} is")
        answer.headers["Allow"] = allowed
        return answer
    except web.HTTPNotFound:
        return response(404, f"there is no {request.path[:100]}; /api/openapi.json says what there is")
    except web.HTTPException as error:
        return response(error.status, error.reason)
    except ConnectionError:
        raise
    except Exception:
        log.exception("a bug in the API; the request that met it is answered 500")
        return response(500, "a bug; the log says more")
