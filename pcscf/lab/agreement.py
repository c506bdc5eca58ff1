"""The UE's side of the security agreement (RFC 3329, TS 33.203 7.2 and Annex H): what it offers, takes and installs.

Written apart from `pcscf.security` so that the two can disagree: a strict handset that says what it finds wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pcscf.aka import AkaKeys, expand
from pcscf.sip.fields import Mechanism, parse_mechanism
from pcscf.sip.parse import ParseError
from pcscf.vocabulary import Flow, Interface
from xfrm.algorithms import VALID_PAIRS, Encryption, Integrity, Pair
from xfrm.model import IPAddress, Sa, SaId, Selector

ANNEX_H_PARAMETERS = frozenset({"q", "alg", "ealg", "prot", "mod", "spi-c", "spi-s", "port-c", "port-s"})
SMALLEST_SPI = 256
LARGEST_SPI = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Our SPIs and ports for a new set of SAs, and the pairs we can do, best first.

    `lines` are Security-Client lines to send instead of our own; they may hold {spi_c}, {spi_s}, {port_c}, {port_s}.
    """

    spi_uc: int
    spi_us: int
    port_uc: int
    port_us: int
    pairs: tuple[Pair, ...]
    lines: tuple[str, ...] = ()

    def header_lines(self) -> list[str]:
        """The values of the Security-Client lines (Annex H)."""
        if self.lines:
            return [self._filled(line) for line in self.lines]
        numbers = f"spi-c={self.spi_uc};spi-s={self.spi_us};port-c={self.port_uc};port-s={self.port_us}"
        entries = [
            f"ipsec-3gpp;alg={pair.integrity};ealg={pair.encryption};prot=esp;mod=trans;{numbers}"
            for pair in self.pairs
        ]
        return [", ".join(entries)]

    def _filled(self, line: str) -> str:
        values = {"spi_c": self.spi_uc, "spi_s": self.spi_us, "port_c": self.port_uc, "port_s": self.port_us}
        for name, value in values.items():
            line = line.replace(f"{{{name}}}", str(value))
        return line


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreed:
    """What we took of a Security-Server header: the pair, and the P-CSCF's SPIs and ports."""

    pair: Pair
    spi_pc: int
    spi_ps: int
    port_pc: int
    port_ps: int


def read_server(values: Sequence[str], offer: Offer) -> tuple[Agreed | None, list[str]]:
    """Take the best Security-Server entry that we can do (highest q, then order), and say what is wrong with any.

    None: no entry is usable, and the registration is to be abandoned (TS 33.203 7.3.2.1).
    """
    complaints: list[str] = []
    entries: list[tuple[float, Agreed]] = []
    for place, value in enumerate(values, start=1):
        try:
            mechanism = parse_mechanism(value)
            if mechanism.name != "ipsec-3gpp":
                continue
            complaints += _oddities(mechanism, place)
            entries.append((_q(mechanism), _agreed(mechanism)))
        except (ParseError, ValueError) as error:
            complaints.append(f"Security-Server entry {place}: {error}")
    if not values:
        complaints.append("the 401 has no Security-Server")
    qs = [q for q, _ in entries]
    if qs != sorted(qs, reverse=True):
        complaints.append("Security-Server is not in the order of its q values")
    numbers = {(each.spi_pc, each.spi_ps, each.port_pc, each.port_ps) for _, each in entries}
    if len(numbers) > 1:
        complaints.append("Security-Server entries name different SPIs or ports")
    if any({spi_pc, spi_ps} & {offer.spi_uc, offer.spi_us} for spi_pc, spi_ps, _, _ in numbers):
        complaints.append("Security-Server repeats an SPI of ours (TS 33.203 7.1)")
    ranked = sorted(entries, key=lambda entry: -entry[0])
    return next((agreed for _, agreed in ranked if agreed.pair in offer.pairs), None), complaints


def _oddities(mechanism: Mechanism, place: int) -> list[str]:
    """What Annex H does not know, or knows once only. Handsets have been seen to reject both."""
    names = [name for name, _ in mechanism.params]
    odd = [
        f"Security-Server entry {place}: {name} is no parameter of Annex H"
        for name in names
        if name not in ANNEX_H_PARAMETERS
    ]
    return odd + [
        f"Security-Server entry {place}: {name} is there twice" for name in sorted(set(names)) if names.count(name) > 1
    ]


def _q(mechanism: Mechanism) -> float:
    q = float(mechanism.param("q") or 1)
    if not 0 <= q <= 1:
        raise ValueError(f"q={q} is outside 0 to 1")
    return q


