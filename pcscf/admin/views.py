"""What the control socket says and its clients read: plain rows, without keys, that go to JSON and back.

A journal record travels as its kind and its fields.
"""

import time
from collections.abc import Sequence
from typing import Any, Protocol

from pydantic import BaseModel, TypeAdapter

from pcscf.nexthop import NextHops
from pcscf.observe import Attempt, Journal, MessageSeen, Problem, Record, RegistrationChanged, SetChanged
from pcscf.registrar import Registrar
from pcscf.registration import SaSet
from pcscf.witness import Witness
from xfrm.model import IPAddress, SaId, SaRecord, bracketed

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
    """What the control socket may see of a server."""

    journal: Journal

    @property
    def registrar(self) -> Registrar: ...
    @property
    def status(self) -> "Status": ...
    @property
    def hops(self) -> NextHops: ...
    def switch_hop(self, name: str, *, enabled: bool) -> bool: ...
    @property
    def key_export(self) -> bool: ...
    def records(self, ids: Sequence[SaId] | None = None) -> list[SaRecord]: ...
    def drops(self) -> dict[str, int]: ...
    @property
    def witness(self) -> Witness: ...


class Status(BaseModel):
    """The instance and its backend."""

    pid: int
    backend: str
    reason: str
    gm: list[str]
    registered: int
    sets: int
    sas: int = 0
    """Those of the backend: four for each set, or one of the two has lost something."""
    transactions: int = 0
    passages: int = 0
    """Requests whose server transaction is not over."""
    dialogs: int = 0
    connections: int = 0
    """TCP, on both sides."""


class SaRow(BaseModel):
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


class RegistrationRow(BaseModel):
    """One registration. `why` says why its algorithms were chosen."""

    impi: str
    address: IPAddress
    registered: bool
    expires_in: float | None
    associated_uris: list[str]
    service_route: list[str]
    sets: list[int]
    why: str


class CauseRow(BaseModel):
    """One cause and what to do about it; `verdict` is a word for scripts."""

    verdict: str
    text: str
    advice: str


class StepRow(BaseModel):
    """A step of a registration; `at` is seconds after its REGISTER, None if it was not reached."""

    text: str
    at: float | None


class ExplanationRow(BaseModel):
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


class HopRow(BaseModel):
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


class NameRow(BaseModel):
    """A name and the servers that the DNS gave for it; with an error they are those of the last good answer."""

    name: str
    servers: list[str]
    error: str
    expires_in: float


class Hops(BaseModel):
    """Where requests toward the core can go."""

    hops: list[HopRow]
    names: list[NameRow]


class Switch(BaseModel):
    """Take a next hop out of use, or back."""

    name: str
    enabled: bool


class JournalRow(BaseModel):
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
    return [
        RegistrationRow(
            impi=each.key.impi,
            address=each.key.address,
            registered=each.registered,
            expires_in=round(each.expires - now, 1) if each.registered else None,
            associated_uris=list(each.associated_uris),
            service_route=list(each.service_route),
            sets=[sa_set.id for sa_set in each.sets],
            why=each.sets[-1].chosen.why if each.sets else "",
        )
        for each in registrar
    ]


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
    rows = []
    for number, record in journal.after(after):
        kind = _KIND_OF[type(record)]
        rows.append(JournalRow(number=number, kind=kind, record=_ADAPTERS[kind].dump_python(record, mode="json")))
    return rows
