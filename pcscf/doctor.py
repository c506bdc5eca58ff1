"""What this machine lacks to run a P-CSCF: findings for people, each with what to do.

Looks and tries, changes nothing: probe SAs are removed at once, ports are bound and released.
"""

import ctypes
import errno
import platform
import socket
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pcscf.config import Config
from xfrm import divert, kernel
from xfrm.links import links_of
from xfrm.model import IPAddress

CAP_NET_ADMIN = 12
CAP_NET_RAW = 13
TIME_ERROR = 5
"""State of ntp_adjtime(3) for a clock that nothing disciplines."""
MODULES = ("xfrm_user", "esp4", "esp6")
SETTINGS = Path("/proc/sys/net")
REASSEMBLY = {
    "IPv4": ("ipv4/ipfrag_high_thresh", "ipv4/ipfrag_time"),
    "IPv6": ("ipv6/ip6frag_high_thresh", "ipv6/ip6frag_time"),
    "IPv6 before nftables": ("netfilter/nf_conntrack_frag6_high_thresh", "netfilter/nf_conntrack_frag6_timeout"),
}
"""Memory of the kernel for packets that are not whole, and seconds that it keeps one."""
LONE_FRAGMENT = 1024
"""Octets of it, about, that a small fragment takes."""
LONE_FRAGMENTS = 10_000
"""A second: fewer of them must not stop reassembly."""
WANTED_MEMORY, WANTED_TIME = 256 << 20, 2


class Verdict(StrEnum):
    GOOD = "ok"
    WARNING = "warning"
    BAD = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at. `remedy` is empty when there is nothing to do."""

    subject: str
    verdict: Verdict
    text: str
    remedy: str = ""


def examine(config: Config | None) -> list[Finding]:
    """Look at kernel ESP, modules, capabilities, TUN, time, fragments; with a configuration at addresses, ports."""
    kernel_lacks = kernel.probe()
    userspace_lacks = divert.missing()
    findings = [
        _backend("kernel ESP", kernel_lacks, "this kernel does ESP for us", spared=not userspace_lacks),
        *_modules(needed=bool(kernel_lacks)),
        _backend("userspace ESP", userspace_lacks, "TUN, raw sockets and nftables are there", spared=not kernel_lacks),
        *_capabilities(),
        _clock(),
        *_reassembly(SETTINGS),
    ]
    if config is not None:
        if config.ipsec.backend != "auto":
            lacks = kernel_lacks if config.ipsec.backend == "kernel" else userspace_lacks
            findings.append(_backend(f"ipsec.backend = {config.ipsec.backend}", lacks, "can work here", spared=False))
        findings += _addresses_and_ports(config)
        findings += _border(config)
    return findings


def _border(config: Config) -> list[Finding]:
    """Who is taken for the core: what comes by an interface of the phones is not."""
    links = links_of((*config.gm.addresses, *config.mw.addresses))
    shared = {link for each in config.gm.addresses for link in links[each]} & {
        link for each in config.mw.addresses for link in links[each]
    }
    subject = "the side of the core"
    if not shared:
        text = "what comes by an interface of the phones is not taken for the core"
        return [Finding(subject=subject, verdict=Verdict.GOOD, text=text)]
    names = ", ".join(sorted(socket.if_indextoname(link) for link in shared))
    believed = "an address of mw.peers" if config.mw.peers else "any address, for mw.peers is empty"
    return [
        Finding(
            subject=subject,
            verdict=Verdict.WARNING,
            text=f"phones and core share {names}: who can send there from {believed} is taken for the core",
            remedy="give Mw an interface of its own, or name the core in mw.peers and see that no phone can send from "
            "its address (a UPF or PGW checks that; else a packet filter)",
        )
    ]


def _backend(subject: str, lacks: list[str] | tuple[str, ...], good: str, *, spared: bool) -> Finding:
    if not lacks:
        return Finding(subject=subject, verdict=Verdict.GOOD, text=good)
    text = "; ".join(lacks)
    if spared:
        return Finding(
            subject=subject, verdict=Verdict.WARNING, text=text, remedy="not needed: the other backend works"
        )
    return Finding(subject=subject, verdict=Verdict.BAD, text=text, remedy="one of the two ESP backends must work")


def _modules(*, needed: bool) -> list[Finding]:
    release = platform.release()
    folder = Path("/lib/modules") / release
    built_in = _names(folder / "modules.builtin")
    loadable = _names(folder / "modules.dep")
    loaded = {line.split()[0] for line in _read(Path("/proc/modules")).splitlines() if line}
    findings = []
    for name in MODULES:
        if name in loaded or name in built_in:
            findings.append(Finding(subject=f"module {name}", verdict=Verdict.GOOD, text="in the kernel"))
        elif name in loadable:
            remedy = f"modprobe {name}" if needed else ""
            findings.append(
                Finding(subject=f"module {name}", verdict=Verdict.GOOD, text="can be loaded", remedy=remedy)
            )
        elif needed:
            findings.append(
                Finding(
                    subject=f"module {name}",
                    verdict=Verdict.WARNING,
                    text=f"not found for kernel {release}",
                    remedy="install the distribution's full kernel, or use ipsec.backend = userspace",
                )
            )
    return findings


def _names(path: Path) -> set[str]:
    return {
        line.split(":")[0].rpartition("/")[2].partition(".ko")[0].replace("-", "_") for line in _read(path).splitlines()
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _capabilities() -> list[Finding]:
    status = _read(Path("/proc/self/status"))
    line = next((line for line in status.splitlines() if line.startswith("CapEff:")), "CapEff: 0")
    effective = int(line.split()[1], 16)
    findings = []
    for name, bit in (("CAP_NET_ADMIN", CAP_NET_ADMIN), ("CAP_NET_RAW", CAP_NET_RAW)):
        if effective >> bit & 1:
            findings.append(Finding(subject=name, verdict=Verdict.GOOD, text="held"))
        else:
            findings.append(
                Finding(
                    subject=name,
                    verdict=Verdict.BAD,
                    text="not held",
                    remedy=f"run as root, or give it: setcap, systemd AmbientCapabilities, docker --cap-add={name[4:]}",
                )
            )
    return findings


def _clock() -> Finding:
    """Journal, captures and the core's logs are compared by time; SQN of some cores is made from it."""
    if time.gmtime().tm_year < 2025:
        text = f"the clock says {time.strftime('%Y-%m-%d')}"
        return Finding(subject="time", verdict=Verdict.BAD, text=text, remedy="set the clock")
    timex = ctypes.create_string_buffer(512)
    try:
        state = ctypes.CDLL(None).ntp_adjtime(timex)
    except AttributeError:
        state = 0
    now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    if state == TIME_ERROR:
        return Finding(
            subject="time",
            verdict=Verdict.WARNING,
            text=f"{now}; nothing keeps the clock in step",
            remedy="run an NTP client, or captures and core logs will not line up",
        )
    return Finding(subject="time", verdict=Verdict.GOOD, text=now)


