"""`xfrm.codec` against pyroute2: the same messages declared field by field must encode to the same bytes."""

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from pyroute2.netlink import nla, nlmsg

from xfrm import codec
from xfrm.algorithms import ENCRYPTION, INTEGRITY, VALID_PAIRS, Encryption, Integrity, Pair
from xfrm.model import DEFAULT_REQID, Direction, IPAddress, Key, Policy, PortRange, Sa, Selector

INFINITY = 0xFFFFFFFFFFFFFFFF
AF = {4: 2, 6: 10}
WIDTH = {4: 32, 6: 128}
ADDRESSES: dict[int, tuple[IPAddress, IPAddress]] = {
    4: (IPv4Address("10.45.0.2"), IPv4Address("10.45.0.1")),
    6: (IPv6Address("2001:db8::2"), IPv6Address("2001:db8::1")),
}

SELECTOR = (
    ("sel_daddr", "16s"),
    ("sel_saddr", "16s"),
    ("dport", ">H"),
    ("dport_mask", ">H"),
    ("sport", ">H"),
    ("sport_mask", ">H"),
    ("sel_family", "H"),
    ("prefixlen_d", "B"),
    ("prefixlen_s", "B"),
    ("sel_proto", "B"),
    ("sel_pad", "3x"),
    ("ifindex", "i"),
    ("user", "I"),
)
LIFETIMES = (
    *((f"{limit}_{unit}_limit", "Q") for unit in ("byte", "packet") for limit in ("soft", "hard")),
    *((f"{limit}_{unit}_expires", "Q") for unit in ("add", "use") for limit in ("soft", "hard")),
    *((name, "Q") for name in ("bytes", "packets", "add_time", "use_time")),
)


class algo_auth(nla):  # type: ignore[misc]
    fields = (("alg_name", "64s"), ("alg_key_len", "I"), ("alg_trunc_len", "I"), ("alg_key", "s"))


class algo(nla):  # type: ignore[misc]
    fields = (("alg_name", "64s"), ("alg_key_len", "I"), ("alg_key", "s"))


class replay_esn(nla):  # type: ignore[misc]
    fields = (
        *((name, "I") for name in ("bmp_len", "oseq", "seq", "oseq_hi", "seq_hi", "replay_window")),
        ("bmp", "s"),
    )


class user_tmpl(nla):  # type: ignore[misc]
    fields = (
        ("id_daddr", "16s"),
        ("id_spi", ">I"),
        ("id_proto", "B"),
        ("id_pad", "3x"),
        ("family", "H"),
        ("family_pad", "2x"),
        ("saddr", "16s"),
        ("reqid", "I"),
        ("mode", "B"),
        ("share", "B"),
        ("optional", "B"),
        ("optional_pad", "1x"),
        ("aalgos", "I"),
        ("ealgos", "I"),
        ("calgos", "I"),
    )


class xfrm_message(nlmsg):  # type: ignore[misc]
    """Attributes by number, from `enum xfrm_attr_type_t`."""

    nla_map = (
        (2, "XFRMA_ALG_CRYPT", "algo"),
        (5, "XFRMA_TMPL", "user_tmpl"),
        (18, "XFRMA_ALG_AEAD", "algo_auth"),
        (20, "XFRMA_ALG_AUTH_TRUNC", "algo_auth"),
        (23, "XFRMA_REPLAY_ESN_VAL", "replay_esn"),
    )
    algo = algo
    algo_auth = algo_auth
    replay_esn = replay_esn
    user_tmpl = user_tmpl


class usersa_info(xfrm_message):
    fields = (
        *SELECTOR,
        ("id_daddr", "16s"),
        ("id_spi", ">I"),
        ("id_proto", "B"),
        ("id_pad", "3x"),
        ("saddr", "16s"),
        *LIFETIMES,
        ("stat_replay_window", "I"),
        ("stat_replay", "I"),
        ("stat_integrity_failed", "I"),
        ("seq", "I"),
        ("reqid", "I"),
        ("family", "H"),
        ("mode", "B"),
        ("replay_window", "B"),
        ("flags", "B"),
        ("tail", "7x"),
    )


class usersa_id(xfrm_message):
    fields = (("daddr", "16s"), ("spi", ">I"), ("family", "H"), ("proto", "B"), ("tail", "1x"))


