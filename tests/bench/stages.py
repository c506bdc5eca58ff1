"""Where the time of a challenge and of a relayed MESSAGE goes, and what a UE costs in memory: the core alone.

Each stage for all, then the next, in this process.
"""

import gc
import os
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from typing import TypeVar

from pcscf.proxy import Proxy
from pcscf.sip.parse import parse
from pcscf.vocabulary import Action, Flow, InstallSecurity, Interface, Received, SecurityInstalled, Send, Tick
from tests.bench.load import PORT_UC, Phone, accept, answer, challenge
from tests.bench.measured import CORE, CORE_PORT, GM, MW, backend, config
from tests.bench.wire import CLEAR_PORT, REGISTERED
from xfrm.backend import Backend
from xfrm.model import Sa

FROM_CORE = Flow("UDP", Interface.MW, ip_address(MW), 5060, ip_address(CORE), CORE_PORT)
UES = 10_000
"""Of the measurement of memory."""
T = TypeVar("T")


class Stages:
    """CPU time of the named parts of one procedure."""

    def __init__(self, procedure: str, name: str, count: int) -> None:
        self._what = {"procedure": procedure, "backend": name}
        self._count = count
        self._spent: dict[str, float] = {}

    def timed(self, stage: str, work: Callable[[], T]) -> T:
        gc.collect()
        gc.disable()  # it would look at the work of all stages, at the cost of any one
        start = time.process_time_ns()
        result = work()
        self._spent[stage] = (time.process_time_ns() - start) / 1000
        gc.enable()
        return result

    def figures(self) -> Iterator[dict[str, object]]:
        for stage, total in self._spent.items():
            yield {
                "name": f"{self._what['procedure']}: {stage}",
                "cpu_us": round(total / self._count, 1),
                "count": self._count,
                "backend": self._what["backend"],
            }


def measure(name: str, count: int) -> Iterator[dict[str, object]]:
    """Feed `count` challenges and messages through the core stage by stage."""
    yield from _challenge(name, count)
    yield from _relay_message(name, count)


def _challenge(name: str, count: int) -> Iterator[dict[str, object]]:
    proxy, esp, stages = _proxy(), backend(name), Stages("challenge", name, count)
    phones = [Phone(number) for number in range(count)]
    datagrams = [phone.register(CLEAR_PORT) for phone in phones]
    flows = [_clear(phone) for phone in phones]
    requests = stages.timed("parse REGISTER", lambda: [parse(data) for data in datagrams])
    forwarded = stages.timed(
        "REGISTER to core",
        lambda: [proxy.handle(Received(request, flow), 1.0) for request, flow in zip(requests, flows, strict=True)],
    )
    answers = [challenge(_sent(actions)) for actions in forwarded]
    responses = stages.timed("parse 401", lambda: [parse(data) for data in answers])
    installs = stages.timed("401 to SAs", lambda: [proxy.handle(Received(each, FROM_CORE), 1.0) for each in responses])
    wanted = [action for actions in installs for action in actions if isinstance(action, InstallSecurity)]
    assert len(wanted) == count
    batches: list[tuple[Sa, ...]] = [each.sas for each in wanted]
    stages.timed("install 4 SAs", lambda: _install(esp, batches))
    sent = stages.timed("401 to UE", lambda: [proxy.handle(SecurityInstalled(each.set_id), 1.0) for each in wanted])
    for actions in sent:
        assert b"Security-Server" in _sent(actions)
    esp.close()
    stages.timed("two datagrams in, two out", lambda: _datagrams(datagrams))
    return stages.figures()


