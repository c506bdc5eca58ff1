"""What happened: typed records in a bounded ring that the ladder, logs and the control socket all read.

A record holds no message bytes and no key, so that nothing secret can be shown by showing it.
"""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import NamedTuple

from pcscf.vocabulary import Flow
from xfrm.model import IPAddress

JOURNAL_RECORDS = 10_000
NAME, OFFER = 256, 1024
"""Characters that a record keeps of a name, and of an offer: what a peer says is as long as it likes."""


class MessageSeen(NamedTuple):
    """A SIP message on a flow. `spi`: the SA it rode on, 0 in clear or on Mw. `incoming`: toward the proxy."""

    at: float
    incoming: bool
    flow: Flow
    spi: int
    summary: str
    """Method or `status reason`, and what matters of it."""
    call_id: str
    register: str = ""
    """Our branch, of a REGISTER on Mw and of its answers: tells apart whose they are, where Call-IDs need not."""


class Attempt(NamedTuple):
    """A REGISTER that asks for something, before it is judged. `spi` as in MessageSeen; `auts`: it reports the SQN."""

    at: float
    impi: str
    impu: str
    ue: IPAddress
    spi: int
    call_id: str
    auts: bool
    offered: str
    """Security-Client as it came."""


class SetEvent(StrEnum):
    """What happens to a set of SAs; the inputs of the life-cycle table in `registration`."""

    INSTALLED = "installed"
    REFUSED_BY_KERNEL = "refused by the kernel"
    AUTHENTICATED = "authenticated"
    REAUTHENTICATED = "re-authenticated"
    REFRESHED = "refreshed"
    USED = "taken into use"
    RETIRED = "retired"
    WITHDRAWN = "deregistered by the network"
    AUTHENTICATION_FAILED = "authentication failed"
    DISAGREED = "security agreement broken"
    SUPERSEDED = "superseded"
    RESTARTED = "restarted by the UE"
    DEREGISTERED = "deregistered"
    DRAINED = "drained"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetChanged:
    """A set of SAs was made, took a step, or went."""

    at: float
    impi: str
    ue: IPAddress
    set_id: int
    event: SetEvent
    state: str
    spis: tuple[int, int, int, int]
    """spi_uc, spi_us, spi_pc, spi_ps."""
    detail: str
    call_id: str = ""
    """Of the message that caused it; "" for time and kernel."""
    unproven: bool = False
    """It began in clear, and nothing has come inside ESP yet: anybody can bring this about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationChanged:
    """A UE is registered, or no more."""

    at: float
    impi: str
    registered: bool
    detail: str
    call_id: str = ""


class ProblemKind(StrEnum):
    """What a problem is about: what is alike is counted together."""

    MALFORMED = "malformed"
    IN_CLEAR = "in clear"
    """Of a peer that nothing is known of."""
    REFUSED = "refused"
    """Of a UE inside ESP, or of a user."""
    UNDELIVERED = "not delivered"
    CORE = "core"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something was refused or lost. `detail` says what, with which value."""

    at: float
    flow: Flow | None
    impi: str
    detail: str
    call_id: str = ""
    kind: ProblemKind = ProblemKind.OTHER


Record = MessageSeen | Attempt | SetChanged | RegistrationChanged | Problem


def describe(record: Record) -> str:
    """One line for people: what happened, without the time and the user."""
    match record:
        case MessageSeen():
            way = "in clear" if not record.spi else f"on SPI {record.spi}"
            return f"{record.summary} {'from' if record.incoming else 'to'} {record.flow}, {way}"
        case Attempt():
            auts = ", reports a synchronisation failure (auts)" if record.auts else ""
            return f"REGISTER of {record.impu}{auts}"
        case SetChanged(event=SetEvent.INSTALLED):
            spi_uc, spi_us, spi_pc, spi_ps = record.spis
            return f"4 SAs installed: {spi_ps} {spi_uc} {spi_us} {spi_pc} ({record.detail})"
        case SetChanged():
            more = f" ({record.detail})" if record.detail else ""
            return f"set {record.set_id}: {record.event.value}, now {record.state}{more}"
        case RegistrationChanged():
            return f"{'registered' if record.registered else 'not registered any more'}: {record.detail}"
        case Problem():
            return record.detail


class Journal:
    """The last records, oldest first, each with a running number. Bounded; `lost` counts what fell out."""

    def __init__(self, size: int = JOURNAL_RECORDS) -> None:
        self._records: deque[Record] = deque(maxlen=size)
        self.written = 0

    def append(self, record: Record) -> None:
        self._records.append(record)
        self.written += 1

    @property
    def lost(self) -> int:
        return self.written - len(self._records)

    def after(self, number: int) -> list[tuple[int, Record]]:
        """Records with a running number above `number` (the first record is 1)."""
        wanted = min(self.written - number, len(self._records))
        if wanted <= 0:
            return []
        newest = list(islice(reversed(self._records), wanted))
        return [(self.written - place, newest[place]) for place in range(wanted - 1, -1, -1)]
