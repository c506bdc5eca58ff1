"""What the control socket says and its clients read: plain rows, without keys, that go to JSON and back.

A journal record travels as its kind and its fields.
"""

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, TypeAdapter, model_validator

from pcscf.messages import MessageLog
from pcscf.nexthop import NextHops
from pcscf.observe import Attempt, Journal, MessageSeen, Problem, Record, RegistrationChanged, SetChanged, describe
from pcscf.printable import printable_data
from pcscf.registrar import Registrar
from pcscf.registration import Registration, SaSet
from pcscf.tally import Tally
from pcscf.vocabulary import Interface, Ordered
from pcscf.witness import Witness
from xfrm.model import IPAddress, SaId, SaRecord, bracketed

if TYPE_CHECKING:
    from pcscf.config import Config

KINDS: dict[str, type[Record]] = {
    "message": MessageSeen,
    "attempt": Attempt,
    "set": SetChanged,
    "registration": RegistrationChanged,
    "problem": Problem,
}
_ADAPTERS: dict[str, TypeAdapter[Any]] = {kind: TypeAdapter(type_) for kind, type_ in KINDS.items()}
_KIND_OF = {type_: kind for kind, type_ in KINDS.items()}


class Inside(Protocol):
    """What operators may see and do of a server."""

    journal: Journal
    messages: MessageLog
    traced: set[IPAddress]
    config: "Config"
    started: float
    """Seconds since the epoch."""

    @property
    def tally(self) -> Tally: ...
    def order(self, order: Ordered) -> None: ...
    def count(self) -> int: ...

    @property
    def registrar(self) -> Registrar: ...
    @property
    def status(self) -> "Status": ...
    @property
    def hops(self) -> NextHops: ...
    def switch_hop(self, name: str, *, enabled: bool) -> bool: ...
    @property
    def key_export(self) -> bool: ...
    @property
    def fault(self) -> str: ...
    def records(self, ids: Sequence[SaId] | None = None) -> list[SaRecord]: ...
    def drops(self) -> dict[str, int]: ...
    @property
    def witness(self) -> Witness: ...


class Row(BaseModel):
    """What goes to people and programs: every text in it is printable, whoever made it, on both sides of the API."""

    @model_validator(mode="before")
    @classmethod
    def printable(cls, data: Any) -> Any:
        return printable_data(data)


class Status(Row):
    """The instance and its backend."""

    version: str
    pid: int
    started: float
    """Seconds since the epoch."""
    backend: str
    reason: str
    gm: list[str]
    registered: int
    sets: int
    sas: int = 0
    """There are, those of other IPsec users included where the kernel counts; ours are four for each set."""
    transactions: int = 0
    passages: int = 0
    """Requests whose server transaction is not over."""
    dialogs: int = 0
    connections: int = 0
    """TCP, on both sides."""
    clear_lost: int = 0
    """Datagrams in clear from phones that there was no time to look at."""
    guards_lost: int = 0
    """How often a guard of the protected ports was found gone."""
    fault: str = ""
    """Why protected ports are not served."""


class SaRow(Row):
    """One live SA. `state` is that of its set. Times are seconds; `idle` since its last use."""

    set_id: int
    impi: str
    state: str
    uplink: bool
    spi: int
    source: IPAddress
    source_port: int
    destination: IPAddress
    destination_port: int
    integrity: str
    encryption: str
    packets: int
    bytes: int
    replay_drops: int
    integrity_failures: int
    expires_in: float | None
    idle: float | None


class RegistrationRow(Row):
    """One registration. `why` says why its algorithms were chosen."""

    ue: str
    """How the API names it: IMPI~address."""
    impi: str
    address: IPAddress
    registered: bool
    expires_in: float | None
    contact: str
    associated_uris: list[str]
    service_route: list[str]
    sets: list[int]
    states: list[str]
    """Of the sets."""
    algorithms: str
    """Of the newest set."""
    why: str
    in_clear: bool
    """Admitted without IPsec."""
    to_challenge: bool
    """Its next REGISTER will be challenged: the operator wants it."""


