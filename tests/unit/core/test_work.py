"""The work that one peer's event makes is the same however many others there are (step 1, 10).

What is counted is Python's instructions, so that a busy machine changes nothing: a loop over the others shows.
"""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from pcscf.dialog import DialogKey, Usage
from pcscf.emergency import EmergencyMode, EmergencySettings
from pcscf.originating import OriginatingSettings
from pcscf.registration import ContactKey, Registration
from pcscf.sip.message import header
from pcscf.sip.parse import parse
from pcscf.vocabulary import Event, FlowClosed, Received
from tests.instructions import instructions
from tests.unit.core.test_limits import clear, emergency, numbered, register, send, to_core
from tests.unit.core.world import CORE, Phone, World, answer, challenge, offer, ok, settings

FEW, MANY = 20, 1000


class Crowded(World):
    """A world in which nobody looks at everything after each event: that takes as long as there are many."""

    def __init__(self, **limits: int) -> None:
        super().__init__()
        emergency = EmergencySettings(mode=EmergencyMode.ROUTE, ecscf="sip:10.46.0.2:5060", unregistered=True)
        room = {"transactions": 100_000, "transactions_per_source": 10_000, "pending": 10_000} | limits
        self.use(replace(settings(OriginatingSettings(emergency=emergency)), **room))  # type: ignore[arg-type]

    def check(self) -> None:
        pass


def least(world: World, *events: Event) -> int:
    """The fewest for one of these: now and then one tidies up after many."""
    return min(instructions(lambda event=event: world.proxy.handle(event, world.now)) for event in events)  # type: ignore[misc]


def address(number: int) -> str:
    return f"10.{100 + number // 40_000}.{number // 200 % 200}.{1 + number % 200}"


def unanswered_requests(world: World, count: int) -> Phone:
    phone = Phone(world)
    phone.registered()
    for number in range(count):
        world.receive(phone.request("MESSAGE", call_id=f"waits{number}"), phone.uplink)
    world.sent.clear()
    return phone


def a_connection_closes(count: int) -> int:
    """`Signalling.flow_lost` looked at every request that waits."""
    world = Crowded()
    unanswered_requests(world, count)
    return least(
        world, *(FlowClosed(clear(port=port)._replace(transport="TCP"), "closed") for port in range(6000, 6003))
    )


def guests(world: World, count: int) -> None:
    for number in range(count):
        flow = clear(address(number))
        assert to_core(send(world, numbered(emergency(flow), number), flow))


def one_more_guest(count: int) -> int:
    """`Registrar.welcome` looked at every guest."""
    world = Crowded()
    guests(world, count)
    flows = [clear(f"10.45.8.{number}") for number in range(1, 4)]
    return least(world, *(Received(numbered(emergency(flow), count + flow.remote_port), flow) for flow in flows))


def a_guest_is_refused(count: int) -> int:
    """`Relay.ended` looked at every request under way."""
    world = Crowded()
    guests(world, count)
    flows = [clear(f"10.45.8.{number}") for number in range(1, 4)]
    none_left = header("Max-Forwards", "0")
    refused = [(emergency(flow), flow) for flow in flows]
    return least(world, *(Received(each.with_headers((*each.headers, none_left)), flow) for each, flow in refused))


def challenged(world: World, number: int, where: str, user: str) -> Phone:
    phone = Phone(world, address=where, user=user, call_id=f"reg{number}", instance=f"<urn:x:{number}>")
    phone.offer = offer("hmac-sha-1-96/aes-cbc", spi=50_000 + 2 * number)
    assert phone.challenged().status == 401
    return phone


def one_more_challenge(count: int, **limits: int) -> int:
    world = Crowded(**limits)
    for number in range(count):
        challenged(world, number, address(number), f"{number}@home")
    events = []
    for number in range(3):
        phone = Phone(world, address=f"10.45.8.{number + 1}", user=f"new{number}@home", call_id=f"new{number}")
        events.append(Received(parse(challenge(phone.first())), CORE))
    return least(world, *events)


def a_challenge_where_all_are_taken(count: int) -> int:
    """The source that has the most is known."""
    return one_more_challenge(count, pending=count)


def a_user_registers_whom_others_try(count: int) -> int:
    """`register` and `Registrar.moved_from` looked at every contact that somebody had tried to register of the user."""
    world = Crowded()
    user = "001@home"
    for number in range(count):
        challenged(world, number, address(number), user)
    events = []
    for number in range(3):
        phone = challenged(world, count + number, f"10.45.8.{number + 1}", user)
        world.receive(phone.answer(), phone.uplink)
        events.append(Received(parse(ok(world.at_core())), CORE))
    return least(world, *events)


def a_contact_ends_among_dialogs(count: int) -> int:
    world = Crowded()
    for number in range(count):
        other = Registration(key=ContactKey(f"{number}@home", ip_address(address(number)), ""), path_token=f"{number}")
        world.proxy.dialogs.open(DialogKey(f"call{number}", "ue", "peer"), other, (), Usage.CALL)
    phone = Phone(world)
    phone.registered()
    world.receive(phone.reregister(phone.again(), expires=0), phone.uplink)
    return least(world, Received(parse(ok(world.at_core(), expires=0)), CORE))


def a_message_among_many(count: int) -> int:
    """Inside ESP, and with a table that is full of requests that were answered."""
    world = Crowded(transactions_per_source=count)
    phone = Phone(world)
    phone.registered()
    for number in range(count + 10):
        world.receive(phone.request("MESSAGE", call_id=f"busy{number}"), phone.uplink)
        world.receive(answer(world.at_core(), "200 OK"), CORE)
        world.sent.clear()
    return least(world, *(Received(parse(phone.request("MESSAGE", call_id=f"new{n}")), phone.uplink) for n in range(3)))


def a_refused_register_among_many(count: int) -> int:
    world = Crowded()
    unanswered_requests(world, count)
    template = register(security="")
    return least(world, *(Received(numbered(template, number), clear()) for number in range(3)))


@pytest.mark.parametrize(
    "event",
    [
        a_connection_closes,
        one_more_guest,
        a_guest_is_refused,
        one_more_challenge,
        a_challenge_where_all_are_taken,
        a_user_registers_whom_others_try,
        a_contact_ends_among_dialogs,
        a_message_among_many,
        a_refused_register_among_many,
    ],
    ids=lambda event: event.__name__,
)
def test_an_event_makes_no_more_work_among_many(event: Callable[[int], int]) -> None:
    """Step 1, 10: with 1,000 others as with 20."""
    few, many = event(FEW), event(MANY)
    assert many < 1.2 * few + 50, f"{few} instructions among {FEW}, {many} among {MANY}"
