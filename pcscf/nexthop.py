"""Where requests toward the core go: the entry points of the home network, URIs, names (RFC 3263), the order to try.

The one place of the core that decides it. A caller asks for the ways to try, the best first, and gets them at once or,
when a name must be resolved before, later. Which message goes there and what an answer means is for the caller.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Literal, NamedTuple, Protocol, Self, TypeVar

from pcscf.hops import Hop, HopKey, HopState, HopTable, Prober, key_of
from pcscf.sip.fields import KEPT_OCTETS
from pcscf.sip.parse import ParseError, quoted, without_keys_in
from pcscf.sip.uri import parse_uri
from pcscf.turn import Turn
from pcscf.vocabulary import Flow, Interface, Query, Resolve, Resolved, Target
from xfrm.model import IPAddress, bracketed

Transport = Literal["UDP", "TCP"]
Then = Callable[[list[Flow]], None]

DEFAULT_PORT = 5060
ANSWERS = 256
"""Names that are remembered, and names that may be asked for at a time."""
WAITING = 1000
"""Requests that may wait for names."""
PATIENCE = 10.0
"""Seconds for one resolution."""
TTL = (5.0, 3600.0)
"""The shortest and longest time that an answer is believed, in seconds."""
NEGATIVE_TTL = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredHop:
    """One entry point of the home network: `uri` as `read_uri` takes it; lowest priority first (RFC 2782)."""

    uri: str
    priority: int = 1
    weight: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HopSettings:
    """What the operator decided about the ways toward the core."""

    home: tuple[ConfiguredHop, ...]
    addresses: tuple[IPAddress, ...]
    """Ours on Mw: one, or one of each family."""
    port: int = DEFAULT_PORT
    """Ours on Mw."""
    transport: Transport = "UDP"
    """For hops that do not say."""
    probe_interval: float = 0.0
    """Seconds between OPTIONS to a hop; 0: no probing."""

    @classmethod
    def only(cls, flow: Flow) -> Self:
        """Everything goes on this one flow, without probing."""
        return cls(
            home=(ConfiguredHop(uri=f"sip:{bracketed(flow.remote)}:{flow.remote_port}"),),
            addresses=(flow.local,),
            port=flow.local_port or DEFAULT_PORT,
            transport=flow.transport,
        )


def read_uri(text: str, transport: Transport) -> Query:
    """Host, port and transport of a next hop, as far as RFC 3263 4.1 and 4.2 let the URI decide them.

    `transport` is taken where the URI names a port or an address and no transport. The port is 0 for a name without.
    Raises ParseError.
    """
    uri = parse_uri(text)
    shown = quoted(text, 80)
    if uri.scheme != "sip":
        raise ParseError(f"only sip: is served toward the core, not {uri.scheme}: {shown}", status=416)
    if uri.param("maddr") is not None:
        raise ParseError(f"maddr would send it elsewhere than it says: {shown}")
    said = uri.param("transport")
    if said is not None and said.lower() not in ("udp", "tcp"):
        raise ParseError(
            f"transport {without_keys_in(said[:20])} is not served toward the core, only udp and tcp: {shown}"
        )
    chosen: Literal["UDP", "TCP", ""] = "" if said is None else "UDP" if said.lower() == "udp" else "TCP"
    host = uri.host.rstrip(".")
    if not host:
        raise ParseError(f"no host: {shown}")
    literal = _literal(host)
    return Query(
        host=host,
        port=uri.port or (DEFAULT_PORT if literal else 0),
        transport=chosen or (transport if literal or uri.port else ""),
    )


def _literal(host: str) -> IPAddress | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the DNS said of a name. With an `error` any targets are those of the last good answer (RFC 8767)."""

    query: Query
    targets: tuple[Target, ...]
    until: float
    error: str


class _Entry(NamedTuple):
    """A place to go, as it was named."""

    query: Query
    address: IPAddress | None
    priority: int
    weight: int


@dataclass(slots=True, eq=False, kw_only=True)
class _Wish:
    """A request that waits for names."""

    entries: tuple[_Entry, ...]
    home: bool
    then: Then
    missing: set[Query]


@dataclass(slots=True, eq=False)
class _Asked:
    """A question that is out."""

    query: Query
    wishes: list[_Wish] = field(default_factory=list)


class _Ranked(Protocol):
    @property
    def priority(self) -> int: ...
    @property
    def weight(self) -> int: ...


_RankedT = TypeVar("_RankedT", bound=_Ranked)


