"""The network of the lab: namespaces ue, pcscf and core, two veth pairs between them, IPv4 and IPv6 on Gm.

Made on entering, gone on leaving. Needs root, or a user namespace with its own mount namespace (`own_world`).
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path
from types import TracebackType
from typing import Self

from pyroute2 import IPRoute, netns

from pcscf import PcscfError

Interface = IPv4Interface | IPv6Interface
IFA_F_NODAD = 0x02
OWN_WORLD = "PCSCF_LAB_OWN_WORLD"
RUN_NETNS = Path("/run/netns")


class NetworkError(PcscfError):
    """The lab network cannot be made; `str` says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cable:
    """A veth pair: at each end a host, the name of the interface there and its addresses."""

    ends: tuple[tuple[str, str, tuple[Interface, ...]], tuple[str, str, tuple[Interface, ...]]]


LAB_CABLES = (
    Cable(
        ends=(
            (
                "ue",
                "gm-ue",
                tuple(
                    map(
                        ip_interface, ("10.45.0.2/24", "10.45.0.3/24", "10.45.0.4/24", "fd00:45::2/64", "fd00:45::3/64")
                    )
                ),
            ),
            ("pcscf", "gm", tuple(map(ip_interface, ("10.45.0.1/24", "fd00:45::1/64")))),
        )
    ),
    Cable(
        ends=(
            ("pcscf", "mw", (ip_interface("10.46.0.1/24"),)),
            ("core", "mw-core", (ip_interface("10.46.0.2/24"),)),
        )
    ),
)


def own_world(arguments: Sequence[str]) -> None:
    """Where we are not root, start over as root of a user namespace; returns at once where we are.

    Raises NetworkError where the system forbids that.
    """
    if os.geteuid() == 0 and OWN_WORLD not in os.environ:
        return
    if OWN_WORLD in os.environ:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], capture_output=True, text=True, check=False)
        if mounted.returncode:
            raise NetworkError(f"no tmpfs on /run in the user namespace: {mounted.stderr.strip()}")
        return
    probe = subprocess.run(["unshare", "-Urnm", "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        raise NetworkError(
            f"neither root nor allowed to make a user namespace ({probe.stderr.strip()}); run it with sudo, or set "
            "kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0"
        )
    command = ["unshare", "-Urnm", sys.executable, "-m", "pcscf", *arguments]
    os.execvpe("unshare", command, {**os.environ, OWN_WORLD: "1"})


class Network:
    """The namespaces and cables of one lab; `prefix` tells several on one machine apart."""

    def __init__(self, prefix: str = "pcscf-lab", cables: Sequence[Cable] = LAB_CABLES) -> None:
        self.prefix = prefix
        self.cables = cables
        self.hosts = sorted({host for cable in cables for host, _, _ in cable.ends})

    def name(self, host: str) -> str:
        """The name of a host's namespace, as `ip netns` shows it."""
        return f"{self.prefix}-{host}"

    def command(self, host: str, *command: str) -> tuple[str, ...]:
        """What to execute to run a command on a host."""
        return ("nsenter", f"--net={RUN_NETNS / self.name(host)}", "--", *command)

    @contextmanager
    def inside(self, host: str) -> Iterator[None]:
        """This thread is on that host meanwhile: sockets made now belong there."""
        netns.pushns(self.name(host))
        try:
            yield
        finally:
            netns.popns()

    def __enter__(self) -> Self:
        taken = set(netns.listnetns()) & {self.name(host) for host in self.hosts}
        if taken:
            raise NetworkError(
                f"namespace {', '.join(sorted(taken))} exists: a lab is running, or one was killed; "
                f"remove it with `ip netns delete`"
            )
        try:
            for host in self.hosts:
                netns.create(self.name(host))
            for cable in self.cables:
                self._lay(cable)
        except BaseException as error:
            self._clear()
            if isinstance(error, Exception):
                raise NetworkError(f"the lab network cannot be made: {error}") from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def _lay(self, cable: Cable) -> None:
        (host, name, _), (peer_host, peer_name, _) = cable.ends
        with IPRoute(netns=self.name(host)) as here:
            here.link(
                "add",
                ifname=name,
                kind="veth",
                peer={"ifname": peer_name, "net_ns_fd": str(RUN_NETNS / self.name(peer_host))},
            )
        for end_host, end_name, addresses in cable.ends:
            with IPRoute(netns=self.name(end_host)) as there:
                (index,) = there.link_lookup(ifname=end_name)
                for each in (1, index):
                    there.link("set", index=each, state="up")
                for interface in addresses:
                    there.addr(
                        "add",
                        index=index,
                        address=str(interface.ip),
                        prefixlen=interface.network.prefixlen,
                        **({"flags": IFA_F_NODAD} if interface.version == 6 else {}),
                    )

    def _clear(self) -> None:
        for host in self.hosts:
            if (RUN_NETNS / self.name(host)).exists():
                netns.remove(self.name(host))
