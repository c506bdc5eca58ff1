"""Makes pcap-samples/: captures of our own scenarios beside the keys that open them.

    python -m tests.samples [FOLDER] [--only PART-OF-A-NAME]

Run as root: it makes namespaces. Every sample is what the P-CSCF's Gm interface saw of one UE.
"""

import argparse
import asyncio
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import track

from pcscf.capture.file import ETHERNET, Packet
from pcscf.capture.frames import ESP, TCP, UDP, Datagram, Reassembly
from pcscf.lab.capture import Capture, write_capture
from pcscf.lab.control import tell
from pcscf.lab.network import Network
from tests.interop.phone import Phone, user
from tests.interop.plant import ROOT, Plant, plant
from xfrm.algorithms import VALID_PAIRS, Pair

FOLDER = ROOT / "pcap-samples"
README = "README.md"
PICTURE = ("sha1-aes-cbc-udp4", "ladder.svg")
STEPS = ("register", "message echo hello", "expect-message", "call echo", "wait 0.2", "hangup", "deregister")
REGISTRATION = ["REGISTER", "401", "REGISTER", "200"]
CALL = [*REGISTRATION, "MESSAGE", "INVITE", "200", "ACK", "BYE", "200", "REGISTER", "200"]
TAIL = 0.3
"""Seconds after the last step for what is still on its way."""
NAMES = {
    "hmac-sha-1-96/null": "sha1-null",
    "hmac-sha-1-96/aes-cbc": "sha1-aes-cbc",
    "hmac-sha-1-96/des-ede3-cbc": "sha1-3des",
    "hmac-md5-96/null": "md5-null",
    "hmac-md5-96/aes-cbc": "md5-aes-cbc",
    "hmac-md5-96/des-ede3-cbc": "md5-3des",
    "aes-gmac/null": "aes-gmac",
    "null/aes-gcm": "aes-gcm",
}
Act = Callable[["Stage", Phone], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One capture. `order`: SIP methods and statuses that must appear in it in this order.

    `bad` and `replayed`: it has ESP with a wrong integrity check value, or that came twice, on purpose.
    """

    name: str
    what: str
    look_at: str
    order: Sequence[str]
    options: Sequence[str] = ()
    ipv6: bool = False
    act: Act
    bad: bool = False
    replayed: bool = False


@dataclass(slots=True)
class Stage:
    """What a sample plays on."""

    running: Plant
    capture: Capture
    user: str
    held: list[bytes] = field(default_factory=list)

    def tell_core(self, words: str) -> None:
        tell(self.running.folder / "core.sock", words)

    def esp_from(self, address: str) -> list[bytes]:
        """Whole ESP frames of an IPv4 address so far."""
        packed = socket.inet_aton(address)
        whole = (b"\0\0", b"\x40\0")
        return [
            each for each in self.capture.frames if each[23] == ESP and each[26:30] == packed and each[20:22] in whole
        ]


def _call(stage: Stage, phone: Phone) -> None:
    for step in STEPS:
        phone.ok(step)


def _reauthenticate(stage: Stage, phone: Phone) -> None:
    phone.ok("register")
    stage.tell_core(f"rechallenge {stage.user}")
    phone.ok("reregister")
    phone.ok("message echo from the new set")
    phone.ok("deregister")


def _register(stage: Stage, phone: Phone) -> None:
    phone.ok("register")


def _wrong_ik(stage: Stage, phone: Phone) -> None:
    phone.begin("register")
    time.sleep(3)


def _replay(stage: Stage, phone: Phone) -> None:
    phone.ok("register")
    phone.ok("message echo once")
    while not (frames := stage.esp_from("10.45.0.2")):
        time.sleep(0.05)
    with stage.running.network.inside("ue"):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with raw:
        raw.bind(("gm-ue", 0))
        raw.send(frames[-1])


def _deregistered(stage: Stage, phone: Phone) -> None:
    phone.ok("register")
    phone.ok("subscribe")
    stage.tell_core(f"deregister {stage.user} rejected")
    time.sleep(0.5)


def samples() -> list[Sample]:
    """All of them."""
    made = [
        Sample(
            name=f"{NAMES[str(pair)]}-{transport}{6 if ipv6 else 4}",
            what=f"registration, message, call and deregistration: {pair}, {transport.upper()}, IPv{6 if ipv6 else 4}",
            look_at=_look_at(pair),
            order=CALL,
            options=(f"--offer={pair}", "--tcp" if transport == "tcp" else "--udp-only"),
            ipv6=ipv6,
            act=_call,
        )
        for pair in sorted(VALID_PAIRS)
        for transport in ("udp", "tcp")
        for ipv6 in (False, True)
    ]
    cbc = ("--offer=hmac-sha-1-96/aes-cbc", "--udp-only")
    return [
        *made,
        Sample(
            name="re-authentication",
            what="the core challenges a registered UE again; the second REGISTER rides on the set before",
            look_at="the 401 inside ESP; the answer to it and the MESSAGE on other SPIs",
            order=[
                "REGISTER",
                "401",
                "REGISTER",
                "200",
                "REGISTER",
                "401",
                "REGISTER",
                "200",
                "MESSAGE",
                "REGISTER",
                "200",
            ],
            options=cbc,
            act=_reauthenticate,
        ),
        Sample(
            name="synchronisation-failure",
            what="the SIM is ahead of the HSS: the first challenge is answered with auts, the second is good",
            look_at="auts in the second REGISTER; two 401 in clear, each with a Security-Server of its own",
            order=["REGISTER", "401", "REGISTER", "401", "REGISTER", "200"],
            options=(*cbc, "--fault=old-sqn"),
            act=_register,
        ),
        Sample(
            name="wrong-ik",
            what="the UE has another IK: 401, then silence",
            look_at="esp.icv_bad: with the keys of the P-CSCF no packet of the UE verifies; it sends it again",
            order=["REGISTER", "401"],
            options=(*cbc, "--fault=wrong-ik"),
            act=_wrong_ik,
            bad=True,
        ),
        Sample(
            name="replay",
            what="somebody sends an ESP packet of the UE again, unchanged",
            look_at="the last packet has the sequence number of one before: `pcscf decrypt` calls it replayed",
            order=[*REGISTRATION, "MESSAGE"],
            options=cbc,
            act=_replay,
            replayed=True,
        ),
        Sample(
            name="deregistered-by-the-network",
            what="the UE subscribes to its registration state, and the core ends the registration",
            look_at="the NOTIFY with reg event `rejected` inside ESP",
            order=[*REGISTRATION, "SUBSCRIBE", "200", "NOTIFY", "200", "NOTIFY"],
            options=cbc,
            act=_deregistered,
        ),
    ]


def _look_at(pair: Pair) -> str:
    if str(pair) == "aes-gmac/null":
        return "Wireshark has no AES-GMAC: the Lua dissector of the profile opens it"
    if str(pair.encryption) == "null":
        return "not encrypted: readable without keys, with keys its integrity is checked"
    return "the protected REGISTER with Security-Verify; each direction has SPIs of its own"


def of_ue(packets: Sequence[Packet], address: str) -> list[Packet]:
    """What concerns SIP and ESP of one UE, fragments included."""
    reassembly = Reassembly()
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    kept: list[Packet] = []
    for packet in packets:
        datagram = reassembly.feed(ETHERNET, packet.data, packet)
        if not isinstance(datagram, Datagram) or datagram.protocol not in (ESP, UDP, TCP):
            continue
        if packed in (datagram.source, datagram.destination):
            parts = [part for part in datagram.parts if isinstance(part, Packet)]
            kept += parts or [packet]
    return sorted(kept, key=lambda packet: packet.at)


@contextmanager
def stage(folder: Path) -> Iterator[Plant]:
    """A plant whose P-CSCF writes its keys down."""
    core = (f"--control={folder / 'core.sock'}",)
    network = Network(f"pcscf-samples-{os.getpid()}")
    with plant(folder, core=core, network=network, ESPKEYLOGFILE=str(folder / "keys")) as running:
        yield running


def play(running: Plant, sample: Sample, number: int, output: Path) -> None:
    """Play one and write its two files."""
    keys = running.folder / "keys"
    before = len(keys.read_text())
    address = "fd00:45::2" if sample.ipv6 else "10.45.0.2"
    who = user(1 + number % 3)
    ports = f"--ports={20_000 + 8 * number}-{20_007 + 8 * number}"
    capture = Capture(running.network, "pcscf", "gm")
    capture.start()
    with Phone(running, f"ue{number}", who, address, ports, *sample.options) as phone:
        sample.act(Stage(running, capture, who), phone)
        time.sleep(TAIL)
        capture.stop()
    write_capture(output / f"{sample.name}.pcapng", "gm", of_ue(capture.packets, address))
    lines = [line for line in keys.read_text()[before:].splitlines() if not line.startswith("# 20")]
    head = f"# {sample.what}\n"
    (output / f"{sample.name}.esp_sa").write_text(head + "".join(f"{line}\n" for line in lines))


def readme(made: Sequence[Sample]) -> str:
    """The page that lists them."""
    rows = [f"| [{each.name}]({each.name}.pcapng) | {each.what} | {each.look_at} |" for each in made]
    return "\n".join(
        [
            "# Captures to learn from",
            "",
            "Each NAME.pcapng is what the Gm interface of the P-CSCF saw of one UE of the lab; NAME.esp_sa has the",
            "keys of its SAs (of made-up subscribers). Two commands read one:",
            "",
            "    pcscf keys --profile gm -k NAME.esp_sa",
            "    wireshark -C gm NAME.pcapng",
            "",
            "or, in the terminal, `pcscf trace NAME.pcapng -k NAME.esp_sa`. In Wireshark, `sip` filters for what was",
            "inside, `esp.icv_good` and `esp.icv_bad` for its integrity. `make samples` makes them anew.",
            "",
            "![the ladder of sha1-aes-cbc-udp4](ladder.svg)",
            "",
            "| capture | what happens | what to look at |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def picture(folder: Path) -> None:
    """The ladder of one of them as SVG."""
    from pcscf.cli import main

    name, file = PICTURE
    if (folder / f"{name}.pcapng").exists():
        main(
            ["trace", str(folder / f"{name}.pcapng"), "-k", str(folder / f"{name}.esp_sa"), "--svg", str(folder / file)]
        )


def make(folder: Path, only: str = "") -> list[Sample]:
    """Make those whose name has `only` in it."""
    folder.mkdir(exist_ok=True)
    wanted = [each for each in samples() if only in each.name]
    with tempfile.TemporaryDirectory() as temporary, stage(Path(temporary)) as running:
        backend = asyncio.run(running.client.status()).backend
        console = Console(stderr=True)
        for number, each in enumerate(track(wanted, f"samples, {backend} ESP", console=console)):
            play(running, each, number, folder)
    return wanted


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.samples", description="Make pcap-samples/.")
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--only", default="", metavar="PART", help="those with this in their name")
    options = parser.parse_args(arguments)
    made = make(options.folder, options.only)
    if not options.only:
        (options.folder / README).write_text(readme(made))
    picture(options.folder)
    print(f"{len(made)} samples in {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
