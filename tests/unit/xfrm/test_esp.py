"""ESP packets against scapy, against published vectors, and against every flipped bit."""

import struct
from dataclasses import replace
from hmac import digest
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.ipsec import ESP, SecurityAssociation

from xfrm import esp
from xfrm.algorithms import ENCRYPTION, INTEGRITY, VALID_PAIRS, Encryption, Integrity, Pair
from xfrm.esp import (
    LAST_SEQUENCE,
    IntegrityFailure,
    Malformed,
    Opener,
    Replayed,
    Sealer,
    SequenceExhausted,
)
from xfrm.model import Key, Sa, Selector

UDP_NUMBER = 17
SPI = 1_000_000_101
PAIRS = sorted(VALID_PAIRS, key=str)
every_pair = pytest.mark.parametrize("pair", PAIRS, ids=str)

SCAPY_ENCRYPTION = {
    Encryption.NULL: "NULL",
    Encryption.AES_CBC: "AES-CBC",
    Encryption.DES_EDE3_CBC: "3DES",
    Encryption.AES_GCM: "AES-GCM",
}
SCAPY_INTEGRITY = {
    Integrity.NULL: "NULL",
    Integrity.HMAC_SHA_1_96: "HMAC-SHA1-96",
    Integrity.HMAC_MD5_96: "HMAC-MD5-96",
}


def association(pair: Pair, *, spi: int = SPI, key: bytes = b"", window: int = 64) -> Sa:
    """An SA with made-up keys, or with `key` for the one algorithm of the pair that has one."""
    integrity = INTEGRITY[pair.integrity]
    sizes = (integrity.key if integrity else 0, ENCRYPTION[pair.encryption].key)
    keys = [
        Key((key or bytes(range(number, number + size)))[:size]) for number, size in zip((1, 101), sizes, strict=True)
    ]
    return Sa(
        selector=Selector(
            source=ip_address("10.45.0.2"),
            destination=ip_address("10.45.0.1"),
            source_port=31800,
            destination_port=5100,
        ),
        spi=spi,
        integrity=pair.integrity,
        encryption=pair.encryption,
        integrity_key=keys[0],
        encryption_key=keys[1],
        replay_window=window,
    )


def scapy_association(sa: Sa) -> Any:
    if sa.integrity is Integrity.AES_GMAC:
        encryption, key = "AES-NULL-GMAC", sa.integrity_key
    else:
        encryption, key = SCAPY_ENCRYPTION[sa.encryption], sa.encryption_key
    return SecurityAssociation(
        ESP,
        spi=sa.spi,
        crypt_algo=encryption,
        crypt_key=bytes(key),
        auth_algo=SCAPY_INTEGRITY.get(sa.integrity, "NULL"),
        auth_key=bytes(sa.integrity_key) if sa.integrity in SCAPY_INTEGRITY else None,
    )


@every_pair
@pytest.mark.parametrize("size", [0, 1, 13, 14, 800, 8000])
def test_scapy_reads_ours_and_we_read_scapys(pair: Pair, size: int) -> None:
    sa = association(pair)
    datagram = bytes(UDP(sport=31800, dport=5100) / bytes(size))
    clear = IP(src="10.45.0.2", dst="10.45.0.1") / UDP(sport=31800, dport=5100) / bytes(size)
    sealer, opener = Sealer(sa), Opener(sa)
    for _ in range(3):  # the chaining from packet to packet must not show
        sealed = sealer.seal(datagram, UDP_NUMBER)
        opened = scapy_association(sa).decrypt(IP(src="10.45.0.2", dst="10.45.0.1", proto=50) / ESP(sealed))
        assert bytes(opened[UDP])[8:] == bytes(size)
        assert opened.proto == UDP_NUMBER
    for sequence in (1, 2, 3):
        foreign = scapy_association(sa).encrypt(clear, seq_num=sequence)
        payload, next_header = opener.open(bytes(foreign[ESP]))
        assert payload[8:] == bytes(size)
        assert next_header == UDP_NUMBER


def test_vector_of_rfc_3602() -> None:
    """Case 5: a ping in transport mode. It has no ICV, so ours is put behind it."""
    key = bytes.fromhex("90d382b410eeba7ad938c46cec1a82bf")
    sa = association(Pair(Integrity.HMAC_SHA_1_96, Encryption.AES_CBC), spi=0x4321)
    sa = replace(sa, encryption_key=Key(key))
    packet = bytes.fromhex(
        "0000432100000001e96e8c08ab465763fd098d45dd3ff893"
        "f663c25d325c18c6a9453e194e120849a4870b66cc6b9965330013b4898dc856"
        "a4699e523a55db080b59ec3a8e4b7e52775b07d1db34ed9c538ab50c551b874a"
        "a269add047ad2d5913ac19b7cfbad4a6"
    )
    payload, next_header = Opener(sa).open(packet + digest(bytes(sa.integrity_key), packet, "sha1")[:12])
    assert payload == bytes.fromhex("08000ebda70a00008e9c083db95b0700") + bytes(range(8, 0x38))
    assert next_header == 1


