"""What a UE saw on the wire and did not like, in order and with an end: the newest are kept."""

import asyncio
from collections import deque

from pcscf.lab.endpoint import Seen
from pcscf.lab.outcome import Step
from pcscf.sip.message import Request

KEPT = 20_000


class Diary:
    """Steps and complaints of one UE; a `mark` remembers a place for `since`. Times count from the first word."""

    def __init__(self) -> None:
        self.started = asyncio.get_running_loop().time()
        self._steps: deque[Step] = deque(maxlen=KEPT)
        self._complaints: deque[str] = deque(maxlen=KEPT)
        self._counts = (0, 0)

    def saw(self, seen: Seen, spi: int) -> None:
        message = seen.message
        summary = message.method if isinstance(message, Request) else f"{message.status} {message.reason}"
        self._steps.append(
            Step(
                at=seen.at - self.started,
                incoming=seen.incoming,
                flow=seen.flow,
                spi=spi,
                summary=summary,
                again=seen.again,
            )
        )
        self._counts = (self._counts[0] + 1, self._counts[1])

    def complain(self, text: str) -> None:
        self._complaints.append(text)
        self._counts = (self._counts[0], self._counts[1] + 1)

    @property
    def now(self) -> float:
        """Seconds since it was begun."""
        return asyncio.get_running_loop().time() - self.started

    @property
    def mark(self) -> tuple[int, int]:
        """Where it stands."""
        return self._counts

    def steps(self, since: tuple[int, int] = (0, 0)) -> tuple[Step, ...]:
        return tuple(self._steps)[-new:] if (new := self._counts[0] - since[0]) else ()

    def complaints(self, since: tuple[int, int] = (0, 0)) -> tuple[str, ...]:
        return tuple(self._complaints)[-new:] if (new := self._counts[1] - since[1]) else ()
