"""The call flow of a capture: which messages are wanted, who the hosts are, and the lines of the ladder."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pcscf.aka import strip_keys
from pcscf.capture.file import SECOND
from pcscf.capture.sip import Seen, Unread
from pcscf.drawing import DASHED, DOUBLE, PORT, SINGLE, TIME, Arrow, Sheet
from pcscf.printable import printable, printable_data, printable_lines, printable_message
from pcscf.sip.fields import parse_cseq
from pcscf.sip.message import Message, Request, Response
from pcscf.sip.parse import ParseError
from xfrm.model import IPAddress

WIDEST, NARROWEST = 52, 30
"""Characters of an arrow."""
USER_HEADERS = ("from", "to", "contact", "authorization", "p-preferred-identity", "p-asserted-identity")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to show; empty is everything. `user` also fits an address, `call_id` is how it begins."""

    user: str = ""
    call_id: str = ""
    methods: frozenset[str] = frozenset()

    def fits(self, item: Seen | Unread) -> bool:
        """Whether to show this. What could not be read fits by its addresses only."""
        ends = (str(item.source), str(item.destination))
        if isinstance(item, Unread):
            return not self.methods and not self.call_id and (not self.user or self.user in ends)
        message = item.message
        return (
            (not self.methods or method(message) in self.methods)
            and (message.first("call-id") or "").startswith(self.call_id)
            and (not self.user or self.user in ends or self._names(message))
        )

    def _names(self, message: Message) -> bool:
        whole = re.compile(rf"(?<![\w.+-]){re.escape(self.user)}(?![\w+-])", re.I)
        values = [value for name in USER_HEADERS for value in message.lines(name)]
        if isinstance(message, Request):
            values.append(message.uri)
        return any(whole.search(value) for value in values)


def method(message: Message) -> str:
    """Of a request its method; of a response that of the request it answers."""
    if isinstance(message, Request):
        return message.method
    try:
        return parse_cseq(message.first("cseq") or "").method
    except ParseError:
        return ""


