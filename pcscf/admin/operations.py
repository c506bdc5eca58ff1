"""What can be asked of a running P-CSCF, and what it can be told to do: the table of the API."""

import re
import time
from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Any, Generic, Literal, TypeVar

from aiohttp import web
from pydantic import BaseModel, Field

from pcscf import ladder
from pcscf.admin import exports, openapi, views
from pcscf.admin.access import Scope
from pcscf.admin.api import Asked, Call, Operation
from pcscf.admin.facts import explanation, registration_of
from pcscf.admin.feed import CLIENTS, Client
from pcscf.admin.history import Sample
from pcscf.admin.metrics import CONTENT_TYPE, Metrics
from pcscf.admin.problem import Refused
from pcscf.admin.views import (
    ExplanationRow,
    HopRow,
    Hops,
    JournalRow,
    LadderRow,
    RegistrationRow,
    SaRow,
    Status,
    UeRow,
)
from pcscf.hops import HopState
from pcscf.observe import MessageSeen, Record
from pcscf.printable import printable, printable_data, printable_message
from pcscf.registration import Registration
from pcscf.vocabulary import Order, Ordered
from xfrm.model import IPAddress
from xfrm.wireshark import line_of

RowT = TypeVar("RowT")
LARGEST_PAGE = 5000
LADDER_ROWS = 1000
Offset = Annotated[int, Field(ge=0, le=10_000_000, description="So many are passed over.")]
Limit = Annotated[int, Field(ge=1, le=LARGEST_PAGE, description="At most so many come.")]


class Page(BaseModel, Generic[RowT]):
    """A part of a list. `total`: how many fit the filters."""

    total: int
    offset: int
    items: list[RowT]


class Paged(Asked):
    offset: Offset = 0
    limit: Limit = 50


class RegistrationQuery(Paged):
    search: Annotated[str, Field(max_length=200, description="Part of an IMPI, an IMPU, a number or an address.")] = ""
    state: Annotated[Literal["", "registered", "waiting"], Field(description="Only these.")] = ""
    order: Annotated[Literal["newest", "impi"], Field(description="Newest first, or by IMPI.")] = "newest"


class SaQuery(Paged):
    ue: Annotated[str, Field(max_length=400, description="Only those of this UE.")] = ""


class JournalQuery(Asked):
    after: Annotated[int, Field(ge=0, le=10**15, description="Only records with a higher number.")] = 0
    kind: Annotated[
        Literal["", "message", "attempt", "set", "registration", "problem"], Field(description="Only these.")
    ] = ""
    newest: Annotated[bool, Field(description="The newest first, instead of the oldest.")] = False
    limit: Annotated[int, Field(ge=1, le=10_000, description="At most so many come.")] = 10_000


class LadderQuery(Asked):
    after: Annotated[int, Field(ge=0, le=10**15, description="Only records with a higher number.")] = 0


class TraceQuery(Asked):
    form: Annotated[Literal["pcapng", "html"], Field(description="What is made of it.")] = "pcapng"


class StreamQuery(Asked):
    kinds: Annotated[
        str,
        Field(pattern=r"^([a-z]+(,[a-z]+)*)?$", max_length=100, description="Kinds that come, by comma; none: all."),
    ] = ""
    ue: Annotated[str, Field(max_length=400, description="Say when something concerns this UE.")] = ""


class HopSwitch(Asked):
    enabled: bool


class TraceLevel(Asked):
    level: Literal["normal", "log"]
    """`log`: each of its messages on Gm goes to the log, whole."""


class Reloaded(BaseModel):
    """What a reload took over, and what else has changed and needs a restart."""

    taken: list[str]
    needs_restart: list[str]


class Health(BaseModel):
    """`detail` says what is wrong, or nothing."""

    ok: bool
    detail: str


class Message(BaseModel):
    """A message whole, keys taken out."""

    number: int
    text: str


# Reading


def _status(call: Call) -> Status:
    return call.inside.status


def _health(call: Call) -> Health:
    return Health(ok=True, detail="")


