"""From one run to the next: keeps in the store what has changed, and takes up again what the kernel still has.

A registration lives on with those of its sets whose four SAs are all there. What the kernel has and the store has not
is an orphan, and goes when the protected ports are taken; what the store has and the kernel has not must register
again.
"""

import json
import logging
import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from pcscf import survival
from pcscf.dialog import DialogKey
from pcscf.printable import reversible
from pcscf.proxy import Proxy
from pcscf.registrar import BACKSTOP
from pcscf.registration import Registration
from pcscf.store import Store
from pcscf.survival import Unreadable
from xfrm.backend import Backend
from xfrm.model import SaId, XfrmError

Row = dict[str, Any] | None
AGAIN = 1.0
"""Seconds before what could not be written is tried again."""
SLACK = 5.0
"""Seconds by which the end of an SA may be too early before it is set anew."""
log = logging.getLogger("pcscf")


class Adopted(NamedTuple):
    """What came of the stored. `lost`: registrations whose SAs are gone; `expired`: those that had ended meanwhile."""

    registrations: int
    sets: int
    dialogs: int
    lost: tuple[Registration, ...]
    expired: int
    unreadable: int
    seconds: float

    @property
    def text(self) -> str:
        """One line for people."""
        parts = [f"{self.registrations} registrations with {self.sets} sets of SAs and {self.dialogs} dialogs go on"]
        parts += [f"{len(self.lost)} lost their SAs and must register again"] * bool(self.lost)
        parts += [f"{self.expired} had expired"] * bool(self.expired)
        parts += [f"{self.unreadable} could not be read"] * bool(self.unreadable)
        return f"{'; '.join(parts)} ({self.seconds:.3f} s)"


