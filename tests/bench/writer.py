"""A phone inside ESP that writes to `echo` at a steady rate, and says how long each answer took.

    python -m tests.bench.writer

In: the plan of a crowd of one, then orders, each one JSON line. Out, one JSON line each: that it is registered, and
what came of each order.
"""

import asyncio
from typing import Any

from pydantic import BaseModel

from pcscf.lab.endpoint import NoAnswer
from pcscf.lab.ue import Ue
from tests.interop.crowd import Crowd, CrowdPlan, crowd, say, told


class Order(BaseModel):
    """So many messages a second, whatever becomes of the earlier ones."""

    name: str
    rate: float
    seconds: float


class Written:
    """What became of the messages of one order."""

    def __init__(self, ue: Ue, order: Order) -> None:
        self._ue = ue
        self._order = order
        self._to = f"sip:echo@{ue.settings.subscriber.realm}"
        self._latencies: list[float] = []
        self._failures: list[str] = []
        self._texts: set[str] = set()

    async def _write(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        text = f"{self._order.name} {number}"
        self._texts.add(text)
        begun = loop.time()
        try:
            response = await self._ue.message(self._to, text)
        except NoAnswer as error:
            self._failures.append(str(error))
            return
        if response.status == 200:
            self._latencies.append(loop.time() - begun)
        else:
            self._failures.append(f"{response.status} {response.reason}")

    def _missing(self) -> int:
        return len(self._texts - {each.text for each in self._ue.reception.messages})

    async def carry_out(self) -> dict[str, Any]:
        """Latencies of the messages that got a 200; why others did not; how many never came back."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with asyncio.TaskGroup() as group:
            for number in range(round(self._order.rate * self._order.seconds)):
                await asyncio.sleep(max(0.0, begun + number / self._order.rate - loop.time()))
                group.create_task(self._write(number))
        await self._ue.reception.until(lambda: not self._missing(), within=self._ue.settings.patience)
        return {
            "messages": len(self._texts),
            "latencies": sorted(self._latencies),
            "failures": self._failures,
            "not_back": self._missing(),
        }


async def write(made: Crowd) -> None:
    (ue,) = made.ues
    outcome = await ue.register()
    say({"registered": outcome.registered, "reason": outcome.reason})
    while line := await told():
        order = Order.model_validate_json(line)
        made.report()
        done = await Written(ue, order).carry_out()
        say(done | {"again": made.report()["counts"]["retransmissions of UEs"]})


async def main() -> None:
    async with crowd(CrowdPlan.model_validate_json(await told())) as made:
        await write(made)


if __name__ == "__main__":
    asyncio.run(main())
