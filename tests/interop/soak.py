"""UEs that live at random, some of them badly: they register, call each other, write, register again, go, come back.

    python -m tests.interop.soak

In: a plan as one JSON line. Out, as one JSON line each: that all are there; after the time what happened; and once
more, after another line in, that every UE has deregistered or has given up. The same seed makes the same choices.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random

from pcscf.lab.call import Call, CallFailed, CallState
from pcscf.lab.callee import Answering, Habit
from pcscf.lab.endpoint import NoAnswer
from pcscf.lab.fault import Fault
from pcscf.lab.outcome import Outcome
from pcscf.lab.ue import Ue
from tests.interop.crowd import Crowd, CrowdPlan, crowd, say, told

FAULTS = (Fault.LOSE, Fault.SILENT, Fault.LATE_ANSWER, Fault.TCP_RESET, Fault.FORBIDDEN_HEADERS, Fault.WRONG_RES)
ANSWERED_WITHIN = 12.0
"""Seconds a caller waits before it gives up."""
SETTLE = 60.0
"""Seconds for what has been begun to end."""
HABITS = (
    Answering(habit=Habit.AFTER),
    Answering(habit=Habit.AFTER, after=1.0),
    Answering(habit=Habit.AFTER, after=3.0),
    Answering(habit=Habit.BUSY),
    Answering(habit=Habit.DECLINE),
    Answering(habit=Habit.NEVER),
)
HABIT_WEIGHTS = (50, 20, 10, 5, 5, 10)


class SoakPlan(CrowdPlan):
    """`pause`: mean seconds between what a UE does; `faulty`: the share (0 to 1) of it that is done with a fault."""

    realm: str
    seconds: float
    pause: float = 8.0
    faulty: float = 0.05


class Life:
    """One UE, from its first registration to its last word."""

    def __init__(self, made: Crowd, ue: Ue, plan: SoakPlan, number: int) -> None:
        self._made = made
        self._ue = ue
        self._plan = plan
        self._random = Random(plan.seed * 100_003 + number)
        self._end = asyncio.get_running_loop().time() + plan.seconds
        self._deeds: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (40, self._call),
            (25, self._write),
            (12, self._reregister),
            (6, self._deregister),
            (4, self._reboot),
            (5, self._subscribe),
            (8, self._call_a_number),
        ]

    async def live(self) -> None:
        """Do one thing after the other until the time is over."""
        await asyncio.sleep(self._random.uniform(0, min(self._plan.pause, self._plan.seconds / 3)))
        while asyncio.get_running_loop().time() < self._end:
            fault = self._random.choice(FAULTS) if self._random.random() < self._plan.faulty else None
            if fault is not None:
                self._made.counts[f"fault {fault}"] += 1
                self._ue.set_faults(frozenset({fault}))
            try:
                await self._do_something()
                if fault in (Fault.SILENT, Fault.LATE_ANSWER):
                    await asyncio.sleep(self._random.uniform(0, self._plan.pause))
            finally:
                self._ue.set_faults(frozenset())
            left = self._end - asyncio.get_running_loop().time()
            await asyncio.sleep(min(max(0.0, left), self._random.expovariate(1 / self._plan.pause)))

    async def _do_something(self) -> None:
        ue = self._ue
        ue.answer_as(self._random.choices(HABITS, HABIT_WEIGHTS)[0])
        if not ue.registered:
            self._count("register", await ue.register())
            return
        weights, deeds = zip(*self._deeds, strict=True)
        deed = self._random.choices(deeds, weights)[0]
        try:
            await deed()
        except (NoAnswer, CallFailed) as error:
            self._made.fail(deed.__name__.strip("_"), error)

    def _count(self, what: str, outcome: Outcome) -> None:
        if outcome.status == 200:
            self._made.counts[what] += 1
        else:
            self._made.fail(what, f"{outcome.status} {outcome.reason}")

    @property
    def _somebody(self) -> str:
        return self._made.ues[self._random.randrange(len(self._made.ues))].settings.subscriber.impus[0]

    async def _call(self) -> None:
        await self._converse(self._somebody)

    async def _call_a_number(self) -> None:
        number = self._random.choice(("echo", "echo", "busy", "declined", "noanswer", "error500"))
        await self._converse(f"sip:{number}@{self._plan.realm}")

    async def _converse(self, to: str) -> None:
        placed = self._ue.call(to, preconditions=self._random.random() < 0.5)
        state = await placed.until(CallState.ESTABLISHED, within=self._random.uniform(1, ANSWERED_WITHIN))
        self._made.counts[f"call {placed.status or state}"] += 1
        if state is CallState.ESTABLISHED:
            await self._talk(placed)
        if placed.alive:
            await placed.hangup()

    async def _talk(self, placed: Call) -> None:
        await asyncio.sleep(self._random.uniform(0, 3))
        if placed.alive and self._random.random() < 0.2:
            await placed.hold()
            await asyncio.sleep(self._random.uniform(0, 1))
            if placed.alive:
                await placed.resume()
            self._made.counts["call held"] += 1

    async def _write(self) -> None:
        to = self._somebody if self._random.random() < 0.8 else f"sip:echo@{self._plan.realm}"
        response = await self._ue.message(to, "x" * self._random.randrange(1000))
        self._made.counts[f"message {response.status}"] += 1

    async def _reregister(self) -> None:
        self._count("reregister", await self._ue.reregister())

    async def _deregister(self) -> None:
        self._count("deregister", await self._ue.deregister())

    async def _reboot(self) -> None:
        await self._ue.reboot()
        self._count("register after a reboot", await self._ue.register())

    async def _subscribe(self) -> None:
        response = await self._ue.subscribe()
        self._made.counts[f"subscribe {response.status}"] += 1

    async def leave(self) -> None:
        """Hang up and deregister, however often it takes; a UE that is not registered any more registers first."""
        self._ue.answer_as(Answering(habit=Habit.BUSY))
        for call in tuple(self._ue.reception.calls):
            if call.alive:
                with suppress(NoAnswer, CallFailed):
                    await call.hangup()
        for _ in range(5):
            outcome = await self._ue.deregister() if self._ue.registered else await self._ue.register()
            if outcome.status == 200 and not outcome.registered:
                self._made.counts["left"] += 1
                return
        self._made.fail("leave", outcome.reason)


async def main() -> None:
    plan = SoakPlan.model_validate_json(await told())
    async with crowd(plan) as made:
        lives = [Life(made, ue, plan, number) for number, ue in enumerate(made.ues)]
        say(len(lives))
        async with asyncio.timeout(plan.seconds + plan.patience + SETTLE):
            await asyncio.gather(*(each.live() for each in lives))
        say(made.report())
        await told()
        await asyncio.gather(*(each.leave() for each in lives))
        say(made.report())
        await told()


if __name__ == "__main__":
    asyncio.run(main())