class SetRow(Row):
    """A set of four SAs. `age` and `expires_in` are seconds; `why` says why its algorithms were chosen."""

    id: int
    state: str
    age: float
    expires_in: float
    offered: str
    chosen: str
    why: str
    sas: list[SaRow]


class UeRow(Row):
    """One UE. `registration` is null when only the journal knows it any more; `traced`: its messages are logged."""

    ue: str
    impi: str
    address: IPAddress
    registration: RegistrationRow | None
    sets: list[SetRow]
    traced: bool


class LadderRow(Row):
    """A step of a ladder. `at` is seconds since the epoch; hosts are `ue`, `pcscf` and `core`, "" for no message.

    `way`: esp or clear. `whole`: the text of the message is kept.
    """

    number: int
    at: float
    kind: str
    source: str = ""
    source_port: int = 0
    destination: str = ""
    destination_port: int = 0
    transport: str = ""
    way: str = ""
    spi: int = 0
    text: str
    call_id: str = ""
    whole: bool = False


class CauseRow(Row):
    """One cause and what to do about it; `verdict` is a word for scripts."""

    verdict: str
    text: str
    advice: str


class StepRow(Row):
    """A step of a registration; `at` is seconds after its REGISTER, None if it was not reached."""

    text: str
    at: float | None


class ExplanationRow(Row):
    """Where a registration is, and why."""

    impi: str
    address: IPAddress
    registered: bool
    causes: list[CauseRow]
    steps: list[StepRow]
    offered: str
    chosen: str
    why: str
    evidence: list[str]


class HopRow(Row):
    """One next hop toward the core. `since`: seconds in its state; `words`: what was last heard of it."""

    name: str
    local: IPAddress
    state: str
    since: float
    words: str
    configured: bool
    entry: bool
    priority: int
    weight: int
    answered: int
    failed: int
    probes: int
    probes_failed: int


class NameRow(Row):
    """A name and the servers that the DNS gave for it; with an error they are those of the last good answer."""

    name: str
    servers: list[str]
    error: str
    expires_in: float


class Hops(Row):
    """Where requests toward the core can go."""

    hops: list[HopRow]
    names: list[NameRow]


class JournalRow(Row):
    """A journal record with its running number."""

    number: int
    kind: str
    record: Any

    def decoded(self) -> Record:
        """The record itself. Raises pydantic's ValidationError for what is none."""
        found: Record = _ADAPTERS[self.kind].validate_python(self.record, strict=False)
        return found


def sa_rows(records: Sequence[SaRecord], registrar: Registrar, now: float) -> list[SaRow]:
    """One row for each SA of a live set, set by set. `now` is the monotonic time of the core."""
    rows: list[tuple[int, int, SaRow]] = []
    for record in records:
        sa_set = registrar.by_sa(record.sa.id)
        if sa_set is not None:
            place = sa_set.ids.index(record.sa.id)
            rows.append((sa_set.id, place, _sa_row(record, sa_set, uplink=place in (0, 3), now=now)))
    return [row for _, _, row in sorted(rows, key=lambda each: each[:2])]


def _sa_row(record: SaRecord, sa_set: SaSet, *, uplink: bool, now: float) -> SaRow:
    sa, selector = record.sa, record.sa.selector
    return SaRow(
        set_id=sa_set.id,
        impi=sa_set.registration.key.impi,
        state=sa_set.state.value,
        uplink=uplink,
        spi=sa.spi,
        source=selector.source,
        source_port=selector.source_port,
        destination=selector.destination,
        destination_port=selector.destination_port,
        integrity=sa.integrity.value,
        encryption=sa.encryption.value,
        packets=record.packets,
        bytes=record.bytes,
        replay_drops=record.replay_drops,
        integrity_failures=record.integrity_failures,
        expires_in=round(sa_set.expires - now, 1),
        idle=None if record.last_used is None else max(0.0, round(time.time() - record.last_used, 1)),
    )


def registration_rows(registrar: Registrar, now: float) -> list[RegistrationRow]:
    """One row for each contact that is registered or tries to be."""
    return [registration_row(each, now) for each in registrar]


