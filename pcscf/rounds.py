"""How much of one side is handled in one round of the event loop, so that who sends much keeps nobody else waiting.

One read of a TCP connection may bring thousands of messages. Who has more than its part waits for the next round, and
in between everything else that is ready has its turn.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable


class Rounds:
    """`seconds`: what one side may take of a round, one message at least."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = 0.0
        self._waiting: deque[Callable[[], None]] = deque()
        self._begun = False

    def has_room(self) -> bool:
        """Whether one more may be handled in this round."""
        if not self._begun:
            self._begin()
            return True
        return time.monotonic() < self._until

    def wait(self, go_on: Callable[[], None]) -> None:
        """Call this in a round with room, after those that wait already."""
        if not self._begun:
            self._begin()
        self._waiting.append(go_on)

    def _begin(self) -> None:
        self._begun = True
        self._until = time.monotonic() + self._seconds
        asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._begun = False
        if self._waiting:
            self._begin()
        for _ in range(len(self._waiting)):
            self._waiting.popleft()()
            if time.monotonic() >= self._until:
                break
