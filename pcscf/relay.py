"""Every request but REGISTER between arrival and final answer, in both directions (RFC 3261 16, TS 24.229 5.2.6).

What a request must show and becomes is `originating` and `terminating`; here it gets its transactions: forwarding,
responses back, CANCEL, ACK, timer C, the next way when one is dead, and the dialogs that come of it.
"""

import heapq
import math
from collections import Counter
from dataclasses import dataclass, field

from pcscf.dialog import MOST_FORKS, MOST_OF_ONE, Dialog, DialogKey, Dialogs, Usage
from pcscf.nexthop import NextHops
from pcscf.originating import Originating
from pcscf.passage import DIALOG_FORMING, Plan, Refusal, tag_of
from pcscf.registrar import Registrar
from pcscf.registration import Registration, SaSet
from pcscf.routing import option_tags
from pcscf.signalling import NO_ANSWER, NOBODY, Signalling
from pcscf.sip.message import Request, Response, header, response_to
from pcscf.sip.parse import ParseError
from pcscf.sip.transaction import SPARE_ALARMS, State, Transaction, cancel_of
from pcscf.subscription import seconds
from pcscf.terminating import Terminating
from pcscf.turn import Turn
from pcscf.vocabulary import Flow, Interface

TIMER_C = 190.0
"""Seconds without a provisional response after which an INVITE is given up (RFC 3261 16.6 step 11: above 3 minutes)."""
REFER_LASTS = 300.0
"""Seconds an implicit subscription of REFER may last where nobody says (RFC 3515 2.4.4)."""
DEFAULT_SUBSCRIPTION = 3600
GUEST_CALL = 6 * 3600
"""Seconds an emergency call of a UE that is not registered may last where no session timer says."""
SESSION_GRACE = 32.0
"""Seconds a session may overrun its interval before it is forgotten (RFC 4028 10)."""

SHORTEST_SESSION = 90
"""Min-SE: the shortest interval a session timer may have, whatever a peer writes (RFC 4028 5)."""
ENDED_BY_481 = {
    "INVITE": Usage.CALL,
    "UPDATE": Usage.CALL,
    "INFO": Usage.CALL,
    "BYE": Usage.CALL,
    "SUBSCRIBE": Usage.SUBSCRIPTION,
    "NOTIFY": Usage.SUBSCRIPTION,
}
"""What 481 to a request of this method ends, and nothing else (RFC 5057 5.1).

Of a far end that answers a UE so within a call only 481 to BYE counts: it is what the UE sends next (RFC 3261
12.2.1.2), and it must go on.

Not PRACK: there it says that the provisional response is unknown (RFC 3262 3). Not REFER, MESSAGE, OPTIONS: they are of
no usage that there is (RFC 5057 5.3).
"""


@dataclass(slots=True, eq=False)
class Passage:
    """One request on its way through us, and its responses on theirs back. The user of its client transactions."""

    relay: "Relay"
    request: Request
    server: Transaction[Flow]
    plan: Plan
    ways: list[Flow] = field(default_factory=list)
    """Where it has not been sent yet."""
    client: Transaction[Flow] | None = None
    progressed: bool = False
    """A provisional response came: it may be cancelled, and takes no other way any more."""
    cancelled: bool = False
    gave_up: bool = False
    """Timer C has fired, or it was cancelled: it has 64*T1 left."""
    answered_finally: bool = False
    alarm: float = math.inf
    made: list[Dialog] = field(default_factory=list)
    """Dialogs that its responses made."""

    @property
    def originating(self) -> bool:
        return self.server.flow.interface is not Interface.MW

    @property
    def is_guest(self) -> bool:
        """Whether it is one of a UE that is not registered, and makes an emergency request."""
        return not self.plan.registration.key.impi

    def answered(self, response: Response, transaction: Transaction[Flow]) -> None:
        if transaction is self.client:
            self.relay.answered(self, response)

    def unanswered(self, transaction: Transaction[Flow], why: str) -> None:
        if transaction is self.client:
            self.relay.unanswered(self, why)

    def ended(self, transaction: Transaction[Flow]) -> None:
        pass