def _ready(call: Call) -> Health:
    """Ready: protected ports are guarded and served, and somebody toward the core may be asked."""
    if fault := call.inside.fault:
        raise Refused(503, f"protected ports are not served: {fault}")
    hops = call.inside.hops.hops()
    if hops and not any(each.state in (HopState.ACTIVE, HopState.PROBING) for each in hops):
        raise Refused(
            503, "no next hop toward the core is in use: " + "; ".join(f"{h.name} {h.state.value}" for h in hops)
        )
    return Health(ok=True, detail="")


def _configuration(call: Call) -> dict[str, Any]:
    values: dict[str, Any] = printable_data(call.inside.config.model_dump(mode="json"))
    return values


def _registrations(call: Call) -> Page[RegistrationRow]:
    query: RegistrationQuery = call.query
    registrar, end = call.inside.registrar, query.offset + query.limit
    if not query.search and not query.state and query.order == "newest":  # what a page asks for every second
        part, total = list(islice(registrar.newest(), query.offset, end)), len(registrar)
    else:
        found = [each for each in registrar.newest() if _fits(each, query)]
        if query.order == "impi":
            found.sort(key=lambda each: each.key.impi)
        part, total = found[query.offset : end], len(found)
    rows = [views.registration_row(each, call.now) for each in part]
    return Page(total=total, offset=query.offset, items=rows)


def _fits(each: Registration, query: RegistrationQuery) -> bool:
    if query.state and each.registered is not (query.state == "registered"):
        return False
    if not query.search:
        return True
    word = query.search.lower()
    key = each.key
    return (
        word in printable(key.impi).lower()
        or word in str(key.address)
        or any(word in printable(value).lower() for value in each.associated_uris)
    )


def _ue(call: Call) -> UeRow:
    impi, address = _named(call)
    registration = registration_of(call.inside, impi, address)
    sets = views.set_rows(registration, call.inside, call.now) if registration is not None else []
    return UeRow(
        ue=views.name_of(impi, address),
        impi=impi,
        address=address,
        registration=views.registration_row(registration, call.now) if registration is not None else None,
        sets=sets,
        traced=address in call.inside.traced,
    )


def _named(call: Call) -> tuple[str, IPAddress]:
    """Whom the path names."""
    assert call.ue is not None, "no operation without {ue} asks"
    return call.ue


def _explanation(call: Call) -> ExplanationRow:
    return explanation(call.inside, *_named(call), call.now)


def _ladder(call: Call) -> list[LadderRow]:
    after: int = call.query.after
    epoch = time.time() - call.now
    rows = [
        views.ladder_row(number, record, epoch, kept=call.inside.messages.find(number) is not None)
        for number, record in _records(call, *_named(call))
        if number > after
    ]
    return rows[-LADDER_ROWS:]


def _records(call: Call, impi: str, address: IPAddress) -> list[tuple[int, Record]]:
    """The records of a UE, with their numbers."""
    numbered = call.inside.journal.after(0)
    ours = set(map(id, ladder.of_user((record for _, record in numbered), address, impi)))
    return [each for each in numbered if id(each[1]) in ours]


def _message(call: Call) -> Message:
    number = int(call.path("number"))
    text = call.inside.messages.find(number)
    if text is None or all(number != each for each, _ in _records(call, *_named(call))):
        raise Refused(404, f"record {number} is no message of this UE, or its text is kept no more")
    return Message(number=number, text=printable_message(text))


def _trace(call: Call) -> web.Response:
    impi, address = _named(call)
    epoch = time.time() - call.now
    kept = [
        exports.Kept(int((record.at + epoch) * 1e9), record, text)
        for number, record in _records(call, impi, address)
        if isinstance(record, MessageSeen) and (text := call.inside.messages.find(number)) is not None
    ]
    name = re.sub(r"(?a)[^\w.-]+", "_", f"{impi.partition('@')[0]}-{address}")
    if call.query.form == "html":
        page = exports.html(f"{impi} at {address}", kept)
        return _download(page.encode(), "text/html", f"{name}.html", charset="utf-8")
    return _download(exports.pcapng(impi, kept), "application/octet-stream", f"{name}.pcapng")