def _reassembly(settings: Path) -> list[Finding]:
    """A long REGISTER over UDP comes in fragments; lone ones keep the kernel from reassembling any."""
    findings = []
    for family, (memory_name, time_name) in REASSEMBLY.items():
        memory, seconds = (_read(settings / name).strip() for name in (memory_name, time_name))
        if not (memory.isdecimal() and seconds.isdecimal()):
            continue
        bearable = int(memory) // LONE_FRAGMENT // max(1, int(seconds))
        text = f"about {bearable} lone fragments a second stop all reassembly ({memory} octets, {seconds} s)"
        name, after = (f"net.{each.replace('/', '.')}" for each in (memory_name, time_name))
        few = bearable < LONE_FRAGMENTS
        findings.append(
            Finding(
                subject=f"fragments of {family}",
                verdict=Verdict.WARNING if few else Verdict.GOOD,
                text=text,
                remedy=f"sysctl -w {name}={WANTED_MEMORY} {after}={WANTED_TIME}" if few else "",
            )
        )
    return findings


def _addresses_and_ports(config: Config) -> list[Finding]:
    findings = []
    gm_ports = (config.gm.port, *config.ipsec.ports_ps, *config.ipsec.ports_pc)
    for side, address, ports in (
        *(("gm", address, gm_ports) for address in config.gm.addresses),
        *(("mw", address, (config.mw.port,)) for address in config.mw.addresses),
    ):
        subject = f"{side} address {address}"
        if (refusal := _bind(address, 0, socket.SOCK_DGRAM)) is not None:
            text = refusal.strerror or str(refusal)
            remedy = "put it on an interface, or correct the configuration"
            if refusal.errno == errno.EADDRNOTAVAIL:
                text = "no interface has it"
            findings.append(Finding(subject=subject, verdict=Verdict.BAD, text=text, remedy=remedy))
            continue
        findings.append(Finding(subject=subject, verdict=Verdict.GOOD, text="on this machine"))
        taken = [
            f"{word}/{port}"
            for word, kind in (("udp", socket.SOCK_DGRAM), ("tcp", socket.SOCK_STREAM))
            for port in ports
            if _bind(address, port, kind) is not None
        ]
        findings.append(
            Finding(
                subject=f"{side} ports of {address}",
                verdict=Verdict.BAD if taken else Verdict.GOOD,
                text=f"in use: {', '.join(taken)}" if taken else f"free: {', '.join(map(str, ports))}",
                remedy="stop what listens there (ss -lnup, ss -lntp), or choose other ports" if taken else "",
            )
        )
    return findings


def _bind(address: IPAddress, port: int, kind: socket.SocketKind) -> OSError | None:
    with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, kind) as probe:
        try:
            if kind is socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((str(address), port))
        except OSError as error:
            return error
    return None


def is_fit(findings: list[Finding]) -> bool:
    """Whether a P-CSCF could start here."""
    return all(finding.verdict is not Verdict.BAD for finding in findings)
