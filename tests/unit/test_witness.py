"""The filter that the kernel runs, against the same said in Python; and what is counted of whom."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

from hypothesis import given
from hypothesis import strategies as st

from pcscf.witness import SIGHTINGS, WATCHED, Instruction, Kind, Stuck, Witness, program
from xfrm.model import PortRange, SaId

PORTS = (PortRange(first=5100, count=2), PortRange(first=5104, count=8))
GM4, GM6 = ip_address("10.45.0.1"), ip_address("fd00:45::1")
FOURS = [IPv4Address(f"10.45.0.{last}") for last in range(2, 2 + WATCHED)]
SIXES = [IPv6Address(f"fd00:45::{last:x}") for last in range(2, 2 + WATCHED)]

UES: list[IPv4Address | IPv6Address] = [*FOURS, *SIXES]


def stuck(number: int, ue: IPv4Address | IPv6Address) -> Stuck:
    gm = GM4 if ue.version == 4 else GM6
    ids = (SaId(gm, 1000 + 10 * number), SaId(ue, 77), SaId(ue, 78), SaId(gm, 1001 + 10 * number))
    return Stuck(number, ue, gm, ids)


def run(steps: list[Instruction], packet: bytes) -> bool:
    """Classic BPF, as far as the program needs it."""
    at = accumulator = index = 0
    while True:
        code, yes, no, constant = steps[at]
        assert 0 <= yes < 256 and 0 <= no < 256 and 0 <= constant < 1 << 32
        at += 1
        if code in (0x20, 0x30, 0x40):
            size = 1 if code == 0x30 else 4
            place = constant + (index if code == 0x40 else 0)
            if place + size > len(packet):
                return False
            accumulator = int.from_bytes(packet[place : place + size], "big")
        elif code == 0xB1:
            index = 4 * (packet[constant] & 15)
        elif code == 0x74:
            accumulator >>= constant
        elif code == 0x15:
            at += yes if accumulator == constant else no
        elif code == 0x05:
            at += constant
        else:
            assert code == 0x06
            return constant > 0


def packet(source: IPv4Address | IPv6Address, protocol: int, body: bytes, options: int = 0) -> bytes:
    if source.version == 4:
        head = bytes((0x45 + options, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0))
        return head + source.packed + GM4.packed + bytes(4 * options) + body
    return b"\x60" + bytes(5) + bytes((protocol, 64)) + source.packed + GM6.packed + body


SOURCES = st.sampled_from([*FOURS, *SIXES, ip_address("10.9.9.9"), ip_address("fd00:99::9")])


@given(
    st.sets(st.sampled_from(UES), min_size=1, max_size=WATCHED),
    SOURCES,
    st.sampled_from([6, 17, 50, 51]),
    st.integers(990, 1400),
    st.integers(0, 3),
)
def test_the_program_lets_pass_what_python_would(
    ues: set[IPv4Address | IPv6Address], source: IPv4Address | IPv6Address, protocol: int, spi: int, options: int
) -> None:
    waiting = [stuck(number, ue) for number, ue in enumerate(ues)]
    inbound = {sa_id.spi for each in waiting for sa_id in each.ids if sa_id.destination == each.pcscf}
    wanted = source in ues or (protocol == 50 and spi in inbound)
    body = spi.to_bytes(4, "big") + bytes(20)
    assert run(program(waiting), packet(source, protocol, body, options)) is wanted


def test_the_longest_program_fits() -> None:
    for ues in (UES[:WATCHED], UES[WATCHED:]):
        assert len(program([stuck(number, ue) for number, ue in enumerate(ues)])) < 4096


def witness(*ues: IPv4Address | IPv6Address) -> Witness:
    made = Witness(PORTS, lambda: ())
    made._stuck = tuple(stuck(number, ue) for number, ue in enumerate(ues))
    return made


def test_what_is_counted_of_whom() -> None:
    made = witness(FOURS[0], FOURS[1], SIXES[0])
    syn, ack = bytes(9) + b"\x02", bytes(9) + b"\x10"

    def saw(source: IPv4Address | IPv6Address, protocol: int, body: bytes) -> None:
        made._saw(bytearray(packet(source, protocol, body + bytes(16))))

    for _ in range(2):
        saw(FOURS[0], 50, (1000).to_bytes(4, "big"))
    saw(FOURS[0], 50, (4242).to_bytes(4, "big"))
    saw(FOURS[5], 50, (1011).to_bytes(4, "big"))
    saw(FOURS[5], 50, (4242).to_bytes(4, "big"))
    saw(SIXES[0], 17, bytes((0, 1)) + (5101).to_bytes(2, "big"))
    saw(SIXES[0], 17, bytes((0, 1)) + (5060).to_bytes(2, "big"))
    saw(FOURS[1], 6, bytes((0, 1)) + (5104).to_bytes(2, "big") + syn)
    saw(FOURS[1], 6, bytes((0, 1)) + (5104).to_bytes(2, "big") + ack)
    found = [made.evidence(number) for number in range(3)]
    assert [{tuple(each): count for each, count in one.seen.items()} for one in found if one] == [
        {(Kind.ESP, FOURS[0], 1000): 2, (Kind.FOREIGN_ESP, FOURS[0], 4242): 1},
        {
            (Kind.ESP, FOURS[5], 1011): 1,
            (Kind.TCP_SYN, FOURS[1], 5104): 1,
            (Kind.CLEAR_TCP, FOURS[1], 5104): 1,
        },
        {(Kind.CLEAR_UDP, SIXES[0], 5101): 1},
    ]


def test_a_stranger_cannot_make_it_grow() -> None:
    made = witness(FOURS[0])
    for spi in range(10_000, 10_200):
        made._saw(bytearray(packet(FOURS[0], 50, spi.to_bytes(4, "big") + bytes(16))))
    found = made.evidence(0)
    assert found is not None and len(found.seen) == SIGHTINGS


def test_there_is_a_socket_only_while_somebody_is_stuck() -> None:
    made = Witness(PORTS, lambda: ())
    made.watch([], lambda ids: [])
    assert made._socket is None and made.evidence(1) is None
    made.watch([stuck(1, FOURS[0])], lambda ids: [])
    found = made.evidence(1)
    if made.unable:  # without the right to listen it says so, and knows that it did not
        assert found is not None and not found.listened
        return
    assert found is not None and found.listened and isinstance(made._socket, socket.socket)
    made.watch([], lambda ids: [])
    assert made._socket is None and made.evidence(1) is found, "what was seen is kept"
