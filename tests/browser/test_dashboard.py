"""The dashboard in headless Chromium, while UEs of the lab do what UEs do."""

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import URL, Opener, picture
from tests.interop.phone import Phone, number, user
from tests.interop.plant import CONFIG, Plant

expect.set_options(timeout=20_000)


@pytest.fixture
def page(opened: Opener, running: Plant) -> Iterator[Page]:
    yield opened(f"{URL}#token={running.token()}")


def row(page: Page, who: int) -> str:
    return f"#registrations tr:has-text('{user(who)}')"


def show(page: Page, who: int, address: str) -> None:
    """Open the page of a UE without reloading anything."""
    page.evaluate(f"location.hash = '#/ue/' + encodeURIComponent('{user(who)}~{address}')")
    expect(page.locator("#impi")).to_have_text(user(who))


def drawn(page: Page) -> list[str]:
    """The messages of the ladder: from, to, what, and how they went."""
    arrows = page.locator("#ladder .arrow")
    labels = arrows.evaluate_all("all => all.map(each => each.getAttribute('aria-label'))")
    return [re.sub(r" port \d+|, SPI \d+", "", label) for label in labels]


def test_a_token_is_asked_for_and_a_wrong_one_refused(opened: Opener, running: Plant) -> None:
    page = opened(quiet=False)  # Chromium itself tells of every 401
    expect(page.locator("#login")).to_be_visible()
    page.fill("#token", "x" * 43)
    page.keyboard.press("Enter")
    expect(page.locator("#login-error")).to_contain_text("a bearer token is needed")
    page.fill("#token", running.token())
    page.keyboard.press("Enter")
    expect(page.locator("#login")).not_to_be_visible()
    expect(page.locator("#link")).to_have_text("live")
    page.reload()
    expect(page.locator("#link")).to_have_text("live")
    assert page.context.cookies() == []


def test_each_step_is_shown_as_it_happens(page: Page, running: Plant) -> None:
    expect(page.locator("#link")).to_have_text("live")
    offers = "--offer=hmac-sha-1-96/aes-cbc"
    with (
        Phone(running, "alice", user(1), "10.45.0.2", offers, "--udp-only") as alice,
        Phone(running, "bob", user(2), "10.45.0.3", "--udp-only") as bob,
    ):
        alice.ok("register")
        expect(page.locator(row(page, 1))).to_contain_text("active")
        expect(page.locator(row(page, 1))).to_contain_text("hmac-sha-1-96/aes-cbc")
        expect(page.locator(row(page, 1))).to_contain_text(number(1))
        bob.ok("register")
        expect(page.locator(row(page, 2))).to_contain_text("active")
        expect(page.locator("#summary")).to_contain_text("2 registered · sets: 2 active · 8 SAs, 8 believed")
        page.locator(f"{row(page, 1)} a").click()
        expect(page.locator("#ladder .arrow")).to_have_count(8)
        assert drawn(page) == [
            "REGISTER from ue to pcscf, clear",
            "REGISTER from pcscf to core, clear",
            "401 Unauthorized from core to pcscf, clear",
            "401 Unauthorized from pcscf to ue, clear",
            "REGISTER from ue to pcscf, ESP",
            "REGISTER from pcscf to core, clear",
            "200 OK from core to pcscf, clear",
            "200 OK from pcscf to ue, ESP",
        ]
        expect(page.locator("#ladder .remark").first).to_contain_text("4 SAs installed")
        expect(page.locator("#verdict .healthy")).to_contain_text("registered for another")
        expect(page.locator("#steps li.done")).to_have_count(8)

        # A message: the ladder goes on and the counters move.
        counters = page.locator("#sets .set tbody tr td:nth-child(4)")
        before = [int(each) for each in counters.all_inner_texts()]
        assert len(before) == 4 and before[0] > 0
        alice.ok("message echo hello")
        expect(page.locator("#ladder .arrow", has_text="MESSAGE")).to_have_count(4)
        expect(counters.first).not_to_have_text(str(before[0]))
        assert int(counters.first.inner_text()) > before[0]

        # The whole message, and it stays open while the ladder grows.
        page.locator("#ladder .arrow").first.click()
        whole = page.locator("#ladder pre")
        expect(whole).to_contain_text("REGISTER sip:")
        expect(whole).to_contain_text("Security-Client:")
        page.locator("#follow").uncheck()

        # A call.
        alice.begin(f"call {number(2)}")
        bob.ok("answer")
        assert alice.result()["ok"]
        expect(page.locator("#ladder .arrow.esp", has_text="INVITE")).to_have_count(1)
        expect(page.locator("#ladder .arrow.esp", has_text="180 Ringing")).to_have_count(1)
        alice.ok("hangup")
        expect(page.locator("#ladder .arrow.esp", has_text="BYE")).to_have_count(1)
        labels = [each.split()[0] for each in drawn(page) if "from ue" in each or "to ue" in each]
        assert labels.index("INVITE") < labels.index("180") < labels.index("ACK") < labels.index("BYE")
        expect(whole).to_contain_text("Security-Client:")
        picture(page, "ue")

        # Re-authentication, which the operator asks for: a new set beside the old one, then the old one goes.
        page.locator("#reauthenticate").click()
        expect(page.locator("#confirm")).to_be_visible()
        page.locator("#confirm-yes").click()
        expect(page.locator("#who")).to_contain_text("its next REGISTER will be challenged")
        page.locator("#ladder .arrow").first.click()
        alice.ok("reregister")
        expect(page.locator("#sets .set")).to_have_count(2)
        expect(page.locator("#sets .set").nth(1)).to_contain_text("new")
        expect(page.locator("#who")).not_to_contain_text("will be challenged")
        alice.ok("message echo on the new set")
        expect(page.locator("#sets .set").nth(1)).to_contain_text("active")
        expect(page.locator("#sets .set").nth(0)).to_contain_text("old")
        expect(page.locator("#ladder .arrow.esp", has_text="401 Unauthorized")).to_have_count(1)

        page.keyboard.press("Escape")
        expect(page.locator("#registrations")).to_be_visible()
        picture(page, "overview")


