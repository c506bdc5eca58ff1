"""SIP out of captures: UDP and TCP however it was cut, in clear and in ESP, each message once."""

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from pcscf.capture.decryption import Cause, Decryption, KeyRing
from pcscf.capture.file import ETHERNET, SECOND, Interface, Packet, Reader, Writer
from pcscf.capture.sip import DECRYPTED, Seen, SipReader, Unread, read_sip
from tests.unit.capture.made import ENDS, HEAD, MAC, SIP, association, line, sealed_frames
from xfrm.algorithms import Encryption, Integrity, Pair

CBC = Pair(Integrity.HMAC_SHA_1_96, Encryption.AES_CBC)
NULL = Pair(Integrity.HMAC_SHA_1_96, Encryption.NULL)
MILLISECOND = SECOND // 1000
UE, PCSCF = ENDS[4]


def request(name: str, body: bytes = b"") -> bytes:
    head = HEAD.format(call=name, method="INVITE")
    return f"INVITE sip:{name}@home SIP/2.0\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def udp(payload: bytes, sport: int = 5060) -> bytes:
    return bytes(Ether(**MAC) / IP(src=UE, dst=PCSCF) / UDP(sport=sport, dport=5060) / Raw(payload))


def tcp(sequence: int, payload: bytes, flags: str = "A") -> bytes:
    segment = TCP(sport=40000, dport=5060, seq=sequence & 0xFFFF_FFFF, flags=flags)
    return bytes(Ether(**MAC) / IP(src=UE, dst=PCSCF) / segment / Raw(payload))


def feed(frames: Sequence[bytes], reader: SipReader | None = None, step: int = 10 * MILLISECOND) -> list[Seen | Unread]:
    sip = reader or SipReader(Decryption(KeyRing()))
    out: list[Seen | Unread] = []
    for number, frame in enumerate(frames):
        out += sip.feed(Packet(number * step, 0, frame, len(frame)), ETHERNET)
    return out


def calls(found: Sequence[Seen | Unread]) -> list[str]:
    return [each.message.first("call-id") or "" for each in found if isinstance(each, Seen)]


def test_a_datagram_with_all_its_ends() -> None:
    (found,) = feed([udp(request("one", b"v=0"), sport=31800)])
    assert isinstance(found, Seen)
    assert (str(found.source), found.source_port, str(found.destination), found.destination_port) == (
        UE, 31800, PCSCF, 5060,
    )  # fmt: skip
    assert (found.transport, found.spi, found.repeated, found.message.body) == ("UDP", 0, False, b"v=0")


def test_retransmissions_are_marked_and_copies_of_a_packet_are_not_shown() -> None:
    sip = SipReader(Decryption(KeyRing()))
    frame = udp(request("one"))
    times = (0, 1, 500 * MILLISECOND, 500 * MILLISECOND + 2, 200 * SECOND)
    found = [each for at in times for each in sip.feed(Packet(at, 0, frame, len(frame)), ETHERNET)]
    assert [(each.at, each.repeated) for each in found if isinstance(each, Seen)] == [
        (0, False), (500 * MILLISECOND, True), (200 * SECOND, False),
    ]  # fmt: skip


def test_what_is_no_sip_is_passed_over_and_what_is_bad_sip_is_told() -> None:
    rtp = bytes([0x80, 0, 0, 1]) + bytes(160)
    found = feed(
        [udp(rtp), udp(b"\r\n\r\n"), udp(b"GET / HTTP/1.1\r\n\r\n"), udp(b"INVITE sip:a@b SIP/2.0\r\nVia: x\r\n\r\n")]
    )
    assert len(found) == 1 and isinstance(found[0], Unread) and found[0].text.startswith("malformed SIP: ")
    assert found[0].source_port == 5060 and found[0].cause is None


def test_fragments_of_a_datagram() -> None:
    whole = IP(src=UE, dst=PCSCF, id=9) / UDP(sport=5060, dport=5060) / Raw(request("long", bytes(3000)))
    found = feed([bytes(Ether(**MAC) / part) for part in fragment(whole, 1400)])
    assert calls(found) == ["long"]


STREAM = b"".join(request(f"call{number}", bytes(number * 97)) for number in range(6))
WANTED = [f"call{number}" for number in range(6)]


