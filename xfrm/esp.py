"""One ESP packet at a time: seal and open it (RFC 4303), with its sequence number and replay window.

A packet here begins at its SPI: IP headers, sockets and the finding of the SA are left to `userspace`.
AES-CBC after RFC 3602, 3DES-CBC after RFC 2451, HMAC-SHA-1-96 after RFC 2404, HMAC-MD5-96 after RFC 2403,
AES-GCM after RFC 4106, AES-GMAC after RFC 4543. Sequence numbers have 32 bits (TS 33.203 signals no ESN).

    EspError              the packet cannot be sent or is not believed
    ├── Malformed         a length or the padding is wrong
    ├── Replayed          the sequence number was seen before, or is too old to tell
    ├── IntegrityFailure  the integrity check value does not fit
    └── SequenceExhausted 2^32 - 1 packets were sealed: the SA is used up (RFC 4303 3.3.3)
"""

import hashlib
import struct
from hmac import compare_digest
from os import urandom
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from xfrm.algorithms import ENCRYPTION, INTEGRITY, VALID_PAIRS, Algorithm, Encryption, Integrity, Pair
from xfrm.model import Key, Sa

Octets = bytes | memoryview

HEADER = 8
"""SPI and sequence number."""
LAST_SEQUENCE = 0xFFFF_FFFF

_HEADER = struct.Struct("!II")
_IV = struct.Struct("!Q")
_SEQUENCE = struct.Struct("!4xI")
_PADDING = tuple(bytes(range(1, count + 1)) for count in range(256))
_TRAILER = tuple(padding + bytes([count]) for count, padding in enumerate(_PADDING))
_OCTET = tuple(bytes([value]) for value in range(256))


class EspError(Exception):
    """Base of what is wrong with one packet."""


class Malformed(EspError):
    """A length or the padding is wrong."""


class Replayed(EspError):
    """The sequence number was seen before, or is left of the window (RFC 4303 3.4.3)."""


class IntegrityFailure(EspError):
    """The integrity check value does not fit: wrong key, or the packet was changed on its way."""


class SequenceExhausted(EspError):
    """Another packet would reuse a sequence number (RFC 4303 3.3.3)."""


