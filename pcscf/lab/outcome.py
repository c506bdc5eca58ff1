"""What came of a registration, as the UE saw it: for people, for the ladder of `pcscf lab`, and for tests."""

from dataclasses import dataclass

from pcscf.lab.agreement import SecuritySet
from pcscf.vocabulary import Flow


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One message on the wire. `at` in seconds from the start, `spi` of the SA it rode on, 0 in clear."""

    at: float
    incoming: bool
    flow: Flow
    spi: int
    summary: str
    again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds from the start of the procedure; None for what did not happen."""

    challenged: float | None = None
    installed: float | None = None
    ended: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of one procedure. `status` is the last final response, 0 when none came; `reason` is for people."""

    registered: bool
    status: int
    reason: str
    expires: int = 0
    associated_uris: tuple[str, ...] = ()
    service_route: tuple[str, ...] = ()
    sets: tuple[SecuritySet, ...] = ()
    """The sets alive at the end, the one in use last."""
    timings: Timings = Timings()
    ladder: tuple[Step, ...] = ()
    complaints: tuple[str, ...] = ()
    """What a strict handset would not have taken."""
    clear_request_status: int | None = None
    """Answer to a MESSAGE sent in clear on demand, 0 for silence; None when none was sent."""
