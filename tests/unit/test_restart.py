"""A store that somebody has damaged, or written with harm in mind: each row that is not ours costs itself alone."""

import asyncio
import copy
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcscf import survival
from pcscf.store import FILE
from pcscf.survival import Unreadable
from tests.bench.load import Phone
from tests.fake_kernel import FakeKernel
from tests.unit.driven import Driven, driven
from xfrm.model import XfrmError

ROUTED = b"Record-Route: <sip:127.0.0.3:15080;lr>\r\nContact: <sip:core@127.0.0.3>\r\n"
HARMFUL: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2.5, -0.0, 1e300, 10**30, 70_000, "", "x", "\ud800", "\udcff\n", "a\r\nVia: b", "a\0",
    "10.45.0.2", "fe80::1%lo", "0.0.0.0", [], [[]], {}, {"a": 1}, [None] * 11, "1" * 5000,
)  # fmt: skip
RAW = (
    "1e999", "-1e999", "NaN", "Infinity", "9" * 5000, "[" * 20_000, '{"a":' * 20_000, '"\\ud800"', "", "\udcff", "nul",
    '{"impi":1,"impi":2}', "true", '"text"',
)  # fmt: skip


async def one_run(folder: Path, kernel: FakeKernel, work: Callable[[Driven], None]) -> None:
    async with driven(folder, kernel) as world:
        work(world)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """A stored registration and a stored dialog."""
    folder = tmp_path_factory.mktemp("made")

    def work(world: Driven) -> None:
        phone = Phone(1)
        assert world.register(phone)
        world.ask(phone, phone.invite("c1"), "200 OK", extra=ROUTED)

    asyncio.run(one_run(folder, FakeKernel(), work))
    database = sqlite3.connect(folder / "state" / FILE)
    ((registration,),) = database.execute("SELECT body FROM registration")
    ((dialog,),) = database.execute("SELECT body FROM dialog")
    database.close()
    return json.loads(registration), json.loads(dialog)


