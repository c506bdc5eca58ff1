"""UEs that register and keep writing while their P-CSCF is killed and started again.

    python -m tests.interop.restarting < PLAN

The plan is one JSON line, see `crowd`. The first answer says who is registered; each further line on standard input has
every UE write once more, and what came of it is answered. In between all of them go on writing.
"""

import asyncio
import contextlib

from pcscf.lab.endpoint import NoAnswer
from pcscf.lab.ue import Ue
from tests.interop.crowd import CrowdPlan, crowd, say, told

EVERY = 0.5
WAITED = 3.0
"""Seconds for an answer: one that was under way when its P-CSCF was killed never comes, and who waits for it on a
connection sends nothing there, and does not hear that nobody is at the other end.
"""


async def wrote(ue: Ue, words: str) -> int | str:
    """The status of a message to the echo, or why there is none."""
    try:
        return (await ue.message("sip:echo@ims.mnc001.mcc001.3gppnetwork.org", words)).status
    except NoAnswer as why:
        return str(why)


async def chatter(ue: Ue) -> None:
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAITED):
                await wrote(ue, "going on")
        await asyncio.sleep(EVERY)


async def main() -> None:
    plan = CrowdPlan.model_validate_json(await told())
    async with crowd(plan) as made:
        outcomes = await asyncio.gather(*(ue.register() for ue in made.ues))
        say([each.registered for each in outcomes])
        while await told():
            going_on = [asyncio.create_task(chatter(ue)) for ue in made.ues]
            say("writing")
            if not await told():
                break
            for each in going_on:
                each.cancel()
            await asyncio.gather(*going_on, return_exceptions=True)
            say(await asyncio.gather(*(wrote(ue, "after it") for ue in made.ues)))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
