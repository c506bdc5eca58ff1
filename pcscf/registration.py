"""A registration and its sets of SAs, and the life of a set as a table (TS 33.203 7.4, digest A8 and A9).

Values only: who keeps them, finds them and lets them take their steps is `registrar`.
"""

import math
from dataclasses import dataclass, field
from enum import Enum

from pcscf.observe import SetChanged, SetEvent
from pcscf.security import Chosen, Parameters, Proposal, server_header
from pcscf.sip.fields import parse_name_addr
from pcscf.sip.parse import ParseError
from pcscf.sip.uri import parse_uri, same_uri
from pcscf.vocabulary import Flow
from xfrm.model import IPAddress, SaId

TEMP_LIFETIME = 240
"""reg-await-auth, 4 minutes (TS 24.229 7.8)."""
MOST_SETS = 3
"""Of one contact: old, in use or new, and temporary (TS 33.203 7.1 rule 3: six SAs in each direction)."""
MOST_IDENTITIES = 64
"""Identities that one contact may have registered each on its own; a user has a handful."""


class SetState(Enum):
    """Where a set is in its life (TS 33.203 7.4)."""

    PENDING = "pending"
    """The kernel has been asked; nobody else knows of it."""
    TEMP = "temporary"
    """The challenge may go out; only authentication runs on it."""
    NEW = "new"
    """Re-authenticated; the UE has not been seen on it, so what we send still goes on the set before it."""
    ACTIVE = "active"
    OLD = "old"
    """The UE has moved on; pending transactions end here."""
    CLOSING = "closing"
    """Its last answer is out; kept until that transaction ends, so that a retransmission is answered inside ESP."""
    GONE = "gone"


class Effect(Enum):
    """What the registrar must do for a step of the table."""

    REMOVE = "remove the SAs"
    EXTEND = "set the lifetime of the registration"
    REPLACE = "remove every other set of the registration"
    SUCCEED = "remove every other set but the one the procedure began on"
    TAKE_OVER = "make the set that was in use an old one"
    DRAIN = "cut the lifetime to what pending transactions need"
    LINGER = "remove the SAs when the transaction has ended"


Step = tuple[SetState, tuple[Effect, ...]]
GONE: Step = (SetState.GONE, (Effect.REMOVE,))
CLOSING: Step = (SetState.CLOSING, (Effect.LINGER,))

SET_LIFE: dict[SetState, dict[SetEvent, Step]] = {
    SetState.PENDING: {
        SetEvent.INSTALLED: (SetState.TEMP, ()),
        SetEvent.REFUSED_BY_KERNEL: (SetState.GONE, ()),
        SetEvent.SUPERSEDED: GONE,
        SetEvent.RESTARTED: GONE,
        SetEvent.EXPIRED: GONE,
    },
    SetState.TEMP: {
        SetEvent.AUTHENTICATED: (SetState.ACTIVE, (Effect.EXTEND, Effect.REPLACE)),
        SetEvent.REAUTHENTICATED: (SetState.NEW, (Effect.EXTEND, Effect.SUCCEED)),
        SetEvent.AUTHENTICATION_FAILED: CLOSING,
        SetEvent.DISAGREED: CLOSING,
        SetEvent.DEREGISTERED: CLOSING,
        SetEvent.SUPERSEDED: GONE,
        SetEvent.RESTARTED: GONE,
        SetEvent.EXPIRED: GONE,
    },
    SetState.NEW: {
        SetEvent.USED: (SetState.ACTIVE, (Effect.TAKE_OVER,)),
        SetEvent.REFRESHED: (SetState.NEW, (Effect.EXTEND,)),
        SetEvent.DEREGISTERED: CLOSING,
        SetEvent.WITHDRAWN: (SetState.NEW, (Effect.LINGER,)),
        SetEvent.SUPERSEDED: GONE,
        SetEvent.EXPIRED: GONE,
    },
    SetState.ACTIVE: {
        SetEvent.REFRESHED: (SetState.ACTIVE, (Effect.EXTEND,)),
        SetEvent.RETIRED: (SetState.OLD, (Effect.DRAIN,)),
        SetEvent.DEREGISTERED: CLOSING,
        SetEvent.WITHDRAWN: (SetState.ACTIVE, (Effect.LINGER,)),
        SetEvent.SUPERSEDED: GONE,
        SetEvent.EXPIRED: GONE,
    },
    SetState.OLD: {
        SetEvent.DEREGISTERED: CLOSING,
        SetEvent.SUPERSEDED: GONE,
        SetEvent.EXPIRED: GONE,
    },
    SetState.CLOSING: {
        SetEvent.DRAINED: GONE,
        SetEvent.SUPERSEDED: GONE,
        SetEvent.RESTARTED: GONE,
        SetEvent.EXPIRED: GONE,
    },
    SetState.GONE: {},
}
"""State -> event -> (next state, effects). An event without a row does not concern the set in that state."""