def test_vector_of_aes_gcm() -> None:
    """draft-mcgrew-gcm-test-01, the first case with a 128-bit key and 32-bit sequence numbers."""
    key = bytes.fromhex("feffe9928665731c6d6a8f9467308308cafebabe")
    packet = bytes.fromhex(
        "0000a5f80000000afacedbaddecaf888"
        "deb22cd9b07c72c16e3a65beeb8df304a5a5897d33ae530f1ba76d5d114d2a5c"
        "3de81827c10e9a4f51330d0eec416642cfbb85a5b47e48a4ec3b9ba95d918bd1"
        "83b70d3aa8bc6ee4c309e9d85a41ad4a"
    )
    payload, next_header = Opener(association(Pair(Integrity.NULL, Encryption.AES_GCM), spi=0xA5F8, key=key)).open(
        packet
    )
    assert payload.startswith(bytes.fromhex("4500003e698f000080114dcc"))
    assert (len(payload), next_header) == (62, 1)


def test_vector_of_aes_gmac() -> None:
    """The Linux kernel's own vector of rfc4543(gcm(aes)): the IV is part of what is authenticated."""
    key = bytes.fromhex("4c80cdefbb5d10da906ac73c3613a63422433c64")
    inside = bytes.fromhex(
        "45000030da3a00008001df3bc0a80005c0a800010800c6cd020007006162636465666768696a6b6c6d6e6f7071727374"
    )
    header = bytes.fromhex("00004321000000070000000000000000")
    packet = header + inside + bytes.fromhex("01020201f2a9a836e155106aa8dcd618e4099aaa")
    opener = Opener(association(Pair(Integrity.AES_GMAC, Encryption.NULL), spi=0x4321, key=key))
    assert opener.open(packet) == (inside, 1)


@every_pair
@given(payload=st.binary(max_size=200), next_header=st.integers(0, 255), data=st.data())
def test_what_is_sealed_opens_and_nothing_else_does(
    pair: Pair, payload: bytes, next_header: int, data: st.DataObject
) -> None:
    sa = association(pair)
    sealer, opener = Sealer(sa), Opener(sa)
    for _ in range(2):
        sealer.seal(b"", 6)
    packet = sealer.seal(payload, next_header)
    bit = data.draw(st.integers(0, len(packet) * 8 - 1))
    tampered = bytearray(packet)
    tampered[bit // 8] ^= 1 << bit % 8
    with pytest.raises(IntegrityFailure):
        opener.open(bytes(tampered))
    assert (opener.window.highest, opener.window.seen) == (0, 0)
    assert opener.open(packet) == (payload, next_header)
    with pytest.raises(Replayed):
        opener.open(packet)


@every_pair
@given(noise=st.binary(max_size=120))
def test_noise_is_refused_in_our_own_words(pair: Pair, noise: bytes) -> None:
    with pytest.raises((Malformed, Replayed, IntegrityFailure)):
        Opener(association(pair)).open(noise)


def iv_size(pair: Pair) -> int:
    integrity = INTEGRITY[pair.integrity]
    return ENCRYPTION[pair.encryption].iv or (integrity.iv if integrity else 0)


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if iv_size(pair)], ids=str)
def test_no_initialisation_vector_comes_twice_under_one_key(pair: Pair) -> None:
    """The four SAs of a set share their keys (TS 33.203 6.3)."""
    packets = [sealer.seal(b"same", 17) for sealer in (Sealer(association(pair)) for _ in range(4)) for _ in range(50)]
    assert len({packet[8 : 8 + iv_size(pair)] for packet in packets}) == 200


def test_bad_padding_is_malformed_although_its_icv_is_good() -> None:
    sa = association(Pair(Integrity.HMAC_SHA_1_96, Encryption.NULL))
    for trailer in (b"\x01\x03\x02\x11", b"\xff\xff\xff\x11"):
        body = struct.pack("!II", SPI, 1) + b"data" + trailer
        with pytest.raises(Malformed):
            Opener(sa).open(body + digest(bytes(sa.integrity_key), body, "sha1")[:12])


def test_the_last_sequence_number_is_the_last_packet() -> None:
    sa = association(PAIRS[0])
    sealer = Sealer(sa)
    sealer.sequence = LAST_SEQUENCE - 1
    assert sealer.seal(b"x", 17)[4:8] == b"\xff\xff\xff\xff"
    with pytest.raises(SequenceExhausted):
        sealer.seal(b"x", 17)


@pytest.mark.parametrize("pair", [*PAIRS, Pair(Integrity.AES_GMAC, Encryption.AES_CBC)], ids=str)
def test_keys_that_do_not_fit_are_refused_without_showing_them(pair: Pair) -> None:
    sa = association(pair)
    wrong = replace(sa, integrity_key=Key(sa.integrity_key + b"more"), encryption_key=Key(sa.encryption_key + b"more"))
    for end in (Sealer, Opener):
        with pytest.raises(ValueError) as refusal:
            end(wrong)
        assert b"more".hex() not in str(refusal.value) and "more" not in str(refusal.value)


def test_cryptography_is_made_once_and_for_the_first_packet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 1, 5: of a flood of challenges that nobody answers it would be most of the memory."""
    made: list[bool] = []
    really = esp._transform

    def counted(sa: esp.Suite, *, seals: bool) -> Any:
        made.append(seals)
        return really(sa, seals=seals)

    monkeypatch.setattr(esp, "_transform", counted)
    sa = association(PAIRS[0])
    sealer, opener = Sealer(sa), Opener(sa)
    assert not made
    for text in (b"one", b"two"):
        assert opener.open(sealer.seal(text, 17)) == (text, 17)
    assert made == [True, False]


def test_an_sa_without_a_replay_window_is_refused() -> None:
    with pytest.raises(ValueError, match="replay window"):
        Opener(association(PAIRS[0], window=0))
