"""What we install, read by iproute2: the oracle of `xfrm.codec` that is not ours."""

import re

import pytest

from tests.kernel.agent import Agent
from tests.kernel.world import PORT_PC, PORT_PS, P, World
from xfrm.algorithms import VALID_PAIRS, Encryption, Pair
from xfrm.model import IPAddress, Sa

pytestmark = pytest.mark.kernel_objects

NAMES = {
    "hmac-sha-1-96": "auth-trunc hmac(sha1)",
    "hmac-md5-96": "auth-trunc hmac(md5)",
    "aes-gmac": "aead rfc4543(gcm(aes))",
    "aes-cbc": "enc cbc(aes)",
    "des-ede3-cbc": "enc cbc(des3_ede)",
    "aes-gcm": "aead rfc4106(gcm(aes))",
    "null": "enc ecb(cipher_null)",
}


def words(text: str) -> str:
    return " ".join(text.split())


def transforms(sa: Sa) -> list[str]:
    """The lines of `ip -d xfrm state` for the algorithms: name, key, key bits and, if it has one, ICV bits."""
    if sa.integrity == "aes-gmac":
        return [f"{NAMES['aes-gmac']} 0x{sa.integrity_key.hex()} (160 bits) 128"]
    if sa.encryption is Encryption.AES_GCM:
        return [f"{NAMES['aes-gcm']} 0x{sa.encryption_key.hex()} (160 bits) 128"]
    key_bits = {"hmac-sha-1-96": 160, "hmac-md5-96": 128, "aes-cbc": 128, "des-ede3-cbc": 192}
    lines = [f"{NAMES[sa.integrity]} 0x{sa.integrity_key.hex()} ({key_bits[sa.integrity]} bits) 96"]
    if sa.encryption is Encryption.NULL:
        return [*lines, NAMES["null"]]
    return [*lines, f"{NAMES[sa.encryption]} 0x{sa.encryption_key.hex()} ({key_bits[sa.encryption]} bits)"]


@pytest.mark.parametrize("pair", sorted(VALID_PAIRS, key=str), ids=str)
def test_state(world: World, version: int, pair: Pair) -> None:
    made = world.set(version, pair, lifetime=77)
    world.p(Agent.install, made.sas)
    for sa in made.sas:
        flow = sa.selector
        identity = f"src {flow.source} dst {flow.destination} proto esp spi {sa.spi}"
        shown = words(world.p(Agent.command, *f"ip -d -s xfrm state get {identity}".split()))
        width = 32 if version == 4 else 128
        for expected in (
            f"src {flow.source} dst {flow.destination} proto esp spi {sa.spi:#010x}({sa.spi})",
            "reqid 209411(0x00033203) mode transport",
            *transforms(sa),
            "replay_window 64, bitmap-length 2",
            f"sel src {flow.source}/{width} dst {flow.destination}/{width}"
            f" sport {flow.source_port} dport {flow.destination_port} uid 0",
            "limit: soft (INF)(bytes), hard (INF)(bytes)",
            "expire add: soft 0(sec), hard 77(sec) expire use: soft 0(sec), hard 0(sec)",
        ):
            assert expected in shown


def test_policies(world: World, version: int) -> None:
    text = world.p(Agent.command, "ip", "-d", "-s", "xfrm", "policy", "list")
    local: IPAddress = P[version]
    width, anything = (32, "0.0.0.0") if version == 4 else (128, "::")
    # A block of text for each policy starts at its selector.
    blocks = [words(block) for block in re.split(r"\n(?=src)", text)]
    ours = [block for block in blocks if f"{local}/{width}" in block]
    for port in (PORT_PS, PORT_PC):
        for start in (
            f"src {anything}/0 dst {local}/{width} dport {port} uid 0 dir in action allow",
            f"src {local}/{width} dst {anything}/0 sport {port} uid 0 dir out action allow",
        ):
            (block,) = (found for found in ours if found.startswith(start))
            assert (
                f"tmpl src {anything} dst {anything} proto esp spi 0x00000000(0) reqid 209411(0x00033203)"
                " mode transport level required share any"
                " enc-mask ffffffff auth-mask ffffffff comp-mask ffffffff"
            ) in block
    assert len(ours) == 4


def test_the_kernel_finds_nothing_odd_in_what_is_asked(world: World, version: int) -> None:
    """It says so in its log, and passes over what it does not understand: a dump was of all states, not of ESP's."""

    def complaints() -> list[str]:
        return [line for line in world.wire(Agent.command, "dmesg").splitlines() if "leftover after parsing" in line]

    before = complaints()
    made = world.set(version)
    world.p(Agent.install, made.sas)
    world.p(Agent.update, made.ids, 60)
    assert set(world.p(Agent.records)) == set(made.ids)
    assert world.p(Agent.count) == 4
    world.p(Agent.remove, made.ids)
    assert complaints() == before
