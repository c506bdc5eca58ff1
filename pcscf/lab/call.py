"""One call of a phone, from the moment it has a dialog to its end: hold, UPDATE, BYE and what the peer asks for.

How a call begins is `caller` (we call) and `callee` (we are called). Signalling only (RFC 3261 13 to 15, 3311, 4028).
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any

from pcscf.lab.dialog import Dialog, Draft
from pcscf.lab.endpoint import Listener, NoAnswer
from pcscf.lab.line import ICSI, METHODS, Line, Sent
from pcscf.lab.media import Stream
from pcscf.lab.outcome import CallReport
from pcscf.sip.fields import parse_cseq, parse_name_addr
from pcscf.sip.message import Header, Message, Request, Response, header
from pcscf.sip.parse import ParseError
from pcscf.sip.transaction import Transaction
from pcscf.vocabulary import Flow

SDP = "application/sdp"


class CallState(StrEnum):
    """Where a call stands."""

    CALLING = "calling"
    EARLY = "early"
    """A dialog, and nobody rings yet: resources are being made ready."""
    RINGING = "ringing"
    ESTABLISHED = "established"
    ENDED = "ended"


class CallFailed(Exception):
    """What was asked for did not happen; `status` is the answer, 0 without one; `str` is for people."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Call:
    """A call. `status` is the final answer to its INVITE, 0 before; `reason` says how it ended."""

    def __init__(self, line: Line, peer: str, *, incoming: bool) -> None:
        self.peer = peer
        self.incoming = incoming
        self.state = CallState.CALLING
        self.status = 0
        self.reason = ""
        self.dialog: Dialog | None = None
        self.early_dialogs = 0
        self.stream = Stream(address=line.settings.address)
        self._line = line
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._acks: dict[tuple[str, int], Sent] = {}
        """Tag of the peer and CSeq -> the ACK, for the 2xx that comes again."""
        self._awaited_acks: dict[int, asyncio.Event] = {}
        """CSeq of an INVITE we accepted -> its ACK came."""
        self._offered_in_200 = False
        self._reinvited: Transaction[Flow] | None = None
        self._refresh: asyncio.TimerHandle | None = None

    @property
    def report(self) -> CallReport:
        return CallReport(
            peer=self.peer,
            incoming=self.incoming,
            state=self.state,
            status=self.status,
            reason=self.reason,
            early_dialogs=self.early_dialogs,
            preconditions=self.stream.answered and self.stream.preconditions,
            local_ready=self.stream.local_ready,
            remote_ready=self.stream.remote_ready,
            direction=self.stream.direction,
        )

    @property
    def alive(self) -> bool:
        return self.state is not CallState.ENDED

    async def until(self, *states: CallState, within: float) -> CallState:
        """Wait until it is in one of these states or has ended, at most `within` seconds; the state it is in then."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while self.state not in (*states, CallState.ENDED):
                    await self._changed.wait()
        return self.state

    # What we do in an established call

    async def hangup(self) -> None:
        """End it: BYE once it is established. Raises CallFailed, and the call is over all the same."""
        await self._bye()

    async def hold(self) -> None:
        """Re-INVITE with a stream that only sends (RFC 3264 8.4). Raises CallFailed."""
        await self._reinvite("sendonly")

    async def resume(self) -> None:
        """Re-INVITE with a stream of both directions. Raises CallFailed."""
        await self._reinvite("sendrecv")

    async def update(self) -> None:
        """An UPDATE that offers what is agreed (RFC 3311). Raises CallFailed."""
        await self._update(self._confirmed(), self.stream)

    async def _bye(self, reason: str = "we hung up") -> None:
        dialog = self._confirmed()
        self._end(self.status, reason)
        try:
            response = await self._line.ask(dialog.draft("BYE"))
        except NoAnswer as error:
            raise CallFailed(0, str(error)) from error
        if response.status != 200:
            raise CallFailed(response.status, f"BYE was answered {response.status} {response.reason}")

    async def _update(self, dialog: Dialog, stream: Stream) -> None:
        draft = dialog.draft(
            "UPDATE",
            headers=[self._line.contact, *self._session_headers(stream)],
            content_type=SDP,
            body=stream.offer(),
        )
        try:
            response = await self._line.ask(draft)
            if response.status != 200:
                raise CallFailed(response.status, f"UPDATE was answered {response.status} {response.reason}")
            dialog.refresh(response)
            stream.take(response.body)
        except NoAnswer as error:
            raise CallFailed(0, str(error)) from error
        except ParseError as error:
            raise CallFailed(200, f"the 200 to UPDATE: {error}") from error

    async def _reinvite(self, direction: str) -> None:
        dialog, before = self._confirmed(), self.stream.direction
        draft = dialog.draft(
            "INVITE",
            headers=[self._line.contact, header("Allow", METHODS), *self._session_headers(self.stream)],
            content_type=SDP,
            body=self.stream.offer(direction),
        )
        final: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        def heard(response: Response) -> None:
            if 200 <= response.status < 300:
                self._acknowledge(dialog, response)
            if response.status >= 200 and not final.done():
                final.set_result(response)

        def failed(why: str) -> None:
            if not final.done():
                final.set_exception(NoAnswer(why))

        try:
            sent = self._line.begin(draft, Listener(on_response=heard, on_failure=failed))
            try:
                async with asyncio.timeout(self._line.settings.patience):
                    response = await final
            finally:
                if not final.done() or final.cancelled():
                    self._line.abandon(sent)
            if response.status >= 300:
                raise CallFailed(response.status, f"re-INVITE was answered {response.status} {response.reason}")
            dialog.refresh(response)
            self.stream.take(response.body)
        except (NoAnswer, TimeoutError) as error:
            raise CallFailed(0, f"no answer to re-INVITE: {error}") from error
        except ParseError as error:
            raise CallFailed(200, f"the 200 to re-INVITE: {error}") from error
        finally:
            if not (final.done() and not final.cancelled() and not final.exception() and final.result().status < 300):
                self.stream.direction = before

    def _confirmed(self) -> Dialog:
        if self.state is not CallState.ESTABLISHED or self.dialog is None:
            raise CallFailed(0, f"the call is {self.state}, not established")
        return self.dialog

    def _session_headers(self, stream: Stream) -> list[Header]:
        headers = [header("Supported", "100rel, precondition, timer")]
        if stream.preconditions:
            headers.append(header("Require", "precondition"))
        return headers

    def _acknowledge(self, dialog: Dialog, response: Response, answer: bytes = b"") -> None:
        """ACK a 2xx; the same ACK again when it comes again (RFC 3261 13.2.2.4)."""
        cseq = parse_cseq(response.first("cseq") or "").number
        key = (dialog.remote_tag, cseq)
        if sent := self._acks.get(key):
            self._line.again(sent)
            return
        draft: Draft = dialog.draft("ACK", cseq=cseq, content_type=SDP if answer else "", body=answer)
        try:
            self._acks[key] = self._line.acknowledge(draft)
        except NoAnswer as error:
            self._line.diary.complain(f"the ACK could not be sent: {error}")

    def _keep_fresh(self, message: Message, *, we_refresh: str) -> None:
        """Refresh the session at half of its interval if that is our part (RFC 4028 10)."""
        interval, refresher = session_expires(message)
        if self._refresh is not None:
            self._refresh.cancel()
            self._refresh = None
        if interval and refresher == we_refresh:
            loop = asyncio.get_running_loop()
            self._refresh = loop.call_later(interval / 2, lambda: self._go(self._refresh_session()))

    async def _refresh_session(self) -> None:
        if self.state is CallState.ESTABLISHED:
            await self.update()

    # What the peer asks for

    def is_of(self, request: Request) -> bool:
        """Whether a request in a dialog belongs to this call."""
        return self.dialog is not None and self.dialog.is_of(request)

    def requested(self, request: Request, transaction: Transaction[Flow]) -> None:
        """Answer a request in the dialog of this call."""
        dialog = self.dialog
        assert dialog is not None
        if not dialog.in_order(request):
            self._line.reply(transaction, 500)
            return
        try:
            match request.method:
                case "BYE":
                    self._line.reply(transaction, 200)
                    self._end(self.status, "the peer hung up")
                case "UPDATE":
                    self._updated(request, transaction, dialog)
                case "INVITE":
                    self._reinvited_by_peer(request, transaction, dialog)
                case "PRACK":
                    self._pracked(request, transaction)
                case "OPTIONS":
                    self._line.reply(transaction, 200, headers=[header("Allow", METHODS)])
                case _:
                    self._line.reply(transaction, 405, headers=[header("Allow", METHODS)])
        except ParseError as error:
            self._line.diary.complain(f"{request.method}: {error}")
            self._line.reply(transaction, error.status)

    def acknowledged(self, request: Request) -> None:
        """The ACK of a 2xx of ours."""
        try:
            number = parse_cseq(request.first("cseq") or "").number
            if self._offered_in_200 and request.body:
                self._offered_in_200 = False
                self.stream.take(request.body)
        except ParseError as error:
            self._line.diary.complain(f"ACK: {error}")
            return
        if event := self._awaited_acks.get(number):
            event.set()

    def _updated(self, request: Request, transaction: Transaction[Flow], dialog: Dialog) -> None:
        dialog.refresh(request)
        body = self.stream.answer(request.body) if request.body else b""
        headers = [self._line.contact, header("Allow", METHODS), *self._timer_headers(request)]
        self._line.reply(transaction, 200, headers=headers, content_type=SDP, body=body)
        self._note()

    def _reinvited_by_peer(self, request: Request, transaction: Transaction[Flow], dialog: Dialog) -> None:
        if self.state is not CallState.ESTABLISHED:
            self._line.reply(transaction, 491)
            return
        body = self.stream.answer(request.body) if request.body else self.stream.offer()
        self._offered_in_200 = not request.body
        dialog.refresh(request)
        self._go(self._accept(request, transaction, body))

    def _pracked(self, request: Request, transaction: Transaction[Flow]) -> None:
        self._line.reply(transaction, 481)

    def _timer_headers(self, request: Request) -> list[Header]:
        """What a 2xx says of the session timer: the caller refreshes if it can (RFC 4028 9)."""
        interval, refresher = session_expires(request)
        supported = "timer" in [tag.lower() for tag in request.values("supported")]
        if not interval or not supported:
            return []
        return [header("Session-Expires", f"{interval};refresher={refresher or 'uac'}"), header("Require", "timer")]

    async def _accept(self, request: Request, transaction: Transaction[Flow], body: bytes) -> None:
        """Send the 200 of an INVITE until its ACK comes (RFC 3261 13.3.1.4), over every transport."""
        number = parse_cseq(request.first("cseq") or "").number
        event = self._awaited_acks[number] = asyncio.Event()
        timers = self._line.settings.timers
        end = asyncio.get_running_loop().time() + timers.timeout
        interval = timers.t1
        headers = [
            self._line.contact,
            header("Allow", METHODS),
            header("Supported", "100rel, precondition, timer"),
            *self._timer_headers(request),
            *(header("Record-Route", value) for value in request.lines("record-route")),
        ]
        tag = self._own_tag()
        try:
            while not event.is_set() and self.alive:
                self._line.reply(transaction, 200, headers=headers, tag=tag, content_type=SDP, body=body)
                try:
                    async with asyncio.timeout(interval):
                        await event.wait()
                except TimeoutError:
                    if asyncio.get_running_loop().time() > end:
                        break
                interval = min(2 * interval, timers.t2)
        finally:
            del self._awaited_acks[number]
        if not event.is_set() and self.alive:
            self._line.diary.complain("no ACK came for our 200")
            await self._bye("no ACK came")

    def _own_tag(self) -> str:
        assert self.dialog is not None
        return parse_name_addr(self.dialog.local).param("tag") or ""

    # Its life

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something on the side; what fails in it is a complaint, unless the call has ended meanwhile."""

        async def watched() -> None:
            try:
                await work
            except (CallFailed, NoAnswer, ParseError) as error:
                if self.alive:
                    self._line.diary.complain(str(error))

        task = asyncio.get_running_loop().create_task(watched())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _become(self, state: CallState) -> None:
        if self.alive:
            self.state = state
        self._note()

    def _note(self) -> None:
        """Wake whoever waits for a change."""

        self._changed.set()
        self._changed = asyncio.Event()

    def _end(self, status: int, reason: str) -> None:
        if not self.alive:
            return
        self.status, self.reason = status, reason
        if self._refresh is not None:
            self._refresh.cancel()
        for event in self._awaited_acks.values():
            event.set()
        self._become(CallState.ENDED)

    def close(self) -> None:
        """Forget it without a word: the phone has been switched off."""
        self._end(self.status, "switched off")
        for task in self._tasks:
            task.cancel()


def mmtel_headers(line: Line) -> list[Header]:
    """What an INVITE for a voice call says of its service (TS 24.229 5.1.2A.1.1, TS 24.173)."""
    return [
        line.contact,
        header("Accept-Contact", '*;+g.3gpp.icsi-ref="urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel"'),
        header("P-Preferred-Service", ICSI),
        header("Allow", METHODS),
        header("Accept", SDP),
        header("P-Early-Media", "supported"),
    ]


def session_expires(message: Message) -> tuple[int, str]:
    """The interval of Session-Expires, 0 without a usable one, and who refreshes ("" if it does not say)."""
    value, _, rest = (message.first("session-expires") or "").partition(";")
    value = value.strip()
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        return 0, ""
    found = next((part.partition("=")[2] for part in rest.split(";") if part.strip().startswith("refresher")), "")
    return int(value), found.strip().lower()
