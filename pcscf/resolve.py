"""The DNS: the SIP servers of a name (RFC 3263 4: NAPTR, then SRV, then A and AAAA). Decides nothing about them.

Each question is one task; its answer is a `Resolved`, whatever the DNS does.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from ipaddress import ip_address
from typing import Any, Literal, NamedTuple

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver
from dns.rdtypes.IN.NAPTR import NAPTR
from dns.rdtypes.IN.SRV import SRV

from pcscf.vocabulary import Query, Resolved, Target
from xfrm.model import IPAddress

Transport = Literal["UDP", "TCP"]

log = logging.getLogger("pcscf")
TRY = 1.5
"""Seconds for one try at one server of the DNS."""
LIFETIME = 5.0
"""Seconds for one kind of record, with all tries."""
WHOLE = 9.0
"""Seconds for everything about one name."""
SERVICES = 8
"""SRV names, and servers of each, that are looked at; a zone that holds more is cut."""
TARGETS = 32
SIP_PORT = 5060
SAYS_NO = 30.0
"""Seconds for which it is believed that there is nothing."""
NAPTR_SERVICES: dict[str, Transport] = {"SIP+D2U": "UDP", "SIP+D2T": "TCP"}


class _Nothing(Exception):
    """The DNS says that there is no such record."""


class _Silent(Exception):
    """The DNS gives no answer that could be used."""


class _Refused(_Silent):
    """The DNS answers, but with an error."""


class _Service(NamedTuple):
    """Servers that all have the transport: where SRV is to be asked, or where it was said to be."""

    transport: Transport
    name: str


class Resolver:
    """Asks on one event loop; `on_resolved` hears each answer. `families`: 4 and 6 as we can reach them.

    `transport` is that of a name of which the DNS does not say it. Without `nameservers` those of the system are asked.
    """

    def __init__(
        self,
        on_resolved: Callable[[Resolved], None],
        *,
        families: Collection[int],
        transport: Transport,
        nameservers: Sequence[IPAddress] = (),
        port: int = 53,
    ) -> None:
        self._on_resolved = on_resolved
        self._kinds = [kind for family, kind in ((4, "A"), (6, "AAAA")) if family in families]
        self._transport = transport
        self._nameservers = [str(address) for address in nameservers]
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, query: Query) -> None:
        """Ask; the answer comes through `on_resolved`."""
        task = asyncio.get_running_loop().create_task(self._answer(query))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop asking; nothing is answered any more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, query: Query) -> None:
        self._on_resolved(await self.resolve(query))

    async def resolve(self, query: Query) -> Resolved:
        """The servers of a name in order. Never raises; `error` is for people."""
        try:
            async with asyncio.timeout(WHOLE):
                return await self._servers(query, self._ask())
        except _Nothing as nothing:
            return Resolved(query, (), SAYS_NO, str(nothing))
        except _Silent as silent:
            return Resolved(query, (), 0.0, str(silent))
        except TimeoutError:
            return Resolved(query, (), 0.0, f"the DNS took longer than {WHOLE:.0f} s")
        except Exception as bug:  # the peer's bytes went through a library; the proxy goes on
            log.exception("a bug in the way of a DNS answer")
            return Resolved(query, (), 0.0, f"the answer of the DNS cannot be used: {type(bug).__name__}")

    async def _servers(self, query: Query, asker: "_Asker") -> Resolved:
        if query.port:
            targets = await self._addresses(asker, query.host, query.port, query.transport or self._transport, 0, 0)
            return Resolved(query, tuple(targets[:TARGETS]), asker.ttl)
        targets = await self._by_services(asker, await self._services(query, asker)) or await self._addresses(
            asker, query.host, SIP_PORT, query.transport or self._transport, 0, 0
        )
        return Resolved(query, tuple(targets[:TARGETS]), asker.ttl)

    async def _services(self, query: Query, asker: "_Asker") -> list[_Service]:
        """Where to ask for SRV, the best first (RFC 3263 4.1)."""
        order: tuple[Transport, ...] = ("TCP", "UDP") if self._transport == "TCP" else ("UDP", "TCP")
        if query.transport:
            order = (query.transport,)
        else:
            try:
                found = await asker.ask(query.host, "NAPTR")
            except (_Nothing, _Refused):  # not every forwarder knows NAPTR
                pass
            else:
                records: list[NAPTR] = sorted(found, key=lambda each: (each.order, each.preference))
                named = [
                    _Service(NAPTR_SERVICES[service], each.replacement.to_text(omit_final_dot=True))
                    for each in records
                    if (service := each.service.decode("ascii", "replace").upper()) in NAPTR_SERVICES
                    and each.flags.lower() == b"s"
                ]
                if named:
                    return named[:SERVICES]
        return [_Service(transport, f"_sip._{transport.lower()}.{query.host}") for transport in order]

    async def _by_services(self, asker: "_Asker", services: list[_Service]) -> list[Target]:
        """The servers that SRV names (RFC 3263 4.2); [] where there is no SRV record. Raises _Nothing or _Silent."""
        targets: list[Target] = []
        errors: list[BaseException] = []
        for rank, service in enumerate(services):
            try:
                found: list[SRV] = await asker.ask(service.name, "SRV")
            except _Nothing:
                continue
            errors.append(_Nothing(f"{service.name}: SIP is not served there"))
            answers = await asyncio.gather(
                *(
                    self._addresses(
                        asker,
                        each.target.to_text(omit_final_dot=True),
                        each.port,
                        service.transport,
                        (rank << 16) + each.priority,  # every server of a service comes before those of the next
                        each.weight,
                    )
                    for each in sorted(found, key=lambda each: each.priority)[:SERVICES]
                    if each.target != dns.name.root  # "decidedly not available" (RFC 2782)
                ),
                return_exceptions=True,
            )
            for answer in answers:
                if isinstance(answer, BaseException):
                    errors.append(answer)
                else:
                    targets += answer
        if errors and not targets:
            raise _worst(errors)
        return targets

    async def _addresses(
        self, asker: "_Asker", host: str, port: int, transport: Transport, priority: int, weight: int
    ) -> list[Target]:
        """The servers at the addresses of a host. Raises _Nothing or _Silent where no family has one."""
        answers = await asyncio.gather(*(asker.ask(host, kind) for kind in self._kinds), return_exceptions=True)
        targets = [
            Target(transport, ip_address(record.address), port, priority, weight)
            for answer in answers
            if not isinstance(answer, BaseException)
            for record in answer[:SERVICES]
        ]
        if not targets:
            raise _worst([answer for answer in answers if isinstance(answer, BaseException)])
        return targets

    def _ask(self) -> "_Asker":
        """A resolver for one question; the system's choice may have changed since the last. Raises _Silent."""
        try:
            made = dns.asyncresolver.Resolver(configure=not self._nameservers)
        except (dns.exception.DNSException, OSError) as error:
            raise _Silent(f"the system names no DNS server ({error}); set mw.nameservers") from error
        if self._nameservers:
            made.nameservers = list(self._nameservers)
            made.port = self._port
        made.timeout, made.lifetime = TRY, LIFETIME
        return _Asker(made)