def _agreed(mechanism: Mechanism) -> Agreed:
    """Read one entry. Raises ValueError for what makes no SA."""
    protocol, mode = mechanism.param("prot") or "esp", mechanism.param("mod") or "trans"
    if (protocol.lower(), mode.lower()) != ("esp", "trans"):
        raise ValueError(f"prot={protocol};mod={mode} is not ESP in transport mode")
    alg = mechanism.param("alg")
    if not alg:
        raise ValueError("alg is missing")
    pair = Pair(Integrity(alg.lower()), Encryption((mechanism.param("ealg") or "null").lower()))
    if pair not in VALID_PAIRS:
        raise ValueError(f"{pair} is not a pair Annex H allows")
    agreed = Agreed(
        pair=pair,
        spi_pc=_number(mechanism, "spi-c", SMALLEST_SPI, LARGEST_SPI),
        spi_ps=_number(mechanism, "spi-s", SMALLEST_SPI, LARGEST_SPI),
        port_pc=_number(mechanism, "port-c", 1, 0xFFFF),
        port_ps=_number(mechanism, "port-s", 1, 0xFFFF),
    )
    if agreed.spi_pc == agreed.spi_ps:
        raise ValueError("one SPI for two SAs")
    if {agreed.port_pc, agreed.port_ps} & {5060, 5061}:
        raise ValueError("port 5060 or 5061 cannot be protected (TS 33.203 7.1)")
    return agreed


def _number(mechanism: Mechanism, name: str, low: int, high: int) -> int:
    text = mechanism.param(name) or ""
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise ValueError(f"{name}={text or '(absent)'} is not a number from {low} to {high}")
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecuritySet:
    """One set of four SAs as the UE knows it (TS 33.203 7.1, digest A1)."""

    ue: IPAddress
    pcscf: IPAddress
    offer: Offer
    agreed: Agreed
    server: str
    """The Security-Server value, for Security-Verify."""

    def uplink(self, *, tcp: bool) -> Flow:
        """Where what we send leaves: port_uc to port_ps, UDP and TCP alike (digest A2)."""
        ends = (Interface.GM_PROTECTED, self.ue, self.offer.port_uc, self.pcscf, self.agreed.port_ps)
        return Flow("TCP", *ends) if tcp else Flow("UDP", *ends)

    def downlink(self, *, tcp: bool) -> Flow:
        """Where the answers must come: by UDP from port_pc to port_us, by TCP on the connection (digest A2)."""
        if tcp:
            return self.uplink(tcp=True)
        return Flow("UDP", Interface.GM_PROTECTED, self.ue, self.offer.port_us, self.pcscf, self.agreed.port_pc)

    @property
    def connections(self) -> tuple[Flow, Flow]:
        """The TCP connections a set can carry: ours to port_ps, the P-CSCF's to port_us."""
        theirs = Flow("TCP", Interface.GM_PROTECTED, self.ue, self.offer.port_us, self.pcscf, self.agreed.port_pc)
        return self.uplink(tcp=True), theirs

    @property
    def ids(self) -> tuple[SaId, ...]:
        """What names the four SAs in the host."""
        offer, agreed = self.offer, self.agreed
        rows = (
            (self.pcscf, agreed.spi_ps),
            (self.ue, offer.spi_uc),
            (self.ue, offer.spi_us),
            (self.pcscf, agreed.spi_pc),
        )
        return tuple(SaId(destination, spi) for destination, spi in rows)

    def spi(self, flow: Flow, *, incoming: bool) -> int:
        """The SPI of the SA that carries this direction of a flow; 0 if it is none of ours."""
        offer, agreed = self.offer, self.agreed
        if (flow.local_port, flow.remote_port) == (offer.port_uc, agreed.port_ps):
            return offer.spi_uc if incoming else agreed.spi_ps
        if (flow.local_port, flow.remote_port) == (offer.port_us, agreed.port_pc):
            return offer.spi_us if incoming else agreed.spi_pc
        return 0

    def associations(self, keys: AkaKeys, lifetime: int) -> tuple[Sa, ...]:
        """The four SAs in the order of digest A1. `lifetime` in seconds."""
        offer, agreed = self.offer, self.agreed
        up, down = (self.ue, self.pcscf), (self.pcscf, self.ue)
        rows = (
            (agreed.spi_ps, up, (offer.port_uc, agreed.port_ps)),
            (offer.spi_uc, down, (agreed.port_ps, offer.port_uc)),
            (offer.spi_us, down, (agreed.port_pc, offer.port_us)),
            (agreed.spi_pc, up, (offer.port_us, agreed.port_pc)),
        )
        integrity_key, encryption_key = expand(keys, agreed.pair)
        return tuple(
            Sa(
                selector=Selector(source=ends[0], destination=ends[1], source_port=ports[0], destination_port=ports[1]),
                spi=spi,
                integrity=agreed.pair.integrity,
                encryption=agreed.pair.encryption,
                integrity_key=integrity_key,
                encryption_key=encryption_key,
                lifetime=lifetime,
            )
            for spi, ends, ports in rows
        )
