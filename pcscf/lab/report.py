"""What a run of `pcscf lab` showed, and whether it was as it must be: UEs, counters and wire against each other."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from pcscf import ladder
from pcscf.admin.views import SaRow, Status
from pcscf.drawing import TIME
from pcscf.lab.subscribers import Subscriber
from pcscf.observe import MessageSeen, Record
from pcscf.vocabulary import Interface
from xfrm.model import IPAddress, SaId

IN_CLEAR = ["REGISTER", "401 Unauthorized"]
"""All that a UE and the P-CSCF may say outside ESP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phone:
    """One UE of the scenario. `offers` in its order."""

    number: int
    subscriber: Subscriber
    address: IPAddress
    pcscf: IPAddress
    transport: str
    offers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was verified, or was found not to hold."""

    text: str
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One step that was taken. `at` is when it began, on the clock of the journal; `sets` the states it left."""

    text: str
    titled: bool
    at: float
    ok: bool
    status: int = 0
    reason: str = ""
    seconds: float = 0.0
    sas: int = 0
    sets: dict[int, str] = field(default_factory=dict)
    expected: dict[int, str] = field(default_factory=dict)
    """UE -> the states of its sets, in the order in which they were made."""


@dataclass(slots=True, kw_only=True)
class Moment:
    """The P-CSCF and the wire at one moment, when nothing was on its way between the two."""

    sas: list[SaRow]
    esp: Counter[SaId]
    clear: list[str]
    """Packets in clear at protected ports."""
    records: list[Record]


