"""Many UEs of the lab in one process: registers all at once and stays until its input ends.

    python -m tests.interop.many < PLAN

The plan is one JSON line, see `crowd`. The answer is one JSON line: for each UE, whether it is registered and what it
says.
"""

import asyncio

from tests.interop.crowd import CrowdPlan, crowd, say, told


async def main() -> None:
    plan = CrowdPlan.model_validate_json(await told())
    async with crowd(plan) as made:
        outcomes = await asyncio.gather(*(ue.register() for ue in made.ues))
        say(
            [
                {
                    "registered": each.registered,
                    "status": each.status,
                    "reason": each.reason,
                    "complaints": each.complaints,
                }
                for each in outcomes
            ]
        )
        await told()


if __name__ == "__main__":
    asyncio.run(main())
