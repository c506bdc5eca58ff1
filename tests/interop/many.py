"""Many UEs of the lab in one process: registers all at once and stays until its input ends.

    python -m tests.interop.many < PLAN

The plan is one JSON line: {"backend", "subscribers", "ues": [{"impi", "address", "pcscf", "tcp", "offer"}, ...]}.
The answer is one JSON line: for each UE, whether it is registered and what it says.
"""

import asyncio
import json
import resource
import sys
from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from pcscf.lab.gm import pump, release
from pcscf.lab.phone import UeSettings
from pcscf.lab.subscribers import load_subscribers
from pcscf.lab.ue import Ue
from xfrm.algorithms import Pair
from xfrm.backend import Backend, open_backend
from xfrm.model import IPAddress, PortRange, Sa, SaId, SaRecord

ALL_PORTS = PortRange(first=20_480, count=4096)
PORTS_EACH = 4
CLEAR_PORT = 6500


class Shared:
    """One backend for all UEs: protects the ports of an address once, for all of them."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._protected: set[IPAddress] = set()
        self.name = backend.name

    def protect(self, address: IPAddress, ports: Sequence[PortRange]) -> None:
        assert all(each.first in ALL_PORTS for each in ports)
        if address not in self._protected:
            self._protected.add(address)
            self._backend.protect(address, [ALL_PORTS])

    def install(self, sas: Sequence[Sa]) -> None:
        self._backend.install(sas)

    def update(self, ids: Sequence[SaId], lifetime: int) -> None:
        self._backend.update(ids, lifetime)

    def remove(self, ids: Sequence[SaId]) -> None:
        self._backend.remove(ids)

    def records(self) -> list[SaRecord]:
        return self._backend.records()

    def expirations(self) -> list[SaId]:
        return self._backend.expirations()

    def filenos(self) -> tuple[int, ...]:
        return self._backend.filenos()

    def process(self, fileno: int) -> None:
        self._backend.process(fileno)

    def close(self) -> None:
        self._backend.close()


async def main() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    plan = json.loads(sys.stdin.readline())
    subscribers = load_subscribers(Path(plan["subscribers"]))
    backend = Shared(open_backend(plan["backend"]).backend)
    pump(backend)
    on_address: Counter[str] = Counter()
    ues: list[Ue] = []
    for wanted in plan["ues"]:
        place = on_address[wanted["address"]]
        on_address[wanted["address"]] += 1
        settings = UeSettings(
            subscriber=subscribers[wanted["impi"]],
            address=ip_address(wanted["address"]),
            pcscf=ip_address(wanted["pcscf"]),
            tcp=wanted["tcp"],
            port=CLEAR_PORT + place,
            ports=PortRange(first=ALL_PORTS.first + PORTS_EACH * place, count=PORTS_EACH),
            offers=(Pair.parse(wanted["offer"]),),
        )
        ues.append(Ue(settings, backend))
    try:
        for ue in ues:
            await ue.start()
        outcomes = await asyncio.gather(*(ue.register() for ue in ues))
        said = [
            {"registered": each.registered, "status": each.status, "reason": each.reason, "complaints": each.complaints}
            for each in outcomes
        ]
        print(json.dumps(said), flush=True)
        await asyncio.to_thread(sys.stdin.read)
    finally:
        for ue in ues:
            await ue.close()
        release(backend)


if __name__ == "__main__":
    asyncio.run(main())
