"""One SIP endpoint of a simulator on the event loop: sockets, transactions and their one timer.

What is said is the simulators'. Timers are a profile (TS 24.229 7.7); a client transaction is awaited as one call.
"""

import asyncio
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from pcscf.sip.fields import parse_via, top_via
from pcscf.sip.message import Request, Response
from pcscf.sip.parse import ParseError
from pcscf.sip.transaction import (
    Answered,
    Arrived,
    Ended,
    Failed,
    Output,
    State,
    TimedOut,
    TimerProfile,
    Transaction,
    Transactions,
    Transmit,
)
from pcscf.transport import Transport
from pcscf.vocabulary import Flow, Interface

TRANSACTIONS = 50_000
NEVER_OPEN = "connecting to "
"""How the transport's reason begins when a connection could not be made."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A message on a flow as this endpoint saw it; `at` is seconds of the loop's clock, `again` a retransmission."""

    at: float
    incoming: bool
    flow: Flow
    message: Request | Response
    again: bool = False


class NoAnswer(Exception):
    """A request got no final response; `str` says why."""


RequestHandler = Callable[[Request, Transaction[Flow]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Who hears of a request begun with `Endpoint.begin`: every response that is no retransmission to the machine
    (each 2xx of an INVITE, RFC 6026 7.2), or why none can come; at last that the transaction is over."""

    on_response: Callable[[Response], None]
    on_failure: Callable[[str], None]
    on_end: Callable[[], None] = lambda: None


class Endpoint:
    """Sends requests and awaits their answers; hands new requests to `on_request`.

    `on_seen` hears of every message in and out. `admit(message, flow)` may refuse what came in: it is then ignored.
    `on_ack` gets the ACKs of 2xx.
    `delays(message, flow, again)` gives the seconds after which each copy of what is sent leaves: none, one or more.
    """

    def __init__(
        self,
        on_request: RequestHandler,
        *,
        timers: TimerProfile,
        on_seen: Callable[[Seen], None],
        admit: Callable[[Request | Response, Flow], bool] = lambda message, flow: True,
        on_malformed: Callable[[ParseError, Flow], None] = lambda error, flow: None,
        on_ack: Callable[[Request, Flow], None] = lambda request, flow: None,
        delays: Callable[[Request | Response, Flow, bool], tuple[float, ...]] = lambda message, flow, again: (0.0,),
        guard: Callable[[socket.socket, Interface], None] = lambda guarded, interface: None,
    ) -> None:
        self.transport = Transport(self._received, on_malformed, self._closed, guard=guard)
        self._on_request = on_request
        self._timers = timers
        self._on_seen = on_seen
        self._admit = admit
        self._on_ack = on_ack
        self._delays = delays
        self._transactions: Transactions[Flow] = Transactions(limit=TRANSACTIONS)
        self._waiting: dict[Transaction[Flow], asyncio.Future[Response]] = {}
        self._listeners: dict[Transaction[Flow], Listener] = {}
        self._unanswered: set[Transaction[Flow]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._open = True

    async def request(self, request: Request, flow: Flow, *, patience: float) -> Response:
        """Send a request and wait up to `patience` seconds for its final response. Raises NoAnswer."""
        loop = asyncio.get_running_loop()
        transaction, outputs = self._transactions.request(
            request, flow, timers=self._timers, reliable=flow.transport == "TCP", now=loop.time()
        )
        answer: asyncio.Future[Response] = loop.create_future()
        self._waiting[transaction] = answer
        self._carry_out(outputs)
        try:
            async with asyncio.timeout(patience):
                return await answer
        except TimeoutError:
            raise NoAnswer(f"no answer from {flow.remote} port {flow.remote_port} in {patience:g} s") from None
        finally:
            if self._waiting.pop(transaction, None):  # given up: no more retransmissions
                self._carry_out(self._transactions.transport_failed(transaction, loop.time()))

    def begin(self, request: Request, flow: Flow, listener: Listener) -> Transaction[Flow]:
        """Send a request and go on; the listener hears what comes of it, and never before this returns."""
        transaction, outputs = self._transactions.request(
            request,
            flow,
            timers=self._timers,
            reliable=flow.transport == "TCP",
            now=asyncio.get_running_loop().time(),
        )
        self._listeners[transaction] = listener
        self._carry_out(outputs)
        return transaction

    def abandon(self, transaction: Transaction[Flow]) -> None:
        """Stop a request of `begin`; its listener hears nothing but the end."""
        if listener := self._listeners.get(transaction):
            self._listeners[transaction] = replace(
                listener, on_response=lambda response: None, on_failure=lambda why: None
            )
            self._carry_out(self._transactions.transport_failed(transaction, asyncio.get_running_loop().time()))

    def transmit(self, message: Request | Response, flow: Flow, *, again: bool = False) -> None:
        """Send what has no transaction: the ACK of a 2xx (RFC 3261 13.2.2.4), what a stateless proxy passes on."""
        self._send(Transmit(message.to_bytes(), message, flow, again))

    def busy(self, flows: Collection[Flow]) -> bool:
        """Whether a request of ours waits for its final answer on one of these flows, or one of theirs for ours."""
        asked = (each for each in [*self._waiting, *self._listeners] if each.state in (State.STARTED, State.PROCEEDING))
        return any(each.flow in flows for each in [*asked, *self._unanswered])

    def respond(self, transaction: Transaction[Flow], response: Response, flow: Flow) -> None:
        """Answer a request on a flow; retransmissions of it are answered alike."""
        if response.status >= 200:
            self._unanswered.discard(transaction)
        now = asyncio.get_running_loop().time()
        self._carry_out(self._transactions.respond(transaction, response, now, flow=flow))

    async def close(self) -> None:
        """Close every socket; whoever waits for an answer gets NoAnswer."""
        self._open = False
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(NoAnswer("this endpoint was closed"))
        self._waiting.clear()
        self._listeners.clear()
        self._unanswered.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        await self.transport.close()

    def _received(self, message: Request | Response, flow: Flow) -> None:
        now = asyncio.get_running_loop().time()
        self._on_seen(Seen(now, True, flow, message))
        if not self._admit(message, flow):
            return
        try:
            outputs = self._transactions.receive(
                message, flow, timers=self._timers, reliable=flow.transport == "TCP", now=now
            )
        except ParseError as error:
            self.transport.on_malformed(error, flow)
            return
        self._carry_out(outputs, flow)

    def _closed(self, flow: Flow, reason: str) -> None:
        now = asyncio.get_running_loop().time()
        for transaction in [each for each in self._waiting if each.flow == flow]:
            answer = self._waiting.pop(transaction)
            if not answer.done():
                answer.set_exception(NoAnswer(f"{flow.remote} port {flow.remote_port}: {reason}"))
            self._carry_out(self._transactions.transport_failed(transaction, now))
        if flow.transport == "TCP" and not reason.startswith(NEVER_OPEN):
            return  # what was sent has arrived: the answer may come over another connection (RFC 3261 18.2.2)
        for asked in [each for each in self._listeners if each.flow == flow and each.state is State.STARTED]:
            self._listeners[asked].on_failure(f"{flow.remote} port {flow.remote_port}: {reason}")
            self.abandon(asked)

    def _expire(self) -> None:
        self._alarm = None
        self._carry_out(list(self._transactions.expire(asyncio.get_running_loop().time())))

    def _carry_out(self, outputs: list[Output[Flow]], arrived_on: Flow | None = None) -> None:
        loop = asyncio.get_running_loop()
        for output in outputs:
            if isinstance(output, Transmit):
                self._send(output)
            elif isinstance(output, Arrived):
                if output.transaction is not None:
                    self._unanswered.add(output.transaction)
                    self._on_request(output.request, output.transaction)
                elif arrived_on is not None:
                    self._on_ack(output.request, arrived_on)
            elif isinstance(output, Answered):
                if output.transaction is None:
                    continue
                if listener := self._listeners.get(output.transaction):
                    listener.on_response(output.response)
                elif output.response.status >= 200:
                    answer = self._waiting.pop(output.transaction, None)
                    if answer is not None and not answer.done():
                        answer.set_result(output.response)
            elif isinstance(output, TimedOut | Failed):
                answer = self._waiting.pop(output.transaction, None)
                if answer is not None and not answer.done():
                    answer.set_exception(NoAnswer("no answer before the transaction timed out"))
                if listener := self._listeners.get(output.transaction):
                    listener.on_failure("no answer before the transaction timed out")
            elif isinstance(output, Ended):
                self._unanswered.discard(output.transaction)
                if listener := self._listeners.pop(output.transaction, None):
                    listener.on_end()
        self._set_alarm(loop)

    def _send(self, output: Transmit[Flow]) -> None:
        for delay in self._delays(output.message, output.flow, output.again):
            if delay:
                asyncio.get_running_loop().call_later(delay, self._leave, output)
            else:
                self._leave(output)

    def _leave(self, output: Transmit[Flow]) -> None:
        if not self._open:
            return
        self._on_seen(Seen(asyncio.get_running_loop().time(), False, output.flow, output.message, output.again))
        self.transport.send(output.data, output.flow)

    def _set_alarm(self, loop: asyncio.AbstractEventLoop) -> None:
        deadline = self._transactions.deadline
        if self._alarm is not None:
            if self._alarm.when() == deadline:
                return
            self._alarm.cancel()
        self._alarm = None
        if self._open and deadline is not None:
            self._alarm = loop.call_at(deadline, self._expire)


def reply_flow(request: Request, flow: Flow) -> Flow:
    """Where the answer to a request in clear goes (RFC 3261 18.2.2, RFC 3581 4). Raises ParseError: no readable Via."""
    if flow.transport == "TCP":
        return flow
    via = parse_via(top_via(request))
    return flow if via.param("rport") is not None else flow._replace(remote_port=via.port or 5060)