class NextHops:
    """Every way toward the core of one proxy. `use` comes before the first `expire` where hops are probed."""

    def __init__(self, turn: Turn, settings: HopSettings) -> None:
        self._turn = turn
        self._settings = settings
        self._hops = HopTable(turn, port=settings.port, probe_interval=settings.probe_interval)
        self._local = {address.version: address for address in settings.addresses}
        self._home = tuple(self._entry(each.uri, each.priority, each.weight) for each in settings.home)
        self._answers: dict[Query, Answer] = {}
        self._asked: dict[Query, _Asked] = {}
        self._literals: dict[str, Flow] = {}
        self._lost: deque[tuple[float, _Asked]] = deque()
        self._waiting = 0
        for entry in self._home:
            if entry.address is not None:
                flow = self._flow(entry.query.transport, entry.address, entry.query.port)
                if flow is not None:
                    self._hops.configure(flow, entry.priority, entry.weight)

    def use(self, signalling: Prober) -> None:
        """Send probes through this."""
        self._hops.use(signalling)

    def to_home(self, then: Then) -> None:
        """The ways to the entry point of the home network, to be tried in this order; none: nowhere to go.

        `then` is called at once when the ways are known, else when the names are resolved or given up.
        """
        self._decide(self._home, then, home=True)

    def to_uri(self, uri: str, then: Then) -> None:
        """The ways to the host of a URI (Route, Service-Route, E-CSCF), in the manner of `to_home`."""
        flow = self._literals.get(uri)
        if flow is not None and self._hops.obtain(flow, 0, 0, entry=False).state is not HopState.DISABLED:
            then([flow])
            return
        try:
            entry = self._entry(uri, 0, 0)
        except ParseError as error:
            self._turn.problem(f"no next hop: {error}")
            then([])
            return
        if entry.address is not None and (flow := self._flow(entry.query.transport, entry.address, entry.query.port)):
            if len(self._literals) >= ANSWERS:
                self._literals.clear()
            if len(uri) <= KEPT_OCTETS:
                self._literals[uri] = flow
        self._decide((entry,), then, home=False)

    def answered(self, flow: Flow) -> None:
        """A request got an answer there that shows a living server."""
        self._hops.answered(flow)

    def failed(self, flow: Flow, why: str, *, rest: float = 0.0) -> None:
        """A request got no answer there, the connection was refused, or the answer was 503.

        `why` is for people. `rest`: seconds it asked to be left alone (Retry-After); it is not probed before.
        """
        self._hops.failed(flow, why, rest=rest)

    def hops(self) -> list[Hop]:
        """Every hop that is known: the configured ones first, each by priority."""
        return self._hops.known()

    def names(self) -> list[Answer]:
        """Every name that is remembered."""
        return list(self._answers.values())

    def disable(self, name: str) -> bool:
        """Never offer the hop of that name again, from the next `expire` on; False: there is none.

        Requests that are on their way stay so.
        """
        return self._hops.disable(name)

    def enable(self, name: str) -> bool:
        """Undo `disable`, from the next `expire` on; False: there is no hop of that name."""
        return self._hops.enable(name)

    @property
    def deadline(self) -> float | None:
        times = [at for at in (self._hops.deadline, self._lost[0][0] if self._lost else None) if at is not None]
        return min(times, default=None)

    def expire(self) -> None:
        """Give up lost questions, and let the hops do what is due."""
        while self._lost and self._lost[0][0] <= self._turn.now:
            _, asked = self._lost.popleft()
            if self._asked.get(asked.query) is asked:
                self._turn.attempt(self.resolved, Resolved(asked.query, (), 0.0, f"no answer in {PATIENCE:.0f} s"))
        self._hops.expire()

    def resolved(self, event: Resolved) -> None:
        """The DNS answered, in time or late: remember it and let go on who waited for it."""
        query, now = event.query, self._turn.now
        targets, error = event.targets, event.error
        if targets:
            until = now + min(max(event.ttl, TTL[0]), TTL[1])
            error = ""
        else:
            former = self._answers.get(query)
            targets = former.targets if former and not event.ttl else ()
            until, error = now + NEGATIVE_TTL, error or "no server found"
            self._turn.problem(f"{query}: {error}{'; its former addresses stay in use' if targets else ''}")
        if query not in self._answers and len(self._answers) >= ANSWERS:
            del self._answers[min(self._answers.values(), key=lambda each: each.until).query]
        self._answers[query] = Answer(query=query, targets=targets, until=until, error=error)
        asked = self._asked.pop(query, None)
        for wish in asked.wishes if asked else ():
            wish.missing.discard(query)
            if not wish.missing:
                self._waiting -= 1
                self._turn.attempt(self._grant, wish)

    def _grant(self, wish: _Wish) -> None:
        wish.then(self._ways(wish.entries, home=wish.home))

    def _decide(self, entries: tuple[_Entry, ...], then: Then, *, home: bool) -> None:
        missing = {each.query for each in entries if each.address is None and not self._known(each.query)}
        if missing and (self._waiting >= WAITING or len(self._asked) + len(missing) > ANSWERS):
            self._turn.problem(f"{self._waiting} requests wait for {len(self._asked)} names; no more may")
            missing.clear()
        if not missing:
            then(self._ways(entries, home=home))
            return
        self._waiting += 1
        wish = _Wish(entries=entries, home=home, then=then, missing=missing)
        for query in sorted(missing):
            asked = self._asked.get(query)
            if asked is None:
                asked = self._asked[query] = _Asked(query)
                self._lost.append((self._turn.now + PATIENCE, asked))
                self._turn.do(Resolve(query))
            asked.wishes.append(wish)

    def _known(self, query: Query) -> bool:
        answer = self._answers.get(query)
        return answer is not None and answer.until > self._turn.now

    def _ways(self, entries: tuple[_Entry, ...], *, home: bool) -> list[Flow]:
        """All flows to these entries in the order to try them; notes a Problem when there are none."""
        why: list[str] = []
        found: dict[HopKey, Hop] = {}
        for entry in self._in_order(entries):
            for target in self._targets(entry, why):
                flow = self._flow(target.transport, target.address, target.port)
                if flow is None:
                    why.append(f"{bracketed(target.address)}:{target.port} cannot be reached from our Mw addresses")
                elif (key := key_of(flow)) not in found:
                    rank = entry if entry.address else target
                    found[key] = self._hops.obtain(flow, rank.priority, rank.weight, entry=home)
        ways = [hop for hop in found.values() if hop.state is not HopState.DISABLED]
        if len(ways) > 1:
            states = {state: [hop for hop in ways if hop.state is state] for state in HopState}
            ways = states[HopState.ACTIVE] + states[HopState.PROBING] or states[HopState.INACTIVE]
        if not ways:
            why += [f"{hop.name} is disabled" for hop in found.values()]
            self._turn.problem(f"no next hop: {'; '.join(why) or 'none is configured'}")
        return [hop.flow for hop in ways]

    def _targets(self, entry: _Entry, why: list[str]) -> Iterator[Target]:
        query = entry.query
        if entry.address is not None:
            assert query.transport
            yield Target(query.transport, entry.address, query.port, 0, 0)
            return
        answer = self._answers.get(query)
        if answer is None or not answer.targets:
            why.append(f"{query}: {answer.error if answer else 'not resolved'}")
        else:
            yield from self._in_order(answer.targets)

    def _in_order(self, ranked: Iterable[_RankedT]) -> Iterator[_RankedT]:
        """By priority, and within one in a random order that follows the weights (RFC 2782)."""
        left = list(ranked)
        if len(left) > 1:
            left.sort(key=lambda each: (each.priority, each.weight > 0))
        while left:
            group = [each for each in left if each.priority == left[0].priority]
            place = 0
            if len(group) > 1:
                drawn = int.from_bytes(self._turn.random_octets(4), "big") % (sum(each.weight for each in group) + 1)
                while (drawn := drawn - group[place].weight) > 0:
                    place += 1
            yield left.pop(place)

    def _entry(self, uri: str, priority: int, weight: int) -> _Entry:
        query = read_uri(uri, self._settings.transport)
        return _Entry(query, _literal(query.host), priority, weight)

    def _flow(self, transport: str, remote: IPAddress, port: int) -> Flow | None:
        """The flow from us to there; None: we have no address of that family, it is no host's address, or our own."""
        local, own = self._local.get(remote.version), self._settings.port
        if local is None or not port or remote.is_unspecified or remote.is_multicast:
            return None
        if (remote, port) == (local, own) or (isinstance(remote, IPv6Address) and remote.ipv4_mapped):
            return None
        if transport == "TCP":
            return Flow("TCP", Interface.MW, local, 0, remote, port)
        return Flow("UDP", Interface.MW, local, own, remote, port)
