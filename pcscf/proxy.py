"""The P-CSCF: events in, actions out. The one place that ties the procedures together.

`Proxy.handle` never raises on what a peer sends and never waits: the kernel's answer is an event that comes back.
No I/O, no clock, no randomness of its own. Who may talk at all is decided here (digest A6, TS 33.203 7.1).
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple, assert_never

from pcscf import repair
from pcscf.dialog import Dialogs
from pcscf.emergency import EmergencyMode, EmergencySettings, is_emergency, is_emergency_contact
from pcscf.nexthop import HopSettings, NextHops
from pcscf.observe import MessageSeen, ProblemKind, SetEvent
from pcscf.originating import Originating, OriginatingSettings, elsewhere
from pcscf.passage import Refusal, Sides
from pcscf.regevent import RegEvents, RegEventSettings
from pcscf.reginfo import Change, ContactEvent, ContactTerminated, IdentityActive, IdentityTerminated, Shortened
from pcscf.register import RegisterProcedure, RegisterSettings
from pcscf.registrar import Registrar
from pcscf.registration import ESTABLISHED, Registration, SetState, names
from pcscf.relay import Relay
from pcscf.signalling import RequestUser, Signalling
from pcscf.sip.message import Request, Response
from pcscf.sip.parse import ParseError
from pcscf.sip.transaction import GM_TIMERS, TimerProfile
from pcscf.tally import Tally
from pcscf.terminating import Terminating
from pcscf.turn import Turn
from pcscf.vocabulary import (
    Action,
    CloseFlow,
    Event,
    Flow,
    FlowClosed,
    InstallSecurity,
    Interface,
    Malformed,
    Note,
    Order,
    Ordered,
    Received,
    RemoveSecurity,
    Resolved,
    Resume,
    SecurityExpired,
    SecurityInstalled,
    SecurityRefused,
    Tick,
    UpdateSecurity,
)
from xfrm.model import IPAddress, PortRange

RESUMED_AT_ONCE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the operator decided, as the core needs it."""

    sides: Sides
    register: RegisterSettings
    hops: HopSettings
    originating: OriginatingSettings = field(default_factory=OriginatingSettings)
    ports_pc: PortRange
    reg_event: bool = False
    """Whether we subscribe to the registration state of our users."""
    peers: tuple[IPv4Network | IPv6Network, ...] = ()
    """Where the core may speak from; empty: from anywhere."""
    silent_in_clear: bool = False
    """What may not come in clear gets no answer at all, instead of 403."""
    gm_timers: TimerProfile = GM_TIMERS
    pending_per_source: int
    """Unanswered challenges one source may hold; beyond it the oldest goes."""
    transactions: int
    transactions_per_source: int
    """Of what one source sends in clear, or one contact; beyond it the oldest that is answered goes."""
    pending: int
    """Unanswered challenges of all sources, and UEs that make emergency requests without being registered."""

    def believes(self, address: IPAddress) -> bool:
        """Whether what comes from there to the port toward the core is the core's."""
        return not self.peers or _is_in(address, self.peers)


class Load(NamedTuple):
    """What is under way now."""

    transactions: int
    passages: int
    dialogs: int


