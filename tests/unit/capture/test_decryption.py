"""ESP of a capture opened as scapy opens it, and for each packet that stays shut the right reason."""

import random
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from pcscf.capture.decryption import Cause, Closed, Decryption, KeyRing, Opened
from pcscf.capture.frames import Datagram, Reassembly
from tests.unit.capture.made import ENDS, MAC, SIP, association, datagram, line, scapy_association
from xfrm.algorithms import VALID_PAIRS, Encryption, Integrity, Pair
from xfrm.esp import Sealer
from xfrm.model import Key
from xfrm.wireshark import read

PAIRS = sorted(VALID_PAIRS)
NULL = Pair(Integrity.HMAC_SHA_1_96, Encryption.NULL)
CBC = Pair(Integrity.HMAC_SHA_1_96, Encryption.AES_CBC)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("transport", [UDP, TCP], ids=["udp", "tcp"])
def test_the_plaintext_is_what_scapy_sealed(pair: Pair, version: int, transport: Any) -> None:
    sa = association(pair, version)
    source, destination = ENDS[version]
    network: Any = IP if version == 4 else IPv6
    clear = network(src=source, dst=destination) / transport(sport=31800, dport=5100) / Raw(SIP)
    clear = network(bytes(clear))  # with its checksums
    sealed = scapy_association(sa).encrypt(clear)
    found = Reassembly().feed(1, bytes(Ether(**MAC) / sealed))
    assert isinstance(found, Datagram)
    opened = Decryption(KeyRing([line(sa)])).open(found)
    assert isinstance(opened, Opened) and opened.line == line(sa) and opened.spi == sa.spi
    assert opened.payload == bytes(clear[transport])
    assert found.frame(opened.protocol, opened.payload)[14:] == bytes(clear), "the packet as it was"


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_who_has_other_keys_is_told(pair: Pair) -> None:
    sa, other = association(pair, 4), association(pair, 4, seed=9)
    decryption = Decryption(KeyRing([line(other)]))
    assert decryption.open(datagram(sa, Sealer(sa).seal(SIP, 17))) == Closed(Cause.BAD_ICV, sa.spi)
    assert decryption.opened == 0


def test_the_newest_of_several_keys_for_an_spi_is_tried_first() -> None:
    old, new = association(CBC, 4, seed=1), association(CBC, 4, seed=2)
    decryption = Decryption(KeyRing([line(old), line(new)]))
    sealers = Sealer(old), Sealer(new)
    for sealer, sa in zip(sealers * 2, (old, new) * 2, strict=True):
        found = decryption.open(datagram(sa, sealer.seal(SIP, 17)))
        assert isinstance(found, Opened) and found.line == line(sa)
    assert not decryption.shut


def test_a_packet_that_came_before_is_replayed() -> None:
    sa = association(CBC, 4)
    sealer, decryption = Sealer(sa), Decryption(KeyRing([line(sa)]))
    packets = [datagram(sa, sealer.seal(SIP, 17)) for _ in range(500)]
    random.Random(1).shuffle(packets)
    assert all(isinstance(decryption.open(packet), Opened) for packet in packets), "in any order of the file"
    assert decryption.open(packets[0]) == Closed(Cause.REPLAYED, sa.spi)


def test_unknown_spi_addresses_and_damage() -> None:
    sa = association(CBC, 4)
    sealed = Sealer(sa).seal(SIP, 17)
    decryption = Decryption(KeyRing([line(association(CBC, 4, spi=sa.spi + 1))]))
    assert decryption.open(datagram(sa, sealed)) == Closed(Cause.UNKNOWN_SPI, sa.spi)
    known = Decryption(KeyRing([line(sa)]))
    elsewhere = datagram(sa, sealed)._replace(destination=ip_address("10.9.9.9").packed)
    assert known.open(elsewhere) == Closed(Cause.UNKNOWN_SPI, sa.spi)
    assert known.open(datagram(sa, sealed[:-1])) == Closed(Cause.MALFORMED, sa.spi)
    assert known.open(datagram(sa, sealed)._replace(cut=True)) == Closed(Cause.CUT, sa.spi)
    assert known.open(datagram(sa, b"abc")).cause is Cause.MALFORMED  # type: ignore[union-attr]
    assert isinstance(known.open(datagram(sa, sealed)), Opened)
    assert {cause for cause, *_ in known.shut} == {Cause.UNKNOWN_SPI, Cause.MALFORMED, Cause.CUT}


