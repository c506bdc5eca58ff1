"""Challenges to REGISTERs in clear that nobody has answered: how many there may be, and which one makes room.

Whoever sends a REGISTER has us keep one, with four SAs, so each source has its share and there is a limit for all. A UE
that is challenged inside ESP has none here: it has proven itself, and one at a time is all it can have.
"""

from pcscf.registration import SaSet
from pcscf.vocabulary import source_of
from xfrm.model import IPAddress


class Pending:
    """Sets that wait for their UE, by the source of the REGISTER."""

    def __init__(self, limit: int, per_source: int) -> None:
        self.limit = limit
        self.per_source = per_source
        self._count = 0
        self._of: dict[bytes, dict[int, SaSet]] = {}
        """By source, the oldest first."""
        self._holding: dict[int, dict[bytes, None]] = {}
        """The sources that hold so many."""

    def __len__(self) -> int:
        return self._count

    def add(self, sa_set: SaSet) -> None:
        """Its challenge is about to go out."""
        source = source_of(sa_set.parameters.ue)
        waiting = self._of.setdefault(source, {})
        waiting[sa_set.id] = sa_set
        self._count += 1
        self._move(source, len(waiting) - 1, len(waiting))

    def discard(self, sa_set: SaSet) -> None:
        """It does not wait any more, if it did."""
        source = source_of(sa_set.parameters.ue)
        waiting = self._of.get(source)
        if waiting is None or waiting.pop(sa_set.id, None) is None:
            return
        self._count -= 1
        self._move(source, len(waiting) + 1, len(waiting))
        if not waiting:
            del self._of[source]

    def giving_way(self, address: IPAddress) -> SaSet | None:
        """What must go before one more of this address is added: the oldest of a source that has its share.

        Where there are too many in all, the oldest of the source that has the most.
        """
        waiting = self._of.get(source_of(address))
        if waiting is None or len(waiting) < self.per_source:
            if self._count < self.limit:
                return None
            # As many numbers as there are different ones: fewer than the root of twice the limit.
            waiting = self._of[next(iter(self._holding[max(self._holding)]))]
        return next(iter(waiting.values()))

    def _move(self, source: bytes, was: int, now: int) -> None:
        if was:
            del self._holding[was][source]
            if not self._holding[was]:
                del self._holding[was]
        if now:
            self._holding.setdefault(now, {})[source] = None
