"""Lines of Wireshark's esp_sa: exactly its words, read back, and a profile where Wireshark looks for it."""

from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xfrm.algorithms import ENCRYPTION, INTEGRITY, VALID_PAIRS, Encryption, Integrity, Pair
from xfrm.model import Key, Sa, Selector
from xfrm.wireshark import Profile, line_of, profile, read, write_profile

PAIRS = sorted(VALID_PAIRS)
CK, IK = "000102030405060708090a0b0c0d0e0f", "101112131415161718191a1b1c1d1e1f"
WORDS = {
    "hmac-sha-1-96/null": ("NULL", "", "HMAC-SHA-1-96 [RFC2404]", f"0x{IK}20212223"),
    "hmac-sha-1-96/aes-cbc": ("AES-CBC [RFC3602]", f"0x{CK}", "HMAC-SHA-1-96 [RFC2404]", f"0x{IK}20212223"),
    "hmac-md5-96/des-ede3-cbc": (
        "TripleDES-CBC [RFC2451]",
        f"0x{CK}1011121314151617",
        "HMAC-MD5-96 [RFC2403]",
        f"0x{IK}",
    ),
    "null/aes-gcm": ("AES-GCM with 16 octet ICV [RFC4106]", f"0x{CK}10111213", "NULL", ""),
}


def association(pair: Pair, source: str = "10.45.0.2", destination: str = "10.45.0.1", spi: int = 0x1002) -> Sa:
    integrity = INTEGRITY[pair.integrity]
    return Sa(
        selector=Selector(
            source=ip_address(source), destination=ip_address(destination), source_port=1, destination_port=2
        ),
        spi=spi,
        integrity=pair.integrity,
        encryption=pair.encryption,
        integrity_key=Key(bytes(range(16, 16 + (integrity.key if integrity else 0)))),
        encryption_key=Key(bytes(range(ENCRYPTION[pair.encryption].key))),
    )


@pytest.mark.parametrize("name", WORDS)
def test_a_line_says_it_in_wiresharks_words(name: str) -> None:
    columns = ",".join(f'"{word}"' for word in ("IPv4", "10.45.0.2", "10.45.0.1", "0x00001002", *WORDS[name]))
    assert line_of(association(Pair.parse(name))) == columns


def test_gmac_is_a_remark_to_wireshark() -> None:
    line = line_of(association(Pair.parse("aes-gmac/null"), "fd00::2", "fd00::1"))
    key = bytes(range(16, 36)).hex()
    assert line == f'# "IPv6","fd00::2","fd00::1","0x00001002","NULL","","AES-GMAC [RFC4543]","0x{key}"'


@given(
    st.sampled_from(PAIRS),
    st.sampled_from([("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")]),
    st.integers(0, 0xFFFF_FFFF),
)
def test_what_is_written_is_read(pair: Pair, ends: tuple[str, str], spi: int) -> None:
    sa = association(pair, *ends, spi)
    (found,), complaints = read(f"# a remark\n\n{line_of(sa)}\n")
    assert not complaints and found.checked
    assert (found.source, found.destination, found.spi) == (sa.selector.source, sa.selector.destination, spi)
    assert (found.integrity, found.encryption) == pair
    assert (found.integrity_key, found.encryption_key) == (sa.integrity_key, sa.encryption_key)


SHA = f'"HMAC-SHA-1-96 [RFC2404]","0x{IK}"'