class Relay:
    """All passages of one proxy."""

    def __init__(
        self,
        turn: Turn,
        registrar: Registrar,
        signalling: Signalling,
        hops: NextHops,
        dialogs: Dialogs,
        originating: Originating,
        terminating: Terminating,
    ) -> None:
        self._turn = turn
        self._registrar = registrar
        self._signalling = signalling
        self._hops = hops
        self.dialogs = dialogs
        self._originating = originating
        self._terminating = terminating
        self._passages: dict[Transaction[Flow], Passage] = {}
        self._busy_guests: Counter[Registration] = Counter()
        """UEs that are not registered, by their passages."""
        self._lingering: dict[Transaction[Flow], Registration] = {}
        self._alarms: list[tuple[float, int, Passage]] = []
        self._alarm_number = 0

    def __len__(self) -> int:
        return len(self._passages) + len(self._lingering)

    # Requests

    def arrived(self, request: Request, transaction: Transaction[Flow]) -> None:
        """A new request from a UE or from the core: refuse it, answer it, or send it on."""
        flow = transaction.flow
        try:
            if request.method == "CANCEL":
                self._cancel(request, transaction)
                return
            passage = Passage(self, request, transaction, self._plan(request, flow))
        except Refusal as refusal:
            self._refuse(request, transaction, refusal)
            return
        except ParseError as error:
            self._refuse(request, transaction, Refusal(error.status, str(error)))
            return
        self._passages[transaction] = passage
        if passage.is_guest:
            self._busy_guests[passage.plan.registration] += 1
        if request.method == "INVITE":
            self._reply(passage, response_to(request, 100))

        def forward(ways: list[Flow]) -> None:
            passage.ways = ways
            self._forward(passage, 503, "there is no way to the next hop")

        passage.plan.ways(forward)

    def acknowledged(self, request: Request, flow: Flow) -> None:
        """An ACK to a 2xx: it goes on in its dialog, without a transaction and without an answer."""
        try:
            plan = self._plan(request, flow)
        except (Refusal, ParseError) as error:
            self._turn.problem(f"an ACK goes nowhere: {error}", flow)
            return
        if plan.dialog is None and flow.interface is not Interface.MW:
            return  # to a failed INVITE whose transaction is over

        def forward(ways: list[Flow]) -> None:
            if ways:
                self._signalling.send_once(plan.build(ways[0], self._branch()), ways[0])

        plan.ways(forward)

    def ended(self, transaction: Transaction[Flow]) -> None:
        """The server transaction is over, and with it the passage and the early dialogs that came to nothing."""
        registration = self._lingering.pop(transaction, None)
        if registration is None:
            passage = self._passages.pop(transaction, None)
            if passage is None:
                registration = self._registrar.in_clear(transaction.flow)  # a guest who was refused
                if registration is None:
                    return
            else:
                if passage.is_guest:
                    self._leave(passage.plan.registration)
                for dialog in passage.made:
                    if dialog.early:
                        self.dialogs.close(dialog)
                registration = passage.plan.registration
        self._release(registration)

    def release(self, flow: Flow) -> None:
        """Forget the guest who talks from there, if nothing came of what it sent."""
        if (guest := self._registrar.in_clear(flow)) is not None:
            self._release(guest)

    def _release(self, registration: Registration) -> None:
        if not self.dialogs.count(registration) and registration not in self._busy_guests:
            self._registrar.forget_if_idle(registration)

    def _leave(self, guest: Registration) -> None:
        """It has one passage less."""
        self._busy_guests[guest] -= 1
        if not self._busy_guests[guest]:
            del self._busy_guests[guest]

    def _settle(self, passage: Passage) -> None:
        """It has its final answer: but for an INVITE, only whose it was is kept as long as its transaction lingers."""
        if passage.request.method != "INVITE" and self._passages.pop(passage.server, None) is not None:
            if passage.is_guest:
                self._leave(passage.plan.registration)
            self._lingering[passage.server] = passage.plan.registration
            if passage.client is not None:
                self._signalling.disown(passage.client)

    def _plan(self, request: Request, flow: Flow) -> Plan:
        """Raises Refusal or ParseError."""
        if flow.interface is Interface.MW:
            return self._terminating.plan(request, flow)
        sa_set = self._signalling.sa_set_of(flow)
        registration = self._owner(flow, sa_set)
        if registration is None:
            raise Refusal(403, "no registration of this UE")
        return self._originating.plan(request, flow, registration, sa_set)

    def _owner(self, flow: Flow, sa_set: SaSet | None) -> Registration | None:
        return self._registrar.in_clear(flow) if sa_set is None else sa_set.registration

    def _forward(self, passage: Passage, status: int, why: str) -> None:
        """Send it on the next way; if none is left, answer with `status` (RFC 3261 16.6, RFC 3263 4.3)."""
        if passage.answered_finally:
            return
        if not passage.ways:
            self._give_up(passage, status, why)
            return
        way = passage.ways.pop(0)
        passage.client = self._signalling.request(passage.plan.build(way, self._branch()), way, passage)
        if passage.request.method == "INVITE":
            self._watch(passage, self._turn.now + TIMER_C)

    def _branch(self) -> str:
        return f"z9hG4bK{self._turn.token(8)}"

    # Responses

    def answered(self, passage: Passage, response: Response) -> None:
        """A response of the next hop."""
        if passage.originating and passage.client is not None:
            if response.status == 503:
                rest = seconds(response.first("retry-after")) or 0
                self._hops.failed(passage.client.flow, "it answered 503", rest=rest)
                if passage.ways:
                    self._forward(passage, 503, "")
                    return
            else:
                self._hops.answered(passage.client.flow)
        if response.status < 200:
            passage.progressed = True
            if passage.request.method == "INVITE" and not passage.gave_up:
                self._watch(passage, self._turn.now + TIMER_C)
            if passage.cancelled:
                self._send_cancel(passage)
            if response.status == 100:
                return
        try:
            back = passage.plan.back(response)
            if not self._note_dialog(passage, response):
                return
        except ParseError as error:
            if response.status >= 200:
                self._give_up(passage, 502, f"the {response.status} cannot be used: {error}")
            return
        if response.status >= 200:
            passage.answered_finally = True
            passage.alarm = math.inf
        self._reply(passage, back)
        if passage.answered_finally:
            self._settle(passage)

    def unanswered(self, passage: Passage, why: str) -> None:
        """The next hop said nothing, or cannot be reached: the next way, if it makes sense."""
        assert passage.client is not None
        if passage.originating and (why is not NO_ANSWER or passage.request.method == "INVITE"):
            # Only an INVITE is answered hop by hop: silence after another request may be that of the UE it went to.
            self._hops.failed(passage.client.flow, why)
        if why is NO_ANSWER and (passage.progressed or not passage.originating):
            passage.ways.clear()  # whoever is there has had its time
        self._forward(passage, 408 if why is NO_ANSWER else 503, f"{passage.request.method}: {why}")

    def _reply(self, passage: Passage, response: Response) -> None:
        flow = passage.server.flow
        registration = passage.plan.registration if passage.originating else None
        try:
            way = self._signalling.reply_flow(passage.request, flow, registration)
        except ParseError:
            return  # it had a readable Via when it came
        self._signalling.reply(passage.server, way, response)

    def _give_up(self, passage: Passage, status: int, why: str) -> None:
        self._turn.problem(f"{status}: {why}", passage.server.flow, passage.plan.registration.key.impi)
        if status == 408 and passage.request.method == "BYE" and passage.plan.dialog is not None:
            self.dialogs.end(passage.plan.dialog, Usage.CALL)
        passage.answered_finally = True
        passage.alarm = math.inf
        extra = [header("Retry-After", "10")] if status == 503 else []
        tag = self._turn.own_tag(passage.request)
        self._reply(passage, response_to(passage.request, status, headers=extra, to_tag=tag))
        self._settle(passage)

    def _refuse(self, request: Request, transaction: Transaction[Flow], refusal: Refusal) -> None:
        flow = transaction.flow
        sa_set = self._signalling.sa_set_of(flow)
        if refusal.status >= 300:
            impi = "" if sa_set is None else sa_set.registration.key.impi
            self._turn.problem(f"{request.method} refused with {refusal.status}: {refusal}", flow, impi)
        response = response_to(
            request, refusal.status, headers=refusal.headers, to_tag=self._turn.own_tag(request), body=refusal.body
        )
        try:
            way = self._signalling.reply_flow(request, flow, None if sa_set is None else sa_set.registration)
        except ParseError:
            return  # nowhere to answer
        if response.status >= 300:
            self._signalling.refuse(transaction, way, response)
        else:
            self._signalling.reply(transaction, way, response)

    # CANCEL and timer C

    def _cancel(self, request: Request, transaction: Transaction[Flow]) -> None:
        """200 to the CANCEL, and one of our own to the next hop (RFC 3261 16.10). Raises Refusal or ParseError."""
        invite = self._signalling.invite_of(request, transaction.flow)
        passage = self._passages.get(invite) if invite is not None else None
        if passage is None:
            raise Refusal(481, "CANCEL of nothing that is under way")
        response = response_to(request, 200, to_tag=self._turn.own_tag(request))
        way = self._signalling.reply_flow(request, transaction.flow, passage.plan.registration)
        self._signalling.reply(transaction, way, response)
        if passage.answered_finally or passage.cancelled:
            return
        passage.cancelled = True
        if passage.client is None:
            self._give_up(passage, 487, "cancelled before it was sent")
        elif passage.progressed:
            self._send_cancel(passage)

    def _send_cancel(self, passage: Passage) -> None:
        """Once; the final answer should then come within 64*T1 (RFC 3261 9.1)."""
        client = passage.client
        assert client is not None
        if client.state is not State.PROCEEDING or passage.gave_up:
            return
        passage.gave_up = True
        self._watch(passage, self._turn.now + self._signalling.timers(client.flow).timeout, sooner=True)
        self._signalling.request(cancel_of(client.request), client.flow, NOBODY)

    def _watch(self, passage: Passage, at: float, *, sooner: bool = False) -> None:
        begun, passage.alarm = passage.alarm != math.inf, at
        if begun and not sooner:
            return  # the alarm there is will see that it was given more time
        self._alarm_number += 1
        heapq.heappush(self._alarms, (at, self._alarm_number, passage))
        if len(self._alarms) > SPARE_ALARMS + 2 * len(self._passages):
            self._alarms[:] = [each for each in self._alarms if each[2].alarm != math.inf]
            heapq.heapify(self._alarms)

    @property
    def deadline(self) -> float | None:
        ours, theirs = self._alarms[0][0] if self._alarms else math.inf, self.dialogs.deadline
        first = ours if theirs is None else min(ours, theirs)
        return None if first == math.inf else first

    def expire(self) -> None:
        """Give up the INVITEs nobody answers, and forget dialogs nobody refreshes."""
        now = self._turn.now
        for registration in self.dialogs.expire(now):
            self._release(registration)
        while self._alarms and self._alarms[0][0] <= now:
            _, _, passage = heapq.heappop(self._alarms)
            if passage.alarm == math.inf or passage.answered_finally:
                continue
            if passage.alarm > now:
                self._alarm_number += 1
                heapq.heappush(self._alarms, (passage.alarm, self._alarm_number, passage))
                continue
            passage.alarm = math.inf
            if passage.client is not None:
                self._turn.attempt(self._time_out, passage, passage.client)

    def _time_out(self, passage: Passage, client: Transaction[Flow]) -> None:
        if not passage.gave_up:
            self._send_cancel(passage)
        else:
            self._signalling.abandon(client)
            status = 487 if passage.cancelled else 408
            self._give_up(passage, status, "no final answer to the INVITE")

    # Dialogs

    def _note_dialog(self, passage: Passage, response: Response) -> bool:
        """Open, keep or end the dialog a response is about (RFC 3261 12.1, RFC 6665 4.4.1, RFC 3515).

        False: it would make one too many, and goes no further.
        """
        request, method = passage.request, passage.request.method
        dialog = passage.plan.dialog
        success = 200 <= response.status < 300
        if dialog is not None and response.status == 481 and (over := _ended_by_481(passage)) is not None:
            self.dialogs.end(dialog, over)
        elif method in DIALOG_FORMING:
            tag = tag_of(response, "to")
            if not tag or response.status >= 300:
                return True
            if method != "INVITE" and not success:
                return True
            if dialog is None:
                dialog = self._open(passage, response, tag)
            if dialog is None:
                return False
            if dialog.registration is not passage.plan.registration:
                return True  # its names were chosen to be those of another UE's dialog
            usage = DIALOG_FORMING[method]
            if success and not dialog.registration.registered and dialog.registration.key.impi:
                self.dialogs.close(dialog)  # its contact has ended meanwhile, and its dialogs with it
            elif success:
                dialog.usages.add(usage)
                self.dialogs.confirm(dialog)
                self._keep(dialog, method, passage, response)
        elif dialog is None:
            return True
        elif method == "BYE" and (success or response.status == 408):
            self.dialogs.end(dialog, Usage.CALL)  # any other answer leaves the call as it was (RFC 3261 12.2.1.2)
        elif method == "NOTIFY" and response.status >= 200 and _is_last(request):
            self.dialogs.end(dialog, Usage.SUBSCRIPTION)
        elif method == "UPDATE" and success:
            self._keep(dialog, "INVITE", passage, response)
        return True

    def _open(self, passage: Passage, response: Response, tag: str) -> Dialog | None:
        """The dialog that a response makes; None if its contact, or its INVITE, has as many as it may.

        A 2xx gets through: to have its dialog, an early one of the same INVITE is let go.
        """
        request, plan = passage.request, passage.plan
        call_id, from_tag = request.first("call-id") or "", tag_of(request, "from")
        key = DialogKey(call_id, from_tag, tag) if passage.originating else DialogKey(call_id, tag, from_tag)
        known = self.dialogs.find(key)
        if known is not None:
            return known
        usage, forks = DIALOG_FORMING[request.method], passage.made
        if len(forks) >= MOST_FORKS:
            least = next((each for each in forks if each.early), None) if response.status >= 200 else None
            if least is None:
                self._drop(passage, response, f"{MOST_FORKS} answers with other tags came before")
                return None
            forks.remove(least)
            self.dialogs.close(least)
        elif (
            response.status < 200
            and not forks
            and not plan.emergency
            and self.dialogs.is_full(plan.registration, usage)
        ):
            self._drop(passage, response, f"the UE has {MOST_OF_ONE} {usage.value}s already")
            return None
        dialog = self.dialogs.open(
            key, plan.registration, plan.route_of(response), usage, emergency=plan.emergency, fork=bool(forks)
        )
        forks.append(dialog)
        return dialog

    def _drop(self, passage: Passage, response: Response, why: str) -> None:
        impi = passage.plan.registration.key.impi
        self._turn.problem(f"a {response.status} to {passage.request.method} is dropped: {why}", None, impi)

    def _keep(self, dialog: Dialog, method: str, passage: Passage, response: Response) -> None:
        """How long it lasts unless it is refreshed; a call without a session timer until BYE or its UE's end.

        A session timer counts only if our UE knows of it: it says so in its request, or it is its own answer. Else the
        far end could have us forget a call that the UE goes on with, and must be able to end.
        """
        now, request = self._turn.now, passage.request
        if method == "INVITE":
            interval = seconds(response.first("session-expires"))
            if passage.originating and "timer" not in option_tags(request.values("supported")):
                interval = None
            interval = max(interval, SHORTEST_SESSION) if interval else None
            if interval or not dialog.registration.registered:
                self.dialogs.keep(dialog, now + (interval or GUEST_CALL) + SESSION_GRACE)
            else:
                self.dialogs.keep_on(dialog)
        elif Usage.CALL not in dialog.usages:
            granted = seconds(response.first("expires"))
            if granted is None:
                asked = seconds(request.first("expires"))
                granted = DEFAULT_SUBSCRIPTION if asked is None else asked
            lasts = REFER_LASTS if method == "REFER" else granted + SESSION_GRACE
            self.dialogs.keep(dialog, now + lasts)


def _ended_by_481(passage: Passage) -> Usage | None:
    """The usage of its dialog that is over when the request is answered with 481."""
    method = passage.request.method
    usage = ENDED_BY_481.get(method)
    return None if usage is Usage.CALL and passage.originating and method != "BYE" else usage


def _is_last(notify: Request) -> bool:
    """Whether a NOTIFY ends its subscription (RFC 6665 4.1.3)."""
    return (notify.first("subscription-state") or "").strip().lower().startswith("terminated")
