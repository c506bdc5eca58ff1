"""Keeps registrations and their sets: which SPIs and ports are taken, which set a message belongs to, when one ends.

The life of a set is the table in `registration` (TS 33.203 7.4); here it takes its steps. What is said about it in
SIP is `register`'s; installing is the server's.
"""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import assert_never

from pcscf import repair
from pcscf.allocator import Allocator
from pcscf.observe import RegistrationChanged, SetEvent
from pcscf.pending import Pending
from pcscf.registration import (
    ESTABLISHED,
    MOST_IDENTITIES,
    MOST_SETS,
    SET_LIFE,
    UNPROVEN,
    Binding,
    ContactKey,
    Effect,
    Registration,
    SaSet,
    SetState,
    identify,
    is_same_identity,
    names,
)
from pcscf.security import Chosen, Parameters, Proposal
from pcscf.sip.share import Share
from pcscf.sip.transaction import GM_TIMERS
from pcscf.turn import Turn
from pcscf.vocabulary import CloseFlow, Flow, Interface, RemoveSecurity, UpdateSecurity, source_of
from xfrm.model import IPAddress, PortRange, SaId

BACKSTOP = 60
"""Seconds by which the kernel's hard lifetime outlasts the core's timer: a killed process leaks nothing for long."""
EXPIRY_MARGIN = 30
"""Seconds a set outlives its registration (TS 24.229 5.2.2)."""
SPARE_ALARMS = 64
"""Alarms of what is gone that may wait beside those of the living."""
NEAR_ITS_END = 10.0
"""Seconds before the end of the set in use at which a new one takes over unasked (TS 33.203 7.4.2a)."""


