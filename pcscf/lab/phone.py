"""One phone of the lab: what it is told to be, and its card."""

from dataclasses import dataclass

from pcscf.lab.fault import Fault, spoiled
from pcscf.lab.gm import StaticNumbers
from pcscf.lab.milenage import Milenage
from pcscf.lab.subscribers import Subscriber
from pcscf.lab.usim import Usim
from pcscf.sip.transaction import GM_TIMERS, TimerProfile
from xfrm.algorithms import Encryption, Integrity, Pair
from xfrm.model import IPAddress, PortRange

SQN_AHEAD = 1 << 30
"""How far the card of `Fault.OLD_SQN` is ahead of the core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UeSettings:
    """One phone. Times in seconds."""

    subscriber: Subscriber
    address: IPAddress
    pcscf: IPAddress
    pcscf_port: int = 5060
    tcp: bool = False
    port: int = 5060
    """For REGISTER in clear, and the answers to it."""
    ports: PortRange | None = None
    """Protected ports: the first is port_us, the others take turns as port_uc. None: eight by chance."""
    static: StaticNumbers | None = None
    """For a phone that offers the same ports and SPIs for ever; then `ports` does not count."""
    offers: tuple[Pair, ...] = (
        Pair(Integrity.NULL, Encryption.AES_GCM),
        Pair(Integrity.HMAC_SHA_1_96, Encryption.AES_CBC),
        Pair(Integrity.HMAC_SHA_1_96, Encryption.NULL),
    )
    offer_lines: tuple[str, ...] = ()
    """Raw Security-Client lines instead of our own; may hold {spi_c}, {spi_s}, {port_c}, {port_s}."""
    impu: str = ""
    """The identity in From and To; "" for that of a UE without ISIM."""
    expires: int = 600_000
    timers: TimerProfile = GM_TIMERS
    patience: float = GM_TIMERS.timeout
    """For each answer."""
    large_over_tcp: bool = True
    """Whether a request above 1300 octets goes over TCP (RFC 3261 18.1.1) although the phone prefers UDP."""
    resources_after: float = 0.0
    """Seconds until our side of a call's resources is there."""
    late: float = 3.0
    """Of `Fault.LATE_ANSWER`."""
    loss: float = 0.3
    seed: int = 1
    """Of `Fault.LOSE`: the share, 0 to 1, and what it is drawn from."""
    faults: frozenset[Fault] = frozenset()
    foreign_impi: str = ""
    """Of `Fault.FOREIGN_IMPI`; "" for the neighbour's."""


def card(settings: UeSettings) -> Usim:
    """The card of this phone, as wrong as its faults have it."""
    subscriber = settings.subscriber
    milenage, sqn = subscriber.milenage, subscriber.sqn
    if Fault.WRONG_K in settings.faults:
        milenage = Milenage(spoiled(milenage.k), milenage.opc)
    if Fault.OLD_SQN in settings.faults:
        sqn += SQN_AHEAD
    return Usim(milenage, sqn)
