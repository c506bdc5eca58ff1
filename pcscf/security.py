"""The security agreement (RFC 3329, TS 33.203 7.2 and Annex H): offers, the choice, and the four SAs of a set.

Reads Security-Client, writes Security-Server, compares what the UE repeats. Which set lives how long is `registration`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from pcscf.aka import AkaKeys, expand
from pcscf.sip.fields import Mechanism, parse_mechanism
from pcscf.sip.message import split_list
from pcscf.sip.parse import ParseError, quoted
from xfrm.algorithms import VALID_PAIRS, Pair
from xfrm.model import Sa, Selector

MECHANISM = "ipsec-3gpp"
LOWEST_SPI = 256
"""0 to 255 are reserved (RFC 4303 2.1)."""
CLEAR_SIP_PORTS = frozenset({5060, 5061})
MAX_OFFERS = 32
KEPT_OCTETS = 2048
"""Longer offers are not kept, so that a peer cannot fill memory with them."""
OPEN = "?"
"""Stands in a template where a number was."""
NUMBERS = ("spi-c", "spi-s", "port-c", "port-s")
_NUMBERS = [re.compile(rf"\b{name}\s*=\s*([0-9]{{1,10}})\b", re.IGNORECASE) for name in NUMBERS]
_PAIRS = {(pair.integrity.value, pair.encryption.value): pair for pair in VALID_PAIRS}


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
    text: str
    """All it said, for the comparison with what it repeats."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The pair for a set, and out of what it was chosen."""

    pair: Pair
    offered: tuple[Pair, ...]
    preference: tuple[Pair, ...]

    @property
    def why(self) -> str:
        """The reason, for people."""
        why = f"first of our list that the UE offered ({_list(self.offered)})"
        passed = self.preference[: self.preference.index(self.pair)]
        return f"{why}; not offered: {_list(passed)}" if passed else why


def parse_proposal(lines: Sequence[str]) -> Proposal:
    """Read the Security-Client lines of a message (TS 33.203 Annex H).

    Entries that are not ipsec-3gpp with ESP in transport mode, or whose algorithms are unknown, are passed over.
    Raises AgreementError: 400 for unreadable or contradictory SPIs and ports, 494 when no entry is usable at all.
    """
    text = ", ".join(lines)
    template, said = _template(text)
    pairs = _usual_pairs(template) if len(text) <= KEPT_OCTETS and OPEN not in text else None
    if pairs is None:
        pairs, said = _pairs(text)
    spi_uc, spi_us, port_uc, port_us = map(_number, NUMBERS, said)
    if spi_uc == spi_us:
        raise AgreementError(400, f"Security-Client has one SPI for two SAs: {spi_uc}")
    if CLEAR_SIP_PORTS & {port_uc, port_us}:
        raise AgreementError(400, "Security-Client names port 5060 or 5061 as protected (TS 33.203 7.1)")
    return Proposal(spi_uc=spi_uc, spi_us=spi_us, port_uc=port_uc, port_us=port_us, pairs=pairs, text=text)


def _pairs(text: str) -> tuple[tuple[Pair, ...], tuple[str | None, ...]]:
    """The acceptable pairs in order, and the texts of the four numbers. Raises AgreementError."""
    pairs: list[Pair] = []
    said: tuple[str | None, ...] | None = None
    for mechanism in _mechanisms(text):
        if mechanism.name != MECHANISM:
            continue
        params = dict(mechanism.params)
        if params.get("prot", "esp").lower() != "esp" or params.get("mod", "trans").lower() != "trans":
            continue
        pair = _PAIRS.get((params.get("alg", "").lower(), params.get("ealg", "null").lower()))
        if pair is None:
            continue
        found = tuple(map(params.get, NUMBERS))
        if said is not None and found != said:
            raise AgreementError(400, "Security-Client entries name different SPIs or ports")
        said = found
        if pair not in pairs:
            pairs.append(pair)
    if said is None:
        raise AgreementError(494, "Security-Client offers no ipsec-3gpp mechanism we know")
    return tuple(pairs), said


def _template(text: str) -> tuple[str, tuple[str | None, ...]]:
    """The text with its four numbers left open, and the numbers: phones of one make then say the same."""
    said: list[str | None] = []
    for number in _NUMBERS:
        found = number.search(text)
        said.append(found and found[1])
        if found:
            text = text.replace(found[0], f"{found[0][: -len(found[1])]}{OPEN}")
    return text, tuple(said)


