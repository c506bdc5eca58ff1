"""The algorithms of TS 33.203 Annex H/I: what each is called in the kernel and how long its parts are.

One table for each role. Sizes are octets. Values of the enumerations are the standard's tokens (Annex H).
An AEAD key as the kernel takes it is the cipher key followed by the salt (RFC 4106, RFC 4543).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Integrity(StrEnum):
    """`alg` of TS 33.203 Annex H."""

    HMAC_SHA_1_96 = "hmac-sha-1-96"
    HMAC_MD5_96 = "hmac-md5-96"
    AES_GMAC = "aes-gmac"
    NULL = "null"


class Encryption(StrEnum):
    """`ealg` of TS 33.203 Annex H."""

    AES_CBC = "aes-cbc"
    AES_GCM = "aes-gcm"
    DES_EDE3_CBC = "des-ede3-cbc"
    NULL = "null"


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """One transform: `kernel` is its crypto API name, `key` includes `salt` (both octets).

    `icv` is the integrity check value on the wire, `iv` the initialisation vector on the wire,
    `block` the alignment of the padded payload (RFC 4303 2.4: at least 4).
    """

    kernel: str
    key: int
    salt: int = 0
    icv: int = 0
    iv: int = 0
    block: int = 4
    aead: bool = False


INTEGRITY: dict[Integrity, Algorithm | None] = {
    Integrity.HMAC_SHA_1_96: Algorithm(kernel="hmac(sha1)", key=20, icv=12),
    Integrity.HMAC_MD5_96: Algorithm(kernel="hmac(md5)", key=16, icv=12),
    Integrity.AES_GMAC: Algorithm(kernel="rfc4543(gcm(aes))", key=20, salt=4, icv=16, iv=8, aead=True),
    Integrity.NULL: None,
}

ENCRYPTION: dict[Encryption, Algorithm] = {
    Encryption.AES_CBC: Algorithm(kernel="cbc(aes)", key=16, iv=16, block=16),
    Encryption.AES_GCM: Algorithm(kernel="rfc4106(gcm(aes))", key=20, salt=4, icv=16, iv=8, aead=True),
    Encryption.DES_EDE3_CBC: Algorithm(kernel="cbc(des3_ede)", key=24, iv=8, block=8),
    Encryption.NULL: Algorithm(kernel="ecb(cipher_null)", key=0),
}


class Pair(NamedTuple):
    """An (integrity, encryption) choice, written `hmac-sha-1-96/aes-cbc`."""

    integrity: Integrity
    encryption: Encryption

    def __str__(self) -> str:
        return f"{self.integrity}/{self.encryption}"

    @classmethod
    def parse(cls, text: str) -> "Pair":
        """Read `alg/ealg`. Raises ValueError for an unknown token or an invalid pair (TS 33.203 Annex H)."""
        integrity, _, encryption = text.partition("/")
        pair = cls(Integrity(integrity), Encryption(encryption or "null"))
        if pair not in VALID_PAIRS:
            raise ValueError(f"{text} is not a pair TS 33.203 Annex H allows")
        return pair


VALID_PAIRS: frozenset[Pair] = frozenset(
    [
        Pair(integrity, encryption)
        for integrity in (Integrity.HMAC_SHA_1_96, Integrity.HMAC_MD5_96)
        for encryption in (Encryption.NULL, Encryption.AES_CBC, Encryption.DES_EDE3_CBC)
    ]
    + [Pair(Integrity.AES_GMAC, Encryption.NULL), Pair(Integrity.NULL, Encryption.AES_GCM)]
)
"""Every pair that makes a legal ESP SA: `null` integrity only with aes-gcm, aes-gmac only with null encryption."""