def damaged(data: Any) -> Iterator[Any]:
    """The same data with one value in it exchanged, or gone."""

    def places(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        yield path
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            yield from places(value[key], (*path, key))

    for path in places(data, ()):
        for harm in HARMFUL:
            made = copy.deepcopy(data)
            if not path:
                yield harm
                continue
            inner = made
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = harm
            yield made


def test_whatever_stands_in_a_row_is_read_or_refused(rows: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Step 1, 14: numbers, types and texts that no version wrote; what is taken can be sent and kept again."""
    registration, dialog = rows
    whole = survival.registration_from(registration, 0.0)
    taken = 0
    for each in damaged(registration):
        try:
            made = survival.registration_from(survival.read(json.dumps(each)), 0.0)
        except Unreadable:
            continue
        taken += 1
        again = survival.of_registration(made, 0.0)
        assert again is None or json.loads(json.dumps(again)) == each or made.bindings
        for text in (made.contact, made.path_uri, *made.service_route, *made.associated_uris, made.key.impi):
            assert not set("\r\n\0") & set(text) and text.encode("utf-8", "surrogateescape") is not None
        assert all(0 <= one.expires < 1e10 for one in made.bindings.values())
        assert all(0 < port < 65536 for one in made.sets for port in (one.parameters.port_uc, one.parameters.port_ps))
    assert taken, "some values are as good as those that were there"
    for each in damaged(dialog):
        try:
            found = survival.dialog_from(survival.read(json.dumps(each)), {whole.path_token: whole}, 0.0)
        except Unreadable:
            continue
        assert found is None or all("\n" not in text for text in (*found.key, *found.route))


@pytest.mark.parametrize("text", RAW, ids=lambda text: text[:12])
def test_what_is_no_data_of_ours_is_unreadable(text: str) -> None:
    """Step 1, 14."""
    with pytest.raises(Unreadable):
        survival.registration_from(survival.read(text), 0.0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=4)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(key=st.sampled_from(["impi", "address", "bindings", "sets", "clear", "route", "port_pc", "token"]), value=JSON)
def test_anything_in_a_field(key: str, value: Any, rows: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Step 1, 14."""
    with suppress(Unreadable):
        survival.registration_from(rows[0] | {key: value}, 0.0)


@pytest.mark.parametrize(
    "harm",
    [
        'UPDATE registration SET body = replace(body, \'"expires":\', \'"expires":1e999,"was":\') WHERE name = ?',
        "UPDATE registration SET body = '[' || hex(zeroblob(200000)) WHERE name = ?",
        "UPDATE registration SET body = replace(hex(zeroblob(50000)), '00', '[') WHERE name = ?",
        "UPDATE registration SET body = X'FF00FE' WHERE name = ?",
        "UPDATE registration SET body = CAST(X'FF7B' AS TEXT) WHERE name = ?",
        "UPDATE registration SET body = 7 WHERE name = ?",
        "UPDATE registration SET body = NULL WHERE name = ?",
        "UPDATE registration SET name = 'another' WHERE name = ?",
        "UPDATE registration SET name = CAST(X'FF' AS TEXT) WHERE name = ?",
    ],
)
def test_a_damaged_row_costs_itself_alone(harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Step 1, 14: 1e999 left `adopt` as OverflowError, and the P-CSCF did not start."""
    kernel = FakeKernel()
    first, second = Phone(1), Phone(2)

    def register(world: Driven) -> None:
        for phone in (first, second):
            assert world.register(phone)
            world.ask(phone, phone.invite(f"c{phone.number}"), "200 OK", extra=ROUTED)

    asyncio.run(one_run(tmp_path, kernel, register))
    database = sqlite3.connect(tmp_path / "state" / FILE)
    names = dict(database.execute("SELECT name, body FROM registration"))
    (victim,) = [name for name, body in names.items() if first.user in body]
    database.execute(harm, (victim,))
    database.commit()
    database.close()

    def look(world: Driven) -> None:
        assert [each.key.impi for each in world.server.registrar] == [second.user]
        assert len(world.server.proxy.dialogs) == 1
        assert "1 could not be read" in caplog.text
        world.agreed(orphans=True)
        world.ask(second, second.message("m"), "202 Accepted")
        assert not world.bugs

    with caplog.at_level("INFO"):
        asyncio.run(one_run(tmp_path, kernel, look))
    database = sqlite3.connect(tmp_path / "state" / FILE)
    database.text_factory = bytes
    assert len(list(database.execute("SELECT * FROM registration"))) == 1, "what nobody can read is forgotten"
    database.close()


def test_a_kernel_that_takes_no_new_lifetime_keeps_nobody_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Step 1, 14."""

    class Reluctant(FakeKernel):
        def update(self, ids: Any, lifetime: int) -> None:
            super().update(ids, 1)

    kernel = Reluctant()
    phone = Phone(1)
    asyncio.run(one_run(tmp_path, kernel, lambda world: None if world.register(phone) else pytest.fail("refused")))
    kernel.update = refusing  # type: ignore[method-assign]

    def look(world: Driven) -> None:
        assert [each.key.impi for each in world.server.registrar] == [phone.user]

    asyncio.run(one_run(tmp_path, kernel, look))
    assert f"SAs of {phone.user} end early: " in caplog.text


def test_a_disk_that_stays_full_is_no_reason_to_remember_everybody_who_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is to be written later is what the store lacks then, not all that was there in between."""
    monkeypatch.setattr("pcscf.restart.AGAIN", 0.0)

    def work(world: Driven) -> None:
        restart = world.server._restart
        assert restart is not None
        with monkeypatch.context() as patched:
            patched.setattr(world.server._store, "write", lambda contacts, calls: False)
            assert world.register(Phone(1))
            for number in range(2, 30):
                world.challenge(Phone(number))
            assert len(restart._left) == 1 and restart.behind
        world.challenge(Phone(30))
        assert not restart._left and not restart.behind

    asyncio.run(one_run(tmp_path, FakeKernel(), work))


def refusing(ids: Any, lifetime: int) -> None:
    raise XfrmError("no")
