"""The operator's configuration: TOML through pydantic, environment overrides, and the core's `Settings` out of it.

An override is `PCSCF_` and the path with double underscores: `PCSCF_IPSEC__BACKEND=userspace`.
Every refusal names the field, the value and what is wrong with it.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from pcscf import PcscfError, tomlfile
from pcscf.connections import CONNECTIONS, CONNECTIONS_PER_SOURCE
from pcscf.emergency import EmergencyMode, EmergencySettings
from pcscf.logs import LogFormat, LogLevel
from pcscf.nexthop import ConfiguredHop, HopSettings, Transport, read_uri
from pcscf.originating import OriginatingSettings
from pcscf.passage import Sides
from pcscf.proxy import Settings
from pcscf.register import RegisterSettings, Without
from pcscf.registration import TEMP_LIFETIME
from pcscf.routing import CoreSide
from pcscf.sip.transaction import GM_TIMERS, TimerProfile
from xfrm.algorithms import Encryption, Integrity, Pair
from xfrm.backend import BackendName
from xfrm.model import IPAddress, PortRange

PORTS_PS = 2
"""port_ps and its alternate, for a UE that comes back with the ports of a set that is still alive."""
LEGACY = tuple(
    Pair(integrity, encryption)
    for integrity, encryption in (
        (Integrity.HMAC_SHA_1_96, Encryption.DES_EDE3_CBC),
        (Integrity.HMAC_MD5_96, Encryption.AES_CBC),
        (Integrity.HMAC_MD5_96, Encryption.DES_EDE3_CBC),
        (Integrity.HMAC_MD5_96, Encryption.NULL),
    )
)
"""Removed from TS 33.203 in Rel-13 but what many phones still offer; always after the others."""


class ConfigError(PcscfError):
    """The configuration cannot be used; `str` is for people, one finding a line."""


def _address(value: Any) -> IPAddress:
    """An address that can be one end of an SA (field trap: SAs with address 0.0.0.0 or of two families)."""
    try:
        address = ip_address(value)
    except ValueError as error:
        raise ValueError("not an IPv4 or IPv6 address; names are not looked up") from error
    if address.is_unspecified:
        raise ValueError("a wildcard address cannot be one end of an SA; name the address of the interface")
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        raise ValueError(f"an IPv4-mapped address mixes the families; write {address.ipv4_mapped}")
    if address.is_multicast or address.is_link_local:
        raise ValueError("a multicast or link-local address cannot be one end of an SA")
    return address


Address = Annotated[IPv4Address | IPv6Address, PlainValidator(_address), PlainSerializer(str)]
Port = Annotated[int, Field(ge=1, le=65535)]
Rank = Annotated[int, Field(ge=0, le=65535)]
"""Priority and weight, as in an SRV record (RFC 2782)."""


def _pair(value: Any) -> Pair:
    if isinstance(value, Pair):
        return value
    try:
        return Pair.parse(str(value))
    except ValueError as error:
        raise ValueError(f'{error}; write integrity/encryption, for example "hmac-sha-1-96/aes-cbc"') from error


PairText = Annotated[Pair, PlainValidator(_pair), PlainSerializer(str)]


class Part(BaseModel):
    """A table of the file; unknown keys are refused, because a misspelt key would be silently without effect."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Gm(Part):
    """The side of the phones."""

    addresses: Annotated[tuple[Address, ...], Field(min_length=1)]
    port: Port = 5060
    clear: Literal["403", "silence"] = "403"
    wrong_route: Literal["refuse", "correct"] = "refuse"
    t1: Annotated[float, Field(ge=0.1, le=2)] = GM_TIMERS.t1

    @property
    def timers(self) -> TimerProfile:
        """The SIP timers of Gm; T2 and T4 keep their ratio to T1 (TS 24.229 7.7)."""
        scale = self.t1 / GM_TIMERS.t1
        return TimerProfile(t1=self.t1, t2=GM_TIMERS.t2 * scale, t4=GM_TIMERS.t4 * scale)

    @field_validator("addresses")
    @classmethod
    def distinct(cls, addresses: tuple[IPAddress, ...]) -> tuple[IPAddress, ...]:
        if len(set(addresses)) != len(addresses):
            raise ValueError("an address is listed twice")
        return addresses


def _network(value: Any) -> IPv4Network | IPv6Network:
    try:
        return ip_network(value)
    except ValueError as error:
        words = str(error) if "host bits" in str(error) else "not a network; write for example 10.45.9.0/24"
        raise ValueError(words) from error


NetworkText = Annotated[IPv4Network | IPv6Network, PlainValidator(_network), PlainSerializer(str)]


class NetworkWithout(Part):
    """What a REGISTER without Security-Client from one network gets."""

    network: NetworkText
    without: Without


