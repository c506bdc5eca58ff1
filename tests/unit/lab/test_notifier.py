"""The reg event package: who may watch, what a watcher is told and when (RFC 3680, digest C12)."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import pytest

from pcscf.lab.bindings import ContactEvent, Refusal
from pcscf.lab.challenge import Manners
from pcscf.lab.notifier import Notify
from pcscf.sip.fields import parse_name_addr
from pcscf.sip.message import Request, Response
from tests.unit.lab.calling import ALICE, BOB, World, both_registered, request
from tests.unit.lab.vectors import IMPI

NS = "{urn:ietf:params:xml:ns:reginfo}"
PCSCF_URI = "sip:term-8f3a@10.46.0.1:5060"
KAMAILIO: dict[str, Any] = {"manners": Manners.KAMAILIO}


def subscribe(**parts: Any) -> Request:
    """As the UE sends it by its P-CSCF."""
    expires = parts.pop("expires", "600000")
    extra = ("Event: reg", "Accept: application/reginfo+xml", f"Expires: {expires}", *parts.pop("extra", ()))
    return request("SUBSCRIBE", parts.pop("uri", ALICE), extra=extra, **parts)


def pcscf_subscribes(identity: str = PCSCF_URI, **parts: Any) -> Request:
    """The P-CSCF's own subscription: no Route, no Record-Route, its URI asserted."""
    without = ("Record-Route", "P-Asserted-Identity", *parts.pop("without", ()))
    extra = (f"P-Asserted-Identity: <{identity}>", *parts.pop("extra", ()))
    return subscribe(route="", without=without, extra=extra, contact="<sip:10.46.0.1:5060>", **parts)


def within(response: Response, **parts: Any) -> Request:
    """A SUBSCRIBE in the dialog that a 200 made."""
    tag = parse_name_addr(response.first("to") or "").param("tag") or ""
    return subscribe(uri="sip:10.46.0.2:5060", to=ALICE, to_tag=tag, **{"cseq": 2, **parts})


def watched(world: World, asked: Request | None = None, *, informed: bool = True) -> tuple[Response, Notify]:
    response, (notify,) = world.notifier.subscribe(asked or subscribe(), 1.0)
    if informed:
        world.notifier.answered(notify, 200)
    return response, notify


def told(world: World, now: float = 2.0) -> list[Notify]:
    return world.notifier.changed(world.registrar.take_changes(), now)


def content(notify: Notify) -> tuple[str, str, list[tuple[str, str, list[tuple[str, str, str]]]]]:
    """Version, state, and (aor, state, [(contact state, event, uri)]) of each registration."""
    root = ElementTree.fromstring(notify.request.body)
    rows = []
    for each in root.findall(f"{NS}registration"):
        contacts = [
            (one.get("state", ""), one.get("event", ""), one.findtext(f"{NS}uri", ""))
            for one in each.findall(f"{NS}contact")
        ]
        rows.append((each.get("aor", ""), each.get("state", ""), contacts))
    return root.get("version", ""), root.get("state", ""), rows


def events(notify: Notify) -> list[tuple[str, list[tuple[str, str]]]]:
    return [(state, [(each, event) for each, event, _ in rows]) for _, state, rows in content(notify)[2]]


def test_the_full_state_at_once() -> None:
    world = both_registered()
    response, notify = watched(world)
    assert (response.status, response.first("expires")) == (200, "600000")
    assert response.lines("record-route") == ["<sip:10.46.0.1:5060;lr>"]
    sent = notify.request
    assert (sent.method, sent.uri, notify.flow.remote_port) == ("NOTIFY", "sip:10.45.0.2:31801", 5060)
    assert sent.values("route") == ["<sip:10.46.0.1:5060;lr>"]
    assert sent.lines("to") == [f"<{ALICE}>;tag=a1"]
    assert sent.lines("from") == response.lines("to")
    assert (sent.first("cseq"), sent.first("event")) == ("1 NOTIFY", "reg")
    assert sent.lines("subscription-state") == ["active;expires=600000"]
    assert sent.lines("content-length") == [str(len(sent.body))]
    # the REGISTER was for a barred identity: the public ones came by themselves
    contact = ("active", "created", "sip:10.45.0.2:31801")
    assert content(notify) == (
        "0",
        "full",
        [(ALICE, "active", [contact]), ("tel:+15551230001", "active", [contact])],
    )
    assert b'expires="599999"' in sent.body
    assert b'<unknown-param name="+sip.instance">' in sent.body


