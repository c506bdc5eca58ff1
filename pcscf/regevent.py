"""The subscriptions of the P-CSCF to the registration state of its users (TS 24.229 5.2.3, RFC 3680, RFC 6665).

One for each private identity, from its first registration to its end: SUBSCRIBE to the home network, NOTIFY from it.
What documents say is `reginfo`'s, what it does to a registration is for whoever hears of the changes. A subscription
that fails changes nothing but is tried again: the service goes on without it.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from pcscf import reginfo
from pcscf.nexthop import NextHops
from pcscf.reginfo import Change, KnownState, Outcome, RegInfo, ReginfoError
from pcscf.routing import CoreSide
from pcscf.signalling import NO_ANSWER, Signalling
from pcscf.sip.fields import parse_name_addr
from pcscf.sip.message import Header, Request, Response, header, response_to
from pcscf.sip.parse import ParseError
from pcscf.sip.transaction import CORE_TIMERS, Transaction
from pcscf.sip.uri import Uri, parse_uri
from pcscf.subscription import ENDS_DIALOG, Dialog, Refusal, Standing, seconds, standing
from pcscf.turn import Turn
from pcscf.vocabulary import Flow

NOTIFY_WAIT = CORE_TIMERS.timeout
"""Seconds from the 2xx to SUBSCRIBE to the NOTIFY that must follow (timer N of RFC 6665 4.1.2.4)."""
LINGER = CORE_TIMERS.timeout
"""Seconds in which NOTIFYs of a subscription that has ended are still answered with 200."""
FIRST_RETRY = 60.0
LONGEST_RETRY = 3600.0
MARGIN = 600.0
"""Seconds before its end at which a long subscription is refreshed (TS 24.229 5.2.3)."""
SHORTEST_REFRESH = 30.0
"""Seconds: a core that grants next to nothing does not get a SUBSCRIBE a second."""
LONGEST_EXPIRES = 1 << 31

LASTING = frozenset({403, 404, 405, 489, 501, 604})
"""Failures that a minute does not mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegEventSettings:
    """What the operator decided about subscriptions."""

    core: CoreSide
    enabled: bool = True
    expires: int = 600_000
    """Seconds to ask for: more than a registration lasts."""
    limit: int = 100_000
    """Subscriptions at once."""


class Phase(Enum):
    ASKING = "a SUBSCRIBE is on its way"
    HELD = "accepted"
    RESTING = "to be tried again later"
    OVER = "not wanted any more"


@dataclass(slots=True, eq=False, kw_only=True)
class Subscription:
    """What one private identity is subscribed with."""

    impi: str
    impu: str
    path_uri: str
    dialog: Dialog
    asked_for: int
    """Seconds; a core may want more than we do."""
    phase: Phase = Phase.ASKING
    attempt: "Attempt | None" = None
    state: KnownState = field(default_factory=KnownState)
    failures: int = 0
    """Since its state was last complete."""
    due: float = math.inf
    """When to look at it: what is to be done then is in its phase."""
    alarm: float = math.inf


@dataclass(slots=True, eq=False)
class Attempt:
    """One SUBSCRIBE and the ways it has left."""

    subscription: Subscription
    ways: list[Flow] = field(default_factory=list)
    lengthened: bool = False
    """It has been sent again for longer, after a 423."""
    told: bool = False
    """A NOTIFY has said since how long the subscription lasts: that counts (RFC 6665 4.1.3)."""


