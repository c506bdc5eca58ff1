"""Challenges to REGISTERs in clear that nobody has answered: how many there may be, and which one makes room.

Whoever sends a REGISTER has us keep one, with four SAs, so each source has its share and there is a limit for all. A UE
that is challenged inside ESP has none here: it has proven itself, and one at a time is all it can have.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

from pcscf.registration import SaSet
from pcscf.vocabulary import source_of
from xfrm.model import IPAddress

HolderT = TypeVar("HolderT", bound=Hashable)


class _Ranking(Generic[HolderT]):
    """Who holds how many, and so who holds the most."""

    def __init__(self) -> None:
        self._holding: dict[int, dict[HolderT, None]] = {}
        """Those that hold so many."""

    def move(self, holder: HolderT, was: int, now: int) -> None:
        """It held so many, and now holds so many."""
        if was:
            del self._holding[was][holder]
            if not self._holding[was]:
                del self._holding[was]
        if now:
            self._holding.setdefault(now, {})[holder] = None

    @property
    def first(self) -> HolderT:
        """One that holds the most; of several the first to hold so many.

        There are as many numbers as there are different ones: fewer than the root of twice what all hold.
        """
        return next(iter(self._holding[max(self._holding)]))


class _Source:
    """What one source holds: sets by their user and id, the oldest first."""

    def __init__(self) -> None:
        self.count = 0
        self.of: dict[str, dict[int, SaSet]] = {}
        self.users: _Ranking[str] = _Ranking()


class Pending:
    """Sets that wait for their UE, by the source of the REGISTER."""

    def __init__(self, limit: int, per_source: int) -> None:
        self.limit = limit
        self.per_source = per_source
        self._count = 0
        self._of: dict[bytes, _Source] = {}
        self._sources: _Ranking[bytes] = _Ranking()

    def __len__(self) -> int:
        return self._count

    def add(self, sa_set: SaSet) -> None:
        """Its challenge is about to go out."""
        name, impi = source_of(sa_set.parameters.ue), sa_set.registration.key.impi
        source = self._of.get(name)
        if source is None:
            source = self._of[name] = _Source()
        waiting = source.of.setdefault(impi, {})
        waiting[sa_set.id] = sa_set
        source.users.move(impi, len(waiting) - 1, len(waiting))
        self._sources.move(name, source.count, source.count + 1)
        source.count += 1
        self._count += 1

    def discard(self, sa_set: SaSet) -> None:
        """It does not wait any more, if it did."""
        name, impi = source_of(sa_set.parameters.ue), sa_set.registration.key.impi
        source = self._of.get(name)
        waiting = source.of.get(impi) if source is not None else None
        if source is None or waiting is None or waiting.pop(sa_set.id, None) is None:
            return
        source.users.move(impi, len(waiting) + 1, len(waiting))
        self._sources.move(name, source.count, source.count - 1)
        source.count -= 1
        self._count -= 1
        if not waiting:
            del source.of[impi]
        if not source.count:
            del self._of[name]

    def giving_way(self, address: IPAddress) -> SaSet | None:
        """What must go before one more of this address is added, where its source has its share or all have theirs.

        It is of that source, or of the one that has the most; there it is the oldest of the user who has the most, so
        that who forges many REGISTERs of one user takes nothing from a neighbour at the same address.
        """
        source = self._of.get(source_of(address))
        if source is None or source.count < self.per_source:
            if self._count < self.limit:
                return None
            source = self._of[self._sources.first]
        return next(iter(source.of[source.users.first].values()))
