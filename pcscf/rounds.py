"""How much of one side is handled in one round of the event loop, so that who sends much keeps nobody else waiting.

One read of a TCP connection may bring thousands of messages. Who has more than its part waits for the next round, and
in between everything else that is ready has its turn.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class Rounds:
    """`most`: messages of all connections of a side that are handled in one round."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most
        self._waiting: deque[Callable[[], None]] = deque()
        self._begun = False

    def take(self) -> bool:
        """Whether one more may be handled in this round."""
        self._begin()
        self._left -= 1
        return self._left >= 0

    def wait(self, go_on: Callable[[], None]) -> None:
        """Call this in a round with room, after those that wait already."""
        self._begin()
        self._waiting.append(go_on)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._left = self._most
        self._begun = False
        for _ in range(len(self._waiting)):
            if self._left <= 0:
                break
            self._waiting.popleft()()
        if self._waiting:
            self._begin()
