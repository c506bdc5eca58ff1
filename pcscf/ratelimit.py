"""What of a flood is written down: so much of each source, so much of all together, and how much was left out.

A stranger's datagram costs nothing, so it must not fill a disk, nor push out of the journal what a phone did. Token
buckets in bounded memory; the log and the journal have one each.
"""

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import NamedTuple

from pcscf.observe import Attempt, MessageSeen, Problem, Record, RegistrationChanged, SetChanged
from pcscf.vocabulary import Flow, Interface, source_of
from xfrm.model import IPAddress

SOURCES = 4096
"""Sources and kinds that are told apart; of more, the one unheard for the longest begins anew."""
NAMED = 1024
"""Sources that are counted of what was left out."""
QUIET = 2.0
"""Seconds without another: then it is said how many were left out."""
EVERY = 10.0
"""Seconds after which it is said although there are more."""
ONWARD = 4096
"""REGISTERs whose answers are left out with them."""


class Rate(NamedTuple):
    """So many at once, and so many a second."""

    burst: float
    a_second: float


class Rates(NamedTuple):
    """Of one source, and of all sources together."""

    source: Rate
    all: Rate


class Origin(NamedTuple):
    """What something is and whom it comes from. `usual`: normal traffic brings it in numbers; problems are few."""

    kind: str
    source: object
    usual: bool = False


class LeftOut(NamedTuple):
    """What was not written. `sources`: how many, at least."""

    kind: str
    number: int
    sources: int
    source: object

    def __str__(self) -> str:
        whose = f"{self.sources}{'' if self.sources < NAMED else ' or more'} sources"
        if self.sources == 1:
            whose = str(self.source) or "one source"
        return f"{self.number} more of this kind were left out: {self.kind}, from {whose}"


class _Bucket:
    __slots__ = ("at", "tokens")

    def __init__(self, tokens: float, at: float) -> None:
        self.tokens = tokens
        self.at = at

    def fill(self, rate: Rate, now: float) -> bool:
        self.tokens = min(rate.burst, self.tokens + (now - self.at) * rate.a_second)
        self.at = now
        return self.tokens >= 1


class _Left:
    __slots__ = ("count", "first", "last", "sources")

    def __init__(self, now: float) -> None:
        self.count = 0
        self.first = now
        self.last = now
        self.sources: set[object] = set()


class RateLimit:
    """Token buckets for each source and kind, and one for each kind."""

    def __init__(self, unusual: Rates, usual: Rates) -> None:
        self._rates = {False: unusual, True: usual}
        self._each: OrderedDict[tuple[str, object], _Bucket] = OrderedDict()
        self._all: dict[str, _Bucket] = {}
        self._left: dict[str, _Left] = {}

    def admits(self, origin: Origin, now: float) -> bool:
        """Whether one more of this may be written."""
        rates = self._rates[origin.usual]
        key = (origin.kind, origin.source)
        each = self._each.get(key)
        if each is None:
            if len(self._each) >= SOURCES:
                self._each.popitem(last=False)
            each = self._each[key] = _Bucket(rates.source.burst, now)
        else:
            self._each.move_to_end(key)
        everybody = self._all.get(origin.kind)
        if everybody is None:
            everybody = self._all[origin.kind] = _Bucket(rates.all.burst, now)
        if each.fill(rates.source, now) and everybody.fill(rates.all, now):
            each.tokens -= 1
            everybody.tokens -= 1
            return True
        left = self._left.get(origin.kind)
        if left is None:
            left = self._left[origin.kind] = _Left(now)
        left.count += 1
        left.last = now
        if len(left.sources) < NAMED:
            left.sources.add(origin.source)
        return False

    @property
    def is_quiet(self) -> bool:
        """Whether nothing was left out that is not told yet."""
        return not self._left

    def left_out(self, now: float) -> list[LeftOut]:
        """What was left out and is to be told now; told once."""
        ripe = [
            kind for kind, left in self._left.items() if now - left.last >= QUIET or now - left.first >= EVERY
        ]  # fmt: skip
        told = []
        for kind in ripe:
            left = self._left.pop(kind)
            told.append(LeftOut(kind, left.count, len(left.sources), next(iter(left.sources))))
        return told


