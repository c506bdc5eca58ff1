"""The SPIs of ours: unguessable, in use once, and not used again soon after."""

from collections import deque
from collections.abc import Iterable

from pcscf.turn import Turn

LOWEST_OWN_SPI = 1_000_000_000
"""Ten digits always, for parsers that insist on the grammar of TS 33.203 Annex H."""
SPI_QUARANTINE = 300.0
"""Seconds before a freed SPI may serve again, as long as there are not too many of them."""
MOST_FREED = 100_000
"""SPIs that wait for that: whoever has sets made and dropped without end fills no memory with them."""


class Spis:
    """Those in use, and those that were lately."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._taken: set[int] = set()
        self._freed: deque[tuple[float, int]] = deque()

    def __len__(self) -> int:
        return len(self._taken)

    def fresh(self, avoid: set[int]) -> int:
        """One that may be used, and is none of these."""
        while self._freed and (self._freed[0][0] <= self._turn.now or len(self._freed) > MOST_FREED):
            self._taken.discard(self._freed.popleft()[1])
        while True:
            spi = int.from_bytes(self._turn.random_octets(4), "big")
            if spi >= LOWEST_OWN_SPI and spi not in self._taken and spi not in avoid:
                return spi

    def take(self, spis: Iterable[int]) -> None:
        """These are in use."""
        self._taken.update(spis)

    def free(self, spis: Iterable[int]) -> None:
        """These are not any more."""
        self._freed.extend((self._turn.now + SPI_QUARANTINE, spi) for spi in spis)
