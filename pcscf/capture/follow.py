"""The journal of a running P-CSCF as it grows: what is new of it, whose it is, and what was missed."""

from collections.abc import Sequence
from ipaddress import ip_address

from pcscf import ladder
from pcscf.admin.views import JournalRow, RegistrationRow
from pcscf.capture.trace import Wanted
from pcscf.observe import MessageSeen, Record
from pcscf.vocabulary import Interface
from xfrm.model import IPAddress

KEPT = 20_000
"""Records that tell whose the next ones are."""


class Following:
    """What was read so far. `number` is the last record that was."""

    def __init__(self, wanted: Wanted) -> None:
        self.number = 0
        self._wanted = wanted
        self._pid = 0
        self._start: float | None = None
        self._records: list[Record] = []
        self._address: IPAddress | None = None
        self._remarks: list[str] = []
        self._away = False
        self._of = ""
        self._asked: dict[str, None] = {}
        """Call-IDs of wanted requests."""

    def remarks(self) -> list[str]:
        """What to tell about the following itself, once."""
        remarks, self._remarks = self._remarks, []
        return remarks

    def lost(self, why: str) -> None:
        """The P-CSCF does not answer; it may come back."""
        if not self._away:
            self._remarks.append(f"{why}; waiting for it to come back")
        self._away = True

    def take(self, pid: int, rows: Sequence[JournalRow], registrations: Sequence[RegistrationRow]) -> list[JournalRow]:
        """Take new rows in; those of them that are wanted. Another process began to count anew: its rows come next."""
        if self._pid not in (0, pid):
            self._remarks.append("the P-CSCF was started anew")
            self.number, self._start, self._records = 0, None, []
            self._pid, self._away = pid, False
            return []
        self._pid, self._away = pid, False
        if not rows:
            return []
        if self.number and rows[0].number > self.number + 1:
            self._remarks.append(f"{rows[0].number - self.number - 1} records were overwritten before they were read")
        self.number = rows[-1].number
        new = [row.decoded() for row in rows]
        self._records = [*self._records, *new][-KEPT:]
        if self._start is None:
            self._start = new[0].at
        self._find(registrations)
        kept = set(map(id, self._of_user(new)))
        return [row for row, record in zip(rows, new, strict=True) if id(record) in kept and self._fits(record)]

    def _find(self, registrations: Sequence[RegistrationRow]) -> None:
        user = self._wanted.user
        try:
            self._address = ip_address(user)
        except ValueError:
            for each in registrations:
                names = (each.impi, *each.associated_uris)
                if any(user == name or user in name.replace("@", ":").split(":") for name in names):
                    self._address = each.address

    def _of_user(self, new: list[Record]) -> list[Record]:
        if not self._wanted.user:
            return new
        if self._address is None:
            return []
        fresh = set(map(id, new))
        return [each for each in ladder.of_ue(self._records, self._address) if id(each) in fresh]

    def _fits(self, record: Record) -> bool:
        wanted = self._wanted
        if not isinstance(record, MessageSeen):
            return not wanted.methods and not wanted.call_id
        if not record.call_id.startswith(wanted.call_id):
            return False
        # The journal does not say of which request a response is: it is shown after a wanted request of its dialog.
        word = record.summary.partition(" ")[0]
        if word in wanted.methods:
            self._asked[record.call_id] = None
            if len(self._asked) > KEPT:
                del self._asked[next(iter(self._asked))]
        return not wanted.methods or word in wanted.methods or (word.isdigit() and record.call_id in self._asked)

    def lines(self, rows: Sequence[JournalRow]) -> list[str]:
        """The rows as lines of a ladder; without a wanted user a line says whose the next ones are."""
        out: list[str] = []
        part: list[Record] = []
        for row in rows:
            record = row.decoded()
            whose = self._whose(record)
            if whose and whose != self._of:
                out += ladder.lines(part, self._start)
                part, self._of = [], whose
                if not self._wanted.user:
                    out.append(f"{'':{9}}{whose}")
            part.append(record)
        return out + ladder.lines(part, self._start)

    def _whose(self, record: Record) -> str:
        if isinstance(record, MessageSeen) and record.flow.interface is not Interface.MW:
            return f"UE {record.flow.remote}"
        return ""
