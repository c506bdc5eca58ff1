"""What a phone does with requests of the network: messages are kept, calls ring, NOTIFYs are acted upon.

Each request has come inside the SAs already (`gm`); what is wrong with it is put into words (`strict`).
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

from pcscf.lab.agreement import SecuritySet
from pcscf.lab.call import Call
from pcscf.lab.callee import Answering, IncomingCall
from pcscf.lab.caller import OutgoingCall
from pcscf.lab.line import METHODS, Line
from pcscf.lab.outcome import KeptMessage
from pcscf.lab.strict import request_complaints
from pcscf.lab.watching import Watch
from pcscf.sip.fields import parse_name_addr
from pcscf.sip.message import Request, header
from pcscf.sip.parse import ParseError
from pcscf.sip.transaction import Transaction
from pcscf.vocabulary import Flow

KEPT_MESSAGES = 1000
KEPT_CALLS = 200
MOST_CALLS = 10
"""Calls at one time; one more is told that we are busy."""


class Reception:
    """Messages, calls and the subscription of one phone. `answering` is what happens to the next call."""

    def __init__(self, line: Line) -> None:
        self.messages: deque[KeptMessage] = deque(maxlen=KEPT_MESSAGES)
        self.unread: deque[KeptMessage] = deque(maxlen=KEPT_MESSAGES)
        """Those of `messages` that nobody has taken yet."""
        self.calls: deque[Call] = deque(maxlen=KEPT_CALLS)
        self.answering = Answering()
        self.watch: Watch | None = None
        self._line = line
        self._changed = asyncio.Event()

    @property
    def call(self) -> Call | None:
        """The newest call that has not ended."""
        return next((each for each in reversed(self.calls) if each.alive), None)

    def place(self, call: OutgoingCall) -> None:
        """Keep a call of ours, then start it. Raises NotRegistered."""
        self.calls.append(call)
        call.start()

    async def until(self, holds: Callable[[], bool], *, within: float) -> bool:
        """Wait until something that came in makes this true, at most `within` seconds; whether it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not holds():
                    await self._changed.wait()
        return holds()

    def requested(self, request: Request, transaction: Transaction[Flow], carrier: SecuritySet) -> None:
        """Deal with a request of the network."""
        for each in request_complaints(request, carrier, tcp=transaction.flow.transport == "TCP"):
            self._line.diary.complain(each)
        try:
            self._deal(request, transaction)
        except ParseError as error:
            self._line.diary.complain(f"{request.method}: {error}")
            self._line.reply(transaction, error.status)
        self._changed.set()
        self._changed = asyncio.Event()

    def acknowledged(self, request: Request, carrier: SecuritySet) -> None:
        """The ACK of a 2xx."""
        for each in request_complaints(request, carrier, tcp="/TCP" in (request.first("via") or "").upper()):
            self._line.diary.complain(each)
        if call := self._call_of(request):
            call.acknowledged(request)

    def close(self) -> None:
        """Forget everything without a word to the network."""
        for each in self.calls:
            each.close()
        self.watch = None

    def _deal(self, request: Request, transaction: Transaction[Flow]) -> None:
        line = self._line
        in_dialog = parse_name_addr(request.first("to") or "").param("tag") is not None
        match request.method:
            case "CANCEL":
                self._cancelled(request, transaction)
            case "NOTIFY":
                if self.watch is not None and self.watch.is_of(request):
                    self.watch.notified(request, transaction)
                else:
                    line.reply(transaction, 481)
            case _ if in_dialog and (call := self._call_of(request)):
                call.requested(request, transaction)
            case _ if in_dialog:
                line.reply(transaction, 481)
            case "MESSAGE":
                self._keep(request)
                line.reply(transaction, 200)
            case "OPTIONS":
                accepted = header("Accept", "application/sdp, text/plain, application/vnd.3gpp.sms")
                line.reply(transaction, 200, headers=[header("Allow", METHODS), accepted])
            case "INVITE":
                self._called(request, transaction)
            case _:
                line.reply(transaction, 405, headers=[header("Allow", METHODS)])

    def _keep(self, request: Request) -> None:
        asserted = request.values("p-asserted-identity")
        kept = KeptMessage(
            at=self._line.diary.now,
            sender=parse_name_addr(asserted[0] if asserted else request.first("from") or "").uri,
            content_type=request.first("content-type") or "",
            body=request.body,
        )
        self.messages.append(kept)
        self.unread.append(kept)

    def _called(self, request: Request, transaction: Transaction[Flow]) -> None:
        if sum(each.alive for each in self.calls) >= MOST_CALLS:
            self._line.reply(transaction, 486)
            return
        call = IncomingCall(self._line, request, transaction, self.answering)
        self.calls.append(call)
        call.start()

    def _cancelled(self, request: Request, transaction: Transaction[Flow]) -> None:
        for call in self.calls:
            if isinstance(call, IncomingCall) and call.is_cancelled_by(request):
                if transaction.flow != call.transaction.flow:
                    self._line.diary.complain(
                        f"CANCEL came on {transaction.flow}, its INVITE on {call.transaction.flow}"
                    )
                self._line.reply(transaction, 200)
                call.cancelled()
                return
        self._line.reply(transaction, 481)

    def _call_of(self, request: Request) -> Call | None:
        return next((each for each in reversed(self.calls) if each.is_of(request)), None)
