"""The core of the lab on sockets: I-CSCF, S-CSCF and HSS in one process, on UDP and TCP of one address and port.

What a REGISTER is answered is `registrar`, the way of other requests `serving`, the reg event package `notifier`,
the far side `answering`; here all of it is received, delayed and sent.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from pcscf.lab.answering import NUMBERS, Act, Answering, Say
from pcscf.lab.bindings import ContactEvent, Refusal
from pcscf.lab.challenge import CoreFault, Manners
from pcscf.lab.control import ControlError
from pcscf.lab.endpoint import Endpoint, Listener, Seen, reply_flow
from pcscf.lab.hops import Forward, passed_back, sender_of, stamped
from pcscf.lab.hss import Hss
from pcscf.lab.notifier import Notifier, Notify
from pcscf.lab.registrar import Registrar, RegistrarSettings, Reply
from pcscf.lab.serving import Here, Place, Serving
from pcscf.lab.subscribers import Subscriber
from pcscf.lab.unreliable import AT_ONCE, Unreliable
from pcscf.sip.fields import parse_name_addr, top_via
from pcscf.sip.message import Request, Response, response_to
from pcscf.sip.parse import ParseError
from pcscf.sip.transaction import CORE_TIMERS, Transaction
from pcscf.vocabulary import Flow, Interface

REMEMBERED_DROPS = 1000


class Scscf:
    """The simulated core. What it does wrong, and what happens in it, is told by the methods under Commands."""

    def __init__(
        self,
        settings: RegistrarSettings,
        subscribers: Mapping[str, Subscriber],
        *,
        on_seen: Callable[[Seen], None] = lambda seen: None,
        random_octets: Callable[[int], bytes] = os.urandom,
        unreliable: Unreliable | None = None,
    ) -> None:
        self.settings = settings
        self._hss = Hss(subscribers, random_octets)
        self.registrar = Registrar(settings, self._hss, random_octets)
        self.notifier = Notifier(settings, self._hss, self.registrar, random_octets)
        self.answering = Answering(settings, random_octets)
        self._serving = Serving(settings, self._hss, self.registrar)
        self._random_octets = random_octets
        self._unreliable = unreliable
        self._endpoint = Endpoint(
            self._requested,
            timers=CORE_TIMERS,
            on_seen=on_seen,
            admit=self._ends_here,
            on_ack=self._acknowledged,
            delays=self._delays,
        )
        self._late: set[asyncio.TimerHandle] = set()
        self._dropped: OrderedDict[tuple[object, ...], None] = OrderedDict()
        self._alarm: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Listen. Raises OSError."""
        transport = self._endpoint.transport
        try:
            await transport.listen_udp(self.settings.address, self.settings.port, Interface.MW)
            await transport.listen_tcp(self.settings.address, self.settings.port, Interface.MW)
        except OSError:
            await transport.close()
            raise

    async def close(self) -> None:
        for handle in self._late:
            handle.cancel()
        self._late.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        await self._endpoint.close()

    # Commands. Each raises ControlError for an IMPI that is nobody's.

    def deregister(self, impi: str, event: ContactEvent = ContactEvent.DEACTIVATED) -> None:
        """Take a registration away (TS 24.229 5.4.1.5): every watcher is told. Raises ControlError: there is none."""
        self._known(impi)
        self.registrar.expire(_now())
        if not self.registrar.deregister(impi, event):
            raise ControlError(f"{impi} is not registered")
        self._tell_watchers()

    def shorten(self, impi: str, seconds: float) -> None:
        """Want a re-authentication before some seconds are over (TS 24.229 5.4.1.6). Raises ControlError."""
        self._known(impi)
        self.registrar.expire(_now())
        if not self.registrar.shorten(impi, seconds, _now()):
            raise ControlError(f"{impi} is not registered for longer than {seconds:g} s")
        self._tell_watchers()

    def rechallenge(self, impi: str) -> None:
        """Challenge the next REGISTER of this user, whatever `reauth` says."""
        self._known(impi)
        self.registrar.rechallenge(impi)

    def fault(self, impi: str, *faults: CoreFault) -> None:
        """From now on do these things wrong for a user; none of them puts everything right."""
        self._known(impi)
        self.registrar.set_faults(impi, faults)

    def hang_up(self, number: str) -> int:
        """Say BYE in every answered call of an answering number; gives how many."""
        if number not in NUMBERS:
            raise ControlError(f"{number!r} is none of {', '.join(NUMBERS)}")
        acts = self.answering.hang_up(number)
        self._carry_out(acts)
        return len(acts)

    def registered(self) -> list[dict[str, object]]:
        """The contacts registered now: impi, contact, path, seconds."""
        now = _now()
        return [
            {
                "impi": owner.impi,
                "contact": each.contact,
                "path": list(each.path),
                "seconds": round(each.expires_at - now),
            }
            for owner, each in self.registrar.registered(now)
        ]

    def _known(self, impi: str) -> None:
        if self._hss.find(impi) is None:
            raise ControlError(f"no subscriber {impi}")

    # Messages

    def _ends_here(self, message: Request | Response, flow: Flow) -> bool:
        """Pass on what goes further; whether the rest of it is for our transactions."""
        try:
            if isinstance(message, Response):
                back = passed_back(message, self.settings)
                if back is not None:
                    response, way = back
                    if way.transport == "TCP" and not self._endpoint.transport.is_open(way):
                        way = sender_of(response, self.settings)  # RFC 3261 18.2.2: its connection is gone
                    self._endpoint.transmit(response, way)
                return back is None
            if message.method == "REGISTER":
                return True
            request = stamped(message, flow)
            decision = self._serving.decide(request, reply_flow(message, flow), _now())
        except (Refusal, ParseError):
            return isinstance(message, Request)
        if isinstance(decision, Here):
            return True
        self._endpoint.transmit(*decision)
        return False

    def _requested(self, request: Request, transaction: Transaction[Flow]) -> None:
        try:
            flow = reply_flow(request, transaction.flow)
        except ParseError:
            return  # nowhere to send an answer
        if request.method == "REGISTER":
            self._register(request, transaction, flow)
            return
        try:
            self._serve(stamped(request, transaction.flow), transaction, flow)
        except Refusal as refusal:
            self._refuse(request, transaction, flow, refusal.status, str(refusal), refusal)
        except ParseError as error:
            self._refuse(request, transaction, flow, error.status, str(error))

    def _refuse(
        self,
        request: Request,
        transaction: Transaction[Flow],
        flow: Flow,
        status: int,
        why: str,
        refusal: Refusal | None = None,
    ) -> None:
        reason = "".join(each if " " <= each <= "~" else "?" for each in why)
        headers = refusal.headers if refusal else ()
        answer = response_to(request, status, reason=reason, headers=headers, to_tag=self._random_octets(4).hex())
        self._endpoint.respond(transaction, answer, flow)

    def _serve(self, request: Request, transaction: Transaction[Flow], flow: Flow) -> None:
        """A request that ends here. Raises Refusal and ParseError."""
        now = _now()
        decision = self._serving.decide(request, flow, now)
        if isinstance(decision, Forward):  # what is decided twice in one moment is decided alike
            raise AssertionError(f"{request.start_line} was to go on")
        if decision.place is Place.OURSELVES:
            self._endpoint.respond(transaction, response_to(request, 200, to_tag=self._random_octets(4).hex()), flow)
        elif decision.place is Place.NUMBER:
            self._carry_out(self.answering.requested(request, decision.identity, transaction, now))
        elif decision.place is Place.REG_EVENT or request.method == "SUBSCRIBE":
            new = decision.place is Place.REG_EVENT
            subscribe = self.notifier.subscribe if new else self.notifier.subscribe_again
            response, notifies = subscribe(request, now)
            self._endpoint.respond(transaction, response, flow)
            self._notify(notifies)
        else:
            self._carry_out(self.answering.in_dialog(request, transaction, now))
        self._set_alarm()

    def _acknowledged(self, request: Request, flow: Flow) -> None:
        with suppress(ParseError):  # there is no answer to an ACK
            self.answering.acknowledged(request)

    def _register(self, request: Request, transaction: Transaction[Flow], flow: Flow) -> None:
        if self.settings.manners is Manners.KAMAILIO:
            self._endpoint.respond(transaction, response_to(request, 100), flow)
        reply = self.registrar.register(request, _now())
        if reply is None:
            return
        if reply.delay:
            self._respond_late(transaction, reply, flow)
        else:
            self._endpoint.respond(transaction, reply.response, flow)
        self._tell_watchers()

    def _respond_late(self, transaction: Transaction[Flow], reply: Reply, flow: Flow) -> None:
        def respond() -> None:
            self._late.discard(handle)
            self._endpoint.respond(transaction, reply.response, flow)

        handle = asyncio.get_running_loop().call_later(reply.delay, respond)
        self._late.add(handle)

    def _carry_out(self, acts: list[Act]) -> None:
        for act in acts:
            if isinstance(act, Say):
                assert isinstance(act.key, Transaction)
                self._endpoint.respond(act.key, act.response, reply_flow(act.key.request, act.key.flow))
                continue
            request, flow = act.request, act.flow
            if flow is None:
                try:
                    request, flow = self._serving.terminate(request, act.identity, _now())
                except (Refusal, ParseError):
                    continue  # whom it is for has gone
            self._ask(request, flow, lambda status: None)

    def _notify(self, notifies: list[Notify]) -> None:
        for notify in notifies:
            self._ask(notify.request, notify.flow, partial(self._notified, notify))

    def _notified(self, notify: Notify, status: int | None) -> None:
        self.notifier.answered(notify, status)
        self._set_alarm()

    def _ask(self, request: Request, flow: Flow, answered: Callable[[int | None], None]) -> None:
        """Send a request of our own; `answered` hears the final status, or None."""

        def on_response(response: Response) -> None:
            if response.status >= 200:
                answered(response.status)

        self._endpoint.begin(request, flow, Listener(on_response=on_response, on_failure=lambda why: answered(None)))

    # Time and accidents

    def _tell_watchers(self) -> None:
        self._notify(self.notifier.changed(self.registrar.take_changes(), _now()))
        self._set_alarm()

    def _set_alarm(self) -> None:
        deadlines = (self.registrar.deadline, self.notifier.deadline, self.answering.deadline)
        deadline = min((each for each in deadlines if each is not None), default=None)
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None if deadline is None else asyncio.get_running_loop().call_at(deadline, self._expire)

    def _expire(self) -> None:
        now = _now()
        self._alarm = None
        self.registrar.expire(now)
        self._notify(self.notifier.expire(now))
        self._carry_out(self.answering.expire(now))
        self._tell_watchers()

    def _delays(self, message: Request | Response, flow: Flow, again: bool) -> tuple[float, ...]:
        """What becomes of something on its way out: answers have accidents, requests have none."""
        if isinstance(message, Request):
            return AT_ONCE
        faults = self._faults_of(message)
        if CoreFault.DROP_RESPONSE in faults and self._is_first_copy(message):
            return ()
        if CoreFault.DUPLICATE_RESPONSE in faults:
            return (0.0, 0.0)
        if self._unreliable is None:
            return AT_ONCE
        return self._unreliable.delays(reliable=flow.transport == "TCP")

    def _is_first_copy(self, response: Response) -> bool:
        """Whether this response was never dropped. A stateless proxy sees one again without knowing it."""
        name = (top_via(response), response.first("cseq"), response.status)
        if name in self._dropped:
            return False
        self._dropped[name] = None
        if len(self._dropped) > REMEMBERED_DROPS:
            self._dropped.popitem(last=False)
        return True

    def _faults_of(self, response: Response) -> frozenset[CoreFault]:
        """The faults for whom a response goes to: the user in From."""
        if not any(self.registrar.faults.values()):
            return frozenset()
        try:
            uri = parse_name_addr(response.first("from") or "").uri
        except ParseError:
            return frozenset()
        owner = self._hss.find(uri.partition(":")[2]) or self._hss.owner(uri)
        return self.registrar.faults.get(owner.impi, frozenset()) if owner else frozenset()


def _now() -> float:
    return asyncio.get_running_loop().time()
