"""The operator's configuration: TOML through pydantic, environment overrides, and the core's `Settings` out of it.

An override is `PCSCF_` and the path with double underscores: `PCSCF_IPSEC__BACKEND=userspace`.
Every refusal names the field, the value and what is wrong with it.
"""

from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
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
from pcscf.proxy import Settings
from pcscf.register import RegisterSettings
from pcscf.registration import TEMP_LIFETIME
from pcscf.routing import CoreSide
from pcscf.vocabulary import Flow, Interface
from xfrm.algorithms import Encryption, Integrity, Pair
from xfrm.backend import BackendName
from xfrm.model import IPAddress, PortRange, bracketed

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

    @field_validator("addresses")
    @classmethod
    def distinct(cls, addresses: tuple[IPAddress, ...]) -> tuple[IPAddress, ...]:
        if len(set(addresses)) != len(addresses):
            raise ValueError("an address is listed twice")
        return addresses


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
    without: Literal["refuse", "admit"] = "refuse"
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


class Mw(Part):
    """The side of the core."""

    address: Address
    port: Port = 5060
    transport: Literal["udp", "tcp"] = "udp"
    next_hop: Address
    next_hop_port: Port = 5060

    @model_validator(mode="after")
    def one_family(self) -> Self:
        if self.address.version != self.next_hop.version:
            raise ValueError(f"address {self.address} and next_hop {self.next_hop} are of different families")
        return self


class Limits(Part):
    """What peers may make the proxy hold."""

    pending_per_source: Annotated[int, Field(ge=1)] = 64
    transactions: Annotated[int, Field(ge=1)] = 50_000
    connections_per_source: Annotated[int, Field(ge=1)] = 64


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
    limits: Limits = Limits()
    visited_network: Annotated[str, Field(min_length=1, pattern=r'^[^"\\\r\n]+$')]
    control: Path = Path("/run/pcscf/control.sock")

    @model_validator(mode="after")
    def sockets_differ(self) -> Self:
        shared = self.mw.address in self.gm.addresses
        if shared and (self.mw.port == self.gm.port or self.ipsec.protects(self.mw.port)):
            raise ValueError(f"mw port {self.mw.port} of {self.mw.address} is a Gm port too")
        if self.ipsec.protects(self.gm.port):
            raise ValueError(f"gm port {self.gm.port} is a protected port too")
        return self

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

    @property
    def settings(self) -> Settings:
        """What the core needs of all this."""
        mw, ipsec = self.mw, self.ipsec
        tcp = mw.transport == "tcp"
        register = RegisterSettings(
            core=CoreSide(
                host=bracketed(mw.address),
                port=mw.port,
                transport=mw.transport.upper(),
                visited_network=self.visited_network,
            ),
            next_hop=Flow(
                "TCP" if tcp else "UDP",
                Interface.MW,
                mw.address,
                0 if tcp else mw.port,
                mw.next_hop,
                mw.next_hop_port,
            ),
            preference=ipsec.preference,
            admit_without_ipsec=ipsec.without == "admit",
            temp_lifetime=ipsec.temp_lifetime,
        )
        return Settings(
            register=register,
            ports_ps=ipsec.ports_ps,
            ports_pc=ipsec.ports_pc,
            pending_per_source=self.limits.pending_per_source,
            transactions=self.limits.transactions,
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
