"""The ladder: journal records as lines of text, one UE's messages between UE, P-CSCF and core.

Double lines ride on ESP, single ones go in clear; the ports are those on the wire. What passes through at once is one
line.
"""

from collections.abc import Iterable, Sequence

from pcscf.observe import MessageSeen, Problem, Record, RegistrationChanged, SetChanged, SetEvent, describe
from pcscf.vocabulary import Interface
from xfrm.model import IPAddress

GM_WIDTH = 36
MW_WIDTH = 28
TIME = 9
PORT = 6
GM_END = TIME + PORT + 1 + GM_WIDTH + 1


def heading() -> str:
    """The line above a ladder."""
    return f"{'':{TIME}}{'UE':>{PORT}}{'P-CSCF':>{GM_WIDTH + 5 + PORT}}{'core':>{MW_WIDTH + 5 + PORT}}"


def of_ue(records: Iterable[Record], address: IPAddress) -> list[Record]:
    """The records that concern the UE at an address: its messages on Gm, their way through the core, its sets.

    A call of two UEs has one Call-ID on both legs. One turn of the P-CSCF concerns one leg, so a message of the core
    belongs to the UE of the Gm message of its turn, else to whose request went out last.
    """
    records = list(records)
    turns: dict[tuple[float, str], IPAddress] = {}
    asked: dict[str, IPAddress] = {}
    for record in records:
        if isinstance(record, MessageSeen) and record.flow.interface is not Interface.MW:
            turns[record.at, record.call_id] = record.flow.remote
            asked.setdefault(record.call_id, record.flow.remote)
    users: set[str] = set()

    def concerns(record: Record) -> bool:
        match record:
            case MessageSeen(flow=flow):
                if flow.interface is not Interface.MW:
                    return flow.remote == address
                owner = turns.get((record.at, record.call_id)) or asked.get(record.call_id)
                if owner is not None and not record.incoming and not record.summary[:1].isdigit():
                    asked[record.call_id] = owner
                return owner == address
            case SetChanged():
                if record.ue == address:
                    users.add(record.impi)
                return record.ue == address
            case RegistrationChanged():
                return record.impi in users
            case Problem(flow=None):
                return record.impi in users
        return record.flow is not None and record.flow.remote == address

    return [record for record in records if concerns(record)]


def lines(records: Sequence[Record], start: float | None = None) -> list[str]:
    """The records as lines; times are seconds since `start`, or the first record."""
    out: list[str] = []
    passed: set[int] = set()
    for place, record in enumerate(records):
        start = record.at if start is None else start
        if place in passed:
            continue
        onward = _onward(records, place)
        passed.add(onward)
        first, *rest = _lines(record, records[onward] if onward > place else None)
        out.append(f"{record.at - start:<{TIME}.3f}{first}")
        out += [f"{'':{TIME}}{line}" for line in rest]
    return out


def _onward(records: Sequence[Record], place: int) -> int:
    """Where the same message leaves on the other side in the same turn; -1 if it does not."""
    came = records[place]
    if isinstance(came, MessageSeen) and came.incoming:
        to_mw = came.flow.interface is not Interface.MW
        for later in range(place + 1, len(records)):
            went = records[later]
            if went.at != came.at:
                break
            if (
                isinstance(went, MessageSeen)
                and not went.incoming
                and (went.call_id, went.summary) == (came.call_id, came.summary)
                and (went.flow.interface is Interface.MW) is to_mw
            ):
                return later
    return -1


def _lines(record: Record, onward: Record | None) -> list[str]:
    if isinstance(record, MessageSeen):
        sides = (record, onward) if isinstance(onward, MessageSeen) else (record,)
        gm = next((_gm(each) for each in sides if each.flow.interface is not Interface.MW), "")
        mw = next((_mw(each) for each in sides if each.flow.interface is Interface.MW), "")
        return [f"{gm:<{GM_END - TIME + PORT - 1}} {mw}".rstrip()]
    sign = "!" if isinstance(record, Problem) else " "
    indent = f"{'':{PORT}}{sign}"
    if isinstance(record, SetChanged) and record.event is SetEvent.INSTALLED:
        spi_uc, spi_us, spi_pc, spi_ps = record.spis
        return [f"{indent} 4 SAs installed: {spi_ps} {spi_uc} {spi_us} {spi_pc}", f"{indent} {record.detail}"]
    return [f"{indent} {describe(record)}"]


def _gm(record: MessageSeen) -> str:
    flow = record.flow
    sign = "═" if record.spi else "─"
    way = f" {sign * 2} spi {record.spi}" if record.spi else f" {sign * 2} clear"
    body = _arrow(sign, record.summary, GM_WIDTH, right=record.incoming, way=way)
    return f"{flow.remote_port:>{PORT}} {body} {flow.local_port}"


def _mw(record: MessageSeen) -> str:
    flow = record.flow
    body = _arrow("─", record.summary, MW_WIDTH, right=not record.incoming)
    return f"{flow.local_port or 'any':<{PORT - 1}}{body} {flow.remote_port}"


def _arrow(sign: str, text: str, width: int, *, right: bool, way: str = "") -> str:
    """An arrow with its text; what does not fit is cut from the text, never from the way."""
    room = width - 5 - len(way)
    label = (text if len(text) <= room else f"{text[: room - 1]}…") + way
    if right:
        return f"{sign * 2} {label} ".ljust(width - 1, sign) + "▶"
    return "◀" + f"{sign} {label} ".ljust(width - 1, sign)