UNPROVEN = frozenset({SetState.PENDING, SetState.TEMP})
CLAIMED = UNPROVEN | {SetState.GONE}
"""Where a set is after a step that needed no message inside ESP; the others need one."""
ESTABLISHED = frozenset({SetState.NEW, SetState.ACTIVE, SetState.OLD})
"""States of a set whose UE has proven itself: what may carry its traffic."""


@dataclass(slots=True, eq=False, kw_only=True)
class SaSet:
    """Four SAs of one AKA run. No keys: once installed only the backend has them."""

    id: int
    registration: "Registration"
    state: SetState
    parameters: Parameters
    chosen: Chosen
    proposal: Proposal
    impu: str
    nonce: str
    expires: float
    """When the core's timer ends the set."""
    made: float = 0.0
    began_on: "SaSet | None" = None
    """The established set on which the procedure began that made this one; None if it began in clear."""
    alarm: float = math.inf
    """When the registrar looks at it next."""
    answering: bool = False
    """The protected REGISTER with the answer is on its way to the core."""
    told: str = ""
    """The Security-Server value that the UE was told; "" until it is needed again, which most of a flood never is."""

    @property
    def security_server(self) -> str:
        """What Security-Verify has to repeat (TS 33.203 7.2)."""
        if not self.told:
            self.told = self.new_security_server()
        return self.told

    def new_security_server(self) -> str:
        """The Security-Server value of this set for its 401; nothing is kept of it."""
        return server_header(self.chosen.preference, self.parameters)

    @property
    def began_inside_esp(self) -> bool:
        """Whether the REGISTER that had it made came from a UE that had proven itself, and still has."""
        return self.began_on is not None and self.began_on.state in ESTABLISHED

    @property
    def ids(self) -> tuple[SaId, SaId, SaId, SaId]:
        """In the order of TS 33.203 7.1 (digest A1)."""
        ends = self.parameters
        return (
            SaId(ends.pcscf, ends.spi_ps),
            SaId(ends.ue, ends.spi_uc),
            SaId(ends.ue, ends.spi_us),
            SaId(ends.pcscf, ends.spi_pc),
        )

    @property
    def spis(self) -> tuple[int, int, int, int]:
        """spi_uc, spi_us, spi_pc, spi_ps."""
        ends = self.parameters
        return ends.spi_uc, ends.spi_us, ends.spi_pc, ends.spi_ps

    def changed(self, event: SetEvent, was: SetState, detail: str, now: float, call_id: str) -> SetChanged:
        """The record of a step that it has just taken."""
        return SetChanged(
            at=now,
            impi=self.registration.key.impi,
            ue=self.registration.key.address,
            set_id=self.id,
            event=event,
            state=self.state.value,
            spis=self.spis,
            detail=detail,
            call_id=call_id,
            unproven=was in UNPROVEN and self.state in CLAIMED and not (self.began_on or self.answering),
        )

    def spi(self, local_port: int, *, incoming: bool) -> int:
        """The SPI on the wire of a message at that port of ours (digest A1)."""
        ends = self.parameters
        if local_port == ends.port_ps:
            return ends.spi_ps if incoming else ends.spi_uc
        return ends.spi_pc if incoming else ends.spi_us