@lru_cache(maxsize=256)
def _usual_pairs(template: str) -> tuple[Pair, ...] | None:
    """The pairs of a template; None where its entries do not all leave the same four numbers open, or are refused."""
    try:
        pairs, said = _pairs(template)
    except AgreementError:
        return None
    return pairs if said == (OPEN,) * len(NUMBERS) else None


def choose(proposal: Proposal, preference: tuple[Pair, ...]) -> Chosen:
    """Take the first pair of the operator's list that the UE offered (TS 33.203 7.2; a UE's q does not count there).

    Raises AgreementError(494) naming both lists.
    """
    for pair in preference:
        if pair in proposal.pairs:
            return Chosen(pair, proposal.pairs, preference)
    raise AgreementError(
        494, f"no common algorithm: the UE offers {_list(proposal.pairs)}; we allow {_list(preference)}"
    )


def _list(pairs: Sequence[Pair]) -> str:
    return ", ".join(map(str, pairs))


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


def server_header(preference: tuple[Pair, ...], parameters: Parameters | None) -> str:
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
    return f"{f'{numbers}, '.join(_server_entries(preference))}{numbers}"


@lru_cache(maxsize=8)
def _server_entries(preference: tuple[Pair, ...]) -> tuple[str, ...]:
    """The list without the numbers of a set; the operator's preference hardly ever changes."""
    steps = len(preference) + 1
    return tuple(
        f"{MECHANISM};q={rank / steps:.3f};alg={pair.integrity};ealg={pair.encryption};prot=esp;mod=trans"
        for rank, pair in zip(range(len(preference), 0, -1), preference, strict=True)
    )


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


def check_repeated_client(lines: Sequence[str], proposal: Proposal) -> None:
    """Security-Client of the protected REGISTER must be that of the first (TS 33.203 7.2). Raises AgreementError."""
    text = ", ".join(lines)
    if not text:
        raise AgreementError(494, "Security-Client is missing from the protected REGISTER")
    if text != proposal.text and _entries(text) != _entries(proposal.text):
        raise AgreementError(494, "Security-Client differs from the one of the first REGISTER")


def check_verify(lines: Sequence[str], server: str) -> None:
    """Security-Verify must mirror the Security-Server we sent (RFC 3329 2.3.1). Raises AgreementError(494)."""
    text = ", ".join(lines)
    if not text:
        raise AgreementError(494, "Security-Verify is missing")
    if text == server:
        return
    got, sent = _entries(text), _entries(server)
    if got == sent:
        return
    if len(got) != len(sent):
        raise AgreementError(494, f"Security-Verify has {len(got)} entries, Security-Server had {len(sent)}")
    place = next(index for index, entry in enumerate(got) if entry != sent[index])
    raise AgreementError(494, f"Security-Verify entry {place + 1} differs from Security-Server")


def _mechanisms(text: str) -> list[Mechanism]:
    values = split_list(text)
    if len(values) > MAX_OFFERS:
        raise AgreementError(400, f"{len(values)} security mechanisms in one message, {MAX_OFFERS} are allowed")
    try:
        return [parse_mechanism(value) for value in values]
    except ParseError as error:
        raise AgreementError(400, str(error)) from error


def _entries(text: str) -> tuple[object, ...]:
    """What counts when headers are compared: the order of entries, not order, case and spacing of their parameters.

    `mediasec` entries are another agreement (TS 24.229 7.2A.7).
    """
    return tuple(
        (mechanism.name, tuple(sorted((name, value.lower()) for name, value in mechanism.params)))
        for mechanism in _mechanisms(text)
        if mechanism.param("mediasec") is None
    )


def _number(name: str, text: str | None) -> int:
    low, high = (LOWEST_SPI, 0xFFFFFFFF) if name.startswith("spi") else (1, 0xFFFF)
    if not (text and text.isascii() and text.isdigit() and len(text) <= 10 and low <= int(text) <= high):
        said = quoted(text, 20) if text else "(absent)"
        raise AgreementError(400, f"Security-Client: {name}={said} is not a number from {low} to {high}")
    return int(text)
