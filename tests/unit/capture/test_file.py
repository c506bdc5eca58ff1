"""Capture files of every make read alike, ours read by us, and damaged ones told apart without a traceback."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import PcapNgWriter, wrpcap

from pcscf.capture.file import ETHERNET, RAW, CaptureError, Interface, Packet, Reader, Writer

AT = 1_700_000_000_123_456_789
FRAMES = (b"\x01" * 60, b"\x02" * 61, b"\x03" * 1500)


def pcap(order: str, *, nanoseconds: bool, frames: tuple[bytes, ...] = FRAMES) -> bytes:
    """A classic capture file of either byte order and resolution."""
    out = struct.pack(f"{order}IHHiIII", 0xA1B23C4D if nanoseconds else 0xA1B2C3D4, 2, 4, 0, 0, 65_535, ETHERNET)
    fraction = AT % 1_000_000_000 if nanoseconds else AT % 1_000_000_000 // 1000
    for frame in frames:
        out += struct.pack(f"{order}IIII", AT // 1_000_000_000, fraction, len(frame), len(frame) + 4) + frame
    return out


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    total = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + total + body + total


def option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(f"{order}HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str, link: int, *options: bytes) -> bytes:
    return block(order, 1, struct.pack(f"{order}HHI", link, 0, 0) + b"".join(options))


def enhanced(order: str, index: int, ticks: int, frame: bytes, *options: bytes) -> bytes:
    head = struct.pack(f"{order}IIIII", index, ticks >> 32, ticks & 0xFFFF_FFFF, len(frame), len(frame))
    return block(order, 6, head + frame + bytes(-len(frame) % 4) + b"".join(options))


def read(path: Path, data: bytes) -> tuple[list[Packet], Reader]:
    path.write_bytes(data)
    with Reader(path) as reader:
        return list(reader), reader


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nanoseconds", [False, True])
def test_classic_files_of_both_orders_and_resolutions(tmp_path: Path, order: str, nanoseconds: bool) -> None:
    packets, reader = read(tmp_path / "x.pcap", pcap(order, nanoseconds=nanoseconds))
    assert [packet.data for packet in packets] == list(FRAMES)
    assert {packet.at for packet in packets} == {AT if nanoseconds else AT // 1000 * 1000}
    assert packets[0].length == 64 and reader.interfaces == [Interface(link=ETHERNET)]
    assert reader.damage == "" and reader.position == reader.size


@pytest.mark.parametrize("order", ["<", ">"])
def test_several_sections_interfaces_and_resolutions(tmp_path: Path, order: str) -> None:
    data = (
        section(order)
        + interface(order, ETHERNET, option(order, 2, b"gm"), option(order, 3, b"phones"))
        + interface(order, RAW, option(order, 9, b"\x09"))
        + interface(order, RAW, option(order, 9, b"\x8a"), option(order, 14, struct.pack(f"{order}q", 100)))
        + enhanced(order, 0, 5_000_000, b"first", option(order, 1, "ein Wort – two".encode()))
        + enhanced(order, 1, 7, b"second")
        + block(order, 0xBAD, b"somebody's own block")
        + enhanced(order, 2, 512, b"third")
        + section(">" if order == "<" else "<")
        + interface(">" if order == "<" else "<", ETHERNET)
        + enhanced(">" if order == "<" else "<", 0, 1, b"fourth")
    )
    packets, reader = read(tmp_path / "x.pcapng", data)
    assert [(packet.at, packet.interface, packet.data, packet.comment) for packet in packets] == [
        (5_000_000_000, 0, b"first", "ein Wort – two"),
        (7, 1, b"second", ""),
        (100_500_000_000, 2, b"third", ""),
        (1000, 3, b"fourth", ""),
    ]
    assert reader.interfaces[0] == Interface(link=ETHERNET, name="gm", description="phones")
    assert len(reader.interfaces) == 4 and not reader.damage


def test_old_kinds_of_packet_blocks(tmp_path: Path) -> None:
    simple = block("<", 3, struct.pack("<I", 100) + b"simple--")
    obsolete = block("<", 2, struct.pack("<HHIIII", 0, 0, 0, 9, 3, 3) + b"old")
    packets, reader = read(tmp_path / "x", section("<") + interface("<", ETHERNET) + simple + obsolete)
    assert [(packet.at, packet.data, packet.length) for packet in packets] == [(0, b"simple--", 100), (9000, b"old", 3)]
    assert not reader.damage


def test_what_scapy_writes_is_read(tmp_path: Path) -> None:
    frames = [Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / UDP() / Raw(bytes(count)) for count in range(5)]
    for frame in frames:
        frame[Ether].dst = frame[Ether].src = "00:00:00:00:00:01"
    wrpcap(str(tmp_path / "a.pcap"), frames)
    writer = PcapNgWriter(str(tmp_path / "b.pcapng"))
    writer.write(frames)
    writer.close()
    for name in ("a.pcap", "b.pcapng"):
        with Reader(tmp_path / name) as reader:
            assert [packet.data for packet in reader] == [bytes(frame) for frame in frames]


def test_what_we_write_we_read(tmp_path: Path) -> None:
    stream = io.BytesIO()
    writer = Writer(stream, [Interface(link=ETHERNET, name="gm", description="a")], comment="made by us")
    writer.write(Packet(AT, 0, b"odd", 3, "a comment"))
    writer.add_interface(Interface(link=RAW))
    writer.write(Packet(AT + 1, 1, b"", 70))
    packets, reader = read(tmp_path / "x", stream.getvalue())
    assert packets == [Packet(AT, 0, b"odd", 3, "a comment"), Packet(AT + 1, 1, b"", 70)]
    assert reader.interfaces == [Interface(link=ETHERNET, name="gm", description="a"), Interface(link=RAW)]


def ours() -> bytes:
    stream = io.BytesIO()
    writer = Writer(stream, [Interface(link=ETHERNET, name="gm")])
    for number, frame in enumerate(FRAMES[:2]):
        writer.write(Packet(AT + number, 0, frame, len(frame), "comment"))
    return stream.getvalue()


@pytest.mark.parametrize("whole", [ours, lambda: pcap("<", nanoseconds=True, frames=FRAMES[:2])])
def test_a_file_cut_at_any_place_gives_what_is_there(tmp_path: Path, whole: Callable[[], bytes]) -> None:
    data, path = whole(), tmp_path / "cut"
    complete, _ = read(path, data)
    for end in range(len(data)):
        path.write_bytes(data[:end])
        try:
            with Reader(path) as reader:
                packets = list(reader)
        except CaptureError as error:
            assert end < 4 and "neither pcap nor pcapng" in str(error)
            continue
        assert packets == complete[: len(packets)]
        assert len(packets) < len(complete)
        if reader.damage:
            assert "cut off" in reader.damage, (end, reader.damage)
        else:
            assert reader.position == end, "it may end between two packets"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (section("<") + enhanced("<", 0, 0, b"x"), "unknown interface"),
        (section("<") + block("<", 1, b"abc"), "interface block 2 is too short"),
        (section("<") + struct.pack("<III", 6, 0xFFFFFFFC, 0), "claims 4294967292 octets"),
        (section("<") + struct.pack("<III", 6, 13, 0), "claims 13 octets"),
        (section("<") + block("<", 5, b"")[:-4] + b"abcd", "ends with another length"),
        (section("<")[:8] + b"what" + section("<")[12:], "unknown byte order"),
        (pcap("<", nanoseconds=True)[:32] + b"\xff" * 40, "packet 1 claims 4294967295 octets"),
    ],
)
def test_damage_is_described(tmp_path: Path, data: bytes, words: str) -> None:
    packets, reader = read(tmp_path / "x", data)
    assert words in reader.damage and packets == []


@pytest.mark.parametrize(("data", "words"), [(b"", "it is empty"), (b"#!/bin/sh\n", "it begins with 23 21 2f 62")])
def test_no_capture_at_all(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(CaptureError, match=words):
        Reader(path)
    with pytest.raises(CaptureError, match="No such file"):
        Reader(tmp_path / "none")
    with pytest.raises(CaptureError, match="Is a directory"):
        Reader(tmp_path)
