"""Octets that are no text, in every field that is read, kept or shown: nothing breaks, and nothing is obeyed.

Each header of phone and core in its turn goes through a whole registration, a request, a call, a restart, and every
way out: store, API, ladder, exports, event feed, metrics, log, collector, commands.
"""

import asyncio
import io
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcscf import logs
from pcscf.admin.feed import Client
from pcscf.admin.views import KINDS, as_json
from pcscf.cli import main
from pcscf.observe import MessageSeen, Problem
from pcscf.printable import printable, printable_lines, printable_message, reversible
from pcscf.vocabulary import Flow, Interface
from tests.bench.load import Phone
from tests.fake_kernel import FakeKernel
from tests.unit.driven import AT_CORE, Change, Driven, answer, drive, driven, line, unchanged

Lines = Callable[[type[logging.Formatter]], list[str]]
HOSTILE = b"\xff\xed\xa0\x80\xc0\x80\xe2\x80\xa8\xe2\x80\xae\xc2\x85\x1b[31m\x07\x7f"
"""No UTF-8, a surrogate in UTF-8, an overlong NUL, U+2028, a bidi override, NEL, an escape sequence, BEL, DEL."""
ROUTED = b"Record-Route: <sip:127.0.0.3:15080;lr>\r\nContact: <sip:core@127.0.0.3>\r\n"
UNSEEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]")
"""What no terminal may get to see; a line break is looked for by itself."""
MARK = re.compile(r"\\xff\\xed\\xa0\\x80\\xc0\\x80\\u2028\\u202e\\x85\\x1b\[31m\\x07\\x7f")
OF_UE = (
    "request-uri", "via", "max-forwards", "from", "to", "call-id", "cseq", "contact", "expires", "supported", "require",
    "proxy-require", "security-client", "security-verify", "authorization", "p-access-network-info", "route",
    "p-preferred-identity", "accept-contact", "session-expires", "content-type", "x-unknown",
)  # fmt: skip
OF_CORE = (
    "reason phrase", "via", "from", "to", "call-id", "cseq", "www-authenticate", "server", "path", "contact",
    "service-route", "p-associated-uri", "warning", "reason", "record-route", "x-unknown",
)  # fmt: skip


def at_end(value: bytes) -> bytes:
    return value + HOSTILE


def in_quotes(value: bytes) -> bytes:
    return value.replace(b'"', b'"' + HOSTILE, 1)


def in_uri(value: bytes) -> bytes:
    return value.replace(b"sip:", b"sip:" + HOSTILE, 1)


def in_name(value: bytes) -> bytes:
    return value.replace(b"<", b'"' + HOSTILE + b'" <', 1)


PLACES = (at_end, in_quotes, in_uri, in_name)


def changing(name: str, place: Change) -> Change:
    """Put the octets into the first header of that name, or into the start line."""

    def change(octets: bytes) -> bytes:
        head, empty, body = octets.partition(b"\r\n\r\n")
        start, *lines = head.split(b"\r\n")
        if name == "reason phrase":
            return at_end(start) + octets[len(start) :]
        if name == "request-uri":
            method, uri, version = start.split(b" ", 2)
            return b" ".join((method, place(uri), version)) + octets[len(start) :]
        if name == "x-unknown":
            lines.append(b"X-Unknown: " + HOSTILE)
        for number, each in enumerate(lines):
            header, _, value = each.partition(b":")
            if header.lower() == name.encode():
                lines[number] = header + b": " + place(value.strip())
                break
        return b"\r\n".join([start, *lines]) + empty + body

    return change


