"""CPU microseconds of the proxy process for whole procedures, through real UDP sockets.

Phones and core are this process, whose cost does not count. All of it is on loopback, where Linux does no ESP
(`net.ipv4.conf.lo.disable_xfrm`): the kernel's part is the SAs that are installed, not the packets that they carry.
"""

import socket
import statistics
import struct
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from enum import Enum
from typing import NamedTuple

from tests.bench.load import CORE_ADDRESS, PORT_UC, PORT_US, SDP, Phone, accept, answer, challenge
from tests.bench.measured import CORE, CORE_PORT, GM, MW, MeasuredProxy, Seen

CLEAR_PORT = 5070
IP_PKTINFO = 8
PAUSE = 0.004
ROUNDS = 5
WINDOW = 32
"""Procedures under way at a time: a busy proxy, not a waiting one."""
REGISTERED = 200
"""Phones that make the calls and messages, in turn."""
CORE_ROUTE = f"<sip:mo@{CORE_ADDRESS};lr>"
PEER = "sip:bob@127.0.0.9:5090"


class Side(Enum):
    CLEAR = "from a phone in clear"
    PROTECTED = "from a phone's port_uc"
    CORE = "from the core"


class Say(NamedTuple):
    """One datagram to the proxy."""

    side: Side
    data: bytes


Procedure = Generator[Sequence[Say], bytes, None]
"""Gives what to send, takes the next datagram of its Call-ID that is no 100; one of each per step."""


def challenged(phone: Phone) -> Procedure:
    """REGISTER, 401."""
    request = yield [Say(Side.CLEAR, phone.register(CLEAR_PORT))]
    response = yield [Say(Side.CORE, challenge(request))]
    assert b" 401 " in response[:16] and b"ck=" not in response, response[:80]
    phone.challenged(response, GM)


def registered(phone: Phone) -> Procedure:
    """REGISTER, 401, REGISTER inside the set, 200."""
    yield from challenged(phone)
    request = yield [Say(Side.PROTECTED, phone.answer())]
    assert b'integrity-protected="yes"' in request, request
    response = yield [Say(Side.CORE, accept(request))]
    assert b" 200 " in response[:16], response[:80]


def message(phone: Phone) -> Procedure:
    """MESSAGE, 200."""
    request = yield [Say(Side.PROTECTED, phone.message(f"m{phone.number}x{phone.sent}"))]
    assert b"P-Asserted-Identity" in request and b"Security-Verify" not in request, request
    response = yield [Say(Side.CORE, answer(request, "200 OK"))]
    assert b" 200 " in response[:16], response[:80]


def call(phone: Phone) -> Procedure:
    """INVITE, 100, 183, PRACK, 200, UPDATE, 200, 180, 200, ACK, BYE, 200."""
    call_id = f"c{phone.number}x{phone.sent}"

    def inside(method: str, number: int, extra: str = "", body: str = "") -> Say:
        data = phone.request(
            method, call_id, number, uri=PEER, to_tag="core", routes=CORE_ROUTE, extra=extra, body=body
        )
        return Say(Side.PROTECTED, data)

    invite = yield [Say(Side.PROTECTED, phone.invite(call_id))]
    record = invite.partition(b"\r\nRecord-Route: ")[2].partition(b"\r\n")[0].decode()
    assert record, invite
    common = f"Record-Route: {CORE_ROUTE}, {record}\r\nContact: <{PEER}>\r\nAllow: INVITE, ACK, BYE, PRACK, UPDATE\r\n"
    sdp = "Content-Type: application/sdp\r\n"
    progress = answer(invite, "183 Session Progress", f"{common}Require: 100rel\r\nRSeq: 1\r\n{sdp}", body=SDP)
    yield [Say(Side.CORE, answer(invite, "100 Trying", tag="")), Say(Side.CORE, progress)]
    prack = yield [inside("PRACK", 2, "RAck: 1 1 INVITE\r\n")]
    yield [Say(Side.CORE, answer(prack, "200 OK"))]
    update = yield [inside("UPDATE", 3, f"Contact: <sip:{phone.address}:{PORT_US}>\r\n{sdp}", SDP)]
    yield [Say(Side.CORE, answer(update, "200 OK", f"Contact: <{PEER}>\r\n{sdp}", body=SDP))]
    yield [Say(Side.CORE, answer(invite, "180 Ringing", common))]
    session = "Require: timer\r\nSession-Expires: 1800;refresher=uac\r\n"
    response = yield [Say(Side.CORE, answer(invite, "200 OK", f"{common}{session}"))]
    assert b" 200 " in response[:16], response[:80]
    acknowledgement = yield [inside("ACK", 1)]
    assert acknowledgement.startswith(b"ACK "), acknowledgement
    bye = yield [inside("BYE", 4)]
    response = yield [Say(Side.CORE, answer(bye, "200 OK"))]
    assert b" 200 " in response[:16], response[:80]


