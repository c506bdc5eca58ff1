"""What happens, to everybody who looks: journal records and samples as server-sent events, written once for all.

Each client has a bounded queue. One that reads too slowly loses the oldest and is told how many.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from pcscf.admin.history import History
from pcscf.admin.views import KINDS, Inside, as_json, kind_of
from pcscf.observe import Attempt, MessageSeen, Record, RegistrationChanged, SetChanged
from xfrm.model import IPAddress

log = logging.getLogger("pcscf")
EVERY = 0.1
"""Seconds between two looks at the journal."""
QUEUE = 1000
"""Events that wait for one client."""
CLIENTS = 64
SILENCE = 15.0
"""Seconds after which an idle stream says that it lives."""


def encode(type_: str, payload: object) -> bytes:
    """One server-sent event whose data is `{type, payload}`."""
    return f"data: {json.dumps({'type': type_, 'payload': payload}, separators=(',', ':'))}\n\n".encode()


class Client:
    """One open stream. `kinds` of journal records come whole, and samples if they are among them.

    What else happens is hinted at, once for each look: `changed` when registrations or sets did, `ue` when something
    concerns that UE.
    """

    def __init__(self, kinds: frozenset[str], ue: tuple[str, IPAddress] | None = None) -> None:
        self.kinds = kinds
        self.ue = ue
        self._queue: deque[bytes] = deque()
        self._lost = 0
        self.woken = asyncio.Event()

    def hint(self, type_: str, number: int) -> None:
        """Something of that type has happened until record `number`."""
        self._put(encode(type_, {"number": number}))

    def take(self, events: Iterable[bytes]) -> None:
        """Queue events as they go out."""
        for each in events:
            self._put(each)

    def _put(self, data: bytes) -> None:
        if len(self._queue) >= QUEUE:
            self._queue.popleft()
            self._lost += 1
        self._queue.append(data)
        self.woken.set()

    def drain(self) -> bytes:
        """Everything that waits, as one piece."""
        self.woken.clear()
        lost, self._lost = self._lost, 0
        parts = [encode("lost", {"events": lost})] if lost else []
        parts += self._queue
        self._queue.clear()
        return b"".join(parts)


class Feed:
    """Reads the journal for every client at once. It looks only while somebody listens."""

    def __init__(self, inside: Inside, history: History) -> None:
        self._inside = inside
        self._history = history
        self._clients: set[Client] = set()
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def __len__(self) -> int:
        return len(self._clients)

    async def stop(self) -> None:
        """End every stream."""
        self._closing.set()
        for each in self._clients:
            each.woken.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def serve(self, request: web.Request, client: Client, hello: dict[str, Any]) -> web.StreamResponse:
        """Stream to one client until it goes."""
        answer = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        await answer.prepare(request)
        await answer.write(encode("hello", hello))
        self._clients.add(client)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._look())
        try:
            while not self._closing.is_set():
                try:
                    async with asyncio.timeout(SILENCE):
                        await client.woken.wait()
                except TimeoutError:
                    await answer.write(b": alive\n\n")
                    continue
                await answer.write(client.drain())
        except ConnectionError:
            pass  # it has gone
        finally:
            self._clients.discard(client)
            if not self._clients and self._task is not None:
                self._task.cancel()
                self._task = None
        return answer

    async def _look(self) -> None:
        journal, samples = self._inside.journal, self._history.samples
        number = journal.written
        shown = samples[-1] if samples else None
        while True:
            await asyncio.sleep(EVERY)
            if journal.written > number:
                records, number = journal.after(number), journal.written
                try:
                    self._tell(records)
                except Exception:
                    log.exception("a bug in the event stream; records until %d are missing in it", number)
            if samples and samples[-1] is not shown:
                shown = samples[-1]
                event = encode("sample", shown.model_dump(mode="json"))
                for each in self._clients:
                    if "sample" in each.kinds:
                        each.take((event,))

    def _tell(self, records: list[tuple[int, Record]]) -> None:
        """Give records to those who want them; what nobody wants is not even written."""
        number = records[-1][0]
        wanted = frozenset[str]().union(*(each.kinds for each in self._clients))
        written: list[tuple[str, bytes]] = []
        changed = any(isinstance(record, SetChanged | RegistrationChanged) for _, record in records)
        if wanted & KINDS.keys():
            written = [(kind, _event(at, record)) for at, record in records if (kind := kind_of(record)) in wanted]
        for each in self._clients:
            if changed:
                each.hint("changed", number)
            if each.ue is not None and any(_concerns(record, *each.ue) for _, record in records):
                each.hint("ue", number)
            each.take(data for kind, data in written if kind in each.kinds)


def _event(number: int, record: Record) -> bytes:
    row = b'{"number":%d,"kind":"%b","record":%b}' % (number, kind_of(record).encode(), as_json(record))
    return b'id: %d\ndata: {"type":"record","payload":%b}\n\n' % (number, row)


def _concerns(record: Record, impi: str, address: IPAddress) -> bool:
    """Whether a UE's page has to be looked at again. A message on Mw comes along with one on Gm, or soon after."""
    if isinstance(record, MessageSeen):
        return record.flow.remote == address
    if isinstance(record, Attempt | SetChanged):
        return record.ue == address and record.impi == impi
    return record.impi == impi
