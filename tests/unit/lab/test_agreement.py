"""What a strict handset takes of Security-Server, and what it says about the rest (digest A11, C11)."""

import pytest

from pcscf.lab.agreement import Offer, read_server
from xfrm.algorithms import Pair

NUMBERS = "spi-c=1000000001;spi-s=1000000002;port-c=5104;port-s=5100"
CBC = f"ipsec-3gpp;alg=hmac-sha-1-96;ealg=aes-cbc;prot=esp;mod=trans;{NUMBERS}"
NULL = f"ipsec-3gpp;alg=hmac-sha-1-96;{NUMBERS}"
GCM = f"ipsec-3gpp;alg=null;ealg=aes-gcm;prot=esp;mod=trans;{NUMBERS}"
OFFER = Offer(
    spi_uc=1001,
    spi_us=1002,
    port_uc=31800,
    port_us=31801,
    pairs=(Pair.parse("hmac-sha-1-96/aes-cbc"), Pair.parse("hmac-sha-1-96/null")),
)


@pytest.mark.parametrize(
    ("values", "pair"),
    [
        ([CBC, NULL], "hmac-sha-1-96/aes-cbc"),
        ([NULL, CBC], "hmac-sha-1-96/null"),  # its order, not ours
        ([GCM, CBC], "hmac-sha-1-96/aes-cbc"),  # not offered, passed over
        (["tls", NULL], "hmac-sha-1-96/null"),
        ([f"{CBC};q=0.2", f"{NULL};q=0.1"], "hmac-sha-1-96/aes-cbc"),
        (["IPSEC-3GPP ; ALG = HMAC-SHA-1-96 ; " + NUMBERS.upper()], "hmac-sha-1-96/null"),
    ],
)
def test_the_first_usable_entry_is_taken(values: list[str], pair: str) -> None:
    agreed, complaints = read_server(values, OFFER)
    assert agreed is not None and str(agreed.pair) == pair
    assert (agreed.spi_pc, agreed.spi_ps, agreed.port_pc, agreed.port_ps) == (1000000001, 1000000002, 5104, 5100)
    assert complaints == []


def test_the_highest_q_wins_over_the_order() -> None:
    agreed, complaints = read_server([f"{CBC};q=0.1", f"{NULL};q=0.2"], OFFER)
    assert agreed is not None and str(agreed.pair) == "hmac-sha-1-96/null"
    assert complaints == ["Security-Server is not in the order of its q values"]


@pytest.mark.parametrize(
    ("values", "words", "usable"),
    [
        ([f"{CBC};protocol=udp"], "protocol is no parameter", True),
        ([f"{CBC};alg=hmac-md5-96"], "alg is there twice", True),
        ([CBC, NULL.replace("5100", "5101")], "different SPIs or ports", True),
        ([CBC.replace("1000000001", "1001")], "an SPI of ours", True),
        ([CBC.replace("1000000001", "255")], "spi-c=255", False),
        ([CBC.replace("1000000001", "1000000002")], "one SPI", False),
        ([CBC.replace("5100", "5060")], "5060", False),
        ([CBC.replace(";port-s=5100", "")], "port-s=(absent)", False),
        ([CBC.replace("mod=trans", "mod=tun")], "transport mode", False),
        ([CBC.replace("aes-cbc", "aes-gcm")], "not a pair", False),
        ([CBC.replace("aes-cbc", "chacha")], "chacha", False),
        ([CBC.replace("alg=hmac-sha-1-96;", "")], "alg is missing", False),
        ([f"{CBC};q=2"], "q=2", False),
        ([f"{CBC};q=high"], "high", False),
        (["=;"], "no security mechanism", False),
        ([], "no Security-Server", False),
    ],
)
def test_what_is_wrong_is_said(values: list[str], words: str, usable: bool) -> None:
    agreed, complaints = read_server(values, OFFER)
    assert (agreed is not None) == usable
    assert len(complaints) == 1 and words in complaints[0], complaints