def test_the_explicit_identity_is_registered_the_others_created() -> None:
    world = World()
    world.register(to=ALICE)
    assert events(watched(world)[1]) == [("active", [("active", "registered")]), ("active", [("active", "created")])]


def test_the_subscription_of_a_pcscf_goes_to_its_contact() -> None:
    world = both_registered()
    response, notify = watched(world, pcscf_subscribes())
    assert response.status == 200
    assert (notify.request.uri, notify.request.lines("route")) == ("sip:10.46.0.1:5060", [])


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        (pcscf_subscribes("sip:10.46.0.99:5060"), 403, "neither this user nor"),
        (pcscf_subscribes(BOB), 403, "neither this user nor"),
        (subscribe(without=("P-Asserted-Identity",)), 403, "is missing"),
        (subscribe(uri="sip:nobody@example.org"), 404, "unknown"),
        (subscribe(to=BOB), 400, "To is not"),
        (subscribe(expires="soon"), 400, "no number"),
    ],
)
def test_who_may_not_watch(asked: Request, status: int, words: str) -> None:
    with pytest.raises(Refusal, match=words) as refused:
        both_registered().notifier.subscribe(asked, 1.0)
    assert refused.value.status == status


def test_changes_are_partial_once_the_watcher_knows_the_rest() -> None:
    world = both_registered()
    watched(world, informed=False)
    world.register(1.5)
    (full,) = told(world)
    assert content(full)[:2] == ("1", "full")
    world.notifier.answered(full, 200)
    world.register(1.6, contact="<sip:10.45.0.2:41801>")
    (partial,) = told(world)
    assert content(partial)[:2] == ("2", "partial")
    assert [each[2] for each in content(partial)[2]] == [[("active", "created", "sip:10.45.0.2:41801")]] * 2
    assert partial.request.first("cseq") == "3 NOTIFY"


def test_a_new_contact_of_the_same_ue_ends_the_old_one() -> None:
    world = both_registered()
    watched(world)
    world.register(1.5, contact='<sip:10.45.0.2:41801>;+sip.instance="<urn:gsma:imei:35000000-000000-0>"')
    (notify,) = told(world)
    ended = ("terminated", "unregistered", "sip:10.45.0.2:31801")
    assert content(notify)[2][0][1:] == ("active", [ended, ("active", "created", "sip:10.45.0.2:41801")])


def _unregister(world: World) -> None:
    world.register(1.5, expires="0")


def _expire(world: World) -> None:
    world.registrar.expire(600_000.0)


@pytest.mark.parametrize(
    ("end", "event"),
    [
        (_unregister, "unregistered"),
        (_expire, "expired"),
        (lambda world: world.registrar.deregister(IMPI, ContactEvent.DEACTIVATED), "deactivated"),
        (lambda world: world.registrar.deregister(IMPI, ContactEvent.REJECTED), "rejected"),
    ],
)
def test_the_end_of_a_registration_ends_every_subscription(end: Callable[[World], object], event: str) -> None:
    world = both_registered()
    watched(world)
    watched(world, pcscf_subscribes(call_id="p"))
    end(world)
    notifies = told(world)
    assert len(notifies) == 2
    for notify in notifies:
        assert events(notify) == [("terminated", [("terminated", event)])] * 2
        assert notify.request.lines("subscription-state") == ["terminated;reason=noresource"]
    assert world.notifier.deadline is None


