"""Replies and requests of the proxy on the flow where they belong, and nowhere else.

Owns the transactions and the rule of digest A2: what concerns a protected port leaves inside the SA of its set,
or not at all. What a message means is for the procedures.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, assert_never

from pcscf import routing
from pcscf.observe import NAME, MessageSeen, ProblemKind
from pcscf.registrar import Registrar
from pcscf.registration import Registration, SaSet
from pcscf.sip.message import Header, Request, Response, header, response_to
from pcscf.sip.parse import LONG_HEX, ParseError, without_keys_in
from pcscf.sip.share import Share
from pcscf.sip.transaction import (
    CORE_TIMERS,
    GM_TIMERS,
    Answered,
    Arrived,
    Ended,
    Failed,
    Output,
    Refused,
    State,
    TimedOut,
    TimerProfile,
    Transaction,
    Transactions,
    Transmit,
)
from pcscf.turn import Turn
from pcscf.vocabulary import Flow, Interface, Send, source_of

NO_ANSWER = "no answer in time"
UNREACHABLE = "the next hop cannot be reached"
OWN_BRANCH = len("z9hG4bK0123456789abcdef")
LONGEST_ANSWER = 1200
"""Octets of an answer of our own to somebody who may have forged where the request came from."""
STATUS_AND_TAG = 120
"""Octets of the status line, our tag, Retry-After and Content-Length, with room to spare."""
LONGEST_UNPROVEN = 8192
"""Octets of a request that is served before anybody knows who sent it; a REGISTER has 1500."""
EMERGENCY = "emergency"
NEEDED = frozenset({"via", "from", "to", "call-id", "cseq"})
"""What an answer cannot be without (RFC 3261 8.2.6.2)."""


class TransactionUser(Protocol):
    """Who sent a request of ours, and hears what becomes of it."""

    def answered(self, response: Response, transaction: Transaction[Flow]) -> None:
        """A response came; several may, the final one last (2xx to INVITE: last of all)."""

    def unanswered(self, transaction: Transaction[Flow], why: str) -> None:
        """No final response will come. `why` is for people."""

    def ended(self, transaction: Transaction[Flow]) -> None:
        """The transaction is over: the last that is heard of it."""


class RequestUser(Protocol):
    """Who is asked about requests that came in."""

    def arrived(self, request: Request, transaction: Transaction[Flow]) -> None:
        """A new request."""

    def acknowledged(self, request: Request, flow: Flow) -> None:
        """An ACK that belongs to no failed INVITE: it goes on, end to end (RFC 3261 13.2.2.4)."""

    def ended(self, transaction: Transaction[Flow]) -> None:
        """The server transaction of an earlier `arrived` is over."""


class _Nobody:
    """Cares for nothing."""

    def answered(self, response: Response, transaction: Transaction[Flow]) -> None:
        pass

    def unanswered(self, transaction: Transaction[Flow], why: str) -> None:
        pass

    def ended(self, transaction: Transaction[Flow]) -> None:
        pass


NOBODY: TransactionUser = _Nobody()
"""For requests of which nobody wants to hear again, as CANCEL."""


class Signalling:
    """The transactions of one proxy and the way of its messages out."""

    def __init__(
        self,
        turn: Turn,
        registrar: Registrar,
        *,
        limit: int,
        per_source: int,
        gm_timers: TimerProfile = GM_TIMERS,
    ) -> None:
        self.gm_timers = gm_timers
        self._turn = turn
        self._registrar = registrar
        self._transactions: Transactions[Flow] = Transactions()
        self._unknown: Share[Transaction[Flow]] = Share(0, 0)
        """Requests in clear of whoever says to be at an address."""
        self._contacts: Share[Transaction[Flow]] = Share(0, 0)
        """Requests of registered contacts, and of UEs inside ESP that are about to be."""
        self._core: Share[Transaction[Flow]] = Share(0, 0)
        self.allow(limit, per_source)
        self._users: dict[Transaction[Flow], TransactionUser] = {}
        self._servers: dict[Transaction[Flow], RequestUser] = {}
        self._connections: dict[SaSet, Flow] = {}
        self._on_connection: dict[Flow, dict[Transaction[Flow], None]] = {}
        """Requests of ours over TCP that are not over."""

    def __len__(self) -> int:
        """Transactions that are not over."""
        return len(self._transactions)

    @property
    def deadline(self) -> float | None:
        return self._transactions.deadline

    def sa_set_of(self, flow: Flow) -> SaSet | None:
        """The set whose SAs carry a flow between protected ports (digest A6 rule 4)."""
        if flow.interface is not Interface.GM_PROTECTED:
            return None
        return self._registrar.at_ports(flow.remote, flow.remote_port, flow.local_port)

    def _scope(self, flow: Flow) -> object:
        """Who is at the other end of a flow, for the matching of transactions.

        The core is one, over whichever connection. A UE inside ESP is its registration: an ACK, a CANCEL or an answer
        may come on its next set. In clear only the very same flow is believed.
        """
        if flow.interface is Interface.MW:
            return Interface.MW
        sa_set = self.sa_set_of(flow)
        return flow if sa_set is None else sa_set.registration

    def timers(self, flow: Flow) -> TimerProfile:
        """Those of the interface (TS 24.229 7.7, digest C0)."""
        return CORE_TIMERS if flow.interface is Interface.MW else self.gm_timers

    def linger(self, flow: Flow) -> float:
        """Seconds a set is kept for an answer given on `flow`: Timer J; over TCP, where that is 0, T4 for the last."""
        return self.gm_timers.t4 if flow.transport == "TCP" else self.gm_timers.timeout

    def invite_of(self, cancel: Request, flow: Flow) -> Transaction[Flow] | None:
        """The INVITE server transaction that a CANCEL is about. Raises ParseError."""
        return self._transactions.invite_of(cancel, self._scope(flow))

    def abandon(self, transaction: Transaction[Flow]) -> None:
        """Forget a request: no answer to it counts any more, or will be given, and its user hears of its end."""
        self.disown(transaction)
        self._take(self._transactions.transport_failed(transaction, self._turn.now), None, None)

    def disown(self, transaction: Transaction[Flow]) -> None:
        """Its user has what it waited for, and need not be kept as long as the transaction lingers."""
        if transaction in self._users:
            self._users[transaction] = NOBODY

    def send_once(self, request: Request, flow: Flow) -> None:
        """Send a request that has no transaction: an ACK to a 2xx."""
        self._transmit(request.to_bytes(), request, flow)

    def receive(self, message: Request | Response, flow: Flow, user: RequestUser, *, emergency: bool = False) -> None:
        """Take a message to its transaction; a new request goes to `user`. Raises ParseError: no readable Via.

        An `emergency` call of a contact is counted apart from what else it sends.
        """
        scope, unproven = self._scope(flow), False
        share, peer = self._contacts, scope
        if flow.interface is Interface.MW:
            share, peer = self._core, None
        elif flow.interface is Interface.GM:
            unproven = self.is_unproven(flow)
            if not unproven:
                peer = self._registrar.in_clear(flow)
            elif isinstance(message, Request) and self._is_too_long(message, flow):
                return
            else:
                share, peer = self._unknown, source_of(flow.remote)
        if emergency and not unproven:
            peer = (peer, EMERGENCY)
        outputs = self._transactions.receive(
            message,
            flow,
            timers=self.timers(flow),
            reliable=flow.transport == "TCP",
            now=self._turn.now,
            scope=scope,
            share=share,
            peer=peer,
            unproven=unproven,
        )
        self._take(outputs, user, flow)

    def is_unproven(self, flow: Flow) -> bool:
        """Whether nobody has shown yet to be at the other end: in clear, and no contact that the core has accepted."""
        if flow.interface is not Interface.GM:
            return False
        contact = self._registrar.in_clear(flow)
        return contact is None or not contact.registered

    def _is_too_long(self, request: Request, flow: Flow) -> bool:
        """Refuse a request that would have us hold, or send back, more than a UE has to say before it is known.

        RFC 3261 8.2.6.2 has us copy its Vias: where they leave no room for an answer there is none.
        """
        if len(response_to(request, 100).to_bytes()) > LONGEST_ANSWER - STATUS_AND_TAG:
            what = f"an answer would have more than {LONGEST_ANSWER} octets"
        elif sum([len(item[2]) for item in request.headers]) + len(request.body) > LONGEST_UNPROVEN:
            what = f"more than {LONGEST_UNPROVEN} octets"
        else:
            return False
        self._turn.problem(f"{request.method} in clear refused with 513: {what}", flow)
        self.reply_at_once(request, flow, 513)
        return True

    def expire(self, user: RequestUser) -> None:
        """Fire the timers that are due."""
        self._take(self._transactions.expire(self._turn.now), user, None)

    def flow_lost(self, flow: Flow) -> None:
        """A connection is gone or could not be made: requests of ours that nobody has answered fail (RFC 3261 17.1.4).

        Who has sent a provisional response has the request, and will answer it over a connection of its own.
        """
        if flow.transport == "UDP":  # one datagram could not be sent; it is sent again, and the others are under way
            return
        sa_set = self.sa_set_of(flow)
        if sa_set is not None and self._connections.get(sa_set) == flow:
            del self._connections[sa_set]
        waiting = [each for each in self._on_connection.get(flow, ()) if each.state is State.STARTED]
        for transaction in waiting:
            outputs = self._transactions.transport_failed(transaction, self._turn.now)
            self._turn.attempt(self._take, outputs, None, flow)

    def request(self, request: Request, flow: Flow, user: TransactionUser) -> Transaction[Flow]:
        """Send a request in a client transaction of its own; `user` hears what becomes of it."""
        transaction, outputs = self._transactions.request(
            request,
            flow,
            timers=self.timers(flow),
            reliable=flow.transport == "TCP",
            now=self._turn.now,
            scope=self._scope(flow),
        )
        self._users[transaction] = user
        if transaction.reliable:
            self._on_connection.setdefault(flow, {})[transaction] = None
        self._take(outputs, None, flow)
        return transaction

    def refuse(self, transaction: Transaction[Flow], flow: Flow, response: Response) -> None:
        """Answer a request that goes no further with a failure.

        Whoever has not proven where it is gets it once for each request it sends, and nothing is kept of it.
        """
        fitting = self._fitting(response, flow) if transaction.unproven else response
        if fitting is not None:
            self.reply(transaction, flow, fitting, forget=True)
        else:
            self.abandon(transaction)

    def _fitting(self, response: Response, flow: Flow) -> Response | None:
        """An answer of our own to an address that may be forged: no longer than LONGEST_ANSWER over UDP, if need be
        without its body and what is not needed; None where even that is longer, and it is not to be sent.
        """
        if flow.transport != "UDP" or len(response.to_bytes()) <= LONGEST_ANSWER:
            return response
        needed = [item for item in response.headers if item.name in NEEDED]
        shorter = Response(
            status=response.status, reason=response.reason, headers=(*needed, header("Content-Length", "0"))
        )
        if len(shorter.to_bytes()) <= LONGEST_ANSWER:
            return shorter
        self._turn.problem(f"a {response.status} would have more than {LONGEST_ANSWER} octets; not sent", flow)
        return None

    def reply(self, transaction: Transaction[Flow], flow: Flow, response: Response, *, forget: bool = False) -> None:
        """Answer a request on `flow`, which `reply_flow` gave; retransmissions take the same way.

        `forget`: a failure of which nothing is kept where nobody knows who asked.
        """
        if response.status >= 200:
            self._turn.tally.answered(transaction.request.method, response.status)
        forget = forget and transaction.unproven
        self._take(
            self._transactions.respond(transaction, response, self._turn.now, flow=flow, forget=forget), None, flow
        )

    def reply_at_once(
        self, request: Request, flow: Flow, status: int, extra: Sequence[Header] = (), body: bytes = b""
    ) -> None:
        """Answer without a transaction; an ACK gets no answer."""
        if request.method == "ACK":
            return
        try:
            reply_flow = self.reply_flow(request, flow)
        except ParseError:
            return  # nowhere to send it
        response = response_to(request, status, headers=extra, to_tag=self._turn.own_tag(request), body=body)
        self._turn.tally.answered(request.method, status)
        fitting = self._fitting(response, reply_flow) if self.is_unproven(flow) else response
        if fitting is not None:
            self._transmit(fitting.to_bytes(), fitting, reply_flow)

    def reply_flow(self, request: Request, flow: Flow, registration: Registration | None = None) -> Flow:
        """The flow of a response (digest A2): over UDP inside ESP from port_pc to port_us, whatever rport says.

        Over TCP the connection of the request; if that is gone, one of ours to port_us (RFC 3261 18.2.2). If the set of
        the request is gone, the one its registration sends on now. Raises ParseError when a request in clear has no
        readable Via.
        """
        if flow.interface is not Interface.GM_PROTECTED:
            return routing.clear_reply_flow(request, flow)
        sa_set = self.sa_set_of(flow)
        if sa_set is None and registration is not None:
            sa_set = self._registrar.sending_set(registration)
        if sa_set is None:
            return flow
        if flow.transport == "UDP":
            return self.downlink(sa_set)
        return flow if self._connections.get(sa_set) == flow else self.connection(sa_set)

    def downlink(self, sa_set: SaSet) -> Flow:
        """What we send inside a set over UDP, requests and responses alike: port_pc to port_us (digest A1 row 3)."""
        ends = sa_set.parameters
        return Flow("UDP", Interface.GM_PROTECTED, ends.pcscf, ends.port_pc, ends.ue, ends.port_us)

    def allow(self, transactions: int, per_source: int) -> None:
        """So many transactions at most from now on, and so many of one source or contact.

        Each side has a part that the others cannot take: a quarter is for what comes in clear, three eighths are for
        the contacts and as many for the core.
        """
        self._unknown.limit = -(-transactions // 4)
        self._contacts.limit = self._core.limit = self._core.of_one = -(-transactions * 3 // 8)
        self._unknown.of_one = self._contacts.of_one = per_source

    def connection(self, sa_set: SaSet) -> Flow:
        """The TCP connection of a set: the one there is, else one that we open from port_pc to port_us (digest A2)."""
        return self._connections.get(sa_set) or self.downlink(sa_set)._replace(transport="TCP")

    def carried(self, flow: Flow, sa_set: SaSet) -> None:
        """Something came over this connection of a set: the next thing we send may take it."""
        self._connections[sa_set] = flow

    def forget(self, sa_set: SaSet) -> None:
        """A set is gone, and its connections with it."""
        self._connections.pop(sa_set, None)

    def note(self, message: Request | Response, flow: Flow, sa_set: SaSet | None, *, incoming: bool) -> None:
        summary = (message.method if isinstance(message, Request) else f"{message.status} {message.reason}")[:NAME]
        if len(summary) >= LONG_HEX:  # as hardly any
            summary = without_keys_in(summary)
        spi = 0 if sa_set is None else sa_set.spi(flow.local_port, incoming=incoming)
        call_id = (message.first("call-id") or "")[:NAME]
        register = ""
        if flow.interface is Interface.MW and (message.first("cseq") or "").endswith("REGISTER"):
            register = (message.first("via") or "").partition("branch=")[2][:OWN_BRANCH]
        self._turn.note(MessageSeen(self._turn.now, incoming, flow, spi, summary, call_id, register))

    def _take(self, outputs: Iterable[Output[Flow]], user: RequestUser | None, flow: Flow | None) -> None:
        """Put on the wire what the transactions want there, and tell their users the rest.

        Raises what a user raises, after the others have heard what is theirs.
        """
        rest, failed = iter(outputs), None
        while True:
            try:
                self._hand_out(rest, user, flow)
                break
            except Exception as bug:
                failed = failed or bug
        if failed is not None:
            raise failed

    def _hand_out(self, outputs: Iterator[Output[Flow]], user: RequestUser | None, flow: Flow | None) -> None:
        for output in outputs:
            match output:
                case Transmit(data, message, way_out):
                    self._transmit(data, message, way_out)
                case Arrived(request, transaction):
                    assert user is not None and flow is not None
                    if transaction is None:
                        user.acknowledged(request, flow)
                    else:
                        self._servers[transaction] = user
                        user.arrived(request, transaction)
                case Answered(response, transaction):
                    if transaction is None:
                        self._turn.problem(f"a {response.status} response to nothing we asked; dropped", flow)
                    else:
                        self._users[transaction].answered(response, transaction)
                case TimedOut(transaction):
                    if sender := self._users.get(transaction):
                        sender.unanswered(transaction, NO_ANSWER)
                case Failed(transaction):
                    if sender := self._users.get(transaction):
                        sender.unanswered(transaction, UNREACHABLE)
                case Ended(transaction):
                    if transaction.reliable and (others := self._on_connection.get(transaction.flow)) is not None:
                        others.pop(transaction, None)
                        if not others:
                            del self._on_connection[transaction.flow]
                    ending: TransactionUser | RequestUser | None = self._users.pop(transaction, None)
                    if ending is None:
                        ending = self._servers.pop(transaction, None)
                    if ending is not None:  # a user without passages is false
                        ending.ended(transaction)
                case Refused(request, from_flow):
                    self._turn.problem("too many transactions; 503", from_flow)
                    self.reply_at_once(request, from_flow, 503, [header("Retry-After", "10")])
                case _:
                    assert_never(output)

    def _transmit(self, data: bytes, message: Request | Response, flow: Flow) -> None:
        sa_set = self.sa_set_of(flow)
        if sa_set is None and flow.interface is Interface.GM_PROTECTED:
            self._turn.problem("a reply has lost its SA; not sent", flow, kind=ProblemKind.UNDELIVERED)
            return
        connect = flow.interface is Interface.MW
        if flow.transport == "TCP" and sa_set is not None:
            connect = flow.local_port == sa_set.parameters.port_pc
            if connect:
                self._connections[sa_set] = flow
        self._turn.do(Send(data, flow, connect=connect))
        self.note(message, flow, sa_set, incoming=False)
