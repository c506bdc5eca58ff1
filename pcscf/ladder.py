"""The ladder: journal records as lines of text, one UE's messages between UE, P-CSCF and core.

Double lines ride on ESP, single ones go in clear; the ports are those on the wire. What passes through at once is one
line.
"""

from collections.abc import Iterable, Sequence

from pcscf.drawing import DOUBLE, PORT, SINGLE, TIME, Arrow, Sheet
from pcscf.observe import Attempt, MessageSeen, Problem, Record, RegistrationChanged, SetChanged, SetEvent, describe
from pcscf.printable import printable
from pcscf.vocabulary import Interface
from xfrm.model import IPAddress

SHEET = Sheet(("UE", "P-CSCF", "core"), (36, 28))


def heading() -> str:
    """The line above a ladder."""
    return SHEET.heading()


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
            case Attempt():
                return False  # its message is there
            case RegistrationChanged():
                return record.impi in users
            case Problem(flow=None):
                return record.impi in users
        return record.flow is not None and record.flow.remote == address

    return [record for record in records if concerns(record)]


def of_user(records: Iterable[Record], address: IPAddress, impi: str) -> list[Record]:
    """The records of the UE at an address that is this user's: several may be behind one, or one after the other.

    A message on an SPI belongs to whose set has it, another to who sent a REGISTER of its Call-ID.
    """
    records = list(records)
    of_spi: dict[int, str] = {}
    of_call: dict[str, set[str]] = {}
    for record in records:
        if isinstance(record, SetChanged):
            of_spi.update(dict.fromkeys(record.spis, record.impi))
        elif isinstance(record, Attempt):
            of_call.setdefault(record.call_id, set()).add(record.impi)
        elif isinstance(record, MessageSeen) and record.spi in of_spi:
            of_call.setdefault(record.call_id, set()).add(of_spi[record.spi])

    def is_his(record: Record) -> bool:
        if not isinstance(record, MessageSeen):
            return record.impi in (impi, "")
        if record.spi:
            return of_spi.get(record.spi, impi) == impi
        return impi in of_call.get(record.call_id, (impi,))

    return [record for record in of_ue(records, address) if is_his(record)]


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
        return [SHEET.line(sorted(map(_arrow, sides)))]
    sign = "!" if isinstance(record, Problem) else " "
    indent = f"{'':{PORT}}{sign}"
    if isinstance(record, SetChanged) and record.event is SetEvent.INSTALLED:
        spi_uc, spi_us, spi_pc, spi_ps = record.spis
        return [
            f"{indent} 4 SAs installed: {spi_ps} {spi_uc} {spi_us} {spi_pc}",
            f"{indent} {printable(record.detail)}",
        ]
    return [f"{indent} {printable(describe(record))}"]


def _arrow(record: MessageSeen) -> Arrow:
    flow = record.flow
    if flow.interface is Interface.MW:
        local = str(flow.local_port or "any")
        return Arrow(1, 2, local, str(flow.remote_port), not record.incoming, record.summary)
    way, sign = (f"spi {record.spi}", DOUBLE) if record.spi else ("clear", SINGLE)
    return Arrow(0, 1, str(flow.remote_port), str(flow.local_port), record.incoming, record.summary, way, sign)
