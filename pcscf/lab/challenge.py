"""The 401 of the lab's core as text: as TS 24.229 7.2A.1 has it, as another core writes it, or wrong on demand."""

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum

from pcscf.lab.hss import Vector
from pcscf.sip.message import Header, header


class Manners(StrEnum):
    """Whose habits the core has."""

    IMS = "ims"
    KAMAILIO = "kamailio"


class CoreFault(StrEnum):
    """What the core does wrong on demand, for one subscriber."""

    MISSING_IK = "missing-ik"
    MISSING_CK = "missing-ck"
    NO_AKA_KEYS = "no-aka-keys"
    SHORT_CK = "short-ck"
    BAD_HEX = "bad-hex"
    TWO_CHALLENGES = "two-challenges"
    WRONG_MAC = "wrong-mac"
    OLD_SQN = "old-sqn"
    """The first challenge has an SQN no card takes; after auts it is right."""
    SQN_LOOP = "sqn-loop"
    """No challenge has an SQN that a card takes, auts or not."""
    WRONG_REALM = "wrong-realm"
    NO_ANSWER = "no-answer"
    LATE_401 = "late-401"
    LATE_200 = "late-200"
    DROP_RESPONSE = "drop-response"
    """The first copy of each answer is lost; a retransmission is answered."""
    DUPLICATE_RESPONSE = "duplicate-response"
    ACCEPT_WITHOUT_CHALLENGE = "accept-without-challenge"


def challenge_headers(
    vector: Vector,
    *,
    realm: str,
    qop: str,
    manners: Manners,
    faults: frozenset[CoreFault],
    another: Callable[[], Vector],
) -> tuple[list[Header], Vector]:
    """WWW-Authenticate of a vector, and the vector as the UE will see it. `another` gives one for a second."""
    if CoreFault.WRONG_MAC in faults:
        vector = replace(vector, autn=vector.autn[:15] + bytes([vector.autn[15] ^ 1]))
    if CoreFault.WRONG_REALM in faults:
        realm = f"wrong.{realm}"
    vectors = [vector, another()] if CoreFault.TWO_CHALLENGES in faults else [vector]
    return [header("WWW-Authenticate", _challenge(each, realm, qop, manners, faults)) for each in vectors], vector


def _challenge(vector: Vector, realm: str, qop: str, manners: Manners, faults: frozenset[CoreFault]) -> str:
    ck, ik = bytes(vector.keys.ck).hex(), bytes(vector.keys.ik).hex()
    if CoreFault.SHORT_CK in faults:
        ck = ck[:30]
    if CoreFault.BAD_HEX in faults:
        ck = f"{ck[:30]}zz"
    without_ck = CoreFault.MISSING_CK in faults or CoreFault.NO_AKA_KEYS in faults
    without_ik = CoreFault.MISSING_IK in faults or CoreFault.NO_AKA_KEYS in faults
    parts = [f'realm="{realm}"', f'nonce="{vector.nonce}"', "algorithm=AKAv1-MD5"]
    keys = ([] if without_ck else [f'ck="{ck}"'], [] if without_ik else [f'ik="{ik}"'])
    quality = [f'qop="{qop}"'] if qop else []
    if manners is Manners.KAMAILIO:
        return "Digest " + ", ".join([*parts, *keys[0], *keys[1], *quality])
    return "Digest " + ",".join([*parts, *quality, *keys[1], *keys[0]])