def said(world: Driven, phone: Phone, of_ue: Change, of_core: Change) -> None:
    """All that a phone and its core say to each other."""
    if not world.register(phone, of_ue, of_core):
        return
    for subscribe in world.subscribed():
        world.receive(of_core(answer(subscribe, "200 OK", b"Expires: 600000\r\nContact: <sip:127.0.0.3>\r\n")), AT_CORE)
        world.receive(of_core(notify(subscribe)), AT_CORE)
    world.ask(phone, of_ue(phone.message(f"m{phone.number}")), "202 Accepted", of_core)
    world.ask(phone, of_ue(phone.invite(f"c{phone.number}")), "200 OK", of_core, ROUTED)
    refused = b'Warning: 399 a "b"\r\nReason: Q.850;cause=16;text="c"\r\n'
    world.ask(phone, of_ue(phone.message(f"r{phone.number}")), "480 Temporarily Unavailable", of_core, refused)


def notify(subscribe: bytes) -> bytes:
    """The core tells the state of a registration, with names that turn around, and of somebody it calls `\xff`."""
    ours = line(subscribe, b"from")
    body = (
        '<?xml version="1.0"?><reginfo xmlns="urn:ietf:params:xml:ns:reginfo" version="0" state="full">'
        '<registration aor="sip:\u202ea\u2028@b" id="\u202e" state="active"><contact id="1" state="active" '
        'event="registered"><uri>sip:\u202e@c</uri><display-name>\u2028</display-name></contact></registration>'
        "</reginfo>"
    ).encode()
    return b"\r\n".join(
        (
            b"NOTIFY " + line(subscribe, b"contact").strip(b"<>") + b" SIP/2.0",
            b"Via: SIP/2.0/UDP 127.0.0.3:15080;branch=z9hG4bK" + line(subscribe, b"call-id"),
            b"Max-Forwards: 70",
            b"From: " + line(subscribe, b"to") + b";tag=core",
            b"To: " + ours,
            b"Call-ID: " + line(subscribe, b"call-id"),
            b"CSeq: 1 NOTIFY",
            b"Event: reg",
            b"Subscription-State: active;expires=600;reason=" + HOSTILE,
            b"Contact: <sip:127.0.0.3:15080>",
            b"Content-Type: application/reginfo+xml",
            b"Content-Length: %d" % len(body),
            b"",
            body,
        )
    )


