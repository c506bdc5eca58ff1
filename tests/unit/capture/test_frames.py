"""The datagram in a frame of every link, and fragments put together again; scapy makes them."""

import itertools
import random
from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP, UDP, IPOption_Router_Alert, fragment
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    fragment6,
)
from scapy.layers.ipsec import ESP as ScapyEsp
from scapy.layers.l2 import CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Ether, Loopback
from scapy.packet import Packet, Raw

from pcscf.capture.frames import ESP, HELD, UNFINISHED, Datagram, Reassembly
from pcscf.capture.frames import UDP as UDP_NUMBER

FOUR = IP(src="10.45.0.2", dst="10.45.0.1")
SIX = IPv6(src="fd00:45::2", dst="fd00:45::1")
BODY = UDP(sport=1000, dport=2000) / Raw(b"payload")
MAC = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}


def whole(link: int, frame: Packet) -> Datagram:
    found = Reassembly().feed(link, bytes(frame))
    assert isinstance(found, Datagram)
    return found


@pytest.mark.parametrize("network", [FOUR, SIX], ids=["4", "6"])
@pytest.mark.parametrize(
    ("link", "before"),
    [
        (1, Ether(**MAC)),
        (1, Ether(**MAC) / Dot1Q(vlan=5)),
        (1, Ether(**MAC) / Dot1AD(vlan=5) / Dot1Q(vlan=6)),
        (113, CookedLinux()),
        (276, CookedLinuxV2()),
        (0, Loopback()),
        (101, None),
    ],
    ids=["ethernet", "vlan", "qinq", "sll", "sll2", "null", "raw"],
)
def test_every_link(link: int, before: Packet | None, network: Packet) -> None:
    frame = network / BODY if before is None else before / network / BODY
    found = whole(link, frame)
    assert found.addresses == (ip_address(network.src), ip_address(network.dst))
    assert (found.protocol, found.payload, found.cut) == (UDP_NUMBER, bytes(frame[UDP]), False)
    assert found.link + found.header + found.payload == bytes(frame)


def test_padding_of_a_short_frame_is_no_payload() -> None:
    frame = bytes(Ether(**MAC) / FOUR / UDP() / Raw(b"x"))
    found = Reassembly().feed(1, frame + bytes(40))
    assert isinstance(found, Datagram) and found.payload == frame[34:] and not found.cut
    found = Reassembly().feed(1, frame[:-1])
    assert isinstance(found, Datagram) and found.cut


@pytest.mark.parametrize(
    "headers",
    [
        IPv6ExtHdrHopByHop(),
        IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(addresses=["fd00::9"]),
        IPv6ExtHdrDestOpt(),
        IPv6ExtHdrFragment(id=7),
    ],
)
def test_extension_headers_are_passed_and_kept(headers: Packet) -> None:
    found = whole(1, Ether(**MAC) / SIX / headers / ScapyEsp(spi=5, seq=1, data=b"abcd"))
    assert found.protocol == ESP and found.payload[:4] == bytes((0, 0, 0, 5))
    opened = Ether(found.frame(UDP_NUMBER, bytes(BODY)))
    assert opened.haslayer(UDP) and bytes(opened[UDP]) == bytes(BODY)
    assert opened[IPv6].plen == len(bytes(opened)) - 54


def test_a_rewritten_ipv4_header_is_sound() -> None:
    options = IP(src="10.45.0.2", dst="10.45.0.1", options=[IPOption_Router_Alert()], tos=0xB8, ttl=7)
    found = whole(1, Ether(**MAC) / options / ScapyEsp(spi=5, seq=1, data=b"abcd"))
    opened = Ether(found.frame(UDP_NUMBER, bytes(BODY)))
    assert (opened[IP].tos, opened[IP].ttl, opened[IP].proto, opened[IP].ihl) == (0xB8, 7, 17, 6)
    again = opened[IP].copy()
    del again.chksum, again.len
    again = IP(bytes(again))
    assert (again.chksum, again.len) == (opened[IP].chksum, opened[IP].len)


def fragments(version: int, payload: bytes) -> list[bytes]:
    if version == 4:
        datagram = IP(src="10.45.0.2", dst="10.45.0.1", id=77) / UDP(sport=1, dport=2) / Raw(payload)
        return [bytes(Ether(**MAC) / each) for each in fragment(datagram, 1000)]
    datagram = SIX / IPv6ExtHdrFragment(id=77) / UDP(sport=1, dport=2) / Raw(payload)
    return [bytes(Ether(**MAC) / each) for each in fragment6(datagram, 1048)]


@pytest.mark.parametrize("version", [4, 6])
def test_fragments_in_every_order(version: int) -> None:
    payload = random.Random(1).randbytes(2900)
    parts = fragments(version, payload)
    assert len(parts) == 3
    for order in itertools.permutations(range(3)):
        reassembly = Reassembly()
        results = [reassembly.feed(1, parts[place], place) for place in order]
        assert results[:2] == [HELD, HELD]
        found = results[2]
        assert isinstance(found, Datagram) and found.payload[8:] == payload
        assert found.parts == order and not list(reassembly.abandoned(all_of_them=True))
        opened = Ether(found.frame(UDP_NUMBER, found.payload))
        assert bytes(opened[UDP].payload) == payload, "one whole datagram"


@pytest.mark.parametrize("version", [4, 6])
def test_fragments_that_lack_one_are_given_back(version: int) -> None:
    first, second, third = fragments(version, bytes(2900))
    reassembly = Reassembly()
    assert reassembly.feed(1, first, "a") is HELD and reassembly.feed(1, third, "b") is HELD
    assert reassembly.feed(1, first, "again") is HELD, "a copy changes nothing"
    assert list(reassembly.abandoned()) == []
    assert list(reassembly.abandoned(all_of_them=True)) == ["a", "b", "again"] and reassembly.incomplete == 1
    assert reassembly.feed(1, second, "late") is HELD


def test_overlapping_fragments_are_not_believed() -> None:
    def part(offset: int, more: bool, payload: bytes) -> bytes:
        return bytes(Ether(**MAC) / IP(id=9, proto=17, frag=offset // 8, flags=int(more)) / Raw(payload))

    reassembly = Reassembly()
    assert reassembly.feed(1, part(0, True, bytes(16))) is HELD
    assert reassembly.feed(1, part(8, True, b"\xff" * 16)) is HELD
    assert reassembly.feed(1, part(24, False, bytes(8))) is HELD


def test_what_is_waited_for_is_bounded() -> None:
    reassembly = Reassembly()
    for number in range(UNFINISHED + 10):
        frame = Ether(**MAC) / IP(id=number, flags=1, proto=17) / Raw(bytes(16))
        assert reassembly.feed(1, bytes(frame), number) is HELD
    assert list(reassembly.abandoned()) == list(range(10)) and reassembly.incomplete == 10
    endless = Reassembly()
    for number in range(1000):
        endless.feed(
            1, bytes(Ether(**MAC) / IP(id=1, flags=1, proto=17, frag=2 * number % 8000) / Raw(bytes(16))), number
        )
    assert endless.incomplete > 0


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0" * 13,
        bytes(Ether(**MAC, type=0x0806)) + bytes(28),
        bytes(Ether(**MAC)) + b"\x45" + bytes(30),
        bytes(Ether(**MAC, type=0x86DD)) + b"\x60" + bytes(5) + bytes((44, 1)) + bytes(32),
    ],
)
def test_what_is_no_sound_ip_is_nothing(frame: bytes) -> None:
    found = Reassembly().feed(1, frame)
    assert found is None or (isinstance(found, Datagram) and len(found.payload) <= len(frame))