def test_a_faulty_ue_shows_its_cause(page: Page, running: Plant) -> None:
    with Phone(running, "wrong", user(3), "10.45.0.2", "--fault=wrong-ik", "--offer=hmac-sha-1-96/aes-cbc") as phone:
        phone.begin("register")
        expect(page.locator(row(page, 3))).to_contain_text("temporary")
        page.locator(f"{row(page, 3)} a").click()
        expect(page.locator("#verdict [data-verdict='icv-failures']")).to_contain_text("wrong integrity")
        expect(page.locator("#sets .set td.bad").first).to_be_visible()
        expect(page.locator("#steps li.done").last).to_have_text("ESP of the UE came")
        picture(page, "faulty")
        phone.kill()


def test_actions_are_confirmed_and_done(page: Page, running: Plant) -> None:
    with Phone(running, "carol", user(2), "10.45.0.3", "--udp-only") as phone:
        phone.ok("register")
        expect(page.locator(row(page, 2))).to_contain_text("active")
        show(page, 2, "10.45.0.3")
        page.locator("#deregister").click()
        expect(page.locator("#confirm-text")).to_contain_text("Neither the UE nor the core is told")
        page.keyboard.press("Escape")
        expect(page.locator("#confirm")).not_to_be_visible()
        expect(page.locator("#sets .set").last).to_contain_text("active")
        page.locator("#deregister").click()
        page.locator("#confirm-yes").click()
        expect(page.locator("#who")).to_contain_text("not registered")
        expect(page.locator("#sets .set")).to_have_count(0)
        expect(page.locator("#verdict [data-verdict='ended']")).to_contain_text("deregistered by the operator")
        expect(page.locator("#deregister")).to_be_disabled()
        page.locator("#traced").check()
        page.locator("#back").click()
        expect(page.locator("#hops .state")).to_have_text("active")
        page.locator("#hops button").click()
        page.locator("#confirm-yes").click()
        expect(page.locator("#hops .state")).to_have_text("disabled")
        page.locator("#hops button").click()
        expect(page.locator("#hops .state")).not_to_have_text("disabled")
        phone.kill()
    page.keyboard.press("i")
    expect(page.locator("#info-body")).to_contain_text('"visited_network"')
    page.get_by_text("Reload the configuration file").click()
    expect(page.locator("#notice")).to_contain_text("nothing has changed")


def test_traces_are_taken_away(page: Page, running: Plant, tmp_path: Path) -> None:
    with Phone(running, "dave", user(1), "10.45.0.2") as phone:
        phone.ok("register")
        phone.ok("message echo taken away")
        show(page, 1, "10.45.0.2")
        with page.expect_download() as given:
            page.locator("#pcapng").click()
        given.value.save_as(tmp_path / "ue.pcapng")
        with page.expect_download() as given:
            page.locator("#html").click()
        given.value.save_as(tmp_path / "ue.html")
    fields = ("-T", "fields", "-e", "sip.Method", "-e", "sip.Status-Code", "-e", "exported_pdu.ipv4_src")
    lines = subprocess.run(
        ["tshark", "-r", str(tmp_path / "ue.pcapng"), "-Y", "sip", *fields], capture_output=True, text=True, check=True
    ).stdout
    assert "MESSAGE\t\t10.45.0.2" in lines and "\t401\t10.46.0.2" in lines, lines
    assert "taken away" in (tmp_path / "ue.html").read_text()


NAME = "<img src=x onerror=window.owned=1>"


