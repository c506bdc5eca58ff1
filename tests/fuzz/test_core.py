"""Any sequence of events leaves the core in order.

It never raises; the kernel holds exactly the SAs of the live sets, each with a selector of its own, and what leaves
a protected port leaves inside one of them (World); no key is in any message or record; and when all have fallen silent
nothing is left.
"""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from pcscf.sip.message import Request
from pcscf.sip.parse import ParseError, parse
from pcscf.vocabulary import FlowClosed, Malformed
from tests.unit.core.test_field_traps import assert_no_key
from tests.unit.core.world import CORE, REALM, Phone, World, answer, challenge, offer, ok

OFFERS = (
    offer("hmac-sha-1-96/aes-cbc"),
    offer("hmac-sha-1-96/null", spi=45601),
    offer("null/aes-gcm", spi=50_001, port=33_000),
    offer("hmac-md5-96/des-ede3-cbc"),
)


class Scene:
    """Three phones, two of them behind one address, and a core that answers when it is told to."""

    def __init__(self, *, admit: bool) -> None:
        self.world = World(admit_without_ipsec=admit)
        self.phones = [
            Phone(self.world, instance="<urn:0>"),
            Phone(self.world, instance="<urn:1>", user=f"2@{REALM}", call_id="b", clear_port=5070),
            Phone(
                self.world, instance="<urn:2>", user=f"3@{REALM}", call_id="c", address="fd00:45::9", transport="TCP"
            ),
        ]
        self.at_core: list[Request] = []
        self.nonces = 0

    def take(self) -> None:
        """Look at what was sent: requests wait at the core, a challenge is kept by its phone."""
        for flow, message in self.world.sent:
            if isinstance(message, Request):
                assert flow == CORE
                self.at_core.append(message)
                continue
            if message.status == 401 and (server := message.first("security-server")):
                for phone in self.phones:
                    if message.first("call-id") == phone.call_id:
                        phone.security_server = server
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

    def core(self, which: int, what: int) -> None:
        if not self.at_core:
            return
        request = self.at_core.pop(which % len(self.at_core))
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


STEPS = ("challenged", "registered", "register", "answer", "core", "wait", "trouble")


@settings(max_examples=500, deadline=None)
@given(
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 2), st.integers(0, 59)), min_size=8, max_size=50),
)
def test_any_sequence_of_events(admit: bool, steps: list[tuple[str, int, int]]) -> None:
    scene = Scene(admit=admit)
    for name, which, what in steps:
        getattr(scene, name)(which, what)
        scene.take()
    scene.world.wait(700_000)
    assert not scene.world.kernel.sas and not len(scene.world.proxy.registrar)
    assert scene.world.proxy.deadline is None, "a timer outlives everything"
    assert_no_key(scene.world)
