"""How much of a table one kind of peers may take: so many entries in all, and so many of one peer.

An entry that has served gives way to a new one, the oldest first and the peer's own before any other. One that is still
needed never does: then the new one has no room.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT", bound=Hashable)


class _Held(Generic[ItemT]):
    """What one peer holds."""

    __slots__ = ("count", "served")

    def __init__(self) -> None:
        self.count = 0
        self.served: dict[ItemT, None] = {}


class Share(Generic[ItemT]):
    """`limit`: entries of all peers of this kind. `of_one`: of one of them. Both may change at any time."""

    def __init__(self, limit: int, of_one: int) -> None:
        self.limit = limit
        self.of_one = of_one
        self._count = 0
        self._held: dict[Hashable, _Held[ItemT]] = {}
        self._served: dict[ItemT, None] = {}
        """Of all peers, in the order in which they have served."""

    def __len__(self) -> int:
        return self._count

    @property
    def peers(self) -> int:
        """How many hold something."""
        return len(self._held)

    def has_room(self, peer: Hashable) -> bool:
        """Whether one more entry of this peer may be made."""
        if self._count >= self.limit:
            return False
        held = self._held.get(peer)
        return self.of_one > 0 if held is None else held.count < self.of_one

    def giving_way(self, peer: Hashable) -> ItemT | None:
        """The entry that is to go where there is no room for one of this peer; None: the new one must not be made."""
        held = self._held.get(peer)
        if held is not None and held.served:
            return next(iter(held.served))
        if held is not None and held.count >= self.of_one:
            return None
        return next(iter(self._served), None)

    def add(self, peer: Hashable, item: ItemT) -> None:
        """Enter it."""
        held = self._held.get(peer)
        if held is None:
            held = self._held[peer] = _Held()
        held.count += 1
        self._count += 1

    def serve(self, peer: Hashable, item: ItemT) -> None:
        """It has served: from here on it is kept only as long as there is room."""
        self._held[peer].served[item] = None
        self._served[item] = None

    def remove(self, peer: Hashable, item: ItemT) -> None:
        """It is over."""
        held = self._held[peer]
        held.count -= 1
        self._count -= 1
        held.served.pop(item, None)
        self._served.pop(item, None)
        if not held.count:
            del self._held[peer]
