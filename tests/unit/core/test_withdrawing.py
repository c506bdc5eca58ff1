"""What the core's reg event documents do to a registration and its sets (TS 24.229 5.2.3, 5.2.5.2; digest C5, C6)."""

from collections import Counter
from dataclasses import replace

import pytest

from pcscf.observe import RegistrationChanged
from pcscf.registration import Registration, SetState
from pcscf.sip.message import Request, Response
from pcscf.vocabulary import Order, Ordered
from tests.unit.core.world import CORE, REALM, Phone, World, answer, challenge, from_core, ok, settings

AOR = f"sip:+15551230001@{REALM}"


def reginfo(
    version: int, state: str, *, event: str = "registered", contact: str = "active", expires: str = ""
) -> bytes:
    """A document as a real core writes it: everything, whatever changed."""
    lasts = f' expires="{expires}"' if expires else ""
    body = "".join(
        f'<registration aor="{aor}" id="r{number}" state="{state}">'
        f'<contact id="c{number}" state="{contact}" event="{event}"{lasts}><uri>sip:10.45.0.2:31801</uri>'
        f'<unknown-param name="+g.3gpp.smsip"/></contact></registration>'
        for number, aor in enumerate((AOR, "tel:+15551230001"))
    )
    return (
        f'<?xml version="1.0"?><reginfo xmlns="urn:ietf:params:xml:ns:reginfo" version="{version}" state="full">'
        f"{body}</reginfo>"
    ).encode()


