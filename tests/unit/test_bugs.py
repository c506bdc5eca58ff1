"""A bug in one step stops nothing else: it is put into every place in turn, and all that is around goes on.

What was decided to end is ended, the kernel's SAs and the registrar's sets stay the same, and the next phone is served.
"""

import asyncio
import json
import os
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from pcscf import survival
from pcscf.registration import Registration
from pcscf.vocabulary import Order, Ordered, SecurityExpired
from tests.bench.load import Phone
from tests.fake_kernel import FakeKernel
from tests.unit.driven import Driven, drive
from tests.unit.test_server import CLEAR, MW

Place = tuple[str, Callable[[Driven], object], str]
IN_THE_CORE: list[Place] = [
    *(("registrar", lambda world: world.server.registrar, name) for name in (
        "step", "add", "bind", "unbind", "unregister", "forget_if_idle", "watch", "remove", "drop", "parameters_for",
        "at_ports", "obtain", "on_set_gone", "on_ended", "_apply", "_let_live", "expire",
    )),
    *(("register", lambda world: world.server.proxy._register, name) for name in (
        "arrived", "answered", "installed", "refused", "ended", "_relay", "_challenged", "_accepted", "_bound",
    )),
    *(("signalling", lambda world: world.server.proxy._signalling, name) for name in (
        "note", "receive", "reply", "request", "_transmit", "expire", "flow_lost", "reply_at_once",
    )),
    *(("relay", lambda world: world.server.proxy._relay, name) for name in (
        "arrived", "answered", "ended", "expire", "_note_dialog",
    )),
    *(("dialogs", lambda world: world.server.proxy.dialogs, name) for name in (
        "open", "confirm", "close_all", "expire",
    )),
    *(("reg events", lambda world: world.server.proxy._reg_events, name) for name in (
        "registered", "deregistered", "expire", "_ask",
    )),
    *(("hops", lambda world: world.server.proxy.hops, name) for name in ("expire",)),
]  # fmt: skip
AROUND: list[Place] = [
    ("journal", lambda world: world.server.journal, "append"),
    ("messages", lambda world: world.server.messages, "keep"),
    ("restart", lambda world: world.server._restart, "save"),
    ("kernel", lambda world: world.kernel, "install"),
    ("kernel", lambda world: world.kernel, "update"),
    ("mirror", lambda world: world.server._mirror, "received"),
    ("mirror", lambda world: world.server._mirror, "leaving"),
    ("transport", lambda world: world.server._transport, "close_flow"),
]


class Bug(Exception):
    """What nobody thought of."""