@contextmanager
def stranger(running: Plant, call_id: str) -> Iterator[None]:
    """A REGISTER of somebody whose name is markup."""
    request = (
        f"REGISTER sip:x SIP/2.0\r\nVia: SIP/2.0/UDP 10.45.0.2:5099;branch=z9hG4bK{call_id}\r\nMax-Forwards: 70\r\n"
        f"From: <sip:x@x>;tag=1\r\nTo: <sip:x@x>\r\nCall-ID: <b>{call_id}</b>\r\nCSeq: 1 REGISTER\r\n"
        f'Authorization: Digest username="{NAME}",realm="x",uri="sip:x",nonce="",response=""\r\n'
        "Security-Client: ipsec-3gpp;alg=hmac-sha-1-96;ealg=null;prot=esp;mod=trans;spi-c=901;spi-s=902;"
        "port-c=39001;port-s=39000\r\nRequire: sec-agree\r\nProxy-Require: sec-agree\r\n"
        "Contact: <sip:10.45.0.2:5099>\r\nContent-Length: 0\r\n\r\n"
    )
    with running.network.inside("ue"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        sender.bind(("10.45.0.2", 5099))
        sender.sendto(request.encode(), ("10.45.0.1", 5060))
        yield


def test_what_strangers_say_is_only_text(page: Page, running: Plant) -> None:
    with stranger(running, "x1"):
        problem = page.locator("#problems li", has_text="onerror").first
        expect(problem).to_contain_text("<img src=x")
    page.evaluate(f"location.hash = '#/ue/' + encodeURIComponent({NAME + '~10.45.0.2'!r})")
    expect(page.locator("#ladder .arrow").first).to_be_visible()
    assert page.evaluate("window.owned") is None


LATE = """
() => {
  const real = window.fetch;
  window.late = [];
  window.fetch = async (path, ...rest) => {
    const answer = await real(path, ...rest);
    if (path.startsWith("/api/journal")) await new Promise((go) => window.late.push(go));
    return answer;
  };
}
"""


def test_a_list_that_comes_late_takes_nothing_away(page: Page, running: Plant) -> None:
    """What the stream brought meanwhile stays, and nothing is there twice."""
    expect(page.locator("#link")).to_have_text("live")
    page.evaluate(LATE)
    page.evaluate("location.hash = '#/again'")
    for _ in range(200):
        if page.evaluate("late.length") > 1:  # one when the view is made, one when the stream is there
            break
        page.wait_for_timeout(50)
    else:
        pytest.fail("the list was not asked for twice")
    with stranger(running, "x2"):
        expect(page.locator("#problems li", has_text="onerror")).to_have_count(1)
    page.evaluate("late.forEach(go => go())")
    page.wait_for_timeout(500)
    numbers = page.locator("#problems li").evaluate_all("all => all.map(each => Number(each.dataset.number))")
    assert numbers == sorted(set(numbers), reverse=True)
    expect(page.locator("#problems li", has_text="onerror").first).to_be_visible()


def test_dark_small_and_by_keyboard(opened: Opener, running: Plant) -> None:
    address = f"{URL}#token={running.token()}"
    page = opened(address, color_scheme="dark")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.keyboard.press("t")
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    page.keyboard.press("t")
    with Phone(running, "erin", user(1), "10.45.0.2") as erin, Phone(running, "fred", user(2), "10.45.0.3") as fred:
        erin.ok("register")
        fred.ok("register")
        expect(page.locator(row(page, 2))).to_contain_text("active")
        page.keyboard.press("/")
        expect(page.locator("#search")).to_be_focused()
        page.keyboard.type("0000002@")
        expect(page.locator("#registrations tbody tr")).to_have_count(1)
        page.keyboard.press("Escape")
        page.keyboard.press("ArrowDown")
        expect(page.locator(f"{row(page, 2)} a")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#impi")).to_have_text(user(2))
        expect(page.locator("#ladder .arrow").first).to_be_visible()
        picture(page, "dark")
        small = opened(address, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
        show(small, 2, "10.45.0.3")
        expect(small.locator("#ladder .arrow").first).to_be_visible()
        assert small.evaluate("document.documentElement.scrollWidth") <= 390, "no sideways scrolling but in the ladder"
        picture(small, "phone")
    page.keyboard.press("?")
    expect(page.locator("#info-body")).to_contain_text("from one registration to the next")


def test_the_page_comes_back_when_the_proxy_was_restarted(opened: Opener, running: Plant) -> None:
    page = opened(f"{URL}#token={running.token()}", quiet=False)  # Chromium itself tells of every lost connection
    expect(page.locator("#link")).to_have_text("live")
    page.evaluate("window.same = true")
    running.kill("pcscf")
    expect(page.locator("#link")).not_to_have_text("live")
    running.started("again", "pcscf", "run", f"--config={CONFIG}", **running.settings)
    expect(page.locator("#link")).to_have_text("live")
    expect(page.locator("#notice")).to_have_text("the P-CSCF was started anew")
    with Phone(running, "grace", user(2), "10.45.0.3") as phone:
        phone.ok("register")
        expect(page.locator(row(page, 2))).to_contain_text("active")
    assert page.evaluate("window.same"), "it was not loaded again"