def origin_of(record: Record) -> Origin:
    """What a record is counted as, and for whom."""
    match record:
        case Problem(flow=flow):
            if flow is None:
                return Origin(record.kind.value, record.impi)
            return Origin(f"{record.kind.value} at {flow.interface.value}", _source(flow.remote))
        case MessageSeen(flow=Flow(interface=Interface.GM) as flow):
            if record.incoming:
                registers = record.summary == "REGISTER"
                return Origin(
                    "REGISTER in clear" if registers else "message in clear", _source(flow.remote), usual=registers
                )
            status = record.summary[:3]  # apart, so that a crowd of 403 leaves the 401 visible
            return Origin(f"{status} in clear", _source(flow.remote), usual=status[:1] in "12" or status == "401")
        case MessageSeen(flow=flow):
            return Origin(f"message at {flow.interface.value}", (flow.remote, record.call_id), usual=True)
        case Attempt():
            return Origin("attempt to register", _source(record.ue), usual=True)
        case SetChanged(unproven=True):
            return Origin("set of SAs that nobody has proven to have", _source(record.ue), usual=True)
        case SetChanged():
            return Origin("set of SAs", _source(record.ue), usual=True)
        case RegistrationChanged():
            return Origin("registration", record.impi, usual=True)


def _source(address: IPAddress) -> str:
    """As people read it: an address, of IPv6 the /64 it is in."""
    return str(address) if address.version == 4 else f"{IPv6Address(source_of(address) + bytes(8))}/64"


class JournalLimit:
    """Keeps strangers from pushing out of the journal what others did.

    Limited are problems and messages in clear of those who are not registered, sets that nobody has proven to have the
    keys of, and problems that are nobody's; with a REGISTER that is left out goes the one it causes toward the core,
    and the core's answer. What happens inside ESP or else with the core, what becomes of sets that are proven and of
    registrations, is always written.
    """

    def __init__(self, known: Callable[[Flow], bool]) -> None:
        """`known(flow)`: a contact that is registered without IPsec talks from there."""
        self._known = known
        self._limit = RateLimit(
            unusual=Rates(Rate(50, 5), Rate(1000, 5)),
            usual=Rates(Rate(50, 5), Rate(2000, 100)),
        )
        self._cause: str | None = None
        """Call-ID of a REGISTER that was left out, until the next message comes: what follows is for it."""
        self._onward: OrderedDict[str, None] = OrderedDict()
        """Our branches of the REGISTERs toward the core that were left out. No peer can say those of another's."""

    def admits(self, record: Record, now: float) -> bool:
        if isinstance(record, MessageSeen):
            if self._cause is None and not self._onward and record.flow.interface is not Interface.GM:
                return True  # almost every message there is
            return self._admits_message(record, now)
        match record:
            case Problem(flow=flow):
                if flow is not None and (flow.interface is not Interface.GM or self._known(flow)):
                    return True
            case Attempt(spi=0):
                if record.call_id == self._cause:
                    return False
            case SetChanged(unproven=True):
                pass
            case _:
                return True
        return self._limit.admits(origin_of(record), now)

    def _admits_message(self, record: MessageSeen, now: float) -> bool:
        flow, onward = record.flow, self._onward
        cause = self._cause
        if record.incoming:
            self._cause = None
        if flow.interface is Interface.GM:
            if self._known(flow) or self._limit.admits(origin_of(record), now):
                return True
            if record.incoming and record.summary == "REGISTER":
                self._cause = record.call_id
            return False
        if not record.register:
            return True
        if not record.incoming and record.call_id == cause:
            if len(onward) >= ONWARD:
                onward.popitem(last=False)
            onward[record.register] = None
        return record.register not in onward

    def left_out(self, now: float) -> list[LeftOut]:
        """What is to be told now. When all is told the flood is over, and no answer is left out for it any more."""
        told = self._limit.left_out(now)
        if self._limit.is_quiet:
            self._onward.clear()
        return told
