"""The attack list, what a UE says: routes, headers, injected lines, and what is too much of everything.

As in `test_attacks`: nothing of it at the core, words in the journal, and a victim that does not notice.
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address

import pytest

from pcscf.lab.call import CallState
from pcscf.lab.fault import Fault
from pcscf.sip.fields import parse_auth
from pcscf.sip.message import Header, Request, Response, response_to
from tests.interop.attacker import (
    ATTACKER,
    CORE,
    ESP,
    NOBODY,
    PATIENCE,
    PCSCF,
    SILENCE,
    STRANGER,
    Field,
    Seen,
    battlefield,
    impi,
    in_clear,
    register_in_clear,
    user,
)
from tests.interop.plant import REALM


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with battlefield(tmp_path_factory.mktemp("signalling"), "pcscf-attack2") as made:
        yield made


# Routes

ELSEWHERE = f"<sip:{STRANGER}:5060;lr>"
OUR_OWN = "<sip:10.45.0.1:5100;lr>"
SERVICE_ROUTE = "<sip:orig@10.46.0.2:5060;lr>"


@pytest.mark.parametrize(
    "route",
    [
        f"{OUR_OWN}, {ELSEWHERE}",
        ELSEWHERE,
        f"{OUR_OWN}, {SERVICE_ROUTE}, {ELSEWHERE}",
        f"{OUR_OWN}, {ELSEWHERE}, {SERVICE_ROUTE}",
        f"{ELSEWHERE}, {OUR_OWN}, {SERVICE_ROUTE}",
        f"{SERVICE_ROUTE}, {OUR_OWN}",
        f"{OUR_OWN}, {OUR_OWN}, {SERVICE_ROUTE}",
        f"{OUR_OWN}, {SERVICE_ROUTE}, {SERVICE_ROUTE}",
        f"{OUR_OWN}, <sip:{STRANGER}>",
        f"{OUR_OWN}, <sip:10.46.0.2:5060;lr>",
        f"{OUR_OWN}, <sip:orig@10.46.0.2:5061;lr>",
        f"{OUR_OWN}, <sip:orig@10.46.0.2:5060;lr;maddr={STRANGER}>",
        f"{OUR_OWN}, <sip:orig@10.46.0.2:5060;lr;transport=tcp>",
        f"{OUR_OWN}, <sips:orig@10.46.0.2:5060;lr>",
        f"{OUR_OWN}, <tel:+15551230001>",
        f"{OUR_OWN}, <sip:orig@10.46.0.2:5060;lr",
        f"<sip:orig@10.45.0.1:5100;lr;maddr={STRANGER}>, {ELSEWHERE}",
        "<sip:orig@10.46.0.1:5060;lr>",
    ],
)
def test_a_route_other_than_the_service_route_is_refused(field: Field, route: str) -> None:
    async def attack() -> None:
        attacker = field.attacker
        data = attacker.says("MESSAGE", {"Route": route})
        assert await attacker.ask(data, attacker.protected()) == 400

    seen = field.under(attack)
    seen.nothing_at_the_core()
    nothing_elsewhere(field, seen)
    assert seen.says("MESSAGE refused with 400: ") == 1


@pytest.mark.parametrize("route", [None, OUR_OWN, SERVICE_ROUTE, f"{OUR_OWN}, <sip:orig@10.46.0.2:5060>;lr"])
@pytest.mark.parametrize(
    "uri",
    [
        f"sip:nobody@{STRANGER}",
        f"sip:nobody@{REALM};maddr={STRANGER}",
        f"sip:{STRANGER};transport=tcp",
        f"sip:{STRANGER}:5060;lr",
        f"sip:nobody@{REALM}?Route=%3Csip:{STRANGER}%3Blr%3E",
        "sip:orig@10.46.0.1:5060",
    ],
)
def test_a_request_uri_leads_nowhere(field: Field, uri: str, route: str | None) -> None:
    """The way is the Service-Route, also for one who leaves it out; what the Request-URI means is the core's affair."""

    async def attack() -> None:
        data = field.attacker.says("MESSAGE", {"Route": route}, uri=uri)
        assert await field.attacker.ask(data, field.attacker.protected()) >= 400

    seen = field.under(attack)
    nothing_elsewhere(field, seen)
    assert seen.methods == ["MESSAGE"] and seen.requests[0].values("route") == [SERVICE_ROUTE]


