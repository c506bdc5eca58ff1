"""Why a registration is where it is: from what is known of one UE to a verdict, its cause and what to do next.

Facts in, words out; nothing here asks anybody. Where two causes cannot be told apart both are named.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from xfrm.model import IPAddress

ANSWER_WITHIN = 2.0
"""Seconds a core may take before it is called silent."""
LOOP = 2
"""Synchronisation failures without an answer in between: after one the core is in step again (TS 33.102 6.3.5)."""


class Verdict(StrEnum):
    """How a registration does, or what it is stuck at. Values are stable: scripts may read them."""

    HEALTHY = "healthy"
    ENDED = "ended"
    UNDER_WAY = "under-way"
    NO_ANSWER_FROM_CORE = "no-answer-from-core"
    CORE_REJECTED = "core-rejected"
    CHALLENGE_UNUSABLE = "challenge-unusable"
    NO_ESP = "no-esp-since-401"
    UNKNOWN_SPI = "unknown-spi"
    ICV_FAILURES = "icv-failures"
    REPLAY_DROPS = "replay-drops"
    OTHER_ADDRESS = "other-address"
    CLEAR_AT_PROTECTED_PORT = "clear-at-protected-port"
    AGREEMENT_DIFFERS = "agreement-differs"
    SA_REFUSED = "sa-refused"
    RESYNCHRONISATION_LOOP = "resynchronisation-loop"
    WRONG_MAC = "wrong-mac"
    WRONG_RES = "wrong-res"
    REFUSED = "refused"
    UNPROTECTED_ONLY = "never-sip-on-its-esp"


ADVICE = {
    Verdict.HEALTHY: "nothing to do",
    Verdict.ENDED: "the UE has to register again",
    Verdict.UNDER_WAY: "ask again in a few seconds",
    Verdict.NO_ANSWER_FROM_CORE: (
        "see `pcscf hops`; is the S-CSCF up, does it listen at the next hop's address and port, does it know a "
        "route back to our Mw address?"
    ),
    Verdict.CORE_REJECTED: (
        "the reason is the core's: does its HSS know this IMPI and IMPU, is roaming allowed from our visited network?"
    ),
    Verdict.CHALLENGE_UNUSABLE: "the 401 must carry nonce, ck and ik of AKAv1-MD5; in Kamailio that is ims_auth's",
    Verdict.NO_ESP: (
        "did the 401 reach the UE (a fragmented one is often lost), does a firewall drop protocol 50, does the UE "
        "support one of the algorithms? `pcscf capture` at the Gm interface shows it"
    ),
    Verdict.UNKNOWN_SPI: (
        "the UE must send with spi-s and spi-c of our Security-Server; an old set of it that it still uses ends "
        "with the next registration"
    ),
    Verdict.ICV_FAILURES: (
        "both sides have different keys: K or OPc of the SIM is not that of the HSS, or the UE expands IK in "
        "another way (TS 33.203 Annex I)"
    ),
    Verdict.REPLAY_DROPS: (
        "packets come twice: a capture or bridge that sends them again, or an attack; the UE itself would use a "
        "new sequence number"
    ),
    Verdict.OTHER_ADDRESS: (
        "a NAT or a second address is in between: SAs are bound to the address the UE registered from; put the "
        "P-CSCF where the bearer ends"
    ),
    Verdict.CLEAR_AT_PROTECTED_PORT: (
        "the UE has not put its SAs in force, or its policy does not cover TCP and UDP both"
    ),
    Verdict.AGREEMENT_DIFFERS: (
        "something on the way or in the UE changes the headers of the agreement; RFC 3329 wants them word for word"
    ),
    Verdict.SA_REFUSED: "see the words of the kernel; `pcscf doctor` looks for missing algorithms and rights",
    Verdict.RESYNCHRONISATION_LOOP: (
        "the HSS does not take over the SQN of auts: wrong K/OPc or AMF there, or two HSS with different SQN"
    ),
    Verdict.WRONG_MAC: "the SIM does not believe the network: K or OPc of the HSS is not that of the SIM",
    Verdict.WRONG_RES: (
        "the core challenged the answer again: RES differs, so K or OPc of the SIM is not that of the HSS"
    ),
    Verdict.REFUSED: "the words say what we did not take; `algorithms` and `without` of the configuration decide",
    Verdict.UNPROTECTED_ONLY: (
        "the packets were opened and held no SIP that was taken: see the log for messages dropped"
    ),
}


class Step(StrEnum):
    """How far a registration has come; each step needs the one before."""

    REGISTER = "REGISTER came"
    TO_CORE = "REGISTER sent to the core"
    CHALLENGED = "401 came from the core"
    INSTALLED = "4 SAs installed"
    SENT_401 = "401 sent to the UE"
    ESP_SEEN = "ESP of the UE came"
    ANSWERED = "REGISTER came in ESP"
    REGISTERED = "registered"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFacts:
    """One set of SAs. Counters are of its two inbound SAs; `seen` what the witness saw: kind, source, number, count."""

    state: str
    waiting: float
    """Seconds since it was made."""
    spis: tuple[int, int]
    """Ours: spi_ps, spi_pc."""
    alive: bool
    packets: int
    integrity_failures: int
    replay_drops: int
    messages: int
    """SIP messages of the UE that the journal has on it."""
    listened: bool
    seen: tuple[tuple[str, IPAddress, int, int], ...]
    ended: str = ""
    """What ended it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of one UE, from its latest REGISTER on."""

    impi: str
    address: IPAddress
    registered: bool
    expires_in: float
    since: float
    """Seconds since the latest REGISTER; -1 if the journal has none any more."""
    steps: tuple[tuple[Step, float], ...]
    """Those reached, with seconds after the REGISTER."""
    offered: str
    chosen: str
    why: str
    core_status: int
    """Of its last answer to this REGISTER, 0 for none."""
    auts: int
    """Synchronisation failures since the UE last answered a challenge."""
    problems: tuple[str, ...]
    """Since the latest REGISTER, in their order."""
    ended: str
    """What ended the registration."""
    set: SetFacts | None
    """The newest set."""
    drops: tuple[tuple[str, int], ...]
    """What the host has thrown away and no SA counts."""
    unable: str
    """Why nobody could listen on the wire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One cause, in words, and what to do next."""

    verdict: Verdict
    text: str

    @property
    def advice(self) -> str:
        return ADVICE[self.verdict]


def _starting(problems: Sequence[str], *beginnings: str) -> str:
    return next((each for each in reversed(problems) if each.startswith(beginnings)), "")


def _containing(problems: Sequence[str], *words: str) -> str:
    return next((each for each in reversed(problems) if any(word in each for word in words)), "")


def explain(facts: Facts) -> list[Cause]:
    """The causes, the likeliest first; more than one where they cannot be told apart, never none."""
    problems = facts.problems
    if facts.auts >= LOOP:
        text = f"the UE reported a synchronisation failure (auts) {facts.auts} times and answered no challenge"
        return [Cause(verdict=Verdict.RESYNCHRONISATION_LOOP, text=text)]
    if said := _containing(problems, "the SAs could not be installed"):
        return [Cause(verdict=Verdict.SA_REFUSED, text=said)]
    if said := _containing(problems, "Security-Verify", "Security-Client differs", "Security-Client is missing"):
        return [Cause(verdict=Verdict.AGREEMENT_DIFFERS, text=said)]
    if said := _containing(problems, "challenged the answer to its own challenge"):
        return [Cause(verdict=Verdict.WRONG_RES, text=said)]
    if said := _containing(problems, "found the network's MAC wrong"):
        return [Cause(verdict=Verdict.WRONG_MAC, text=said)]
    if said := _containing(problems, "the core answered"):
        return [Cause(verdict=Verdict.CORE_REJECTED, text=said)]
    if said := _starting(problems, "REGISTER failed with 504"):
        return [Cause(verdict=Verdict.NO_ANSWER_FROM_CORE, text=said)]
    if said := _starting(problems, "REGISTER failed with 500"):
        return [Cause(verdict=Verdict.CHALLENGE_UNUSABLE, text=said)]
    if said := _starting(problems, "REGISTER failed", "REGISTER refused"):
        return [Cause(verdict=Verdict.REFUSED, text=said)]
    reached = {step for step, _ in facts.steps}
    if Step.TO_CORE in reached and not facts.core_status:
        text = f"the core has said nothing to the REGISTER for {facts.since:.1f} s"
        verdict = Verdict.NO_ANSWER_FROM_CORE if facts.since > ANSWER_WITHIN else Verdict.UNDER_WAY
        return [Cause(verdict=verdict, text=text)]
    if Step.REGISTERED in reached and facts.ended and not facts.registered:
        return [Cause(verdict=Verdict.ENDED, text=facts.ended)]
    if facts.set is not None and (facts.set.state == "temporary" or (not facts.registered and facts.set.ended)):
        return _of_a_waiting_set(facts, facts.set)
    if facts.registered:
        return _of_a_registered_ue(facts)
    text = facts.ended or "no registration, and nothing that failed"
    return [Cause(verdict=Verdict.ENDED, text=text)]


def _of_a_registered_ue(facts: Facts) -> list[Cause]:
    found = [Cause(verdict=Verdict.HEALTHY, text=f"registered for another {facts.expires_in:.0f} s")]
    each = facts.set
    if each is not None and each.replay_drops:
        text = f"registered, but {each.replay_drops} packets with sequence numbers that were there before were dropped"
        found.insert(0, Cause(verdict=Verdict.REPLAY_DROPS, text=text))
    if each is not None and each.integrity_failures:
        text = f"registered, but {each.integrity_failures} packets on its SPIs have a wrong integrity check value"
        found.insert(0, Cause(verdict=Verdict.ICV_FAILURES, text=text))
    return found[:1] if found[0].verdict is Verdict.HEALTHY else found[:-1]


def _of_a_waiting_set(facts: Facts, each: SetFacts) -> list[Cause]:
    """The challenge is out, and the UE has not answered it in a way that came through."""
    found: list[Cause] = []
    if each.integrity_failures:
        text = f"{each.integrity_failures} ESP packets came with the right SPI and a wrong integrity check value"
        found.append(Cause(verdict=Verdict.ICV_FAILURES, text=text))
    if each.replay_drops:
        text = f"{each.replay_drops} ESP packets had sequence numbers that were there before"
        found.append(Cause(verdict=Verdict.REPLAY_DROPS, text=text))
    elsewhere = [(source, count) for kind, source, _, count in each.seen if kind == "ESP" and source != facts.address]
    if elsewhere:
        source, count = elsewhere[0]
        text = f"{count} ESP packets with the right SPI came from {source}, but the UE registered from {facts.address}"
        found.insert(0, Cause(verdict=Verdict.OTHER_ADDRESS, text=text))
    unknown = [(number, count) for kind, _, number, count in each.seen if kind == "foreign ESP"]
    if unknown:
        named = ", ".join(f"{spi} ({count} times)" for spi, count in unknown)
        ours = " and ".join(map(str, each.spis))
        found.append(
            Cause(verdict=Verdict.UNKNOWN_SPI, text=f"ESP came with SPI {named}; those of this set are {ours}")
        )
    clear = [(kind, number, count) for kind, _, number, count in each.seen if kind in ("UDP", "TCP", "TCP SYN")]
    if clear:
        named = ", ".join(f"{count} {kind} to port {port}" for kind, port, count in clear)
        found.append(Cause(verdict=Verdict.CLEAR_AT_PROTECTED_PORT, text=f"in clear, and dropped: {named}"))
    if found:
        return found
    if each.packets and not each.messages:
        text = f"{each.packets} ESP packets were opened, and no SIP in them was taken"
        verdict = Verdict.UNDER_WAY if each.alive and each.waiting < ANSWER_WITHIN else Verdict.UNPROTECTED_ONLY
        causes = [Cause(verdict=verdict, text=text)]
        if verdict is Verdict.UNPROTECTED_ONLY and not each.listened:
            causes.append(Cause(verdict=Verdict.OTHER_ADDRESS, text=f"{text}: their inner addresses may be others"))
        return causes
    if each.alive and (each.waiting < ANSWER_WITHIN or each.messages):
        return [Cause(verdict=Verdict.UNDER_WAY, text=f"the 401 went out {each.waiting:.1f} s ago")]
    if facts.auts:
        text = "the UE reported a synchronisation failure (auts), and did not answer the challenge that followed"
        return [Cause(verdict=Verdict.RESYNCHRONISATION_LOOP, text=text)]
    text = f"the 401 went out {each.waiting:.0f} s ago, and no ESP of the UE has come since"
    if each.ended:
        text += f"; the set has ended: {each.ended}"
    causes = [Cause(verdict=Verdict.NO_ESP, text=text)]
    if not each.listened:
        counted = ", ".join(f"{name} {count}" for name, count in facts.drops) or "none"
        why = f" ({facts.unable})" if facts.unable else ""
        text = (
            f"or with SPIs that are not of this set: nobody could listen on the wire{why}, and what the host drops "
            f"names no UE (its counters: {counted})"
        )
        causes.append(Cause(verdict=Verdict.UNKNOWN_SPI, text=text))
    return causes