class userpolicy_info(xfrm_message):
    fields = (
        *SELECTOR,
        *LIFETIMES,
        ("priority", "I"),
        ("index", "I"),
        ("dir", "B"),
        ("action", "B"),
        ("flags", "B"),
        ("share", "B"),
        ("tail", "4x"),
    )


class userpolicy_id(xfrm_message):
    fields = (*SELECTOR, ("index", "I"), ("dir", "B"), ("tail", "3x"))


def encoded(message: type[xfrm_message], values: dict[str, Any], *attributes: tuple[str, dict[str, Any]]) -> bytes:
    made = message()
    for name, value in values.items():
        made[name] = value
    made["attrs"] = list(attributes)
    made.encode()
    return bytes(made.data)[16:]


NO_LIMITS = {f"{limit}_{unit}_limit": INFINITY for unit in ("byte", "packet") for limit in ("soft", "hard")}


def flow_fields(flow: Selector) -> dict[str, Any]:
    width = WIDTH[flow.source.version]
    return {
        "sel_daddr": flow.destination.packed,
        "sel_saddr": flow.source.packed,
        "dport": flow.destination_port,
        "dport_mask": 0xFFFF,
        "sport": flow.source_port,
        "sport_mask": 0xFFFF,
        "sel_family": AF[flow.source.version],
        "prefixlen_d": width,
        "prefixlen_s": width,
    }


def an_sa(pair: Pair, version: int, window: int = 64) -> Sa:
    source, destination = ADDRESSES[version]
    integrity, encryption = INTEGRITY[pair.integrity], ENCRYPTION[pair.encryption]
    return Sa(
        selector=Selector(source=source, source_port=31800, destination=destination, destination_port=5100),
        spi=1_000_000_007,
        integrity=pair.integrity,
        encryption=pair.encryption,
        integrity_key=Key(bytes(range(1, 1 + integrity.key)) if integrity else b""),
        encryption_key=Key(bytes(range(101, 101 + encryption.key))),
        lifetime=300,
        replay_window=window,
    )


@pytest.fixture(params=[4, 6])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.mark.parametrize("window", [32, 64, 100])
@pytest.mark.parametrize("pair", sorted(VALID_PAIRS, key=str), ids=str)
def test_new_sa(pair: Pair, version: int, window: int) -> None:
    sa = an_sa(pair, version, window)
    hmac = {"hmac-sha-1-96": ("hmac(sha1)", 160), "hmac-md5-96": ("hmac(md5)", 128)}
    cipher = {"aes-cbc": ("cbc(aes)", 128), "des-ede3-cbc": ("cbc(des3_ede)", 192), "null": ("ecb(cipher_null)", 0)}
    attributes: list[tuple[str, dict[str, Any]]]
    if pair.integrity is Integrity.AES_GMAC or pair.encryption is Encryption.AES_GCM:
        gmac = pair.integrity is Integrity.AES_GMAC
        name, key = ("rfc4543(gcm(aes))", sa.integrity_key) if gmac else ("rfc4106(gcm(aes))", sa.encryption_key)
        values = {"alg_name": name, "alg_key_len": 160, "alg_trunc_len": 128, "alg_key": bytes(key)}
        attributes = [("XFRMA_ALG_AEAD", values)]
    else:
        (name, bits), (cipher_name, cipher_bits) = hmac[pair.integrity], cipher[pair.encryption]
        values = {"alg_name": name, "alg_key_len": bits, "alg_trunc_len": 96, "alg_key": bytes(sa.integrity_key)}
        attributes = [
            ("XFRMA_ALG_AUTH_TRUNC", values),
            (
                "XFRMA_ALG_CRYPT",
                {"alg_name": cipher_name, "alg_key_len": cipher_bits, "alg_key": bytes(sa.encryption_key)},
            ),
        ]
    if window > 32:
        words = {64: 2, 100: 4}[window]
        replay = {"bmp_len": words, "replay_window": window, "bmp": bytes(4 * words)}
        attributes.append(("XFRMA_REPLAY_ESN_VAL", replay))
    expected = encoded(
        usersa_info,
        {
            **flow_fields(sa.selector),
            **NO_LIMITS,
            "id_daddr": sa.selector.destination.packed,
            "id_spi": sa.spi,
            "id_proto": 50,
            "saddr": sa.selector.source.packed,
            "hard_add_expires": 300,
            "reqid": DEFAULT_REQID,
            "family": AF[version],
            "replay_window": window if window <= 32 else 0,
        },
        *attributes,
    )
    assert codec.new_sa(sa, DEFAULT_REQID) == expected
    assert codec.parse_record(expected).sa == sa