def nothing_elsewhere(field: Field, seen: Seen) -> None:
    """Toward the core only to the core, toward the UEs only ESP."""
    assert seen.destinations <= {CORE}, seen.destinations
    assert {each.protocol for each in seen.gm} <= {ESP}


def test_the_route_set_of_a_call_is_kept_to(field: Field) -> None:
    async def attack() -> None:
        attacker = field.attacker
        call = attacker.ue.call(f"sip:echo@{REALM}")
        assert await call.until(CallState.ESTABLISHED, within=PATIENCE) is CallState.ESTABLISHED
        assert call.dialog is not None
        draft = call.dialog.draft("BYE")
        for route in (f"{OUR_OWN}, {ELSEWHERE}", f"{OUR_OWN}, {SERVICE_ROUTE}", ELSEWHERE):
            change = {"Route": route, "From": draft.sender, "To": draft.recipient, "Call-ID": draft.call_id}
            data = attacker.says("BYE", change, uri=f"sip:{STRANGER}")
            assert await attacker.ask(data, attacker.protected()) == 400, route
        await call.hangup()

    seen = field.under(attack)
    assert seen.methods.count("BYE") == 1
    nothing_elsewhere(field, seen)
    assert seen.says("BYE refused with 400: Route is not the route set of the dialog") == 3


# Headers that only the network may set

FORGED = "forged.example"
NETWORK_ONLY = (
    f"P-Asserted-Identity: <sip:{FORGED}>",
    f"P-Charging-Vector: icid-value={FORGED};orig-ioi={FORGED}",
    f"P-Charging-Function-Addresses: ccf={FORGED}",
    f"P-Visited-Network-ID: {FORGED}",
    f"P-Asserted-Service: urn:urn-7:3gpp-service.{FORGED}",
    f'Feature-Caps: *;+g.3gpp.x="{FORGED}"',
    f"P-Called-Party-ID: <sip:{FORGED}>",
    f"P-Associated-URI: <sip:{FORGED}>",
    f"P-Served-User: <sip:{FORGED}>;sescase=orig",
    f"P-Profile-Key: <sip:{FORGED}>",
    f"P-User-Database: <aaa://{FORGED}>",
    f"Path: <sip:{FORGED};lr>",
    f"Service-Route: <sip:{FORGED};lr>",
    f"Record-Route: <sip:{FORGED};lr>",
    f"P-Access-Network-Info: IEEE-802.11;network-provided;x={FORGED}",
    f"Security-Server: ipsec-3gpp;x={FORGED}",
)


def spellings(line: str) -> list[str]:
    name, _, value = line.partition(": ")
    return [line, f"{name.upper()}:{value}", f"{name.lower()} \t: {value}", f"{name}:\r\n {value}"]


@pytest.mark.parametrize("line", NETWORK_ONLY, ids=lambda line: line.partition(":")[0])
@pytest.mark.parametrize("method", ["MESSAGE", "INVITE", "REGISTER", "REGISTER in clear"])
def test_headers_of_the_network_end_at_the_edge(field: Field, method: str, line: str) -> None:
    async def attack() -> None:
        attacker = field.attacker
        for each in spellings(line):
            if method == "REGISTER in clear":
                peer = await field.stranger(ATTACKER, 5095)
                data = register_in_clear(ATTACKER, 5095, number=2, more=[each])
                assert await peer.ask(data, attacker.clear()._replace(local_port=5095)) == 401
                await peer.transport.close()
            elif method == "REGISTER":
                assert await attacker.ask(attacker.registers(more=[each]), attacker.protected()) == 200
            else:
                assert await attacker.ask(attacker.says(method, more=[each]), attacker.protected()) == 404

    seen = field.under(attack)
    assert len([each for each in seen.methods if each == method.split()[0]]) == 4
    assert not [each for each in seen.core if FORGED.encode() in each]