class RegEvents:
    """Every subscription of one proxy. `changed(impi, change)` hears what a NOTIFY says."""

    def __init__(
        self,
        turn: Turn,
        signalling: Signalling,
        hops: NextHops,
        settings: RegEventSettings,
        changed: Callable[[str, Change], None],
    ) -> None:
        self._turn = turn
        self._signalling = signalling
        self._hops = hops
        self._settings = settings
        self._changed = changed
        self._by_impi: dict[str, Subscription] = {}
        self._by_dialog: dict[tuple[str, str], Subscription] = {}
        self._attempts: dict[Transaction[Flow], Attempt] = {}
        self._alarms: list[tuple[float, int, Subscription]] = []
        self._alarm_number = 0

    def __len__(self) -> int:
        return len(self._by_impi)

    # What the registrations say

    def registered(self, impi: str, default_impu: str, path_uri: str) -> None:
        """A REGISTER of this user was accepted: subscribe, if it is the first (digest C6).

        `default_impu`: the first value of P-Associated-URI, or its URI. `path_uri`: the URI we put into Path.
        """
        if not self._settings.enabled:
            return
        try:
            impu = parse_name_addr(default_impu).uri
            parse_uri(impu)
        except ParseError as error:
            self._turn.problem(f"no subscription to reg event: the default identity is unreadable: {error}", None, impi)
            return
        if subscription := self._by_impi.get(impi):
            subscription.impu, subscription.path_uri = impu, path_uri
            return
        if len(self._by_impi) >= self._settings.limit:
            self._turn.problem(f"no subscription to reg event: there are {len(self._by_impi)} already", None, impi)
            return
        subscription = Subscription(
            impi=impi, impu=impu, path_uri=path_uri, dialog=self._new_dialog(impu), asked_for=self._settings.expires
        )
        self._by_impi[impi] = subscription
        self._enter_dialog(subscription)
        self._ask(subscription)

    def deregistered(self, impi: str) -> None:
        """Nothing of this user is registered any more: the core ends the subscription, and so do we (digest C5)."""
        if subscription := self._by_impi.pop(impi, None):
            subscription.attempt = None
            self._turn_to(subscription, Phase.OVER, self._turn.now + LINGER)

    # SUBSCRIBE

    def _new_dialog(self, impu: str) -> Dialog:
        now = self._turn.now
        return Dialog(
            call_id=self._turn.token(16), own_tag=self._turn.token(8), remote_uri=impu, began=now, expires=now
        )

    def _enter_dialog(self, subscription: Subscription) -> None:
        self._by_dialog[subscription.dialog.call_id, subscription.dialog.own_tag] = subscription

    def _end_dialog(self, subscription: Subscription) -> None:
        dialog = subscription.dialog
        dialog.expires = self._turn.now
        self._by_dialog.pop((dialog.call_id, dialog.own_tag), None)

    def _ask(self, subscription: Subscription) -> None:
        """Send a SUBSCRIBE: in the dialog while there is one, else a new one to the home network."""
        dialog = subscription.dialog
        if dialog.cseq and not dialog.lives(self._turn.now):
            self._end_dialog(subscription)
            dialog = subscription.dialog = self._new_dialog(subscription.impu)
            subscription.state.restart()
            self._enter_dialog(subscription)
        attempt = subscription.attempt = Attempt(subscription)
        self._turn_to(subscription, Phase.ASKING, math.inf)

        def found(ways: list[Flow]) -> None:
            if subscription.attempt is attempt:
                attempt.ways = list(ways)
                self._try_next(attempt, "there is no way to the core")

        if dialog.remote_tag and (dialog.route_set or dialog.target):
            self._hops.to_uri((*dialog.route_set, dialog.target)[0], found)
        else:
            self._hops.to_home(found)

    def _try_next(self, attempt: Attempt, why: str, *, after: float = 0.0) -> None:
        """Send on the next way. `why` there is none left, if so, and the seconds the core wants to be left alone."""
        if not attempt.ways:
            self._later(attempt.subscription, why, after=after)
            return
        flow = attempt.ways.pop(0)
        self._attempts[self._signalling.request(self._subscribe(attempt.subscription, flow), flow, self)] = attempt

    def _subscribe(self, subscription: Subscription, flow: Flow) -> Request:
        """A SUBSCRIBE as it goes by `flow` (digest C6, F7).

        The core knows us by a URI that it stored with Path: the very one stands in P-Asserted-Identity.
        """
        core, dialog = self._settings.core, subscription.dialog
        dialog.cseq += 1  # also for another way: with the same number a server would see one request twice
        own = parse_uri(subscription.path_uri)
        transport = "" if flow.transport == "UDP" else f";transport={flow.transport.lower()}"
        tag = f";tag={dialog.remote_tag}" if dialog.remote_tag else ""
        branch = f"z9hG4bK{self._turn.token(8)}"
        headers = [
            header("Via", f"SIP/2.0/{flow.transport} {core.sent_by(flow)};branch={branch}"),
            header("Max-Forwards", "70"),
            *(header("Route", f"<{uri}>") for uri in dialog.route_set),
            header("From", f"<{Uri(scheme='sip', host=own.host, port=own.port)}>;tag={dialog.own_tag}"),
            header("To", f"<{dialog.remote_uri}>{tag}"),
            header("Call-ID", dialog.call_id),
            header("CSeq", f"{dialog.cseq} SUBSCRIBE"),
            header("Contact", f"<sip:{core.sent_by(flow)}{transport}>"),
            header("Event", "reg"),
            header("Accept", reginfo.CONTENT_TYPE),
            header("Expires", str(subscription.asked_for)),
            header("P-Asserted-Identity", f"<{subscription.path_uri}>"),
            core.charging_vector(self._turn.token(16), flow),
            header("Content-Length", "0"),
        ]
        return Request(method="SUBSCRIBE", uri=dialog.target or dialog.remote_uri, headers=tuple(headers))

    def answered(self, response: Response, transaction: Transaction[Flow]) -> None:
        """A response to a SUBSCRIBE."""
        if response.status < 200:
            return
        after = float(seconds(response.first("retry-after")) or 0)
        unavailable = response.status == 503
        if unavailable:
            self._hops.failed(transaction.flow, "it answered 503", rest=after)
        else:
            self._hops.answered(transaction.flow)
        attempt = self._attempts[transaction]
        subscription = attempt.subscription
        if subscription.attempt is not attempt:
            return
        if response.status < 300:
            self._accepted(attempt, response)
            return
        why = f"the core answered {response.status} {response.reason[:80]}"
        if unavailable:
            self._try_next(attempt, why, after=after)
            return
        if response.status == 423 and not attempt.lengthened:
            wanted = seconds(response.first("min-expires")) or 0
            if subscription.asked_for < wanted < LONGEST_EXPIRES:
                subscription.asked_for = wanted
                attempt.lengthened = True
                attempt.ways.insert(0, transaction.flow)
                self._try_next(attempt, why)
                return
        refreshing = subscription.dialog.lives(self._turn.now)
        if not refreshing or response.status in ENDS_DIALOG:
            self._end_dialog(subscription)
        if refreshing and response.status == 481:
            self._turn.problem(
                f"the subscription to reg event is lost, subscribing anew: {why}", None, subscription.impi
            )
            self._ask(subscription)
            return
        self._later(subscription, why, after=LONGEST_RETRY if response.status in LASTING else after)

    def unanswered(self, transaction: Transaction[Flow], why: str) -> None:
        """Nobody answered a SUBSCRIBE there: perhaps elsewhere."""
        self._hops.failed(transaction.flow, why)
        if (attempt := self._attempts.get(transaction)) and attempt.subscription.attempt is attempt:
            self._try_next(attempt, why if why != NO_ANSWER else f"{NO_ANSWER} from {transaction.flow}")

    def ended(self, transaction: Transaction[Flow]) -> None:
        self._attempts.pop(transaction, None)

    def _accepted(self, attempt: Attempt, response: Response) -> None:
        """A 2xx: the dialog is there, if the NOTIFY did not make it before."""
        subscription = attempt.subscription
        stated = seconds(response.first("expires"))
        granted = subscription.asked_for if stated is None else min(stated, subscription.asked_for)
        if not granted:
            self._end_dialog(subscription)
            self._later(subscription, "the core accepted for 0 seconds")
            return
        try:
            subscription.dialog.accept(response)
        except ParseError as error:
            self._turn.problem(f"the {response.status} to SUBSCRIBE is faulty: {error}", None, subscription.impi)
        if not attempt.told:
            subscription.dialog.expires = self._turn.now + granted
        subscription.attempt = None
        self._hold(subscription)

    def _hold(self, subscription: Subscription) -> None:
        """The core has accepted: wait for what it must tell, else for the time to refresh."""
        now = self._turn.now
        left = subscription.dialog.expires - now
        wait = left - MARGIN if left > 2 * MARGIN else max(left / 2, SHORTEST_REFRESH)
        if not subscription.state.complete:
            wait = min(wait, NOTIFY_WAIT)
        self._turn_to(subscription, Phase.HELD, now + wait)

    def _later(self, subscription: Subscription, why: str, *, after: float = 0.0) -> None:
        """It failed: the service goes on, and it is tried again (digest C6); `after`: no sooner than that."""
        subscription.attempt = None
        wait = max(min(FIRST_RETRY * 2 ** min(subscription.failures, 10), LONGEST_RETRY), min(after, LONGEST_RETRY))
        subscription.failures += 1
        self._turn_to(subscription, Phase.RESTING, self._turn.now + wait)
        self._turn.problem(
            f"no subscription to reg event of {subscription.impu}, again in {round(wait)} s: {why}",
            None,
            subscription.impi,
        )

    # NOTIFY

    def owns(self, message: Request | Response) -> bool:
        """Whether this is a NOTIFY of one of our dialogs; any other NOTIFY to ourselves deserves a 481."""
        return isinstance(message, Request) and message.method == "NOTIFY" and self._find(message) is not None

    def _find(self, request: Request) -> Subscription | None:
        try:
            to, sender = (parse_name_addr(request.first(name) or "") for name in ("to", "from"))
        except ParseError:
            return None
        subscription = self._by_dialog.get((request.first("call-id") or "", to.param("tag") or ""))
        remote_tag = sender.param("tag")
        if subscription is None or not remote_tag or not subscription.dialog.matches(remote_tag):
            return None
        return subscription

    def acknowledged(self, request: Request, flow: Flow) -> None:
        raise AssertionError("no ACK follows a NOTIFY")

    def arrived(self, request: Request, transaction: Transaction[Flow]) -> None:
        """A NOTIFY that we own, from the core: answer it and do what it says."""
        subscription = self._find(request)
        if subscription is None:
            self._reply(transaction, 481)
            return
        dialog = subscription.dialog
        if refusal := dialog.refusal(request, "reg", reginfo.CONTENT_TYPE):
            self._refuse(subscription, transaction, refusal)
            return
        try:
            document = reginfo.parse(request.body) if request.body else None
            dialog.notify(request)
        except (ReginfoError, ParseError) as error:
            self._refuse(subscription, transaction, Refusal(400, str(error)))
            return
        if not dialog.accepted and not dialog.lives(self._turn.now):
            dialog.expires = self._turn.now + subscription.asked_for  # until the 2xx says it
        self._reply(transaction, 200)
        if document is not None:
            self._take(subscription, document)
        if self._by_impi.get(subscription.impi) is subscription:
            self._stands(subscription, standing(request))

    def _reply(
        self, transaction: Transaction[Flow], status: int, reason: str = "", headers: Sequence[Header] = ()
    ) -> None:
        request = transaction.request
        flow = self._signalling.reply_flow(request, transaction.flow)
        self._signalling.reply(transaction, flow, response_to(request, status, reason=reason, headers=headers))

    def _refuse(self, subscription: Subscription, transaction: Transaction[Flow], refusal: Refusal) -> None:
        self._turn.problem(f"NOTIFY refused with {refusal.status}: {refusal.why}", transaction.flow, subscription.impi)
        words = "".join(each if " " <= each <= "~" else "?" for each in refusal.why[:200])
        self._reply(transaction, refusal.status, words, refusal.headers)

    def _take(self, subscription: Subscription, document: RegInfo) -> None:
        outcome, changes = subscription.state.take(document)
        if outcome is Outcome.OLD:
            self._turn.problem(
                f"a reg event document of version {document.version} after version {subscription.state.version}; "
                "nothing taken from it",
                None,
                subscription.impi,
            )
        for change in changes:
            if self._by_impi.get(subscription.impi) is subscription:  # the change before may have been the end of it
                self._changed(subscription.impi, change)

    def _stands(self, subscription: Subscription, said: Standing) -> None:
        """What a NOTIFY means for the subscription itself: its end, its time, a refresh for what is missing."""
        if said.state == "terminated":
            self._terminated(subscription, said)
            return
        if said.expires is not None:
            subscription.dialog.expires = self._turn.now + min(said.expires, subscription.asked_for)
            if subscription.attempt is not None:
                subscription.attempt.told = True
        if subscription.state.complete:
            subscription.failures = 0
            if subscription.phase is not Phase.ASKING:
                self._hold(subscription)
        elif subscription.phase is Phase.HELD and subscription.state.version is not None:
            why = f"a document before version {subscription.state.version} is missing"
            if subscription.failures:
                self._later(subscription, why)
                return
            subscription.failures = 1
            self._turn.problem(f"reg event of {subscription.impu}: {why}; asking for all", None, subscription.impi)
            self._ask(subscription)

    def _terminated(self, subscription: Subscription, said: Standing) -> None:
        """The core ended the subscription though the user is registered (RFC 6665 4.1.3)."""
        began = subscription.dialog.began
        self._end_dialog(subscription)
        why = f"the core ended it: {said.reason[:40] or 'no reason given'}"
        if said.reason in ("deactivated", "timeout") and self._turn.now - began >= FIRST_RETRY:
            self._turn.problem(f"subscribing to reg event of {subscription.impu} anew: {why}", None, subscription.impi)
            self._ask(subscription)
            return
        lasting = said.reason in ("rejected", "noresource", "invariant")
        self._later(subscription, why, after=LONGEST_RETRY if lasting else float(said.retry_after or 0))

    # Time

    @property
    def deadline(self) -> float | None:
        return self._alarms[0][0] if self._alarms else None

    def expire(self) -> None:
        """Do what is due."""
        while self._alarms and self._alarms[0][0] <= self._turn.now:
            at, _, subscription = heapq.heappop(self._alarms)
            if at != subscription.alarm:
                continue  # an earlier alarm took its place
            subscription.alarm = math.inf
            done = self._turn.attempt(self._do_what_is_due, subscription)
            if not done and subscription.phase is not Phase.OVER:
                self._turn.attempt(self._later, subscription, "a bug")

    def _do_what_is_due(self, subscription: Subscription) -> None:
        if subscription.due > self._turn.now:
            self._watch(subscription)
        elif subscription.phase is Phase.OVER:
            self._end_dialog(subscription)
        elif subscription.phase is Phase.HELD and not subscription.state.complete:
            self._later(subscription, f"no NOTIFY told the whole state within {NOTIFY_WAIT:.0f} s")
        else:
            self._ask(subscription)

    def _turn_to(self, subscription: Subscription, phase: Phase, due: float) -> None:
        subscription.phase, subscription.due = phase, due
        self._watch(subscription)

    def _watch(self, subscription: Subscription) -> None:
        if subscription.due >= subscription.alarm:
            return
        subscription.alarm = subscription.due
        self._alarm_number += 1
        heapq.heappush(self._alarms, (subscription.due, self._alarm_number, subscription))
        if len(self._alarms) > 64 + 4 * len(self._by_dialog):  # replaced alarms lie days ahead
            self._alarms = [each for each in self._alarms if each[0] == each[2].alarm]
            heapq.heapify(self._alarms)
