"""One dialog as a phone keeps it (RFC 3261 12): who, by which way, to what, and the next number. Sans-IO."""

from collections.abc import Iterable
from dataclasses import dataclass

from pcscf.sip.fields import parse_cseq, parse_name_addr
from pcscf.sip.message import Header, Message, Request, Response
from pcscf.sip.parse import ParseError

MOST_HOPS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A request before its way is known. `route` None: preloaded, as for a new dialog or none (TS 24.229 5.1.2A.1).

    `sender` and `recipient` are whole From and To values.
    """

    method: str
    uri: str
    sender: str
    recipient: str
    call_id: str
    cseq: int
    route: tuple[str, ...] | None = None
    headers: tuple[Header, ...] = ()
    content_type: str = ""
    body: bytes = b""


@dataclass(slots=True, eq=False, kw_only=True)
class Dialog:
    """`local` and `remote` are From and To values with their tags, `route_set` in our order, `target` a URI."""

    call_id: str
    local: str
    remote: str
    remote_tag: str
    route_set: tuple[str, ...]
    target: str
    cseq: int
    """Of the last request of ours."""
    remote_cseq: int = -1
    """Of the last request of the peer; below 0 before there was one."""

    @classmethod
    def as_caller(cls, request: Request, response: Response) -> "Dialog":
        """The dialog that a response to our request makes (RFC 3261 12.1.2). Raises ParseError: no tag or Contact."""
        return cls(
            call_id=request.first("call-id") or "",
            local=request.first("from") or "",
            remote=response.first("to") or "",
            remote_tag=tag_of(response, "to"),
            route_set=tuple(reversed(_record_route(response))),
            target=contact_of(response),
            cseq=parse_cseq(request.first("cseq") or "").number,
        )

    @classmethod
    def as_callee(cls, request: Request, tag: str) -> "Dialog":
        """The dialog that we make by answering with this tag (RFC 3261 12.1.1). Raises ParseError: no tag, Contact."""
        return cls(
            call_id=request.first("call-id") or "",
            local=f"{request.first('to')};tag={tag}",
            remote=request.first("from") or "",
            remote_tag=tag_of(request, "from"),
            route_set=_record_route(request),
            target=contact_of(request),
            cseq=0,
            remote_cseq=parse_cseq(request.first("cseq") or "").number,
        )

    def draft(
        self,
        method: str,
        *,
        headers: Iterable[Header] = (),
        content_type: str = "",
        body: bytes = b"",
        cseq: int | None = None,
    ) -> Draft:
        """The next request of ours in here; `cseq` is given for ACK, which repeats that of its INVITE."""
        if cseq is None:
            self.cseq += 1
        return Draft(
            method=method,
            uri=self.target,
            sender=self.local,
            recipient=self.remote,
            call_id=self.call_id,
            cseq=self.cseq if cseq is None else cseq,
            route=self.route_set,
            headers=tuple(headers),
            content_type=content_type,
            body=body,
        )

    def is_of(self, request: Request) -> bool:
        """Whether a request of the peer belongs here: Call-ID and both tags (RFC 3261 12.2.2)."""
        try:
            tags = tag_of(request, "to"), tag_of(request, "from")
        except ParseError:
            return False
        ours = parse_name_addr(self.local).param("tag")
        return request.first("call-id") == self.call_id and tags == (ours, self.remote_tag)

    def in_order(self, request: Request) -> bool:
        """Take the number of a request of the peer; False if it is not above the last one (RFC 3261 12.2.2)."""
        number = parse_cseq(request.first("cseq") or "").number
        if number <= self.remote_cseq:
            return False
        self.remote_cseq = number
        return True

    def refresh(self, message: Message) -> None:
        """Follow the Contact of a target refresh, if it has a good one (RFC 3261 12.2.1.2)."""
        if message.lines("contact"):
            self.target = contact_of(message)


def tag_of(message: Message, name: str) -> str:
    """The tag of From or To. Raises ParseError without one."""
    tag = parse_name_addr(message.first(name) or "").param("tag")
    if not tag:
        raise ParseError(f"no tag in {name.title()}")
    return tag


def contact_of(message: Message) -> str:
    """The one Contact URI. Raises ParseError."""
    values = message.values("contact")
    if len(values) != 1:
        raise ParseError(f"{len(values)} Contact values, one makes a dialog")
    return parse_name_addr(values[0]).uri


def _record_route(message: Message) -> tuple[str, ...]:
    values = message.values("record-route")
    if len(values) > MOST_HOPS:
        raise ParseError(f"{len(values)} Record-Route values")
    return tuple(values)