def _relay_message(name: str, count: int) -> Iterator[dict[str, object]]:
    proxy, stages = _proxy(), Stages("relay_message pair", name, count)
    phones = [Phone(number) for number in range(REGISTERED)]
    for phone in phones:
        _register(proxy, phone, 1.0)
    turns = [phones[index % len(phones)] for index in range(count)]
    datagrams = [phone.message(f"m{index}") for index, phone in enumerate(turns)]
    flows = [_protected(phone) for phone in turns]
    requests = stages.timed("parse request", lambda: [parse(data) for data in datagrams])
    forwarded = stages.timed(
        "plan, edit, send",
        lambda: [proxy.handle(Received(request, flow), 2.0) for request, flow in zip(requests, flows, strict=True)],
    )
    answers = [answer(_sent(actions), "200 OK") for actions in forwarded]
    responses = stages.timed("parse response", lambda: [parse(data) for data in answers])
    back = stages.timed("response back", lambda: [proxy.handle(Received(each, FROM_CORE), 2.0) for each in responses])
    for actions in back:
        assert _sent(actions).startswith(b"SIP/2.0 200 ")
    stages.timed("two datagrams in, two out", lambda: _datagrams(datagrams))
    return stages.figures()


def memory() -> Iterator[dict[str, object]]:
    """Octets of the core for one registered UE, with every transaction over; and for a message while they linger."""
    tracemalloc.start()
    proxy, now = _proxy(), 0.0
    phones = [Phone(number) for number in range(UES)]
    before = _allocated()
    for phone in phones:
        now += 0.1
        _register(proxy, phone, now)
        if phone.number >= REGISTERED:
            phone.security_server = ""  # what the phone knows is not what the core keeps
        _tick(proxy, now)
    now += 1000
    _tick(proxy, now)
    settled = _allocated()
    yield {"name": "memory_per_ue", "bytes": (settled - before) // UES, "count": UES, "backend": "fake"}
    for index in range(UES):
        phone = phones[index % REGISTERED]
        sent = proxy.handle(Received(parse(phone.message(f"m{index}")), _protected(phone)), now)
        proxy.handle(Received(parse(answer(_sent(sent), "200 OK")), FROM_CORE), now)
    lingering = _allocated()
    yield {"name": "memory_per_message", "bytes": (lingering - settled) // UES, "count": UES, "backend": "fake"}
    tracemalloc.stop()


def _proxy() -> Proxy:
    return Proxy(config().settings, random_octets=os.urandom)


def _register(proxy: Proxy, phone: Phone, now: float) -> None:
    """The whole registration."""
    forwarded = proxy.handle(Received(parse(phone.register(CLEAR_PORT)), _clear(phone)), now)
    installs = proxy.handle(Received(parse(challenge(_sent(forwarded))), FROM_CORE), now)
    set_id = next(action.set_id for action in installs if isinstance(action, InstallSecurity))
    phone.challenged(_sent(proxy.handle(SecurityInstalled(set_id), now)), GM)
    forwarded = proxy.handle(Received(parse(phone.answer()), _protected(phone)), now)
    answered = proxy.handle(Received(parse(accept(_sent(forwarded))), FROM_CORE), now)
    assert _sent(answered).startswith(b"SIP/2.0 200 ")


def _tick(proxy: Proxy, now: float) -> None:
    while proxy.deadline is not None and proxy.deadline <= now:
        proxy.handle(Tick(), now)


def _allocated() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _clear(phone: Phone) -> Flow:
    return Flow("UDP", Interface.GM, ip_address(GM), 5060, ip_address(phone.address), CLEAR_PORT)


def _protected(phone: Phone) -> Flow:
    port_ps = int(phone.pcscf.rpartition(":")[2])
    return Flow("UDP", Interface.GM_PROTECTED, ip_address(GM), port_ps, ip_address(phone.address), PORT_UC)


def _install(esp: Backend, batches: list[tuple[Sa, ...]]) -> None:
    for sas in batches:
        esp.install(sas)


def _sent(actions: Sequence[Action]) -> bytes:
    return next(action.data for action in actions if isinstance(action, Send))


def _datagrams(datagrams: list[bytes]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        here.bind((GM, 0))
        own = here.getsockname()
        buffer = memoryview(bytearray(65_536))
        for data in datagrams:
            for _ in range(2):
                here.sendto(data, own)
                here.recvfrom_into(buffer)