class ReplayWindow:
    """The sequence numbers seen lately (RFC 4303 3.4.3). Bit n of `seen` is the packet `highest - n`."""

    __slots__ = ("_mask", "highest", "seen", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.highest = 0
        self.seen = 0
        self._mask = (1 << size) - 1

    def check(self, sequence: int) -> None:
        """Raise Replayed for a sequence number that must not be accepted. Changes nothing."""
        behind = self.highest - sequence
        if sequence == 0 or behind >= self.size or (behind >= 0 and self.seen >> behind & 1):
            raise Replayed(f"sequence number {sequence}, the highest was {self.highest}")

    def advance(self, sequence: int) -> None:
        """Mark a sequence number as seen. Only for packets whose integrity is proven."""
        ahead = sequence - self.highest
        if ahead <= 0:
            self.seen |= 1 << -ahead
            return
        # The distance may be huge: shifting by it would build a number of that many bits.
        self.seen = (self.seen << ahead | 1) & self._mask if ahead < self.size else 1
        self.highest = sequence

    def resume(self, highest: int) -> None:
        """Go on after another process: what it may have accepted, `highest` and all below, is not accepted."""
        self.highest = highest
        self.seen = self._mask


class _Transform(Protocol):
    """Cryptography of one direction. `header` is SPI and sequence number; plaintexts include the ESP trailer."""

    def seal(self, header: bytes, plaintext: bytes) -> bytes: ...

    def open(self, packet: Octets) -> bytes: ...


class _Hmac:
    """A truncated HMAC with both key blocks hashed in advance (RFC 2104 4): copying them is the whole set-up."""

    __slots__ = ("_inner", "_outer", "_size")

    def __init__(self, name: str, key: Key, size: int) -> None:
        self._inner = hashlib.new(name, usedforsecurity=False)
        self._outer = hashlib.new(name, usedforsecurity=False)
        block = bytes(key).ljust(self._inner.block_size, b"\0")
        self._inner.update(bytes(octet ^ 0x36 for octet in block))
        self._outer.update(bytes(octet ^ 0x5C for octet in block))
        self._size = size

    def fits(self, data: Octets, icv: Octets) -> bool:
        return compare_digest(self.value(data), icv)

    def value(self, data: Octets) -> bytes:
        inner = self._inner.copy()
        inner.update(data)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()[: self._size]


class _AnyIcv(_Hmac):
    """An integrity check value of an algorithm that is not known: it is passed over, and nothing can be sealed."""

    __slots__ = ()

    def __init__(self) -> None:
        pass

    def fits(self, data: Octets, icv: Octets) -> bool:
        return True


class _NullHmac:
    """Integrity by HMAC, no encryption (RFC 2410)."""

    __slots__ = ("_hmac", "_icv")

    def __init__(self, hmac: _Hmac, icv: int) -> None:
        self._hmac = hmac
        self._icv = icv

    def seal(self, header: bytes, plaintext: bytes) -> bytes:
        body = header + plaintext
        return body + self._hmac.value(body)

    def open(self, packet: Octets) -> bytes:
        body = packet[: -self._icv]
        if not self._hmac.fits(body, packet[-self._icv :]):
            raise IntegrityFailure
        return bytes(body[HEADER:])


class _CbcHmac:
    """Encryption in CBC mode, then HMAC over all of it.

    One cipher object serves all packets, which saves most of the cost of a packet, because a CBC stream may go on
    from packet to packet: a random block is encrypted first and its ciphertext *is* the IV, unpredictable as
    RFC 3602 3 wants it; what follows is chained to that IV like in any CBC packet. The receiver decrypts IV and
    ciphertext in one stream and throws the first block away, the only one that depends on the packet before.
    """

    __slots__ = ("_hmac", "_icv", "_iv", "_stream")

    def __init__(self, cipher: BlockCipherAlgorithm, iv: int, hmac: _Hmac, icv: int, *, seals: bool) -> None:
        """It seals or opens; a cipher object for the other would be memory that nobody uses."""
        self._stream = (
            Cipher(cipher, CBC(urandom(iv))).encryptor() if seals else Cipher(cipher, CBC(bytes(iv))).decryptor()
        )
        self._hmac = hmac
        self._icv = icv
        self._iv = iv

    def seal(self, header: bytes, plaintext: bytes) -> bytes:
        body = header + self._stream.update(urandom(self._iv) + plaintext)
        return body + self._hmac.value(body)

    def open(self, packet: Octets) -> bytes:
        body = packet[: -self._icv]
        if not self._hmac.fits(body, packet[-self._icv :]):
            raise IntegrityFailure
        return self._stream.update(body[HEADER:])[self._iv :]


class _Aead:
    """The nonces of both AES-GCM and AES-GMAC: the salt of the key, then an 8-octet IV unique under this key.

    All four SAs of a set have the same key (TS 33.203 6.3), so a counter from zero, or the sequence number, would
    repeat nonces between them and give the key away. A counter from a random 64-bit start does not: two SAs of n
    packets each meet with a probability of about n / 2^63.
    """

    __slots__ = ("_aead", "_counter", "_salt")

    def __init__(self, key: Key, salt: int) -> None:
        self._aead = AESGCM(bytes(key[:-salt]))
        self._salt = bytes(key[-salt:])
        self._counter = int.from_bytes(urandom(8), "big")

    def _next_iv(self) -> bytes:
        self._counter = (self._counter + 1) & 0xFFFF_FFFF_FFFF_FFFF
        return _IV.pack(self._counter)


class _Gcm(_Aead):
    """AES-GCM (RFC 4106): header authenticated, the rest encrypted and authenticated."""

    __slots__ = ()

    def seal(self, header: bytes, plaintext: bytes) -> bytes:
        iv = self._next_iv()
        return header + iv + self._aead.encrypt(self._salt + iv, plaintext, header)

    def open(self, packet: Octets) -> bytes:
        try:
            return self._aead.decrypt(self._salt + packet[8:16], packet[16:], packet[:8])
        except InvalidTag:
            raise IntegrityFailure from None


class _Gmac(_Aead):
    """AES-GMAC (RFC 4543): all authenticated, the IV too, nothing encrypted."""

    __slots__ = ()

    def seal(self, header: bytes, plaintext: bytes) -> bytes:
        iv = self._next_iv()
        body = header + iv + plaintext
        return body + self._aead.encrypt(self._salt + iv, b"", body)

    def open(self, packet: Octets) -> bytes:
        try:
            self._aead.decrypt(self._salt + packet[8:16], packet[-16:], packet[:-16])
        except InvalidTag:
            raise IntegrityFailure from None
        return bytes(packet[16:-16])


class _Sizes:
    """The lengths of one pair on the wire, in octets."""

    __slots__ = ("block", "fixed")

    def __init__(self, integrity: Algorithm | None, encryption: Algorithm) -> None:
        aead = integrity if integrity is not None and integrity.aead else encryption
        self.block = max(encryption.block, 4)
        self.fixed = HEADER + aead.iv + (aead.icv or (integrity.icv if integrity is not None else 0))


class Suite(Protocol):
    """What it takes to open packets: an `Sa`, or what somebody wrote down of one."""

    @property
    def integrity(self) -> Integrity: ...
    @property
    def encryption(self) -> Encryption: ...
    @property
    def integrity_key(self) -> Key: ...
    @property
    def encryption_key(self) -> Key: ...
    @property
    def replay_window(self) -> int: ...


def _cipher(suite: Suite, hmac: _Hmac, icv: int, *, seals: bool) -> _Transform:
    encryption = ENCRYPTION[suite.encryption]
    if suite.encryption is Encryption.NULL:
        return _NullHmac(hmac, icv)
    cipher = AES if suite.encryption is Encryption.AES_CBC else TripleDES
    return _CbcHmac(cipher(bytes(suite.encryption_key)), encryption.iv, hmac, icv, seals=seals)


def _sizes(sa: Suite) -> _Sizes:
    """Raises ValueError for a pair that TS 33.203 Annex H does not allow and for a key of the wrong length."""
    if Pair(sa.integrity, sa.encryption) not in VALID_PAIRS:
        raise ValueError(f"{sa.integrity}/{sa.encryption} is not a pair TS 33.203 Annex H allows")
    integrity = INTEGRITY[sa.integrity]
    encryption = ENCRYPTION[sa.encryption]
    for token, wanted, key in (
        (sa.integrity, integrity.key if integrity is not None else 0, sa.integrity_key),
        (sa.encryption, encryption.key, sa.encryption_key),
    ):
        if len(key) != wanted:
            raise ValueError(f"the key of {token} has {len(key)} octets, not {wanted}")
    return _Sizes(integrity, encryption)


def _transform(sa: Suite, *, seals: bool) -> _Transform:
    """Of a pair and keys that are good: `_sizes` has looked at them."""
    integrity = INTEGRITY[sa.integrity]
    if integrity is None:
        return _Gcm(sa.encryption_key, ENCRYPTION[sa.encryption].salt)
    if integrity.aead:
        return _Gmac(sa.integrity_key, integrity.salt)
    hash_name = "sha1" if sa.integrity is Integrity.HMAC_SHA_1_96 else "md5"
    return _cipher(sa, _Hmac(hash_name, sa.integrity_key, integrity.icv), integrity.icv, seals=seals)


class Sealer:
    """The sending end of an SA. Raises ValueError for keys that do not fit the algorithms.

    Its cryptography, some 3 KiB, is made for the first packet: most SAs of a flood of challenges never see one.
    """

    __slots__ = ("_block", "_sa", "_spi", "_transform", "sequence")

    def __init__(self, sa: Sa) -> None:
        self._block = _sizes(sa).block
        self._sa = sa
        self._spi = sa.spi
        self._transform: _Transform | None = None
        self.sequence = 0

    def seal(self, payload: bytes, next_header: int) -> bytes:
        """Return the ESP packet of one transport-layer segment. Raises SequenceExhausted."""
        if self.sequence == LAST_SEQUENCE:
            raise SequenceExhausted
        self.sequence += 1
        if (transform := self._transform) is None:
            transform = self._transform = _transform(self._sa, seals=True)
        trailer = _TRAILER[-(len(payload) + 2) % self._block] + _OCTET[next_header]
        return transform.seal(_HEADER.pack(self._spi, self.sequence), payload + trailer)


class Opener:
    """The receiving end of an SA. Raises ValueError for keys that do not fit and for a missing replay window.

    Its cryptography is made for the first packet, like that of a Sealer.
    """

    __slots__ = ("_block", "_fixed", "_sa", "_transform", "window")

    def __init__(self, sa: Suite, unchecked_icv: int = 0) -> None:
        """`unchecked_icv`: pass over so many octets at the end, of an algorithm that is not known."""
        if sa.replay_window < 1:
            raise ValueError("an SA needs a replay window (TS 33.203 6.3)")
        self._sa = sa
        self._transform: _Transform | None = None
        if unchecked_icv:
            encryption = ENCRYPTION[sa.encryption]
            self._transform = _cipher(sa, _AnyIcv(), unchecked_icv, seals=False)
            self._block = max(encryption.block, 4)
            self._fixed = HEADER + encryption.iv + unchecked_icv
        else:
            sizes = _sizes(sa)
            self._block = sizes.block
            self._fixed = sizes.fixed
        self.window = ReplayWindow(sa.replay_window)

    def open(self, packet: Octets) -> tuple[bytes, int]:
        """Return payload and next header of an ESP packet whose SPI is this SA's.

        Raises Malformed, Replayed or IntegrityFailure. The window moves only after the ICV was found good.
        """
        sealed = len(packet) - self._fixed
        if sealed <= 0 or sealed % self._block:
            raise Malformed(f"{len(packet)} octets are no packet of this SA")
        (sequence,) = _SEQUENCE.unpack_from(packet)
        self.window.check(sequence)
        if (transform := self._transform) is None:
            transform = self._transform = _transform(self._sa, seals=False)
        plaintext = transform.open(packet)
        self.window.advance(sequence)
        padding = plaintext[-2]
        end = len(plaintext) - 2 - padding
        if end < 0 or plaintext[end:-2] != _PADDING[padding]:
            raise Malformed("the padding is not 1, 2, 3, ... (RFC 4303 2.4)")
        return plaintext[:end], plaintext[-1]