class Restart:
    """Between a store and a proxy. `now` is always of the core's clock."""

    def __init__(self, store: Store, proxy: Proxy) -> None:
        self._store = store
        self._proxy = proxy
        self._kept: set[str] = set()
        """Tokens of registrations that the store has."""
        self._dialogs: set[str] = set()
        self._left: dict[str, Registration] = {}
        self._calls_left: set[DialogKey] = set()
        """What could not be written; it is tried again with what comes then."""
        self.behind = False
        """Whether there is such."""
        self._again = 0.0
        self._told = False

    def save(self, now: float, *, last: bool = False) -> None:
        """Keep what has changed since the last time. What cannot be written is tried again, not before AGAIN seconds.

        `last`: now or never. What one contact has broken keeps no other from the store.
        """
        registrar, dialogs = self._proxy.registrar, self._proxy.dialogs
        contacts, calls = dict(registrar.touched), set(dialogs.touched)
        registrar.touched.clear()
        dialogs.touched.clear()
        if self.behind and (last or now >= self._again):
            contacts, calls = self._left | contacts, self._calls_left | calls
            self._left, self._calls_left = {}, set()
        epoch = time.time() - now
        rows: dict[str, str | None] = {}
        call_rows: dict[str, str | None] = {}
        failed = False
        for token, registration in contacts.items():
            try:
                rows[token] = _text(self._of_registration(token, registration, epoch))
            except Exception as bug:
                self._left[token] = registration
                failed = True
                self._tell(bug)
        for key in calls:
            try:
                dialog = dialogs.find(key)
                call_rows[_name(key)] = _text(survival.of_dialog(dialog, epoch) if dialog is not None else None)
            except Exception as bug:
                self._calls_left.add(key)
                failed = True
                self._tell(bug)
        rows, call_rows = _news(rows, self._kept), _news(call_rows, self._dialogs)
        if rows or call_rows:
            if self._store.write(rows, call_rows):
                _take_note(rows, self._kept)
                _take_note(call_rows, self._dialogs)
            else:  # of what is gone and was never stored there is nothing to say
                self._left |= {token: contact for token, contact in contacts.items() if token in rows}
                self._calls_left |= {key for key in calls if _name(key) in call_rows}
                failed = True
        if failed:
            self._again = now + AGAIN
        self.behind = bool(self._left or self._calls_left)

    def _of_registration(self, token: str, registration: Registration, epoch: float) -> Row:
        alive = self._proxy.registrar.by_token(token) is registration
        return survival.of_registration(registration, epoch) if alive else None

    def _tell(self, bug: Exception) -> None:
        if not self._told:
            log.error("a bug: something cannot be stored, and may not survive a restart", exc_info=bug)
        self._told = True

    def adopt(self, backend: Backend, now: float) -> Adopted:
        """Take up what an earlier run left. Before the ports are protected, and after they were bound. XfrmError."""
        began = time.monotonic()
        epoch = time.time() - now
        stored = self._store.take()
        self._kept, self._dialogs = set(stored.registrations), set(stored.dialogs)
        found: list[Registration] = []
        unreadable = expired = 0
        for token, text in stored.registrations.items():
            try:
                each = survival.registration_from(survival.read(text), epoch)
                if each.path_token != token:
                    raise Unreadable("it stands under the name of another")
            except Unreadable:
                unreadable += 1
                continue
            each.bindings = {impu: one for impu, one in each.bindings.items() if one.expires > now}
            if each.bindings:
                found.append(each)
            else:
                expired += 1
        ends = backend.adopt([sa_id for each in found for one in each.sets for sa_id in one.ids])
        lost, sets, living = [], 0, {}
        left: list[SaId] = []
        for each in found:
            there = [one for one in each.sets if one.expires > now and all(sa_id in ends for sa_id in one.ids)]
            left += [sa_id for one in each.sets if one not in there for sa_id in one.ids if sa_id in ends]
            each.sets[:] = there
            try:
                if not there and each.clear is None:
                    raise ValueError("no SA is left")
                self._proxy.registrar.restore(each)
            except ValueError:
                left += [sa_id for one in there for sa_id in one.ids]
                lost.append(each)
                continue
            living[each.path_token] = each
            sets += len(there)
            for one in there:
                wanted = one.expires - now + BACKSTOP
                if min(ends[sa_id] for sa_id in one.ids) < wanted + epoch + now - SLACK:
                    try:
                        backend.update(one.ids, math.ceil(wanted))
                    except XfrmError as error:
                        log.warning("SAs of %s end early: %s", each.key.impi, error)
        try:
            backend.remove(left)
        except XfrmError as error:
            log.warning("what is left of lost sets could not be removed: %s", error)
        dialogs = self._take_up_dialogs(stored.dialogs, living, epoch, now)
        self._proxy.resuming = deque(living.values())
        gone: dict[str, str | None] = dict.fromkeys(self._kept - living.keys())
        calls: dict[str, str | None] = dict.fromkeys(self._dialogs - dialogs)
        self._store.write(gone, calls)
        self._kept, self._dialogs = set(living), dialogs
        for touched in (self._proxy.registrar.touched, self._proxy.dialogs.touched):
            touched.clear()
        seconds = time.monotonic() - began
        return Adopted(len(living), sets, len(dialogs), tuple(lost), expired, unreadable, seconds)

    def _take_up_dialogs(
        self, texts: dict[str, str], living: dict[str, Registration], epoch: float, now: float
    ) -> set[str]:
        names = set()
        for name, text in texts.items():
            try:
                dialog = survival.dialog_from(survival.read(text), living, epoch)
            except Unreadable:
                continue
            if dialog is not None and dialog.expires > now and _name(dialog.key) == name:
                self._proxy.dialogs.restore(dialog)
                names.add(name)
        return names


def _name(key: DialogKey) -> str:
    """How the store calls a dialog: ASCII, whatever octets are in it."""
    return "\n".join(map(reversible, key))


def _text(data: Row) -> str | None:
    """ASCII, which comes back as the same text."""
    return None if data is None else json.dumps(data, separators=(",", ":"))


def _news(rows: Mapping[str, str | None], kept: set[str]) -> dict[str, str | None]:
    """What the store has to be told: texts, and None for what it has and shall forget."""
    return {name: text for name, text in rows.items() if text is not None or name in kept}


def _take_note(rows: Mapping[str, str | None], kept: set[str]) -> None:
    """The store has been told."""
    for name, text in rows.items():
        if text is None:
            kept.discard(name)
        else:
            kept.add(name)
