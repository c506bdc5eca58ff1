"""HEPv3 packets, chunk by chunk, and what never goes into one."""

import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from pcscf.hep import Mirror, hep
from pcscf.sip.message import Request, header
from pcscf.sip.parse import parse
from pcscf.vocabulary import Flow, Interface

UE, PCSCF, CORE = ip_address("10.45.0.2"), ip_address("10.45.0.1"), ip_address("10.46.0.2")
GM = Flow("UDP", Interface.GM_PROTECTED, PCSCF, 5100, UE, 31800)
MW = Flow("TCP", Interface.MW, ip_address("fd00:46::1"), 5060, ip_address("fd00:46::2"), 5070)
HEAD = b"Via: SIP/2.0/UDP h;branch=z9hG4bKa\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:b@b>\r\nCall-ID: one@two\r\n"
REQUEST = parse(b"MESSAGE sip:a@b SIP/2.0\r\n" + HEAD + b"CSeq: 1 MESSAGE\r\nContent-Length: 2\r\n\r\nhi")
CHALLENGE = parse(
    b"SIP/2.0 401 Unauthorized\r\n" + HEAD + b"CSeq: 1 REGISTER\r\n"
    b'WWW-Authenticate: Digest realm="r",nonce="n",algorithm=AKAv1-MD5,ck="00112233445566778899aabbccddeeff",'
    b'IK = "ffeeddccbbaa99887766554433221100"\r\nContent-Length: 0\r\n\r\n'
)


def chunks(packet: bytes) -> dict[int, bytes]:
    """Type -> value; checks every length."""
    assert packet[:4] == b"HEP3" and int.from_bytes(packet[4:6], "big") == len(packet)
    found, at = {}, 6
    while at < len(packet):
        vendor, kind, length = struct.unpack_from("!HHH", packet, at)
        assert vendor == 0 and length >= 6 and kind not in found
        found[kind] = packet[at + 6 : at + length]
        at += length
    assert at == len(packet)
    return found


def test_a_message_from_a_ue() -> None:
    found = chunks(hep(GM, REQUEST, incoming=True, at=1_700_000_000.25, fixed=b""))
    assert found == {
        1: b"\x02",
        2: b"\x11",
        3: UE.packed,
        4: PCSCF.packed,
        7: (31800).to_bytes(2, "big"),
        8: (5100).to_bytes(2, "big"),
        9: (1_700_000_000).to_bytes(4, "big"),
        10: (250_000).to_bytes(4, "big"),
        17: b"one@two",
        15: REQUEST.to_bytes(),
    }


def test_a_message_to_the_core_over_tcp_and_ipv6() -> None:
    found = chunks(hep(MW, REQUEST, incoming=False, at=0, fixed=b""))
    assert (found[1], found[2]) == (b"\x0a", b"\x06")
    assert (found[5], found[6]) == (MW.local.packed, MW.remote.packed)
    assert (found[7], found[8]) == ((5060).to_bytes(2, "big"), (5070).to_bytes(2, "big"))


@pytest.fixture
def collector() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(5)
        yield made


def test_the_mirror_sends_both_ways_and_hides_keys(collector: socket.socket) -> None:
    mirror = Mirror(ip_address("127.0.0.1"), collector.getsockname()[1], capture_id=77, password="secret")
    assert isinstance(REQUEST, Request)
    mirror.received(REQUEST, GM)
    found = chunks(collector.recv(65_536))
    assert (found[11], found[12], found[14]) == (b"\x01", (77).to_bytes(4, "big"), b"secret")
    mirror.received(CHALLENGE, MW)
    mirror.leaving(CHALLENGE.to_bytes(), MW)
    for _ in range(2):
        packet = collector.recv(65_536).lower()
        assert b'nonce="n"' in packet
        assert b"00112233" not in packet and b"ffeeddcc" not in packet and b"ik" not in packet
    assert (mirror.sent, mirror.lost) == (3, 0)
    mirror.close()


def test_a_collector_that_is_gone_is_told_once(caplog: pytest.LogCaptureFixture, collector: socket.socket) -> None:
    port = collector.getsockname()[1]
    collector.close()
    mirror = Mirror(ip_address("127.0.0.1"), port, capture_id=1, password="")
    with caplog.at_level("WARNING"):
        for _ in range(4):
            mirror.leaving(REQUEST.to_bytes(), GM)
    assert len([each for each in caplog.records if "messages are missing there" in each.message]) == 1
    mirror.close()


def test_what_no_packet_can_hold_is_lost_and_told_once(
    caplog: pytest.LogCaptureFixture, collector: socket.socket
) -> None:
    """Step 1, 14: a length of more than 16 bits was raised, and the message itself never served."""
    mirror = Mirror(ip_address("127.0.0.1"), collector.getsockname()[1], capture_id=1, password="")
    assert isinstance(REQUEST, Request)
    names = [header("X-Long", "x" * 65_536), header("Call-ID", "c" * 65_530), header("X", "x" * 65_300)]
    for each in names:
        large = REQUEST.with_headers([item for item in REQUEST.headers if item.name != each.name.lower()] + [each])
        mirror.received(large, GM)
        mirror.leaving(large.to_bytes(), GM)
    mirror.received(Request(method="A", uri="b", headers=REQUEST.headers, body=bytes(70_000)), GM)
    assert mirror.sent == 0 and mirror.lost >= 4
    assert len([each for each in caplog.records if "Message too long for HEP" in each.message]) <= 1
    mirror.received(REQUEST, GM)
    assert mirror.sent == 1 and chunks(collector.recv(65_536))
    mirror.close()
