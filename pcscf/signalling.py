"""Replies and requests of the proxy on the flow where they belong, and nowhere else.

Owns the transactions and the rule of digest A2: what concerns a protected port leaves inside the SA of its set,
or not at all. What a message means is for the procedures.
"""

from collections.abc import Sequence

from pcscf import routing
from pcscf.observe import MessageSeen
from pcscf.registration import Registrar, SaSet
from pcscf.sip.message import Header, Request, Response, response_to
from pcscf.sip.parse import ParseError
from pcscf.sip.transaction import CORE_TIMERS, GM_TIMERS, Output, Transaction, Transactions, Transmit
from pcscf.turn import Turn
from pcscf.vocabulary import Flow, Interface, Send


class Signalling:
    """The transactions of one proxy and the way of its messages out."""

    def __init__(self, turn: Turn, registrar: Registrar, *, limit: int) -> None:
        self._turn = turn
        self._registrar = registrar
        self._transactions: Transactions[Flow] = Transactions(limit=limit)

    @property
    def deadline(self) -> float | None:
        return self._transactions.deadline

    def sa_set_of(self, flow: Flow) -> SaSet | None:
        """The set whose SAs carry a flow between protected ports (digest A6 rule 4)."""
        if flow.interface is not Interface.GM_PROTECTED:
            return None
        return self._registrar.at_ports(flow.remote, flow.remote_port, flow.local_port)

    def receive(self, message: Request | Response, flow: Flow) -> list[Output[Flow]]:
        timers = CORE_TIMERS if flow.interface is Interface.MW else GM_TIMERS
        reliable = flow.transport == "TCP"
        return self._send(
            self._transactions.receive(message, flow, timers=timers, reliable=reliable, now=self._turn.now)
        )

    def expire(self) -> list[Output[Flow]]:
        return self._send(self._transactions.expire(self._turn.now))

    def transport_failed(self, transaction: Transaction[Flow]) -> list[Output[Flow]]:
        return self._send(self._transactions.transport_failed(transaction, self._turn.now))

    def request(self, request: Request, flow: Flow) -> Transaction[Flow]:
        """Send a request toward the core in a client transaction of its own."""
        transaction, outputs = self._transactions.request(
            request, flow, timers=CORE_TIMERS, reliable=flow.transport == "TCP", now=self._turn.now
        )
        self._send(outputs)
        return transaction

    def reply(self, transaction: Transaction[Flow], flow: Flow, response: Response) -> None:
        """Answer a request on `flow`, which `reply_flow` gave; retransmissions take the same way."""
        self._send(self._transactions.respond(transaction, response, self._turn.now, flow=flow))

    def reply_at_once(self, request: Request, flow: Flow, status: int, extra: Sequence[Header] = ()) -> None:
        """Answer without a transaction; an ACK gets no answer."""
        if request.method == "ACK":
            return
        try:
            reply_flow = self.reply_flow(request, flow)
        except ParseError:
            return  # nowhere to send it
        response = response_to(request, status, headers=extra, to_tag=self._turn.token(4))
        self._transmit(response.to_bytes(), response, reply_flow)

    def reply_flow(self, request: Request, flow: Flow) -> Flow:
        """The flow of a response (digest A2): over UDP inside ESP from port_pc to port_us, whatever rport says.

        Raises ParseError when a request in clear has no readable Via.
        """
        if flow.interface is not Interface.GM_PROTECTED:
            return routing.clear_reply_flow(request, flow)
        sa_set = self.sa_set_of(flow)
        if sa_set is None or flow.transport == "TCP":
            return flow
        return flow._replace(local_port=sa_set.parameters.port_pc, remote_port=sa_set.parameters.port_us)

    def note(self, message: Request | Response, flow: Flow, sa_set: SaSet | None, *, incoming: bool) -> None:
        summary = message.method if isinstance(message, Request) else f"{message.status} {message.reason}"
        spi = 0 if sa_set is None else sa_set.spi(flow.local_port, incoming=incoming)
        call_id = message.first("call-id") or ""
        self._turn.note(MessageSeen(self._turn.now, incoming, flow, spi, summary, call_id))

    def _send(self, outputs: list[Output[Flow]]) -> list[Output[Flow]]:
        """Put on the wire what the transactions want there; what is left is for the procedures."""
        rest: list[Output[Flow]] = []
        for output in outputs:
            if isinstance(output, Transmit):
                self._transmit(output.data, output.message, output.flow)
            else:
                rest.append(output)
        return rest

    def _transmit(self, data: bytes, message: Request | Response, flow: Flow) -> None:
        sa_set = self.sa_set_of(flow)
        if sa_set is None and flow.interface is Interface.GM_PROTECTED:
            self._turn.problem("a reply has lost its SA; not sent", flow)
            return
        self._turn.do(Send(data, flow, connect=flow.interface is Interface.MW))
        self.note(message, flow, sa_set, incoming=False)
