"""The four transaction machines of RFC 3261 17 with RFC 6026, as tables, and the matching of messages to them.

Sans-IO: `now` is an argument, sending is an output, a flow is any hashable value of the caller's.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, TypeVar

from pcscf.sip.message import Request, Response

FlowT = TypeVar("FlowT", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerProfile:
    """RFC 3261 17 timer values in seconds; TS 24.229 7.7 gives Gm its own. `timeout` is 64*T1 (B, F, H, ...)."""

    t1: float
    t2: float
    t4: float

    @property
    def timeout(self) -> float:
        return 64 * self.t1


CORE_TIMERS = TimerProfile(t1=0.5, t2=4, t4=5)
GM_TIMERS = TimerProfile(t1=2, t2=16, t4=17)


class Kind(Enum):
    INVITE_CLIENT = auto()
    CLIENT = auto()
    INVITE_SERVER = auto()
    SERVER = auto()


class Transaction(Generic[FlowT]):
    """One transaction. `request` is what began it (as sent, for a client); `flow` is where it runs."""

    kind: Kind
    request: Request
    flow: FlowT
    reliable: bool


@dataclass(frozen=True, slots=True)
class Transmit(Generic[FlowT]):
    """Put these bytes on this flow."""

    data: bytes
    message: Request | Response
    flow: FlowT
    again: bool
    """A retransmission: same bytes, same flow as before."""


@dataclass(frozen=True, slots=True)
class Arrived(Generic[FlowT]):
    """A new request, or an ACK to a 2xx (`transaction` None then), for the transaction user."""

    request: Request
    transaction: Transaction[FlowT] | None


@dataclass(frozen=True, slots=True)
class Answered(Generic[FlowT]):
    """A response for the transaction user that sent `transaction.request`. `transaction` None: a stray one."""

    response: Response
    transaction: Transaction[FlowT] | None


@dataclass(frozen=True, slots=True)
class TimedOut(Generic[FlowT]):
    """Nobody answered (timers B, F), or no ACK came (H)."""

    transaction: Transaction[FlowT]


@dataclass(frozen=True, slots=True)
class Failed(Generic[FlowT]):
    """The transport could not deliver (RFC 3261 17.1.4)."""

    transaction: Transaction[FlowT]


@dataclass(frozen=True, slots=True)
class Ended(Generic[FlowT]):
    """The transaction is over and forgotten. Always the last output about it."""

    transaction: Transaction[FlowT]


class Transactions(Generic[FlowT]):
    """All transactions of one endpoint."""

    # def __init__(self) -> None
    # def request(self, request, flow, *, timers, reliable, now) -> (Transaction, [outputs])   start a client transaction
    # def receive(self, message, flow, *, timers, reliable, now) -> [outputs]
    # def respond(self, transaction, response, now) -> [outputs]                     (server transaction)
    # def transport_failed(self, transaction, now) -> [outputs]
    # def expire(self, now) -> [outputs]
    # deadline: float | None