def break_at(owner: Any, name: str, turn: int) -> Callable[[], int]:
    """Let one call fail, the first (1, 2), the second (3, 4) and so on, before or after its work. Counts them."""
    honest, calls = getattr(owner, name), 0

    def broken(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == (turn + 1) // 2:
            if turn % 2:
                raise Bug(name)
            honest(*arguments, **more)
            raise Bug(name)
        return honest(*arguments, **more)

    setattr(owner, name, broken)
    return lambda: calls


class Clock:
    """The loop's clock, which can be put forward."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._real = loop.time
        self._ahead = 0.0
        loop.time = lambda: self._real() + self._ahead  # type: ignore[method-assign]

    async def forward(self, seconds: float) -> None:
        """Timers that are due ring."""
        self._ahead += seconds
        for _ in range(4):
            await asyncio.sleep(0)


async def live(world: Driven, clock: Clock) -> None:
    """All that can become of registrations: challenged, in use, replaced, refreshed, ended by time and by order."""
    first, second, third, fourth = Phone(1), Phone(2), Phone(3), Phone(4)
    world.register(first)
    if first.security_server:
        world.ask(first, first.message("m1"), "202 Accepted")
        world.ask(first, first.invite("c1"), "200 OK", extra=b"Record-Route: <sip:127.0.0.3;lr>\r\n")
    world.register(second)
    world.register(first)
    world.challenge(third)
    world.challenge(third)
    world.server.handle(Ordered(second.user, ip_address(second.address), Order.DEREGISTER))
    world.register(fourth)
    world.server.handle(SecurityExpired(tuple(world.kernel.sas)[-1:]))
    await clock.forward(70)
    await clock.forward(250)
    await clock.forward(600_000)
    world.register(first)


def with_a_bug(folder: Path, place: Place, turn: int, after: Callable[[Driven, Clock], Any]) -> int:
    """How often the place was called."""
    _, find, name = place
    called = 0

    async def work(world: Driven) -> None:
        nonlocal called
        clock = Clock()
        owner = find(world)
        honest = getattr(owner, name)
        calls = break_at(owner, name, turn)
        await live(world, clock)
        called = calls()
        setattr(owner, name, honest)
        await after(world, clock)

    drive(folder, work)
    return called


async def all_is_well(world: Driven, clock: Clock) -> None:
    world.agreed()
    honest = Phone(100)
    assert world.register(honest), "the next phone is served"
    world.agreed()
    await clock.forward(5)
    await clock.forward(400)
    world.agreed()
    pending = [each.state.value for each in world.server.registrar._by_id.values()]
    assert "pending" not in pending and "temporary" not in pending
    await clock.forward(700_000)
    await clock.forward(200)
    world.agreed()
    assert not world.kernel.sas and not world.server.registrar.registered


@pytest.mark.parametrize("turn", [1, 2, 5])
@pytest.mark.parametrize("place", IN_THE_CORE, ids=lambda place: f"{place[0]}.{place[2]}")
def test_a_bug_in_the_core(place: Place, turn: int, tmp_path: Path) -> None:
    """Step 1, 13: RemoveSecurity was forgotten along with the step that had queued it."""
    called = with_a_bug(tmp_path, place, turn, all_is_well)
    assert called or place[2] in ("refused", "flow_lost", "reply_at_once", "_let_live"), "nothing was tested"


@pytest.mark.parametrize("turn", [1, 2, 5])
@pytest.mark.parametrize("place", AROUND, ids=lambda place: f"{place[0]}.{place[2]}")
def test_a_bug_around_the_core(place: Place, turn: int, tmp_path: Path) -> None:
    """Step 1, 13."""
    assert with_a_bug(tmp_path, place, turn, all_is_well)


def test_what_was_decided_to_end_ends(tmp_path: Path) -> None:
    """Step 1, 13: the step that queued the removal of an old set met a bug after that."""

    async def work(world: Driven) -> None:
        phone = Phone(1)
        assert world.challenge(phone)
        old = set(world.kernel.sas)
        calls = break_at(world.server.registrar, "parameters_for", 1)  # the older challenge has given way just before
        assert not world.challenge(phone) and calls() == 1
        assert len(old) == 4 and not old & set(world.kernel.sas)
        assert len(world.bugs) == 1
        world.agreed()

    drive(tmp_path, work)


def test_a_set_whose_installation_is_forgotten_does_not_wait(tmp_path: Path) -> None:
    """Step 1, 13: InstallSecurity was queued, and then came a bug: the set stayed PENDING, its REGISTER unanswered."""

    async def work(world: Driven) -> None:
        phone = Phone(1)
        calls = break_at(world.server.proxy._register, "_challenged", 2)
        assert not world.challenge(phone) and calls() == 1
        assert not world.kernel.sas and not len(world.server.registrar)
        assert world.register(Phone(2))
        world.agreed()

    drive(tmp_path, work)


def test_an_alarm_that_fails_is_not_rung_for_ever(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Step 1, 13: neither at once again and again, nor with a traceback each time."""

    async def work(world: Driven) -> None:
        clock = Clock()
        assert world.challenge(Phone(1))
        rings = 0

        def broken() -> None:
            nonlocal rings
            rings += 1
            raise Bug

        world.server.registrar.expire = broken  # type: ignore[method-assign]
        await clock.forward(300)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert 1 <= rings <= 2, rings
        await clock.forward(2)
        assert rings >= 2
        del world.server.registrar.expire
        await clock.forward(2)
        assert not world.kernel.sas, "it is rung again when it can be"
        assert sum(record.exc_info is not None for record in caplog.records) == 1
        world.agreed()

    drive(tmp_path, work)


def test_one_registration_that_cannot_be_stored_keeps_no_other_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 1, 13."""
    kernel = FakeKernel()
    first, second = Phone(1), Phone(2)
    honest = survival.of_registration

    def broken(each: Registration, epoch: float) -> dict[str, Any] | None:
        if each.key.impi == first.user:
            raise Bug
        return honest(each, epoch)

    async def work(world: Driven) -> None:
        clock = Clock()
        monkeypatch.setattr(survival, "of_registration", broken)
        assert world.register(first) and world.register(second)
        assert world.server._restart is not None and world.server._restart.behind
        assert stored(world) == {second.user}
        monkeypatch.setattr(survival, "of_registration", honest)
        await clock.forward(2)
        world.ask(second, second.message("m"), "202 Accepted")
        assert stored(world) == {first.user, second.user} and not world.server._restart.behind

    drive(tmp_path, work, kernel)


def stored(world: Driven) -> set[str]:
    assert world.server._store is not None
    rows = world.server._store._database.execute("SELECT body FROM registration")
    return {json.loads(body)["impi"] for (body,) in rows}


def test_what_a_full_disk_did_not_take_is_stored_later(tmp_path: Path) -> None:
    """Step 1, 13: what had been given to the store once was forgotten, whatever became of it."""
    first, second = Phone(1), Phone(2)

    async def work(world: Driven) -> None:
        clock = Clock()
        store = world.server._store
        assert store is not None and world.server._restart is not None
        assert world.register(second)
        store._database.execute("PRAGMA query_only = ON")
        assert world.register(first)
        world.server.handle(Ordered(second.user, ip_address(second.address), Order.DEREGISTER))
        assert stored(world) == {second.user} and world.server._restart.behind
        store._database.execute("PRAGMA query_only = OFF")
        await clock.forward(2)
        world.ask(first, first.message("m"), "202 Accepted")
        assert stored(world) == {first.user} and not world.server._restart.behind

    drive(tmp_path, work)


def test_nothing_waits_for_a_store_that_is_not_there(tmp_path: Path) -> None:
    """Step 1, 13: without a store the list of what has changed grew with every registration there ever was."""

    async def work(world: Driven) -> None:
        for number in range(1, 6):
            world.register(Phone(number))
        assert not world.server.registrar.touched and not world.server.proxy.dialogs.touched

    drive(tmp_path, work, stored=False)


def test_a_connection_of_the_core_outlives_a_message_that_meets_a_bug(tmp_path: Path) -> None:
    """Step 1, 13: what left `handle` ended the TCP connection it had come over."""

    async def work(world: Driven) -> None:
        reader, writer = await asyncio.open_connection(MW, CLEAR)
        del world.server._transport.send
        request = (
            b"OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.3:9;branch=z9hG4bK%d\r\nFrom: <sip:a@b>;tag=1\r\n"
            b"To: <sip:a@b>\r\nCall-ID: %d\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        )
        for place in ("handle", "apologise"):
            break_at(world.server.proxy, place, 1)
        break_at(world.server._transport, "send", 1)
        for number in (1, 2, 3):
            writer.write(request % (number, number))
        async with asyncio.timeout(5):
            answered = await reader.readuntil(b"\r\n\r\n")
        assert b"Call-ID: 3\r\n" in answered, "the first met two bugs, the second one while it was answered"
        writer.close()
        assert world.bugs

    drive(tmp_path, work)


def test_a_reader_of_the_backend_that_fails_fails_alone(tmp_path: Path) -> None:
    """Step 1, 13."""
    readable, writable = os.pipe()
    os.set_blocking(readable, False)

    class Readable(FakeKernel):
        def filenos(self) -> tuple[int, ...]:
            return (readable,)

        def process(self, fileno: int) -> None:
            os.read(fileno, 1)
            raise Bug

    async def work(world: Driven) -> None:
        os.write(writable, b"ab")
        async with asyncio.timeout(5):
            while len(world.bugs) < 2:
                await asyncio.sleep(0)
        assert world.register(Phone(1))

    drive(tmp_path, work, Readable())
    os.close(readable)
    os.close(writable)
