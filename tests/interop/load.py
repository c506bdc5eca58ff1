"""UEs that make calls and send messages at a steady rate, and answer those that come.

    python -m tests.interop.load

In: a plan, then orders, each one JSON line. Out: which UEs could not register, then what came of each order.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from pydantic import BaseModel

from pcscf.lab.call import CallFailed, CallState
from pcscf.lab.callee import Answering, Habit
from pcscf.lab.endpoint import NoAnswer
from pcscf.lab.ue import Ue
from tests.interop.crowd import Crowd, CrowdPlan, crowd, say, told

ANSWERED_WITHIN = 30.0
TALK = 0.5
"""Seconds."""
LAST_CALLS = 40.0
"""Seconds the last calls may take after the load."""


class Order(BaseModel):
    """Rates are per second, over all UEs."""

    to: str
    calls: float
    messages: float
    seconds: float


async def call(made: Crowd, ue: Ue, to: str) -> None:
    """One call from INVITE to BYE."""
    try:
        placed = ue.call(to, preconditions=False)
        if await placed.until(CallState.ESTABLISHED, within=ANSWERED_WITHIN) is not CallState.ESTABLISHED:
            made.fail("call", f"{placed.state} {placed.status} {placed.reason}")
            return
        await asyncio.sleep(TALK)
        await placed.hangup()
    except (CallFailed, NoAnswer) as error:
        made.fail("call", error)
    else:
        made.counts["calls"] += 1


async def message(made: Crowd, ue: Ue, to: str) -> None:
    try:
        response = await ue.message(to, "one of many")
    except NoAnswer as error:
        made.fail("message", error)
        return
    if response.status == 200:
        made.counts["messages"] += 1
    else:
        made.fail("message", f"{response.status} {response.reason}")


async def carry_out(made: Crowd, order: Order) -> None:
    """Start each at its time, whatever became of the earlier ones: a slow proxy gets no fewer calls."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with asyncio.TaskGroup() as group:

        def start(what: Callable[[Crowd, Ue, str], Coroutine[Any, Any, None]], number: int) -> None:
            group.create_task(what(made, made.ues[number % len(made.ues)], order.to))

        for what, rate in ((call, order.calls), (message, order.messages)):
            for number in range(round(rate * order.seconds)):
                loop.call_at(begun + number / rate, start, what, number)
        await asyncio.sleep(order.seconds)


def answered(made: Crowd) -> int:
    """Calls of others that were answered; each UE remembers the last 200 calls."""
    return sum(each.incoming and each.status == 200 for ue in made.ues for each in ue.reception.calls)


async def main() -> None:
    plan = CrowdPlan.model_validate_json(await told())
    async with crowd(plan) as made:
        for ue in made.ues:
            ue.answer_as(Answering(habit=Habit.AFTER))
        outcomes = await asyncio.gather(*(ue.register() for ue in made.ues))
        say([f"{each.status} {each.reason} {list(each.complaints)}" for each in outcomes if not each.registered])
        while line := await told():
            order = Order.model_validate_json(line)
            async with asyncio.timeout(order.seconds + LAST_CALLS):
                before = answered(made)
                await carry_out(made, order)
            made.counts["calls answered"] = answered(made) - before
            say(made.report())


if __name__ == "__main__":
    asyncio.run(main())
