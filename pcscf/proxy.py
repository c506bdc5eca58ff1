"""The P-CSCF: events in, actions out. The one place that ties the procedures together.

`Proxy.handle` never raises on what a peer sends and never waits: the kernel's answer is an event that comes back.
No I/O, no clock, no randomness of its own. Who may talk at all is decided here (digest A6, TS 33.203 7.1).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from pcscf.observe import SetEvent
from pcscf.register import RegisterProcedure, RegisterSettings
from pcscf.registration import Registrar
from pcscf.signalling import Signalling
from pcscf.sip.message import Request, Response, header
from pcscf.sip.parse import ParseError
from pcscf.turn import Turn
from pcscf.vocabulary import (
    Action,
    Event,
    Flow,
    FlowClosed,
    Interface,
    Malformed,
    Received,
    SecurityExpired,
    SecurityInstalled,
    SecurityRefused,
    Tick,
)
from xfrm.model import PortRange


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the operator decided, as the core needs it."""

    register: RegisterSettings
    ports_ps: PortRange
    ports_pc: PortRange
    pending_per_source: int
    """Unanswered challenges one address may hold; beyond it the oldest goes."""
    transactions: int


class Proxy:
    """The core of one P-CSCF. `random_octets(n)` gives unguessable octets."""

    def __init__(self, settings: Settings, *, random_octets: Callable[[int], bytes]) -> None:
        self._turn = Turn(random_octets)
        self.registrar = Registrar(
            self._turn,
            ports_ps=settings.ports_ps,
            ports_pc=settings.ports_pc,
            pending_per_source=settings.pending_per_source,
        )
        self._signalling = Signalling(self._turn, self.registrar, limit=settings.transactions)
        self._register = RegisterProcedure(self._turn, self.registrar, self._signalling, settings.register)

    @property
    def deadline(self) -> float | None:
        """When `handle(Tick())` wants to be called next."""
        ours, theirs = self.registrar.deadline, self._signalling.deadline
        if ours is None or theirs is None:
            return theirs if ours is None else ours
        return min(ours, theirs)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event at monotonic time `now` (seconds) and say what to do, in order."""
        actions = self._turn.begin(now)
        match event:
            case Received(message, flow):
                try:
                    self._received(message, flow)
                except ParseError as error:  # without a readable Via there is nowhere to answer
                    self._turn.problem(f"a message whose way cannot be read; dropped: {error}", flow)
            case Malformed(error, flow):
                self._malformed(error, flow)
            case FlowClosed(flow, reason):
                self._signalling.flow_lost(flow, reason)  # a UE's FIN is no deregistration
            case SecurityInstalled(set_id):
                self._register.installed(set_id)
            case SecurityRefused(set_id, reason):
                self._register.refused(set_id, reason)
            case SecurityExpired(ids):
                for sa_id in ids:
                    if sa_set := self.registrar.by_sa(sa_id):
                        self.registrar.step(sa_set, SetEvent.EXPIRED, "the backstop lifetime of its SAs ended first")
            case Tick():
                self._signalling.expire(self._register)
                self.registrar.expire()
            case _:
                assert_never(event)
        return actions

    def apologise(self, event: Event, now: float) -> list[Action]:
        """What to do about an event that met a bug in `handle`: a request gets 500, the rest goes on."""
        actions = self._turn.begin(now)
        match event:
            case Received(Request() as request, flow):
                self._signalling.reply_at_once(request, flow, 500)
            case _:
                pass
        return actions

    def _received(self, message: Request | Response, flow: Flow) -> None:
        sa_set = self._signalling.sa_set_of(flow)
        if sa_set is None and flow.interface is Interface.GM_PROTECTED:
            self._turn.problem("a message at a protected port belongs to no SA; dropped", flow)
            return
        self._signalling.note(message, flow, sa_set, incoming=True)
        if isinstance(message, Response):
            if flow.interface is Interface.MW:
                self._signalling.receive(message, flow, self._register)
            else:
                self._turn.problem(f"a {message.status} response from a UE to nothing we asked; dropped", flow)
        elif flow.interface is Interface.MW:
            self._turn.problem(f"{message.method} from the core: requests toward UEs are not served yet; 501", flow)
            self._signalling.reply_at_once(message, flow, 501)
        elif message.method == "REGISTER":
            self._signalling.receive(message, flow, self._register)
        elif sa_set is None:
            self._turn.problem(f"{message.method} in clear; only REGISTER may come without IPsec; 403", flow)
            self._signalling.reply_at_once(message, flow, 403)
        else:
            self._turn.problem(f"{message.method} is not served yet; 405", flow)
            self._signalling.reply_at_once(message, flow, 405, [header("Allow", "REGISTER")])

    def _malformed(self, error: ParseError, flow: Flow) -> None:
        self._turn.problem(f"not a SIP message: {error}", flow)
        if isinstance(error.message, Request):
            self._signalling.reply_at_once(error.message, flow, error.status)