@lru_cache(maxsize=1024)
def _is_in(address: IPAddress, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    return any(address in network for network in networks)


class Proxy:
    """The core of one P-CSCF. `random_octets(n)` gives unguessable octets."""

    def __init__(self, settings: Settings, *, random_octets: Callable[[int], bytes]) -> None:
        self._settings = settings
        self._turn = Turn(random_octets)
        self.bugs = self._turn.bugs
        """What went wrong where the rest went on, since somebody emptied this."""
        self.registrar = Registrar(
            self._turn,
            ports_ps=settings.sides.ports_ps,
            ports_pc=settings.ports_pc,
            pending=settings.pending,
            pending_per_source=settings.pending_per_source,
            drain=settings.gm_timers.timeout,
        )
        self.hops = NextHops(self._turn, settings.hops)
        self.dialogs = Dialogs()
        self._signalling = Signalling(
            self._turn,
            self.registrar,
            limit=settings.transactions,
            per_source=settings.transactions_per_source,
            gm_timers=settings.gm_timers,
        )
        self.hops.use(self._signalling)
        self._register = RegisterProcedure(
            self._turn, self.registrar, self._signalling, self.hops, settings.register, self._registered
        )
        self._originating = Originating(self._turn, self.dialogs, self.hops, settings.sides, settings.originating)
        terminating = Terminating(self.registrar, self.dialogs, self._signalling, settings.sides)
        self._relay = Relay(
            self._turn, self.registrar, self._signalling, self.hops, self.dialogs, self._originating, terminating
        )
        self._reg_events = RegEvents(
            self._turn,
            self._signalling,
            self.hops,
            RegEventSettings(core=settings.sides.core, enabled=settings.reg_event),
            self._changed,
        )
        self.resuming: deque[Registration] = deque()
        """Contacts of an earlier run for whose users nothing was asked of the core yet."""
        self.registrar.on_set_gone = self._signalling.forget
        self.registrar.on_ended = self._ended

    def adopt(self, settings: Settings) -> None:
        """Judge what comes from now on by these; addresses, ports, hops and timers stay those of the start."""
        self._settings = settings
        self._register.settings = settings.register
        self._originating.settings = settings.originating
        self.registrar.allow(settings.pending, settings.pending_per_source)
        self._signalling.allow(settings.transactions, settings.transactions_per_source)

    @property
    def tally(self) -> Tally:
        return self._turn.tally

    @property
    def load(self) -> Load:
        return Load(transactions=len(self._signalling), passages=len(self._relay), dialogs=len(self.dialogs))

    @property
    def deadline(self) -> float | None:
        """When `handle(Tick())` wants to be called next."""
        return min(
            (
                each
                for each in (
                    self.registrar.deadline,
                    self._signalling.deadline,
                    self._relay.deadline,
                    self.hops.deadline,
                    self._reg_events.deadline,
                )
                if each is not None
            ),
            default=None,
        )

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event at monotonic time `now` (seconds) and say what to do, in order."""
        actions = self._turn.begin(now)
        match event:
            case Received(message, flow):
                self._turn.message = message
                try:
                    self._received(message, flow)
                except ParseError as error:  # without a readable Via there is nowhere to answer
                    self._turn.problem(
                        f"a message whose way cannot be read; dropped: {error}", flow, kind=ProblemKind.MALFORMED
                    )
            case Malformed(error, flow):
                self._malformed(error, flow)
            case FlowClosed(flow, reason):
                if flow.transport == "UDP":
                    self._turn.problem(f"a datagram was not sent: {reason}", flow, kind=ProblemKind.UNDELIVERED)
                else:
                    self.registrar.cut_off(flow)
                self._signalling.flow_lost(flow)  # a UE's FIN is no deregistration
            case SecurityInstalled(set_id):
                self._register.installed(set_id)
            case SecurityRefused(set_id, reason):
                self._register.refused(set_id, reason)
            case SecurityExpired(ids):
                for sa_id in ids:
                    if sa_set := self.registrar.by_sa(sa_id):
                        repair.end(
                            self.registrar,
                            self._turn,
                            sa_set,
                            SetEvent.EXPIRED,
                            "the backstop lifetime of its SAs ended first",
                        )
            case Resolved():
                self.hops.resolved(event)
            case Ordered(impi, address, order):
                self._ordered(impi, address, order)
            case Resume():
                self._resume()
            case Tick():
                self._turn.attempt(self.registrar.expire)
                self._turn.attempt(self.hops.expire)
                self._turn.attempt(self._signalling.expire, self._relay)
                self._turn.attempt(self._relay.expire)
                self._turn.attempt(self._reg_events.expire)
            case _:
                assert_never(event)
        return actions

    def apologise(self, event: Event, now: float) -> list[Action]:
        """What to do about an event that met a bug in `handle`: a request gets 500, the rest goes on.

        Of what was decided before the bug all is done that ends something, and what keeps the kernel in step with the
        registrar: SAs that nobody removes outlive their set, and a set whose SAs nobody installs waits for them.
        """
        decided = self._turn.decided
        actions = self._turn.begin(now)
        for action in decided:
            match action:
                case RemoveSecurity() | CloseFlow() | UpdateSecurity():
                    self._turn.do(action)
                case Note(record) if not isinstance(record, MessageSeen) or record.incoming:
                    self._turn.do(action)
                case InstallSecurity(set_id):
                    self._turn.attempt(self._register.refused, set_id, "a bug came first")
                case _:
                    pass
        suspect = self.registrar.by_id(event.set_id) if isinstance(event, SecurityInstalled | SecurityRefused) else None
        repair.mend(self.registrar, self._turn, self._register.installing, suspect)
        match event:
            case Received(Request() as request, flow):
                self._turn.attempt(self._signalling.reply_at_once, request, flow, 500)
            case _:
                pass
        return actions

    def _received(self, message: Request | Response, flow: Flow) -> None:
        """Take a message where it belongs, if it may be there at all (digest A6, A8)."""
        if flow.interface is Interface.MW:
            if not self._settings.believes(flow.remote):
                self._turn.problem("a message at the port toward the core is not from the core; dropped", flow)
                return
            self._signalling.note(message, flow, None, incoming=True)
            user = self._reg_events if self._reg_events.owns(message) else self._relay
            self._signalling.receive(message, flow, user)
        elif flow.interface is Interface.GM_PROTECTED:
            self._protected(message, flow)
        else:
            self._signalling.note(message, flow, None, incoming=True)
            self._in_clear(message, flow)

    def _protected(self, message: Request | Response, flow: Flow) -> None:
        sa_set = self._signalling.sa_set_of(flow)
        if sa_set is None:
            self._turn.problem("a message at a protected port belongs to no SA; dropped", flow)
            return
        self._signalling.note(message, flow, sa_set, incoming=True)
        if flow.transport == "TCP":
            self._signalling.carried(flow, sa_set)
        if isinstance(message, Request) and message.method == "REGISTER":
            self._signalling.receive(message, flow, self._register)
            return
        if sa_set.state not in ESTABLISHED:
            kind = message.method if isinstance(message, Request) else str(message.status)
            impi = sa_set.registration.key.impi
            self._turn.problem(f"{kind} on a set of SAs that is {sa_set.state.value}; dropped", flow, impi)
            return
        if sa_set.state is SetState.NEW:
            self.registrar.step(sa_set, SetEvent.USED, "the UE was seen on it")
        self._signalling.receive(message, flow, self._relay, emergency=self._is_emergency_call(message))

    def _is_emergency_call(self, message: Request | Response) -> bool:
        if not isinstance(message, Request) or message.method != "INVITE":
            return False
        return is_emergency(message, self._settings.originating.emergency.numbers)

    def _in_clear(self, message: Request | Response, flow: Flow) -> None:
        """REGISTER, UEs that were admitted without IPsec, and emergency requests; nothing else (TS 33.203 7.1)."""
        if self.registrar.in_clear(flow) is not None:
            is_register = isinstance(message, Request) and message.method == "REGISTER"
            user: RequestUser = self._register if is_register else self._relay
            self._signalling.receive(message, flow, user, emergency=self._is_emergency_call(message))
            return
        if isinstance(message, Response):
            self._turn.problem(f"a {message.status} response from a UE to nothing we asked; dropped", flow)
            return
        emergency = self._settings.originating.emergency
        if message.method == "REGISTER":
            self._signalling.receive(message, flow, self._register)
        elif emergency.mode is not EmergencyMode.REFUSE and is_emergency(message, emergency.numbers):
            self._emergency_in_clear(message, flow, emergency)
        elif self._settings.silent_in_clear:
            self._turn.problem(f"{message.method} in clear; only REGISTER may come without IPsec; dropped", flow)
        else:
            self._turn.problem(f"{message.method} in clear; only REGISTER may come without IPsec; 403", flow)
            self._signalling.reply_at_once(message, flow, 403)

    def _emergency_in_clear(self, request: Request, flow: Flow, emergency: EmergencySettings) -> None:
        """An emergency request of a UE that is not registered: to the E-CSCF if the operator allows it (digest C10)."""
        if request.method == "ACK":
            return  # to an answer that we have forgotten, or to nothing
        try:
            if request.method == "CANCEL":
                raise Refusal(481, "CANCEL of nothing that is under way")
            if emergency.mode is EmergencyMode.ALTERNATIVE:
                raise elsewhere()
            if not emergency.unregistered:
                raise Refusal(403, "only of a UE that is registered")
            if not self.registrar.welcome(flow):
                raise Refusal(403, "too many UEs that are not registered make them")
        except Refusal as refusal:
            status = refusal.status
            self._turn.problem(f"an emergency {request.method} in clear refused with {status}: {refusal}", flow)
            self._signalling.reply_at_once(request, flow, status, refusal.headers, refusal.body)
            return
        self._turn.problem(f"an emergency {request.method} of a UE that is not registered is served", flow)
        try:
            self._signalling.receive(request, flow, self._relay)
        finally:  # it may have been refused, be a repetition, or have no way to answer it
            self._relay.release(flow)

    def _malformed(self, error: ParseError, flow: Flow) -> None:
        """Say what was wrong with a request, to whom anything is said at all."""
        self._turn.problem(f"not a SIP message: {error}", flow, kind=ProblemKind.MALFORMED)
        if flow.interface is Interface.MW:
            silent = not self._settings.believes(flow.remote)
        else:
            silent = self._settings.silent_in_clear and self._signalling.is_unproven(flow)
        if isinstance(error.message, Request) and not silent:
            self._signalling.reply_at_once(error.message, flow, error.status)

    def _registered(self, registration: Registration, path_uri: str) -> None:
        """A contact was registered, for the first time or again; not for emergencies only (digest C4 step 8)."""
        if not is_emergency_contact(registration.contact):
            self._reg_events.registered(registration.key.impi, registration.associated_uris[0], path_uri)

    def _resume(self) -> None:
        """Subscribe for some of those that an earlier run served; the core must not hear of all at once."""
        for _ in range(min(RESUMED_AT_ONCE, len(self.resuming))):
            each = self.resuming.popleft()
            if each.registered and each.path_uri:
                self._turn.attempt(self._registered, each, each.path_uri)

    def _ordered(self, impi: str, address: IPAddress, order: Order) -> None:
        """The operator's word on a contact. One that is gone meanwhile is no error."""
        for each in self.registrar.of_user(impi):
            if each.key.address != address:
                continue
            if order is Order.REAUTHENTICATE:
                each.to_challenge = each.registered
                self.registrar.touched[each.path_token] = each
                continue
            why = "deregistered by the operator"
            self._turn.attempt(self.registrar.unregister, each, why)
            self._end_sets(each, SetEvent.SUPERSEDED, why)

    def _ended(self, registration: Registration) -> None:
        """A contact is registered no more: its dialogs are discarded without signalling (TS 24.229 5.2.8.1.4)."""
        self.dialogs.close_all(registration)
        if not self.registrar.contacts_of(registration.key.impi):
            self._reg_events.deregistered(registration.key.impi)

    def _changed(self, impi: str, change: Change) -> None:
        """The core says what became of a registration (TS 24.229 5.2.5.2, digest C5)."""
        match change:
            case IdentityActive():
                pass
            case IdentityTerminated(aor, event):
                for each in self.registrar.contacts_of(impi):
                    self._turn.attempt(self._withdraw, each, aor, event)
            case ContactTerminated(aor, uri, event):
                for each in self._with_contact(impi, uri):
                    self._turn.attempt(self._withdraw, each, aor, event)
            case Shortened(aor, uri, expires):
                if expires is not None:
                    for each in self._with_contact(impi, uri):
                        self._turn.attempt(self.registrar.shorten, each, aor, expires)
            case _:
                assert_never(change)

    def _with_contact(self, impi: str, uri: str) -> list[Registration]:
        return [each for each in self.registrar.contacts_of(impi) if names(uri, (f"<{each.contact}>",))]

    def _withdraw(self, registration: Registration, aor: str, event: ContactEvent | None) -> None:
        """End an identity; with the last one the sets end, as soon as the UE can have heard of it (5.2.5.2)."""
        why = f"ended by the core: {event.value if event else 'terminated'}"
        if self.registrar.withdraw(registration, aor, why):
            self._end_sets(registration, SetEvent.WITHDRAWN, why, linger=self.registrar.drain)

    def _end_sets(self, registration: Registration, event: SetEvent, why: str, *, linger: float = 0.0) -> None:
        """Nothing of a contact is served any more."""
        for sa_set in tuple(registration.sets):
            repair.end(self.registrar, self._turn, sa_set, event, why, linger=linger)
        self.registrar.admit_in_clear(registration, None)
        self.registrar.forget_if_idle(registration)
