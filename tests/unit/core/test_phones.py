"""REGISTERs as phones send them: odd offers, spacing, case, ports and transports (digest A11, field traps part 2)."""

import pytest

from tests.unit.core.world import CORE, PAIRS, Phone, World, challenge, ok
from xfrm.algorithms import Pair

NUMBERS = "spi-c=45597; spi-s=45598; port-c=8001; port-s=8000"
SIX = [
    f"ipsec-3gpp; alg={alg}; ealg={ealg}; prot=esp; mod=trans; {NUMBERS}"
    for alg in ("hmac-md5-96", "hmac-sha-1-96")
    for ealg in ("des-ede3-cbc", "aes-cbc", "null")
]
LINES = "\r\n".join

OFFERS = {
    "six in one line": ("Security-Client: " + ", ".join(SIX), "hmac-sha-1-96/aes-cbc"),
    "six, a line each": (LINES(f"Security-Client: {entry}" for entry in SIX), "hmac-sha-1-96/aes-cbc"),
    "six, folded": ("Security-Client: " + ",\r\n  ".join(SIX), "hmac-sha-1-96/aes-cbc"),
    "best one last": (
        LINES(
            f"Security-Client: {entry}"
            for entry in [*SIX, SIX[0].replace("hmac-md5-96", "null").replace("des-ede3-cbc", "aes-gcm")]
        ),
        "null/aes-gcm",
    ),
    "no spaces": ("Security-Client: " + ",".join(SIX).replace(" ", ""), "hmac-sha-1-96/aes-cbc"),
    "odd spaces": ("security-client :  " + " , ".join(SIX).replace("=", " =\t"), "hmac-sha-1-96/aes-cbc"),
    "upper case": ("SECURITY-CLIENT: " + ", ".join(SIX).upper(), "hmac-sha-1-96/aes-cbc"),
    "q-values do not outweigh the operator": (
        f"Security-Client: {SIX[3]};q=0.1, {SIX[2]};q=0.9, {SIX[4]};q=0.5",
        "hmac-sha-1-96/aes-cbc",
    ),
    "tls first": ("Security-Client: tls;q=0.9, " + ", ".join(SIX), "hmac-sha-1-96/aes-cbc"),
    "mediasec among them": ("Security-Client: sdes-srtp;mediasec, " + ", ".join(SIX), "hmac-sha-1-96/aes-cbc"),
    "absent ealg is null": (
        f"Security-Client: ipsec-3gpp;alg=hmac-sha-1-96;{NUMBERS}",
        "hmac-sha-1-96/null",
    ),
    "unknown algorithms among them": (
        f"Security-Client: ipsec-3gpp;alg=hmac-sha-256-128;ealg=aes-cbc;{NUMBERS}, "
        f"ipsec-3gpp;alg=hmac-sha-1-96-x;{NUMBERS}, {SIX[5]}",
        "hmac-sha-1-96/null",
    ),
    "impossible pairs among them": (
        f"Security-Client: ipsec-3gpp;alg=null;ealg=aes-cbc;{NUMBERS}, "
        f"ipsec-3gpp;alg=aes-gmac;ealg=aes-cbc;{NUMBERS}, {SIX[2]}",
        "hmac-md5-96/null",
    ),
    "tunnel mode and ah among them": (
        f"Security-Client: {SIX[4].replace('trans', 'UDP-enc-tun')}, {SIX[4].replace('esp', 'ah')}, {SIX[5]}",
        "hmac-sha-1-96/null",
    ),
    "unknown parameters": (f'Security-Client: {SIX[4]};x-new;y="a, b;c"', "hmac-sha-1-96/aes-cbc"),
}


@pytest.mark.parametrize(("lines", "expected"), OFFERS.values(), ids=list(OFFERS))
def test_offer(lines: str, expected: str) -> None:
    world = World()
    phone = Phone(world)
    phone.offer = "port-c=8001;port-s=8000;spi-s=45598"
    at_core = phone.first(security=f"{lines}\r\n")
    assert phone.challenged(at_core).status == 401
    pair = Pair.parse(expected)
    assert {(sa.integrity, sa.encryption) for sa in world.kernel.sas.values()} == {(pair.integrity, pair.encryption)}
    (registration,) = world.proxy.registrar
    assert registration.sets[0].chosen.why.startswith("first of our list that the UE offered (")
    repeated = f"{lines}\r\nSecurity-Verify: {phone.security_server}\r\n"
    answer = phone.answer(security=repeated)
    world.receive(answer, phone.uplink)
    world.receive(ok(world.at_core()), CORE)
    assert world.at_phone()[1].status == 200


def test_the_reason_of_the_choice_is_kept_for_people() -> None:
    world = World()
    phone = Phone(world)
    phone.challenged()
    (registration,) = world.proxy.registrar
    assert registration.sets[0].chosen.why == (
        "first of our list that the UE offered (hmac-sha-1-96/aes-cbc, hmac-sha-1-96/null); not offered: null/aes-gcm"
    )
    assert PAIRS[0] == "null/aes-gcm"


@pytest.mark.parametrize("port", [5060, 5070, 44321])
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_first_register_from_any_port(port: int, transport: str) -> None:
    world = World()
    phone = Phone(world, clear_port=port, transport=transport)
    assert phone.registered().status == 200


@pytest.mark.parametrize(("rport", "expected"), [(b";rport", 40000), (b"", 5060)])
def test_answer_in_clear_goes_to_the_source_address_always(rport: bytes, expected: int) -> None:
    world = World()
    phone = Phone(world, clear_port=40000)
    data = phone.register(sent_by=5060).replace(b";rport", rport).replace(b"UDP 10.45.0.2", b"UDP 203.0.113.9")
    world.receive(data, phone.clear)
    world.receive(challenge(world.at_core()), CORE)
    flow, _ = world.at_phone()
    assert (str(flow.remote), flow.remote_port) == ("10.45.0.2", expected)
