"""An open page of the dashboard, without the browser: its stream, the list each second, the metrics each 15 seconds."""

import asyncio

import aiohttp

from tests.bench.measured import GM, PAGE_PORT

URL = f"http://{GM}:{PAGE_PORT}"
METRICS_EVERY = 15


async def main() -> None:
    """Look until killed."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{URL}/api/stream?kinds=problem,sample", timeout=aiohttp.ClientTimeout(total=None)) as stream,
    ):
        await stream.content.readline()
        print("reading", flush=True)

        async def ask() -> None:
            second = 0
            while True:
                targets = ["/api/registrations?limit=25"]
                targets += ["/api/hops"] * (second % 3 == 0) + ["/metrics"] * (second % METRICS_EVERY == 0)
                for each in targets:
                    async with session.get(f"{URL}{each}") as answer:
                        await answer.read()
                second += 1
                await asyncio.sleep(1)

        asking = asyncio.create_task(ask())
        async for _ in stream.content.iter_any():
            pass
        await asking


if __name__ == "__main__":
    asyncio.run(main())
