"""Datagrams in clear that wait to be handled, when more come than can be.

Who has nothing waiting comes first, so that a phone does not wait behind a flood; who has, waits behind all others.
When there are too many, those that have waited for the longest are lost: their phones send again.
"""

from collections import OrderedDict, deque

from pcscf.vocabulary import Flow, source_of

MOST = 1024
MOST_OF_ONE = 256
ROOM = 4 << 20
"""Octets."""


class Intake:
    """Those of the phones' side; `lost` counts what had no room."""

    def __init__(self) -> None:
        self._sources: OrderedDict[bytes, deque[tuple[Flow, bytes]]] = OrderedDict()
        """What waits of each source; the last comes first."""
        self._count = 0
        self._octets = 0
        self.lost = 0

    def __len__(self) -> int:
        return self._count

    def clear(self) -> None:
        """Forget what waits, which is not counted as lost."""
        self._sources.clear()
        self._count = self._octets = 0

    def put(self, flow: Flow, data: bytes) -> None:
        source = source_of(flow.remote)
        waiting = self._sources.get(source)
        if waiting is None:
            waiting = self._sources[source] = deque()
        elif len(waiting) >= MOST_OF_ONE:
            self.lost += 1
            return
        waiting.append((flow, data))
        self._count += 1
        self._octets += len(data)
        while self._count > MOST or self._octets > ROOM:
            self._from(next(iter(self._sources)))
            self.lost += 1

    def take(self) -> tuple[Flow, bytes] | None:
        """The next to be handled; None when nothing waits."""
        if not self._sources:
            return None
        source = next(reversed(self._sources))
        taken = self._from(source)
        if source in self._sources:
            self._sources.move_to_end(source, last=False)
        return taken

    def _from(self, source: bytes) -> tuple[Flow, bytes]:
        waiting = self._sources[source]
        taken = waiting.popleft()
        if not waiting:
            del self._sources[source]
        self._count -= 1
        self._octets -= len(taken[1])
        return taken