class Watched:
    """A world with a registered phone and our subscription to its state."""

    def __init__(self) -> None:
        self.world = World()
        self.world.use(replace(settings(), reg_event=True))
        self.phone = Phone(self.world)
        assert self.phone.challenged().status == 401
        self.world.receive(self.phone.answer(), self.phone.uplink)
        self.world.receive(ok(self.world.at_core()), CORE)
        (_, response), (flow, subscribe) = self.world.sent
        self.world.sent.clear()
        assert isinstance(response, Response) and response.status == 200, "the UE's answer first"
        assert flow == CORE and isinstance(subscribe, Request)
        self.subscribe = subscribe
        self.cseq = 0
        self.world.receive(answer(subscribe, "200 OK", "Expires: 600000\r\nContact: <sip:10.46.0.2:5060>\r\n"), CORE)

    def notify(self, body: bytes) -> int:
        """A NOTIFY of the core; the status of our answer."""
        self.cseq += 1
        head = (
            f"NOTIFY {(self.subscribe.first('contact') or '').strip('<>')} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 10.46.0.2:5060;branch=z9hG4bKn{self.cseq}\r\nMax-Forwards: 70\r\n"
            f"From: {self.subscribe.first('to')};tag=core\r\nTo: {self.subscribe.first('from')}\r\n"
            f"Call-ID: {self.subscribe.first('call-id')}\r\nCSeq: {self.cseq} NOTIFY\r\nEvent: reg\r\n"
            f"Subscription-State: active;expires=600000\r\nContent-Type: application/reginfo+xml\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self.world.receive(head.encode() + body, CORE)
        flow, response = self.world.take()
        assert flow == CORE and isinstance(response, Response)
        return response.status

    @property
    def registration(self) -> Registration:
        (registration,) = self.world.proxy.registrar
        return registration

    @property
    def states(self) -> Counter[str]:
        return Counter(each.state.value for registration in self.world.proxy.registrar for each in registration.sets)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_one_subscription_with_the_path_uri_asserted(watched: Watched) -> None:
    """F7, real-core: the asserted URI occurs in the stored Path; by the home network, not by the Service-Route."""
    token = watched.registration.path_token
    assert watched.subscribe.uri == AOR and not watched.subscribe.lines("route")
    assert watched.subscribe.values("p-asserted-identity") == [f"<sip:{token}@10.46.0.1:5060;lr>"]
    after = watched.phone.again()
    watched.world.receive(watched.phone.reregister(after), watched.phone.uplink)
    watched.world.receive(ok(watched.world.at_core()), CORE)
    assert watched.world.at_phone()[1].status == 200, "and no second SUBSCRIBE"


def test_active_changes_nothing(watched: Watched) -> None:
    assert watched.notify(reginfo(2, "active")) == 200
    assert watched.registration.registered and watched.states == {"active": 1}


@pytest.mark.parametrize("event", ["deactivated", "rejected", "unregistered", "expired"])
def test_terminated_ends_it_when_the_ue_can_have_heard(watched: Watched, event: str) -> None:
    """5.2.5.2: the set lives long enough for the UE's own NOTIFY; then SAs and registration are gone."""
    world, phone = watched.world, watched.phone
    watched.notify(reginfo(2, "active"))
    assert watched.notify(reginfo(3, "terminated", event=event, contact="terminated")) == 200
    assert not watched.registration.registered and watched.states == {"active": 1}
    world.receive(from_core("NOTIFY", watched.registration, extra="Event: reg\r\n"), CORE)
    flow, notify = world.to_phone()
    assert flow == phone.downlink
    world.receive(answer(notify, "200 OK"), phone.uplink)
    assert world.take()[0] == CORE
    world.receive(phone.request("MESSAGE"), phone.uplink)
    assert world.at_phone()[1].status == 403
    world.wait(129)
    assert not world.kernel.sas and not len(world.proxy.registrar)
    world.wait(700)
    assert not len(world.proxy._reg_events)


def test_one_identity_of_several_is_ended_alone(watched: Watched) -> None:
    """C5: the SAs go with the last identity; the others stay the user's."""
    watched.notify(reginfo(2, "active"))
    document = reginfo(3, "active").decode()
    first, _, rest = document.partition("</registration>")
    watched.notify((first.replace('state="active"', 'state="terminated"') + "</registration>" + rest).encode())
    assert watched.registration.associated_uris == ("<tel:+15551230001>",)
    assert watched.registration.registered and watched.states == {"active": 1}


def test_a_deactivated_ue_registers_again_on_the_set_that_is_left(watched: Watched) -> None:
    world, phone = watched.world, watched.phone
    watched.notify(reginfo(2, "active"))
    watched.notify(reginfo(3, "terminated", event="deactivated", contact="terminated"))
    after = phone.again()
    phone.rechallenged(after)
    world.receive(after.answer(), after.uplink)
    world.receive(ok(world.at_core()), CORE)
    world.sent.clear()
    world.receive(after.request("MESSAGE"), after.uplink)
    world.sent.clear()
    world.wait(300)
    assert watched.registration.registered and watched.states == {"active": 1}


def test_shortened_moves_the_end_and_leaves_the_sets(watched: Watched) -> None:
    """C5: the core wants re-authentication; the UE answers with a REGISTER within the new time."""
    end = watched.registration.sets[0].expires
    watched.notify(reginfo(2, "active"))
    watched.notify(reginfo(3, "active", event="shortened", expires="60"))
    assert watched.registration.expires == watched.world.now + 60
    assert watched.registration.sets[0].expires == end
    after = watched.phone.again()
    watched.world.receive(watched.phone.reregister(after), watched.phone.uplink)
    watched.world.receive(challenge(watched.world.at_core(), nonce="bm9uY2UtMg=="), CORE)
    assert watched.world.at_phone()[1].status == 401


def test_another_contact_of_the_user_is_not_ours_to_end(watched: Watched) -> None:
    watched.notify(reginfo(2, "active"))
    other = reginfo(3, "active", event="unregistered", contact="terminated").replace(b"10.45.0.2", b"10.45.0.9")
    watched.notify(other)
    assert watched.registration.registered


def test_the_ue_deregisters_and_the_core_says_so_too(watched: Watched) -> None:
    """Both ways at once: the NOTIFY may come before the 200."""
    world, phone = watched.world, watched.phone
    watched.notify(reginfo(2, "active"))
    world.receive(phone.reregister(phone.again(), expires=0), phone.uplink)
    at_core = world.at_core()
    assert watched.notify(reginfo(3, "terminated", event="unregistered", contact="terminated")) == 200
    world.receive(answer(at_core, "200 OK"), CORE)
    flow, response = world.at_phone()
    assert (flow, response.status) == (phone.downlink, 200)
    world.wait(129)
    assert not world.kernel.sas and not len(world.proxy.registrar)


def test_a_notify_to_nobody(watched: Watched) -> None:
    watched.subscribe = watched.subscribe.without("call-id")
    assert watched.notify(reginfo(2, "terminated")) == 481
    assert watched.registration.registered


def test_a_notify_from_a_ue_is_not_the_cores(watched: Watched) -> None:
    """Only what comes on Mw is believed."""
    body = reginfo(9, "terminated", event="rejected", contact="terminated").decode()
    to = (watched.subscribe.first("from") or "").partition("tag=")[2]
    data = watched.phone.request(
        "NOTIFY",
        "sip:10.46.0.1:5060",
        to_tag=to,
        from_tag="core",
        call_id=watched.subscribe.first("call-id") or "",
        body=body,
    )
    watched.world.receive(data, watched.phone.uplink)
    assert watched.world.at_phone()[1].status == 481
    assert watched.registration.registered


def test_the_operator_ends_a_registration_at_once(watched: Watched) -> None:
    registration = watched.registration
    key, (sa_set,) = registration.key, registration.sets
    watched.world.handle(Ordered(key.impi, key.address, Order.DEREGISTER))
    assert not list(watched.world.proxy.registrar) and not watched.world.kernel.sas
    assert watched.world.proxy.registrar.registered == 0 and watched.world.proxy.registrar.states.total() == 0
    assert [flow for flow, message in watched.world.sent if flow != CORE] == [], "the UE is not told"
    (ended,) = [r for _, r in watched.world.journal.after(0) if isinstance(r, RegistrationChanged) and not r.registered]
    assert ended.detail == "deregistered by the operator" and sa_set.state is SetState.GONE


def test_the_operator_has_the_next_register_challenged() -> None:
    """To the core it is one that nobody vouches for (TS 24.229 5.2.2); the set in use stays, and the mark goes when
    the UE has answered."""
    world = World()
    phone = Phone(world)
    phone.registered()
    (registration,) = world.proxy.registrar
    world.handle(Ordered(registration.key.impi, registration.key.address, Order.REAUTHENTICATE))
    after = phone.again()
    world.receive(phone.reregister(after), phone.uplink)
    seen = world.at_core()
    assert (seen.first("authorization") or "").endswith('integrity-protected="no"') and registration.to_challenge
    world.receive(challenge(seen, nonce="bm9uY2UtMg=="), CORE)
    response = world.at_phone()[1]
    assert response.status == 401 and registration.to_challenge
    assert Counter(each.state.value for each in registration.sets) == {"active": 1, "temporary": 1}
    world.handle(Ordered("nobody@home", registration.key.address, Order.REAUTHENTICATE))
    world.handle(Ordered("nobody@home", registration.key.address, Order.DEREGISTER))
    after.security_server, after.nonce = response.first("security-server") or "", "bm9uY2UtMg=="
    world.receive(after.answer(), after.uplink)
    world.receive(ok(world.at_core()), CORE)
    assert not registration.to_challenge
    assert list(world.proxy.registrar) == [registration]


def test_a_call_that_is_answered_after_its_contact_has_ended_leaves_no_dialog() -> None:
    """Found by the soak: the 200 came after the deregistration; its dialog stayed for hours (TS 24.229 5.2.8.1.4)."""
    world = World()
    phone = Phone(world)
    phone.registered()
    (registration,) = world.proxy.registrar
    world.receive(phone.request("INVITE"), phone.uplink)
    (invite,) = [message for flow, message in world.sent if flow == CORE and isinstance(message, Request)]
    world.sent.clear()
    world.handle(Ordered(registration.key.impi, registration.key.address, Order.DEREGISTER))
    contact = "Contact: <sip:bob@10.46.0.9:5060>\r\n"
    world.receive(answer(invite, "200 OK", contact, record=True), CORE)
    assert len(world.proxy.dialogs) == 0