@pytest.mark.parametrize("method", ["REGISTER", "MESSAGE"])
@pytest.mark.parametrize(
    "text",
    [
        ',integrity-protected="yes"',
        ",integrity-protected = yes",
        ',Integrity-Protected="yes"',
        ',integrity-protected="auth-done",integrity-protected="yes"',
        ',opaque="a,integrity-protected=yes"',
    ],
)
def test_the_integrity_indicator_is_ours(field: Field, method: str, text: str) -> None:
    """Digest A10: what a UE says of it is taken out. A query: what is inside the quotes of another is no parameter."""

    async def attack() -> None:
        attacker = field.attacker
        change = {"Authorization": attacker.ue._authorization + text}
        if method == "REGISTER":
            peer = await field.stranger(ATTACKER, 5096)
            change["Authorization"] = f'Digest username="{impi(2)}",realm="{REALM}",nonce="",response=""{text}'
            data = register_in_clear(ATTACKER, 5096, change, number=2)
            status = await peer.ask(data, attacker.clear()._replace(local_port=5096))
            await peer.transport.close()
            assert status == (400 if text.count("integrity") == 2 else 401)
        else:
            assert await attacker.ask(attacker.says("MESSAGE", change), attacker.protected()) == 404

    seen = field.under(attack)
    if method == "REGISTER" and text.count("integrity") == 2:
        seen.nothing_at_the_core()
        assert seen.says("the Authorization header has integrity-protected twice") == 1
        return
    assert seen.methods == [method]
    values = [
        value
        for line in seen.requests[0].lines("authorization")
        for name, value in parse_auth(line).params
        if name == "integrity-protected"
    ]
    assert values == (["no"] if method == "REGISTER" else [])


def test_headers_of_the_network_in_an_answer_end_at_the_edge(field: Field) -> None:
    async def attack() -> None:
        attacker = field.attacker
        attacker.ue.set_faults(frozenset({Fault.SILENT}))
        victim = field.victim
        victim.heard.clear()
        attacker.heard.clear()
        victim.put(victim.says("MESSAGE", uri=user(2)), victim.protected())
        request = await attacker.next(lambda message: isinstance(message, Request) and message.method == "MESSAGE")
        assert isinstance(request, Request)
        more = [Header("", "", each) for each in NETWORK_ONLY if not each.startswith("Security-Server")]
        attacker.put(response_to(request, 200, to_tag="t", headers=more).to_bytes(), attacker.protected())
        answer = await victim.next(lambda message: isinstance(message, Response))
        assert isinstance(answer, Response) and answer.status == 200
        assert FORGED.encode() not in answer.to_bytes()
        attacker.ue.set_faults(frozenset())

    seen = field.under(attack)
    assert not [each for each in seen.core if FORGED.encode() in each]


# Injected lines

LINE = f"P-Asserted-Identity: <sip:{FORGED}>"
BREAKS = ["\r\n", "\n", "\r", "\0", "\r\n ", "\n\r", "%0d%0a", "\\\r\n", "\x0b", "\x85", "\u2028", "\r\r\n\n"]
PLACES: dict[str, str] = {
    "Via": "SIP/2.0/UDP 10.45.0.3:5061;branch=z9hG4bKi;x={}",
    "Via quoted": 'SIP/2.0/UDP 10.45.0.3:5061;branch=z9hG4bKi;x="a{}b"',
    "Via branch": "SIP/2.0/UDP 10.45.0.3:5061;branch=z9hG4bK{}",
    "From": '"a{}b" <sip:a@example.com>;tag=1',
    "From tag": "<sip:a@example.com>;tag=1{}",
    "From user": "<sip:a{}b@example.com>;tag=1",
    "To": '"a{}b" <sip:a@example.com>',
    "Call-ID": "a{}b",
    "CSeq": "1{} MESSAGE",
    "Contact": '<sip:a@10.45.0.3>;+sip.instance="<urn:a{}b>"',
    "Contact user": "<sip:a{}b@10.45.0.3>",
    "P-Preferred-Identity": '"a{}b" <sip:a@example.com>',
    "Security-Client": "ipsec-3gpp;alg=hmac-sha-1-96;x={}",
    "Max-Forwards": "70{}",
    "Route": "<sip:10.45.0.1:5100;lr>, <sip:orig@10.46.0.2:5060;lr;x={}>",
    "Require": "sec-agree, a{}b",
    "Supported": "sec-agree, a{}b",
    "User-Agent": "a{}b",
    "Content-Length": "0{}",
    "Privacy": "none{}",
    "P-Access-Network-Info": '3GPP-E-UTRAN-FDD;x="a{}b"',
}


