"""The ladder: journal records as lines of text, one UE's messages between UE, P-CSCF and core.

Double lines ride on ESP, single ones go in clear; the ports are those on the wire.
"""

from collections.abc import Iterable

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
    return f"{'':{TIME}}{'UE':>{PORT}}{'P-CSCF':>{GM_WIDTH + 2 + PORT}}{'core':>{MW_WIDTH + 2 + PORT}}"


def of_ue(records: Iterable[Record], address: IPAddress) -> list[Record]:
    """The records that concern the UE at an address: its messages on Gm, their way through the core, its sets."""
    calls: set[str] = set()
    users: set[str] = set()

    def concerns(record: Record) -> bool:
        match record:
            case MessageSeen():
                if record.flow.interface is Interface.MW:
                    return record.call_id in calls
                if record.flow.remote == address:
                    calls.add(record.call_id)
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


def lines(records: Iterable[Record]) -> list[str]:
    """The records as lines; times are seconds since the first."""
    out: list[str] = []
    start: float | None = None
    for record in records:
        start = record.at if start is None else start
        first, *rest = _lines(record)
        out.append(f"{record.at - start:<{TIME}.3f}{first}")
        out += [f"{'':{TIME}}{line}" for line in rest]
    return out


def _lines(record: Record) -> list[str]:
    if isinstance(record, MessageSeen):
        return [_message(record)]
    sign = "!" if isinstance(record, Problem) else " "
    indent = f"{'':{PORT}}{sign}"
    if isinstance(record, SetChanged) and record.event is SetEvent.INSTALLED:
        spi_uc, spi_us, spi_pc, spi_ps = record.spis
        return [f"{indent} 4 SAs installed: {spi_ps} {spi_uc} {spi_us} {spi_pc}", f"{indent} {record.detail}"]
    return [f"{indent} {describe(record)}"]


def _message(record: MessageSeen) -> str:
    flow = record.flow
    if flow.interface is Interface.MW:
        body = _arrow("─", record.summary, MW_WIDTH, right=not record.incoming)
        own_port = flow.local_port or "any"
        return f"{'':{GM_END - TIME - 1}} {own_port:<{PORT - 1}}{body} {flow.remote_port}"
    sign = "═" if record.spi else "─"
    way = f" {sign * 2} spi {record.spi}" if record.spi else f" {sign * 2} clear"
    body = _arrow(sign, record.summary, GM_WIDTH, right=record.incoming, way=way)
    return f"{flow.remote_port:>{PORT}} {body} {flow.local_port}"


def _arrow(sign: str, text: str, width: int, *, right: bool, way: str = "") -> str:
    """An arrow with its text; what does not fit is cut from the text, never from the way."""
    room = width - 5 - len(way)
    label = (text if len(text) <= room else f"{text[: room - 1]}…") + way
    if right:
        return f"{sign * 2} {label} ".ljust(width - 1, sign) + "▶"
    return "◀" + f"{sign} {label} ".ljust(width - 1, sign)
