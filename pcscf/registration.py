"""Registrations and the life of their sets of SAs (TS 33.203 7.4, digest A8 and A9), as a table.

Owns which SPIs and ports are taken, which set a protected message belongs to, and when a set ends.
What is said about it in SIP is `proxy`'s and `routing`'s; installing is the server's.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import assert_never

from pcscf.observe import RegistrationChanged, SetChanged, SetEvent
from pcscf.security import AgreementError, Chosen, Parameters, Proposal
from pcscf.turn import Turn
from pcscf.vocabulary import CloseFlow, Flow, Interface, RemoveSecurity, UpdateSecurity
from xfrm.model import IPAddress, PortRange, SaId

LOWEST_OWN_SPI = 1_000_000_000
"""Ten digits always, for parsers that insist on the grammar of TS 33.203 Annex H."""
SPI_QUARANTINE = 300.0
"""Seconds before a freed SPI may serve again."""
BACKSTOP = 60
"""Seconds by which the kernel's hard lifetime outlasts the core's timer: a killed process leaks nothing for long."""
EXPIRY_MARGIN = 30
"""Seconds a set outlives its registration (TS 24.229 5.2.2)."""
TEMP_LIFETIME = 240
"""reg-await-auth, 4 minutes (TS 24.229 7.8)."""


class SetState(Enum):
    """Where a set is in its life (TS 33.203 7.4)."""

    PENDING = "pending"
    """The kernel has been asked; nobody else knows of it."""
    TEMP = "temporary"
    """The challenge may go out; only authentication runs on it."""
    ACTIVE = "active"
    CLOSING = "closing"
    """Its last answer is out; kept until that transaction ends, so that a retransmission is answered inside ESP."""
    GONE = "gone"


class Effect(Enum):
    """What the proxy must do for a step of the table."""

    REMOVE = "remove the SAs"
    EXTEND = "set the lifetime of the registration"
    REPLACE = "remove every other set of the registration"
    LINGER = "remove the SAs when the transaction has ended"


Step = tuple[SetState, tuple[Effect, ...]]
GONE: Step = (SetState.GONE, (Effect.REMOVE,))

SET_LIFE: dict[SetState, dict[SetEvent, Step]] = {
    SetState.PENDING: {
        SetEvent.INSTALLED: (SetState.TEMP, ()),
        SetEvent.REFUSED_BY_KERNEL: (SetState.GONE, ()),
        SetEvent.SUPERSEDED: GONE,
        SetEvent.RESTARTED: GONE,
        SetEvent.EXPIRED: GONE,
    },
    SetState.TEMP: {
        SetEvent.AUTHENTICATED: (SetState.ACTIVE, (Effect.EXTEND, Effect.REPLACE)),
        SetEvent.AUTHENTICATION_FAILED: (SetState.CLOSING, (Effect.LINGER,)),
        SetEvent.DISAGREED: (SetState.CLOSING, (Effect.LINGER,)),
        SetEvent.DEREGISTERED: (SetState.CLOSING, (Effect.LINGER, Effect.REPLACE)),
        SetEvent.SUPERSEDED: GONE,
        SetEvent.RESTARTED: GONE,
        SetEvent.EXPIRED: GONE,
    },
    SetState.ACTIVE: {
        SetEvent.AUTHENTICATED: (SetState.ACTIVE, (Effect.EXTEND,)),
        SetEvent.DEREGISTERED: (SetState.CLOSING, (Effect.LINGER,)),
        SetEvent.SUPERSEDED: GONE,
        SetEvent.EXPIRED: GONE,
    },
    SetState.CLOSING: {
        SetEvent.DRAINED: GONE,
        SetEvent.SUPERSEDED: GONE,
        SetEvent.RESTARTED: GONE,
        SetEvent.EXPIRED: GONE,
    },
    SetState.GONE: {},
}
"""State -> event -> (next state, effects). An event without a row does not concern the set in that state."""

UNPROVEN = frozenset({SetState.PENDING, SetState.TEMP})


@dataclass(slots=True, eq=False, kw_only=True)
class SaSet:
    """Four SAs of one AKA run. No keys: once installed only the backend has them."""

    id: int
    registration: "Registration"
    state: SetState
    parameters: Parameters
    chosen: Chosen
    proposal: Proposal
    security_server: str
    impu: str
    nonce: str
    expires: float
    """When the core's timer ends the set."""
    answering: bool = False
    """The protected REGISTER with the answer is on its way to the core."""

    @property
    def ids(self) -> tuple[SaId, SaId, SaId, SaId]:
        """In the order of TS 33.203 7.1 (digest A1)."""
        ends = self.parameters
        return (
            SaId(ends.pcscf, ends.spi_ps),
            SaId(ends.ue, ends.spi_uc),
            SaId(ends.ue, ends.spi_us),
            SaId(ends.pcscf, ends.spi_pc),
        )

    @property
    def spis(self) -> tuple[int, int, int, int]:
        """spi_uc, spi_us, spi_pc, spi_ps."""
        ends = self.parameters
        return ends.spi_uc, ends.spi_us, ends.spi_pc, ends.spi_ps

    def spi(self, local_port: int, *, incoming: bool) -> int:
        """The SPI on the wire of a message at that port of ours (digest A1)."""
        ends = self.parameters
        if local_port == ends.port_ps:
            return ends.spi_ps if incoming else ends.spi_uc
        return ends.spi_pc if incoming else ends.spi_us