async def look_everywhere(world: Driven) -> None:
    """Every answer of the API is what it should be, and what is in it can be shown."""
    server, client = world.server, world.client
    texts: list[str] = []
    registrations = await client.registrations()
    texts += [str(each) for each in registrations]
    rows = await client.journal()
    assert [row.decoded() for row in rows]
    texts += [str(row) for row in rows]
    texts += [str(await client.sas()), str(await client.status()), str(await client.hops())]
    for target in ("/metrics", "/api/registrations?search=%FF&order=impi", "/api/configuration", "/api/ready"):
        texts.append((await client._get(target)).decode().replace("\n", ""))
    names = {each.ue for each in registrations}
    for name in names:
        texts.append(str(await client.explain(name)))
        part = name.encode().hex("%").join(("%", "")) if name else ""
        ladder = json.loads(await client._get(f"/api/ues/{part}/ladder"))
        texts += [str(row) for row in ladder]
        for row in ladder[-3:]:
            if row["whole"]:
                whole = json.loads(await client._get(f"/api/ues/{part}/messages/{row['number']}"))["text"]
                texts.append(whole.replace("\n", ""))
        page = (await client._get(f"/api/ues/{part}/trace?form=html")).decode()
        texts.append(page.replace("\n", ""))
        assert (await client._get(f"/api/ues/{part}/trace")).startswith(b"\x0a\x0d\x0d\x0a")
        await client._ask("PUT", f"/api/ues/{part}/trace-level", b'{"level":"log"}')
    for number, record in server.journal.after(0):
        texts.append(printable_message(server.messages.find(number) or b"").replace("\n", "").replace("\t", ""))
        json.loads(as_json(record))
    watching = Client(frozenset(KINDS))
    world.service.feed._clients.add(watching)
    world.service.feed._tell(server.journal.after(0)[-900:])
    events = watching.drain().decode().split("\n\n")
    texts += [str(json.loads(event.partition("data: ")[2])) for event in events if event]
    assert len(events) > 50
    for text in texts:
        assert not UNSEEN.search(text), UNSEEN.search(text)
    assert world.server._mirror is not None and world.server._mirror.sent and not world.server._mirror.lost


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What the log would write, in both formats."""
    log = logging.getLogger("pcscf")
    streams: dict[type[logging.Formatter], io.TextIOWrapper] = {}
    handlers = []
    for formatter in (logs.ConsoleFormatter(), logs.JsonFormatter()):
        stream = streams[type(formatter)] = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter)
        handlers.append(handler)
        log.addHandler(handler)
    level = log.level
    log.setLevel(logging.DEBUG)
    yield lambda kind: written(streams[kind])
    log.setLevel(level)
    for handler in handlers:
        log.removeHandler(handler)


def written(stream: io.TextIOWrapper) -> list[str]:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode().split("\n")[:-1]


def check_log(lines: Lines) -> None:
    for text in lines(logs.ConsoleFormatter):
        assert not UNSEEN.search(text), text
        assert re.match(r"\d{4}-\d\d-\d\d |    ", text) or not text, text
    for text in lines(logs.JsonFormatter):
        row = json.loads(text)
        assert not UNSEEN.search("".join(map(str, row.values())).replace("\n", "")), row
    console = "\n".join(lines(logs.ConsoleFormatter))
    assert "a bug" not in console and "Traceback" not in console, console[-2000:]


async def from_run_to_run(folder: Path, changes: Sequence[tuple[Change, Change]]) -> None:
    """One run with phones and a core that say it, and another that takes up what the first has left."""
    kernel = FakeKernel()
    honest = Phone(100)
    async with driven(folder, kernel) as world:
        world.server.traced.add(ip_address(Phone(1).address))
        for number, (of_ue, of_core) in enumerate(changes, start=1):
            said(world, Phone(number), of_ue, of_core)
        assert world.register(honest) and world.subscribed(), "the next phone is served as ever"
        world.ask(honest, honest.invite("before"), "200 OK", extra=ROUTED)
        assert not world.bugs
        world.agreed()
        await look_everywhere(world)
        known = what_is_kept(world)
    async with driven(folder, kernel) as world:
        assert what_is_kept(world) == known, "what was stored comes back as the same text"
        assert known[1]
        world.agreed(orphans=True)
        world.ask(honest, honest.message("later"), "202 Accepted")
        assert not world.bugs
        for text in map(str, await world.client.registrations()):
            assert not UNSEEN.search(text)


def what_is_kept(world: Driven) -> tuple[object, object]:
    """Contacts with their identities, and the names and routes of their calls."""
    contacts: dict[str, object] = {
        each.path_token: (each.key, each.contact, each.service_route, each.associated_uris)
        for each in world.server.registrar
        if each.registered
    }
    dialogs = world.server.proxy.dialogs
    return contacts, sorted((each.key, each.route) for each in dialogs if not each.early)


@pytest.mark.parametrize("name", OF_UE)
def test_octets_of_a_phone(name: str, tmp_path: Path, lines: Lines) -> None:
    """Step 1, 12 and 15."""
    asyncio.run(from_run_to_run(tmp_path, [(changing(name, place), unchanged) for place in PLACES]))
    check_log(lines)


@pytest.mark.parametrize("name", OF_CORE)
def test_octets_of_the_core(name: str, tmp_path: Path, lines: Lines) -> None:
    """Step 1, 12 and 15."""
    asyncio.run(from_run_to_run(tmp_path, [(unchanged, changing(name, place)) for place in PLACES]))
    check_log(lines)


def test_a_call_of_such_a_name_goes_on_after_a_restart(tmp_path: Path) -> None:
    """Step 1, 12: a Call-ID with octet 0xFF left `handle` as UnicodeEncodeError, and the next one was not stored."""
    kernel = FakeKernel()
    phone, honest = Phone(1), Phone(100)

    async def first(world: Driven) -> None:
        assert world.register(phone)
        invite = phone.invite("c1").replace(b"Call-ID: c1", b"Call-ID: c\xff" + HOSTILE)
        world.receive(invite, world.protected(phone))
        arrived = world.to_core()
        assert arrived is not None and b"Call-ID: c\xff" + HOSTILE in arrived
        world.receive(answer(arrived, "200 OK", ROUTED), AT_CORE)
        assert any(data.startswith(b"SIP/2.0 200 ") and HOSTILE in data for data, _ in world.sent), "it has its 200"
        assert world.register(honest) and not world.bugs

    async def then(world: Driven) -> None:
        assert {each.key.impi for each in world.server.registrar} == {phone.user, honest.user}
        (dialog,) = world.server.proxy.dialogs
        assert dialog.key.call_id.encode("utf-8", "surrogateescape") == b"c\xff" + HOSTILE

    drive(tmp_path, first, kernel)
    drive(tmp_path, then, kernel)


def test_a_stranger_shows_in_journal_status_and_ladder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Step 1, 12 and 15: one REGISTER in clear made the journal and the ladder 500, and `pcscf status` exit 1."""

    async def work(world: Driven) -> None:
        stranger = Phone(7)
        text = stranger.register(5070).replace(b'username="', b'username="' + HOSTILE)
        world.receive(text.replace(b"Call-ID: ", b"Call-ID: " + HOSTILE), world.clear(stranger))
        world.receive(b"NO\xffT SIP\x1b[2J\r\n\r\n", world.clear(stranger))
        socket = str(tmp_path / "run" / "control.sock")
        found = [row.record for row in await world.client.journal() if row.kind == "attempt"]
        assert MARK.match(found[0][1])
        asked = HOSTILE.decode("utf-8", "surrogateescape") + stranger.user
        for name in (found[0][1], asked, stranger.address):
            assert (await world.client.explain(name)).impi == found[0][1], "by what was read, and by what was meant"
        for command in (["status"], ["explain", stranger.address], ["sa"], ["hops"]):
            status = await asyncio.to_thread(main, [*command, "--control", socket])
            shown = capsys.readouterr()
            assert status == (1 if command[0] == "explain" else 0), shown
            assert not UNSEEN.search(shown.out + shown.err), shown

    drive(tmp_path, work)