def test_shortened() -> None:
    world = both_registered()
    watched(world)
    assert world.registrar.shorten(IMPI, 60, 2.0)
    (notify,) = told(world)
    assert events(notify) == [("active", [("active", "shortened")])] * 2
    assert b'expires="60"' in notify.request.body
    assert world.registrar.deadline == 62.0
    assert not world.registrar.shorten(IMPI, 60, 3.0), "it ends before already"
    assert world.registrar.deadline == 62.0


def test_a_refresh_gets_the_full_state() -> None:
    world = both_registered()
    response, _ = watched(world)
    again, (notify,) = world.notifier.subscribe_again(within(response, expires="3600"), 100.0)
    assert (again.status, again.first("expires")) == (200, "3600")
    assert content(notify)[:2] == ("1", "full")
    assert world.notifier.deadline == 3700.0
    for wrong, words in (
        (within(response, cseq=2), "CSeq"),
        (within(response, call_id="other", cseq=3), "no such"),
    ):
        with pytest.raises(Refusal, match=words):
            world.notifier.subscribe_again(wrong, 101.0)


def test_a_watcher_to_whom_there_is_no_way_is_refused() -> None:
    world = both_registered()
    nowhere = {"contact": "<sip:phone.example>", "without": ("Record-Route",)}
    with pytest.raises(Refusal, match="names no address"):
        world.notifier.subscribe(subscribe(**nowhere), 1.0)
    response, _ = watched(world, subscribe(without=("Record-Route",)))
    with pytest.raises(Refusal, match="names no address"):
        world.notifier.subscribe_again(within(response, **nowhere), 2.0)
    world.register(3.0)
    assert told(world)[0].request.uri == "sip:10.45.0.2:31801"


def test_unsubscribing_and_expiry() -> None:
    world = both_registered()
    response, _ = watched(world)
    _, (last,) = world.notifier.subscribe_again(within(response, expires="0"), 100.0)
    assert last.request.lines("subscription-state") == ["terminated;reason=timeout"]
    assert world.notifier.deadline is None
    watched(world, subscribe(expires="60", call_id="c2"))
    assert world.notifier.expire(60.0) == []
    (last,) = world.notifier.expire(61.0)
    assert last.request.lines("subscription-state") == ["terminated;reason=timeout"]
    assert world.notifier.expire(62.0) == []


@pytest.mark.parametrize(("status", "kept"), [(200, True), (500, True), (481, False), (None, False)])
def test_a_watcher_that_is_gone_is_told_nothing_more(status: int | None, kept: bool) -> None:
    world = both_registered()
    _, notify = watched(world, informed=False)
    world.notifier.answered(notify, status)
    world.register(1.5)
    assert bool(told(world)) is kept


def test_the_manners_of_kamailio() -> None:
    world = both_registered(**KAMAILIO)
    asked = subscribe(route="", contact="<sip:10.46.0.1:5060;transport=tcp>", without=("Record-Route",))
    response, notify = watched(world, asked)
    assert content(notify)[:2] == ("2", "full")
    assert notify.flow.transport == "UDP"
    world.register(1.5)
    assert told(world) == [], "no NOTIFY at re-registration"
    world.register(1.6, expires="0")
    (notify,) = told(world)
    assert content(notify)[:2] == ("3", "full")
    assert events(notify) == [("terminated", [("terminated", "expired")])] * 2
    assert notify.request.lines("subscription-state")[0].startswith("active")
    assert world.notifier.subscribe_again(within(response, expires="0"), 3.0)[1] == [], "no final NOTIFY"
    world.register()
    for impossible in (subscribe(without=("P-Asserted-Identity",)), pcscf_subscribes("sip:10.46.0.99")):
        with pytest.raises(Refusal) as refused:
            world.notifier.subscribe(impossible, 1.0)
        assert refused.value.status == 403
