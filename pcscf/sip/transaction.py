"""The four transaction machines of RFC 3261 17 with RFC 6026, as tables, and the matching of messages to them.

Sans-IO: `now` is an argument, sending is an output, a flow is any hashable value of the caller's.
"""

import heapq
import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, NamedTuple, TypeVar

from pcscf.sip.fields import Via, parse_cseq, parse_name_addr, parse_via, top_via
from pcscf.sip.message import Request, Response, header
from pcscf.sip.parse import ParseError
from pcscf.sip.share import Share

FlowT = TypeVar("FlowT", bound=Hashable)
MAGIC_COOKIE = "z9hG4bK"
NEVER = math.inf
SPARE_ALARMS = 64
"""Alarms of what is over that may wait beside those of the living."""
ALARMS = 4
"""Alarms for each transaction at which those of what is over are taken out: twice what one may need, so that this is
rare and never the work of more than the alarms that were set since.
"""


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


class _Singleton(Enum):
    """Keys of the tables below, looked up several times for each message: hashed by identity, not by name."""

    __hash__ = object.__hash__


class Kind(_Singleton):
    INVITE_CLIENT = auto()
    CLIENT = auto()
    INVITE_SERVER = auto()
    SERVER = auto()


class State(_Singleton):
    """RFC 3261 17 and, for ACCEPTED, RFC 6026 7. CALLING and TRYING are one: STARTED."""

    STARTED = auto()
    PROCEEDING = auto()
    COMPLETED = auto()
    CONFIRMED = auto()
    ACCEPTED = auto()
    TERMINATED = auto()


class Input(_Singleton):
    """What happens to a transaction: a message from the peer, one from its user, or a timer."""

    REQUEST_AGAIN = auto()
    ACK = auto()
    PROVISIONAL = auto()
    """1xx; received by a client, sent by a server. Likewise the next two."""
    SUCCESS = auto()
    FAILURE = auto()
    REFUSAL = auto()
    """A failure that a server sends and forgets (RFC 3261 8.2.7): the request, if it comes again, is judged again."""
    REPEAT = auto()
    """Timers A, E, G."""
    END = auto()
    """Timers B, F, H in the states that wait for the peer; D, I, J, K, L, M in those that only linger."""
    BROKEN = auto()
    """The transport could not deliver."""


class Effect(Enum):
    SEND = auto()
    SEND_AGAIN = auto()
    SEND_ACK = auto()
    REPORT = auto()
    """Hand the message to the transaction user."""
    REPEAT = auto()
    """Start timer A, E or G: unreliable transports only."""
    AWAIT = auto()
    """Start timer B, F or H."""
    AWAIT_NO_MORE = auto()
    LINGER = auto()
    """Stop repeating; start timer D, I, J, K, L or M."""
    SERVED = auto()
    """The request has its final answer: what is left waits for repetitions, and gives way where room is scarce."""
    TIMED_OUT = auto()
    FAILED = auto()


Row = tuple[State, tuple[Effect, ...]]
_TIMED_OUT: Row = (State.TERMINATED, (Effect.TIMED_OUT,))
_FAILED: Row = (State.TERMINATED, (Effect.FAILED,))
_OVER: Row = (State.TERMINATED, ())
_SENT: Row = (State.TERMINATED, (Effect.SEND,))

START: dict[Kind, tuple[Effect, ...]] = {
    Kind.INVITE_CLIENT: (Effect.SEND, Effect.REPEAT, Effect.AWAIT),
    Kind.CLIENT: (Effect.SEND, Effect.REPEAT, Effect.AWAIT),
    Kind.INVITE_SERVER: (Effect.REPORT,),
    Kind.SERVER: (Effect.REPORT,),
}

