"""One turn of the core: the time it is, what is to be done, and what is noted on the way.

Shared by the procedures of one `Proxy`, so that each adds to the same ordered list of actions.
"""

from collections.abc import Callable
from hashlib import blake2s
from typing import ParamSpec

from pcscf.observe import NAME, Problem, ProblemKind, Record
from pcscf.sip.message import Request, Response
from pcscf.tally import Tally
from pcscf.vocabulary import Action, Flow, Interface, Note

POOL_OCTETS = 1024
USUAL_KINDS = {
    Interface.GM: ProblemKind.IN_CLEAR,
    Interface.GM_PROTECTED: ProblemKind.REFUSED,
    Interface.MW: ProblemKind.CORE,
}
P = ParamSpec("P")


class Turn:
    """`now` is monotonic seconds; `random_octets(n)` gives unguessable octets."""

    def __init__(self, random_octets: Callable[[int], bytes]) -> None:
        self.now = 0.0
        self.tally = Tally()
        self.message: Request | Response | None = None
        """What this turn is about, if it is a message."""
        self._source = random_octets
        self._pool = b""
        self._secret = random_octets(32)
        self._actions: list[Action] = []
        self.bugs: list[Exception] = []
        """What `attempt` has met since somebody emptied this."""

    def begin(self, now: float) -> list[Action]:
        """Start over at `now`; the list returned fills as the turn goes on."""
        self.now = now
        self.message = None
        self._actions = []
        return self._actions

    @property
    def decided(self) -> list[Action]:
        """What this turn has come to until now."""
        return self._actions

    def attempt(self, work: Callable[P, object], *arguments: P.args, **more: P.kwargs) -> bool:
        """Do one of several things that have nothing to do with each other; False: a bug was in the way of this one.

        What was decided before it stays decided, and the others are done.
        """
        try:
            work(*arguments, **more)
        except Exception as bug:
            self.bugs.append(bug)
            return False
        return True

    def do(self, action: Action) -> None:
        self._actions.append(action)

    def note(self, record: Record) -> None:
        self._actions.append(Note(record))

    def problem(self, detail: str, flow: Flow | None = None, impi: str = "", kind: ProblemKind | None = None) -> None:
        """Note that something was refused or lost. `detail` is for people: what, with which value.

        Without `kind` it is the one that the flow suggests.
        """
        if kind is None and flow is not None:
            kind = USUAL_KINDS[flow.interface]
        elif kind is None:
            kind = ProblemKind.REFUSED if impi else ProblemKind.OTHER
        self.note(Problem(at=self.now, flow=flow, impi=impi, detail=detail, call_id=self.call_id, kind=kind))

    @property
    def call_id(self) -> str:
        """Of the message this turn is about."""
        return "" if self.message is None else (self.message.first("call-id") or "")[:NAME]

    def random_octets(self, count: int) -> bytes:
        """Unguessable octets, fetched many at a time and used once."""
        if len(self._pool) < count:
            self._pool = self._source(POOL_OCTETS)
        taken, self._pool = self._pool[:count], self._pool[count:]
        return taken

    def token(self, octets: int) -> str:
        """An unguessable token of hexadecimal digits."""
        return self.random_octets(octets).hex()

    def own_tag(self, request: Request) -> str:
        """The To tag of an answer of our own: unguessable, and the same if the request comes again (RFC 3261 8.2.7)."""
        named = "\0".join(request.first(name) or "" for name in ("via", "from", "call-id", "cseq"))
        return blake2s(named.encode("utf-8", "surrogateescape"), key=self._secret, digest_size=4).hexdigest()