class Ipsec(Part):
    """Security associations on Gm (TS 33.203)."""

    backend: BackendName = "auto"
    algorithms: Annotated[tuple[PairText, ...], Field(min_length=1)] = (
        Pair(Integrity.NULL, Encryption.AES_GCM),
        Pair(Integrity.HMAC_SHA_1_96, Encryption.AES_CBC),
        Pair(Integrity.AES_GMAC, Encryption.NULL),
        Pair(Integrity.HMAC_SHA_1_96, Encryption.NULL),
    )
    legacy_algorithms: bool = False
    port_ps: Port = 5100
    port_pc: Port = 5104
    port_pc_count: int = 8
    sa_conflict: Literal["replace", "strict"] = "replace"
    without: Without = Without.REFUSE
    networks: tuple[NetworkWithout, ...] = ()
    temp_lifetime: Annotated[int, Field(ge=1, le=3600)] = TEMP_LIFETIME

    @property
    def preference(self) -> tuple[Pair, ...]:
        """The ordered list of acceptable pairs."""
        legacy = [pair for pair in LEGACY if pair not in self.algorithms] if self.legacy_algorithms else []
        return (*self.algorithms, *legacy)

    @property
    def ports_ps(self) -> PortRange:
        return PortRange(first=self.port_ps, count=PORTS_PS)

    @property
    def ports_pc(self) -> PortRange:
        return PortRange(first=self.port_pc, count=self.port_pc_count)

    def protects(self, port: int) -> bool:
        """Whether nothing but ESP may pass this port."""
        return port in self.ports_ps or port in self.ports_pc

    @model_validator(mode="after")
    def ports(self) -> Self:
        ps, pc = self.ports_ps, self.ports_pc  # PortRange refuses what a port mask cannot cover
        if ps.first in pc or pc.first in ps:
            raise ValueError(f"port_ps {ps} and port_pc {pc} overlap")
        for port in (5060, 5061):
            if self.protects(port):
                raise ValueError(f"port {port} cannot be a protected port (TS 33.203 7.1)")
        return self

    @model_validator(mode="after")
    def legacy(self) -> Self:
        if not self.legacy_algorithms:
            for pair in self.algorithms:
                if pair in LEGACY:
                    raise ValueError(f"{pair} needs legacy_algorithms = true")
        return self


class NextHop(Part):
    """An entry point of the home network: an address, or a name that the DNS knows servers of (RFC 3263)."""

    uri: str
    priority: Rank = 1
    weight: Rank = 1

    @field_validator("uri")
    @classmethod
    def readable(cls, uri: str) -> str:
        if not uri.lower().startswith(("sip:", "sips:")):
            raise ValueError("not a SIP URI; write for example sip:10.46.0.2:5060 or sip:ims.example;transport=tcp")
        query = read_uri(uri, "UDP")
        if query.host.rpartition(".")[2].isdigit():
            try:
                _address(query.host)
            except ValueError as error:
                raise ValueError(f"{query.host} is neither a name nor an address of a host") from error
        return uri


class Mw(Part):
    """The side of the core."""

    addresses: Annotated[tuple[Address, ...], Field(min_length=1, max_length=2)]
    port: Port = 5060
    transport: Literal["udp", "tcp"] = "udp"
    probe_interval: Annotated[float, Field(ge=0, le=3600)] = 30
    nameservers: tuple[IPv4Address | IPv6Address, ...] = ()
    peers: tuple[NetworkText, ...] = ()
    next_hops: Annotated[tuple[NextHop, ...], Field(min_length=1, max_length=64)]

    @field_validator("addresses")
    @classmethod
    def one_of_a_family(cls, addresses: tuple[IPAddress, ...]) -> tuple[IPAddress, ...]:
        if len({address.version for address in addresses}) != len(addresses):
            raise ValueError("two addresses of one family; the core is to know us by one of each")
        return addresses

    @field_validator("probe_interval")
    @classmethod
    def no_flood(cls, interval: float) -> float:
        if 0 < interval < 1:
            raise ValueError("at least 1 second, or 0 for no probing")
        return interval

    @model_validator(mode="after")
    def hops_can_be_reached(self) -> Self:
        seen = set()
        for hop in self.next_hops:
            query = read_uri(hop.uri, self.core_transport)
            if query in seen:
                raise ValueError(f"next hop {hop.uri} is listed twice")
            seen.add(query)
        for hop, address, port in self.hop_addresses:
            if address.version not in {each.version for each in self.addresses}:
                ours = ", ".join(map(str, self.addresses))
                raise ValueError(f"next hop {hop.uri} and our addresses ({ours}) are of different families")
            if address in self.addresses and port == self.port:
                raise ValueError(f"next hop {hop.uri} is this P-CSCF itself")
        return self

    @property
    def core_transport(self) -> Transport:
        return "TCP" if self.transport == "tcp" else "UDP"

    @property
    def hop_addresses(self) -> list[tuple[NextHop, IPAddress, int]]:
        """The next hops that are addresses, with their ports."""
        found = []
        for hop in self.next_hops:
            query = read_uri(hop.uri, self.core_transport)
            try:
                found.append((hop, ip_address(query.host), query.port))
            except ValueError:
                continue  # a name
        return found


