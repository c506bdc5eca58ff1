"""The HSS of the lab: authentication vectors and resynchronisation (TS 33.102 6.3, TS 33.203 6.1), without Diameter.

Who is registered, and what a REGISTER is answered, is `registrar`.
"""

import base64
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pcscf.aka import AkaKeys
from pcscf.lab.subscribers import Subscriber, canonical
from pcscf.lab.usim import IND_BITS, RESYNC_AMF
from pcscf.sip.parse import ParseError
from xfrm.model import Key

IND_VALUES = 1 << IND_BITS
SQN_VALUES = 1 << 48
STALE_SQN = 1
"""SEQ 0: no card takes it, a new one included."""
AUTS_OCTETS = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """One authentication vector."""

    rand: bytes
    autn: bytes
    xres: Key
    keys: AkaKeys

    @property
    def nonce(self) -> str:
        """RAND and AUTN as RFC 3310 3.2 puts them into a challenge."""
        return base64.b64encode(self.rand + self.autn).decode("ascii")


class Hss:
    """The subscribers and their last used SQN. `random_octets(n)` gives RAND."""

    def __init__(self, subscribers: Mapping[str, Subscriber], random_octets: Callable[[int], bytes]) -> None:
        self._subscribers = subscribers
        self._random_octets = random_octets
        self._sqn = {impi: each.sqn for impi, each in subscribers.items()}
        self._owners = {canonical(impu): each for each in subscribers.values() for impu in each.impus}

    def find(self, impi: str) -> Subscriber | None:
        return self._subscribers.get(impi)

    def owner(self, identity: str) -> Subscriber | None:
        """Whose public identity a URI is: a barred one is nobody's, a SIP URI with a number is its tel URI, too."""
        try:
            name = canonical(identity)
        except ParseError:
            return None
        user, _, host = name.removeprefix("sip:").partition("@")
        found = self._owners.get(name)
        if found is None and user.startswith("+"):
            found = self._owners.get(f"tel:{user}")
            if found is not None and host != found.realm:
                return None
        return found

    def vector(self, subscriber: Subscriber) -> Vector:
        """The next vector: SEQ and IND each go up by one (TS 33.102 Annex C.1)."""
        last = self._sqn[subscriber.impi]
        seq, ind = last >> IND_BITS, last & (IND_VALUES - 1)
        sqn = ((seq + 1) << IND_BITS | (ind + 1) % IND_VALUES) % SQN_VALUES
        self._sqn[subscriber.impi] = sqn
        return self._make(subscriber, sqn)

    def stale_vector(self, subscriber: Subscriber) -> Vector:
        """A vector that every card finds too old; the SQN in use does not move."""
        return self._make(subscriber, STALE_SQN)

    def resynchronise(self, subscriber: Subscriber, rand: bytes, auts: bytes) -> bool:
        """Go on from the card's SQN if MAC-S proves that it is the card's (TS 33.102 6.3.5)."""
        if len(auts) != AUTS_OCTETS:
            return False
        f = subscriber.milenage
        sqn = bytes(a ^ b for a, b in zip(auts[:6], f.f5_star(rand), strict=True))
        if not hmac.compare_digest(auts[6:], f.f1_star(rand, sqn, RESYNC_AMF)):
            return False
        self._sqn[subscriber.impi] = int.from_bytes(sqn, "big")
        return True

    def _make(self, subscriber: Subscriber, number: int) -> Vector:
        f, amf, rand = subscriber.milenage, subscriber.amf, self._random_octets(16)
        sqn = number.to_bytes(6, "big")
        hidden = bytes(a ^ b for a, b in zip(sqn, f.f5(rand), strict=True))
        return Vector(
            rand=rand,
            autn=hidden + amf + f.f1(rand, sqn, amf),
            xres=Key(f.f2(rand)),
            keys=AkaKeys(ck=f.f3(rand), ik=f.f4(rand)),
        )