MACHINES: dict[Kind, dict[State, dict[Input, Row]]] = {
    Kind.INVITE_CLIENT: {  # RFC 3261 17.1.1, RFC 6026 8.4
        State.STARTED: {
            Input.PROVISIONAL: (State.PROCEEDING, (Effect.AWAIT_NO_MORE, Effect.REPORT)),
            Input.SUCCESS: (State.ACCEPTED, (Effect.LINGER, Effect.REPORT)),
            Input.FAILURE: (State.COMPLETED, (Effect.LINGER, Effect.SEND_ACK, Effect.REPORT)),
            Input.REPEAT: (State.STARTED, (Effect.SEND_AGAIN,)),
            Input.END: _TIMED_OUT,
            Input.BROKEN: _FAILED,
        },
        State.PROCEEDING: {
            Input.PROVISIONAL: (State.PROCEEDING, (Effect.REPORT,)),
            Input.SUCCESS: (State.ACCEPTED, (Effect.LINGER, Effect.REPORT)),
            Input.FAILURE: (State.COMPLETED, (Effect.LINGER, Effect.SEND_ACK, Effect.REPORT)),
            Input.BROKEN: _FAILED,
        },
        State.COMPLETED: {
            Input.FAILURE: (State.COMPLETED, (Effect.SEND_ACK,)),
            Input.END: _OVER,
            Input.BROKEN: _FAILED,
        },
        State.ACCEPTED: {
            Input.SUCCESS: (State.ACCEPTED, (Effect.REPORT,)),
            Input.END: _OVER,
        },
    },
    Kind.CLIENT: {  # RFC 3261 17.1.2
        State.STARTED: {
            Input.PROVISIONAL: (State.PROCEEDING, (Effect.REPORT,)),
            Input.SUCCESS: (State.COMPLETED, (Effect.LINGER, Effect.REPORT)),
            Input.FAILURE: (State.COMPLETED, (Effect.LINGER, Effect.REPORT)),
            Input.REPEAT: (State.STARTED, (Effect.SEND_AGAIN,)),
            Input.END: _TIMED_OUT,
            Input.BROKEN: _FAILED,
        },
        State.PROCEEDING: {
            Input.PROVISIONAL: (State.PROCEEDING, (Effect.REPORT,)),
            Input.SUCCESS: (State.COMPLETED, (Effect.LINGER, Effect.REPORT)),
            Input.FAILURE: (State.COMPLETED, (Effect.LINGER, Effect.REPORT)),
            Input.REPEAT: (State.PROCEEDING, (Effect.SEND_AGAIN,)),
            Input.END: _TIMED_OUT,
            Input.BROKEN: _FAILED,
        },
        State.COMPLETED: {Input.END: _OVER},
    },
    Kind.INVITE_SERVER: {  # RFC 3261 17.2.1, RFC 6026 8.5
        State.STARTED: {
            Input.PROVISIONAL: (State.PROCEEDING, (Effect.SEND,)),
            Input.SUCCESS: (State.ACCEPTED, (Effect.SEND, Effect.SERVED, Effect.LINGER)),
            Input.FAILURE: (State.COMPLETED, (Effect.SEND, Effect.SERVED, Effect.REPEAT, Effect.AWAIT)),
            Input.REFUSAL: _SENT,
            Input.BROKEN: _FAILED,
        },
        State.PROCEEDING: {
            Input.REQUEST_AGAIN: (State.PROCEEDING, (Effect.SEND_AGAIN,)),
            Input.PROVISIONAL: (State.PROCEEDING, (Effect.SEND,)),
            Input.SUCCESS: (State.ACCEPTED, (Effect.SEND, Effect.SERVED, Effect.LINGER)),
            Input.FAILURE: (State.COMPLETED, (Effect.SEND, Effect.SERVED, Effect.REPEAT, Effect.AWAIT)),
            Input.REFUSAL: _SENT,
            Input.BROKEN: _FAILED,
        },
        State.COMPLETED: {
            Input.REQUEST_AGAIN: (State.COMPLETED, (Effect.SEND_AGAIN,)),
            Input.REPEAT: (State.COMPLETED, (Effect.SEND_AGAIN,)),
            Input.ACK: (State.CONFIRMED, (Effect.LINGER,)),
            Input.END: _TIMED_OUT,
            Input.BROKEN: _FAILED,
        },
        State.CONFIRMED: {Input.END: _OVER},
        State.ACCEPTED: {
            Input.SUCCESS: (State.ACCEPTED, (Effect.SEND,)),
            Input.ACK: (State.ACCEPTED, (Effect.REPORT,)),
            Input.END: _OVER,
        },
    },
    Kind.SERVER: {  # RFC 3261 17.2.2
        State.STARTED: {
            Input.PROVISIONAL: (State.PROCEEDING, (Effect.SEND,)),
            Input.SUCCESS: (State.COMPLETED, (Effect.SEND, Effect.SERVED, Effect.LINGER)),
            Input.FAILURE: (State.COMPLETED, (Effect.SEND, Effect.SERVED, Effect.LINGER)),
            Input.REFUSAL: _SENT,
            Input.BROKEN: _FAILED,
        },
        State.PROCEEDING: {
            Input.REQUEST_AGAIN: (State.PROCEEDING, (Effect.SEND_AGAIN,)),
            Input.PROVISIONAL: (State.PROCEEDING, (Effect.SEND,)),
            Input.SUCCESS: (State.COMPLETED, (Effect.SEND, Effect.SERVED, Effect.LINGER)),
            Input.FAILURE: (State.COMPLETED, (Effect.SEND, Effect.SERVED, Effect.LINGER)),
            Input.REFUSAL: _SENT,
            Input.BROKEN: _FAILED,
        },
        State.COMPLETED: {
            Input.REQUEST_AGAIN: (State.COMPLETED, (Effect.SEND_AGAIN,)),
            Input.END: _OVER,
        },
    },
}
"""Kind -> state -> input -> (next state, effects). An input without a row is absorbed."""


