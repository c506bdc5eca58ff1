"""The whole vocabulary of the core: where messages travel, what happens to the proxy, what it wants done.

Events go into `Proxy.handle(event, now)`, actions come out; the server does what the actions say.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Literal, NamedTuple

from pcscf.sip.message import Request, Response
from pcscf.sip.parse import ParseError
from xfrm.model import IPAddress, Sa, SaId, bracketed

if TYPE_CHECKING:
    from pcscf.observe import Record


class Interface(StrEnum):
    """Which side of the proxy a socket serves, and for Gm whether its port is a protected one."""

    __hash__ = str.__hash__  # that of Enum is Python code, and flows and transactions are looked up by it

    GM = "gm"
    GM_PROTECTED = "gm-protected"
    MW = "mw"


class Flow(NamedTuple):
    """Where a message came from or shall go: the 5-tuple and the interface. Local port 0: any (TCP toward Mw).

    For TCP it names the connection; a flow without a connection is a wish for one.
    """

    transport: Literal["UDP", "TCP"]
    interface: Interface
    local: IPAddress
    local_port: int
    remote: IPAddress
    remote_port: int

    def ends(self, *, incoming: bool) -> tuple[tuple[IPAddress, int], tuple[IPAddress, int]]:
        """Source and destination of a message on it."""
        near, far = (self.local, self.local_port), (self.remote, self.remote_port)
        return (far, near) if incoming else (near, far)

    def __str__(self) -> str:
        return (
            f"{self.transport} {bracketed(self.remote)}:{self.remote_port} at {bracketed(self.local)}:{self.local_port}"
        )


def source_of(address: IPAddress) -> bytes:
    """Whom what comes from an address is counted for: that address, of IPv6 the /64 it is in.

    A UE is given a whole /64 and may send from any address of it (TS 23.401 5.3.1.2.2).
    """
    return address.packed[:8]


# Events


class Received(NamedTuple):
    """A whole, well-formed message."""

    message: Request | Response
    flow: Flow


class Malformed(NamedTuple):
    """Bytes that are no SIP message; `error.message` holds what could be read."""

    error: ParseError
    flow: Flow


class FlowClosed(NamedTuple):
    """A TCP connection ended or could not be made, or a datagram was refused. Never a deregistration."""

    flow: Flow
    reason: str


class SecurityInstalled(NamedTuple):
    """The kernel acknowledged all SAs of an `InstallSecurity`."""

    set_id: int


class SecurityRefused(NamedTuple):
    """The kernel refused an SA of an `InstallSecurity`; none of the batch exists. `reason` is its words."""

    set_id: int
    reason: str


class SecurityExpired(NamedTuple):
    """SAs reached the kernel's backstop lifetime: the core's own timer should have been first."""

    ids: tuple[SaId, ...]


class Query(NamedTuple):
    """A host whose SIP servers are wanted (RFC 3263 4). Port 0 and transport "": nobody said."""

    host: str
    port: int = 0
    transport: Literal["UDP", "TCP", ""] = ""

    def __str__(self) -> str:
        port = f":{self.port}" if self.port else ""
        return f"{self.host}{port}{f'/{self.transport.lower()}' if self.transport else ''}"


class Target(NamedTuple):
    """One server of a host: the lowest priority is tried first, weights share the load within one (RFC 2782)."""

    transport: Literal["UDP", "TCP"]
    address: IPAddress
    port: int
    priority: int
    weight: int


class Resolved(NamedTuple):
    """The answer to a `Resolve`: targets, or none and an `error` for people.

    It is good for `ttl` seconds; 0 without targets: the DNS could not say.
    """

    query: Query
    targets: tuple[Target, ...]
    ttl: float
    error: str = ""


class Order(Enum):
    """What an operator may want of a registered contact."""

    DEREGISTER = "deregister"
    """End it here at once: its SAs, its dialogs. Neither the UE nor the core is told."""
    REAUTHENTICATE = "reauthenticate"
    """Have its next REGISTER challenged: to the core it counts as one without integrity protection."""


class Ordered(NamedTuple):
    """The operator wants something of every contact of a user at an address."""

    impi: str
    address: IPAddress
    order: Order


@dataclass(frozen=True, slots=True)
class Resume:
    """Take up with the core what an earlier run did for some of its users."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The deadline the proxy asked for has come."""


Event = (
    Received
    | Malformed
    | FlowClosed
    | SecurityInstalled
    | SecurityRefused
    | SecurityExpired
    | Resolved
    | Ordered
    | Resume
    | Tick
)


# Actions


class Send(NamedTuple):
    """Put bytes on a flow. `connect`: open the TCP connection if there is none."""

    data: bytes
    flow: Flow
    connect: bool = False


class InstallSecurity(NamedTuple):
    """Install all SAs or none, and answer with SecurityInstalled or SecurityRefused."""

    set_id: int
    sas: tuple[Sa, ...]


class UpdateSecurity(NamedTuple):
    """Let these SAs live `lifetime` seconds from now."""

    ids: tuple[SaId, ...]
    lifetime: int


class RemoveSecurity(NamedTuple):
    """Delete these SAs."""

    ids: tuple[SaId, ...]


class CloseFlow(NamedTuple):
    """Close a TCP connection."""

    flow: Flow


class Resolve(NamedTuple):
    """Ask the DNS for the SIP servers of a host, and answer with Resolved."""

    query: Query


class Note(NamedTuple):
    """Write this down; see `observe` for the kinds of record."""

    record: "Record"


Action = Send | InstallSecurity | UpdateSecurity | RemoveSecurity | CloseFlow | Resolve | Note