@dataclass(frozen=True, slots=True)
class ContactKey:
    """A registered contact: the same user at another address or with another instance is another one (digest A9)."""

    impi: str
    address: IPAddress
    instance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """One identity that the contact registered, and those the core registered along with it."""

    expires: float
    associated_uris: tuple[str, ...]
    """P-Associated-URI values with their display names; the first is the default identity (digest C4)."""


@dataclass(slots=True, eq=False, kw_only=True)
class Registration:
    """One registered contact, or one that tries to become it."""

    key: ContactKey
    path_token: str
    sets: list[SaSet] = field(default_factory=list)
    bindings: dict[str, Binding] = field(default_factory=dict)
    """By the identity (To) that was registered, the first one first. Empty while not registered."""
    associated_uris: tuple[str, ...] = ()
    """Every identity this contact may use, the default one first; the registrar keeps it in step with the bindings."""
    contact: str = ""
    """The URI the UE registered."""
    path_uri: str = ""
    """What we put into the Path of its REGISTER: by this the core knows us."""
    service_route: tuple[str, ...] = ()
    to_challenge: bool = False
    """The operator wants it authenticated anew: its next REGISTER is not vouched for to the core."""
    last_port_pc: int = 0
    """The port_pc of the newest set; the next set takes another (TS 33.203 7.4)."""
    alarm: float = math.inf
    """When the registrar looks at it next."""
    clear: Flow | None = None
    """Where a UE that was admitted without IPsec talks from; None for every other."""
    cut_off: bool = False
    """The connection that is `clear` is gone, and nobody may talk in its place before the UE registers again."""

    @property
    def registered(self) -> bool:
        return bool(self.bindings)

    @property
    def expires(self) -> float:
        """When the last identity ends; 0 while not registered."""
        return max((each.expires for each in self.bindings.values()), default=0.0)

    @property
    def unproven(self) -> SaSet | None:
        """The one set that waits for its authentication."""
        return next((each for each in self.sets if each.state in UNPROVEN), None)

    @property
    def latest(self) -> SaSet | None:
        """The set of the latest successful authentication (digest A10)."""
        return next((each for each in reversed(self.sets) if each.state in (SetState.NEW, SetState.ACTIVE)), None)

    @property
    def in_use(self) -> SaSet | None:
        """The set that carries what we send: not the new one before the UE was seen on it (TS 33.203 7.4.2a)."""
        return next((each for each in self.sets if each.state is SetState.ACTIVE), None) or self.latest


def is_same_identity(left: str, right: str) -> bool:
    """Whether two URIs are the same address-of-record: parameters and headers of a SIP URI do not count (RFC 3261 10.3
    step 5). What cannot be read is the same only letter by letter.
    """
    if left == right:
        return True
    try:
        ours, theirs = parse_uri(left), parse_uri(right)
    except ParseError:
        return False
    if ours.scheme == "tel":
        return same_uri(ours, theirs)
    return (ours.scheme, ours.user, ours.host, ours.port) == (theirs.scheme, theirs.user, theirs.host, theirs.port)


def identify(registration: Registration) -> None:
    """Its bindings have changed: so have the identities it may use."""
    values = (value for each in registration.bindings.values() for value in each.associated_uris)
    registration.associated_uris = tuple(dict.fromkeys(values))


def names(identity: str, values: tuple[str, ...]) -> bool:
    """Whether one of these name-addrs or URIs is that URI (RFC 3261 19.1.4). What cannot be read names nobody."""
    try:
        wanted = parse_uri(identity)
        return any(same_uri(wanted, parse_uri(parse_name_addr(value).uri)) for value in values)
    except ParseError:
        return identity in values