@dataclass(slots=True, eq=False)
class Transaction(Generic[FlowT]):
    """One transaction. `request` is what began it (as sent, for a client); `flow` is where it runs.

    One that is not an INVITE and only lingers keeps no more than the method of it: many do, for two minutes each.
    """

    kind: Kind
    request: Request
    flow: FlowT
    reliable: bool
    timers: TimerProfile
    key: Hashable
    share: "Share[Transaction[FlowT]] | None" = None
    """What it is counted in, with whom it is counted for; a client is in none."""
    peer: Hashable = None
    unproven: bool = False
    """Of a server: where the peer says it is may be a lie. Nothing goes there but in answer to a datagram, and little
    is kept of what it said.
    """
    state: State = State.STARTED
    data: bytes = b""
    """What it sent last, for sending again."""
    sent: Request | Response | None = None
    way_out: FlowT | None = None
    """The flow of what it sent last: sending again takes the same."""
    interval: float = 0.0
    repeat_at: float = NEVER
    end_at: float = NEVER

    @property
    def linger(self) -> float:
        """Seconds in the state reached: D, J (64*T1, 0 if reliable), I, K (T4, 0 if reliable), L, M (64*T1)."""
        if self.state is State.ACCEPTED:
            return self.timers.timeout
        if self.reliable:
            return 0.0
        if self.kind is Kind.CLIENT or self.state is State.CONFIRMED:
            return self.timers.t4
        return self.timers.timeout


class Transmit(NamedTuple, Generic[FlowT]):
    """Put these bytes on this flow. `again`: a retransmission, same bytes and same flow as before."""

    data: bytes
    message: Request | Response
    flow: FlowT
    again: bool


class Arrived(NamedTuple, Generic[FlowT]):
    """A new request, or an ACK to a 2xx (`transaction` None then), for the transaction user."""

    request: Request
    transaction: Transaction[FlowT] | None


class Answered(NamedTuple, Generic[FlowT]):
    """A response for the transaction user that sent `transaction.request`. `transaction` None: a stray one."""

    response: Response
    transaction: Transaction[FlowT] | None


class TimedOut(NamedTuple, Generic[FlowT]):
    """Nobody answered (timers B, F), or no ACK came (H)."""

    transaction: Transaction[FlowT]


class Failed(NamedTuple, Generic[FlowT]):
    """The transport could not deliver (RFC 3261 17.1.4)."""

    transaction: Transaction[FlowT]


class Ended(NamedTuple, Generic[FlowT]):
    """The transaction is over and forgotten. Always the last output about it."""

    transaction: Transaction[FlowT]


class Refused(NamedTuple, Generic[FlowT]):
    """A new request that finds as many transactions as may be; it has none and is to be answered without."""

    request: Request
    flow: FlowT


Output = (
    Transmit[FlowT] | Arrived[FlowT] | Answered[FlowT] | TimedOut[FlowT] | Failed[FlowT] | Ended[FlowT] | Refused[FlowT]
)


