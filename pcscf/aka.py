"""AKA digest (RFC 3310): keys out of a challenge, keys into ESP, and the digest itself.

The simulators share this module with the proxy; it is proven by the vectors of the digest (E3, E4), not by them.
Which challenge belongs to whom is `registration`; choosing algorithms is `security`.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import TypeVar

from pcscf.sip.fields import drop_auth_params, parse_auth
from pcscf.sip.message import Header, Message, Response
from pcscf.sip.parse import ParseError
from xfrm.algorithms import Encryption, Integrity, Pair
from xfrm.model import Key

CHALLENGE_HEADERS = frozenset(
    {"www-authenticate", "proxy-authenticate", "authentication-info", "proxy-authentication-info"}
    | {"authorization", "proxy-authorization"}  # no place for keys, but who repeats a challenge may repeat them there
)
"""Where something of authentication is said (RFC 3261 20, RFC 7615)."""
KEY_PARAMS = frozenset({"ck", "ik"})
HEX_KEY = re.compile(r"[0-9A-Fa-f]{32}")

MessageT = TypeVar("MessageT", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class AkaKeys:
    """The 16-octet CK and IK of one authentication vector."""

    ck: Key
    ik: Key


@dataclass(frozen=True, slots=True)
class AkaChallenge:
    """What the core's 401 holds for us: the nonce the UE will answer, and the keys of that vector."""

    nonce: str
    keys: AkaKeys


class ChallengeError(ValueError):
    """The core's challenge cannot secure Gm; `str` says why and holds no key."""


def strip_keys(message: MessageT) -> MessageT:
    """What came, as it may be shown: every challenge header without keys, whatever the method and the direction."""
    for item in message.headers:
        if item[0] in CHALLENGE_HEADERS and without_keys(item) is not item:
            break
    else:
        return message  # as almost all
    shown = (without_keys(item) if item.name in CHALLENGE_HEADERS else item for item in message.headers)
    return message.with_headers(item for item in shown if item is not None)


def without_keys(item: Header) -> Header | None:
    """A challenge header without ck and ik, whatever its scheme; other bytes stay (TS 24.229 5.2.2).

    None if it held nothing else.
    """
    bare = item.name.endswith("-info") and item.value[:7].lower() != "digest "
    scheme = "Digest " if bare else ""  # RFC 3261 25.1: parameters and no scheme
    value = drop_auth_params(scheme + item.value, KEY_PARAMS)[len(scheme) :]
    if value == item.value:
        return item
    return Header(item.name, value, f"{item.line.partition(':')[0]}: {value}") if value else None


def take_challenge(response: Response) -> AkaChallenge:
    """Read nonce, ck and ik from the AKAv1-MD5 challenge of a 401 (TS 24.229 7.2A.1).

    Raises ChallengeError when there is no AKAv1-MD5 challenge, more than one, or a key is absent or not 32 hex digits.
    """
    challenges = []
    for value in response.lines("www-authenticate"):
        try:
            auth = parse_auth(value)
        except ParseError as error:
            raise ChallengeError(f"the core's WWW-Authenticate is unreadable: {error}") from error
        if auth.scheme == "digest" and (auth.param("algorithm") or "").lower() == "akav1-md5":
            challenges.append(auth)
    if len(challenges) != 1:
        raise ChallengeError(f"the core's 401 holds {len(challenges)} AKAv1-MD5 challenges, expected one")
    keys: dict[str, Key] = {}
    for name in ("ck", "ik"):
        values = [value for key, value in challenges[0].params if key == name]
        if len(values) != 1:
            raise ChallengeError(f"the core's 401 holds {len(values)} values of {name}, expected one")
        if not HEX_KEY.fullmatch(values[0]):
            raise ChallengeError(f"the core's {name} is not 32 hexadecimal digits ({len(values[0])} characters)")
        keys[name] = Key.fromhex(values[0])
    nonce = challenges[0].param("nonce")
    if not nonce:
        raise ChallengeError("the core's challenge has no nonce")
    return AkaChallenge(nonce, AkaKeys(ck=keys["ck"], ik=keys["ik"]))


def expand(keys: AkaKeys, pair: Pair) -> tuple[Key, Key]:
    """Expand IK and CK to (integrity key, encryption key) of a pair (TS 33.203 Annex I).

    HMAC-SHA-1-96: IK, then 32 zero bits. DES-EDE3-CBC: CK1, CK2, CK1 with the parity of RFC 2451.
    An AEAD key is followed by its 4-octet salt, as the kernel takes it.
    """
    match pair.integrity:
        case Integrity.HMAC_SHA_1_96:
            integrity = keys.ik + bytes(4)
        case Integrity.HMAC_MD5_96:
            integrity = bytes(keys.ik)
        case Integrity.AES_GMAC:
            integrity = keys.ik + _salt(keys, 0x58, b"AES_GMAC_SALT")
        case Integrity.NULL:
            integrity = b""
    match pair.encryption:
        case Encryption.AES_CBC:
            encryption = bytes(keys.ck)
        case Encryption.AES_GCM:
            encryption = keys.ck + _salt(keys, 0x59, b"AES_GCM_SALT")
        case Encryption.DES_EDE3_CBC:
            encryption = _odd_parity(keys.ck + keys.ck[:8])
        case Encryption.NULL:
            encryption = b""
    return Key(integrity), Key(encryption)


def _salt(keys: AkaKeys, function_code: int, label: bytes) -> bytes:
    """Last 4 octets of the KDF of TS 33.220 Annex B, as TS 33.203 Annex I.3 uses it."""
    string = bytes([function_code]) + label + len(label).to_bytes(2, "big")
    return hmac.digest(keys.ck + keys.ik, string, "sha256")[-4:]


def _odd_parity(key: bytes) -> bytes:
    return bytes((octet & 0xFE) | (1 - ((octet >> 1).bit_count() & 1)) for octet in key)


def digest_response(
    *,
    username: str,
    realm: str,
    password: bytes,
    method: str,
    uri: str,
    nonce: str,
    qop: str = "",
    nc: str = "",
    cnonce: str = "",
    body: bytes = b"",
) -> str:
    """The `response` of RFC 2617 with RES as raw octets for password (RFC 3310 3.3). `qop` is "", auth or auth-int.

    For `rspauth` give the empty method; for a synchronisation failure the empty password.
    """
    a1 = _md5(f"{username}:{realm}:".encode() + password)
    a2 = f"{method}:{uri}"
    if qop == "auth-int":
        a2 += f":{_md5(body)}"
    middle = f"{nonce}:{nc}:{cnonce}:{qop}" if qop else nonce
    return _md5(f"{a1}:{middle}:{_md5(a2.encode())}".encode())


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