@pytest.mark.parametrize("place", PLACES)
def test_no_header_line_can_be_injected(field: Field, place: str) -> None:
    statuses: dict[str, int] = {}

    async def attack() -> None:
        attacker = field.attacker
        for each in BREAKS:
            name = place.split()[0]
            data = attacker.says("MESSAGE", {name: PLACES[place].replace("{}", f"{each}{LINE}")})
            attacker.heard.clear()
            attacker.put(data, attacker.protected())
        await asyncio.sleep(0.1)
        for message, _ in attacker.heard:
            assert isinstance(message, Response)
            statuses[str(message.status)] = statuses.get(str(message.status), 0) + 1
            assert not message.lines("p-asserted-identity"), message

    seen = field.under(attack)
    no_line_of(seen, LINE)


@pytest.mark.parametrize("place", [*(each for each in PLACES if each != "CSeq"), "Authorization", "Expires"])
def test_no_header_line_can_be_injected_into_a_register(field: Field, place: str) -> None:
    more = {
        "Authorization": f'Digest username="{impi(2)}",realm="a{{}}b",uri="sip:x",nonce="",response=""',
        "Expires": "600000{}",
    }

    async def attack() -> None:
        attacker = field.attacker
        peer = await field.stranger(ATTACKER, 5061)
        for each in BREAKS:
            text = f"{each}{LINE}"
            name = place.split()[0]
            value = (PLACES | more)[place].replace("{}", text)
            flow = attacker.clear()._replace(local_port=5061)
            peer.put(register_in_clear(ATTACKER, 5061, {name: value}, number=2), flow)
            attacker.put(attacker.registers({name: value}), attacker.protected())
        await asyncio.sleep(0.1)
        await peer.transport.close()

    no_line_of(field.under(attack), LINE)


def no_line_of(seen: Seen, line: str) -> None:
    """No receiver, however lax about line ends, finds this line in what the core got."""
    for each in seen.core:
        found = re.search(rb"[\r\n\0]" + re.escape(line.encode()), each)
        assert found is None, each


def test_request_uris_with_breaks_are_refused(field: Field) -> None:
    async def attack() -> None:
        attacker = field.attacker
        for each in ("\n", "\r", "\0", "\t", " ", '"', "<"):
            data = attacker.says("MESSAGE").replace(NOBODY.encode(), f"sip:a{each}X@{REALM}".encode(), 1)
            assert await attacker.ask(data, attacker.protected(), within=SILENCE) in (0, 400), each

    seen = field.under(attack)
    seen.nothing_at_the_core()
    assert seen.says("not a SIP message") == 7


# Floods


def test_unanswered_challenges_of_one_address_are_bounded(field: Field) -> None:
    """Field trap 24: 500 of them hold no more than their share, and an honest UE of that address gets in."""

    async def attack() -> None:
        peer = await field.stranger(STRANGER, 5097)
        flow = field.victim.clear()._replace(local=STRANGER, local_port=5097)
        honest = await field.ue(3, STRANGER)
        for place in range(500):
            spi = 3_000_000_000 + 2 * place
            change = {
                "Contact": f'<sip:{STRANGER}:5097>;+sip.instance="<urn:uuid:{place}>"',
                "Security-Client": (
                    "ipsec-3gpp;alg=hmac-sha-1-96;ealg=aes-cbc;prot=esp;mod=trans;"
                    f"spi-c={spi};spi-s={spi + 1};port-c={10_000 + 2 * place};port-s={10_001 + 2 * place}"
                ),
            }
            peer.put(register_in_clear(STRANGER, 5097, change, number=1 + place % 2), flow)
            if place % 50 == 49:
                await field.well()
        outcome = await honest.register()
        assert outcome.registered, outcome
        rows = [row for row in await field.client.sas() if STRANGER in (row.source, row.destination)]
        waiting = [row for row in rows if row.state == "temporary"]
        assert 0 < len(waiting) <= 4 * 64
        assert len([row for row in await field.client.registrations() if row.address == STRANGER]) <= 65
        assert (await honest.deregister()).status == 200
        await field.neighbour.ue.reboot()  # the same user: it had moved away from there
        await peer.transport.close()

    seen = field.under(attack)
    assert [record for record in seen.records if "too many unanswered challenges" in repr(record)]


