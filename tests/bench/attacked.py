"""The P-CSCF that is flooded, with a core, in namespaces of its own; and what can be seen of it from outside."""

import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from pcscf.lab.network import Network
from tests.bench.flooder import BOUND, FIRST_KNOWN, KNOWN, MANY, ONE, udp_socket
from tests.interop.phone import user
from tests.interop.plant import CONFIG, REALM, Plant

NEW_ADDRESSES = ("10.45.0.3", "10.45.0.4", "10.45.0.5")
"""Of new phones."""
MW = "10.46.0.1"
"""The P-CSCF toward the core."""
GATEWAY = "10.45.0.254"
"""The router that phones of other networks are behind."""
COUNTING = """
table inet flood {
  counter clear_in { }
  counter clear_out { }
  set statuses { typeof @th,128,24; flags dynamic; counter; size 128; }
  chain in {
    type filter hook prerouting priority -350;
    iifname "gm" meta l4proto { tcp, udp } th dport 5060 counter name clear_in
  }
  chain out {
    type filter hook postrouting priority 300;
    oifname "gm" meta l4proto { tcp, udp } th sport 5060 counter name clear_out
    oifname "gm" udp sport 5060 @th,64,64 0x5349502f322e3020 add @statuses { @th,128,24 }
  }
}
"""
"""Counts packets at the port for REGISTER, and answers by their status; nothing of it depends on the P-CSCF."""


def subscribers(folder: Path) -> Path:
    """Those who are phones here, and those whom floods pretend to be."""
    numbers = [*range(1, 20), *range(FIRST_KNOWN, FIRST_KNOWN + KNOWN)]
    entries = [
        f'[[subscriber]]\nimpi = "{user(each)}"\nimpus = ["sip:+1555{each:07}@{REALM}"]\n'
        f'k = "{each:032x}"\nopc = "{each + 7:032x}"\n'
        for each in numbers
    ]
    path = folder / "subscribers.toml"
    path.write_text("\n".join(entries))
    return path


def hardware_address(plant: Plant, host: str, interface: str) -> str:
    (link,) = json.loads(plant.execute(host, "ip", "-json", "link", "show", "dev", interface))
    return str(link["address"])


def prepare(plant: Plant) -> str:
    """Other networks behind a router, whom answers reach; the hardware address of the P-CSCF."""
    for address in (NEW_ADDRESSES[2], ONE):
        plant.execute("ue", "ip", "address", "add", f"{address}/24", "dev", "gm-ue")
    plant.execute("ue", "ip", "route", "add", "blackhole", str(MANY))
    plant.execute("ue", "ip", "route", "add", "local", str(BOUND), "dev", "lo")
    router = hardware_address(plant, "ue", "gm-ue")
    neighbour = ("lladdr", router, "dev", "gm", "nud", "permanent")
    plant.execute("pcscf", "ip", "neighbour", "replace", GATEWAY, *neighbour)
    for network in (MANY, BOUND):
        plant.execute("pcscf", "ip", "route", "add", str(network), "via", GATEWAY, "dev", "gm")
    rules = plant.folder / "counting.nft"
    rules.write_text(COUNTING)
    plant.execute("pcscf", "nft", "-f", str(rules))
    return hardware_address(plant, "pcscf", "gm")


@dataclass(frozen=True, slots=True)
class Site:
    """Core and P-CSCF; `gateway` is the hardware address of the P-CSCF on Gm."""

    plant: Plant
    core: int
    pcscf: int
    gateway: str


@contextmanager
def site(log: Path | None = None) -> Iterator[Site]:
    """Everything but the phones and what floods, gone afterwards; but the log of the P-CSCF, if it is to be kept."""
    with TemporaryDirectory(prefix="pcscf-flood-") as name, Network(f"pcscf-flood-{os.getpid()}") as network:
        folder = Path(name)
        plant = Plant(network, folder, subscribers(folder), PCSCF_IPSEC__BACKEND="userspace")
        try:
            gateway = prepare(plant)
            core = plant.started("core", "core", "scscf", "--address=10.46.0.2", f"--subscribers={plant.subscribers}")
            pcscf = plant.started("pcscf", "pcscf", "run", f"--config={CONFIG}", **plant.settings)
            yield Site(plant, core.pid, pcscf.pid, gateway)
        finally:
            plant.stop()
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / "pcscf.log", log)


@dataclass(frozen=True, slots=True)
class Counted:
    """At the port for REGISTER: octets in, packets and octets out, answers of each status; and octets of the log."""

    come: int
    packets: int
    gone: int
    statuses: Counter[str]
    logged: int


def count(plant: Plant) -> Counted:
    said = plant.execute("pcscf", "nft", "list", "table", "inet", "flood")
    counters = {
        name: (int(packets), int(octets))
        for name, packets, octets in re.findall(r"counter (\w+) \{\s*packets (\d+) bytes (\d+)", said)
    }
    elements = re.findall(r"0x([0-9a-f]{6}) counter packets (\d+)", said)
    statuses = Counter({bytes.fromhex(status).decode("latin-1"): int(packets) for status, packets in elements})
    logged = (plant.folder / "pcscf.log").stat().st_size
    return Counted(counters["clear_in"][1], *counters["clear_out"], statuses, logged)


class Helper:
    """A module of this folder as a process on the host of the phones; one JSON line each way."""

    def __init__(self, plant: Plant, module: str, *arguments: str) -> None:
        self._name = module
        self._log = plant.folder / f"{module}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                plant.network.command("ue", sys.executable, "-m", f"tests.bench.{module}", *arguments),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0,
            )  # fmt: skip

    def tell(self, what: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")

    def has_said(self, within: float) -> bool:
        """Whether there is a line to read, or the end, after so many seconds at most."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], within)[0])

    def line(self, within: float) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline() if self.has_said(within) else b""
        assert line, f"{self._name} said nothing in {within:g} s: {self._log.read_text(errors='replace')[-2000:]}"
        return line.decode()

    def answer(self, within: float) -> Any:
        return json.loads(self.line(within))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._process.kill()
        self._process.wait()
        for each in (self._process.stdin, self._process.stdout):
            if each is not None:
                each.close()


class Watched:
    """A process from outside: CPU, memory, open files."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.files = 0
        self._cpu = self._seconds()
        self._waited = self._waiting()
        self._began = time.monotonic()
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak of its memory is counted from now

    def look(self) -> None:
        """To be called now and then. It must not have ended."""
        assert self._stat()[0] != "Z", "the P-CSCF has ended"
        self.files = max(self.files, len(list(Path(f"/proc/{self.pid}/fd").iterdir())))

    def cpu(self) -> float:
        """The share of one core since the beginning."""
        return round((self._seconds() - self._cpu) / (time.monotonic() - self._began), 2)

    def waited(self) -> float:
        """The share of the time that it could have run and got no processor: others keep the machine busy."""
        return round((self._waiting() - self._waited) / (time.monotonic() - self._began), 2)

    def peak_mib(self) -> float:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024, 1)

    def dropped(self, address: str) -> int:
        """Datagrams for which its socket at PORT of this address had no room."""
        return udp_socket(self.pid, address).dropped

    def dropped_esp(self) -> int:
        """Packets that its raw sockets had no room for."""
        lines = Path(f"/proc/{self.pid}/net/raw").read_text().splitlines()[1:]
        return sum(int(line.split()[-1]) for line in lines)

    def _waiting(self) -> float:
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9

    def _stat(self) -> list[str]:
        """From the state on."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()

    def _seconds(self) -> float:
        fields = self._stat()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