class Emergency(Part):
    """Emergency requests (TS 24.229 5.2.10)."""

    mode: EmergencyMode = EmergencyMode.ALTERNATIVE
    ecscf: str = ""
    numbers: tuple[Annotated[str, Field(pattern=r"^[0-9]{2,15}$")], ...] = ("112", "911")
    unregistered: bool = False

    @model_validator(mode="after")
    def has_a_place_to_go(self) -> Self:
        if self.mode is EmergencyMode.ROUTE:
            if not self.ecscf:
                raise ValueError('mode = "route" needs ecscf, the URI of the E-CSCF, for example sip:10.46.0.3')
            read_uri(self.ecscf, "UDP")
        return self


class RegEvent(Part):
    """Our own subscriptions to the registration state of our users (TS 24.229 5.2.3)."""

    enabled: bool = True


class Limits(Part):
    """What peers may make the proxy hold."""

    pending_per_source: Annotated[int, Field(ge=1)] = 64
    transactions: Annotated[int, Field(ge=1)] = 50_000
    connections_per_source: Annotated[int, Field(ge=1)] = CONNECTIONS_PER_SOURCE
    connections: Annotated[int, Field(ge=16)] = CONNECTIONS
    idle_connection: Annotated[float, Field(ge=1)] = 120
    transactions_per_source: Annotated[int, Field(ge=1)] = 128
    pending: Annotated[int, Field(ge=1)] = 10_000


class Log(Part):
    """What is written to standard error."""

    level: LogLevel = "info"
    format: LogFormat = "console"


class Keys(Part):
    """Export of the keys of every SA, for those who want to read the traffic. Empty: off."""

    file: str = ""


class Hep(Part):
    """A collector that gets every SIP message, opened, as HEPv3 over UDP. Empty: none."""

    collector: str = ""
    capture_id: Annotated[int, Field(ge=0, le=0xFFFF_FFFF)] = 2001
    password: SecretStr = SecretStr("")

    @field_validator("collector")
    @classmethod
    def readable(cls, collector: str) -> str:
        if collector:
            _endpoint(collector)
        return collector

    @property
    def endpoint(self) -> tuple[IPAddress, int] | None:
        return _endpoint(self.collector) if self.collector else None


class Survive(Part):
    """What a restart leaves: registrations and calls, with the SAs that the kernel keeps.

    Keys are stored only for the userspace backend, and only with `userspace_keys`.
    """

    enabled: bool = True
    userspace_keys: bool = False

    @model_validator(mode="after")
    def keys_of_something(self) -> Self:
        if self.userspace_keys and not self.enabled:
            raise ValueError("userspace_keys keeps the SAs of stored registrations: it needs store.enabled = true")
        return self


class Admin(Part):
    """The API and the page for operators, over HTTP."""

    enabled: bool = True
    address: IPv4Address | IPv6Address = IPv4Address("127.0.0.1")
    port: Port = 8060
    origins: tuple[str, ...] = ()
    message_memory: Annotated[int, Field(ge=0, le=4096)] = 16

    @field_validator("origins")
    @classmethod
    def readable_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            parts = urlsplit(origin)
            if (
                parts.scheme not in ("http", "https")
                or not parts.netloc
                or origin != f"{parts.scheme}://{parts.netloc}"
            ):
                raise ValueError(f"{origin} is no origin; write for example https://ims.example")
        return origins


def _endpoint(text: str) -> tuple[IPAddress, int]:
    address, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65_536:
        raise ValueError("not an address and a port; write for example 10.46.0.9:9060 or [fd00:46::9]:9060")
    return _address(address.removeprefix("[").removesuffix("]")), int(port)


ALL = ("*",)
RELOADABLE = {
    "gm": ("clear", "wrong_route"),
    "ipsec": (
        "algorithms", "legacy_algorithms", "sa_conflict", "without", "networks", "temp_lifetime",
    ),
    "mw": ("peers",),
    "emergency": ALL,
    "limits": ALL,
    "log": ALL,
}  # fmt: skip
"""What a running P-CSCF takes over: what concerns the next message, and nothing that is bound or installed."""


