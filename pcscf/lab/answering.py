"""The far side the core is itself: numbers that answer, are busy, ring (RFC 3261 13.3, RFC 3262, RFC 3312). Sans-IO.

Reliable provisional responses are sent where the caller requires them or brings preconditions. One call is one
dialog; waiting is a deadline, what is to be sent comes back as a list. Which request is for a number is `serving`.
"""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from pcscf.lab.bindings import Refusal
from pcscf.lab.hops import flow_to, name_addr, via_text
from pcscf.lab.mirror import answer_to, has_preconditions, is_ready, offer_of
from pcscf.lab.registrar import RegistrarSettings
from pcscf.sip.fields import parse_cseq, parse_name_addr, top_via
from pcscf.sip.message import Header, Request, Response, header, response_to
from pcscf.sip.transaction import CORE_TIMERS, NEVER
from pcscf.sip.uri import parse_uri
from pcscf.vocabulary import Flow
from xfrm.model import bracketed

CALLS = 10_000
ALLOW = "INVITE, ACK, CANCEL, BYE, PRACK, UPDATE, INFO, OPTIONS, MESSAGE"
REASONS = {
    480: "Temporarily Unavailable",
    486: "Busy Here",
    487: "Request Terminated",
    489: "Bad Event",
    580: "Precondition Failure",
    603: "Decline",
}


class Habit(NamedTuple):
    """What a number does with a call: ring or not, for so many seconds, then this status."""

    rings: bool
    seconds: float
    status: int


NUMBERS = {
    "echo": Habit(True, 0.0, 200),
    "busy": Habit(False, 0.0, 486),
    "noanswer": Habit(True, 180.0, 480),
    "declined": Habit(False, 0.0, 603),
    "longring": Habit(True, 30.0, 200),
    "error500": Habit(False, 0.0, 500),
}
"""User part in our realm -> habit. `echo` sends messages back, too."""


class Say(NamedTuple):
    """An answer to the request that came with this key."""

    key: Hashable
    response: Response


class Ask(NamedTuple):
    """A request of ours in a dialog, on its flow; or to a user, when `identity` names one: no flow, no Via yet."""

    request: Request
    flow: Flow | None
    identity: str = ""


Act = Say | Ask


class Phase(Enum):
    """Where a call stands. The first two wait for the caller; RINGING ends at `habit_at`."""

    PROGRESS = auto()
    """A 183 wants its PRACK."""
    PRECONDITION = auto()
    """The caller's resources are missing: an UPDATE will say that they are there."""
    ALERTING = auto()
    """A 180 wants its PRACK."""
    RINGING = auto()
    ANSWERED = auto()
    """A 200 wants its ACK."""
    UP = auto()


AFTER_PRACK = {Phase.PROGRESS: Phase.PRECONDITION, Phase.ALERTING: Phase.RINGING}


@dataclass(slots=True, eq=False)
class Call:
    """One call to a number; `key` is of the INVITE that is open or was answered last."""

    number: str
    habit: Habit
    invite: Request
    target: str
    routes: tuple[str, ...]
    key: Hashable
    tag: str
    reliable: bool
    phase: Phase = Phase.RINGING
    ready: bool = True
    described: bool = False
    """Whether our answer to the offer has left in a reliable response."""
    rseq: int = 0
    cseq: int = 0
    repeated: Say | None = None
    """What is sent again until the caller confirms it."""
    interval: float = 0.0
    repeat_at: float = NEVER
    give_up_at: float = NEVER
    habit_at: float = NEVER

    @property
    def deadline(self) -> float:
        return min(self.repeat_at, self.give_up_at, self.habit_at)

    @property
    def name(self) -> tuple[str, str]:
        return self.invite.first("call-id") or "", self.tag


