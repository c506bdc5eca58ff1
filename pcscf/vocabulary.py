"""The whole vocabulary of the core: where messages travel, what happens to the proxy, what it wants done.

Events go into `Proxy.handle(event, now)`, actions come out; the server does what the actions say.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, NamedTuple

from pcscf.sip.message import Request, Response
from pcscf.sip.parse import ParseError
from xfrm.model import IPAddress, Sa, SaId

if TYPE_CHECKING:
    from pcscf.observe import Record


class Interface(StrEnum):
    """Which side of the proxy a socket serves, and for Gm whether its port is a protected one."""

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

    def __str__(self) -> str:
        return f"{self.transport} {_host(self.remote)}:{self.remote_port} at {_host(self.local)}:{self.local_port}"


def _host(address: IPAddress) -> str:
    return str(address) if address.version == 4 else f"[{address}]"


# Events


@dataclass(frozen=True, slots=True)
class Received:
    """A whole, well-formed message."""

    message: Request | Response
    flow: Flow


@dataclass(frozen=True, slots=True)
class Malformed:
    """Bytes that are no SIP message; `error.message` holds what could be read."""

    error: ParseError
    flow: Flow


@dataclass(frozen=True, slots=True)
class FlowClosed:
    """A TCP connection ended or could not be made, or a datagram was refused. Never a deregistration."""

    flow: Flow
    reason: str


@dataclass(frozen=True, slots=True)
class SecurityInstalled:
    """The kernel acknowledged all SAs of an `InstallSecurity`."""

    set_id: int


@dataclass(frozen=True, slots=True)
class SecurityRefused:
    """The kernel refused an SA of an `InstallSecurity`; none of the batch exists. `reason` is its words."""

    set_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class SecurityExpired:
    """SAs reached the kernel's backstop lifetime: the core's own timer should have been first."""

    ids: tuple[SaId, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """The deadline the proxy asked for has come."""


Event = Received | Malformed | FlowClosed | SecurityInstalled | SecurityRefused | SecurityExpired | Tick


# Actions


@dataclass(frozen=True, slots=True)
class Send:
    """Put bytes on a flow. `connect`: open the TCP connection if there is none."""

    data: bytes
    flow: Flow
    connect: bool = False


@dataclass(frozen=True, slots=True)
class InstallSecurity:
    """Install all SAs or none, and answer with SecurityInstalled or SecurityRefused."""

    set_id: int
    sas: tuple[Sa, ...]


@dataclass(frozen=True, slots=True)
class UpdateSecurity:
    """Let these SAs live `lifetime` seconds from now."""

    ids: tuple[SaId, ...]
    lifetime: int


@dataclass(frozen=True, slots=True)
class RemoveSecurity:
    """Delete these SAs."""

    ids: tuple[SaId, ...]


@dataclass(frozen=True, slots=True)
class CloseFlow:
    """Close a TCP connection."""

    flow: Flow


@dataclass(frozen=True, slots=True)
class Note:
    """Write this down; see `observe` for the kinds of record."""

    record: "Record"


Action = Send | InstallSecurity | UpdateSecurity | RemoveSecurity | CloseFlow | Note
