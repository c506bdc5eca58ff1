"""What is recorded of the wire and what was inside, keys that come to be meanwhile, and files that go on."""

import time
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from pcscf.capture.extcap import _Pipe
from pcscf.capture.file import ETHERNET, RAW, Interface, Packet, Reader, Writer
from pcscf.capture.keys import KeyFile
from pcscf.capture.live import LOOKS, Opening, Recorder
from tests.unit.capture.made import ENDS, MAC, association, line, sealed_frames, udp, write_keys
from xfrm.algorithms import Encryption, Integrity, Pair
from xfrm.esp import Sealer
from xfrm.wireshark import SaLine

CBC = Pair(Integrity.HMAC_SHA_1_96, Encryption.AES_CBC)
NULL = Pair(Integrity.HMAC_SHA_1_96, Encryption.NULL)


class Source:
    """Keys, and how often they were asked for."""

    def __init__(self, *lines: SaLine) -> None:
        self.lines = list(lines)
        self.asked = 0

    def fresh(self) -> list[SaLine]:
        self.asked += 1
        return self.lines

    def describe(self, spi: int) -> str:
        return "of alice"


class Both:
    """A view that keeps what it gets."""

    def __init__(self) -> None:
        self.on_wire: list[Packet] = []
        self.opened: list[Packet] = []

    def wire(self, packet: Packet) -> None:
        self.on_wire.append(packet)

    def inside(self, packet: Packet) -> None:
        self.opened.append(packet)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def packet(data: bytes, at: int = 1) -> Packet:
    return Packet(at, 0, data, len(data))


def ip(transport: Raw, **fields: object) -> bytes:
    return bytes(Ether(**MAC) / IP(src=ENDS[4][0], dst=ENDS[4][1], **fields) / transport)


def test_keys_that_come_later_are_asked_for_and_strangers_not_for_ever(clock: list[float]) -> None:
    sa, stranger = association(CBC, 4), association(CBC, 4, seed=3, spi=5)
    source, view = Source(), Both()
    opening = Opening(source, ETHERNET, view, ports=())
    for frame in sealed_frames(stranger, 50):
        opening.take(packet(frame))
        clock[0] += 1
    assert source.asked == 1 + LOOKS and not view.opened and len(view.on_wire) == 50
    source.lines = [line(sa)]
    first, second = sealed_frames(sa, 2)
    opening.take(packet(first, 7))
    opening.take(packet(second, 8))
    assert source.asked == 2 + LOOKS, "a new SPI is worth another look, and then it is known"
    assert [each.at for each in view.opened] == [7, 8]
    assert view.on_wire[-2].comment.startswith(f"SA {sa.spi} 10.45.0.2 → 10.45.0.1 hmac-sha-1-96/aes-cbc of alice")
    assert view.on_wire[-1].comment == "" and view.opened[1].comment.startswith(f"SA {sa.spi} ")
    opening.renew()
    opening.take(packet(sealed_frames(sa, 3)[2]))
    assert view.on_wire[-1].comment, "in a new file it is described again"


def test_what_belongs_to_gm(clock: list[float]) -> None:
    view = Both()
    opening = Opening(Source(), ETHERNET, view, ports=[5100])
    wanted = [
        ip(UDP(sport=5060, dport=9) / Raw(b"x")),
        ip(TCP(sport=9, dport=5100)),
        ip(UDP(sport=9, dport=7777) / Raw(b"OPTIONS sip:a@b SIP/2.0\r\n")),
        ip(TCP(sport=9, dport=7777) / Raw(b"SIP/2.0 200 OK\r\n")),
        ip(Raw(bytes(8)), proto=1),
        *sealed_frames(association(CBC, 4), 1),
    ]
    others = [ip(UDP(sport=1, dport=2) / Raw(b"dns")), bytes(Ether(**MAC) / ARP()), ip(Raw(bytes(9)), proto=47)]
    for frame in [*others, *wanted]:
        opening.take(packet(frame))
    assert [each.data for each in view.on_wire] == wanted and opening.packets == len(wanted)
    everything = Both()
    opening = Opening(Source(), ETHERNET, everything, ports=(), everything=True)
    for frame in [*others, *wanted]:
        opening.take(packet(frame))
    assert len(everything.on_wire) == len(others) + len(wanted)


def test_fragments_of_esp_are_all_recorded_and_opened_once(clock: list[float]) -> None:
    sa, view = association(CBC, 4), Both()
    opening = Opening(Source(line(sa)), ETHERNET, view, ports=())
    whole = IP(src=ENDS[4][0], dst=ENDS[4][1], id=5, proto=50) / Raw(Sealer(sa).seal(udp(bytes(4000)), 17))
    parts = [bytes(Ether(**MAC) / part) for part in fragment(whole, 1400)]
    for part in parts:
        opening.take(packet(part))
    assert [each.data for each in view.on_wire] == parts
    (opened,) = view.opened
    assert bytes(Ether(opened.data)[UDP].payload) == bytes(4000)


def test_a_key_file_that_grows(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    source = KeyFile(path)
    assert source.fresh() == [] and "is not there (yet)" in source.trouble
    write_keys(path, association(CBC, 4))
    assert len(source.fresh()) == 1 and source.trouble == ""
    assert source.fresh() == [], "nothing has changed"
    write_keys(path, association(CBC, 4), association(NULL, 4, spi=9))
    assert len(source.fresh()) == 2


def test_a_recording_is_for_its_owner_and_goes_on_when_it_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "gm.pcapng"
    path.touch(mode=0o644)
    recorder = Recorder(path, "gm", ETHERNET)
    recorder.wire(packet(b"one"))
    recorder.flush()
    assert path.stat().st_mode & 0o777 == 0o600
    path.rename(tmp_path / "old.pcapng")
    recorder.flush()
    recorder.wire(packet(b"two"))
    recorder.close()
    for name, data in (("old", b"one"), ("gm", b"two")):
        with Reader(tmp_path / f"{name}.pcapng") as reader:
            assert [each.data for each in reader] == [data]
            assert [each.description for each in reader.interfaces] == ["as on the wire", "decrypted"]


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("link", [ETHERNET, RAW])
def test_wireshark_gets_what_was_inside(tmp_path: Path, link: int, both: bool) -> None:
    with (tmp_path / "fifo").open("wb") as stream:
        pipe = _Pipe(Writer(stream, [Interface(link=ETHERNET)]), link, both=both)
        for data in (b"\x45clear", b"\x45esp of somebody", b"\x45esp", b"\x60last"):
            pipe.wire(packet(data))
            if data == b"\x45esp":
                pipe.inside(packet(b"\x45inside"))
        pipe.flush()
    with Reader(tmp_path / "fifo") as reader:
        found = [each.data for each in reader]
    head = bytes(12) + b"\x08\x00" if link == RAW else b""
    wanted = [head + b"\x45clear", head + b"\x45esp of somebody", *([head + b"\x45esp"] if both else [])]
    last = (bytes(12) + b"\x86\xdd" if link == RAW else b"") + b"\x60last"
    assert found == [*wanted, head + b"\x45inside", last]