class Answering:
    """All calls to the numbers of the realm."""

    def __init__(
        self, settings: RegistrarSettings, random_octets: Callable[[int], bytes], numbers: dict[str, Habit] = NUMBERS
    ) -> None:
        self._settings = settings
        self._random_octets = random_octets
        self._numbers = numbers
        self.calls: dict[tuple[str, str], Call] = {}

    @property
    def deadline(self) -> float | None:
        at = min((call.deadline for call in self.calls.values()), default=NEVER)
        return None if math.isinf(at) else at

    def requested(self, request: Request, number: str, key: Hashable, now: float) -> list[Act]:
        """A request outside a dialog to a number. Raises Refusal and ParseError."""
        habit = self._numbers[number]
        if request.method == "INVITE":
            return self._invited(request, number, habit, key, now)
        if request.method == "MESSAGE":
            status = habit.status if habit.status != 480 else 200
            response = self._respond(request, status, self._random_octets(6).hex())
            acts: list[Act] = [Say(key, response)]
            if number == "echo":
                acts.append(self._echo(request))
            return acts
        if request.method == "OPTIONS":
            return [Say(key, self._respond(request, 200, self._random_octets(6).hex(), [header("Allow", ALLOW)]))]
        if request.method == "SUBSCRIBE":
            raise Refusal(489, REASONS[489], (header("Allow-Events", "reg"),))
        raise Refusal(405, "this number takes calls and messages", (header("Allow", ALLOW),))

    def in_dialog(self, request: Request, key: Hashable, now: float) -> list[Act]:
        """A request in a dialog of ours, or a CANCEL. Raises Refusal and ParseError."""
        if request.method == "CANCEL":
            return self._cancelled(request, key)
        call = self._call_of(request)
        if call is None:
            raise Refusal(481, "no such call")
        if request.method == "BYE":
            acts = [Say(key, self._respond(request, 200, call.tag))]
            if call.phase not in (Phase.ANSWERED, Phase.UP):
                acts.append(Say(call.key, self._respond(call.invite, 487, call.tag)))
            del self.calls[call.name]
            return [*acts]
        if request.method == "PRACK":
            return self._pracked(call, request, key, now)
        if request.method == "UPDATE":
            return self._updated(call, request, key, now)
        if request.method == "INVITE":
            if call.phase is not Phase.UP:
                raise Refusal(491, "the last INVITE is not over")
            call.target = self._target(request, call.routes)
            call.invite, call.key, call.described = request, key, False
            return [Say(key, response_to(request, 100)), *self._accept(call, now)]
        if request.method in ("INFO", "OPTIONS", "MESSAGE"):
            return [Say(key, self._respond(request, 200, call.tag, [header("Allow", ALLOW)]))]
        raise Refusal(405, "not in this call", (header("Allow", ALLOW),))

    def acknowledged(self, request: Request) -> None:
        """The ACK to a 200."""
        call = self._call_of(request)
        if call is not None and call.phase is Phase.ANSWERED:
            cseq = parse_cseq(request.first("cseq") or "").number
            if cseq == parse_cseq(call.invite.first("cseq") or "").number:
                call.phase = Phase.UP
                _stop(call)

    def expire(self, now: float) -> list[Act]:
        """Send again, go on ringing to the end, give up."""
        acts: list[Act] = []
        for call in [each for each in self.calls.values() if each.deadline <= now]:
            if call.give_up_at <= now:
                acts += self._give_up(call)
            elif call.habit_at <= now:
                call.habit_at = NEVER
                acts += self._final(call, now)
            elif call.repeated is not None:
                acts.append(call.repeated)
                call.interval = min(2 * call.interval, CORE_TIMERS.t2 if call.phase is Phase.ANSWERED else NEVER)
                call.repeat_at = now + call.interval
        return acts

    # A call comes up

    def _invited(self, request: Request, number: str, habit: Habit, key: Hashable, now: float) -> list[Act]:
        trying = Say(key, response_to(request, 100))
        tag = self._random_octets(6).hex()
        if not habit.rings:
            return [trying, Say(key, self._respond(request, habit.status, tag))]
        routes = tuple(request.values("record-route"))
        target = self._target(request, routes)
        if len(self.calls) >= CALLS:
            raise Refusal(503, "too many calls")
        required = _has_tag(request, "require", "100rel")
        conditional = has_preconditions(request.body)
        reliable = required or (conditional and _has_tag(request, "supported", "100rel"))
        ready = is_ready(request.body)
        call = Call(number, habit, request, target, routes, key, tag, reliable, ready=ready or not reliable)
        self.calls[call.name] = call
        if conditional and reliable:
            return [trying, *self._provisional(call, 183, Phase.PROGRESS, now)]
        return [trying, *self._ring(call, now)]

    def _ring(self, call: Call, now: float) -> list[Act]:
        if call.reliable:
            return self._provisional(call, 180, Phase.ALERTING, now)
        call.phase = Phase.RINGING
        return [Say(call.key, self._respond(call.invite, 180, call.tag)), *self._wait(call, now)]

    def _wait(self, call: Call, now: float) -> list[Act]:
        if not call.habit.seconds:
            return self._final(call, now)
        call.habit_at = now + call.habit.seconds
        return []

    def _provisional(self, call: Call, status: int, phase: Phase, now: float) -> list[Act]:
        """A reliable one: sent again until its PRACK comes (RFC 3262 3)."""
        call.rseq += 1
        headers = [header("Require", "100rel"), header("RSeq", str(call.rseq))]
        call.phase = phase
        body = b"" if call.described else self._description(call.invite)
        call.described = True
        say = Say(call.key, self._respond(call.invite, status, call.tag, headers, body))
        _repeat(call, say, now)
        return [say]

    def _pracked(self, call: Call, request: Request, key: Hashable, now: float) -> list[Act]:
        rack = f"{call.rseq} {call.invite.first('cseq')}".split()
        if call.phase not in AFTER_PRACK or (request.first("rack") or "").split() != rack:
            raise Refusal(481, "RAck names no response that waits for it")
        _stop(call)
        acts: list[Act] = [Say(key, self._answered(call, request))]
        call.phase = AFTER_PRACK[call.phase]
        if call.phase is Phase.RINGING:
            return [*acts, *self._wait(call, now)]
        return [*acts, *self._go_on(call, now)]

    def _updated(self, call: Call, request: Request, key: Hashable, now: float) -> list[Act]:
        acts: list[Act] = [Say(key, self._answered(call, request))]
        return [*acts, *self._go_on(call, now)] if call.phase is Phase.PRECONDITION else acts

    def _answered(self, call: Call, request: Request) -> Response:
        """200 to PRACK or UPDATE, with an answer to the offer in it."""
        if not request.body:
            return self._respond(request, 200, call.tag)
        call.ready = is_ready(request.body)
        return self._respond(request, 200, call.tag, body=self._description(request))

    def _go_on(self, call: Call, now: float) -> list[Act]:
        if not call.ready:
            call.give_up_at = now + CORE_TIMERS.timeout
            return []
        _stop(call)
        return self._ring(call, now)

    def _final(self, call: Call, now: float) -> list[Act]:
        if call.habit.status != 200:
            del self.calls[call.name]
            return [Say(call.key, self._respond(call.invite, call.habit.status, call.tag))]
        return self._accept(call, now)

    def _accept(self, call: Call, now: float) -> list[Act]:
        """200 with our description, unless the caller has it; sent again until the ACK (RFC 3261 13.3.1.4)."""
        body = b"" if call.described else self._description(call.invite)
        say = Say(call.key, self._respond(call.invite, 200, call.tag, [header("Allow", ALLOW)], body))
        call.phase = Phase.ANSWERED
        _repeat(call, say, now)
        return [say]

    def _description(self, request: Request) -> bytes:
        address = self._settings.address
        return answer_to(request.body, address) if request.body else offer_of(address)

    # A call goes

    def _cancelled(self, request: Request, key: Hashable) -> list[Act]:
        via = top_via(request)
        call = next((each for each in self.calls.values() if top_via(each.invite) == via), None)
        if call is None or call.phase is Phase.UP:
            raise Refusal(481, "no such call")
        acts: list[Act] = [Say(key, self._respond(request, 200, call.tag))]
        if call.phase is not Phase.ANSWERED:
            del self.calls[call.name]
            acts.append(Say(call.key, self._respond(call.invite, 487, call.tag)))
        return acts

    def _give_up(self, call: Call) -> list[Act]:
        """No PRACK: 504 (RFC 3262 3). No ACK: BYE (RFC 3261 13.3.1.4)."""
        del self.calls[call.name]
        if call.phase is Phase.ANSWERED:
            return [self._bye(call)]
        return [Say(call.key, self._respond(call.invite, 504, call.tag))]

    def hang_up(self, number: str) -> list[Act]:
        """Say BYE in every call of a number that is up."""
        up = [call for call in self.calls.values() if call.number == number and call.phase is Phase.UP]
        for call in up:
            del self.calls[call.name]
        return [self._bye(call) for call in up]

    def _bye(self, call: Call) -> Ask:
        invite = call.invite
        flow = self._flow(call.routes, call.target)
        call.cseq += 1
        headers = [
            header("Via", via_text(self._settings, flow.transport, self._branch())),
            *(header("Route", value) for value in call.routes),
            header("Max-Forwards", "70"),
            header("From", _tagged(invite.first("to") or "", call.tag)),
            header("To", invite.first("from") or ""),
            header("Call-ID", call.name[0]),
            header("CSeq", f"{call.cseq} BYE"),
            header("Content-Length", "0"),
        ]
        return Ask(Request(method="BYE", uri=call.target, headers=tuple(headers)), flow)

    def _target(self, invite: Request, routes: tuple[str, ...]) -> str:
        """Contact, for requests of ours. Raises Refusal if there is no way to it, and ParseError."""
        target = name_addr(invite, "contact").uri
        self._flow(routes, target)
        return target

    def _flow(self, routes: tuple[str, ...], target: str) -> Flow:
        return flow_to(parse_name_addr(routes[0]).uri if routes else target, self._settings)

    def _echo(self, request: Request) -> Ask:
        asserted = request.values("p-asserted-identity")
        identity = parse_name_addr(asserted[0]).uri if asserted else name_addr(request, "from").uri
        own, icid = self._identity("echo"), self._random_octets(8).hex()
        headers = [
            header("Max-Forwards", "70"),
            header("From", f"<{own}>;tag={self._random_octets(6).hex()}"),
            header("To", f"<{identity}>"),
            header("Call-ID", self._random_octets(10).hex()),
            header("CSeq", "1 MESSAGE"),
            header("P-Asserted-Identity", f"<{own}>"),
            header("P-Charging-Vector", f'icid-value="{icid}";orig-ioi="{self._settings.realm}"'),
            *(item for item in request.headers if item.name == "content-type"),
            header("Content-Length", str(len(request.body))),
        ]
        echoed = Request(method="MESSAGE", uri=identity, headers=tuple(headers), body=request.body)
        return Ask(echoed, None, identity)

    # Words

    def _call_of(self, request: Request) -> Call | None:
        tag = name_addr(request, "to").param("tag") or ""
        return self.calls.get((request.first("call-id") or "", tag))

    def _identity(self, number: str) -> str:
        return f"sip:{number}@{self._settings.realm}"

    def _branch(self) -> str:
        return f"z9hG4bK{self._random_octets(10).hex()}"

    def _respond(
        self, request: Request, status: int, tag: str, extra: list[Header] | None = None, body: bytes = b""
    ) -> Response:
        headers = list(extra or ())
        if request.method == "INVITE" and status < 300:
            number = parse_uri(request.uri).user  # of the Contact we gave, once there is a dialog
            headers = [header("Record-Route", value) for value in request.lines("record-route")] + headers
            headers.append(header("Contact", self._contact(number)))
            headers.append(header("P-Asserted-Identity", f"<{self._identity(number)}>"))
        if charging := request.first("p-charging-vector"):
            headers.append(header("P-Charging-Vector", f'{charging};term-ioi="{self._settings.realm}"'))
        if body:
            headers.append(header("Content-Type", "application/sdp"))
        return response_to(request, status, reason=REASONS.get(status, ""), headers=headers, to_tag=tag, body=body)

    def _contact(self, number: str) -> str:
        tcp = ";transport=tcp" if self._settings.transport == "tcp" else ""
        return f"<sip:{number}@{bracketed(self._settings.address)}:{self._settings.port}{tcp}>"


def _repeat(call: Call, say: Say, now: float) -> None:
    call.repeated, call.interval = say, CORE_TIMERS.t1
    call.repeat_at, call.give_up_at = now + CORE_TIMERS.t1, now + CORE_TIMERS.timeout


def _stop(call: Call) -> None:
    call.repeated = None
    call.repeat_at = call.give_up_at = NEVER


def _tagged(value: str, tag: str) -> str:
    return value if parse_name_addr(value).param("tag") else f"{value};tag={tag}"


def _has_tag(request: Request, name: str, tag: str) -> bool:
    return tag in [value.lower() for value in request.values(name)]