@given(st.data())
def test_a_tcp_stream_in_any_pieces_and_order(data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(STREAM) - 1), max_size=20)))
    pieces = list(zip([0, *cuts], [*cuts, len(STREAM)], strict=True))
    again = data.draw(st.lists(st.sampled_from(pieces), max_size=5))
    order = data.draw(st.permutations(pieces + again))
    start = data.draw(st.sampled_from([1, 1000, 0xFFFF_FFF0]))
    frames = [tcp(start - 1, b"", "S"), *(tcp(start + first, STREAM[first:end]) for first, end in order)]
    assert calls(feed(frames)) == WANTED


def test_a_stream_joined_in_its_middle_and_one_with_a_gap() -> None:
    half = len(request("call0")) // 2
    later = len(request("call0", b""))
    frames = [tcp(100 + half, STREAM[half:later]), tcp(100 + later, STREAM[later:])]
    assert calls(feed(frames)) == WANTED[1:], "from where a segment begins with a start line"
    first, lost, after = request("first"), request("lost"), request("after")
    gap = [tcp(0, b"", "S"), tcp(1, first), tcp(1 + len(first) + len(lost), after)]
    sip = SipReader(Decryption(KeyRing()))
    assert calls(feed(gap, sip)) == ["first"], "the segment may still come"
    assert calls(list(sip.finish())) == ["after"]
    last = tcp(1 + len(first) + len(lost) + len(after), request("later"))
    assert calls(feed([*gap, last], step=3 * SECOND)) == ["first", "after", "later"], "it is too late for it"
    many = [tcp(1 + len(first) + len(lost) + number * len(after), after) for number in range(64)]
    assert calls(feed([*gap[:2], *many])) == ["first", *["after"] * 64], "no more is kept"


def test_esp_with_keys_without_and_with_wrong_ones() -> None:
    sa = association(CBC, 4)
    frames = sealed_frames(sa, 2)
    (first, second) = feed(frames, SipReader(Decryption(KeyRing([line(sa)]))))
    assert isinstance(first, Seen) and first.spi == sa.spi and first.message.to_bytes() == SIP
    assert isinstance(second, Seen) and second.repeated
    found = feed(frames)
    assert [each.cause for each in found if isinstance(each, Unread)] == [Cause.UNKNOWN_SPI] * 2
    found = feed(frames, SipReader(Decryption(KeyRing([line(association(CBC, 4, seed=3))]))))
    assert [each.cause for each in found if isinstance(each, Unread)] == [Cause.BAD_ICV] * 2
    (found_null,) = feed(sealed_frames(association(NULL, 4), 1))
    assert isinstance(found_null, Seen)
    replayed = feed([frames[0], frames[0]], SipReader(Decryption(KeyRing([line(sa)]))))
    assert len(replayed) == 1, "a packet that the capture shows twice is no second message"


@pytest.mark.parametrize("keys", [False, True])
def test_a_capture_of_both_views_shows_each_message_once(tmp_path: Path, keys: bool) -> None:
    sa = association(NULL, 4)
    stream = io.BytesIO()
    views = [Interface(link=ETHERNET, name="gm"), Interface(link=ETHERNET, name="gm-2", description=DECRYPTED)]
    writer = Writer(stream, views)
    frames = sealed_frames(sa, 3, request("inside"))
    for number, frame in enumerate(frames):
        at = number * 700 * MILLISECOND
        writer.write(Packet(at, 0, frame, len(frame)))
        if number != 1:
            inside = udp(request(f"inside{number}"))
            writer.write(Packet(at, 1, inside, len(inside), f"SA {sa.spi} and more"))
    (tmp_path / "x").write_bytes(stream.getvalue())
    with Reader(tmp_path / "x") as reader:
        ring = KeyRing([line(sa)]) if keys else KeyRing()
        found = list(read_sip(reader, Decryption(ring)))
    assert calls(found) == ["inside0", "inside", "inside2"]
    assert {each.spi for each in found} == {sa.spi}


def test_memory_for_strangers_is_bounded() -> None:
    sip = SipReader(Decryption(KeyRing()))
    for number in range(6000):
        frame = bytearray(tcp(1, b"", "S"))
        frame[34:36] = number.to_bytes(2, "big")
        list(sip.feed(Packet(number, 0, bytes(frame), len(frame)), ETHERNET))
    assert len(sip._streams) <= 4096
