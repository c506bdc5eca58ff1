"""What is known of one UE: gathered from registrations, journal, counters and the witness, for `pcscf.explain`."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import TypeVar

from pcscf.admin.views import CauseRow, ExplanationRow, Inside, StepRow
from pcscf.explain import Facts, SetFacts, Step, explain
from pcscf.observe import Attempt, MessageSeen, Problem, Record, RegistrationChanged, SetChanged, SetEvent
from pcscf.printable import printable
from pcscf.registration import Registration, SaSet
from pcscf.vocabulary import Interface
from pcscf.witness import Kind
from xfrm.model import IPAddress, SaRecord

T = TypeVar("T")
SLICE = 200
"""UEs or records that are looked at in one go."""
NAMED = 10
"""UEs that are named when the one asked for is not known."""


class UnknownUe(Exception):
    """Nobody of that name; `str` says who there is."""


def explanation(inside: Inside, impi: str, address: IPAddress, now: float) -> ExplanationRow:
    """What is to be said of a user at an address. Raises XfrmError."""
    records = [record for _, record in inside.journal.after(0)]
    facts = _gather(inside, records, impi, address, now)
    reached = dict(facts.steps)
    return ExplanationRow(
        impi=impi,
        address=address,
        registered=facts.registered,
        causes=[CauseRow(verdict=each.verdict, text=each.text, advice=each.advice) for each in explain(facts)],
        steps=[StepRow(text=step.value, at=reached.get(step)) for step in Step],
        offered=facts.offered,
        chosen=facts.chosen,
        why=facts.why,
        evidence=_evidence(facts),
    )


def registration_of(inside: Inside, impi: str, address: IPAddress) -> Registration | None:
    """The contact of a user at an address."""
    return next((each for each in inside.registrar.of_user(impi) if each.key.address == address), None)


async def find(inside: Inside, ue: str) -> tuple[str, IPAddress]:
    """Whom a name means: an IMPI, an IMPU, its user part, an address, or IMPI~address. Raises UnknownUe.

    What looks at everybody does so in slices, between which SIP has its turn.
    """
    impi, tilde, place = ue.rpartition("~")
    exact = None
    with suppress(ValueError):
        exact = (impi, ip_address(place)) if tilde else None
    if exact is not None and registration_of(inside, *exact) is not None:
        return exact  # what a page asks for every second: nobody else has to be looked at
    known: dict[tuple[str, IPAddress], set[str]] = {}
    async for registration in _in_slices(tuple(inside.registrar)):
        key = registration.key
        names = known.setdefault((key.impi, key.address), {key.impi, str(key.address)})
        names.update(registration.bindings, (each.impu for each in registration.sets))
        names.update(value.partition("<")[2].partition(">")[0] for value in registration.associated_uris)
    async for _, record in _in_slices(inside.journal.after(0)):
        if isinstance(record, Attempt):
            names = known.setdefault((record.impi, record.ue), {record.impi, str(record.ue)})
            names.add(record.impu)
    if exact in known:
        return exact
    with suppress(ValueError):
        ue = str(ip_address(ue))
    ue = printable(ue)  # as whoever asks has read it
    if tilde:
        shown = [key async for key in _in_slices(tuple(known)) if f"{printable(key[0])}~{key[1]}" == ue]
        if shown:
            return shown[-1]
    for fits in (lambda name: printable(name) == ue, lambda name: printable(_user(name)) == ue):
        found = [key async for key, names in _in_slices(tuple(known.items())) if any(map(fits, names))]
        if found:
            return found[-1]  # the latest to register
    some = ", ".join(dict.fromkeys(impi for impi, _ in list(known)[-NAMED:])) or "nobody has sent a REGISTER yet"
    raise UnknownUe(f"no UE {ue[:100]} is known (by its number only once registered); known are: {some}")


async def _in_slices(items: Sequence[T]) -> AsyncIterator[T]:
    for place, item in enumerate(items, 1):
        yield item
        if place % SLICE == 0:
            await asyncio.sleep(0)


def _user(name: str) -> str:
    return name.partition(":")[2].partition("@")[0] if ":" in name else name.partition("@")[0]


def _gather(inside: Inside, records: list[Record], impi: str, address: IPAddress, now: float) -> Facts:
    registration = registration_of(inside, impi, address)
    ours = [record for record in records if _concerns(record, impi, address)]
    begun = _begun(ours)
    start = begun.at if begun is not None else 0.0
    since = [record for record in ours if record.at >= start]
    call_id = begun.call_id if begun is not None else None
    dialog = [
        each for each in records if isinstance(each, MessageSeen) and each.at >= start and each.call_id == call_id
    ]
    answers = [each for each in dialog if each.incoming and each.flow.interface is Interface.MW]
    statuses = [int(each.summary[:3]) for each in answers if each.summary[:3].isdigit()]
    newest = registration.sets[-1] if registration is not None and registration.sets else None
    facts_of_set = _of_set(inside, records, registration, newest, since, address, now)
    return Facts(
        impi=impi,
        address=address,
        registered=registration is not None and registration.registered,
        expires_in=registration.expires - now if registration is not None and registration.registered else 0.0,
        since=now - start if begun is not None else -1.0,
        steps=_steps(begun, since, dialog, facts_of_set),
        offered=begun.offered if begun is not None else (newest.proposal.text if newest is not None else ""),
        chosen=str(newest.chosen.pair) if newest is not None else "",
        why=newest.chosen.why if newest is not None else _installed_detail(since),
        core_status=statuses[-1] if statuses else 0,
        auts=_auts(ours),
        problems=tuple(_problems(since)),
        ended=next((r.detail for r in reversed(ours) if isinstance(r, RegistrationChanged) and not r.registered), ""),
        set=facts_of_set,
        drops=tuple(inside.drops().items()),
        unable=inside.witness.unable,
    )


def _concerns(record: Record, impi: str, address: IPAddress) -> bool:
    match record:
        case Attempt() | SetChanged():
            return record.impi == impi and record.ue == address
        case RegistrationChanged():
            return record.impi == impi
        case Problem():
            if record.impi:
                return record.impi == impi
            return record.flow is not None and record.flow.remote == address
    return record.flow.interface is not Interface.MW and record.flow.remote == address


def _begun(ours: list[Record]) -> Attempt | None:
    """The REGISTER that began the latest procedure: the one before, if the latest answers its challenge."""
    attempts = [record for record in ours if isinstance(record, Attempt)]
    if not attempts:
        return None
    last = attempts[-1]
    installed = [
        record
        for record in ours
        if isinstance(record, SetChanged) and record.event is SetEvent.INSTALLED and last.spi in record.spis
    ]
    if last.spi and installed:
        at = installed[-1].at
        on_it = [each for each in attempts if each.spi == last.spi and each.at >= at]
        before = [each for each in attempts if each.at <= at and each.spi != last.spi]
        if on_it == [last] and before:
            return before[-1]
    return last


def _auts(ours: list[Record]) -> int:
    count = 0
    for record in reversed(ours):
        if isinstance(record, Attempt):
            if record.spi:
                break
            count += record.auts
    return count


def _problems(since: list[Record]) -> Iterator[str]:
    for record in since:
        if isinstance(record, Problem) or (
            isinstance(record, SetChanged) and record.event in (SetEvent.RESTARTED, SetEvent.DISAGREED)
        ):
            yield record.detail


def _installed_detail(since: list[Record]) -> str:
    for record in reversed(since):
        if isinstance(record, SetChanged) and record.event is SetEvent.INSTALLED:
            return record.detail
    return ""


def _steps(
    begun: Attempt | None, since: list[Record], dialog: list[MessageSeen], newest: SetFacts | None
) -> tuple[tuple[Step, float], ...]:
    if begun is None:
        return ()
    at: dict[Step, float] = {Step.REGISTER: begun.at}
    for message in dialog:
        mw = message.flow.interface is Interface.MW
        if mw and not message.incoming and message.summary == "REGISTER":
            at.setdefault(Step.TO_CORE, message.at)
        elif mw and message.incoming and message.summary.startswith("401"):
            at.setdefault(Step.CHALLENGED, message.at)
        elif not mw and not message.incoming and message.summary.startswith("401"):
            at.setdefault(Step.SENT_401, message.at)
        elif not mw and not message.incoming and message.summary.startswith("200"):
            at.setdefault(Step.REGISTERED, message.at)
    for record in since:
        if isinstance(record, SetChanged) and record.event is SetEvent.INSTALLED:
            at.setdefault(Step.INSTALLED, record.at)
        elif isinstance(record, Attempt) and record is not begun and record.spi:
            at.setdefault(Step.ANSWERED, record.at)
    if Step.ANSWERED in at:
        at[Step.ESP_SEEN] = at[Step.ANSWERED]
    elif newest is not None and (newest.packets or any(kind == Kind.ESP for kind, *_ in newest.seen)):
        at[Step.ESP_SEEN] = at.get(Step.SENT_401, begun.at)  # when first, nobody has noted
    return tuple((step, at[step] - begun.at) for step in Step if step in at)


def _of_set(
    inside: Inside,
    records: list[Record],
    registration: Registration | None,
    newest: SaSet | None,
    since: list[Record],
    address: IPAddress,
    now: float,
) -> SetFacts | None:
    """The newest set; or the one that ended last, by what the journal and the witness keep of it."""
    if registration is not None and newest is not None:
        spis = newest.parameters.spi_ps, newest.parameters.spi_pc
        state, waiting, set_id, ended = newest.state.value, now - newest.made, newest.id, ""
        ids = [each for one in registration.sets for each in one.ids] if registration.registered else newest.ids
        counters = inside.records(ids)
    else:
        changes = [record for record in since if isinstance(record, SetChanged)]
        if not changes:
            return None
        last = changes[-1]
        made = next((each.at for each in changes if each.set_id == last.set_id), last.at)
        spis, set_id, waiting = (last.spis[3], last.spis[2]), last.set_id, now - made
        state, ended = last.state, f"{last.event.value}{f' ({last.detail})' if last.detail else ''}"
        counters = []
    evidence = inside.witness.evidence(set_id)
    if evidence is not None and not counters:
        counters = evidence.records
    inbound = [each for each in counters if each.sa.selector.source == address]
    seen = evidence.seen if evidence is not None else {}
    return SetFacts(
        state=state,
        waiting=waiting,
        spis=spis,
        alive=not ended,
        packets=_sum(inbound, "packets"),
        integrity_failures=_sum(inbound, "integrity_failures"),
        replay_drops=_sum(inbound, "replay_drops"),
        messages=sum(isinstance(each, MessageSeen) and each.incoming and each.spi in spis for each in records),
        listened=evidence is not None and evidence.listened,
        seen=tuple((each.kind.value, each.source, each.number, count) for each, count in seen.items()),
        ended=ended,
    )


def _sum(records: list[SaRecord], name: str) -> int:
    return sum(int(getattr(each, name)) for each in records)


def _evidence(facts: Facts) -> list[str]:
    """The facts themselves, for people."""
    out = list(facts.problems[-5:])
    each = facts.set
    if each is not None:
        out.append(
            f"newest set: {each.state}, inbound SPIs {each.spis[0]} and {each.spis[1]}: {each.packets} packets opened, "
            f"{each.integrity_failures} with a wrong ICV, {each.replay_drops} replayed, {each.messages} SIP messages"
        )
        out += [f"on the wire: {count} {kind} {number} from {source}" for kind, source, number, count in each.seen]
    if facts.drops:
        out.append("dropped on this host: " + ", ".join(f"{name} {count}" for name, count in facts.drops))
    return out