def test_a_field_makes_no_line_of_its_own(lines: Lines) -> None:
    """Step 1, 15."""
    forged = "a\n2026-01-01 00:00:00,000 INFO    ready\r\n\x1b[1A"
    flow = Flow("UDP", Interface.GM, ip_address("10.45.0.1"), 5060, ip_address("10.45.0.2"), 5060)
    logs.write(Problem(at=1, flow=flow, impi=forged, detail=forged, call_id=forged))
    logs.write_message(MessageSeen(1, True, flow, 0, forged, forged), b"A\r\n2026-01-01 B\xff\r\n\r\nbody\n2026")
    try:
        raise ValueError(forged)
    except ValueError:
        logging.getLogger("pcscf").exception("a failure: %s", forged)
    console = lines(logs.ConsoleFormatter)
    begun = [text for text in console if text.startswith("20")]
    assert len(begun) == 3 and all(
        "\\x0a2026-01-01 00:00:00,000 INFO    ready\\x0d\\x0a\\x1b[1A" in text for text in begun
    )
    assert "    2026-01-01 B\\xff" in console and "    body" in console
    assert all(text.startswith("    ") or text in begun for text in console if text)
    assert len([json.loads(text) for text in lines(logs.JsonFormatter)]) == 3


@given(st.one_of(st.binary(max_size=40), st.text(max_size=40).map(str.encode)))
def test_what_is_stored_is_the_same_text_again(octets: bytes) -> None:
    """Step 1, 12."""
    text = octets.decode("utf-8", "surrogateescape")
    assert reversible(text).isascii() and json.loads(f'"{reversible(text)}"') == text
    assert (
        printable(text).encode() is not None
        and printable(text).isprintable()
        and printable(printable(text)) == printable(text)
    )
    assert not UNSEEN.search(printable_lines(text).replace("\t", ""))
