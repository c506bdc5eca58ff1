"""Does the steps of a script with one UE, and says what came of each; the whole as JSON for scripts.

Reading the script is `script`. A step is over when what it asks for has happened, or is too late.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

from pcscf.lab.call import Call, CallFailed, CallState
from pcscf.lab.callee import Answering, Habit, IncomingCall
from pcscf.lab.endpoint import NoAnswer
from pcscf.lab.outcome import CallReport, KeptMessage, Outcome
from pcscf.lab.script import WITHIN, ScriptStep
from pcscf.lab.ue import Ue
from pcscf.sip.message import Response

SMS = "application/vnd.3gpp.sms"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What came of one step. `status` is the SIP status that decided, 0 without; `reason` is for people."""

    step: str
    name: str
    ok: bool
    status: int = 0
    reason: str = ""
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)
    """`outcome` of a registration, `call` or `message` of a step that is about one."""


class Player:
    """Plays steps on a UE that was started. `results` are those so far."""

    def __init__(self, ue: Ue) -> None:
        self.results: list[StepResult] = []
        self._ue = ue
        self._met: list[Call] = []
        """Incoming calls that an expect-call has seen."""

    @property
    def ok(self) -> bool:
        """Whether every step so far did what it should."""
        return all(each.ok for each in self.results)

    async def play(self, steps: tuple[ScriptStep, ...]) -> bool:
        """Do the steps up to the first that fails; then leave quietly. Whether all of them did what they should."""
        for step in steps:
            if not (await self.do(step)).ok:
                await self.leave()
                break
        return self.ok

    async def do(self, step: ScriptStep) -> StepResult:
        """Do one step."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            said = await self._do(step)
        except CallFailed as error:
            said = _Said(False, error.status, str(error))
        except NoAnswer as error:
            said = _Said(False, 0, str(error))
        result = StepResult(
            step=step.text,
            name=step.name,
            ok=said.ok,
            status=said.status,
            reason=said.reason,
            seconds=round(loop.time() - started, 3),
            details=said.details,
        )
        self.results.append(result)
        return result

    async def leave(self) -> None:
        """Hang up and deregister; what fails in it is nobody's business any more."""
        for call in self._ue.reception.calls:
            if call.alive:
                with contextlib.suppress(CallFailed, NoAnswer):
                    await call.hangup()
        if self._ue.registered and self._ue.set_in_use is not None:
            await self._ue.deregister()

    def report(self) -> dict[str, Any]:
        """The whole as one JSON object: see `pcscf ue --json`."""
        from pydantic_core import to_jsonable_python

        ue = self._ue
        report: dict[str, Any] = to_jsonable_python(
            {
                "impi": ue.settings.subscriber.impi,
                "ok": self.ok,
                "steps": self.results,
                "ladder": ue.diary.steps(),
                "complaints": ue.diary.complaints(),
                "messages": [message_json(each) for each in ue.reception.messages],
                "calls": [each.report for each in ue.reception.calls],
            }
        )
        return report

    async def _do(self, step: ScriptStep) -> "_Said":
        ue = self._ue
        match step.name:
            case "register":
                return _of_outcome(await ue.register(), registered=True)
            case "reregister":
                return _of_outcome(await ue.reregister(), registered=True)
            case "deregister":
                return _of_outcome(await ue.deregister(), registered=False)
            case "reboot":
                await ue.reboot()
                return _Said(True)
            case "subscribe":
                return await self._subscribe()
            case "message":
                sms = isinstance(step.body, bytes)
                return _of_response(await ue.message(step.to, step.body, SMS if sms else "text/plain"))
            case "options":
                return _of_response(await ue.options(step.to))
            case "expect-message":
                return await self._expect_message(step)
            case "call":
                return await self._call(step)
            case "ring":
                call = ue.call(step.to)
                state = await call.until(CallState.RINGING, CallState.ESTABLISHED, within=step.within)
                return _of_call(call, state in (CallState.RINGING, CallState.ESTABLISHED), "it does not ring")
            case "answered":
                call = self._newest()
                state = await call.until(CallState.ESTABLISHED, within=step.within)
                return _of_call(call, state is CallState.ESTABLISHED, f"no answer in {step.within:g} s")
            case "hold":
                await self._newest().hold()
            case "resume":
                await self._newest().resume()
            case "update":
                await self._newest().update()
            case "hangup":
                await self._newest().hangup()
            case "answer":
                return await self._answer(step)
            case "expect-call":
                return await self._expect_call(step)
            case "expect-hangup":
                call = self._newest(ended=True)
                state = await call.until(within=step.within)
                return _of_call(call, state is CallState.ENDED, f"it goes on after {step.within:g} s")
            case "expect-complaints":
                complaints = ue.diary.complaints()
                return _Said(not complaints, reason="; ".join(complaints))
            case "fault":
                ue.set_faults(step.faults)
                return _Said(True)
            case "wait":
                await asyncio.sleep(step.seconds)
                return _Said(True)
            case _:
                raise AssertionError(f"the script knows {step.name}, the player does not")
        call = self._newest(ended=True)
        return _of_call(call, True, "")

    async def _subscribe(self) -> "_Said":
        response = await self._ue.subscribe()
        if response.status != 200:
            return _of_response(response)
        watch = self._ue.reception.watch
        told = await self._ue.reception.until(lambda: watch is not None and watch.notifies > 0, within=WITHIN)
        return _Said(told, 200, "OK" if told else "no NOTIFY came")

    async def _expect_message(self, step: ScriptStep) -> "_Said":
        reception = self._ue.reception
        wanted = step.body

        def matching() -> KeptMessage | None:
            octets = wanted.encode() if isinstance(wanted, str) else wanted
            return next((each for each in reception.unread if not octets or each.body == octets), None)

        if not await reception.until(lambda: matching() is not None, within=step.within):
            came = ", ".join(repr(each.text) for each in reception.unread) or "none"
            return _Said(False, 0, f"no such message in {step.within:g} s; unread: {came}")
        message = matching()
        assert message is not None
        reception.unread.remove(message)
        return _Said(True, 0, message.text, {"message": message_json(message)})

    async def _call(self, step: ScriptStep) -> "_Said":
        call = self._ue.call(step.to)
        state = await call.until(CallState.ESTABLISHED, within=step.within)
        if state not in (CallState.ESTABLISHED, CallState.ENDED):
            with contextlib.suppress(CallFailed, NoAnswer):
                await call.hangup()
            return _Said(False, call.status, f"no answer in {step.within:g} s", {"call": call.report})
        return _of_call(call, call.status == step.status, f"expected {step.status}")

    async def _answer(self, step: ScriptStep) -> "_Said":
        answering = Answering(habit=Habit(step.habit), after=step.seconds)
        ringing = [
            each
            for each in self._ue.reception.calls
            if isinstance(each, IncomingCall) and each.state in (CallState.CALLING, CallState.EARLY, CallState.RINGING)
        ]
        if not ringing:
            self._ue.answer_as(answering)
            return _Said(True)
        call = ringing[-1]
        call.answer_as(answering)
        if answering.habit is Habit.NEVER:
            return _of_call(call, True, "")
        state = await call.until(CallState.ESTABLISHED, within=step.seconds + WITHIN)
        wanted = CallState.ESTABLISHED if answering.habit is Habit.AFTER else CallState.ENDED
        return _of_call(call, state is wanted, f"it is {state}")

    async def _expect_call(self, step: ScriptStep) -> "_Said":
        def unmet() -> Call | None:
            calls = self._ue.reception.calls
            return next((each for each in calls if each.incoming and each not in self._met), None)

        started = asyncio.get_running_loop().time()
        if not await self._ue.reception.until(lambda: unmet() is not None, within=step.within):
            return _Said(False, 0, f"no call came in {step.within:g} s")
        call = unmet()
        assert call is not None
        self._met.append(call)
        left = max(0.0, started + step.within - asyncio.get_running_loop().time())
        state = await call.until(CallState.RINGING, CallState.ESTABLISHED, within=left)
        rang = state in (CallState.RINGING, CallState.ESTABLISHED, CallState.ENDED)
        return _of_call(call, rang, f"it came, and does not ring: {state}")

    def _newest(self, *, ended: bool = False) -> Call:
        """The newest call that goes on; of all, if one that has ended will do. Raises CallFailed."""
        calls = self._ue.reception.calls
        call = calls[-1] if ended and calls else self._ue.reception.call
        if call is None:
            raise CallFailed(0, "there is no call")
        return call


@dataclass(frozen=True, slots=True)
class _Said:
    ok: bool
    status: int = 0
    reason: str = ""
    details: dict[str, Any] = field(default_factory=dict)


def _of_outcome(outcome: Outcome, *, registered: bool) -> _Said:
    good = outcome.status == 200 and outcome.registered is registered
    return _Said(good, outcome.status, outcome.reason, {"outcome": outcome})


def _of_response(response: Response) -> _Said:
    return _Said(200 <= response.status < 300, response.status, response.reason)


def _of_call(call: Call, ok: bool, otherwise: str) -> _Said:
    report: CallReport = call.report
    return _Said(ok, call.status, call.reason if ok else f"{otherwise}: {call.status} {call.reason}", {"call": report})


def message_json(message: KeptMessage) -> dict[str, Any]:
    """A message that came in, for scripts; the octets in hexadecimal, since they may be no text."""
    return {
        "at": message.at,
        "sender": message.sender,
        "content_type": message.content_type,
        "text": message.text,
        "hex": message.body.hex(),
    }
