"""Feeds the proxy and does what it says: sockets, the ESP backend, the one timer, a clean stop.

With `transport` the only asyncio of the proxy. Decides nothing about SIP: that is `Proxy`.
"""

import asyncio
import gc
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import islice
from typing import assert_never

from pcscf import logs
from pcscf.admin.views import Status
from pcscf.config import Config
from pcscf.guards import Guards
from pcscf.hep import Mirror
from pcscf.keylog import KeyLog
from pcscf.messages import MessageLog, sent_without_keys, without_keys
from pcscf.nexthop import NextHops
from pcscf.observe import Journal, MessageSeen, Problem, Record, RegistrationChanged, SetChanged
from pcscf.proxy import Proxy
from pcscf.ratelimit import JournalLimit
from pcscf.registrar import Registrar
from pcscf.resolve import Resolver
from pcscf.restart import Restart
from pcscf.sip.message import Request, Response
from pcscf.sip.parse import ParseError
from pcscf.sockets import raise_descriptor_limit
from pcscf.store import Store
from pcscf.tally import Tally
from pcscf.transport import Transport
from pcscf.vocabulary import (
    Action,
    CloseFlow,
    Event,
    Flow,
    FlowClosed,
    InstallSecurity,
    Interface,
    Malformed,
    Note,
    Ordered,
    Received,
    RemoveSecurity,
    Resolve,
    Resume,
    SecurityExpired,
    SecurityInstalled,
    SecurityRefused,
    Send,
    Tick,
    UpdateSecurity,
)
from pcscf.witness import WATCHED, Stuck, Witness
from xfrm.backend import Choice
from xfrm.model import IPAddress, SaId, SaRecord, XfrmError

log = logging.getLogger("pcscf")
STUCK_AFTER = 0.5
"""Seconds after which a challenge has waited for long: the UE may need help."""
FEW_DESCRIPTORS = "at most %d TCP connections instead of %d (limits.connections): raise the limit of open files"
AFTER_A_BUG = 1.0
"""Seconds before the timer rings again that has met a bug."""
EXPIRATIONS_EVERY = 1.0
"""Seconds between looks at the backstop lifetimes of the backend."""