class Transactions(Generic[FlowT]):
    """All transactions of one endpoint; `limit` bounds those that peers can make, where no other share is named."""

    def __init__(self, *, limit: int = 50_000) -> None:
        self._share: Share[Transaction[FlowT]] = Share(limit, limit)
        self._clients: dict[Hashable, Transaction[FlowT]] = {}
        self._servers: dict[Hashable, Transaction[FlowT]] = {}
        self._alarms: list[tuple[float, int, Transaction[FlowT]]] = []
        self._alarm_number = 0

    def __len__(self) -> int:
        return len(self._clients) + len(self._servers)

    @property
    def deadline(self) -> float | None:
        """When to call `expire` next; it may turn out that nothing is due then."""
        return self._alarms[0][0] if self._alarms else None

    def request(
        self,
        request: Request,
        flow: FlowT,
        *,
        timers: TimerProfile,
        reliable: bool,
        now: float,
        scope: Hashable = None,
    ) -> tuple[Transaction[FlowT], list[Output[FlowT]]]:
        """Start a client transaction. The top Via must carry a new branch. Raises ParseError if there is none.

        Only a response of the same `scope` belongs to it: who may answer, where the branch alone should not decide.
        """
        branch = parse_via(top_via(request)).branch
        if not branch.startswith(MAGIC_COOKIE):
            raise ParseError("a request of ours needs a branch of RFC 3261")
        kind = Kind.INVITE_CLIENT if request.method == "INVITE" else Kind.CLIENT
        transaction = Transaction(kind, request, flow, reliable, timers, (branch, request.method, scope))
        self._clients[transaction.key] = transaction
        outputs: list[Output[FlowT]] = []
        transaction.data, transaction.sent, transaction.way_out = request.to_bytes(), request, flow
        self._carry_out(transaction, START[kind], request, now, outputs)
        return transaction, outputs

    def receive(
        self,
        message: Request | Response,
        flow: FlowT,
        *,
        timers: TimerProfile,
        reliable: bool,
        now: float,
        scope: Hashable = None,
        share: Share[Transaction[FlowT]] | None = None,
        peer: Hashable = None,
        unproven: bool = False,
    ) -> list[Output[FlowT]]:
        """Match a message to its transaction, or begin a server transaction. Raises ParseError: no readable Via.

        `scope` is who sent it: the same branch of somebody else is another transaction. A new transaction is counted in
        `share` for `peer`, and is one with somebody who is `unproven`.
        """
        via = parse_via(top_via(message))
        outputs: list[Output[FlowT]] = []
        if isinstance(message, Response):
            client = self._clients.get((via.branch, parse_cseq(message.first("cseq") or "").method, scope))
            if client is None:
                outputs.append(Answered(message, None))
            else:
                self._step(client, _kind_of_response(message), message, now, outputs)
            return outputs
        key = _server_key(message, via, scope)
        server = self._servers.get(key)
        if server is not None:
            event = Input.ACK if message.method == "ACK" else Input.REQUEST_AGAIN
            self._step(server, event, message, now, outputs)
        elif message.method == "ACK":
            outputs.append(Arrived(message, None))
        else:
            if share is None:
                share = self._share
            if not share.has_room(peer) and (spare := share.giving_way(peer)) is not None:
                self._end(spare, outputs)
            if share.has_room(peer):
                kind = Kind.INVITE_SERVER if message.method == "INVITE" else Kind.SERVER
                server = Transaction(kind, message, flow, reliable, timers, key, share, peer, unproven)
                self._servers[key] = server
                share.add(peer, server)
                self._carry_out(server, START[kind], message, now, outputs)
            else:
                outputs.append(Refused(message, flow))
        return outputs

    def invite_of(self, cancel: Request, scope: Hashable = None) -> Transaction[FlowT] | None:
        """The INVITE server transaction that a CANCEL is about (RFC 3261 9.2). Raises ParseError."""
        via = parse_via(top_via(cancel))
        invite = Request(method="INVITE", uri=cancel.uri, headers=cancel.headers)
        return self._servers.get(_server_key(invite, via, scope))

    def respond(
        self,
        transaction: Transaction[FlowT],
        response: Response,
        now: float,
        *,
        flow: FlowT | None = None,
        forget: bool = False,
    ) -> list[Output[FlowT]]:
        """Answer a request, on `flow` if it is not the one it came on. After a final answer another one is absorbed.

        `forget`: it is a failure, and the transaction ends with it.
        """
        row = MACHINES[transaction.kind].get(transaction.state, {})
        event = Input.REFUSAL if forget else _kind_of_response(response)
        outputs: list[Output[FlowT]] = []
        if event in row:
            transaction.data, transaction.sent = response.to_bytes(), response
            transaction.way_out = transaction.flow if flow is None else flow
            self._step(transaction, event, response, now, outputs)
        return outputs

    def transport_failed(self, transaction: Transaction[FlowT], now: float) -> list[Output[FlowT]]:
        """The transport could not deliver what the transaction sent (RFC 3261 17.1.4, 17.2.4)."""
        outputs: list[Output[FlowT]] = []
        self._step(transaction, Input.BROKEN, transaction.request, now, outputs)
        return outputs

    def expire(self, now: float) -> Iterator[Output[FlowT]]:
        """Fire the timers that are due, one after the other."""
        alarms = self._alarms
        while alarms and alarms[0][0] <= now:
            outputs: list[Output[FlowT]] = []
            _, _, transaction = heapq.heappop(alarms)
            if transaction.end_at <= now:
                transaction.end_at = NEVER
                self._step(transaction, Input.END, transaction.request, now, outputs)
            elif transaction.repeat_at <= now:
                transaction.repeat_at = NEVER
                self._step(transaction, Input.REPEAT, transaction.request, now, outputs)
            yield from outputs

    def _step(
        self,
        transaction: Transaction[FlowT],
        event: Input,
        message: Request | Response,
        now: float,
        outputs: list[Output[FlowT]],
    ) -> None:
        row = MACHINES[transaction.kind].get(transaction.state, {}).get(event)
        if row is None:
            return
        transaction.state, effects = row
        self._carry_out(transaction, effects, message, now, outputs)
        if event is Input.REPEAT:
            self._repeat(transaction, now)
        if transaction.state is State.TERMINATED:
            self._end(transaction, outputs)

    def _carry_out(
        self,
        transaction: Transaction[FlowT],
        effects: tuple[Effect, ...],
        message: Request | Response,
        now: float,
        outputs: list[Output[FlowT]],
    ) -> None:
        for effect in effects:
            if effect is Effect.SEND or effect is Effect.SEND_AGAIN:
                assert transaction.sent is not None and transaction.way_out is not None
                again = effect is Effect.SEND_AGAIN
                outputs.append(Transmit(transaction.data, transaction.sent, transaction.way_out, again))
            elif effect is Effect.REPORT:
                if isinstance(message, Response):
                    outputs.append(Answered(message, transaction))
                else:
                    outputs.append(Arrived(message, None if message.method == "ACK" else transaction))
            elif effect is Effect.SEND_ACK:
                assert isinstance(message, Response)
                ack = _ack(transaction.request, message)
                outputs.append(Transmit(ack.to_bytes(), ack, transaction.flow, False))
            elif effect is Effect.REPEAT:
                self._repeat(transaction, now)
            elif effect is Effect.AWAIT:
                transaction.end_at = now + transaction.timers.timeout
                self._alarm(transaction, transaction.end_at)
            elif effect is Effect.AWAIT_NO_MORE:
                transaction.repeat_at = transaction.end_at = NEVER
            elif effect is Effect.LINGER:
                transaction.repeat_at = NEVER
                if transaction.kind is Kind.SERVER or transaction.kind is Kind.CLIENT:
                    transaction.request = Request(method=transaction.request.method, uri="", headers=())
                    if transaction.kind is Kind.CLIENT:
                        transaction.data, transaction.sent = b"", None
                    elif transaction.unproven:
                        assert transaction.sent is not None
                        named = (item for item in transaction.sent.headers if item.name == "call-id")
                        transaction.sent = transaction.sent.with_headers(named)
                linger = transaction.linger
                if linger:
                    transaction.end_at = now + linger
                    self._alarm(transaction, transaction.end_at)
                else:
                    transaction.state = State.TERMINATED
            elif effect is Effect.SERVED:
                if transaction.share is not None:
                    transaction.share.serve(transaction.peer, transaction)
            elif effect is Effect.TIMED_OUT:
                outputs.append(TimedOut(transaction))
            else:
                outputs.append(Failed(transaction))

    def _repeat(self, transaction: Transaction[FlowT], now: float) -> None:
        """Set timer A (doubles without end), E (doubles up to T2; T2 once there was a 1xx) or G (doubles up to T2).

        None toward an address that may be forged: it would get many answers for one request.
        """
        if transaction.reliable or transaction.unproven:
            return
        timers = transaction.timers
        interval = 2 * transaction.interval or timers.t1
        if transaction.kind is not Kind.INVITE_CLIENT:
            slow = transaction.kind is Kind.CLIENT and transaction.state is State.PROCEEDING
            interval = timers.t2 if slow else min(interval, timers.t2)
        transaction.interval = interval
        transaction.repeat_at = now + interval
        self._alarm(transaction, transaction.repeat_at)

    def _alarm(self, transaction: Transaction[FlowT], at: float) -> None:
        self._alarm_number += 1
        heapq.heappush(self._alarms, (at, self._alarm_number, transaction))
        if len(self._alarms) > SPARE_ALARMS + ALARMS * len(self):
            # Else a transaction that was answered at once would stay until its time-out.
            self._alarms[:] = [each for each in self._alarms if each[0] in (each[2].end_at, each[2].repeat_at)]
            heapq.heapify(self._alarms)

    def _end(self, transaction: Transaction[FlowT], outputs: list[Output[FlowT]]) -> None:
        transaction.repeat_at = transaction.end_at = NEVER
        transaction.data, transaction.sent = b"", None  # its alarms stay until they are due, and it in them
        table = self._clients if transaction.kind in (Kind.CLIENT, Kind.INVITE_CLIENT) else self._servers
        if table.get(transaction.key) is transaction:
            del table[transaction.key]
            if transaction.share is not None:
                transaction.share.remove(transaction.peer, transaction)
            outputs.append(Ended(transaction))


