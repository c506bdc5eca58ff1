"""What is known of each next hop: its state, as a table, kept by OPTIONS probes and by what becomes of requests.

Which hops there are to choose from, and in which order, is decided in `nexthop`.
"""

import heapq
import math
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from pcscf.signalling import TransactionUser
from pcscf.sip.message import Request, Response, header
from pcscf.sip.transaction import Transaction
from pcscf.turn import Turn
from pcscf.vocabulary import Flow
from xfrm.model import IPAddress, bracketed

PROBES = 3
"""Failed probes, one after the other, that make a hop inactive."""
REST = 30.0
"""Seconds a failed hop is tried last where nothing is probed; then the next request is the probe."""
LONGEST_REST = 300.0
"""Seconds a hop may ask to be left alone (Retry-After of a 503)."""
KEPT = 600.0
"""Seconds since its last use after which a hop that is not configured is forgotten."""
AFTER_A_BUG = 30.0
"""Seconds after which a hop is looked at again where that met a bug."""
HOPS = 1000


class HopState(Enum):
    """What is known of a next hop."""

    ACTIVE = "active"
    PROBING = "probing"
    """It failed: tried after the active ones until a probe or a request shows what it is."""
    INACTIVE = "inactive"
    """It fails again and again: tried only where nothing else is left."""
    DISABLED = "disabled"
    """The operator took it out: never tried."""


class HopEvent(Enum):
    """What happens to a next hop."""

    ANSWERED = "it answers"
    FAILED = "it failed"
    GIVEN_UP = "its probes failed"
    RESTED = "it has rested"
    DISABLED = "disabled by the operator"
    ENABLED = "enabled by the operator"


HOP_LIFE: dict[HopState, dict[HopEvent, HopState]] = {
    HopState.ACTIVE: {
        HopEvent.FAILED: HopState.PROBING,
        HopEvent.DISABLED: HopState.DISABLED,
    },
    HopState.PROBING: {
        HopEvent.ANSWERED: HopState.ACTIVE,
        HopEvent.GIVEN_UP: HopState.INACTIVE,
        HopEvent.RESTED: HopState.ACTIVE,
        HopEvent.DISABLED: HopState.DISABLED,
    },
    HopState.INACTIVE: {
        HopEvent.ANSWERED: HopState.ACTIVE,
        HopEvent.DISABLED: HopState.DISABLED,
    },
    HopState.DISABLED: {
        HopEvent.ENABLED: HopState.ACTIVE,
    },
}
"""State -> event -> next state. An event without a row does not concern the hop in that state."""


def name_of(flow: Flow) -> str:
    """What people call a next hop: "10.46.0.2:5060/udp"."""
    return f"{bracketed(flow.remote)}:{flow.remote_port}/{flow.transport.lower()}"


HopKey = tuple[IPAddress, int, str]


@dataclass(slots=True, eq=False, kw_only=True)
class Hop:
    """One server of the core: an address, a port and a transport."""

    flow: Flow
    configured: bool
    """Named by the operator by its address; never forgotten."""
    entry: bool
    """An entry point of the home network: probed while it is active, too."""
    priority: int
    weight: int
    since: float
    """When it took its state."""
    used: float
    """When it was last offered."""
    state: HopState = HopState.ACTIVE
    words: str = ""
    """What was last heard of it, when it was bad or changed something."""
    answered: int = 0
    """Requests of others than the prober; likewise the next one."""
    failed: int = 0
    probes: int = 0
    probes_failed: int = 0
    in_a_row: int = 0
    """Probes that failed since the last good one."""
    probe: Transaction[Flow] | None = None
    due: float = math.inf
    """When the next probe goes out or, without probing, when it has rested."""
    alarm: float = math.inf

    @property
    def key(self) -> HopKey:
        return key_of(self.flow)

    @property
    def name(self) -> str:
        return name_of(self.flow)


def key_of(flow: Flow) -> HopKey:
    return flow.remote, flow.remote_port, flow.transport


class Prober(Protocol):
    """What the prober needs of `Signalling`."""

    def request(self, request: Request, flow: Flow, user: TransactionUser) -> Transaction[Flow]: ...