def measure(name: str, count: int) -> Iterator[dict[str, object]]:
    """Each procedure alone on a proxy of its own, after a warm-up of a tenth; `count` is that of the cheapest."""
    new = [Phone(number) for number in range(REGISTERED, REGISTERED + count + count // 10 + 1)]
    yield _measured("challenge", challenged, new, name, count, messages=2, sas=4)
    yield _measured("register", registered, new, name, count // 2, messages=4, sas=4)
    old = [Phone(number) for number in range(REGISTERED)]
    yield _measured("relay_message", message, old, name, count, messages=2, sas=0)
    yield _measured("call", call, old, name, count // 5, messages=12, sas=0)


def compare(name: str, count: int) -> Iterator[dict[str, object]]:
    """What it costs to be looked at: journal, kept messages, metrics and an open page, against nothing of it.

    Both in turn, several times over; the ratio is that of the medians.
    """
    phones = [Phone(number) for number in range(REGISTERED)]
    for what, procedure, messages, sas in (("relay_message", message, 2, 0), ("challenge", challenged, 2, 4)):
        spent: dict[Seen, list[float]] = {Seen.NOT: [], Seen.BY_A_PAGE: []}
        for turn in range(ROUNDS):
            for seen in spent if turn % 2 else reversed(spent):
                some = phones
                if sas:
                    some = [Phone(number) for number in range(REGISTERED, REGISTERED + count + count // 10 + 1)]
                figure = _measured(what, procedure, some, name, count, messages=messages, sas=sas, seen=seen)
                spent[seen].append(float(str(figure["cpu_us"])))
        off, on = (statistics.median(spent[seen]) for seen in spent)
        yield {"name": f"{what}: looked at", "ratio": round(on / off, 3), "off_us": off, "on_us": on, "rounds": ROUNDS}


def _measured(
    what: str,
    procedure: Callable[[Phone], Procedure],
    phones: list[Phone],
    name: str,
    count: int,
    *,
    messages: int,
    sas: int,
    seen: Seen = Seen.AS_IS,
) -> dict[str, object]:
    """`messages` arrive at the proxy and `sas` are made in one procedure. `cpu_us` of relay_message is per message."""
    warm = max(1, count // 10)
    with MeasuredProxy(name, seen) as proxy, Wire() as wire:
        if not sas:
            wire.run(registered(phone) for phone in phones)
        wire.run(procedure(phones[index % len(phones)]) for index in range(warm))
        sas_before, cpu_before = proxy.sas(), proxy.cpu()
        started = time.monotonic()
        wire.run(procedure(phones[index % len(phones)]) for index in range(warm, warm + count))
        wall = time.monotonic() - started
        spent = (proxy.cpu() - cpu_before) / count * 1e6
        made = proxy.sas() - sas_before
    assert made == sas * count, f"{made} SAs for {count} times {what}"
    per_message = round(spent / messages, 1)
    return {
        "name": what,
        "cpu_us": per_message if what == "relay_message" else round(spent, 1),
        "cpu_us_per_message": per_message,
        "messages": messages,
        "wall_us": round(wall / count * 1e6, 1),
        "count": count,
        "backend": name,
    }


class Wire:
    """All phones on three sockets, each with a source address of its own, and the core on another."""

    def __init__(self) -> None:
        self._core = _bound(CORE, CORE_PORT)
        self._clear = _bound("0.0.0.0", CLEAR_PORT)
        self._port_uc = _bound("0.0.0.0", PORT_UC)
        self._port_us = _bound("0.0.0.0", PORT_US)

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *failure: object) -> None:
        for each in (self._core, self._clear, self._port_uc, self._port_us):
            each.close()

    def run(self, procedures: Iterator[Procedure]) -> None:
        """Carry them out, WINDOW at a time and in bursts: this process sleeps while the proxy works."""
        under_way: dict[bytes, Procedure] = {}
        idle = 0
        while True:
            while len(under_way) < WINDOW and (procedure := next(procedures, None)) is not None:
                first = next(procedure)
                under_way[_call_id(first[0].data)] = procedure
                self._say(first)
            if not under_way:
                return
            time.sleep(PAUSE)
            idle += 1
            for data in self._waiting():
                if data.startswith(b"SIP/2.0 100 "):
                    continue
                idle = 0
                call_id = _call_id(data)
                try:
                    self._say(under_way[call_id].send(data))
                except StopIteration:
                    del under_way[call_id]
            assert idle < 1000, f"{len(under_way)} procedures get no answer"

    def _say(self, says: Sequence[Say]) -> None:
        for side, data in says:
            if side is Side.CORE:
                self._core.sendto(data, (MW, 5060))
                continue
            own, port = (self._clear, 5060) if side is Side.CLEAR else (self._port_uc, 5100)
            address = data.partition(b"SIP/2.0/UDP ")[2].partition(b":")[0].decode()
            source = struct.pack("=i4s4s", 0, socket.inet_aton(address), bytes(4))
            own.sendmsg([data], [(socket.IPPROTO_IP, IP_PKTINFO, source)], 0, (GM, port))

    def _waiting(self) -> Iterator[bytes]:
        for each in (self._core, self._clear, self._port_us):
            try:
                while True:
                    yield each.recv(65_536)
            except BlockingIOError:
                pass


def _call_id(data: bytes) -> bytes:
    return data.partition(b"\r\nCall-ID: ")[2].partition(b"\r\n")[0]


def _bound(address: str, port: int) -> socket.socket:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setblocking(False)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    udp.bind((address, port))
    return udp
