"""A running P-CSCF whose guards are flushed by an operator, and a core that speaks from the phones' side.

Runs on the ESP that is there: userspace natively, the kernel's under User-Mode Linux. Step 1, 2 and 3.
"""

import asyncio
import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from pcscf.admin.views import Status
from pcscf.observe import MessageSeen
from tests.interop.phone import Phone, user
from tests.interop.plant import REALM, Plant, plant

WITHIN = 15.0
GM, MW, CORE = "10.45.0.1", "10.46.0.1", "10.46.0.2"
GAP = 5
"""Times that the guards are flushed, with clear packets on the way all the while."""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Plant]:
    with plant(tmp_path) as made:
        yield made


def until(what: Callable[[], bool], running: Plant) -> None:
    end = time.monotonic() + WITHIN
    while not what():
        assert time.monotonic() < end, running.log("pcscf")[-3000:]
        time.sleep(0.05)


def status(running: Plant) -> Status:
    return asyncio.run(running.client.status())


def lose_the_first_guard(running: Plant) -> None:
    flush = "nft flush ruleset" if status(running).backend == "userspace" else "ip xfrm policy flush"
    running.execute("pcscf", *flush.split())


def mac(running: Plant, host: str, device: str) -> str:
    return str(json.loads(running.execute(host, "ip", "-j", "link", "show", device))[0]["address"])


class Wire:
    """Puts packets on a network that a host has, whoever they say they are from."""

    def __init__(self, running: Plant, host: str, device: str, to: str) -> None:
        with running.network.inside(host):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self._socket.bind((device, 0))
        self._ethernet = Ether(src=mac(running, host, device), dst=to)

    def put(self, source: tuple[str, int], destination: tuple[str, int], data: str) -> None:
        packet = IP(src=source[0], dst=destination[0]) / UDP(sport=source[1], dport=destination[1]) / data.encode()
        self._socket.send(bytes(self._ethernet / packet))

    def close(self) -> None:
        self._socket.close()


def request(method: str, uri: str, source: tuple[str, int], call_id: str) -> str:
    lines = (
        f"{method} {uri} SIP/2.0",
        f"Via: SIP/2.0/UDP {source[0]}:{source[1]};branch=z9hG4bK{os.urandom(6).hex()}",
        f"From: <sip:forged@{REALM}>;tag=1",
        f"To: <sip:forged@{REALM}>",
        f"Call-ID: {call_id}",
        f"CSeq: 1 {method}",
        "Max-Forwards: 70",
        "Content-Length: 0",
    )
    return "".join(f"{line}\r\n" for line in lines) + "\r\n"


def heard(running: Plant, call_id: str) -> bool:
    """Whether the journal has a message of this dialog that came in."""
    return any(getattr(each, "call_id", "") == call_id for each in running.journal())


def test_guards_that_are_flushed_are_put_back_and_nothing_passes_meanwhile(running: Plant) -> None:
    """Step 1, 2: from the UE's own address and ports, on the way all the time that the guard is gone."""
    with Phone(running, "alice", user(1), "10.45.0.2") as alice:
        alice.ok("register")
        (uplink,) = [row for row in running.sas() if row.uplink and row.destination_port in (5100, 5101)]
        wire = Wire(running, "ue", "gm-ue", mac(running, "pcscf", "gm"))
        source, to = (str(uplink.source), uplink.source_port), (GM, uplink.destination_port)
        for number in range(GAP):
            lost = status(running).guards_lost
            lose_the_first_guard(running)
            while status(running).guards_lost == lost:
                wire.put(source, to, request("MESSAGE", f"sip:alice@{REALM}", source, f"forged-{number}"))
            wire.put(source, to, request("MESSAGE", f"sip:alice@{REALM}", source, f"forged-{number}"))
        alice.ok("message echo hello")
        wire.close()
        assert not any(heard(running, f"forged-{number}") for number in range(GAP))
        assert status(running).fault == ""
        log = running.log("pcscf")
        assert log.count("was gone, by somebody's hand; it was put back") >= GAP, log[-2000:]
        assert f"pcscf_guards_lost_total {float(status(running).guards_lost)}" in metrics(running)
        assert "times one of the protected ports was found gone" in told(running, "status")


def test_a_guard_that_cannot_be_put_back_ends_service_on_protected_ports(running: Plant) -> None:
    """Step 1, 2: said in log, `status`, `/api/ready`, metrics; and it goes on when the guard is there again."""
    assert status(running).backend == "userspace", "the kernel gives back every policy that it is asked for"
    spoil = ("ip", "rule", "add", "pref", "100", "from", GM, "ipproto", "udp", "sport", "5104", "unreachable")
    with Phone(running, "alice", user(1), "10.45.0.2", "--udp-only") as alice:
        alice.ok("register")
        assert ready(running) == 200
        running.execute("pcscf", *spoil)
        until(lambda: bool(status(running).fault), running)
        assert ready(running) == 503
        assert "pcscf_protected_ports_served 0.0" in metrics(running)
        assert "NOT SERVED" in told(running, "status")
        assert "protected ports are not served" in running.log("pcscf")
        before = opened(running)
        alice.begin("message echo hello")
        until(lambda: opened(running) > before, running)
        wire = Wire(running, "ue", "gm-ue", mac(running, "pcscf", "gm"))
        wire.put(("10.45.0.3", 5060), (GM, 5060), request("OPTIONS", f"sip:{GM}", ("10.45.0.3", 5060), "after-it"))
        wire.close()
        until(lambda: heard(running, "after-it"), running)
        assert "MESSAGE" not in [each.summary for each in running.journal() if isinstance(each, MessageSeen)]
        running.execute("pcscf", *(word.replace("add", "delete") for word in spoil))
        until(lambda: not status(running).fault, running)
        assert ready(running) == 200
        assert "protected ports are served again" in running.log("pcscf")
        assert alice.result()["ok"], "it was sent again, and is answered now"


