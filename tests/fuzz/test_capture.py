"""Captures, frames, ESP and key files of any content: nothing but the errors that are documented."""

import io
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pcscf.capture.decryption import Closed, Decryption, KeyRing, Opened
from pcscf.capture.file import CaptureError, Interface, Packet, Reader, Writer
from pcscf.capture.frames import HELD, Datagram, Reassembly
from pcscf.capture.sip import Seen, SipReader, Unread
from tests.unit.capture.made import association, line, sealed_frames
from xfrm.algorithms import VALID_PAIRS
from xfrm.wireshark import SaLine, read

LINKS = st.sampled_from([0, 1, 12, 101, 108, 113, 147, 228, 229, 276])
SAS = [association(pair, version) for pair in sorted(VALID_PAIRS) for version in (4, 6)]
GOOD = [sealed_frames(sa, 1)[0] for sa in SAS]


def _file() -> bytes:
    stream = io.BytesIO()
    writer = Writer(stream, [Interface(link=1, name="gm")], comment="x")
    for number, frame in enumerate(GOOD[:3]):
        writer.write(Packet(number, 0, frame, len(frame), "comment"))
    return stream.getvalue()


FILE = _file()


@st.composite
def mutated(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Something sound with octets changed, cut or put in."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data)


@given(st.one_of(st.binary(max_size=300), mutated(st.just(FILE))))
def test_files(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        path.write_bytes(data)
        try:
            with Reader(path) as reader:
                for packet in reader:
                    assert 0 <= packet.interface < len(reader.interfaces)
        except CaptureError:
            pass


FRAMES = st.one_of(st.binary(max_size=200), mutated(st.sampled_from(GOOD)))


@given(st.lists(st.tuples(LINKS, FRAMES), max_size=4))
def test_frames_esp_and_sip(taken: list[tuple[int, bytes]]) -> None:
    reassembly, decryption = Reassembly(), Decryption(KeyRing(map(line, SAS)))
    sip = SipReader(decryption)
    for link, frame in taken:
        found = reassembly.feed(link, frame)
        if isinstance(found, Datagram):
            assert isinstance(decryption.open(found), Opened | Closed)
            found.frame(17, found.payload)
        else:
            assert found is None or found is HELD
        for each in sip.feed(Packet(0, 0, frame, len(frame)), link):
            assert isinstance(each, Seen | Unread)


LINE = '"IPv4","10.0.0.1","10.0.0.2","0x00001002","AES-CBC [RFC3602]","0x' + "a5" * 16
SOUND = LINE + '","HMAC-SHA-1-96 [RFC2404]","0x' + "b6" * 20 + '"'


@given(st.one_of(st.text(max_size=200), mutated(st.just(SOUND.encode())).map(lambda each: each.decode("latin-1"))))
def test_key_files(text: str) -> None:
    lines, complaints = read(text)
    assert all(isinstance(each, SaLine) for each in lines)
    assert not any("a5a5a5" in each or "b6b6b6" in each for each in complaints), "a key does not stand in a complaint"
    KeyRing(lines)