def settle_memory() -> None:
    """Let the garbage collector leave alone what stays for ever, and look at the rest less often.

    Registrations are many, long-lived and free of garbage; going through them every 700 objects costs a third of
    the time of a challenge.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class Server:
    """One P-CSCF on one event loop. `start`, then `stop`."""

    def __init__(
        self, config: Config, choice: Choice, key_log: KeyLog | None = None, store: Store | None = None
    ) -> None:
        self.config = config
        self.choice = choice
        self.backend = choice.backend
        self._key_log = key_log
        self._mirror: Mirror | None = None
        self.witness = Witness((config.ipsec.ports_ps, config.ipsec.ports_pc), self.backend.devices)
        self.journal = Journal()
        self._journal_limit = JournalLimit(self._is_contact_in_clear)
        self.started = time.time()
        self.messages = MessageLog(config.admin.message_memory << 20)
        self.traced: set[IPAddress] = set()
        """UEs whose messages on Gm are logged whole."""
        self.proxy = Proxy(config.settings, random_octets=os.urandom)
        self._store = store
        self._restart = Restart(store, self.proxy) if store is not None else None
        self.guards = Guards(self.backend, config.gm.addresses, config.mw.addresses, self._trouble)
        raise_descriptor_limit()
        self._transport = Transport(
            self._on_message,
            self._on_malformed,
            self._on_closed,
            connections=config.limits.connections,
            connections_per_source=config.limits.connections_per_source,
            guard=self.guards.guard,
            keeps=self._keeps,
            on_trouble=self._trouble,
        )
        if self._transport.limit < config.limits.connections:
            log.warning(FEW_DESCRIPTORS, self._transport.limit, config.limits.connections)
        self._resolver = Resolver(
            self.handle,
            families={address.version for address in config.mw.addresses},
            transport=config.mw.core_transport,
            nameservers=config.mw.nameservers,
        )
        self._events: deque[Event] = deque()
        self._event: Event | None = None
        self._sent = b""
        self._busy = False
        self._bugs: set[tuple[str, str, int]] = set()
        """Bugs whose traceback the log has."""
        self._not_before = 0.0
        """When the timer may ring next."""
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Bind, protect, listen. Raises OSError (an address or port) or XfrmError; nothing stays behind then."""
        config, transport = self.config, self._transport
        if (collector := config.hep.endpoint) is not None:
            secret = config.hep.password.get_secret_value()
            self._mirror = Mirror(*collector, capture_id=config.hep.capture_id, password=secret)
            transport.on_message = self._on_mirrored_message
        ports_ps, ports_pc = config.ipsec.ports_ps, config.ipsec.ports_pc
        try:
            for address in config.mw.addresses:
                await transport.listen_udp(address, config.mw.port, Interface.MW)
                await transport.listen_tcp(address, config.mw.port, Interface.MW)
            for address in config.gm.addresses:
                for port in (*ports_ps, *ports_pc):
                    await transport.listen_udp(address, port, Interface.GM_PROTECTED, closed=True)
            # The binds above prove that no other process owns these ports: what guards them and what is left is ours.
            self._adopt()
            for address in config.gm.addresses:
                self.backend.protect(address, (ports_ps, ports_pc))
            transport.open_udp()
            for address in config.gm.addresses:
                for port in ports_ps:
                    await transport.listen_tcp(address, port, Interface.GM_PROTECTED)
                await transport.listen_udp(address, config.gm.port, Interface.GM)
                await transport.listen_tcp(address, config.gm.port, Interface.GM)
        except BaseException:
            await self.stop()
            raise
        loop = asyncio.get_running_loop()
        for fileno in self.backend.filenos():
            loop.add_reader(fileno, self._guarded, self._move_packets, fileno)
        self._watch = loop.call_later(EXPIRATIONS_EVERY, self._look_at_expirations)
        self._arm()

    def _move_packets(self, fileno: int) -> None:
        try:
            self.backend.process(fileno)
        except XfrmError as error:
            asyncio.get_running_loop().remove_reader(fileno)
            self._trouble(f"the ESP backend gets no packets any more: {error.strerror}")

    async def stop(self) -> None:
        """Close sockets, then remove SAs and policies: in this order nothing can leave in clear.

        With a store they stay: the next start goes on with them.
        """
        loop = asyncio.get_running_loop()
        for handle in (self._timer, self._watch):
            if handle is not None:
                handle.cancel()
        await self._resolver.close()
        await self._transport.close()
        if self._restart is not None:
            self._restart.save(loop.time(), last=True)
        for fileno in self.backend.filenos():
            loop.remove_reader(fileno)
        if self._store is not None:
            self._store.close()
            self.backend.leave()
        else:
            self.backend.close()
        self.witness.close()
        if self._mirror is not None:
            self._mirror.close()

    def _adopt(self) -> None:
        """Go on with what an earlier run left. Raises XfrmError."""
        if self._restart is None:
            return
        now = asyncio.get_running_loop().time()
        adopted = self._restart.adopt(self.backend, now)
        if adopted.registrations or adopted.lost or adopted.expired or adopted.unreadable:
            log.info("from the run before: %s", adopted.text)
        why = "its SAs did not survive the restart; it must register again"
        for each in adopted.lost:
            self._record(RegistrationChanged(at=now, impi=each.key.impi, registered=False, detail=why))
        if self._key_log is not None:
            for registration in self.registrar:
                for one in registration.sets:
                    self._key_log.add([record.sa for record in self.backend.records(one.ids)])

    @property
    def registrar(self) -> Registrar:
        return self.proxy.registrar

    @property
    def hops(self) -> NextHops:
        return self.proxy.hops

    def switch_hop(self, name: str, *, enabled: bool) -> bool:
        """Take a next hop out of use, or back; False: there is none of that name."""
        known = self.hops.enable(name) if enabled else self.hops.disable(name)
        if known:
            self.handle(Tick())
        return known

    @property
    def tally(self) -> Tally:
        return self.proxy.tally

    def order(self, order: Ordered) -> None:
        """Do what the operator wants of a contact."""
        self.handle(order)

    def reload(self, new: Config) -> tuple[list[str], list[str]]:
        """Take over what can change while we run; the names of that, and of what needs a restart."""
        self.config, taken, left = self.config.reloaded(new)
        self.proxy.adopt(self.config.settings)
        self._transport.allow(self.config.limits.connections, self.config.limits.connections_per_source)
        return taken, left

    @property
    def status(self) -> Status:
        return Status(
            version=version("pcscf"),
            pid=os.getpid(),
            started=self.started,
            backend=self.backend.name,
            reason=self.choice.reason,
            gm=[str(address) for address in self.config.gm.addresses],
            registered=self.registrar.registered,
            sets=self.registrar.states.total(),
            sas=self.backend.count(),
            connections=len(self._transport),
            clear_lost=self._transport.clear_lost,
            guards_lost=self.guards.lost,
            fault=self.fault,
            **self.proxy.load._asdict(),
        )

    @property
    def fault(self) -> str:
        """Why protected ports are not served; "" while they are."""
        return self.guards.fault

    @property
    def key_export(self) -> bool:
        return self._key_log is not None

    def records(self, ids: Sequence[SaId] | None = None) -> list[SaRecord]:
        """The live SAs, or some, with their counters, from the backend. Raises XfrmError."""
        return self.backend.records(ids)

    def count(self) -> int:
        """SAs there are, whatever we believe. Raises XfrmError."""
        return self.backend.count()

    def drops(self) -> dict[str, int]:
        """What the backend has thrown away and no SA counts."""
        return self.backend.drops()

    def handle(self, event: Event) -> None:
        """Let the proxy take an event and carry out its actions, and those of what they cause.

        Never raises: a bug costs what met it, and nothing that was decided besides.
        """
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                event = self._event = self._events.popleft()
                actions = self._ask(event)
                proxy = self.proxy
                if proxy.registrar.touched or proxy.dialogs.touched or (self._restart and self._restart.behind):
                    # First, so that whoever hears of it finds it true after a `kill -9`, too.
                    self._guarded(self._save)
                for action in actions:
                    try:
                        self._carry_out(action)
                    except Exception as bug:
                        self._guarded(self._not_done, action, bug)
        finally:
            self._busy = False
            self._guarded(self._arm)

    def _ask(self, event: Event) -> list[Action]:
        now = asyncio.get_running_loop().time()
        try:
            actions = self.proxy.handle(event, now)
        except Exception as bug:
            self._tell(bug, "a bug in the proxy; the message that met it is answered 500")
            actions = []
            try:
                actions = self.proxy.apologise(event, now)
            except Exception as another:
                self._tell(another, "a bug in the proxy, while it mended what another has left")
        if self.proxy.bugs:
            bugs = self.proxy.bugs.copy()
            self.proxy.bugs.clear()
            for each in bugs:
                self._tell(each, "a bug in the proxy; what else was to be done is done")
            if isinstance(event, Tick):
                self._not_before = now + AFTER_A_BUG
        return actions

    def _save(self) -> None:
        if self._restart is not None:
            self._restart.save(asyncio.get_running_loop().time())
        else:
            self.registrar.touched.clear()
            self.proxy.dialogs.touched.clear()

    def _not_done(self, action: Action, bug: Exception) -> None:
        """An action met a bug. SAs that may be half installed go, and the set is told that it has none."""
        self._tell(bug, f"a bug while {type(action).__name__} was carried out; the other actions are")
        if isinstance(action, InstallSecurity):
            self._events.append(SecurityRefused(action.set_id, f"a bug: {type(bug).__name__}"))
            self.backend.remove([sa.id for sa in action.sas])

    def _guarded(self, work: Callable[..., object], *arguments: object) -> None:
        """Do something of which no bug may stop the rest."""
        try:
            work(*arguments)
        except Exception as bug:
            self._tell(bug, f"a bug in {getattr(work, '__qualname__', work)}; the rest goes on")

    def _tell(self, bug: Exception, words: str) -> None:
        """Say that there is a bug: with its traceback the first time only, since a peer may bring it about at will."""
        at = bug.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        place = (type(bug).__name__, at.tb_frame.f_code.co_filename if at else "", at.tb_lineno if at else 0)
        if place not in self._bugs:
            self._bugs.add(place)
            log.error("%s", words, exc_info=bug)
        self._trouble(f"a bug in the proxy: {type(bug).__name__}")

    def _carry_out(self, action: Action) -> None:
        match action:
            case Send(data, flow, connect):
                self._sent = data
                if self.guards.fault and flow.interface is Interface.GM_PROTECTED:
                    return
                self._transport.send(data, flow, connect=connect)
                if self._mirror is not None:
                    self._mirror.leaving(data, flow)
            case Note(record):
                self._record(record)
            case InstallSecurity(set_id, sas):
                try:
                    self.backend.install(sas)
                except XfrmError as error:
                    self.tally.backend_errors["install"] += 1
                    self._events.append(SecurityRefused(set_id, error.strerror or str(error)))
                else:
                    if self._key_log is not None:
                        self._guarded(self._key_log.add, sas)
                    self._events.append(SecurityInstalled(set_id))
            case UpdateSecurity(ids, lifetime):
                try:
                    self.backend.update(ids, lifetime)
                except XfrmError as error:
                    self.tally.backend_errors["update"] += 1
                    self._trouble(f"the lifetime of SAs could not be set: {error}")
            case RemoveSecurity(ids):
                try:
                    self.backend.remove(ids)
                except XfrmError as error:
                    self.tally.backend_errors["remove"] += 1
                    self._trouble(f"SAs could not be removed: {error}")
            case CloseFlow(flow):
                self._transport.close_flow(flow)
            case Resolve(query):
                self._resolver.start(query)
            case _:
                assert_never(action)

    def _trouble(self, detail: str, flow: Flow | None = None) -> None:
        self._record(Problem(at=asyncio.get_running_loop().time(), flow=flow, impi="", detail=detail))

    def _record(self, record: Record) -> None:
        admitted = self._journal_limit.admits(record, record.at)
        if admitted:
            self.journal.append(record)
        match record:
            case MessageSeen() if admitted:
                self._keep(record)
            case SetChanged():
                self.tally.events[record.event.value] += 1
            case RegistrationChanged():
                self.tally.events["registered" if record.registered else "not registered"] += 1
            case Problem():
                self.tally.problems += 1
            case _:
                pass
        if admitted:
            logs.write(record)

    def _tell_left_out(self) -> None:
        """Say how much of a flood was not written down."""
        for each in self._journal_limit.left_out(asyncio.get_running_loop().time()):
            self._trouble(f"journal: {each}")
        logs.tell_left_out()

    def _keep(self, seen: MessageSeen) -> None:
        """Keep the text of a message that was just noted: what this turn is about, or what was sent last."""
        if not self.messages.room:
            return
        if seen.incoming:
            assert isinstance(self._event, Received)
            text = without_keys(self._event.message)
        else:
            text = sent_without_keys(self._sent)
        self.messages.keep(self.journal.written, text)
        if seen.flow.remote in self.traced:
            logs.write_message(seen, text)

    def _arm(self) -> None:
        """Have one timer set for the earliest deadline; a later one than set is left to the next ring."""
        deadline = self.proxy.deadline
        if deadline is None:
            return
        deadline = max(deadline, self._not_before)
        if self._timer is not None and self._timer.when() <= deadline:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(deadline, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self.handle(Tick())

    def _look_at_expirations(self) -> None:
        loop = asyncio.get_running_loop()
        if self._watch is not None:
            self.tally.lag = max(0.0, loop.time() - self._watch.when())
            self.tally.worst_lag = max(self.tally.worst_lag, self.tally.lag)
        self._watch = loop.call_later(EXPIRATIONS_EVERY, self._look_at_expirations)
        self._guarded(self.guards.look)
        self._guarded(self._transport.end_idle, self.config.limits.idle_connection)
        self._guarded(self._tell_left_out)
        self._guarded(self._look_at_the_stuck)
        if self.proxy.resuming:
            self.handle(Resume())
        self._guarded(self._look_at_the_backend)

    def _look_at_the_backend(self) -> None:
        try:
            expired = self.backend.expirations()
        except XfrmError as error:
            self.tally.backend_errors["expirations"] += 1
            self._trouble(f"expirations could not be read: {error}")
            return
        if expired:
            self.handle(SecurityExpired(tuple(expired)))

    def _look_at_the_stuck(self) -> None:
        """Have the witness listen to the UEs that leave their challenge unanswered."""
        now = asyncio.get_running_loop().time()
        waiting = islice(self.registrar.unanswered(now, STUCK_AFTER), WATCHED)
        stuck = [Stuck(each.id, each.parameters.ue, each.parameters.pcscf, each.ids) for each in waiting]
        try:
            self.witness.watch(stuck, self.backend.records)
        except XfrmError as error:
            self._trouble(f"the counters of SAs could not be read: {error}")

    def _on_message(self, message: Request | Response, flow: Flow) -> None:
        if self.guards.fault and flow.interface is Interface.GM_PROTECTED:
            self._transport.reset_flow(flow)  # a datagram comes again; a connection has to be told
            return
        self.handle(Received(message, flow))

    def _on_mirrored_message(self, message: Request | Response, flow: Flow) -> None:
        if self._mirror is not None:
            self._guarded(self._mirror.received, message, flow)
        self._on_message(message, flow)

    def _on_malformed(self, error: ParseError, flow: Flow) -> None:
        self.handle(Malformed(error, flow))

    def _keeps(self, flow: Flow) -> bool:
        """Whether a TCP connection must stay although it is idle: a contact without IPsec, or a set of SAs, has it."""
        if flow.interface is Interface.GM_PROTECTED:
            return self.registrar.at_ports(flow.remote, flow.remote_port, flow.local_port) is not None
        contact = self.registrar.in_clear(flow)
        return contact is not None and (contact.registered or self.proxy.dialogs.count(contact) > 0)

    def _is_contact_in_clear(self, flow: Flow) -> bool:
        contact = self.registrar.in_clear(flow)
        return contact is not None and contact.registered

    def _on_closed(self, flow: Flow, reason: str) -> None:
        self.handle(FlowClosed(flow, reason))