def wanted_of(items: Iterable[Seen | Unread], wanted: Wanted) -> list[Seen | Unread]:
    """What fits; with a user, whole dialogs of which one message names it."""
    kept = list(items)
    if not wanted.user:
        return [item for item in kept if wanted.fits(item)]
    calls = {item.message.first("call-id") for item in kept if isinstance(item, Seen) and wanted.fits(item)}
    rest = Wanted(call_id=wanted.call_id, methods=wanted.methods)
    return [
        item
        for item in kept
        if wanted.fits(item) or (isinstance(item, Seen) and item.message.first("call-id") in calls and rest.fits(item))
    ]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the ladder, and what it shows. `kind`: esp, clear, shut or bad."""

    text: str
    kind: str
    item: Seen | Unread


class Flow:
    """The ladder of some messages. `names`: what addresses are called; those of one name share a column."""

    def __init__(self, items: Sequence[Seen | Unread], names: Mapping[IPAddress, str], width: int) -> None:
        self.items = items
        self._columns: dict[str, int] = {}
        self._host: dict[IPAddress, str] = {}
        roles = _roles(items)
        proxies = [address for address, role in roles.items() if role == "P-CSCF"]
        if len(proxies) == len({address.version for address in proxies}):
            names = {address: "P-CSCF" for address in proxies} | dict(names)
        for item in items:
            for address in _in_order(item, roles):
                self._host.setdefault(address, names.get(address) or _called(address, roles))
        for name in self._in_columns(roles):
            self._columns.setdefault(name, len(self._columns))
        spaces = max(len(self._columns) - 1, 1)
        arrow = min(WIDEST, max(NARROWEST, (width - TIME - PORT - 4) // spaces - PORT - PORT - 1))
        self.sheet = Sheet(list(self._columns), [arrow] * spaces)

    def _in_columns(self, roles: Mapping[IPAddress, str]) -> list[str]:
        """UEs to the left, then as they appear."""
        names = list(dict.fromkeys(self._host.values()))
        ues = {self._host[address] for address, role in roles.items() if role == "UE" and address in self._host}
        return sorted(names, key=lambda name: name not in ues)

    def lines(self) -> list[Line]:
        """One for each message."""
        out: list[Line] = []
        start = self.items[0].at if self.items else 0
        for item in self.items:
            seconds = f"{(item.at - start) / SECOND:<{TIME}.3f}"
            out.append(Line(seconds + self._drawn(item), _kind(item), item))
        return out

    def _drawn(self, item: Seen | Unread) -> str:
        source, destination = self._columns[self._host[item.source]], self._columns[self._host[item.destination]]
        text = _text(item)
        if source == destination:
            return self.sheet.itself(source, f"{item.source_port} ↻ {text} {_way(item)} {item.destination_port}")
        rightward = source < destination
        ends = [str(item.source_port or ""), str(item.destination_port or "")]
        left, right = ends if rightward else reversed(ends)
        sign = (DOUBLE if item.spi else SINGLE) if isinstance(item, Seen) else DASHED
        columns = sorted((source, destination))
        arrow = Arrow(columns[0], columns[1], left, right, rightward, text, _way(item), sign)
        return self.sheet.line([arrow]).rstrip()


def _text(item: Seen | Unread) -> str:
    if isinstance(item, Unread):
        return item.text
    again = "↺ " if item.repeated else ""
    message = item.message
    return again + (message.method if isinstance(message, Request) else f"{message.status} {message.reason}")


def _way(item: Seen | Unread) -> str:
    transport = f"{item.transport} " if isinstance(item, Seen) else ""
    return transport + (f"spi {item.spi}" if item.spi else "clear")


def _kind(item: Seen | Unread) -> str:
    if isinstance(item, Unread):
        return "bad" if item.cause is None else "shut"
    return "esp" if item.spi else "clear"


def _roles(items: Iterable[Seen | Unread]) -> dict[IPAddress, str]:
    """Whom the security agreement gives away: it offers, or it answers (RFC 3329 2)."""
    found: dict[IPAddress, str] = {}
    for item in items:
        if isinstance(item, Seen):
            if item.message.first("security-server"):
                found.setdefault(item.source, "P-CSCF")
                found.setdefault(item.destination, "UE")
            elif item.message.first("security-client") or item.message.first("security-verify"):
                found.setdefault(item.source, "UE")
                found.setdefault(item.destination, "P-CSCF")
    return found


def _in_order(item: Seen | Unread, roles: Mapping[IPAddress, str]) -> tuple[IPAddress, IPAddress]:
    """Source and destination, a UE first."""
    ends = item.source, item.destination
    return ends if roles.get(item.destination) != "UE" else (ends[1], ends[0])


def _called(address: IPAddress, roles: Mapping[IPAddress, str]) -> str:
    role = roles.get(address)
    return f"{role} {address}" if role else str(address)


def shown(message: Request | Response) -> str:
    """The whole message for people: keys of a challenge are masked, a body that is no text is counted."""
    octets = strip_keys(message).to_bytes()
    head = printable_message(octets[: len(octets) - len(message.body)])
    try:
        return head + printable_lines(message.body.decode())
    except UnicodeDecodeError:
        return head + f"({len(message.body)} octets that are no text)"


def to_json(item: Seen | Unread) -> dict[str, Any]:
    """All fields of a message, for scripts."""
    out: dict[str, Any] = {
        "at": item.at / SECOND,
        "source": str(item.source),
        "source_port": item.source_port,
        "destination": str(item.destination),
        "destination_port": item.destination_port,
        "spi": item.spi or None,
    }
    if isinstance(item, Unread):
        return out | {"error": printable(item.text)}
    message = item.message
    fields: dict[str, Any] = {
        "transport": item.transport,
        "method": method(message),
        "status": None if isinstance(message, Request) else message.status,
        "reason": None if isinstance(message, Request) else message.reason,
        "call_id": message.first("call-id"),
        "from": message.first("from"),
        "to": message.first("to"),
        "cseq": message.first("cseq"),
        "repeated": item.repeated,
    }
    out |= printable_data(fields)
    return out | {"text": shown(message)}