def name_of(impi: str, address: IPAddress) -> str:
    """How the API names a UE."""
    return f"{impi}~{address}"


def registration_row(each: Registration, now: float) -> RegistrationRow:
    newest = each.sets[-1] if each.sets else None
    return RegistrationRow(
        ue=name_of(each.key.impi, each.key.address),
        impi=each.key.impi,
        address=each.key.address,
        registered=each.registered,
        expires_in=round(each.expires - now, 1) if each.registered else None,
        contact=each.contact,
        associated_uris=list(each.associated_uris),
        service_route=list(each.service_route),
        sets=[sa_set.id for sa_set in each.sets],
        states=[sa_set.state.value for sa_set in each.sets],
        algorithms=str(newest.chosen.pair) if newest is not None else "",
        why=newest.chosen.why if newest is not None else "",
        in_clear=each.clear is not None,
        to_challenge=each.to_challenge,
    )


def set_rows(registration: Registration, inside: Inside, now: float) -> list[SetRow]:
    """The sets of a contact, the oldest first. Raises XfrmError."""
    rows = sa_rows(inside.records([each for one in registration.sets for each in one.ids]), inside.registrar, now)
    return [
        SetRow(
            id=each.id,
            state=each.state.value,
            age=round(now - each.made, 1),
            expires_in=round(each.expires - now, 1),
            offered=each.proposal.text,
            chosen=str(each.chosen.pair),
            why=each.chosen.why,
            sas=[row for row in rows if row.set_id == each.id],
        )
        for each in registration.sets
    ]


def ladder_row(number: int, record: Record, epoch: float, *, kept: bool) -> LadderRow:
    """A record as a step. `epoch`: seconds since the epoch when the core's clock was 0; `kept`: its text is."""
    kind, at = kind_of(record), round(record.at + epoch, 6)
    if not isinstance(record, MessageSeen):
        return LadderRow(number=number, at=at, kind=kind, text=describe(record), call_id=record.call_id)
    flow = record.flow
    peer = "core" if flow.interface is Interface.MW else "ue"
    ends = [(peer, flow.remote_port), ("pcscf", flow.local_port)]
    (source, source_port), (destination, destination_port) = ends if record.incoming else reversed(ends)
    return LadderRow(
        number=number,
        at=at,
        kind=kind,
        source=source,
        source_port=source_port,
        destination=destination,
        destination_port=destination_port,
        transport=flow.transport,
        way="esp" if record.spi else "clear",
        spi=record.spi,
        text=record.summary,
        call_id=record.call_id,
        whole=kept,
    )


def hop_rows(hops: NextHops, now: float) -> Hops:
    """The next hops and names. `now` is the monotonic time of the core."""
    return Hops(
        hops=[
            HopRow(
                name=each.name,
                local=each.flow.local,
                state=each.state.value,
                since=round(now - each.since, 1) if each.since else 0.0,
                words=each.words,
                configured=each.configured,
                entry=each.entry,
                priority=each.priority,
                weight=each.weight,
                answered=each.answered,
                failed=each.failed,
                probes=each.probes,
                probes_failed=each.probes_failed,
            )
            for each in hops.hops()
        ],
        names=[
            NameRow(
                name=str(each.query),
                servers=[f"{bracketed(of.address)}:{of.port}/{of.transport.lower()}" for of in each.targets],
                error=each.error,
                expires_in=round(each.until - now, 1),
            )
            for each in hops.names()
        ],
    )


def journal_rows(journal: Journal, after: int) -> list[JournalRow]:
    """The records after a running number."""
    return [journal_row(number, record) for number, record in journal.after(after)]


def kind_of(record: Record) -> str:
    return _KIND_OF[type(record)]


def as_json(record: Record) -> bytes:
    """The fields of a record."""
    fields = _ADAPTERS[kind_of(record)].dump_python(record, mode="json")
    return json.dumps(printable_data(fields), separators=(",", ":")).encode()


def journal_row(number: int, record: Record) -> JournalRow:
    kind = kind_of(record)
    return JournalRow(number=number, kind=kind, record=_ADAPTERS[kind].dump_python(record, mode="json"))
