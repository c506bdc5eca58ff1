"""Any sequence of events leaves the core in order.

It never raises; the kernel holds exactly the SAs of the live sets, each with a selector of its own, and what leaves
a protected port leaves inside one of them (World); no key is in any message or record; and when all have fallen silent
nothing is left.
"""

import random
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcscf.register import Without
from pcscf.sip.message import Request
from pcscf.sip.parse import ParseError, parse
from pcscf.vocabulary import Flow, FlowClosed, Malformed
from tests.unit.core.test_field_traps import assert_no_key
from tests.unit.core.world import CORE, REALM, Phone, World, answer, challenge, from_core, offer, ok

OFFERS = (
    offer("hmac-sha-1-96/aes-cbc"),
    offer("hmac-sha-1-96/null", spi=45601),
    offer("null/aes-gcm", spi=50_001, port=33_000),
    offer("hmac-md5-96/des-ede3-cbc"),
)


class Scene:
    """Three phones, two of them behind one address, and a core that answers when it is told to."""

    def __init__(self, *, admit: bool) -> None:
        self.world = World(without=Without.ADMIT if admit else Without.REFUSE)
        self.phones = [
            Phone(self.world, instance="<urn:0>"),
            Phone(self.world, instance="<urn:1>", user=f"2@{REALM}", call_id="b", clear_port=5070),
            Phone(
                self.world, instance="<urn:2>", user=f"3@{REALM}", call_id="c", address="fd00:45::9", transport="TCP"
            ),
        ]
        self.at_core: list[Request] = []
        self.at_phones: list[tuple[Flow, Request]] = []
        self.numbers = 0
        self.offered: dict[str, str] = {}
        """The offers of re-REGISTERs that wait for their 401."""
        self.nonces = 0

    def take(self) -> None:
        """Look at what was sent: requests wait at the core, a challenge is kept by its phone."""
        for flow, message in self.world.sent:
            if isinstance(message, Request):
                if flow == CORE:
                    self.at_core.append(message)
                else:
                    self.at_phones.append((flow, message))
                continue
            if message.status == 401 and (server := message.first("security-server")):
                for phone in self.phones:
                    if message.first("call-id") == phone.call_id:
                        phone.security_server = server
                        phone.offer = self.offered.pop(phone.call_id, phone.offer)
                        phone.nonce = (
                            (message.first("www-authenticate") or "").partition('nonce="')[2].partition('"')[0]
                        )
        self.world.sent.clear()

    def register(self, which: int, what: int) -> None:
        phone = self.phones[which]
        phone.offer = OFFERS[what % len(OFFERS)]
        changes = {
            0: {},
            1: {"expires": 0},
            2: {"security": ""},
            3: {"authorization": f'nonce="{phone.nonce}",auts="x"'},
        }
        self.world.receive(phone.register(**changes[what // 4 % 4]), phone.clear)  # type: ignore[arg-type]

    def renews(self, which: int, what: int) -> None:
        """A phone registers again inside its newest set, mostly challenged, with new numbers or its old ports."""
        phone = self.phones[which]
        if not phone.security_server:
            return
        self.numbers += 1
        port = phone.number("port-c", phone.offer) if what % 7 == 0 else 20_000 + self.numbers
        after = phone.again(spi=100_000 + 2 * self.numbers, port=port)
        self.offered[phone.call_id] = after.offer
        self.world.receive(phone.reregister(after, expires=0 if what % 11 == 0 else 600_000), phone.uplink)
        if what % 3:
            self.take()
            self.core(-1, 0 if what % 5 else 2)

    def answer(self, which: int, what: int) -> None:
        phone = self.phones[which]
        if not phone.security_server:
            return
        if what % 7 == 6:
            phone.offer = OFFERS[what % len(OFFERS)]
        faults: dict[int, dict[str, object]] = {
            1: {"verify": "tls"},
            2: {"client": ""},
            3: {"expires": 0},
            4: {"user": f"other@{REALM}"},
        }
        self.world.receive(phone.answer(**faults.get(what % 7, {})), phone.uplink)  # type: ignore[arg-type]

    def says(self, which: int, what: int) -> None:
        """A phone sends a request inside its newest set, in or outside of a dialog, with and without faults."""
        phone = self.phones[which]
        if not phone.security_server:
            return
        self.numbers += 1
        method = ("MESSAGE", "INVITE", "SUBSCRIBE", "BYE", "CANCEL", "ACK", "UPDATE", "XYZZY")[what % 8]
        routes = (None, None, None, "", "<sip:evil;lr>")
        data = phone.request(
            method,
            route=routes[what % 5],
            to_tag="core" if what % 3 == 0 or method in ("BYE", "ACK", "UPDATE") else "",
            call_id=f"call{what % 4}",
            cseq=self.numbers,
            branch=f"z9hG4bKINVITE{what % 4}" if method in ("CANCEL", "INVITE") else "",
        )
        self.world.receive(data, phone.uplink)

    def calls(self, which: int, what: int) -> None:
        """The core sends a request to a phone, or to nobody."""
        registrations = list(self.world.proxy.registrar)
        if not registrations:
            return
        self.numbers += 1
        registration = registrations[which % len(registrations)]
        method = ("MESSAGE", "INVITE", "BYE", "CANCEL", "ACK", "NOTIFY", "OPTIONS")[what % 7]
        data = from_core(
            method,
            registration,
            call_id=f"call{what % 4}",
            to_tag="u1" if what % 3 == 0 or method in ("BYE", "ACK") else "",
            from_tag="core",
            cseq=self.numbers,
            body="x" * (1400 if what % 5 == 0 else 5),
            branch=f"z9hG4bKmt{what % 4}" if method in ("CANCEL", "INVITE") else "",
        )
        self.world.receive(data, CORE)

    def replies(self, which: int, what: int) -> None:
        """A phone answers what came to it, on its newest set or over the connection."""
        if not self.at_phones:
            return
        flow, request = self.at_phones.pop(which % len(self.at_phones))
        phone = next((each for each in self.phones if flow.remote == ip_address(each.address)), self.phones[0])
        if not phone.security_server or request.method == "ACK":
            return
        status = ("200 OK", "180 Ringing", "486 Busy Here", "100 Trying", "503 Service Unavailable")[what % 5]
        back = flow if flow.transport == "TCP" else phone.uplink
        self.world.receive(answer(request, status, tag="u1", record=what % 2 == 0), back)

    def core(self, which: int, what: int) -> None:
        if not self.at_core:
            return
        request = self.at_core.pop(which % len(self.at_core))
        if request.method != "REGISTER":
            if request.method != "ACK":
                status = ("200 OK", "200 OK", "183 Progress", "404 Not Found", "503 Busy", "100 Trying")[what % 6]
                self.world.receive(answer(request, status, record=True), CORE)
            return
        self.nonces += 1
        nonce = f"nonce{self.nonces}"
        answers: list[Callable[[], bytes]] = [
            lambda: challenge(request, nonce=nonce),
            lambda: challenge(request, nonce=nonce),
            lambda: ok(request),
            lambda: ok(request, expires=60),
            lambda: ok(request, expires=0),
            lambda: answer(request, "403 Forbidden"),
            lambda: challenge(request, nonce=nonce, keys=',ik="00"'),
            lambda: answer(request, "100 Trying"),
            lambda: answer(request, "200 OK", "Contact: <>\r\nP-Associated-URI: x\r\n"),
            lambda: answer(request, "401 Unauthorized"),
        ]
        self.world.receive(answers[what % len(answers)](), CORE)

    def challenged(self, which: int, what: int) -> None:
        """As it goes most of the time, as far as the 401."""
        self.register(which, what % 4)
        self.take()
        self.core(-1, 0)

    def registered(self, which: int, what: int) -> None:
        """As it goes most of the time, from there to the 200."""
        self.answer(which, 0)
        self.take()
        self.core(-1, 2 + what % 3)

    def wait(self, which: int, what: int) -> None:
        self.world.wait((0.6, 3, 40, 130, 245, 700)[what % 6])

    def trouble(self, which: int, what: int) -> None:
        phone, world = self.phones[which], self.world
        match what % 6:
            case 0:
                world.kernel.refuse = 2 if world.kernel.refuse is None else None
            case 1 if phone.security_server:
                world.handle(FlowClosed(phone.uplink, "closed"))
                tcp = [flow for flow, _ in self.at_phones if flow.transport == "TCP"]
                for flow in tcp:
                    world.handle(FlowClosed(flow, "reset"))
            case 2:
                world.handle(FlowClosed(CORE, "refused"))
            case 3 if world.kernel.sas:
                gone = next(iter(world.kernel.sas))
                world.kernel.remove([gone])
                world.expired(gone)
            case 4:
                data = phone.register().replace(b"Content-Length: 0", b"Content-Length: x")
                try:
                    parse(data)
                except ParseError as error:
                    world.handle(Malformed(error, phone.clear))
            case _:
                world.receive(phone.register().replace(b"REGISTER", b"MESSAGE"), phone.clear)


STEPS = (
    "challenged",
    "registered",
    "register",
    "answer",
    "core",
    "wait",
    "trouble",
    "renews",
    "says",
    "calls",
    "replies",
)


def nothing_is_left(scene: Scene) -> None:
    """When all have fallen silent."""
    world, proxy = scene.world, scene.world.proxy
    world.wait(700_000)
    assert not world.kernel.sas and not len(proxy.registrar)
    assert not len(proxy.dialogs) and not len(proxy._relay) and not len(proxy._signalling._transactions)
    assert not proxy._signalling._connections and not proxy._signalling._users and not proxy._signalling._servers
    assert proxy.deadline is None, "a timer outlives everything"
    assert_no_key(world)


@settings(max_examples=300)
@given(
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 2), st.integers(0, 59)), min_size=8, max_size=60),
)
def test_any_sequence_of_events(admit: bool, steps: list[tuple[str, int, int]]) -> None:
    scene = Scene(admit=admit)
    for name, which, what in steps:
        getattr(scene, name)(which, what)
        scene.take()
    nothing_is_left(scene)


@pytest.mark.parametrize("seed", range(20))
def test_a_long_day(seed: int) -> None:
    """Sequences too long for hypothesis to find: sets grow old, dialogs outlive them, transactions overlap."""
    chance = random.Random(seed)
    scene = Scene(admit=seed % 4 == 0)
    for _ in range(300):
        name = chance.choice(STEPS)
        if name != "wait" or chance.random() < 0.3:
            getattr(scene, name)(chance.randrange(3), chance.randrange(60))
            scene.take()
    nothing_is_left(scene)
