"""The dialogs of the UEs: whose each is, and the way it must take through the core (TS 24.229 5.2.6, digest C7, C8).

A dialog may serve a call and subscriptions at once (RFC 5057); it ends with the last of them.
"""

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from pcscf.registration import Registration

MOST_OF_ONE = 64
"""Calls of one contact, and subscriptions of one; a phone has a handful."""
MOST_FORKS = 16
"""Dialogs that one INVITE can make: a call rings at the phones of one user."""
MOST_EMERGENCIES = 8
"""Emergency calls of one contact that are kept in mind; none is refused for the others."""
SPARE_DEADLINES = 64
"""Deadlines of what has ended that may wait beside those of the living."""


class DialogKey(NamedTuple):
    """What names a dialog, from the UE's side (RFC 3261 12)."""

    call_id: str
    ue_tag: str
    peer_tag: str


class Usage(Enum):
    """What a dialog is for (RFC 5057)."""

    CALL = "call"
    SUBSCRIPTION = "subscription"


@dataclass(slots=True, eq=False, kw_only=True)
class Dialog:
    """One dialog of a contact."""

    key: DialogKey
    registration: Registration
    route: tuple[str, ...]
    """The route set beyond us toward the core, as Route values (RFC 3261 12.1)."""
    usages: set[Usage] = field(default_factory=set)
    early: bool = True
    """No 2xx yet: it ends with its INVITE."""
    emergency: bool = False
    """An emergency call: it takes nothing from the other calls, nor they from it."""
    fork: bool = False
    """Made early by an INVITE that had made another: the call counts once."""
    expires: float = math.inf
    """When a usage that is not refreshed ends."""


class Dialogs:
    """Every dialog of every contact."""

    def __init__(self) -> None:
        self._dialogs: dict[DialogKey, Dialog] = {}
        self._of: dict[Registration, dict[DialogKey, Dialog]] = {}
        self._deadlines: list[tuple[float, DialogKey]] = []
        self.touched: set[DialogKey] = set()
        """What has changed since somebody emptied this."""

    def restore(self, dialog: Dialog) -> None:
        """A confirmed dialog of an earlier run goes on."""
        self._dialogs[dialog.key] = dialog
        self._of.setdefault(dialog.registration, {})[dialog.key] = dialog
        if dialog.expires != math.inf:
            self.keep(dialog, dialog.expires)

    def confirm(self, dialog: Dialog) -> None:
        """A 2xx was seen: it no longer ends with its INVITE."""
        dialog.early = dialog.fork = False
        self.touched.add(dialog.key)

    def keep_on(self, dialog: Dialog) -> None:
        """It needs no refreshing: it lasts until its end is seen."""
        dialog.expires = math.inf
        self.touched.add(dialog.key)

    def __len__(self) -> int:
        return len(self._dialogs)

    def __iter__(self) -> Iterator[Dialog]:
        return iter(tuple(self._dialogs.values()))

    def find(self, key: DialogKey) -> Dialog | None:
        return self._dialogs.get(key)

    def count(self, registration: Registration) -> int:
        """How many dialogs a contact has."""
        return len(self._of.get(registration, ()))

    def is_full(self, registration: Registration, usage: Usage) -> bool:
        """Whether a contact has as many calls, or subscriptions, as it may; neither takes the place of the other."""
        found = 0
        for dialog in self._of.get(registration, {}).values():
            found += usage in dialog.usages and not (usage is Usage.CALL and (dialog.emergency or dialog.fork))
        return found >= MOST_OF_ONE

    def open(
        self,
        key: DialogKey,
        registration: Registration,
        route: tuple[str, ...],
        usage: Usage,
        *,
        emergency: bool = False,
        fork: bool = False,
    ) -> Dialog:
        """The dialog of this name, made with this route set if it is new. Of too many emergencies the oldest goes."""
        dialog = self._dialogs.get(key)
        if dialog is None:
            own = self._of.setdefault(registration, {})
            dialog = Dialog(key=key, registration=registration, route=route, emergency=emergency, fork=fork)
            own[key] = self._dialogs[key] = dialog
            calls = [each for each in own.values() if each.emergency and not each.fork] if emergency else []
            if len(calls) > MOST_EMERGENCIES:
                self.close(calls[0])
        dialog.usages.add(usage)
        return dialog

    def keep(self, dialog: Dialog, until: float) -> None:
        """It ends then, unless it is kept again."""
        dialog.expires = until
        self.touched.add(dialog.key)
        heapq.heappush(self._deadlines, (until, dialog.key))
        if len(self._deadlines) > SPARE_DEADLINES + 2 * len(self._dialogs):
            # Else a subscription that has ended would stay until the week it was granted is over.
            self._deadlines[:] = {each for each in self._deadlines if self._ends(*each)}
            heapq.heapify(self._deadlines)

    def _ends(self, at: float, key: DialogKey) -> bool:
        dialog = self._dialogs.get(key)
        return dialog is not None and dialog.expires == at

    def end(self, dialog: Dialog, usage: Usage) -> None:
        """A usage is over; the dialog with its last."""
        dialog.usages.discard(usage)
        self.touched.add(dialog.key)
        if not dialog.usages:
            self.close(dialog)

    def close(self, dialog: Dialog) -> None:
        """Forget it, whatever it is used for."""
        if self._dialogs.get(dialog.key) is not dialog:
            return
        del self._dialogs[dialog.key]
        self.touched.add(dialog.key)
        own = self._of[dialog.registration]
        del own[dialog.key]
        if not own:
            del self._of[dialog.registration]

    def close_all(self, registration: Registration) -> None:
        """The contact is gone: its dialogs are forgotten without a word (TS 24.229 5.2.8.1.4)."""
        for dialog in tuple(self._of.get(registration, {}).values()):
            self.close(dialog)

    @property
    def deadline(self) -> float | None:
        return self._deadlines[0][0] if self._deadlines else None

    def expire(self, now: float) -> list[Registration]:
        """Forget what was not refreshed; whose that was."""
        owners = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, key = heapq.heappop(self._deadlines)
            dialog = self._dialogs.get(key)
            if dialog is not None and dialog.expires <= now:
                self.close(dialog)
                owners.append(dialog.registration)
        return owners
