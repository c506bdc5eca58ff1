"""What a simulated UE does wrong on demand, and the small damage that takes."""

import re
from enum import StrEnum

from xfrm.model import Key


class Fault(StrEnum):
    """One wrong behaviour; a UE may have several."""

    WRONG_K = "wrong-k"
    """The card has another K: it finds the network's MAC wrong."""
    OLD_SQN = "old-sqn"
    """The card is far ahead of the core: it answers the first challenge with auts."""
    WRONG_RES = "wrong-res"
    WRONG_IK = "wrong-ik"
    """The SAs are made with another IK: nothing that either side sends passes the other's integrity check."""
    EDIT_SECURITY_VERIFY = "edit-security-verify"
    DROP_SECURITY_VERIFY = "drop-security-verify"
    EDIT_SECURITY_CLIENT = "edit-security-client"
    """In the protected REGISTER, so that it differs from the first."""
    FOREIGN_IMPI = "foreign-impi"
    """Somebody else's username inside our SA."""
    CLEAR_TO_PROTECTED = "clear-to-protected"
    """The answer to the challenge goes to port_ps without ESP."""
    NO_SEC_AGREE = "no-sec-agree"
    IGNORE_CHALLENGE = "ignore-challenge"
    NON_REGISTER_IN_CLEAR = "non-register-in-clear"
    """Once registered, a MESSAGE to the port for REGISTER."""
    TCP_FIN_AFTER_REGISTER = "tcp-fin-after-register"
    """Once registered, the TCP connection is closed, as idle phones do."""


def spoiled(octets: bytes) -> Key:
    """The octets with one bit turned over."""
    return Key(octets[:-1] + bytes([octets[-1] ^ 1]))


def edited(value: str) -> str:
    """A Security-* value whose first spi-s is one higher: well-formed, and not what it was."""
    changed, count = re.subn(r"(?<=spi-s=)\d+", lambda found: str(int(found[0]) + 1), value, count=1)
    return changed if count else f"{value};q=0.001"


def other_user(impi: str) -> str:
    """The IMPI with the next last digit: in the lab, the neighbour's."""
    user, at, realm = impi.partition("@")
    return f"{user[:-1]}{(int(user[-1]) + 1) % 10}{at}{realm}" if user[-1:].isdigit() else f"x{impi}"