class HopTable:
    """Every hop that is configured or in use. `use` comes before the first `expire` where hops are probed.

    `port`: ours on Mw. `probe_interval`: seconds; 0 is no probing.
    """

    def __init__(self, turn: Turn, *, port: int, probe_interval: float) -> None:
        self._turn = turn
        self._port = port
        self._interval = probe_interval
        self._hops: dict[HopKey, Hop] = {}
        self._signalling: Prober | None = None
        self._probes = _Probes(self)
        self._alarms: list[tuple[float, int, Hop]] = []
        self._alarm_number = 0
        self._switches: list[tuple[Hop, HopEvent]] = []

    def use(self, signalling: Prober) -> None:
        """Send probes through this."""
        self._signalling = signalling

    def configure(self, flow: Flow, priority: int, weight: int) -> None:
        """Enter a hop that stays."""
        hop = self._make(flow, priority, weight, entry=True, configured=True)
        if self._probing:
            self._plan(hop, self._turn.now)

    def obtain(self, flow: Flow, priority: int, weight: int, *, entry: bool) -> Hop:
        """The hop of a flow that is about to be offered; made if it is new. `entry`: it leads to the home network."""
        hop = self._hops.get(key_of(flow))
        if hop is None:
            if len(self._hops) >= HOPS:
                oldest = min(filter(self._forgettable, self._hops.values()), key=lambda each: each.used, default=None)
                if oldest is not None:
                    del self._hops[oldest.key]
            hop = self._make(flow, priority, weight, entry=entry, configured=False)
            self._plan(hop, self._next_probe(hop))
        elif entry and not hop.entry:
            hop.entry = True
            self._plan(hop, self._next_probe(hop))
        hop.used = self._turn.now
        return hop

    def answered(self, flow: Flow) -> None:
        """A request got an answer there that shows a living server."""
        if hop := self._hops.get(key_of(flow)):
            hop.answered += 1
            self._alive(hop, "a request was answered")

    def failed(self, flow: Flow, why: str, *, rest: float = 0.0) -> None:
        """A request got no answer there, the connection was refused, or the answer was 503.

        `why` is for people. `rest`: seconds it asked to be left alone (Retry-After); it is not probed before.
        """
        if hop := self._hops.get(key_of(flow)):
            hop.failed += 1
            hop.words = why
            if self._step(hop, HopEvent.FAILED, why):
                rest = min(rest, LONGEST_REST)
                self._plan(hop, self._turn.now + (rest if self._probing else rest or REST))

    def known(self) -> list[Hop]:
        """Every hop that is known: the configured ones first, each by priority."""
        return sorted(self._hops.values(), key=lambda hop: (not hop.configured, not hop.entry, hop.priority))

    def disable(self, name: str) -> bool:
        """Never offer the hop of that name again, from the next `expire` on; False: there is none.

        Requests that are on their way stay so.
        """
        return self._switch(name, HopEvent.DISABLED)

    def enable(self, name: str) -> bool:
        """Undo `disable`, from the next `expire` on; False: there is no hop of that name."""
        return self._switch(name, HopEvent.ENABLED)

    def _switch(self, name: str, event: HopEvent) -> bool:
        """Operators come outside the turns of the core: what they want is done in the next one."""
        hop = self._named(name)
        if hop is not None:
            self._switches.append((hop, event))
        return hop is not None

    def _named(self, name: str) -> Hop | None:
        return next((hop for hop in self._hops.values() if hop.name == name.lower()), None)

    @property
    def deadline(self) -> float | None:
        if self._switches:
            return self._turn.now
        return self._alarms[0][0] if self._alarms else None

    def expire(self) -> None:
        """Do what the operator wants, send the probes that are due, end rests, forget what nobody uses."""
        switches, self._switches = self._switches, []
        for hop, event in switches:
            self._turn.attempt(self._switch_over, hop, event)
        while self._alarms and self._alarms[0][0] <= self._turn.now:
            at, _, hop = heapq.heappop(self._alarms)
            if hop.alarm == at and self._hops.get(hop.key) is hop:
                hop.alarm = math.inf
                if not self._turn.attempt(self._look_at, hop):
                    self._plan(hop, self._turn.now + AFTER_A_BUG)

    def _switch_over(self, hop: Hop, event: HopEvent) -> None:
        if self._step(hop, event, event.value):
            self._plan(hop, self._turn.now if self._probing and event is HopEvent.ENABLED else math.inf)

    def _look_at(self, hop: Hop) -> None:
        now = self._turn.now
        if self._forgettable(hop) and hop.used + KEPT <= now:
            del self._hops[hop.key]
            return
        if hop.due <= now:
            hop.due = math.inf
            if self._probing:
                self._send_probe(hop)
            else:
                self._step(hop, HopEvent.RESTED, "nothing is probed; the next request will show")
        self._plan(hop, hop.due)

    def _plan(self, hop: Hop, due: float) -> None:
        """Set when a probe or the end of a rest is due; have an alarm for it, or for forgetting, if none is set."""
        hop.due = due
        at = min(due, hop.used + KEPT) if self._forgettable(hop) else due
        if at < hop.alarm:
            hop.alarm = at
            self._alarm_number += 1
            heapq.heappush(self._alarms, (at, self._alarm_number, hop))

    def _forgettable(self, hop: Hop) -> bool:
        return not hop.configured and hop.state is not HopState.DISABLED and hop.probe is None

    def _make(self, flow: Flow, priority: int, weight: int, *, entry: bool, configured: bool) -> Hop:
        now = self._turn.now
        hop = Hop(flow=flow, configured=configured, entry=entry, priority=priority, weight=weight, since=now, used=now)
        if len(self._hops) < HOPS or configured:
            self._hops[hop.key] = hop
        return hop

    @property
    def _probing(self) -> bool:
        return self._interval > 0

    def _step(self, hop: Hop, event: HopEvent, words: str) -> bool:
        """Let a hop take a step of HOP_LIFE; whether there was one."""
        following = HOP_LIFE[hop.state].get(event)
        if following is None:
            return False
        hop.state, hop.since, hop.words, hop.in_a_row = following, self._turn.now, words, 0
        self._turn.problem(f"next hop {hop.name} is {following.value} now: {words}", hop.flow)
        return True

    def _alive(self, hop: Hop, words: str) -> None:
        hop.in_a_row = 0
        if self._step(hop, HopEvent.ANSWERED, words):
            self._plan(hop, self._next_probe(hop))

    def _next_probe(self, hop: Hop) -> float:
        wanted = self._probing and hop.probe is None and (hop.entry or hop.state is not HopState.ACTIVE)
        if not wanted or hop.state is HopState.DISABLED:
            return math.inf
        return self._turn.now + self._interval

    def _send_probe(self, hop: Hop) -> None:
        if hop.probe is not None or hop.state is HopState.DISABLED:
            return  # the next one is planned when this one ends, or when it is enabled
        assert self._signalling is not None, "probing needs `use`"
        hop.probes += 1
        hop.probe = self._signalling.request(self._options(hop.flow), hop.flow, self._probes)
        self._probes.hops[hop.probe] = hop

    def _options(self, flow: Flow) -> Request:
        """OPTIONS to the hop itself: Max-Forwards 0, so that nobody behind it answers (RFC 3261 11.1)."""
        ours = f"{bracketed(flow.local)}:{self._port}"
        uri = f"sip:{bracketed(flow.remote)}:{flow.remote_port}"
        if flow.transport == "TCP":
            uri += ";transport=tcp"
        return Request(
            method="OPTIONS",
            uri=uri,
            headers=(
                header("Via", f"SIP/2.0/{flow.transport} {ours};branch=z9hG4bK{self._turn.token(8)}"),
                header("Max-Forwards", "0"),
                header("From", f"<sip:{ours}>;tag={self._turn.token(4)}"),
                header("To", f"<{uri}>"),
                header("Call-ID", self._turn.token(16)),
                header("CSeq", "1 OPTIONS"),
                header("Content-Length", "0"),
            ),
        )

    def probed(self, hop: Hop, failure: str) -> None:
        """A probe has its result; `failure` is "" for a good one."""
        hop.probe = None
        if not failure:
            self._alive(hop, "a probe was answered")
        else:
            hop.probes_failed += 1
            hop.in_a_row += 1
            if hop.state is HopState.ACTIVE:
                self._step(hop, HopEvent.FAILED, failure)
                hop.in_a_row = 1
            elif hop.state is HopState.PROBING and hop.in_a_row >= PROBES:
                self._step(hop, HopEvent.GIVEN_UP, failure)
            elif hop.state is not HopState.DISABLED:
                hop.words = failure
        self._plan(hop, self._next_probe(hop))


class _Probes:
    """Hears what becomes of probes."""

    def __init__(self, owner: HopTable) -> None:
        self._owner = owner
        self.hops: dict[Transaction[Flow], Hop] = {}

    def answered(self, response: Response, transaction: Transaction[Flow]) -> None:
        """Any final answer shows a living server, but those that say it cannot serve."""
        if response.status >= 200 and (hop := self.hops.pop(transaction, None)):
            bad = response.status in (408, 503)
            self._owner.probed(hop, f"a probe was answered {response.status} {response.reason}" if bad else "")

    def unanswered(self, transaction: Transaction[Flow], why: str) -> None:
        if hop := self.hops.pop(transaction, None):
            self._owner.probed(hop, f"a probe failed: {why}")

    def ended(self, transaction: Transaction[Flow]) -> None:
        self.hops.pop(transaction, None)
