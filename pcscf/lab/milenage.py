"""The Milenage functions f1 to f5* (TS 35.206 4.1): one subscriber's keys, one challenge at a time.

Both sides of the lab use it: the core makes vectors with it, the USIM checks them. Who accepts which SQN is `usim`
and `hss`. Proven by the test sets of TS 35.208.
"""

from dataclasses import dataclass
from typing import Self

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from xfrm.model import Key


@dataclass(frozen=True, slots=True)
class Milenage:
    """K and OPc of a subscriber, 16 octets each. RAND has 16 octets, SQN and AK 6, AMF 2, MAC and RES 8."""

    k: Key
    opc: Key

    @classmethod
    def from_op(cls, k: bytes, op: bytes) -> Self:
        """Derive OPc from the operator's OP (TS 35.206 4.1)."""
        return cls(Key(k), Key(_xor(_encrypt(k, op), op)))

    def f1(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """MAC-A, the network's proof."""
        return self._out1(rand, sqn, amf)[:8]

    def f1_star(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """MAC-S, the proof of a resynchronisation."""
        return self._out1(rand, sqn, amf)[8:]

    def f2(self, rand: bytes) -> bytes:
        """RES."""
        return self._out(rand, rotation=0, constant=1)[8:]

    def f3(self, rand: bytes) -> Key:
        """CK."""
        return Key(self._out(rand, rotation=4, constant=2))

    def f4(self, rand: bytes) -> Key:
        """IK."""
        return Key(self._out(rand, rotation=8, constant=4))

    def f5(self, rand: bytes) -> bytes:
        """AK, which hides the SQN in AUTN."""
        return self._out(rand, rotation=0, constant=1)[:6]

    def f5_star(self, rand: bytes) -> bytes:
        """AK*, which hides the SQN in AUTS."""
        return self._out(rand, rotation=12, constant=8)[:6]

    def _out1(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        temp = _encrypt(self.k, _xor(rand, self.opc))
        in1 = (sqn + amf) * 2
        return _xor(_encrypt(self.k, _xor(temp, _rotate(_xor(in1, self.opc), 8))), self.opc)

    def _out(self, rand: bytes, *, rotation: int, constant: int) -> bytes:
        """OUT2 to OUT5. `rotation` is in octets; every r of TS 35.206 is a whole number of them."""
        temp = _encrypt(self.k, _xor(rand, self.opc))
        rotated = _rotate(_xor(temp, self.opc), rotation)
        return _xor(_encrypt(self.k, rotated[:15] + bytes([rotated[15] ^ constant])), self.opc)


def _encrypt(key: bytes, block: bytes) -> bytes:
    encryptor = Cipher(AES(bytes(key)), ECB()).encryptor()
    return encryptor.update(bytes(block)) + encryptor.finalize()


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _rotate(block: bytes, octets: int) -> bytes:
    """Rotate to the left."""
    return block[octets:] + block[:octets]
