"""The security agreement (RFC 3329, TS 33.203 7.2 and Annex H): offers, the choice, and the four SAs of a set.

Reads Security-Client, writes Security-Server, compares what the UE repeats. Which set lives how long is `registration`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from pcscf.aka import AkaKeys, expand
from pcscf.sip.fields import Mechanism, parse_mechanism
from pcscf.sip.parse import ParseError
from xfrm.algorithms import VALID_PAIRS, Encryption, Integrity, Pair
from xfrm.model import Sa, Selector

MECHANISM = "ipsec-3gpp"
LOWEST_SPI = 256
"""0 to 255 are reserved (RFC 4303 2.1)."""
CLEAR_SIP_PORTS = frozenset({5060, 5061})
MAX_OFFERS = 32


class AgreementError(Exception):
    """The UE and the proxy cannot agree; `status` is the SIP answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A Security-Client header: the UE's SPIs and ports, its acceptable pairs in its order, and all it said."""

    spi_uc: int
    spi_us: int
    port_uc: int
    port_us: int
    pairs: tuple[Pair, ...]
    entries: tuple[object, ...]
    """Comparable form of every entry: order of entries counts; order, case and spacing of parameters do not."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The pair for a set and, for people, why it was chosen."""

    pair: Pair
    why: str


def parse_proposal(values: Sequence[str]) -> Proposal:
    """Read all Security-Client values of a message (TS 33.203 Annex H).

    Entries that are not ipsec-3gpp with ESP in transport mode, or whose algorithms are unknown, are passed over.
    Raises AgreementError: 400 for unreadable or contradictory SPIs and ports, 494 when no entry is usable at all.
    """
    mechanisms = _mechanisms(values)
    pairs: list[Pair] = []
    numbers: tuple[int, int, int, int] | None = None
    for mechanism in mechanisms:
        if mechanism.name != MECHANISM:
            continue
        params = dict(mechanism.params)
        if params.get("prot", "esp").lower() != "esp" or params.get("mod", "trans").lower() != "trans":
            continue
        pair = _pair(params)
        if pair is None:
            continue
        found = (
            _number(params, "spi-c", LOWEST_SPI, 0xFFFFFFFF),
            _number(params, "spi-s", LOWEST_SPI, 0xFFFFFFFF),
            _number(params, "port-c", 1, 0xFFFF),
            _number(params, "port-s", 1, 0xFFFF),
        )
        if numbers is not None and found != numbers:
            raise AgreementError(400, "Security-Client entries name different SPIs or ports")
        numbers = found
        if pair not in pairs:
            pairs.append(pair)
    if numbers is None:
        raise AgreementError(494, "Security-Client offers no ipsec-3gpp mechanism we know")
    spi_uc, spi_us, port_uc, port_us = numbers
    if spi_uc == spi_us:
        raise AgreementError(400, f"Security-Client has one SPI for two SAs: {spi_uc}")
    if CLEAR_SIP_PORTS & {port_uc, port_us}:
        raise AgreementError(400, "Security-Client names port 5060 or 5061 as protected (TS 33.203 7.1)")
    return Proposal(
        spi_uc=spi_uc,
        spi_us=spi_us,
        port_uc=port_uc,
        port_us=port_us,
        pairs=tuple(pairs),
        entries=_entries(mechanisms),
    )


