"""A network that loses, doubles and delays answers, the same ones every time it is run with the same seed."""

from dataclasses import dataclass, field
from random import Random

LATE = 1.0
"""Seconds a late answer waits."""
AT_ONCE = (0.0,)


@dataclass(slots=True)
class Unreliable:
    """`share` (0 to 1) of what is asked about has an accident: a third each is lost, comes twice, comes late."""

    share: float
    seed: int = 1
    _random: Random = field(init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"{self.share} is no share from 0 to 1")
        self._random = Random(self.seed)

    def delays(self, *, reliable: bool) -> tuple[float, ...]:
        """The seconds after which each copy leaves. A reliable transport loses nothing."""
        if self._random.random() >= self.share:
            return AT_ONCE
        return self._random.choice([(LATE,) if reliable else (), (0.0, 0.0), (LATE,)])
