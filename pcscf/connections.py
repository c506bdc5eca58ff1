"""Which TCP connections there may be: limits for all, for each side and for each source, and who makes room.

Without sockets: `transport` asks before it takes a connection, and ends those that it is told to end. Connections in
clear cost a stranger nothing, so they never take what ESP and the core need. Where they are full, the network that has
the most of them loses the one that was silent for the longest: one who opens thousands keeps nobody else out, and ends
no connection of a network that has fewer. Those of contacts that are registered without IPsec stay.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from enum import StrEnum
from itertools import chain
from typing import Generic, NamedTuple, Protocol, TypeVar

from pcscf.vocabulary import Flow, Interface, source_of
from xfrm.model import IPAddress

CONNECTIONS = 8192
CONNECTIONS_PER_SOURCE = 64
SPARED = 10.0
"""Seconds after a whole message in which a connection makes no room for another of its own source: an answer is due."""
LOOKS = 32
"""Connections looked at to find one that makes room, so that registered contacts cannot make the search long."""
LOOKED_AT = 256
"""Connections looked at in one go to find those that are idle."""


class Connection(Protocol):
    """What is counted. `heard`: when it brought its last message, or was opened."""

    flow: Flow
    heard: float


C = TypeVar("C", bound=Connection)


class Full(StrEnum):
    """Why there is no room."""

    SOURCE = "source"
    """It has as many as one may have."""
    ALL = "all"
    """There are as many as there may be, or as its side may have."""


class Room(NamedTuple, Generic[C]):
    """Whether one more may come: where nothing is `full`, or where one `ends` for it."""

    full: Full | None = None
    ends: C | None = None


class _Crowd(Generic[C]):
    """Connections that belong together, each part the longest silent first."""

    __slots__ = ("heard", "silent")

    def __init__(self) -> None:
        self.silent: OrderedDict[C, None] = OrderedDict()
        """Those that brought no message yet."""
        self.heard: OrderedDict[C, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.silent) + len(self.heard)


class Crowds(Generic[C]):
    """Connections by what they have in common, and which crowd is the largest: each step takes the same time."""

    def __init__(self) -> None:
        self._crowds: dict[object, _Crowd[C]] = {}
        self._by_size: dict[int, OrderedDict[object, None]] = {}
        self._largest = 0

    def __len__(self) -> int:
        return len(self._crowds)

    def size(self, key: object) -> int:
        crowd = self._crowds.get(key)
        return 0 if crowd is None else len(crowd)

    @property
    def largest(self) -> object | None:
        """The key of a crowd that is as large as any."""
        return next(iter(self._by_size[self._largest])) if self._largest else None

    def silent(self, key: object) -> Iterator[C]:
        """Those of a crowd that brought no message yet, the oldest first."""
        return iter(self._crowds[key].silent if key in self._crowds else ())

    def heard(self, key: object) -> Iterator[C]:
        """The others of it, the longest silent first."""
        return iter(self._crowds[key].heard if key in self._crowds else ())

    def add(self, key: object, connection: C) -> None:
        crowd = self._crowds.setdefault(key, _Crowd())
        crowd.silent[connection] = None
        self._resize(key, len(crowd) - 1, len(crowd))

    def hear(self, key: object, connection: C) -> None:
        """It brought a message: it is the last of its crowd to make room, and in it if it was not."""
        crowd = self._crowds.get(key)
        if crowd is None or (connection not in crowd.heard and connection not in crowd.silent):
            self.add(key, connection)
            crowd = self._crowds[key]
        crowd.silent.pop(connection, None)
        crowd.heard[connection] = None
        crowd.heard.move_to_end(connection)

    def discard(self, key: object, connection: C) -> None:
        crowd = self._crowds.get(key)
        if crowd is None:
            return
        before = len(crowd)
        crowd.silent.pop(connection, None)
        crowd.heard.pop(connection, None)
        if len(crowd) < before:
            self._resize(key, before, len(crowd))
            if not len(crowd):
                del self._crowds[key]

    def _resize(self, key: object, before: int, now: int) -> None:
        if now:
            self._by_size.setdefault(now, OrderedDict())[key] = None
        if before:
            those = self._by_size[before]
            del those[key]
            if not those:
                del self._by_size[before]
        if now > self._largest or self._largest not in self._by_size:
            self._largest = now  # a crowd grows and shrinks by one


class Connections(Generic[C]):
    """All TCP connections there are. `keeps(flow)`: whether one that is idle must stay."""

    def __init__(self, limit: int, per_source: int, keeps: Callable[[Flow], bool]) -> None:
        self.limit = limit
        self.per_source = per_source
        self._keeps = keeps
        self._heard: OrderedDict[C, float] = OrderedDict()
        """Those on Gm: in clear when they were heard or looked at last, inside ESP when they were looked at last."""
        self._all: set[C] = set()
        self._count: Counter[Interface] = Counter()
        self._sources: dict[tuple[Interface, IPAddress], set[C]] = {}
        self._clear_sources: Crowds[C] = Crowds()
        self._clear_networks: Crowds[C] = Crowds()

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[C]:
        return iter(tuple(self._all))

    def __contains__(self, connection: C) -> bool:
        return connection in self._all

    @property
    def clear_limit(self) -> int:
        """In clear there may be half: what is inside ESP and the core have the rest to themselves."""
        return max(1, self.limit // 2)

    def room(self, flow: Flow, now: float, *, ours: bool = False) -> Room[C]:
        """Whether a connection may come; `ours`: we open it, so that its peer has no say in how many there are."""
        interface = flow.interface
        if not ours and len(self._sources.get((interface, flow.remote), ())) >= self.per_source:
            return Room(Full.SOURCE, self._idle_one_of(flow, now))
        if interface is Interface.MW and not ours and self._count[interface] >= max(1, self.limit // 4):
            return Room(Full.ALL)  # who speaks for the core has a share, too
        if not self._is_full(interface):
            return Room()
        return Room(Full.ALL, self._idle_one_in_clear(flow if interface is Interface.GM else None))

    def add(self, connection: C, now: float) -> None:
        flow = connection.flow
        connection.heard = now
        self._all.add(connection)
        self._count[flow.interface] += 1
        self._sources.setdefault((flow.interface, flow.remote), set()).add(connection)
        if flow.interface is not Interface.MW:
            self._heard[connection] = now
        if flow.interface is Interface.GM:
            self._clear_sources.add(flow.remote, connection)
            self._clear_networks.add(source_of(flow.remote), connection)

    def hear(self, connection: C, now: float) -> None:
        """It brought a whole message."""
        connection.heard = now
        flow = connection.flow
        if flow.interface is Interface.GM and connection in self._all:
            self._heard[connection] = now
            self._heard.move_to_end(connection)
            self._clear_sources.hear(flow.remote, connection)
            self._clear_networks.hear(source_of(flow.remote), connection)

    def discard(self, connection: C) -> None:
        """It is gone, or on its way out."""
        if connection not in self._all:
            return
        flow = connection.flow
        self._all.remove(connection)
        self._count[flow.interface] -= 1
        key = (flow.interface, flow.remote)
        self._sources[key].remove(connection)
        if not self._sources[key]:
            del self._sources[key]
        self._heard.pop(connection, None)
        if flow.interface is Interface.GM:
            self._clear_sources.discard(flow.remote, connection)
            self._clear_networks.discard(source_of(flow.remote), connection)

    def idle(self, now: float, seconds: float) -> list[C]:
        """Some of those on Gm that brought no message for so long and need not stay; ask again soon for more."""
        found = []
        for _ in range(LOOKED_AT):
            connection = next(iter(self._heard), None)
            if connection is None or now - self._heard[connection] < seconds:
                break
            self._heard[connection] = now
            self._heard.move_to_end(connection)
            if not self._keeps(connection.flow):
                found.append(connection)
        return found

    def _is_full(self, interface: Interface) -> bool:
        count, limit = self._count, self.limit
        if len(self._all) >= limit:
            return True
        if interface is Interface.MW:
            return False
        if count[Interface.GM] + count[Interface.GM_PROTECTED] >= limit - limit // 8:  # an eighth is the core's
            return True
        return interface is Interface.GM and count[interface] >= self.clear_limit

    def _idle_one_of(self, flow: Flow, now: float) -> C | None:
        """The one that makes room for another of its own source; on Mw none does."""
        if flow.interface is Interface.MW:
            return None
        if flow.interface is Interface.GM_PROTECTED:
            oldest = min(self._sources[flow.interface, flow.remote], key=lambda connection: connection.heard)
            return oldest if now - oldest.heard >= SPARED else None
        silent = next(self._clear_sources.silent(flow.remote), None)
        if silent is not None:
            return silent
        for connection in self._clear_sources.heard(flow.remote):
            if now - connection.heard < SPARED:
                return None  # and so it is with all that follow
            if not self._keeps(connection.flow):
                return connection
        return None

    def _idle_one_in_clear(self, newcomer: Flow | None) -> C | None:
        """The one in clear that makes room. A newcomer of a network that has as many as any displaces its own."""
        crowds = self._clear_networks
        own = None if newcomer is None else source_of(newcomer.remote)
        for _ in range(LOOKS):
            key = crowds.largest
            if key is None:
                return None
            if own is not None and crowds.size(own) >= crowds.size(key):
                key = own
            connection = next(chain(crowds.silent(key), crowds.heard(key)))
            if not self._keeps(connection.flow):
                return connection
            crowds.discard(key, connection)  # it comes back in when it brings its next message
        return None


class Budget(Generic[C]):
    """What connections hold of something together, in the order in which each began to. The first gives way."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._each: OrderedDict[C, int] = OrderedDict()

    def hold(self, connection: C, amount: int) -> C | None:
        """From now on it holds so much, with 0 nothing. Gives the one that must end, if all hold too much."""
        before = self._each.get(connection, 0)
        self.held += amount - before
        if amount:
            self._each[connection] = amount
        elif before:
            del self._each[connection]
        return next(iter(self._each)) if self.held > self.limit else None