def test_connections_of_one_source_are_bounded(field: Field) -> None:
    async def attack() -> None:
        opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        for _ in range(200):
            opened.append(await asyncio.open_connection(str(PCSCF), 5060, local_addr=(str(STRANGER), 0)))
        await field.well()
        await asyncio.sleep(0.1)
        alive = [writer for reader, writer in opened if not reader.at_eof() and reader.exception() is None]
        assert len(alive) == 64
        assert field.running.execute("pcscf", "ss", "-tnH", "state", "established").count(f"{STRANGER}:") == 64
        for _, writer in opened:
            writer.transport.abort()
        await asyncio.sleep(0.05)
        data = in_clear(STRANGER, 5060, "MESSAGE", transport="TCP")
        reader, writer = await asyncio.open_connection(str(PCSCF), 5060, local_addr=(str(STRANGER), 0))
        writer.write(data)
        assert (await reader.readline()).startswith(b"SIP/2.0 403 ")
        writer.close()
        await writer.wait_closed()

    field.under(attack).nothing_at_the_core()


OVERSIZED: dict[str, Callable[[bytes], bytes]] = {
    "70,000 octets": lambda data: data.replace(b"Max-Forwards", b"X: " + b"x" * 70_000 + b"\r\nMax-Forwards", 1),
    "10,000 lines": lambda data: data.replace(b"Max-Forwards", b"X: 1\r\n" * 10_000 + b"Max-Forwards", 1),
    "300 lines": lambda data: data.replace(b"Max-Forwards", b"X: 1\r\n" * 300 + b"Max-Forwards", 1),
    "endless": lambda data: data.partition(b"Max-Forwards")[0] + b"X: " + b"x" * 200_000,
    "10,000 folds": lambda data: data.replace(b"Max-Forwards", b"X: 1" + b"\r\n 1" * 10_000 + b"\r\nMax-Forwards", 1),
    "a promised body": lambda data: data.replace(b"Content-Length: 0", b"Content-Length: 1000000"),
}


@pytest.mark.parametrize("size", OVERSIZED)
@pytest.mark.parametrize("inside", [False, True], ids=["clear", "esp"])
def test_oversized_messages_over_tcp_end_their_connection(field: Field, size: str, inside: bool) -> None:
    async def attack() -> None:
        attacker = field.attacker
        if inside:
            data = OVERSIZED[size](attacker.says("MESSAGE", tcp=True))
            status = await attacker.ask(data, attacker.protected(tcp=True), within=SILENCE)
            assert status in (0, 400, 513)
            assert not attacker.transport.is_open(attacker.protected(tcp=True))
            return
        data = OVERSIZED[size](in_clear(STRANGER, 5060, "MESSAGE", transport="TCP"))
        reader, writer = await asyncio.open_connection(str(PCSCF), 5060, local_addr=(str(STRANGER), 0))
        writer.write(data)
        said = b""
        with suppress(ConnectionError):
            async with asyncio.timeout(2):
                said = await reader.read()
        assert not said or said.startswith((b"SIP/2.0 513 ", b"SIP/2.0 400 ", b"SIP/2.0 403 "))
        writer.transport.abort()

    seen = field.under(attack)
    seen.nothing_at_the_core()
    assert seen.says("not a SIP message: ") == 1


@pytest.mark.parametrize("size", ["60,000 octets", "10,000 lines"])
def test_oversized_datagrams_are_refused(field: Field, size: str) -> None:
    async def attack() -> None:
        attacker = field.attacker
        more = ["X: " + "x" * 60_000] if size == "60,000 octets" else ["X: 1"] * 10_000
        assert await attacker.ask(in_clear(ATTACKER, 5060, "MESSAGE", more=more), attacker.clear(), within=SILENCE) == 0
        assert await attacker.ask(attacker.says("MESSAGE", more=more), attacker.protected(), within=SILENCE) == 0

    seen = field.under(attack)
    seen.nothing_at_the_core()
    assert seen.says("not a SIP message: ") == 2