@pytest.mark.parametrize(
    ("line", "spi", "key"),
    [
        (f'"IPv4","*","*","*","NULL","",{SHA}', None, f"{IK}00000000"),
        (f'"IPv4","10.0.0.1","*","4098","NULL","",{SHA}', 4098, f"{IK}00000000"),
        (f'"IPv6","*","fd00::1","0x1002","NULL","",{SHA},"32-bit","0"', 4098, f"{IK}00000000"),
        ('"IPv4","*","*","1","NULL","","HMAC-MD5-96 [RFC2403]","sixteen letters!"', 1, b"sixteen letters!".hex()),
        (f'  "IPv4", "*", "*", "1", "NULL", "", {SHA}  ', 1, f"{IK}00000000"),
    ],
)
def test_lines_that_others_wrote(line: str, spi: int | None, key: str) -> None:
    (found,), complaints = read(line)
    assert (found.spi, found.integrity_key.hex(), complaints) == (spi, key, [])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('"IPv4","a"', "2 columns; an SA has 8"),
        ('"IPv4', "not quoted as Wireshark does"),
        (f'"Any","*","*","1","NULL","",{SHA}', "protocol 'Any' is neither IPv4 nor IPv6"),
        (f'"IPv4","fd00::1","*","1","NULL","",{SHA}', "'fd00::1' is no IPv4 address"),
        (f'"IPv4","*","*","0x1ffffffff","NULL","",{SHA}', "more than 32 bits"),
        (f'"IPv4","*","*","0x10*","NULL","",{SHA}', "SPI '0x10*' is neither a number nor *"),
        (f'"IPv4","*","*","1","AES-CTR [RFC3686]","0x{CK}",{SHA}', "encryption 'AES-CTR [RFC3686]' is none of Gm"),
        (f'"IPv4","*","*","1","NULL","","HMAC-SHA-256-128 [RFC4868]","0x{IK}"', "is none of Gm"),
        (f'"IPv4","*","*","1","AES-CBC [RFC3602]","0x{CK}ff",{SHA}', "AES-CBC [RFC3602] has 17 octets, not 16"),
        (f'"IPv4","*","*","1","TripleDES-CBC [RFC2451]","0x{CK}",{SHA}', "has 16 octets, not 24"),
        (f'"IPv4","*","*","1","NULL","","HMAC-SHA-1-96 [RFC2404]","0x{IK}x"', "is not hexadecimal"),
        ('"IPv4","*","*","1","NULL","","NULL",""', "without authentication is none of Gm"),
        (f'"IPv4","*","*","1","AES-GCM [RFC4106]","0x{CK}00000000",{SHA}', "say NULL there"),
    ],
)
def test_lines_of_no_use_are_told_without_their_keys(line: str, words: str) -> None:
    good = f'"IPv4","*","*","7","NULL","",{SHA}'
    found, (complaint,) = read(f"{good}\n{line}\n{good}")
    assert complaint.startswith("line 2: ") and words in complaint and len(found) == 2
    assert CK not in complaint and IK not in complaint


@pytest.mark.parametrize(
    ("name", "more", "folder", "lua", "command"),
    [
        (
            "gm",
            {},
            "/h/.config/wireshark/profiles/gm",
            "/h/.local/lib/wireshark/plugins/esp_gmac.lua",
            "wireshark -C gm",
        ),
        (
            "gm",
            {"XDG_CONFIG_HOME": "/x"},
            "/x/wireshark/profiles/gm",
            "/h/.local/lib/wireshark/plugins/esp_gmac.lua",
            "wireshark -C gm",
        ),
        ("gm", {"WIRESHARK_CONFIG_DIR": "/w"}, "/w/profiles/gm", "/w/init.lua", "wireshark -C gm"),
        ("/d/profiles/gm", {}, "/d/profiles/gm", "/d/init.lua", "WIRESHARK_CONFIG_DIR=/d wireshark -C gm"),
        ("/d/gm", {}, "/d/gm", "/d/gm/init.lua", "WIRESHARK_CONFIG_DIR=/d/gm wireshark"),
    ],
)
def test_where_a_profile_goes(name: str, more: dict[str, str], folder: str, lua: str, command: str) -> None:
    assert profile(name, {"HOME": "/h", **more}) == Profile(Path(folder), Path(lua), command)


def test_a_profile_is_added_to(tmp_path: Path) -> None:
    made = profile(f"{tmp_path}/gm", {"HOME": str(tmp_path)})
    first, second, third = (line_of(association(pair, spi=300 + place)) for place, pair in enumerate(PAIRS[:3]))
    made.folder.mkdir()
    (made.folder / "preferences").write_text("gui.column.format: x\nesp.enable_encryption_decode: FALSE\n")
    write_profile(made, ["# remark", first, second])
    write_profile(made, [third, second])
    table = made.folder / "esp_sa"
    assert table.read_text().splitlines() == [second, third, first], "the newest first, each once"
    preferences = (made.folder / "preferences").read_text()
    assert preferences.count("esp.enable_encryption_decode: TRUE") == 1 and "FALSE" not in preferences
    assert "gui.column.format: x" in preferences and f"esp_gmac.sa_file: {table.resolve()}" in preferences
    assert table.stat().st_mode & 0o777 == 0o600 and "AES-GMAC" in made.lua.read_text()
    made.lua.write_text("-- somebody else's\n")
    with pytest.raises(FileExistsError, match=r"init\.lua is somebody else's"):
        write_profile(made, [first])


def test_every_pair_has_a_name() -> None:
    assert {pair.encryption for pair in PAIRS} == set(Encryption) and {pair.integrity for pair in PAIRS} == set(
        Integrity
    )
    for pair in PAIRS:
        assert line_of(association(pair)).count('"') == 16
