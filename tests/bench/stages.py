"""Where the time of a challenge goes: each stage alone, in this process."""

import os
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address

from pcscf.proxy import Proxy
from pcscf.sip.parse import parse
from pcscf.vocabulary import Flow, InstallSecurity, Interface, Received, SecurityInstalled, Send
from tests.bench.challenge import CORE, CORE_PORT, GM, MW, UE_PORT, backend, config
from tests.bench.load import Call, challenge
from xfrm.backend import Backend
from xfrm.model import Sa


def measure(name: str, count: int) -> list[dict[str, object]]:
    """Feed `count` challenges through the core stage by stage."""
    proxy = Proxy(config().settings, random_octets=os.urandom)
    esp = backend(name)
    mw = Flow("UDP", Interface.MW, ip_address(MW), 5060, ip_address(CORE), CORE_PORT)
    spent: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], object]) -> object:
        start = time.process_time_ns()
        result = work()
        spent[stage] = spent.get(stage, 0.0) + (time.process_time_ns() - start) / 1000
        return result

    calls = [Call(number) for number in range(count)]
    datagrams = [call.register(UE_PORT) for call in calls]
    flows = [Flow("UDP", Interface.GM, ip_address(GM), 5060, ip_address(call.address), UE_PORT) for call in calls]
    requests = timed("parse REGISTER", lambda: [parse(data) for data in datagrams])
    assert isinstance(requests, list)
    forwarded = timed(
        "REGISTER to core",
        lambda: [proxy.handle(Received(request, flow), 1.0) for request, flow in zip(requests, flows, strict=True)],
    )
    assert isinstance(forwarded, list)
    answers = [challenge(_sent(actions)) for actions in forwarded]
    responses = timed("parse 401", lambda: [parse(data) for data in answers])
    assert isinstance(responses, list)
    installs = timed("401 to SAs", lambda: [proxy.handle(Received(each, mw), 1.0) for each in responses])
    assert isinstance(installs, list)
    wanted = [action for actions in installs for action in actions if isinstance(action, InstallSecurity)]
    assert len(wanted) == count
    batches: list[tuple[Sa, ...]] = [each.sas for each in wanted]
    timed("install 4 SAs", lambda: _install(esp, batches))
    sent = timed("401 to UE", lambda: [proxy.handle(SecurityInstalled(each.set_id), 1.0) for each in wanted])
    assert isinstance(sent, list)
    for actions in sent:
        assert b"Security-Server" in _sent(actions)
    esp.close()
    timed("two datagrams in, two out", lambda: _datagrams(datagrams))
    return [
        {"name": f"challenge: {stage}", "cpu_us": round(total / count, 1), "count": count, "backend": name}
        for stage, total in spent.items()
    ]


def _install(esp: Backend, batches: list[tuple[Sa, ...]]) -> None:
    for sas in batches:
        esp.install(sas)


def _sent(actions: list[object]) -> bytes:
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