class Registrar:
    """Every registration and set of one proxy, and the SPIs and ports they occupy."""

    def __init__(
        self,
        turn: Turn,
        *,
        ports_ps: PortRange,
        ports_pc: PortRange,
        pending: int,
        pending_per_source: int,
        drain: float = GM_TIMERS.timeout,
    ) -> None:
        self.drain = drain
        """Seconds an old set lives on for pending transactions: 64*T1 (TS 24.229 5.2.2)."""
        self._turn = turn
        self.pending = Pending(pending, pending_per_source)
        self._guests: Share[Registration] = Share(pending, pending_per_source)
        """UEs that are not registered and make emergency requests."""
        self.on_set_gone: Callable[[SaSet], None] = lambda sa_set: None
        self.on_ended: Callable[[Registration], None] = lambda registration: None
        """Told of a contact that is registered no more."""
        self._registrations: dict[ContactKey, Registration] = {}
        self._by_token: dict[str, Registration] = {}
        self._by_impi: dict[str, dict[ContactKey, Registration]] = {}
        self._contacts: dict[str, tuple[Registration, ...]] = {}
        """Those of `_by_impi` that are registered: anybody can have a contact of a user tried."""
        self._by_clear: dict[Flow, Registration] = {}
        self.allocator = Allocator(turn, ports_ps=ports_ps, ports_pc=ports_pc)
        self._by_ports, self._by_sa = self.allocator.by_ports, self.allocator.by_sa
        self._by_id: dict[int, SaSet] = {}
        self._unproven: dict[int, SaSet] = {}
        """Sets that wait for their authentication, the oldest first."""
        self.registered = 0
        """Contacts that are."""
        self.states: Counter[SetState] = Counter()
        """Live sets by state."""
        self.touched: dict[str, Registration] = {}
        """Contacts that have changed since somebody emptied this, by token."""
        self._last_set = 0
        self._deadlines: list[tuple[float, int, int | str]] = []
        """Names of sets (their id) and of registrations (their token): an alarm does not keep what has ended."""
        self._watched = 0

    def __iter__(self) -> Iterator[Registration]:
        return iter(tuple(self._registrations.values()))

    def __len__(self) -> int:
        return len(self._registrations)

    def newest(self) -> Iterator[Registration]:
        """Every contact, the newest first, as long as none comes or goes."""
        return reversed(self._registrations.values())

    def allow(self, pending: int, pending_per_source: int) -> None:
        """So many unanswered challenges at most from now on, and so many of one source; likewise guests."""
        self.pending.limit = self._guests.limit = pending
        self.pending.per_source = self._guests.of_one = pending_per_source

    def find(self, key: ContactKey) -> Registration | None:
        return self._registrations.get(key)

    def of_user(self, impi: str) -> tuple[Registration, ...]:
        """Every contact of a user, with those that somebody tries to register."""
        return tuple(self._by_impi.get(impi, {}).values())

    def contacts_of(self, impi: str) -> tuple[Registration, ...]:
        """Every registered contact of a user."""
        return self._contacts.get(impi, ())

    def by_token(self, token: str) -> Registration | None:
        """The contact whose Path or Record-Route has this token."""
        return self._by_token.get(token)

    def in_clear(self, flow: Flow) -> Registration | None:
        """The contact that was admitted without IPsec and talks from there."""
        return self._by_clear.get(flow)

    def obtain(self, key: ContactKey, path_token: str) -> Registration:
        """The registration of a contact, made with that token if it is new."""
        found = self._registrations.get(key)
        if found is None:
            found = self._registrations[key] = Registration(key=key, path_token=path_token)
            self._by_token[path_token] = found
            self._by_impi.setdefault(key.impi, {})[key] = found
        return found

    def restore(self, registration: Registration) -> None:
        """A registered contact of an earlier run goes on. Raises ValueError where it cannot be beside the others."""
        key, token = registration.key, registration.path_token
        if not registration.bindings or key in self._registrations or token in self._by_token:
            raise ValueError(f"{key.impi} at {key.address} is there already, or not registered")
        numbers = {each.id for each in registration.sets}
        if len(numbers) < len(registration.sets) or not numbers.isdisjoint(self._by_id):
            raise ValueError(f"a set of {key.impi} at {key.address} has the number of another")
        if not self.allocator.are_free(registration.sets):
            raise ValueError(f"SPIs or ports of {key.impi} at {key.address} are those of another")
        self._registrations[key] = self._by_token[token] = registration
        self._by_impi.setdefault(key.impi, {})[key] = registration
        self._contacts[key.impi] = (*self.contacts_of(key.impi), registration)
        self.registered += 1
        identify(registration)
        self.admit_in_clear(registration, registration.clear)
        if registration.clear is not None and registration.clear.transport == "TCP":
            self.cut_off(registration.clear)
        for each in registration.sets:
            self._enter(each)
            self._last_set = max(self._last_set, each.id)
        self.watch(registration)

    def _enter(self, sa_set: SaSet) -> None:
        """From here on its SPIs and ports are taken."""
        self.states[sa_set.state] += 1
        self._by_id[sa_set.id] = sa_set
        self.allocator.take(sa_set)
        self.watch(sa_set)

    def forget_if_idle(self, registration: Registration) -> None:
        """Drop a registration that has no set and is not registered."""
        if (
            registration.sets
            or registration.registered
            or self._registrations.get(registration.key) is not registration
        ):
            return
        registration.alarm = math.inf
        key = registration.key
        del self._registrations[key]
        del self._by_token[registration.path_token]
        self.admit_in_clear(registration, None)
        others = self._by_impi[key.impi]
        del others[key]
        if not others:
            del self._by_impi[key.impi]
        if not key.impi:
            self._guests.remove(source_of(key.address), registration)

    def unanswered(self, now: float, wait: float) -> Iterator[SaSet]:
        """Sets whose challenge the UE has left unanswered for `wait` seconds, the newest first."""
        for each in reversed(self._unproven.values()):
            if each.state is SetState.TEMP and not each.answering and now - each.made >= wait:
                yield each

    def answers(self, sa_set: SaSet) -> None:
        """The UE has answered its challenge inside ESP, and the core is asked what it thinks of it."""
        sa_set.answering = True
        self.pending.discard(sa_set)

    def admit_in_clear(self, registration: Registration, flow: Flow | None) -> None:
        """Let a contact without IPsec talk from this flow, and from no other; None: from none."""
        if registration.clear is not None and self._by_clear.get(registration.clear) is registration:
            del self._by_clear[registration.clear]
        registration.clear, registration.cut_off = flow, False
        self.touched[registration.path_token] = registration
        if flow is not None:
            self._by_clear[flow] = registration

    def cut_off(self, flow: Flow) -> None:
        """The connection of a contact without IPsec is gone. Who opens the next one from there may be somebody else:
        the registration stands, but the contact neither sends nor gets anything before it has registered again.
        """
        registration = self._by_clear.get(flow)
        if registration is not None and registration.registered:
            del self._by_clear[flow]
            registration.cut_off = True

    def welcome(self, flow: Flow) -> bool:
        """Let a UE that is not registered make emergency requests from a flow; False where too many do (digest C10)."""
        source, key = source_of(flow.remote), ContactKey("", flow.remote, str(flow))
        if key not in self._registrations:  # else it was registered in between
            if not self._guests.has_room(source):
                return False
            self._guests.add(source, self.obtain(key, f"sos-{self._turn.token(8)}"))
        self.admit_in_clear(self._registrations[key], flow)
        return True

    def moved_from(self, registration: Registration) -> list[Registration]:
        """Contacts of the same user and instance at other addresses (TS 33.203 7.5: the UE moved)."""
        key = registration.key
        if not key.instance:
            return []
        others = self.contacts_of(key.impi)
        return [each for each in others if each is not registration and each.key.instance == key.instance]

    def at_ports(self, ue: IPAddress, ue_port: int, own_port: int) -> SaSet | None:
        """The set of a protected message (TS 33.203 7.1: by UE address, UE port and our port)."""
        return self._by_ports.get((ue, ue_port, own_port))

    def by_id(self, set_id: int) -> SaSet | None:
        return self._by_id.get(set_id)

    def by_sa(self, sa_id: SaId) -> SaSet | None:
        return self._by_sa.get(sa_id)

    def parameters_for(self, key: ContactKey, proposal: Proposal, pcscf: IPAddress) -> Parameters:
        """Pick ports and SPIs for a new set; unanswered challenges in clear that hold the last make way for it.

        The previous unproven set must be gone already. Raises AgreementError.
        """
        for each in self.allocator.in_the_way(key, proposal):
            self.step(each, SetEvent.SUPERSEDED, "a newer challenge has the same numbers")
        return self.allocator.parameters_for(key, self._registrations.get(key), proposal, pcscf)

    def add(
        self,
        registration: Registration,
        *,
        parameters: Parameters,
        chosen: Chosen,
        proposal: Proposal,
        impu: str,
        nonce: str,
        expires: float,
        began_on: SaSet | None,
    ) -> SaSet:
        """Enter a new set in state PENDING; from here on its SPIs and ports are taken.

        A contact has no more than MOST_SETS: the oldest that nothing needs makes room.
        """
        spare = [each for each in registration.sets if each is not began_on and each is not registration.in_use]
        for each in spare[: max(0, len(registration.sets) + 1 - MOST_SETS)]:
            repair.end(self, self._turn, each, SetEvent.SUPERSEDED, "too many sets of one contact")
        self._last_set += 1
        made = SaSet(
            id=self._last_set,
            registration=registration,
            state=SetState.PENDING,
            parameters=parameters,
            chosen=chosen,
            proposal=proposal,
            impu=impu,
            nonce=nonce,
            expires=expires,
            made=self._turn.now,
            began_on=began_on,
        )
        self.touched[registration.path_token] = registration
        registration.sets.append(made)
        registration.last_port_pc = parameters.port_pc
        self._unproven[made.id] = made
        if began_on is None:
            self.pending.add(made)
        self._enter(made)
        return made

    def step(self, sa_set: SaSet, event: SetEvent, detail: str = "", *, linger: float = 0.0) -> None:
        """Let a set take a step of SET_LIFE and carry out its effects; an event without a row does nothing.

        `linger`: seconds that a CLOSING set stays, the timer J of the transaction that was its last.
        """
        row = SET_LIFE[sa_set.state].get(event)
        if row is None:
            return
        was = sa_set.state
        sa_set.state, effects = row
        self.states[was] -= 1
        self.states[sa_set.state] += 1
        registration = sa_set.registration
        self.touched[registration.path_token] = registration
        if sa_set.state not in UNPROVEN and self._unproven.pop(sa_set.id, None) is not None:
            self.pending.discard(sa_set)
        self._turn.note(sa_set.changed(event, was, detail, self._turn.now, self._turn.call_id))
        for effect in effects:
            self._apply(effect, sa_set, linger=linger, was=was)
        if sa_set.state is SetState.GONE:
            self.drop(sa_set)
            if was is SetState.ACTIVE and (successor := registration.latest) is not None:
                self.step(successor, SetEvent.USED, "the set in use has ended")
            if registration.registered and not registration.sets and registration.clear is None:
                self.unregister(registration, "its last set of SAs is gone")
            self.forget_if_idle(registration)

    def _apply(self, effect: Effect, sa_set: SaSet, *, linger: float, was: SetState) -> None:
        registration = sa_set.registration
        match effect:
            case Effect.REMOVE:
                self.remove(sa_set)
            case Effect.EXTEND:
                # Its own expiry does not count while it was temporary; a proven one is never cut short.
                proven = [
                    each.expires
                    for each in registration.sets
                    if each.state in ESTABLISHED and (each is not sa_set or was in ESTABLISHED)
                ]
                self._let_live(sa_set, max([registration.expires + EXPIRY_MARGIN, *proven]))
            case Effect.REPLACE | Effect.SUCCEED:
                keep = (sa_set, sa_set.began_on if effect is Effect.SUCCEED else None)
                for other in tuple(registration.sets):
                    if other not in keep:
                        repair.end(self, self._turn, other, SetEvent.SUPERSEDED, "a newer set took over")
            case Effect.TAKE_OVER:
                for other in tuple(registration.sets):
                    if other is not sa_set:
                        repair.end(self, self._turn, other, SetEvent.RETIRED, "the UE uses the new set")
            case Effect.DRAIN:
                self._let_live(sa_set, min(sa_set.expires, self._turn.now + self.drain))
                self.watch(sa_set)
            case Effect.LINGER:
                sa_set.expires = min(sa_set.expires, self._turn.now + linger)
                self.watch(sa_set)
            case _:
                assert_never(effect)

    def _let_live(self, sa_set: SaSet, until: float) -> None:
        sa_set.expires = until
        self._turn.do(UpdateSecurity(sa_set.ids, max(0, int(until - self._turn.now)) + BACKSTOP))

    def sending_set(self, registration: Registration) -> SaSet | None:
        """The set for what we send now; a new one takes over when the one in use is about to end (digest A8)."""
        in_use = registration.in_use
        if in_use is not None and in_use.expires - self._turn.now < NEAR_ITS_END:
            latest = registration.latest
            if latest is not None and latest.state is SetState.NEW:
                self.step(latest, SetEvent.USED, "the set in use is about to end")
                return latest
        return in_use

    def bind(self, registration: Registration, impu: str, binding: Binding) -> None:
        """The contact is registered with this identity, however it was written.

        More than MOST_IDENTITIES are not kept: the one that would end first makes room.
        """
        bindings = registration.bindings
        impu = next((known for known in bindings if is_same_identity(known, impu)), impu)
        if impu not in bindings and len(bindings) >= MOST_IDENTITIES:
            del bindings[min(bindings, key=lambda known: bindings[known].expires)]
        if not bindings:
            self.registered += 1
            impi = registration.key.impi
            self._contacts[impi] = (*self.contacts_of(impi), registration)
        self.touched[registration.path_token] = registration
        bindings[impu] = binding
        identify(registration)
        self.watch(registration)
        detail = f"{impu} for {round(binding.expires - self._turn.now)} s"
        impi = registration.key.impi
        self._turn.note(
            RegistrationChanged(
                at=self._turn.now, impi=impi, registered=True, detail=detail, call_id=self._turn.call_id
            )
        )

    def unbind(self, registration: Registration, identity: str, why: str) -> bool:
        """End an identity and those that were registered along with it. True if it was the last (TS 24.229 5.2.5).

        The sets are left as they are: they end by their own steps.
        """
        self.touched[registration.path_token] = registration
        gone = [
            impu
            for impu, each in registration.bindings.items()
            if is_same_identity(identity, impu) or names(identity, each.associated_uris)
        ]
        for impu in gone:
            del registration.bindings[impu]
        identify(registration)
        if not gone or registration.bindings:
            return False
        self._tell_end(registration, why)
        return True

    def withdraw(self, registration: Registration, identity: str, why: str) -> bool:
        """End one identity and leave those that were registered along with it. True if it was the last (digest C5)."""
        self.touched[registration.path_token] = registration
        for impu, each in tuple(registration.bindings.items()):
            left = tuple(value for value in each.associated_uris if not names(identity, (value,)))
            if len(left) == len(each.associated_uris):
                continue
            if left:
                registration.bindings[impu] = replace(each, associated_uris=left)
            else:
                del registration.bindings[impu]
        was_registered = bool(registration.associated_uris)
        identify(registration)
        if not was_registered or registration.bindings:
            return False
        self._tell_end(registration, why)
        return True

    def shorten(self, registration: Registration, identity: str, seconds: int) -> None:
        """The core wants the UE to authenticate again before then; the sets live on (digest C5 `shortened`)."""
        for impu, each in tuple(registration.bindings.items()):
            named = is_same_identity(identity, impu) or names(identity, each.associated_uris)
            if named and self._turn.now + seconds < each.expires:
                self.bind(registration, impu, replace(each, expires=self._turn.now + seconds))

    def unregister(self, registration: Registration, why: str) -> None:
        """The contact is registered no more; its sets end by their own steps."""
        if registration.bindings:
            registration.bindings.clear()
            identify(registration)
            self._tell_end(registration, why)
        self.forget_if_idle(registration)

    def _tell_end(self, registration: Registration, why: str) -> None:
        self.registered -= 1
        self.touched[registration.path_token] = registration
        impi = registration.key.impi
        left = tuple(each for each in self._contacts.pop(impi) if each is not registration)
        if left:
            self._contacts[impi] = left
        self._turn.note(
            RegistrationChanged(at=self._turn.now, impi=impi, registered=False, detail=why, call_id=self._turn.call_id)
        )
        self._turn.attempt(self.on_ended, registration)

    @property
    def deadline(self) -> float | None:
        return self._deadlines[0][0] if self._deadlines else None

    def watch(self, subject: SaSet | Registration) -> None:
        """Look at it when it is due; one that has been given more time until then is looked at again.

        One alarm each: a refresh does not add another (field trap 22).
        """
        due = subject.expires
        if isinstance(subject, Registration):
            due = min(each.expires for each in subject.bindings.values())
        if due < subject.alarm:
            subject.alarm = due
            self._watched += 1
            name = subject.id if isinstance(subject, SaSet) else subject.path_token
            heapq.heappush(self._deadlines, (due, self._watched, name))
            if len(self._deadlines) > SPARE_ALARMS + 2 * (len(self._by_id) + len(self._registrations)):
                # Else what has ended would stay until the week it was granted is over.
                self._deadlines[:] = [
                    each for each in self._deadlines if (known := self._named(each[2])) and known.alarm == each[0]
                ]
                heapq.heapify(self._deadlines)

    def _named(self, name: int | str) -> SaSet | Registration | None:
        return self._by_id.get(name) if isinstance(name, int) else self._by_token.get(name)

    def expire(self) -> None:
        """End what is due."""
        heap = self._deadlines
        now = self._turn.now
        while heap and heap[0][0] <= now:
            at, _, name = heapq.heappop(heap)
            subject = self._named(name)
            if subject is None or at != subject.alarm:
                continue  # it has ended, or an earlier alarm took its place
            subject.alarm = math.inf
            if isinstance(subject, SaSet):
                if subject.expires > now:
                    self.watch(subject)
                    continue
                why = SetEvent.DRAINED if subject.state is SetState.CLOSING else SetEvent.EXPIRED
                repair.end(self, self._turn, subject, why)
            elif subject.registered and not self._turn.attempt(self._end_bindings, subject):
                self._turn.attempt(self.unregister, subject, "the registration could not be kept")

    def _end_bindings(self, registration: Registration) -> None:
        now = self._turn.now
        for impu in [impu for impu, each in registration.bindings.items() if each.expires <= now]:
            self.unbind(registration, impu, "the registration expired")
        if registration.registered:
            self.watch(registration)
        self.forget_if_idle(registration)

    def remove(self, sa_set: SaSet) -> None:
        """Close its TCP connections and have its SAs removed."""
        ends = sa_set.parameters
        for own_port, ue_port in ((ends.port_ps, ends.port_uc), (ends.port_pc, ends.port_us)):
            self._turn.do(CloseFlow(Flow("TCP", Interface.GM_PROTECTED, ends.pcscf, own_port, ends.ue, ue_port)))
        self._turn.do(RemoveSecurity(sa_set.ids))

    def drop(self, sa_set: SaSet) -> None:
        """Know it no more. What a bug left of an earlier try is taken up."""
        sa_set.alarm = math.inf
        self._unproven.pop(sa_set.id, None)
        self.pending.discard(sa_set)
        if self._by_id.pop(sa_set.id, None) is not None:
            self.states[sa_set.state] -= 1
        if sa_set in sa_set.registration.sets:
            sa_set.registration.sets.remove(sa_set)
        self.allocator.free(sa_set)
        self._turn.attempt(self.on_set_gone, sa_set)