def _kind_of_response(response: Response) -> Input:
    if response.status < 200:
        return Input.PROVISIONAL
    return Input.SUCCESS if response.status < 300 else Input.FAILURE


def _server_key(request: Request, via: Via, scope: Hashable) -> Hashable:
    """RFC 3261 17.2.3. The scope belongs to it, so that nobody runs into the transaction of another."""
    method = "INVITE" if request.method == "ACK" else request.method
    if via.branch.startswith(MAGIC_COOKIE) and via.branch != MAGIC_COOKIE:  # RFC 4475 3.2.1: a cookie names nothing
        return via.branch, via.host.lower(), via.port, method, scope
    cseq = parse_cseq(request.first("cseq") or "")
    tag = parse_name_addr(request.first("from") or "").param("tag")
    return request.uri, top_via(request), tag, request.first("call-id"), cseq.number, method, scope


def cancel_of(request: Request) -> Request:
    """The CANCEL of a request as it was sent (RFC 3261 9.1)."""
    cseq = parse_cseq(request.first("cseq") or "")
    headers = [header("Via", top_via(request)), header("Max-Forwards", "70")]
    headers += [item for item in request.headers if item.name in ("from", "to", "call-id", "route")]
    headers += [header("CSeq", f"{cseq.number} CANCEL"), header("Content-Length", "0")]
    return Request(method="CANCEL", uri=request.uri, headers=tuple(headers))


def _ack(request: Request, response: Response) -> Request:
    """The ACK of an INVITE client transaction to a failure (RFC 3261 17.1.1.3)."""
    cseq = parse_cseq(request.first("cseq") or "")
    headers = [header("Via", top_via(request)), header("Max-Forwards", "70")]
    headers += [item for item in request.headers if item.name in ("from", "call-id", "route")]
    headers += [item for item in response.headers if item.name == "to"]
    headers += [header("CSeq", f"{cseq.number} ACK"), header("Content-Length", "0")]
    return Request(method="ACK", uri=request.uri, headers=tuple(headers))
