"""The USIM of a simulated UE: checks the network's AUTN, answers RES, CK and IK, or says why not (TS 33.102 6.3).

Knows nothing of SIP. SQN is 48 bits: SEQ (43 bits) and IND (5 bits); a challenge is fresh when its SEQ is above the
highest accepted with the same IND (TS 33.102 Annex C.2).
"""

import hmac
from dataclasses import dataclass

from pcscf.aka import AkaKeys
from pcscf.lab.milenage import Milenage
from xfrm.model import Key

IND_BITS = 5
RESYNC_AMF = bytes(2)
"""AMF of MAC-S (TS 33.102 6.3.3)."""


class MacFailure(Exception):
    """The network does not know K: its MAC-A is wrong (TS 33.102 6.3.3)."""


class SyncFailure(Exception):
    """The network's SQN is not fresh; `auts` (14 octets) tells it ours."""

    def __init__(self, sqn: int, auts: bytes) -> None:
        super().__init__(f"the network's SQN {sqn:#014x} is not fresh")
        self.auts = auts


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the USIM gives for a good challenge."""

    res: Key
    keys: AkaKeys


class Usim:
    """One card. `sqn` is the highest sequence number it has accepted so far."""

    def __init__(self, milenage: Milenage, sqn: int = 0) -> None:
        self._milenage = milenage
        self._sqn = sqn
        self._accepted = [sqn >> IND_BITS] * (1 << IND_BITS)

    def authenticate(self, rand: bytes, autn: bytes) -> Answer:
        """Check a challenge (16 and 16 octets) and answer it. Raises MacFailure or SyncFailure (TS 33.102 6.3.3)."""
        f = self._milenage
        concealed, amf, mac = autn[:6], autn[6:8], autn[8:]
        sqn_octets = _xor(concealed, f.f5(rand))
        if not hmac.compare_digest(mac, f.f1(rand, sqn_octets, amf)):
            raise MacFailure("MAC-A is wrong: the network's K or OPc is not ours")
        sqn = int.from_bytes(sqn_octets, "big")
        seq, ind = sqn >> IND_BITS, sqn & ((1 << IND_BITS) - 1)
        if seq <= self._accepted[ind]:
            raise SyncFailure(sqn, self._auts(rand))
        self._accepted[ind] = seq
        self._sqn = max(self._sqn, sqn)
        return Answer(res=Key(f.f2(rand)), keys=AkaKeys(ck=f.f3(rand), ik=f.f4(rand)))

    def _auts(self, rand: bytes) -> bytes:
        ours = self._sqn.to_bytes(6, "big")
        return _xor(ours, self._milenage.f5_star(rand)) + self._milenage.f1_star(rand, ours, RESYNC_AMF)


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