class _Asker:
    """The questions about one name; `ttl` is the shortest of what was found."""

    def __init__(self, resolver: dns.asyncresolver.Resolver) -> None:
        self._resolver = resolver
        self._shortest: float | None = None

    @property
    def ttl(self) -> float:
        return 0.0 if self._shortest is None else self._shortest

    async def ask(self, name: str, kind: str) -> list[Any]:
        """Records of one kind, CNAMEs followed. Raises _Nothing or _Silent."""
        try:
            answer = await self._resolver.resolve(name, kind, search=False)
        except dns.resolver.NXDOMAIN as error:
            raise _Nothing(f"{name} does not exist (NXDOMAIN)") from error
        except dns.resolver.NoAnswer as error:
            raise _Nothing(f"{name} has no {kind} record") from error
        except dns.resolver.LifetimeTimeout as error:
            raise _Silent(f"no answer from the DNS about {name} ({kind}) in {LIFETIME:.0f} s") from error
        except dns.resolver.NoNameservers as error:
            raise _Refused(f"the DNS refuses {name} ({kind}): {_causes(error)}") from error
        except dns.exception.DNSException as error:
            raise _Silent(f"{name} ({kind}) cannot be asked: {error or type(error).__name__}") from error
        except OSError as error:
            raise _Silent(f"the DNS cannot be asked about {name}: {error.strerror or error}") from error
        ttl = float(answer.chaining_result.minimum_ttl)
        self._shortest = ttl if self._shortest is None else min(self._shortest, ttl)
        return list(answer)


def _worst(errors: Sequence[BaseException]) -> BaseException:
    """What to tell of several errors: one that leaves it open, before the last that says no."""
    return next((each for each in errors if not isinstance(each, _Nothing)), errors[-1])


def _causes(error: dns.resolver.NoNameservers) -> str:
    """What each DNS server answered, for people."""
    tried = error.kwargs.get("errors", [])
    return ", ".join(dict.fromkeys(str(each[3]) for each in tried)) or "no server can be asked"