@dataclass(slots=True, kw_only=True)
class Report:
    """What the scenario showed. `counted` is before deregistration, `ended` after."""

    status: Status
    capture: Path
    phones: list[Phone]
    steps: list[Done] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Steps that were not taken, because one before them failed."""
    outcomes: dict[int, dict[str, Any]] = field(default_factory=dict)
    counted: Moment | None = None
    ended: Moment | None = None
    sip_in_clear: list[str] = field(default_factory=list)
    """Start lines of SIP that the capture shows."""
    checks: list[Check] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return bool(self.checks) and all(check.holds for check in self.checks)

    def sas(self, phone: Phone) -> list[list[SaRow]]:
        """The sets of a UE before it deregistered, four rows each."""
        rows = [row for row in self.counted.sas if row.impi == phone.subscriber.impi] if self.counted else []
        return [list(four) for _, four in groupby(rows, key=lambda row: row.set_id)]

    def ladder(self, phone: Phone) -> list[str]:
        """The messages of a UE, below the step that caused them."""
        records = ladder.of_ue(self.ended.records if self.ended else [], phone.address)
        titled = [step for step in self.steps if step.titled]
        out: list[str] = []
        for place, step in enumerate(titled):
            end = titled[place + 1].at if place + 1 < len(titled) else float("inf")
            if part := [record for record in records if step.at <= record.at < end]:
                out += [f"{'':{TIME}}{step.text}", *ladder.lines(part, records[0].at)]
        return out

    def to_json(self) -> dict[str, Any]:
        return {
            "good": self.good,
            "backend": self.status.backend,
            "backend_reason": self.status.reason,
            "capture": str(self.capture),
            "checks": [{"text": check.text, "holds": check.holds} for check in self.checks],
            "steps": [
                {
                    "text": step.text,
                    "ok": step.ok,
                    "status": step.status,
                    "reason": step.reason,
                    "seconds": step.seconds,
                    "sas": step.sas,
                    "sets": {str(number): states.split() for number, states in step.sets.items()},
                }
                for step in self.steps
            ],
            "left_out": self.left_out,
            "ues": [
                {
                    "number": phone.number,
                    "impi": phone.subscriber.impi,
                    "transport": phone.transport,
                    "address": str(phone.address),
                    "outcome": self.outcomes.get(phone.number),
                    "sas": [row.model_dump(mode="json") for four in self.sas(phone) for row in four],
                    "ladder": self.ladder(phone),
                }
                for phone in self.phones
            ],
        }


def verify(report: Report) -> list[Check]:
    """Hold the UEs' words, the P-CSCF's counters and the capture against each other."""
    checks: list[Check] = []
    for step in report.steps:
        came = f": {step.status or ''} {step.reason}".rstrip() if not step.ok else ""
        checks.append(Check(f"{step.text}{came}", step.ok))
        if step.ok:
            checks.append(
                Check(
                    f"after `{step.text}` there are {step.sas} SAs in sets {_sets(step.sets)}, expected "
                    f"{_sets(step.expected)}",
                    step.sets == step.expected
                    and step.sas == 4 * sum(len(each.split()) for each in step.expected.values()),
                )
            )
    checks += [Check(f"not done: {text}", False) for text in report.left_out]
    if report.counted is None or report.ended is None:
        return [*checks, Check("nothing was counted", False)]
    for phone in report.phones:
        checks += _verify_phone(phone, report, report.counted)
    known = {SaId(row.destination, row.spi) for row in report.counted.sas}
    strangers = sorted(str(sa_id.spi) for sa_id in report.ended.esp.keys() - known)
    clear = report.ended.clear
    sip = Counter(_kind(line) for line in report.sip_in_clear)
    wanted = Counter({kind: len(report.phones) for kind in IN_CLEAR})
    left = sorted({row.state for row in report.ended.sas} - {"closing"})
    return [
        *checks,
        Check(f"ESP of unknown SPIs in the capture: {', '.join(strangers) or 'none'}", not strangers),
        Check(f"packets in clear at protected ports in the capture: {'; '.join(clear[:5]) or 'none'}", not clear),
        Check(f"SIP in clear in the capture: {_counts(sip)}", sip == wanted),
        Check(f"sets that do not end after deregistration: {', '.join(left) or 'none'}", not left),
    ]


def _sets(states: dict[int, str]) -> str:
    return ", ".join(f"UE {number} {each}" for number, each in states.items() if each) or "of nobody"


def _counts(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none"


def _kind(start_line: str) -> str:
    """Method, or status and reason."""
    first, _, rest = start_line.partition(" ")
    return rest if first == "SIP/2.0" else first


def _verify_phone(phone: Phone, report: Report, moment: Moment) -> list[Check]:
    name, sets = f"UE {phone.number}", report.sas(phone)
    rows = [row for four in sets for row in four]
    messages = [each for each in ladder.of_ue(moment.records, phone.address) if isinstance(each, MessageSeen)]
    clear = [each.summary for each in messages if each.flow.interface is Interface.GM]
    checks = [
        Check(f"{name}: in clear went {', '.join(clear) or 'nothing'}", clear == IN_CLEAR),
        Check(
            f"{name}: every set has four SAs with the algorithms of its first offer",
            bool(sets)
            and all(len(four) == 4 for four in sets)
            and all(f"{row.integrity}/{row.encryption}" == phone.offers[0] for row in rows),
        ),
        Check(
            f"{name}: nothing dropped by its SAs", not any(row.replay_drops or row.integrity_failures for row in rows)
        ),
    ]
    for row in rows:
        seen = moment.esp[SaId(row.destination, row.spi)]
        checks.append(
            Check(f"{name}: SPI {row.spi} counted {row.packets} packets, the capture has {seen}", row.packets == seen)
        )
    inside = [each for each in messages if each.flow.interface is Interface.GM_PROTECTED]
    for four in sets:
        checks += _verify_ports(f"{name}, set {four[0].set_id}", four, inside)
    strangers = [each.summary for each in inside if _carrier(each, rows) is None]
    checks.append(
        Check(f"{name}: messages inside ESP on no SA of its: {', '.join(strangers) or 'none'}", not strangers)
    )
    return checks


def _verify_ports(name: str, four: list[SaRow], inside: list[MessageSeen]) -> list[Check]:
    """Which of the four carried what (digest A1, A2). UDP: each message is one packet, up on SA 1, down on SA 3."""
    checks = []
    for pair in (four[:2], four[2:]):
        connections = any(each.flow.transport == "TCP" and _carrier(each, pair) for each in inside)
        for row in pair:
            datagrams = sum(each.flow.transport == "UDP" and _carrier(each, [row]) is not None for each in inside)
            place = four.index(row) + 1
            right = row.packets > datagrams if connections else row.packets == datagrams
            kind = "packets of TCP" if connections else "none else"
            checks.append(
                Check(
                    f"{name}: SA {place} carried {row.packets} packets, {datagrams} SIP messages over UDP and {kind}",
                    right and (datagrams == 0 or place in (1, 3)),
                )
            )
    return checks


def _carrier(message: MessageSeen, rows: list[SaRow]) -> SaRow | None:
    """The SA of these on which a message rode, by SPI and ports."""
    flow = message.flow
    near, far = (flow.local, flow.local_port), (flow.remote, flow.remote_port)
    source, destination = (far, near) if message.incoming else (near, far)
    for row in rows:
        if (row.spi, (row.source, row.source_port), (row.destination, row.destination_port)) == (
            message.spi,
            source,
            destination,
        ):
            return row
    return None