@pytest.mark.parametrize("direction", Direction)
def test_policy(version: int, direction: Direction) -> None:
    address = ADDRESSES[version][1]
    policy = Policy(direction=direction, address=address, ports=PortRange(first=5104, count=8))
    inbound = direction is Direction.IN
    selector = {
        "sel_daddr" if inbound else "sel_saddr": address.packed,
        "dport" if inbound else "sport": 5104,
        "dport_mask" if inbound else "sport_mask": 0xFFF8,
        "prefixlen_d" if inbound else "prefixlen_s": WIDTH[version],
        "sel_daddr" if not inbound else "sel_saddr": b"",
        "sel_family": AF[version],
        "dir": 0 if inbound else 1,
    }
    everything = 0xFFFFFFFF
    template = {
        "id_daddr": b"",
        "id_proto": 50,
        "family": AF[version],
        "saddr": b"",
        "reqid": 7,
        "aalgos": everything,
        "ealgos": everything,
        "calgos": everything,
    }
    expected = encoded(userpolicy_info, {**selector, **NO_LIMITS}, ("XFRMA_TMPL", template))
    assert codec.new_policy(policy, 7) == expected
    assert codec.policy_reqids(expected) == (7,)
    assert codec.policy_id(policy) == encoded(userpolicy_id, selector)


def test_sa_id(version: int) -> None:
    sa = an_sa(Pair.parse("hmac-sha-1-96"), version)
    values = {"daddr": sa.selector.destination.packed, "spi": sa.spi, "family": AF[version], "proto": 50}
    assert codec.sa_id(sa.id) == encoded(usersa_id, values)


def test_the_counters_of_a_state() -> None:
    state = bytearray(codec.new_sa(an_sa(Pair.parse("hmac-sha-1-96/aes-cbc"), 4), DEFAULT_REQID))
    struct.pack_into("=4Q3I", state, 160, 840, 3, 1_700_000_000, 1_700_000_001, 0, 5, 6)
    state += struct.pack("=HHQ", 12, 15, 1_700_000_009)  # XFRMA_LASTUSED
    record = codec.parse_record(bytes(state))
    assert (record.bytes, record.packets, record.replay_drops, record.integrity_failures) == (840, 3, 5, 6)
    assert (record.added, record.last_used) == (1_700_000_000, 1_700_000_009)


def test_an_update_keeps_all_but_the_lifetime() -> None:
    """What a GETSA answer has beyond what makes the state (here a mark) is not sent back."""
    sa = an_sa(Pair.parse("hmac-sha-1-96/aes-cbc"), 6)
    state = codec.new_sa(sa, DEFAULT_REQID)
    answer = state + struct.pack("=HHII", 12, 21, 1, 1)
    assert codec.updated_sa(answer, 4000) == codec.new_sa(replace(sa, lifetime=4000), DEFAULT_REQID)


@pytest.mark.parametrize("hard", [False, True])
def test_expire(hard: bool) -> None:
    sa = an_sa(Pair.parse("hmac-sha-1-96"), 4)
    event = codec.new_sa(sa, DEFAULT_REQID)[:224] + struct.pack("=B7x", hard)
    state, said = codec.parse_expire(event)
    assert (state.id, state.reqid, state.selector, said) == (sa.id, DEFAULT_REQID, sa.selector, hard)


def with_byte(offset: int, value: int) -> bytes:
    state = bytearray(codec.new_sa(an_sa(Pair.parse("hmac-sha-1-96"), 4), DEFAULT_REQID))
    state[offset] = value
    return bytes(state)


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(with_byte(76, 51), id="AH"),
        pytest.param(with_byte(214, 1), id="tunnel"),
        pytest.param(with_byte(212, 28), id="family"),
        pytest.param(with_byte(228, ord("x")), id="algorithm"),
        pytest.param(with_byte(224, 255), id="attribute too long"),
        pytest.param(with_byte(0, 0)[:200], id="cut"),
    ],
)
def test_another_users_state_is_told_apart(state: bytes) -> None:
    with pytest.raises(codec.UnknownState):
        codec.parse_record(state)