def choose(proposal: Proposal, preference: Sequence[Pair]) -> Chosen:
    """Take the first pair of the operator's list that the UE offered (TS 33.203 7.2; a UE's q does not count there).

    Raises AgreementError(494) naming both lists.
    """
    offered = ", ".join(map(str, proposal.pairs))
    for place, pair in enumerate(preference):
        if pair in proposal.pairs:
            passed = ", ".join(map(str, preference[:place]))
            why = f"first of our list that the UE offered ({offered})"
            return Chosen(pair, f"{why}; not offered: {passed}" if passed else why)
    ours = ", ".join(map(str, preference))
    raise AgreementError(494, f"no common algorithm: the UE offers {offered}; we allow {ours}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """The addresses, ports and SPIs of one set (TS 33.203 7.1). Each SPI names the inbound SA at its port."""

    ue: IPv4Address | IPv6Address
    pcscf: IPv4Address | IPv6Address
    port_uc: int
    port_us: int
    port_pc: int
    port_ps: int
    spi_uc: int
    spi_us: int
    spi_pc: int
    spi_ps: int


def server_header(preference: Sequence[Pair], parameters: Parameters | None) -> str:
    """The Security-Server value: our whole ordered list, against bidding down (TS 33.203 7.2, Annex H).

    Without `parameters` (421, 494) it names algorithms only.
    """
    if parameters is None:
        numbers = ""
    else:
        numbers = (
            f";spi-c={parameters.spi_pc};spi-s={parameters.spi_ps}"
            f";port-c={parameters.port_pc};port-s={parameters.port_ps}"
        )
    step = len(preference)
    return ", ".join(
        f"{MECHANISM};q={_q(step - place, step)};alg={pair.integrity};ealg={pair.encryption}"
        f";prot=esp;mod=trans{numbers}"
        for place, pair in enumerate(preference)
    )


def _q(rank: int, of: int) -> str:
    return f"{rank / (of + 1):.3f}"


def associations(parameters: Parameters, pair: Pair, keys: AkaKeys, lifetime: int) -> tuple[Sa, Sa, Sa, Sa]:
    """The four SAs of a set in the order of TS 33.203 7.1 (digest A1); all share the keys. `lifetime` in seconds."""
    integrity_key, encryption_key = expand(keys, pair)
    ends = parameters

    def one(spi: int, *, uplink: bool, ue_port: int, pcscf_port: int) -> Sa:
        return Sa(
            selector=Selector(
                source=ends.ue if uplink else ends.pcscf,
                destination=ends.pcscf if uplink else ends.ue,
                source_port=ue_port if uplink else pcscf_port,
                destination_port=pcscf_port if uplink else ue_port,
            ),
            spi=spi,
            integrity=pair.integrity,
            encryption=pair.encryption,
            integrity_key=integrity_key,
            encryption_key=encryption_key,
            lifetime=lifetime,
        )

    return (
        one(ends.spi_ps, uplink=True, ue_port=ends.port_uc, pcscf_port=ends.port_ps),
        one(ends.spi_uc, uplink=False, ue_port=ends.port_uc, pcscf_port=ends.port_ps),
        one(ends.spi_us, uplink=False, ue_port=ends.port_us, pcscf_port=ends.port_pc),
        one(ends.spi_pc, uplink=True, ue_port=ends.port_us, pcscf_port=ends.port_pc),
    )


def check_repeated_client(values: Sequence[str], proposal: Proposal) -> None:
    """Security-Client of the protected REGISTER must be that of the first (TS 33.203 7.2). Raises AgreementError."""
    if not values:
        raise AgreementError(494, "Security-Client is missing from the protected REGISTER")
    if _entries(_mechanisms(values)) != proposal.entries:
        raise AgreementError(494, "Security-Client differs from the one of the first REGISTER")


def check_verify(values: Sequence[str], server: str) -> None:
    """Security-Verify must mirror the Security-Server we sent (RFC 3329 2.3.1). Raises AgreementError(494)."""
    if not values:
        raise AgreementError(494, "Security-Verify is missing")
    got, sent = _entries(_mechanisms(values)), _entries(_mechanisms([server]))
    if got == sent:
        return
    if len(got) != len(sent):
        raise AgreementError(494, f"Security-Verify has {len(got)} entries, Security-Server had {len(sent)}")
    place = next(index for index, entry in enumerate(got) if entry != sent[index])
    raise AgreementError(494, f"Security-Verify entry {place + 1} differs from Security-Server")


def _mechanisms(values: Sequence[str]) -> list[Mechanism]:
    if len(values) > MAX_OFFERS:
        raise AgreementError(400, f"{len(values)} security mechanisms in one message, {MAX_OFFERS} are allowed")
    try:
        return [parse_mechanism(value) for value in values]
    except ParseError as error:
        raise AgreementError(400, str(error)) from error


def _entries(mechanisms: Sequence[Mechanism]) -> tuple[object, ...]:
    """What counts when headers are compared; `mediasec` entries are another agreement (TS 24.229 7.2A.7)."""
    return tuple(
        (mechanism.name, tuple(sorted((name, value.lower()) for name, value in mechanism.params)))
        for mechanism in mechanisms
        if mechanism.param("mediasec") is None
    )


def _pair(params: dict[str, str]) -> Pair | None:
    try:
        pair = Pair(Integrity(params.get("alg", "").lower()), Encryption(params.get("ealg", "null").lower()))
    except ValueError:
        return None
    return pair if pair in VALID_PAIRS else None


def _number(params: dict[str, str], name: str, low: int, high: int) -> int:
    text = params.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and low <= int(text) <= high):
        raise AgreementError(400, f"Security-Client: {name}={text or '(absent)'} is not a number from {low} to {high}")
    return int(text)
