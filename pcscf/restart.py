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
from pcscf.proxy import Proxy
from pcscf.registrar import BACKSTOP
from pcscf.registration import Registration
from pcscf.store import Store
from pcscf.survival import Unreadable
from xfrm.backend import Backend
from xfrm.model import SaId, XfrmError

Row = dict[str, Any] | None
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

    def save(self, now: float) -> None:
        """Keep what has changed since the last time."""
        registrar, dialogs = self._proxy.registrar, self._proxy.dialogs
        epoch = time.time() - now
        contacts: dict[str, Row] = {}
        for token, registration in registrar.touched.items():
            alive = registrar.by_token(token) is registration
            contacts[token] = survival.of_registration(registration, epoch) if alive else None
        registrar.touched.clear()
        calls: dict[str, Row] = {}
        for key in dialogs.touched:
            dialog = dialogs.find(key)
            calls["\n".join(key)] = survival.of_dialog(dialog, epoch) if dialog is not None else None
        dialogs.touched.clear()
        rows = _changes(contacts, self._kept), _changes(calls, self._dialogs)
        if any(rows):
            self._store.write(*rows)

    def adopt(self, backend: Backend, now: float) -> Adopted:
        """Take up what an earlier run left. Before the ports are protected, and after they were bound. XfrmError."""
        began = time.monotonic()
        epoch = time.time() - now
        stored = self._store.take()
        self._kept, self._dialogs = set(stored.registrations), set(stored.dialogs)
        found: list[Registration] = []
        unreadable = expired = 0
        for text in stored.registrations.values():
            try:
                each = survival.registration_from(json.loads(text), epoch)
            except (ValueError, Unreadable):
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
                    backend.update(one.ids, math.ceil(wanted))
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
                dialog = survival.dialog_from(json.loads(text), living, epoch)
            except (ValueError, Unreadable):
                continue
            if dialog is not None and dialog.expires > now and "\n".join(dialog.key) == name:
                self._proxy.dialogs.restore(dialog)
                names.add(name)
        return names


def _changes(rows: Mapping[str, Row], kept: set[str]) -> dict[str, str | None]:
    """What the store has to be told: texts, and None for what it has and shall forget. `kept`: what it has then."""
    texts: dict[str, str | None] = {}
    for name, data in rows.items():
        if data is not None:
            texts[name] = json.dumps(data, separators=(",", ":"))
            kept.add(name)
        elif name in kept:
            texts[name] = None
            kept.discard(name)
    return texts