@dataclass(frozen=True, slots=True)
class ContactKey:
    """A registered contact: the same user at another address or with another instance is another one (digest A9)."""

    impi: str
    address: IPAddress
    instance: str


@dataclass(slots=True, eq=False, kw_only=True)
class Registration:
    """One registered contact, or one that tries to become it."""

    key: ContactKey
    path_token: str
    sets: list[SaSet] = field(default_factory=list)
    expires: float = 0.0
    """When the registration ends; 0 while not registered."""
    service_route: tuple[str, ...] = ()
    last_port_pc: int = 0
    """The port_pc of the newest set; the next set takes another (TS 33.203 7.4)."""
    associated_uris: tuple[str, ...] = ()
    """P-Associated-URI values; the first is the default identity."""

    @property
    def registered(self) -> bool:
        return self.expires > 0

    @property
    def unproven(self) -> SaSet | None:
        """The one set that waits for its authentication."""
        return next((each for each in self.sets if each.state in UNPROVEN), None)


class Registrar:
    """Every registration and set of one proxy, and the SPIs and ports they occupy."""

    def __init__(self, turn: Turn, *, ports_ps: PortRange, ports_pc: PortRange, pending_per_source: int) -> None:
        self._turn = turn
        self.ports_ps = ports_ps
        self.ports_pc = ports_pc
        self.pending_per_source = pending_per_source
        self._registrations: dict[ContactKey, Registration] = {}
        self._by_ports: dict[tuple[IPAddress, int, int], SaSet] = {}
        self._by_id: dict[int, SaSet] = {}
        self._by_sa: dict[SaId, SaSet] = {}
        self._own_spis: set[int] = set()
        self._freed: deque[tuple[float, int]] = deque()
        self._unproven: dict[IPAddress, dict[int, SaSet]] = {}
        self._last_set = 0
        self._deadlines: list[tuple[float, int, SaSet | Registration]] = []
        self._watched = 0

    def __iter__(self) -> Iterator[Registration]:
        return iter(tuple(self._registrations.values()))

    def __len__(self) -> int:
        return len(self._registrations)

    def find(self, key: ContactKey) -> Registration | None:
        return self._registrations.get(key)

    def obtain(self, key: ContactKey, path_token: str) -> Registration:
        """The registration of a contact, made with that token if it is new."""
        found = self._registrations.get(key)
        if found is None:
            found = self._registrations[key] = Registration(key=key, path_token=path_token)
        return found

    def forget_if_idle(self, registration: Registration) -> None:
        """Drop a registration that has no set and is not registered."""
        if not registration.sets and not registration.registered:
            self._registrations.pop(registration.key, None)

    def moved_from(self, registration: Registration) -> list[Registration]:
        """Registrations of the same user and instance at other addresses (TS 33.203 7.5: the UE moved)."""
        key = registration.key
        if not key.instance:
            return []
        return [
            each
            for each in self
            if each is not registration and each.key.impi == key.impi and each.key.instance == key.instance
        ]

    def at_ports(self, ue: IPAddress, ue_port: int, own_port: int) -> SaSet | None:
        """The set of a protected message (TS 33.203 7.1: by UE address, UE port and our port)."""
        return self._by_ports.get((ue, ue_port, own_port))

    def by_id(self, set_id: int) -> SaSet | None:
        return self._by_id.get(set_id)

    def by_sa(self, sa_id: SaId) -> SaSet | None:
        return self._by_sa.get(sa_id)

    def crowded_out(self, source: IPAddress) -> SaSet | None:
        """The oldest unanswered challenge of an address that holds as many as it may, to make room for the next."""
        waiting = self._unproven.get(source)
        if waiting is None or len(waiting) < self.pending_per_source:
            return None
        return next((each for each in waiting.values() if not each.answering), None)

    def parameters_for(self, key: ContactKey, proposal: Proposal, pcscf: IPAddress) -> Parameters:
        """Pick ports and SPIs for a new set (TS 33.203 7.1, 7.2). The previous unproven set must be gone already.

        Equal selectors never live side by side: port_pc rotates, and a UE that comes back with the port_uc of a set
        that is still alive (static ports after a reboot) gets the next port_ps, so that the old set stays untouched
        until the UE has proven itself. Raises AgreementError.
        """
        ue = key.address
        for own_port in self.ports_ps:
            holder = self._by_ports.get((ue, proposal.port_uc, own_port))
            if holder is not None and holder.registration.key.impi != key.impi:
                raise AgreementError(
                    403, f"{ue} port {proposal.port_uc} belongs to an SA of another user (TS 33.203 7.1)"
                )
        for spi in (proposal.spi_uc, proposal.spi_us):
            if SaId(ue, spi) in self._by_sa:
                raise AgreementError(503, f"SPI {spi} of {ue} is in use by an earlier SA; offer another")
        port_ps = next(
            (port for port in self.ports_ps if (ue, proposal.port_uc, port) not in self._by_ports),
            None,
        )
        port_pc = self._next_port_pc(key, proposal.port_us)
        if port_ps is None or port_pc is None:
            raise AgreementError(503, f"no free protected port toward {ue} port {proposal.port_us}")
        avoid = {proposal.spi_uc, proposal.spi_us}
        spi_pc = self._fresh_spi(avoid)
        spi_ps = self._fresh_spi(avoid | {spi_pc})
        return Parameters(
            ue=ue,
            pcscf=pcscf,
            port_uc=proposal.port_uc,
            port_us=proposal.port_us,
            port_pc=port_pc,
            port_ps=port_ps,
            spi_uc=proposal.spi_uc,
            spi_us=proposal.spi_us,
            spi_pc=spi_pc,
            spi_ps=spi_ps,
        )

    def _next_port_pc(self, key: ContactKey, port_us: int) -> int | None:
        count, first = self.ports_pc.count, self.ports_pc.first
        registration = self._registrations.get(key)
        start = registration.last_port_pc + 1 - first if registration and registration.last_port_pc else 0
        for step in range(count):
            port = first + (start + step) % count
            if (key.address, port_us, port) not in self._by_ports:
                return port
        return None

    def _fresh_spi(self, avoid: set[int]) -> int:
        while self._freed and self._freed[0][0] <= self._turn.now:
            self._own_spis.discard(self._freed.popleft()[1])
        while True:
            spi = int.from_bytes(self._turn.random_octets(4), "big")
            if spi >= LOWEST_OWN_SPI and spi not in self._own_spis and spi not in avoid:
                return spi

    def add(
        self,
        registration: Registration,
        *,
        parameters: Parameters,
        chosen: Chosen,
        proposal: Proposal,
        security_server: str,
        impu: str,
        nonce: str,
        expires: float,
    ) -> SaSet:
        """Enter a new set in state PENDING; from here on its SPIs and ports are taken."""
        self._last_set += 1
        made = SaSet(
            id=self._last_set,
            registration=registration,
            state=SetState.PENDING,
            parameters=parameters,
            chosen=chosen,
            proposal=proposal,
            security_server=security_server,
            impu=impu,
            nonce=nonce,
            expires=expires,
        )
        registration.sets.append(made)
        registration.last_port_pc = parameters.port_pc
        self._by_id[made.id] = made
        self._by_ports[parameters.ue, parameters.port_uc, parameters.port_ps] = made
        self._by_ports[parameters.ue, parameters.port_us, parameters.port_pc] = made
        self._by_sa.update(dict.fromkeys(made.ids, made))
        self._own_spis.update((parameters.spi_pc, parameters.spi_ps))
        self._unproven.setdefault(parameters.ue, {})[made.id] = made
        self.watch(made)
        return made

    def step(self, sa_set: SaSet, event: SetEvent, detail: str = "", *, linger: float = 0.0) -> None:
        """Let a set take a step of SET_LIFE and carry out its effects; an event without a row does nothing.

        `linger`: seconds that a CLOSING set stays, the timer J of the transaction that was its last.
        """
        row = SET_LIFE[sa_set.state].get(event)
        if row is None:
            return
        was_active = sa_set.state is SetState.ACTIVE
        sa_set.state, effects = row
        registration = sa_set.registration
        if sa_set.state not in UNPROVEN:
            waiting = self._unproven.get(sa_set.parameters.ue)
            if waiting is not None and waiting.pop(sa_set.id, None) is not None and not waiting:
                del self._unproven[sa_set.parameters.ue]
        self._turn.note(
            SetChanged(
                at=self._turn.now,
                impi=registration.key.impi,
                ue=registration.key.address,
                set_id=sa_set.id,
                event=event,
                state=sa_set.state.value,
                spis=sa_set.spis,
                detail=detail,
            )
        )
        for effect in effects:
            match effect:
                case Effect.REMOVE:
                    self._remove(sa_set)
                case Effect.EXTEND:
                    # Its own expiry does not count while it was temporary; a proven one is never cut short.
                    proven = [
                        each.expires
                        for each in registration.sets
                        if each.state is SetState.ACTIVE and (each is not sa_set or was_active)
                    ]
                    sa_set.expires = max([registration.expires + EXPIRY_MARGIN, *proven])
                    lifetime = int(sa_set.expires - self._turn.now) + BACKSTOP
                    self._turn.do(UpdateSecurity(sa_set.ids, lifetime))
                case Effect.REPLACE:
                    for other in tuple(registration.sets):
                        if other is not sa_set:
                            self.step(other, SetEvent.SUPERSEDED, "a newer set took over")
                case Effect.LINGER:
                    sa_set.expires = min(sa_set.expires, self._turn.now + linger)
                    self.watch(sa_set)
                case _:
                    assert_never(effect)
        if sa_set.state is SetState.GONE:
            self._drop(sa_set)
            if registration.registered and not registration.sets:
                self.unregister(registration, "its last set of SAs is gone")
            self.forget_if_idle(registration)

    def unregister(self, registration: Registration, why: str) -> None:
        """The contact is registered no more; its sets end by their own steps."""
        if registration.registered:
            registration.expires = 0.0
            impi = registration.key.impi
            self._turn.note(RegistrationChanged(at=self._turn.now, impi=impi, registered=False, detail=why))
        self.forget_if_idle(registration)

    @property
    def deadline(self) -> float | None:
        return self._deadlines[0][0] if self._deadlines else None

    def watch(self, subject: SaSet | Registration) -> None:
        """Put a deadline for it; when due it finds out whether its subject has been given more time."""
        self._watched += 1
        heapq.heappush(self._deadlines, (subject.expires, self._watched, subject))

    def expire(self) -> None:
        """End what is due."""
        heap = self._deadlines
        while heap and heap[0][0] <= self._turn.now:
            _, _, subject = heapq.heappop(heap)
            if isinstance(subject, SaSet):
                if subject.state is SetState.GONE:
                    continue
                if subject.expires > self._turn.now:
                    self.watch(subject)
                    continue
                self.step(subject, SetEvent.DRAINED if subject.state is SetState.CLOSING else SetEvent.EXPIRED)
            elif subject.registered:
                if subject.expires > self._turn.now:
                    self.watch(subject)
                else:
                    self.unregister(subject, "the registration expired")

    def _remove(self, sa_set: SaSet) -> None:
        ends = sa_set.parameters
        for own_port, ue_port in ((ends.port_ps, ends.port_uc), (ends.port_pc, ends.port_us)):
            self._turn.do(CloseFlow(Flow("TCP", Interface.GM_PROTECTED, ends.pcscf, own_port, ends.ue, ue_port)))
        self._turn.do(RemoveSecurity(sa_set.ids))

    def _drop(self, sa_set: SaSet) -> None:
        ends = sa_set.parameters
        sa_set.registration.sets.remove(sa_set)
        del self._by_id[sa_set.id]
        del self._by_ports[ends.ue, ends.port_uc, ends.port_ps]
        del self._by_ports[ends.ue, ends.port_us, ends.port_pc]
        for sa_id in sa_set.ids:
            del self._by_sa[sa_id]
        for spi in (ends.spi_pc, ends.spi_ps):
            self._freed.append((self._turn.now + SPI_QUARANTINE, spi))
