"""The scenarios of the lab on the gm network of the compose file: each a phone, what it must achieve, and the evidence.

Runs in the image, as a phone does. A capture of the gm network says of each scenario how it went: in ESP, and nothing
in clear but the first REGISTER and its 401. Prints a line each; the exit status is 0 only if all hold.
"""

import fcntl
import os
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass

from pcscf.capture.file import Packet
from pcscf.capture.frames import ESP, Datagram, Reassembly
from pcscf.capture.live import Tap

STORY = (
    "register; message echo hello; expect-message hello; call echo; wait 0.5; reregister; message echo again; hangup; "
    "deregister"
)
FAMILIES = {4: ("10.45.0.2", "10.45.0.1"), 6: ("fd00:45::2", "fd00:45::1")}
PAIRS = (
    "hmac-sha-1-96/aes-cbc", "null/aes-gcm", "hmac-sha-1-96/null", "aes-gmac/null", "hmac-md5-96/null",
    "hmac-md5-96/aes-cbc", "hmac-sha-1-96/des-ede3-cbc", "hmac-md5-96/des-ede3-cbc",
)  # fmt: skip
PROTECTED = range(5100, 5112)
START = (b"REGISTER ", b"SIP/2.0 ", b"MESSAGE ", b"INVITE ", b"BYE ", b"ACK ", b"NOTIFY ", b"SUBSCRIBE ", b"UPDATE ")
SIOCGIFADDR = 0x8915


@dataclass(frozen=True)
class Scenario:
    """`good`: the phone achieves what it is told; else it must fail, and nobody may be registered by it."""

    name: str
    options: tuple[str, ...]
    good: bool = True
    steps: str = STORY


def scenarios() -> list[Scenario]:
    """Every pair, both transports, both families; and what must not work."""
    made = []
    for number, pair in enumerate(PAIRS):
        for version in FAMILIES:
            way = "--tcp" if (number + version // 2) % 2 else "--udp-only"
            made.append(Scenario(f"{pair} IPv{version} {way}", (f"--offer={pair}", way, f"IPv{version}")))
    made.append(Scenario("wrong IK", ("--fault=wrong-ik", "--offer=hmac-sha-1-96/aes-cbc", "IPv4"), False, "register"))
    made.append(
        Scenario("clear text", ("--fault=clear-to-protected", "--offer=null/aes-gcm", "IPv4"), False, "register")
    )
    return made


def interface(address: str) -> str:
    """The one with this IPv4 address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:
                continue
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    raise SystemExit(f"no interface has {address}: is this container on the gm network?")


def run(scenario: Scenario, frames: list[Packet], link: int) -> tuple[bool, str]:
    """Play it; whether it holds, and what was seen or is wrong."""
    version = 6 if "IPv6" in scenario.options else 4
    own, pcscf = FAMILIES[version]
    options = [option for option in scenario.options if not option.startswith("IPv")]
    frames.clear()
    command = ["pcscf", "ue", f"--address={own}", f"--pcscf={pcscf}", "--subscribers=/etc/pcscf/subscribers.toml"]
    command += ["-x", scenario.steps, *options]
    patience = 100 if scenario.good else 8  # nobody answers one that does it wrong, and it would ask for two minutes
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience)
    except subprocess.TimeoutExpired:
        if scenario.good:
            raise
        done = subprocess.CompletedProcess(command, 1, "", "")
    time.sleep(0.2)
    whole = Reassembly()  # a REGISTER in ESP over UDP is longer than a frame
    seen = Counter(kind for packet in tuple(frames) if (kind := classify(whole.feed(link, packet.data))))
    said = f"{seen['esp up']} and {seen['esp down']} ESP packets, {seen['clear']} messages in clear at port 5060"
    if seen["clear at protected"] and scenario.good:
        return False, f"{seen['clear at protected']} packets in clear at protected ports; {said}"
    if scenario.good:
        if done.returncode:
            return False, f"the phone failed ({said}): {done.stdout[-600:]}{done.stderr[-600:]}"
        if min(seen["esp up"], seen["esp down"]) < 6 or seen["clear"] != 2:
            return False, f"not as it must look on the wire: {said}"
    elif not done.returncode:
        return False, f"it went well, and must not: {said}"
    elif seen["esp down"]:
        return False, f"the P-CSCF answered in ESP: {said}"
    return True, said


def classify(found: object) -> str:
    """What a datagram is to the evidence; "" for what it does not matter to."""
    if not isinstance(found, Datagram):
        return ""
    if found.protocol == ESP:
        return "esp up" if found.destination in (socket.inet_aton("10.45.0.1"), PCSCF6) else "esp down"
    ports = struct.unpack_from("!HH", found.payload) if len(found.payload) >= 4 else (0, 0)
    if found.protocol in (6, 17) and any(port in PROTECTED for port in ports):
        return "clear at protected"
    if found.protocol not in (6, 17) or 5060 not in ports:
        return ""
    head = 8 if found.protocol == 17 else 4 * (found.payload[12] >> 4)
    return "clear" if found.payload[head:].startswith(START) else ""


PCSCF6 = socket.inet_pton(socket.AF_INET6, "fd00:45::1")


def main() -> int:
    """Everything; the number of what went wrong."""
    frames: list[Packet] = []
    tap = Tap(interface("10.45.0.2"), frames.append)
    tap.start()
    wrong = 0
    try:
        for scenario in scenarios():
            try:
                holds, said = run(scenario, frames, tap.link)
            except subprocess.TimeoutExpired:
                holds, said = False, "it had no end"
            print(f"{'ok' if holds else 'FAILED':6} {scenario.name:40} {said}", flush=True)
            wrong += not holds
    finally:
        tap.stop()
    print(f"{len(scenarios()) - wrong} of {len(scenarios())} scenarios hold", flush=True)
    return min(wrong, 100)


if __name__ == "__main__":
    os.environ.setdefault("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    sys.exit(main())