@pytest.mark.parametrize("inside", [False, True], ids=["clear", "esp"])
def test_what_no_datagram_can_hold_hurts_nobody_else(field: Field, inside: bool) -> None:
    """Over TCP there is room for more than UDP toward the core has: that must not end the requests of others."""

    async def attack() -> None:
        called = field.neighbour.ue
        called.set_faults(frozenset({Fault.LATE_ANSWER}))
        pending = asyncio.create_task(field.victim.ue.message(user(3), "on its way"))
        await asyncio.sleep(0.1)
        body = b"x" * 65_500
        if inside:
            data, flow = field.attacker.says("MESSAGE", tcp=True, body=body), field.attacker.protected(tcp=True)
        else:
            length = {"Content-Length": str(len(body))}
            data = register_in_clear(ATTACKER, 5060, length, number=2, transport="TCP") + body
            flow = field.attacker.clear(tcp=True)
        assert await field.attacker.ask(data, flow, within=SILENCE) == 513
        assert (await pending).status == 200, "the victim's request was given up"
        called.set_faults(frozenset())

    seen = field.under(attack)
    assert set(seen.methods) == {"MESSAGE"}
    assert not seen.says("next hop")
    assert seen.says("not a SIP message: a body of 65500 octets") == 1


def test_a_503_of_a_ue_says_nothing_of_the_core(field: Field) -> None:
    """An accomplice answers 503 with Retry-After: the next hop has done nothing wrong."""

    async def attack() -> None:
        called, caller = field.neighbour, field.attacker
        called.ue.set_faults(frozenset({Fault.SILENT}))
        called.heard.clear()
        caller.heard.clear()
        caller.put(caller.says("MESSAGE", uri=user(3)), caller.protected())
        request = await called.next(lambda message: isinstance(message, Request) and message.method == "MESSAGE")
        assert isinstance(request, Request)
        more = [Header("retry-after", "86400", "Retry-After: 86400")]
        called.put(response_to(request, 503, to_tag="t", headers=more).to_bytes(), called.protected())
        answer = await caller.next(lambda message: isinstance(message, Response) and message.status >= 200)
        assert isinstance(answer, Response) and answer.status >= 400
        called.ue.set_faults(frozenset())

    seen = field.under(attack)
    assert not seen.says("next hop")


def test_refused_connections_are_in_the_journal(field: Field) -> None:
    async def attack() -> None:
        opened = [await asyncio.open_connection(str(PCSCF), 5060, local_addr=(str(STRANGER), 0)) for _ in range(70)]
        await asyncio.sleep(0.05)
        for _, writer in opened:
            writer.transport.abort()

    assert field.under(attack).says("connections")


def test_emergency_calls_in_clear_are_bounded(field: Field) -> None:
    """Without a registration they get 380 (digest C10); one address cannot have any number of them."""
    statuses: list[int] = []

    async def attack() -> None:
        for port in range(6100, 6170):
            peer = await field.stranger(STRANGER, port)
            flow = field.victim.clear()._replace(local=STRANGER, local_port=port)
            data = in_clear(STRANGER, port, "INVITE", uri="urn:service:sos")
            statuses.append(await peer.ask(data, flow))
            await peer.transport.close()
        guests = [row for row in await field.client.registrations() if row.address == STRANGER and not row.impi]
        assert len(guests) <= 64

    seen = field.under(attack)
    seen.nothing_at_the_core()
    assert statuses[0] == 380 and set(statuses) <= {380, 403}


# The core's side


def test_the_port_toward_the_core_hears_the_core_only(field: Field) -> None:
    """A UE that has a route to the Mw address is not the core."""

    async def attack() -> None:
        field.running.execute("ue", "ip", "route", "replace", "10.46.0.1", "via", str(PCSCF))
        try:
            peer = await field.stranger(STRANGER, 5098)
            flow = field.victim.clear()._replace(local=STRANGER, local_port=5098, remote=IPv4Address("10.46.0.1"))
            data = in_clear(STRANGER, 5098, "OPTIONS", uri="sip:10.46.0.1:5060")
            assert await peer.ask(data, flow, within=SILENCE) in (0, 403)
            await peer.transport.close()
        finally:
            field.running.execute("ue", "ip", "route", "del", "10.46.0.1", check=False)

    field.under(attack).nothing_at_the_core()
