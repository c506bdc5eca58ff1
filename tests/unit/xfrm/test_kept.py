"""The file of SAs that outlives a process: what is in it is what was put there, and what cannot count does not."""

import os
import struct
from collections.abc import Callable
from ipaddress import ip_address
from math import inf, nan
from pathlib import Path
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xfrm.algorithms import ENCRYPTION, INTEGRITY, VALID_PAIRS, Pair
from xfrm.kept import SLOT, Kept
from xfrm.model import Key, Sa, Selector, XfrmError


def sa(spi: int, pair: Pair, version: int = 4, lifetime: int = 0, window: int = 64) -> Sa:
    integrity, encryption = INTEGRITY[pair.integrity], ENCRYPTION[pair.encryption]
    base = "10.45.0." if version == 4 else "fd00:45::"
    return Sa(
        selector=Selector(
            source=ip_address(f"{base}1"),
            destination=ip_address(f"{base}2"),
            source_port=5100,
            destination_port=spi % 65536,
        ),
        spi=spi,
        integrity=pair.integrity,
        encryption=pair.encryption,
        integrity_key=Key(os.urandom(integrity.key if integrity is not None else 0)),
        encryption_key=Key(os.urandom(encryption.key)),
        lifetime=lifetime,
        replay_window=window,
    )  # fmt: skip


USUAL = sorted(VALID_PAIRS)[0]


@pytest.mark.parametrize("pair", sorted(VALID_PAIRS), ids=lambda pair: "-".join(pair))
@pytest.mark.parametrize("version", [4, 6])
def test_what_was_kept_comes_back(pair: Pair, version: int, tmp_path: Path) -> None:
    now = monotonic()
    kept = Kept(tmp_path / "sas")
    first, second = sa(1000, pair, version, lifetime=700), sa(1001, pair, version, window=32)
    late = kept.add(second, inbound=False, added=now, deadline=inf)
    early = kept.add(first, inbound=True, added=now - 5, deadline=now + 695)
    kept.move(early, 17, 16, 4000, now + 1)
    kept.limit(early, now + 90, 95)
    kept.close(forget=False)
    one, two = Kept(tmp_path / "sas").earlier()
    assert (one.sa.integrity_key, one.sa.encryption_key) == (first.integrity_key, first.encryption_key)
    assert (one.sa.selector, one.sa.spi, one.sa.integrity, one.sa.encryption) == (first.selector, 1000, *pair)
    assert (one.slot, one.inbound, one.added, one.deadline, one.sa.lifetime) == (early, True, now - 5, now + 90, 95)
    assert (one.sequence, one.packets, one.bytes, one.last_used) == (17, 16, 4000, now + 1)
    assert (two.sa, two.slot, two.inbound, two.deadline, two.last_used) == (second, late, False, inf, None)


def test_it_grows_and_gives_places_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "sas")
    sas = [sa(1000 + each, USUAL) for each in range(1000)]
    slots = [kept.add(each, inbound=True, added=float(each.spi), deadline=inf) for each in sas]
    assert len(set(slots)) == 1000
    for slot in slots[::2]:
        kept.free(slot)
    size = kept.path.stat().st_size
    again = [kept.add(each, inbound=True, added=float(each.spi), deadline=inf) for each in sas[::2]]
    assert set(again) | set(slots[1::2]) == set(slots) and kept.path.stat().st_size == size
    kept.close(forget=False)
    assert [each.sa for each in Kept(tmp_path / "sas").earlier()] == sas


def test_no_key_is_left_of_what_has_ended(tmp_path: Path) -> None:
    kept, made = Kept(tmp_path / "sas"), sa(1000, USUAL)
    slot = kept.add(made, inbound=True, added=1.0, deadline=inf)
    assert bytes(made.integrity_key) in kept.path.read_bytes()
    kept.free(slot)
    assert bytes(made.integrity_key) not in kept.path.read_bytes()
    kept.add(made, inbound=True, added=1.0, deadline=inf)
    kept.close(forget=True)
    assert not kept.path.exists()


