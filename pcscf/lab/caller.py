"""A call that we make: INVITE with preconditions, forked answers, PRACK, UPDATE, ACK, CANCEL (digest F10, F11).

RFC 3261 13.2, RFC 3262 (reliable provisional responses), RFC 3312 and 4032 (preconditions). After it is established
it is like any other: `call`.
"""

import asyncio
from dataclasses import dataclass, replace

from pcscf.lab.call import SDP, Call, CallFailed, CallState, mmtel_headers
from pcscf.lab.dialog import Dialog
from pcscf.lab.endpoint import Listener, NoAnswer
from pcscf.lab.line import Line, Sent
from pcscf.lab.media import Stream
from pcscf.sip.message import Response, header
from pcscf.sip.parse import ParseError

MOST_FORKS = 16


@dataclass(slots=True, eq=False, kw_only=True)
class _Fork:
    """One early dialog: the stream negotiated in it, and the RSeq up to which we have acknowledged."""

    dialog: Dialog
    stream: Stream
    rseq: int = 0
    updated: bool = False


class OutgoingCall(Call):
    """A call that we make. `status` of the best provisional response is in `progress`."""

    def __init__(self, line: Line, peer: str, *, preconditions: bool = True) -> None:
        super().__init__(line, peer, incoming=False)
        self.stream.preconditions = preconditions
        self.progress = 0
        self._forks: dict[str, _Fork] = {}
        self._sent: Sent | None = None
        self._cancelling = False

    def start(self) -> None:
        """Send the INVITE. Raises NotRegistered."""
        headers = [*mmtel_headers(self._line), header("Supported", "100rel, precondition, timer")]
        draft = self._line.draft("INVITE", self.peer, headers=headers, content_type=SDP, body=self.stream.offer())
        listener = Listener(on_response=self._answered, on_failure=self._failed)
        self._sent = self._line.begin(draft, listener)

    async def hangup(self) -> None:
        """CANCEL before it is answered, BYE after. Raises CallFailed."""
        if self.state is CallState.ESTABLISHED:
            await super().hangup()
        elif self.alive:
            await self._cancel()

    async def _cancel(self) -> None:
        assert self._sent is not None
        self._cancelling = True
        patience = self._line.settings.patience
        if not self.progress:  # RFC 3261 9.1: not before the first answer
            try:
                async with asyncio.timeout(patience):
                    while self.alive and not self.progress:
                        await self._changed.wait()
            except TimeoutError:
                self._line.abandon(self._sent)
                self._end(0, "no answer to INVITE")
                raise CallFailed(0, "no answer to INVITE, so no CANCEL") from None
            if not self.alive:
                return
        try:
            response = await self._line.cancel(self._sent)
        except NoAnswer as error:
            raise CallFailed(0, str(error)) from error
        if response.status != 200:
            raise CallFailed(response.status, f"CANCEL was answered {response.status} {response.reason}")
        if await self.until(within=patience) is not CallState.ENDED:
            self._line.abandon(self._sent)
            self._end(0, "cancelled")
            raise CallFailed(0, "no final answer to INVITE after CANCEL")

    # Answers to the INVITE

    def _answered(self, response: Response) -> None:
        try:
            if response.status < 200:
                self._provisional(response)
            elif response.status < 300:
                self._accepted(response)
            else:
                self._end(response.status, response.reason)
        except ParseError as error:
            self._line.diary.complain(f"the {response.status} to INVITE: {error}")
            if 200 <= response.status < 300:
                self._end(response.status, f"a 2xx nobody can acknowledge: {error}")

    def _failed(self, why: str) -> None:
        self._end(0, f"no answer to INVITE: {why}")

    def _provisional(self, response: Response) -> None:
        if not self.alive or self.state is CallState.ESTABLISHED:
            return
        self.progress = max(self.progress, response.status)
        self._note()
        if response.status == 100 or "tag=" not in (response.first("to") or ""):
            return
        fork = self._fork(response)
        if fork is None:
            return
        if self.state is not CallState.RINGING:
            self._become(CallState.RINGING if response.status == 180 else CallState.EARLY)
        reliable = "100rel" in [tag.lower() for tag in response.values("require")]
        number = response.first("rseq") or ""
        if not reliable:
            return
        if not (number.isascii() and number.isdigit() and len(number) <= 10):
            raise ParseError(f"a reliable response with RSeq {number[:20] or '(absent)'}")
        if int(number) == fork.rseq or (fork.rseq and int(number) != fork.rseq + 1):
            return  # again, or out of order: then it is sent again (RFC 3262 4)
        fork.rseq = int(number)
        self._go(self._prack(fork, response))

    def _fork(self, response: Response) -> _Fork | None:
        """The early dialog of a response, a new one if need be; None above the limit. Raises ParseError."""
        assert self._sent is not None
        dialog = Dialog.as_caller(self._sent.request, response)
        fork = self._forks.get(dialog.remote_tag)
        if fork is None:
            if len(self._forks) >= MOST_FORKS:
                return None
            fork = self._forks[dialog.remote_tag] = _Fork(dialog=dialog, stream=replace(self.stream))
            self.early_dialogs = len(self._forks)
            if self.dialog is None:
                self.dialog, self.stream = fork.dialog, fork.stream
        return fork

    async def _prack(self, fork: _Fork, response: Response) -> None:
        """Acknowledge a reliable response; once resources are agreed upon, say that ours are there (RFC 3312 6)."""
        if response.body:
            try:
                fork.stream.take(response.body)
            except ParseError as error:
                self._line.diary.complain(f"the {response.status} to INVITE: {error}")
        cseq = response.first("cseq") or ""
        rack = header("RAck", f"{fork.rseq} {cseq}")
        answer = await self._line.ask(fork.dialog.draft("PRACK", headers=[rack]))
        if self._cancelling:
            return
        if answer.status != 200:
            raise CallFailed(answer.status, f"PRACK was answered {answer.status} {answer.reason}")
        if answer.body:
            self._line.diary.complain("the 200 to PRACK has a body, PRACK offered nothing")
        stream = fork.stream
        if not (stream.answered and stream.preconditions) or fork.updated:
            return
        fork.updated = True
        if self._line.settings.resources_after:
            await asyncio.sleep(self._line.settings.resources_after)
        if self.alive:
            stream.local_ready = True
            await self._update(fork.dialog, stream)

    def _accepted(self, response: Response) -> None:
        """The first 2xx makes the call; any other fork is acknowledged and ended (RFC 3261 13.2.2.4)."""
        assert self._sent is not None
        dialog = Dialog.as_caller(self._sent.request, response)
        key = dialog.remote_tag
        won = self.state is CallState.ESTABLISHED and self.dialog is not None and self.dialog.remote_tag == key
        if won or any(tag == key for tag, _ in self._acks):
            self._acknowledge(dialog, response)  # it comes again
            return
        fork = self._forks.get(key)
        if fork is not None:  # the 2xx has the last word on route and target (RFC 3261 13.2.2.4)
            fork.dialog.route_set, fork.dialog.target = dialog.route_set, dialog.target
            dialog = fork.dialog
        self._acknowledge(dialog, response)
        if self.state is CallState.ESTABLISHED or not self.alive:
            self._go(self._refuse(dialog))
            return
        self.dialog = dialog
        self.stream = fork.stream if fork else self.stream
        self.status, self.reason = response.status, response.reason
        if response.body and not self.stream.answered:
            try:
                self.stream.take(response.body)
            except ParseError as error:
                self._line.diary.complain(f"the {response.status} to INVITE: {error}")
        if not self.stream.answered:
            self._line.diary.complain(f"no SDP answer up to the {response.status} to INVITE")
        self._become(CallState.ESTABLISHED)
        self._keep_fresh(response, we_refresh="uac")
        if self._cancelling:
            self._go(self._bye("answered while we cancelled"))

    async def _refuse(self, dialog: Dialog) -> None:
        response = await self._line.ask(dialog.draft("BYE"))
        if response.status != 200:
            raise CallFailed(response.status, f"BYE to another fork was answered {response.status}")