@pytest.mark.parametrize(
    ("columns", "opens"),
    [
        ('"IPv4","*","*","{spi}","AES-CBC [RFC3602]","{ck}","HMAC-SHA-1-96 [RFC2404]","{ik}"', True),
        ('"IPv4","*","*","*","AES-CBC [RFC3602]","{ck}","HMAC-SHA-1-96 [RFC2404]","{ik}"', True),
        ('"IPv4","*","*","{spi}","AES-CBC [RFC3602]","{ck}","ANY 96 bit authentication [no checking]",""', True),
        ('"IPv6","*","*","*","AES-CBC [RFC3602]","{ck}","HMAC-SHA-1-96 [RFC2404]","{ik}"', False),
        ('"IPv4","*","10.0.0.9","*","AES-CBC [RFC3602]","{ck}","HMAC-SHA-1-96 [RFC2404]","{ik}"', False),
        ('"IPv4","*","*","{spi}","AES-CBC [RFC3602]","{ck}","ANY 128 bit authentication [no checking]",""', False),
    ],
)
def test_lines_that_leave_something_open(columns: str, opens: bool) -> None:
    sa = association(CBC, 4)
    keys = {"ck": f"0x{sa.encryption_key.hex()}", "ik": f"0x{sa.integrity_key.hex()}", "spi": str(sa.spi)}
    lines, complaints = read(columns.format(**keys))
    assert not complaints
    found = Decryption(KeyRing(lines)).open(datagram(sa, Sealer(sa).seal(SIP, 17)))
    assert isinstance(found, Opened) is opens
    assert not isinstance(found, Opened) or found.payload == SIP


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.encryption is Encryption.NULL], ids=str)
def test_null_encryption_needs_no_keys(pair: Pair) -> None:
    sa = association(pair, 4)
    segment = bytes(UDP(sport=31800, dport=5100) / Raw(SIP))
    decryption = Decryption(KeyRing())
    found = decryption.open(datagram(sa, Sealer(sa).seal(segment, 17)))
    assert found == Opened(17, segment, sa.spi, None)
    assert decryption.unchecked == decryption.opened == 1
    closed = Decryption(KeyRing(), null_without_keys=False).open(datagram(sa, Sealer(sa).seal(segment, 17)))
    assert closed == Closed(Cause.UNKNOWN_SPI, sa.spi)


def test_encryption_is_not_taken_for_null() -> None:
    sa = association(CBC, 4)
    sealer, decryption = Sealer(sa), Decryption(KeyRing())
    chance = random.Random(3)
    for _ in range(5000):
        decryption.open(datagram(sa, sealer.seal(chance.randbytes(chance.randrange(20, 300)), 17)))
        decryption.open(datagram(sa, chance.randbytes(chance.randrange(20, 300))))
    assert decryption.opened <= 1


def test_keys_that_come_later_open_what_comes_later() -> None:
    sa = association(NULL, 4)
    sealer, ring = Sealer(sa), KeyRing()
    decryption = Decryption(ring, null_without_keys=False)
    assert isinstance(decryption.open(datagram(sa, sealer.seal(SIP, 17))), Closed)
    assert ring.add([line(sa)]) == 1 and ring.add([line(sa)]) == 0 and len(ring) == 1
    assert isinstance(decryption.open(datagram(sa, sealer.seal(SIP, 17))), Opened)


def test_keys_do_not_show() -> None:
    sa = association(CBC, 4)
    text = f"{line(sa)!r} {line(sa)}"
    assert sa.encryption_key.hex() not in text and isinstance(line(sa).encryption_key, Key)
