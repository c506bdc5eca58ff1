"""The core of the lab on sockets: I-CSCF, S-CSCF and HSS in one process, on UDP and TCP of one address and port.

What a REGISTER is answered is `registrar`; here it is received, delayed and sent.
"""

import asyncio
import os
from collections.abc import Callable, Mapping

from pcscf.lab.challenge import Manners
from pcscf.lab.endpoint import Endpoint, Seen, reply_flow
from pcscf.lab.hss import Hss
from pcscf.lab.registrar import Registrar, RegistrarSettings, Reply
from pcscf.lab.subscribers import Subscriber
from pcscf.sip.message import Request, header, response_to
from pcscf.sip.parse import ParseError
from pcscf.sip.transaction import CORE_TIMERS, Transaction
from pcscf.vocabulary import Flow, Interface


class Scscf:
    """The simulated core. Change what it does wrong through `registrar.set_faults`."""

    def __init__(
        self,
        settings: RegistrarSettings,
        subscribers: Mapping[str, Subscriber],
        *,
        on_seen: Callable[[Seen], None] = lambda seen: None,
        random_octets: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.settings = settings
        self._hss = Hss(subscribers, random_octets)
        self.registrar = Registrar(settings, self._hss, random_octets)
        self._random_octets = random_octets
        self._endpoint = Endpoint(self._requested, timers=CORE_TIMERS, on_seen=on_seen)
        self._late: set[asyncio.TimerHandle] = set()

    async def start(self) -> None:
        """Listen. Raises OSError."""
        transport = self._endpoint.transport
        try:
            await transport.listen_udp(self.settings.address, self.settings.port, Interface.MW)
            await transport.listen_tcp(self.settings.address, self.settings.port, Interface.MW)
        except OSError:
            await transport.close()
            raise

    async def close(self) -> None:
        for handle in self._late:
            handle.cancel()
        self._late.clear()
        await self._endpoint.close()

    def _requested(self, request: Request, transaction: Transaction[Flow]) -> None:
        try:
            flow = reply_flow(request, transaction.flow)
        except ParseError:
            return  # nowhere to send an answer
        if request.method != "REGISTER":
            status = 405 if self._hss.serves(request.uri) else 404
            headers = [header("Allow", "REGISTER")] if status == 405 else []
            answer = response_to(request, status, headers=headers, to_tag=self._random_octets(4).hex())
            self._endpoint.respond(transaction, answer, flow)
            return
        if self.settings.manners is Manners.KAMAILIO:
            self._endpoint.respond(transaction, response_to(request, 100), flow)
        reply = self.registrar.register(request, asyncio.get_running_loop().time())
        if reply is None:
            return
        if reply.delay:
            self._respond_late(transaction, reply, flow)
        else:
            self._endpoint.respond(transaction, reply.response, flow)

    def _respond_late(self, transaction: Transaction[Flow], reply: Reply, flow: Flow) -> None:
        def respond() -> None:
            self._late.discard(handle)
            self._endpoint.respond(transaction, reply.response, flow)

        handle = asyncio.get_running_loop().call_later(reply.delay, respond)
        self._late.add(handle)
