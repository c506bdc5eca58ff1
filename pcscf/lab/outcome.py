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


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptMessage:
    """A MESSAGE that came in. `at` in seconds since the UE was made; `sender` is the asserted identity, else From."""

    at: float
    sender: str
    content_type: str
    body: bytes

    @property
    def text(self) -> str:
        """The body for people; octets that are no UTF-8 (SMS over IP) in hexadecimal."""
        try:
            return self.body.decode()
        except UnicodeDecodeError:
            return self.body.hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class CallReport:
    """One call, as far as it came. `status` is the final answer to the INVITE, 0 before; `reason` is for people."""

    peer: str
    incoming: bool
    state: str
    status: int
    reason: str
    early_dialogs: int
    preconditions: bool
    """Whether both sides agreed on them."""
    local_ready: bool
    remote_ready: bool
    direction: str
    """Of the media, as we see it."""