def test_the_core_does_not_speak_from_the_side_of_the_phones(running: Plant) -> None:
    """Step 1, 3: where the host believes any source address; from the core's own side the same is heard."""
    for each in ("all", "gm", "mw"):
        running.execute("pcscf", "sysctl", "-qw", f"net.ipv4.conf.{each}.rp_filter=0")
    by_gm = Wire(running, "ue", "gm-ue", mac(running, "pcscf", "gm"))
    by_mw = Wire(running, "core", "mw-core", mac(running, "pcscf", "mw"))
    source, to = (CORE, 5060), (MW, 5060)
    by_gm.put(source, to, request("OPTIONS", f"sip:{MW}", source, "by-gm"))
    by_mw.put(source, to, request("OPTIONS", f"sip:{MW}", source, "by-mw"))
    until(lambda: heard(running, "by-mw"), running)
    assert not heard(running, "by-gm")
    by_gm.close()
    by_mw.close()


def test_a_protected_port_does_not_hear_the_side_of_the_core(running: Plant) -> None:
    """Step 1, 2: a clear packet with a UE's address and ports that comes by another interface."""
    for each in ("all", "gm", "mw"):
        running.execute("pcscf", "sysctl", "-qw", f"net.ipv4.conf.{each}.rp_filter=0")
    with Phone(running, "alice", user(1), "10.45.0.2") as alice:
        alice.ok("register")
        (uplink,) = [row for row in running.sas() if row.uplink and row.destination_port in (5100, 5101)]
        by_mw = Wire(running, "core", "mw-core", mac(running, "pcscf", "mw"))
        source = (str(uplink.source), uplink.source_port)
        for flushed in (False, True):
            if flushed:
                lose_the_first_guard(running)
            for port in (uplink.destination_port, 5060):
                by_mw.put(source, (GM, port), request("MESSAGE", "sip:x@y", source, f"forged-{port}"))
            until(lambda: heard(running, "forged-5060"), running)
        assert not heard(running, f"forged-{uplink.destination_port}")
        by_mw.close()
        alice.ok("message echo hello")


@pytest.mark.parametrize("address", ["0.0.0.0", "::", MW])
def test_no_phone_reaches_the_page_by_whatever_address(address: str, tmp_path: Path) -> None:
    """Step 1, 20: at our address on the core's side by a route through us, and at the link-local one of Gm."""
    with plant(tmp_path, PCSCF_ADMIN__ADDRESS=address) as running:
        for each in ("all", "gm", "mw"):
            running.execute("pcscf", "sysctl", "-qw", f"net.ipv4.conf.{each}.rp_filter=0")
        running.execute("ue", "ip", "route", "add", f"{MW}/32", "via", GM)
        running.execute("pcscf", "ip", "addr", "add", "fd99::1/128", "dev", "mw", "nodad")
        running.execute(
            "ue", "ip", "-6", "route", "add", "fd99::1/128", "via", link_local(running, "gm"), "dev", "gm-ue"
        )
        six = address == "::"
        places = [("fd99::1", ""), (link_local(running, "gm"), "gm-ue")] if six else [(MW, "")]
        assert served(running, "core", link_local(running, "mw") if six else MW, "mw-core" if six else "")
        for place, device in places:
            assert not served(running, "ue", place, device), place
        assert served(running, "core", link_local(running, "mw") if six else MW, "mw-core" if six else "")


def link_local(running: Plant, device: str) -> str:
    """Of an interface of the P-CSCF, once nobody's addresses are tentative (RFC 4862 5.4): those serve nobody yet."""
    tentative = ("ip", "-6", "addr", "show", "tentative")
    until(lambda: not any(running.execute(host, *tentative).strip() for host in ("pcscf", "core", "ue")), running)
    found = json.loads(running.execute("pcscf", "ip", "-6", "-j", "addr", "show", "dev", device, "scope", "link"))
    return next(str(each["local"]) for link in found for each in link.get("addr_info", ()) if "local" in each)


def served(running: Plant, host: str, address: str, device: str) -> bool:
    """Whether the page answers somebody there; who is refused hears nothing."""
    with running.network.inside(host):
        place = socket.getaddrinfo(f"{address}%{device}" if device else address, 8060, type=socket.SOCK_STREAM)[0]
        with socket.socket(place[0]) as asking:
            asking.settimeout(2.0)
            try:
                asking.connect(place[4])
                named = f"[{address}]" if place[0] is socket.AF_INET6 else address
                asking.sendall(f"GET / HTTP/1.1\r\nHost: {named}:8060\r\n\r\n".encode())
                return asking.recv(100).startswith(b"HTTP/1.1 200")
            except OSError:
                return False


def opened(running: Plant) -> int:
    """Packets of the UEs that the ESP engine found good."""
    return sum(row.packets for row in running.sas() if row.uplink)


def told(running: Plant, *command: str) -> str:
    return running.execute(
        "pcscf", sys.executable, "-m", "pcscf", *command, f"--control={running.folder / 'control.sock'}"
    )


def metrics(running: Plant) -> str:
    return asked(running, "/metrics")[1]


def ready(running: Plant) -> int:
    return asked(running, "/api/ready")[0]


def asked(running: Plant, path: str) -> tuple[int, str]:
    with running.network.inside("pcscf"):
        wanted = urllib.request.Request(
            f"http://127.0.0.1:8060{path}", headers={"Authorization": f"Bearer {running.token('read')}"}
        )
        try:
            with urllib.request.urlopen(wanted, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