def _download(data: bytes, media: str, name: str, charset: str | None = None) -> web.Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return web.Response(body=data, content_type=media, charset=charset, headers=headers)


def _sas(call: Call) -> Page[SaRow]:
    query: SaQuery = call.query
    inside = call.inside
    if call.ue is not None:
        registration = registration_of(inside, *call.ue)
        sets = registration.sets if registration is not None else []
    else:
        sets = [each for one in inside.registrar for each in one.sets]
    # A dump of all costs what a dump costs; only the part that is wanted is asked for.
    first, last = query.offset // 4, (query.offset + query.limit + 3) // 4
    part = [each for one in sets[first:last] for each in one.ids]
    rows = views.sa_rows(inside.records(part), inside.registrar, call.now)
    start = query.offset - 4 * first
    return Page(total=4 * len(sets), offset=query.offset, items=rows[start : start + query.limit])


def _journal(call: Call) -> list[JournalRow]:
    query: JournalQuery = call.query
    records = call.inside.journal.after(query.after)
    if query.kind:
        records = [each for each in records if views.kind_of(each[1]) == query.kind]
    chosen = records[: -query.limit - 1 : -1] if query.newest else records[: query.limit]
    return [views.journal_row(number, record) for number, record in chosen]


def _hops(call: Call) -> Hops:
    return views.hop_rows(call.inside.hops, call.now)


def _samples(call: Call) -> Sequence[Sample]:
    return list(call.service.history.samples)


def _metrics(call: Call) -> web.Response:
    text = Metrics(call.inside, call.service.feed).text()
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})


def _keys(call: Call) -> web.Response:
    return web.Response(text="".join(f"{line}\n" for line in _key_lines(call)))


def _profile(call: Call) -> web.Response:
    return _download(exports.profile(_key_lines(call)), "application/zip", "pcscf-gm.zip")


def _key_lines(call: Call) -> list[str]:
    if not call.inside.key_export:
        raise Refused(403, "this P-CSCF exports no keys: key export is off")
    return [line_of(each.sa) for each in call.inside.records()]


async def _stream(call: Call) -> web.StreamResponse:
    feed, query = call.service.feed, call.query
    if len(feed) >= CLIENTS:
        raise Refused(503, f"{CLIENTS} streams are open; close one")
    known = frozenset((*views.KINDS, "sample"))
    kinds = frozenset(query.kinds.split(",")) - {""}
    if unknown := kinds - known:
        raise Refused(400, f"there is no kind {sorted(unknown)[0]}; there are {', '.join(sorted(known))}")
    client = Client(kinds or known, call.ue)
    hello = {
        "started": call.inside.started,
        "number": call.inside.journal.written,
        "epoch": time.time() - call.now,
        "scope": call.scope.name.lower(),
        "key_export": call.inside.key_export,
    }
    return await feed.serve(call.request, client, hello)


def _document(call: Call) -> dict[str, Any]:
    return openapi.document(OPERATIONS, call.inside.status.version)


# Acting


def _contact(call: Call) -> Registration:
    """The contact that the path names. Raises Refused: 404, only the journal knows it any more."""
    impi, address = _named(call)
    found = registration_of(call.inside, impi, address)
    if found is None:
        raise Refused(404, f"{impi} at {address} is not registered")
    return found


def _order(call: Call, contact: Registration, order: Order) -> None:
    call.inside.order(Ordered(contact.key.impi, contact.key.address, order))


def _deregister(call: Call) -> None:
    _order(call, _contact(call), Order.DEREGISTER)


def _reauthenticate(call: Call) -> None:
    contact = _contact(call)
    if not contact.registered:
        raise Refused(404, f"{contact.key.impi} at {contact.key.address} is not registered")
    if contact.clear is not None:
        raise Refused(
            409, f"{contact.key.impi} was admitted without IPsec; there is no authentication of ours to renew"
        )
    _order(call, contact, Order.REAUTHENTICATE)


def _trace_level(call: Call) -> None:
    _, address = _named(call)
    if call.body.level == "log":
        call.inside.traced.add(address)
    else:
        call.inside.traced.discard(address)


