"""The last minutes in numbers, one sample a second, so that a chart has a past when somebody opens it."""

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress

from pydantic import BaseModel

from pcscf.admin.views import Inside
from xfrm.model import XfrmError

log = logging.getLogger("pcscf")
EVERY = 1.0
KEPT = 600


class Sample(BaseModel):
    """One second. `at` is seconds since the epoch; latencies are seconds, null while nobody was challenged."""

    at: float
    registered: int
    sets: dict[str, int]
    """Live sets by state."""
    challenges: float
    """Per second."""
    p50: float | None
    p99: float | None
    requests: float
    """Answered, per second."""
    drops: dict[str, int]
    """Packets since the start, by cause."""
    problems: int
    """Since the start."""
    sas: int | None
    """In the backend; null where it could not be asked."""
    believed: int
    lag: float
    """Seconds by which the event loop was late."""
    fault: str
    """Why protected ports are not served; "" while they are."""


class History:
    """Takes samples between `start` and `stop`. The last one is `samples[-1]`."""

    def __init__(self, inside: Inside) -> None:
        self._inside = inside
        self.samples: deque[Sample] = deque(maxlen=KEPT)
        self._task: asyncio.Task[None] | None = None
        self._drops: dict[str, int] = {}
        self._before = (0.0, 0, 0)

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            with suppress(OSError):  # what was known stays; its own trouble is told elsewhere
                self._drops = self._inside.drops()
            try:
                self.samples.append(self._sample())
            except Exception:
                log.exception("a bug in the samples; one is missing")
            await asyncio.sleep(EVERY)

    def _sample(self) -> Sample:
        inside = self._inside
        now = asyncio.get_running_loop().time()
        tally, registrar = inside.tally, inside.registrar
        challenges, requests = tally.challenge.count, tally.outcomes.total()
        then, challenges_then, requests_then = self._before
        self._before = now, challenges, requests
        passed = max(now - then, 0.001)
        p50, p99 = tally.challenge.quantiles(now - 10 * EVERY, 0.5, 0.99)
        try:
            sas: int | None = inside.count()
        except XfrmError:
            sas = None
        first = not self.samples
        return Sample(
            at=time.time(),
            registered=registrar.registered,
            sets={state.value: count for state, count in registrar.states.items() if count},
            challenges=0.0 if first else round((challenges - challenges_then) / passed, 2),
            p50=p50,
            p99=p99,
            requests=0.0 if first else round((requests - requests_then) / passed, 2),
            drops=self._drops,
            problems=tally.problems,
            sas=sas,
            believed=4 * registrar.states.total(),
            lag=round(tally.lag, 4),
            fault=inside.fault,
        )