def test_what_has_expired_meanwhile_is_gone(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "sas")
    kept.add(sa(1000, USUAL, lifetime=1), inbound=True, added=monotonic() - 2, deadline=monotonic() - 1)
    kept.close(forget=False)
    again = Kept(tmp_path / "sas")
    assert not list(again.earlier())
    assert set(again.path.read_bytes()[SLOT:]) == {0}


def of_another_boot(content: bytes) -> bytes:
    return content[:8] + b"00000000-0000-0000-0000-000000000000" + content[44:]


DAMAGED: list[Callable[[bytes], bytes]] = [
    of_another_boot, lambda content: content[:-1], lambda content: b"something else", lambda content: b"\0" * SLOT
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED, ids=["boot", "cut", "foreign", "empty"])
def test_a_file_that_cannot_count_begins_anew(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """Of another boot: sequence numbers that a disk did not get would be used twice."""
    kept, made = Kept(tmp_path / "sas"), sa(1000, USUAL)
    kept.add(made, inbound=True, added=1.0, deadline=inf)
    kept.close(forget=False)
    kept.path.write_bytes(damage(kept.path.read_bytes()))
    again = Kept(kept.path)
    assert not list(again.earlier()) and bytes(made.integrity_key) not in again.path.read_bytes()
    again.add(made, inbound=True, added=1.0, deadline=inf)
    again.close(forget=False)
    assert [each.sa for each in Kept(kept.path).earlier()] == [made]


@given(damage=st.binary(min_size=1, max_size=SLOT - 1), at=st.integers(0, SLOT - 2))
@settings(max_examples=300)
def test_a_damaged_place_harms_no_other(damage: bytes, at: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    kept = Kept(tmp_path_factory.mktemp("kept") / "sas")
    hurt, well = sa(1000, USUAL), sa(1001, USUAL)
    slot = kept.add(hurt, inbound=True, added=1.0, deadline=inf)
    kept.add(well, inbound=False, added=2.0, deadline=inf)
    kept.close(forget=False)
    content = bytearray(kept.path.read_bytes())
    damage = damage[: SLOT - 1 - at]
    content[slot + at : slot + at + len(damage)] = damage
    kept.path.write_bytes(content)
    assert well in [each.sa for each in Kept(kept.path).earlier()]


def test_others_may_not_open_it(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "sas")
    assert kept.path.stat().st_mode & 0o777 == 0o600
    kept.close(forget=False)
    kept.path.chmod(0o640)
    with pytest.raises(XfrmError, match=r"sas must be a file that nobody else may open: it holds keys \(chmod 600\)"):
        Kept(kept.path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "sas").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(XfrmError, match="sas: Too many levels of symbolic links"):
        Kept(tmp_path / "sas")
    assert not (tmp_path / "elsewhere").exists()


def test_a_place_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(XfrmError, match="nowhere/sas: No such file or directory"):
        Kept(tmp_path / "nowhere" / "sas")


@pytest.mark.parametrize(
    ("offset", "octets"),
    [
        (0, struct.pack("@Q", 1 << 40)),  # the sequence number
        (24, struct.pack("@d", nan)),  # when it was used
        (32, struct.pack("@d", nan)),  # its end
        (48, struct.pack("@d", nan)),  # its start
        (48, struct.pack("@d", inf)),
        (56, bytes(4)),  # its SPI
        (60, bytes(2)),  # ports
        (62, bytes(2)),
        (64, bytes(2)),  # the window
        (66, b"\7"),  # in or out
        (67, b"\5"),  # octets of an address
        (68, b"\3"),  # of the key
        (69, b"\xff"),
    ],
)
def test_a_damaged_sa_counts_for_nothing(offset: int, octets: bytes, tmp_path: Path) -> None:
    """Step 1, 14: NaN for an end never comes, and a key of another length was found out when it was used."""
    pair = Pair.parse("hmac-sha-1-96/aes-cbc")
    kept = Kept(tmp_path / "sas")
    now = monotonic()
    places = [kept.add(sa(1000 + each, pair), inbound=True, added=now, deadline=now + 600) for each in range(2)]
    kept.close(forget=False)
    with (tmp_path / "sas").open("r+b") as file:
        file.seek(places[0] + offset)
        file.write(octets)
    again = Kept(tmp_path / "sas")
    assert [each.slot for each in again.earlier()] == [places[1]]
    again.close(forget=True)