class Config(BaseSettings):
    """The whole file."""

    model_config = SettingsConfigDict(
        env_prefix="PCSCF_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    gm: Gm
    mw: Mw
    ipsec: Ipsec = Ipsec()
    emergency: Emergency = Emergency()
    reg_event: RegEvent = RegEvent()
    limits: Limits = Limits()
    log: Log = Log()
    keys: Keys = Keys()
    hep: Hep = Hep()
    admin: Admin = Admin()
    store: Survive = Survive()
    visited_network: Annotated[str, Field(min_length=1, pattern=r'^[^"\\\r\n]+$')]
    control: Path = Path("/run/pcscf/control.sock")
    state: Path = Path("/var/lib/pcscf")

    @model_validator(mode="after")
    def sockets_differ(self) -> Self:
        for address in self.mw.addresses:
            shared = address in self.gm.addresses
            if shared and (self.mw.port == self.gm.port or self.ipsec.protects(self.mw.port)):
                raise ValueError(f"mw port {self.mw.port} of {address} is a Gm port too")
        if self.ipsec.protects(self.gm.port):
            raise ValueError(f"gm port {self.gm.port} is a protected port too")
        return self

    @model_validator(mode="after")
    def phones_have_no_api(self) -> Self:
        if self.admin.enabled and self.admin.address in self.without_admin:
            raise ValueError(
                f"admin.address {self.admin.address} is a Gm address, where phones are; name another, or 0.0.0.0 or :: "
                "for all others"
            )
        return self

    @property
    def without_admin(self) -> frozenset[IPAddress]:
        """Own addresses at which the API never answers: those of Gm, but for loopback, where no phone is."""
        return frozenset(address for address in self.gm.addresses if not address.is_loopback)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings

    def reloaded(self, new: "Config") -> tuple["Config", list[str], list[str]]:
        """This configuration with what can change while it is in use taken from `new`.

        Also the names of what was taken, and of what else differs and needs a restart.
        """
        taken: list[str] = []
        left: list[str] = []
        parts: dict[str, Any] = {}
        for name in type(self).model_fields:
            mine, theirs = getattr(self, name), getattr(new, name)
            if mine == theirs:
                continue
            if not isinstance(mine, Part):
                left.append(name)
                continue
            changed = {field for field in type(mine).model_fields if getattr(mine, field) != getattr(theirs, field)}
            allowed = changed if RELOADABLE.get(name) == ALL else changed & set(RELOADABLE.get(name, ()))
            taken += sorted(f"{name}.{field}" for field in allowed)
            left += sorted(f"{name}.{field}" for field in changed - allowed)
            parts[name] = mine.model_copy(update={field: getattr(theirs, field) for field in allowed})
        return self.model_copy(update=parts), taken, left

    @property
    def kept_sas(self) -> Path:
        """Where the userspace backend keeps its SAs if `store.userspace_keys` says so."""
        return self.state / "esp-sas"

    @property
    def settings(self) -> Settings:
        """What the core needs of all this."""
        mw, ipsec = self.mw, self.ipsec
        core = CoreSide(port=mw.port, visited_network=self.visited_network)
        return Settings(
            sides=Sides(
                core=core, gm=self.gm.addresses, gm_port=self.gm.port, ports_ps=ipsec.ports_ps, mw=mw.addresses
            ),
            register=RegisterSettings(
                core=core,
                preference=ipsec.preference,
                without=ipsec.without,
                without_by_network=tuple((each.network, each.without) for each in ipsec.networks),
                strict_ports=ipsec.sa_conflict == "strict",
                temp_lifetime=ipsec.temp_lifetime,
            ),
            originating=OriginatingSettings(
                overwrite_route=self.gm.wrong_route == "correct",
                emergency=EmergencySettings(
                    mode=self.emergency.mode,
                    ecscf=self.emergency.ecscf,
                    numbers=frozenset(self.emergency.numbers),
                    unregistered=self.emergency.unregistered,
                ),
            ),
            gm_timers=self.gm.timers,
            peers=mw.peers,
            silent_in_clear=self.gm.clear == "silence",
            reg_event=self.reg_event.enabled,
            hops=HopSettings(
                home=tuple(
                    ConfiguredHop(uri=each.uri, priority=each.priority, weight=each.weight) for each in mw.next_hops
                ),
                addresses=mw.addresses,
                port=mw.port,
                transport=mw.core_transport,
                probe_interval=mw.probe_interval,
            ),
            ports_pc=ipsec.ports_pc,
            pending_per_source=self.limits.pending_per_source,
            transactions=self.limits.transactions,
            transactions_per_source=self.limits.transactions_per_source,
            pending=self.limits.pending,
        )


def load(path: Path) -> Config:
    """Read a configuration file. Raises ConfigError with every finding."""
    text = tomlfile.read(path, ConfigError)
    try:
        return Config(**text)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {_finding(detail)}" for detail in error.errors())) from error


def _finding(detail: Any) -> str:
    where = ".".join(map(str, detail["loc"]))
    value = detail["input"]
    shown = f" (value: {value})" if isinstance(value, str | int | float | bool) else ""
    return f"{where or 'configuration'}: {detail['msg'].removeprefix('Value error, ')}{shown}"
