"""A call that we get: preconditions, reliable provisional responses, the answer as told (digest F10).

RFC 3261 13.3, RFC 3262 3, RFC 3312 5. After it is established it is like any other: `call`.
"""

import asyncio
from dataclasses import dataclass
from enum import StrEnum

from pcscf.lab.call import SDP, Call, CallState
from pcscf.lab.dialog import Dialog
from pcscf.lab.line import METHODS, Line
from pcscf.sip.fields import parse_name_addr, parse_via, top_via
from pcscf.sip.message import Header, Request, header
from pcscf.sip.parse import ParseError
from pcscf.sip.transaction import Transaction
from pcscf.vocabulary import Flow

UNDERSTOOD = ("100rel", "precondition", "timer", "replaces")
FIRST_RSEQ = 1


class Habit(StrEnum):
    """What a phone does with a call."""

    AFTER = "after"
    """It rings so many seconds and is answered."""
    BUSY = "busy"
    DECLINE = "decline"
    NEVER = "never"
    """It rings for ever, until somebody says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """`after` counts in seconds from the ringing."""

    habit: Habit = Habit.NEVER
    after: float = 0.0


REFUSALS = {Habit.BUSY: 486, Habit.DECLINE: 603}


class IncomingCall(Call):
    """A call that we get. Raises ParseError when its INVITE makes no dialog."""

    def __init__(self, line: Line, request: Request, transaction: Transaction[Flow], answering: Answering) -> None:
        asserted = request.values("p-asserted-identity")
        super().__init__(line, parse_name_addr(asserted[0] if asserted else request.first("from") or "").uri,
                         incoming=True)  # fmt: skip
        self.transaction = transaction
        self._request = request
        self._tag = line.token()
        self.dialog = Dialog.as_callee(request, self._tag)
        self._answering = answering
        self._told = asyncio.Event()
        self._pracks: dict[int, asyncio.Event] = {}
        supported = [tag.lower() for tag in [*request.values("supported"), *request.values("require")]]
        self._reliable = "100rel" in supported

    def start(self) -> None:
        """Deal with it as the phone is told."""
        self._go(self._serve())

    def answer_as(self, answering: Answering) -> None:
        """Change what will be done with it while it is not answered."""
        self._answering = answering
        self._told.set()
        self._told = asyncio.Event()

    def is_cancelled_by(self, cancel: Request) -> bool:
        """Whether a CANCEL is for the INVITE of this call: branch and sent-by (RFC 3261 9.2). Raises ParseError."""
        ours, theirs = parse_via(top_via(self._request)), parse_via(top_via(cancel))
        same = (ours.branch, ours.host, ours.port) == (theirs.branch, theirs.host, theirs.port)
        return same and cancel.first("call-id") == self._request.first("call-id")

    def cancelled(self) -> None:
        """Answer the INVITE 487, if it is not answered yet."""
        if self.alive and self.state is not CallState.ESTABLISHED:
            self._refuse(487, "the caller gave up")

    def requested(self, request: Request, transaction: Transaction[Flow]) -> None:
        """Answer a request in the dialog of this call; a BYE before the answer ends the INVITE, too."""
        waiting = self.alive and self.state is not CallState.ESTABLISHED
        super().requested(request, transaction)
        if waiting and not self.alive and request.method == "BYE":
            self._line.reply(self.transaction, 487, tag=self._tag)

    async def hangup(self) -> None:
        """Decline it before it is answered, BYE after. Raises CallFailed."""
        if self.state is CallState.ESTABLISHED:
            await super().hangup()
        elif self.alive:
            self._refuse(603, "we declined")

    async def _serve(self) -> None:
        request = self._request
        self._line.reply(self.transaction, 100)
        unknown = [tag for tag in request.values("require") if tag.lower() not in UNDERSTOOD]
        if unknown:
            self._refuse(420, f"unknown {', '.join(unknown)}", [header("Unsupported", ", ".join(unknown))])
            return
        if self._answering.habit in REFUSALS:
            self._refuse_by_habit()
            return
        try:
            answer = self.stream.answer(request.body) if request.body else b""
        except ParseError as error:
            self._refuse(error.status, str(error))
            return
        waits = bool(answer) and self.stream.preconditions and self._reliable and not self.stream.remote_ready
        if waits:
            self._become(CallState.EARLY)
            if not (await self._progress(183, answer) and await self._resources()):
                return
            answer = b""  # it has been given
        self.stream.local_ready = True
        self._become(CallState.RINGING)
        if self._reliable:
            if not await self._progress(180, b""):
                return
        else:
            self._line.reply(self.transaction, 180, headers=self._headers(), tag=self._tag)
        if await self._decision():
            await self._pick_up(answer, waited=waits)

    async def _decision(self) -> bool:
        """Ring until it is to be answered; False if it is refused or has ended."""
        while self.alive:
            answering, told = self._answering, self._told
            if answering.habit in REFUSALS:
                self._refuse_by_habit()
                return False
            try:
                async with asyncio.timeout(answering.after if answering.habit is Habit.AFTER else None):
                    await told.wait()
            except TimeoutError:
                return self.alive
        return False

    async def _pick_up(self, answer: bytes, *, waited: bool) -> None:
        body = b""
        if not self._request.body:
            self._offered_in_200 = True
            body = self.stream.offer()
        elif not waited:
            body = self.stream.answer(self._request.body) if self.stream.preconditions else answer
        self.status, self.reason = 200, "OK"
        self._become(CallState.ESTABLISHED)
        self._keep_fresh(self._request, we_refresh="uas")
        await self._accept(self._request, self.transaction, body)

    async def _resources(self) -> bool:
        """Wait for the UPDATE that says the caller is ready; False if it has ended (RFC 3312 7)."""
        settings = self._line.settings
        if settings.resources_after:
            await asyncio.sleep(settings.resources_after)
        self.stream.local_ready = True
        try:
            async with asyncio.timeout(settings.timers.timeout):
                while self.alive and not self.stream.remote_ready:
                    await self._changed.wait()
        except TimeoutError:
            self._refuse(480, "the caller's resources never came")
        return self.alive

    async def _progress(self, status: int, body: bytes) -> bool:
        """Send a reliable response until its PRACK comes; False if the call has ended (RFC 3262 3)."""
        number = FIRST_RSEQ + len(self._pracks)
        event = self._pracks[number] = asyncio.Event()
        headers = [header("Require", "100rel"), header("RSeq", str(number)), *self._headers()]
        timers = self._line.settings.timers
        loop = asyncio.get_running_loop()
        end, interval = loop.time() + timers.timeout, timers.t1
        while self.alive and not event.is_set():
            self._line.reply(self.transaction, status, headers=headers, tag=self._tag, content_type=SDP, body=body)
            try:
                async with asyncio.timeout(interval):
                    await event.wait()
            except TimeoutError:
                if loop.time() > end:
                    self._line.diary.complain(f"no PRACK came for our {status}")
                    self._refuse(504, f"no PRACK for the {status}")
            interval *= 2
        return self.alive

    def _headers(self) -> list[Header]:
        return [
            self._line.contact,
            header("Allow", METHODS),
            *(header("Record-Route", value) for value in self._request.lines("record-route")),
        ]

    def _pracked(self, request: Request, transaction: Transaction[Flow]) -> None:
        rseq, _, cseq = (request.first("rack") or "").partition(" ")
        event = self._pracks.get(int(rseq)) if rseq.isascii() and rseq.isdigit() and len(rseq) <= 10 else None
        if event is None or event.is_set() or cseq.split() != (self._request.first("cseq") or "").split():
            self._line.reply(transaction, 481)
            return
        self._line.reply(transaction, 200)
        event.set()

    def _refuse_by_habit(self) -> None:
        status = REFUSALS[self._answering.habit]
        self._refuse(status, f"we are told to: {self._answering.habit}")

    def _refuse(self, status: int, reason: str, headers: list[Header] | None = None) -> None:
        self._line.reply(self.transaction, status, headers=headers or [], tag=self._tag)
        self._end(status, reason)

    def _end(self, status: int, reason: str) -> None:
        super()._end(status, reason)
        self._told.set()
        for event in self._pracks.values():
            event.set()