def _switch_hop(call: Call) -> HopRow:
    name = call.path("hop")
    if not call.inside.switch_hop(name, enabled=call.body.enabled):
        raise Refused(404, f"no next hop {name[:100]}")
    return next(each for each in _hops(call).hops if each.name == name)


def _reload(call: Call) -> Reloaded:
    taken, left = call.service.reload()
    return Reloaded(taken=taken, needs_restart=left)


def _get(path: str, summary: str, handler: Any, answer: Any = None, **more: Any) -> Operation:
    return Operation(method="GET", path=path, summary=summary, handler=handler, answer=answer, **more)


def _do(method: str, path: str, summary: str, handler: Any, answer: Any = None, **more: Any) -> Operation:
    return Operation(
        method=method, path=path, summary=summary, handler=handler, answer=answer, scope=Scope.ADMIN, **more
    )


UE = "/api/ues/{ue}"
OPERATIONS: tuple[Operation, ...] = (
    _get("/api/health", "Whether the process answers.", _health, Health, scope=None),
    _get("/api/ready", "Whether requests can be served: protected ports are, and a next hop is in use.", _ready, Health,
         scope=None, errors=(503,)),
    _get("/api/status", "The instance, its backend and its load.", _status, Status, errors=(503,)),
    _get("/api/configuration", "The configuration in effect, without secrets.", _configuration, dict[str, Any]),
    _get("/api/registrations", "Contacts that are registered or try to be.", _registrations, Page[RegistrationRow],
         query=RegistrationQuery),
    _get(UE, "One UE: its registration, its sets of SAs and their counters.", _ue, UeRow, errors=(404, 503)),
    _get(f"{UE}/explanation", "Where its registration is, and why.", _explanation, ExplanationRow, errors=(404, 503)),
    _get(f"{UE}/ladder", "Its journal as steps of a ladder.", _ladder, list[LadderRow], query=LadderQuery,
         errors=(404,)),
    _get(f"{UE}/messages/{{number:[0-9]{{1,15}}}}", "One of its messages, whole.", _message, Message, errors=(404,)),
    _get(f"{UE}/trace", "Its messages as a file.", _trace, media=("application/octet-stream", "text/html"),
         query=TraceQuery, errors=(404,)),
    _get("/api/sas", "Live SAs with their counters.", _sas, Page[SaRow], query=SaQuery, errors=(404, 503)),
    _get("/api/journal", "What happened.", _journal, list[JournalRow], query=JournalQuery),
    _get("/api/hops", "The next hops toward the core, and what the DNS said.", _hops, Hops),
    _get("/api/samples", "The last minutes in numbers.", _samples, list[Sample]),
    _get("/api/stream", "Events as they happen.", _stream, media=("text/event-stream",), query=StreamQuery,
         errors=(404, 503)),
    _get("/api/keys", "The keys of the live SAs as lines of esp_sa.", _keys, media=("text/plain",), scope=Scope.KEYS,
         errors=(503,)),
    _get("/api/keys/profile", "A Wireshark profile with these keys.", _profile, media=("application/zip",),
         scope=Scope.KEYS, errors=(503,)),
    _get("/api/openapi.json", "This document.", _document, dict[str, Any], scope=None),
    _get("/metrics", "Metrics for Prometheus.", _metrics, media=("text/plain",), errors=(503,)),
    _do("POST", f"{UE}/deregister", "End its registration here: its SAs and dialogs go at once.", _deregister,
        errors=(404,)),
    _do("POST", f"{UE}/reauthenticate", "Have its next REGISTER challenged.", _reauthenticate, errors=(404, 409)),
    _do("PUT", f"{UE}/trace-level", "Log its messages whole, or do not.", _trace_level, body=TraceLevel,
        errors=(404,)),
    _do("PUT", "/api/hops/{hop:.+}", "Take a next hop out of use, or back.", _switch_hop, HopRow, body=HopSwitch,
        errors=(404,)),
    _do("POST", "/api/reload", "Take over the configuration file; what cannot be is named.", _reload, Reloaded,
        errors=(409,)),
)  # fmt: skip
"""Every operation there is."""
