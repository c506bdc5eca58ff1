"""What the lab's witness sees on the wire: ESP by SPI, clear packets at protected ports, SIP outside ESP."""

from collections import Counter
from ipaddress import ip_address

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.ipsec import ESP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from pcscf.lab.capture import clear_sip, tally
from xfrm.model import SaId

UE, PCSCF = "10.45.0.2", "10.45.0.1"
SIP = b"MESSAGE sip:bob@home SIP/2.0\r\nVia: SIP/2.0/UDP 10.45.0.2\r\n\r\n"
PROTECTED = {ip_address(PCSCF): frozenset({5100})}


def frame(packet: Packet) -> bytes:
    return bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet)


def udp(port: int, payload: bytes = b"hello") -> bytes:
    return frame(IP(src=UE, dst=PCSCF) / UDP(sport=31800, dport=port) / Raw(payload))


def esp(payload: bytes = b"") -> bytes:
    return frame(IP(src=UE, dst=PCSCF, proto=50) / ESP(spi=77, seq=1, data=payload))


def test_esp_is_counted_by_destination_and_spi() -> None:
    assert tally([esp(), esp(), udp(5060)], PROTECTED) == (Counter({SaId(ip_address(PCSCF), 77): 2}), [])


def test_a_fragment_counts_with_its_first() -> None:
    later = frame(IP(src=UE, dst=PCSCF, proto=50, frag=100) / Raw(b"\0\0\0\x4drest"))
    assert tally([esp(), later], PROTECTED)[0].total() == 1


def test_a_clear_packet_at_a_protected_port_is_named() -> None:
    _, clear = tally([udp(5100), udp(5060)], PROTECTED)
    assert clear == ["UDP 10.45.0.2 port 31800 to 10.45.0.1 port 5100"]


def test_sip_in_clear_is_seen_over_udp_and_tcp_and_both_families() -> None:
    tcp = frame(IP(src=UE, dst=PCSCF) / TCP(sport=31800, dport=5060) / Raw(b"SIP/2.0 401 Unauthorized\r\n\r\n"))
    six = frame(IPv6(src="fd00:45::2", dst="fd00:45::1") / UDP(sport=1, dport=2) / Raw(SIP))
    assert clear_sip([udp(5060, SIP), tcp, six, udp(5060)]) == [
        "MESSAGE sip:bob@home SIP/2.0",
        "SIP/2.0 401 Unauthorized",
        "MESSAGE sip:bob@home SIP/2.0",
    ]


def test_sip_inside_esp_without_encryption_is_not_in_clear() -> None:
    fragment = frame(IPv6(src="fd00:45::2", dst="fd00:45::1") / IPv6ExtHdrFragment(nh=50, offset=100) / Raw(SIP))
    later = frame(IP(src=UE, dst=PCSCF, proto=50, frag=100) / Raw(SIP))
    six = frame(IPv6(src="fd00:45::2", dst="fd00:45::1", nh=50) / ESP(spi=77, seq=1, data=SIP))
    assert not clear_sip([esp(SIP), fragment, later, six])
