"""What a simulated UE does wrong on demand, and the small damage that takes (digest F14)."""

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
    """In the answer to the challenge, and in every protected request but ACK and CANCEL."""
    DROP_SECURITY_VERIFY = "drop-security-verify"
    EDIT_SECURITY_CLIENT = "edit-security-client"
    """In the protected REGISTER, so that it differs from the first."""
    FOREIGN_IMPI = "foreign-impi"
    """Somebody else's username inside our SA."""
    WRONG_SPI = "wrong-spi"
    """What it sends has SPIs one beside those of Security-Server."""
    CLEAR_TO_PROTECTED = "clear-to-protected"
    """The answer to the challenge goes to port_ps without ESP."""
    NO_SEC_AGREE = "no-sec-agree"
    IGNORE_CHALLENGE = "ignore-challenge"
    NON_REGISTER_IN_CLEAR = "non-register-in-clear"
    """Once registered, a MESSAGE to the port for REGISTER."""
    TCP_FIN_AFTER_REGISTER = "tcp-fin-after-register"
    """Once registered, the TCP connection is closed, as idle phones do."""
    TCP_RESET = "tcp-reset"
    """Once registered, and after each request over TCP, the connection is reset: answers need another."""
    CLEAR_INVITE = "clear-invite"
    """Once registered, an INVITE to the port for REGISTER."""
    ROUTE_SKIPS_SERVICE_ROUTE = "route-skips-service-route"
    """The preloaded Route ends at the P-CSCF."""
    ROUTE_OF_ANOTHER = "route-of-another"
    """The preloaded Route goes on over a server that is not the one of Service-Route."""
    FOREIGN_IDENTITY = "foreign-identity"
    """From, P-Preferred-Identity and P-Asserted-Identity name another user."""
    FORBIDDEN_HEADERS = "forbidden-headers"
    """Requests and responses carry headers that only the network may set (digest C1)."""
    SILENT = "silent"
    """Requests of the network are never answered."""
    LATE_ANSWER = "late-answer"
    """They are answered after `UeSettings.late` seconds."""
    LOSE = "lose"
    """`UeSettings.loss` of the datagrams it sends are lost on their way, the same ones for the same seed."""


FORBIDDEN = (
    ("P-Asserted-Identity", "<sip:+15550000000@elsewhere.example>"),
    ("P-Charging-Vector", "icid-value=forged;orig-ioi=elsewhere.example"),
    ("P-Charging-Function-Addresses", "ccf=192.0.2.1"),
    ("P-Visited-Network-ID", '"elsewhere.example"'),
    ("P-Asserted-Service", "urn:urn-7:3gpp-service.ims.icsi.mmtel"),
    ("Feature-Caps", "*;+g.3gpp.atcf"),
)
"""What a UE may not set, of `Fault.FORBIDDEN_HEADERS`."""
ANOTHER_ROUTE = "<sip:orig@192.0.2.1:5060;lr>"
"""Of `Fault.ROUTE_OF_ANOTHER`."""


def spoiled(octets: bytes) -> Key:
    """The octets with one bit turned over."""
    return Key(octets[:-1] + bytes([octets[-1] ^ 1]))


def edited(value: str) -> str:
    """A Security-* value whose first spi-s is one higher: well-formed, and not what it was."""
    changed, count = re.subn(r"(?<=spi-s=)\d+", lambda found: str(int(found[0]) + 1), value, count=1)
    return changed if count else f"{value};q=0.001"


def other_user(impi: str) -> str:
    """The IMPI, or SIP URI, with the next last digit of its user part: in the lab, the neighbour's."""
    user, at, realm = impi.partition("@")
    return f"{user[:-1]}{(int(user[-1]) + 1) % 10}{at}{realm}" if user[-1:].isdigit() else f"{user}x{at}{realm}"
