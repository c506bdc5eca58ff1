"""`pcscf decrypt` as a user meets it: the copy, the summary, and what it refuses."""

import json
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from pcscf.capture import opened as opened_module
from pcscf.capture.decryption import KeyRing
from pcscf.capture.file import Reader
from pcscf.capture.opened import write_opened
from pcscf.cli import main
from tests.unit.capture.made import ENDS, MAC, SIP, association, sealed_frames, udp, write, write_keys
from xfrm.algorithms import Encryption, Integrity, Pair
from xfrm.esp import Sealer

CBC = Pair(Integrity.HMAC_SHA_1_96, Encryption.AES_CBC)
NULL = Pair(Integrity.HMAC_SHA_1_96, Encryption.NULL)
CLEAR = bytes(Ether(**MAC) / IP(src=ENDS[4][0], dst=ENDS[4][1]) / UDP(sport=5060, dport=5060) / Raw(b"REGISTER"))


def frames_of(path: Path) -> list[bytes]:
    with Reader(path) as reader:
        found = [packet.data for packet in reader]
        assert not reader.damage
    return found


def test_the_copy_has_esp_opened_and_the_rest_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sa, stranger = association(CBC, 4), association(CBC, 4, seed=5, spi=77)
    first, second = sealed_frames(sa, 2)
    (foreign,) = sealed_frames(stranger, 1)
    source = write(tmp_path / "in.pcapng", [CLEAR, first, foreign, second, second])
    keys, output = write_keys(tmp_path / "keys", sa), tmp_path / "out.pcapng"
    assert main(["decrypt", str(source), "-k", str(keys), "-o", str(output)]) == 0
    found = frames_of(output)
    assert [found[0], found[2], found[4]] == [CLEAR, foreign, second]
    assert all(bytes(Ether(found[place])[UDP]) == udp() for place in (1, 3))
    assert output.stat().st_mode & 0o777 == 0o600
    said = capsys.readouterr().err
    assert "5 packets, 4 of them ESP, 2 opened" in said
    assert "not opened, unknown SPI: 1 (the keys of this SA are not given" in said
    assert "  1 of SPI 77 from 10.45.0.2 to 10.45.0.1" in said
    assert "not opened, replayed: 1" in said
    with Reader(source) as before, Reader(output) as after:
        assert [packet.at for packet in before] == [packet.at for packet in after]


def test_the_summary_for_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sa = association(CBC, 4)
    source = write(tmp_path / "in", sealed_frames(sa, 2))
    assert main(["decrypt", str(source), "-o", str(tmp_path / "out"), "--json"]) == 1, "nothing could be opened"
    assert json.loads(capsys.readouterr().out) == {
        "packets": 2, "esp": 2, "opened": 0, "unchecked": 0, "incomplete": 0, "damage": "",
        "shut": [
            {"cause": "unknown SPI", "spi": sa.spi, "source": ENDS[4][0], "destination": ENDS[4][1], "packets": 2}
        ],
    }  # fmt: skip


def test_null_encryption_without_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "in", sealed_frames(association(NULL, 4), 3))
    assert main(["decrypt", str(source), "-o", str(tmp_path / "out")]) == 0
    assert "3 of those: null encryption without keys; their integrity was not checked" in capsys.readouterr().err
    assert all(SIP in frame for frame in frames_of(tmp_path / "out"))


def test_fragments_become_one_packet_or_stay_what_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sa = association(CBC, 4)
    sealed = Sealer(sa).seal(udp(bytes(4000)), 17)
    whole = IP(src=ENDS[4][0], dst=ENDS[4][1], id=5, proto=50) / Raw(sealed)
    parts = [bytes(Ether(**MAC) / part) for part in fragment(whole, 1400)]
    keys = write_keys(tmp_path / "keys", sa)
    source = write(tmp_path / "in", [parts[0], CLEAR, *parts[1:]])
    assert main(["decrypt", str(source), "-k", str(keys), "-o", str(tmp_path / "out")]) == 0
    found = frames_of(tmp_path / "out")
    assert found[0] == CLEAR and bytes(Ether(found[1])[UDP].payload) == bytes(4000) and len(found) == 2
    source = write(tmp_path / "in", [parts[0], CLEAR])
    assert main(["decrypt", str(source), "-k", str(keys), "-o", str(tmp_path / "out")]) == 0
    assert sorted(frames_of(tmp_path / "out")) == sorted([parts[0], CLEAR])
    assert "1 fragmented packets lack a part" in capsys.readouterr().err


def test_a_damaged_file_gives_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sa = association(CBC, 4)
    source = write(tmp_path / "in", sealed_frames(sa, 3))
    source.write_bytes(source.read_bytes()[:-10])
    keys = write_keys(tmp_path / "keys", sa)
    assert main(["decrypt", str(source), "-k", str(keys), "-o", str(tmp_path / "out")]) == 0
    assert "the file is damaged: block 5 is cut off" in capsys.readouterr().err
    assert len(frames_of(tmp_path / "out")) == 2


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sa = association(CBC, 4)
    source, keys = write(tmp_path / "in", sealed_frames(sa, 1)), write_keys(tmp_path / "keys", sa)
    (tmp_path / "text").write_text("hello")
    (tmp_path / "useless").write_text('"IPv4","a"\n')
    before = source.read_bytes()
    for arguments, words in (
        ((source, "-o", source), "it would overwrite what is read"),
        ((tmp_path / "none", "-o", tmp_path / "out"), "none: No such file or directory"),
        ((tmp_path / "text", "-o", tmp_path / "out"), "neither pcap nor pcapng"),
        ((source, "-k", tmp_path / "none", "-o", tmp_path / "out"), "none: No such file or directory"),
        ((source, "-k", tmp_path / "useless", "-o", tmp_path / "out"), "no line of it is an SA"),
        ((source, "-k", keys, "-o", tmp_path / "no" / "out"), "No such file or directory"),
    ):
        assert main(["decrypt", *map(str, arguments)]) == 1
        said = capsys.readouterr().err
        assert words in said and all(each.startswith("pcscf: ") for each in said.splitlines())
        assert not (tmp_path / "out").exists()
    assert source.read_bytes() == before


def test_nothing_half_done_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in", sealed_frames(association(CBC, 4), 1))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(opened_module, "_copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_opened(source, KeyRing(), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"in"}
