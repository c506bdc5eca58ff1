"""What is counted as it happens, for metrics and charts: a number each, and nothing per UE.

Everything only grows, so whoever reads may come as often as it likes.
"""

from bisect import bisect_left
from collections import Counter, deque

from pcscf.sip.message import REASONS

LATENCY_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds. A challenge costs us a fraction of a millisecond; the core behind us takes from a few to a few hundred."""
RECENT = 4096
METHODS = frozenset(
    "ACK,BYE,CANCEL,INFO,INVITE,MESSAGE,NOTIFY,OPTIONS,PRACK,PUBLISH,REFER,REGISTER,SUBSCRIBE,UPDATE".split(",")  # noqa: SIM905
)
"""Those of the IANA registry. What a peer makes up is counted as OTHER."""


class Latency:
    """A histogram. `counts` has one more place than `bounds`: what took longer than all of them."""

    def __init__(self, bounds: tuple[float, ...] = LATENCY_BOUNDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
        """When, and how long it took: both seconds."""

    def observe(self, now: float, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds
        self.recent.append((now, seconds))

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantiles(self, since: float, *wanted: float) -> list[float | None]:
        """Of what was observed after `since`, nearest rank; None where nothing was."""
        found = sorted(seconds for at, seconds in self.recent if at > since)
        return [found[min(len(found) - 1, int(each * len(found)))] if found else None for each in wanted]


class Tally:
    """One P-CSCF's."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, int]] = Counter()
        """Final answers to requests, on both sides: by method and status, unknown ones as x00 (RFC 3261 8.1.3.2)."""
        self.challenge = Latency()
        """From a REGISTER that asks for it to its 401 leaving, the core and the kernel included."""
        self.events: Counter[str] = Counter()
        """What happened to sets of SAs and registrations."""
        self.problems = 0
        self.backend_errors: Counter[str] = Counter()
        """What the kernel, or the userspace backend, refused: by operation."""
        self.lag = 0.0
        """Seconds by which the event loop was late when it was looked at last."""
        self.worst_lag = 0.0

    def answered(self, method: str, status: int) -> None:
        """A request got its final answer."""
        known = status if status in REASONS else status // 100 * 100
        self.outcomes[method if method in METHODS else "OTHER", known] += 1
