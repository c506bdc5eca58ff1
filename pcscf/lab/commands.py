"""The commands of the simulators: `pcscf scscf`, `pcscf lab`; `pcscf ue` is `ue_command`."""

import argparse
import asyncio
import json
import os
import socket
import sys
import time
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcscf import PcscfError
from pcscf.arguments import example
from pcscf.keylog import VARIABLE, leave_no_core
from pcscf.lab.arguments import add_backend, add_subscribers, port, share, until_told
from pcscf.lab.challenge import CoreFault, Manners
from pcscf.lab.control import COMMANDS, Control, command, tell
from pcscf.lab.endpoint import Seen
from pcscf.lab.registrar import RegistrarSettings
from pcscf.lab.scscf import Scscf
from pcscf.lab.subscribers import Subscriber, SubscribersError, load_subscribers
from pcscf.lab.ue_command import add_ue_command
from pcscf.lab.unreliable import Unreliable
from pcscf.printable import printable
from pcscf.sip.parse import ParseError
from pcscf.sip.uri import parse_uri
from xfrm.model import IPAddress

if TYPE_CHECKING:
    from rich.console import Console

    from pcscf.lab.report import Report

LAB_PHONES = (
    ("UDP", "10.45.0.2", ("hmac-sha-1-96/aes-cbc", "hmac-sha-1-96/null")),
    ("TCP", "10.45.0.3", ("null/aes-gcm", "hmac-sha-1-96/null")),
    ("UDP", "fd00:45::2", ("aes-gmac/null", "hmac-sha-1-96/null")),
)


def add_commands(commands: Any) -> None:
    """Add the simulators' commands to the parser of `pcscf`."""
    raw = argparse.RawDescriptionHelpFormatter
    scscf = commands.add_parser(
        "scscf",
        help="run the simulated core: I-CSCF, S-CSCF and HSS in one",
        formatter_class=raw,
        epilog="examples:\n"
        "  pcscf scscf --address 127.0.0.1 --subscribers config/subscribers.toml\n"
        "  pcscf scscf --address 10.46.0.2 --manners kamailio --fault "
        "001010000000001@ims.mnc001.mcc001.3gppnetwork.org=missing-ik",
    )
    scscf.add_argument("--address", type=ip_address, required=True, help="where to listen, UDP and TCP")
    scscf.add_argument("--port", type=port, default=5060)
    add_subscribers(scscf)
    scscf.add_argument("--transport", choices=("udp", "tcp"), default="udp", help="what Service-Route asks for")
    scscf.add_argument(
        "--service-route",
        type=_uri,
        metavar="URI",
        help="name another server in Service-Route, which then gets what the UEs send",
    )
    scscf.add_argument(
        "--manners", type=Manners, choices=list(Manners), default=Manners.IMS, help="whose habits it has"
    )
    scscf.add_argument("--reauth", choices=("never", "always"), default="never", help="challenge protected REGISTERs?")
    scscf.add_argument("--qop", choices=("", "auth", "auth-int", "auth,auth-int"), default="", help="offered qop")
    scscf.add_argument("--min-expires", type=int, default=0, metavar="SECONDS", help="423 below this")
    scscf.add_argument(
        "--without-integrity", action="store_true", help="serve REGISTERs without integrity-protected, too"
    )
    scscf.add_argument(
        "--fault",
        type=_core_fault,
        action="append",
        default=[],
        metavar="IMPI=FAULT",
        help=f"do it wrong for a subscriber: {', '.join(CoreFault)}",
    )
    scscf.add_argument(
        "--control", type=Path, metavar="SOCKET", help="take commands on this unix socket, see `pcscf scscf-tell`"
    )
    scscf.add_argument(
        "--unreliable", type=share, metavar="SHARE", help="lose, double or delay this share (0 to 1) of all answers"
    )
    scscf.set_defaults(command=_scscf)

    tell_core = commands.add_parser(
        "scscf-tell",
        help="tell a running simulated core to do something",
        formatter_class=raw,
        epilog="commands:\n  " + "\n  ".join(COMMANDS) + "\n\nexample:\n"
        "  pcscf scscf-tell /tmp/core.sock deregister 001010000000001@ims.mnc001.mcc001.3gppnetwork.org rejected",
    )
    tell_core.add_argument("socket", type=Path, metavar="SOCKET", help="what the core has as --control")
    tell_core.add_argument("words", nargs="+", metavar="COMMAND", help="see below")
    tell_core.set_defaults(command=_scscf_tell)

    add_ue_command(commands)

    lab = commands.add_parser(
        "lab",
        help="three phones register, write, call and leave over ESP on this machine, and it is verified",
        formatter_class=raw,
        description="Makes the namespaces ue, pcscf and core. Three UEs register: one over UDP/IPv4, one over "
        "TCP/IPv4, one over UDP/IPv6, with different algorithms. Messages, a call with preconditions, a "
        "re-authentication in the middle of it, deregistration. After each step the SAs are looked at; their counters "
        "are held against a capture of Gm. Exit status 0 only when all of it was verified.",
        epilog="examples:\n  pcscf lab\n  pcscf lab --watch\n  pcscf lab --backend userspace --output /tmp/lab --json",
    )
    lab.add_argument("-c", "--config", type=Path, metavar="FILE", default=example("pcscf.toml"))
    add_subscribers(lab)
    lab.add_argument("--output", type=Path, metavar="FOLDER", default=Path("lab"), help="for capture and logs")
    add_backend(lab)
    lab.add_argument("--json", action="store_true", help="write JSON for scripts")
    lab.add_argument(
        "--watch",
        action="store_true",
        help="serve the dashboard on loopback and go on until Ctrl-C; as root",
    )
    lab.set_defaults(command=_lab)


def _core_fault(text: str) -> tuple[str, CoreFault]:
    impi, _, name = text.rpartition("=")
    try:
        return impi, CoreFault(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(CoreFault)}") from error


def _uri(text: str) -> str:
    """Raises ArgumentTypeError for what is no SIP URI."""
    try:
        parse_uri(text)
    except ParseError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {printable(text)}", file=sys.stderr, flush=True)


def _scscf(options: argparse.Namespace) -> int:
    leave_no_core()
    subscribers = load_subscribers(options.subscribers)
    settings = RegistrarSettings(
        realm=next(iter(subscribers.values())).realm,
        address=options.address,
        port=options.port,
        transport=options.transport,
        service_route_uri=options.service_route or "",
        manners=options.manners,
        require_integrity=not options.without_integrity,
        reauth=options.reauth,
        qop=options.qop,
        min_expires=options.min_expires,
    )
    unreliable = None if options.unreliable is None else Unreliable(options.unreliable)
    core = Scscf(settings, subscribers, on_seen=_show, unreliable=unreliable)
    faults: dict[str, list[CoreFault]] = {}
    for impi, fault in options.fault:
        if impi not in subscribers:
            raise SubscribersError(f"{options.subscribers}: no subscriber {impi}")
        faults.setdefault(impi, []).append(fault)
    for impi, wrong in faults.items():
        core.registrar.set_faults(impi, wrong)

    async def serve() -> None:
        control = None
        await core.start()
        try:
            if options.control is not None:
                control = Control(options.control, partial(command, core))
                await control.start()
            _say(f"core at {settings.address} port {settings.port}, {len(subscribers)} subscribers")
            _say("ready")
            await until_told()
        finally:
            if control is not None:
                await control.close()
            await core.close()

    asyncio.run(serve())
    return 0


def _scscf_tell(options: argparse.Namespace) -> int:
    if answer := tell(options.socket, " ".join(options.words)):
        print(answer)
    return 0


def _show(seen: Seen) -> None:
    _say(f"{'<-' if seen.incoming else '->'} {seen.message.start_line} {seen.flow}")


def _lab(options: argparse.Namespace) -> int:
    from pcscf.lab.network import own_world

    if options.watch and os.geteuid():
        raise PcscfError("--watch needs root: without it the lab has a loopback of its own, which no browser reaches")
    own_world(sys.argv[1:])
    from rich.console import Console

    from pcscf.config import load
    from pcscf.lab.network import Network, NetworkError
    from pcscf.lab.report import Phone
    from pcscf.lab.scenario import Scenario

    config = load(options.config)
    core = next(((address, port) for _, address, port in config.mw.hop_addresses), None)
    if core is None:
        raise NetworkError(f"{options.config}: mw.next_hops names no address; the core of the lab needs one")
    subscribers = list(load_subscribers(options.subscribers).values())
    if len(subscribers) < len(LAB_PHONES):
        raise SubscribersError(f"{options.subscribers}: {len(LAB_PHONES)} subscribers are needed")

    def phone(
        number: int, subscriber: Subscriber, transport: str, address: IPAddress, offers: tuple[str, ...]
    ) -> Phone:
        pcscf = next((each for each in config.gm.addresses if each.version == address.version), None)
        if pcscf is None:
            raise NetworkError(
                f"{options.config}: gm.addresses has no IPv{address.version} address; the lab needs both"
            )
        return Phone(
            number=number, subscriber=subscriber, address=address, pcscf=pcscf, transport=transport, offers=offers
        )

    phones = tuple(
        phone(number, subscriber, transport, ip_address(address), offers)
        for number, (subscriber, (transport, address, offers)) in enumerate(
            zip(subscribers, LAB_PHONES, strict=False), start=1
        )
    )
    progress = Console(stderr=True)
    with progress.status("making namespaces") as status:
        page = None
        if options.watch:
            page = _page_socket(config.admin.port)

        def tell_page(token: str) -> None:
            url = f"http://127.0.0.1:{config.admin.port}/#token={token}"
            progress.print(f"dashboard     {url}", markup=False, soft_wrap=True)

        scenario = Scenario(
            page=page,
            on_page=tell_page,
            config=options.config,
            subscribers=options.subscribers,
            output=options.output,
            backend=options.backend,
            phones=phones,
            ports=(config.ipsec.ports_ps, config.ipsec.ports_pc),
            core=core,
            tell=status.update,
        )
        with Network() as network:
            report = asyncio.run(scenario.run(network))
    if options.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        _show_report(report, Console(highlight=False, soft_wrap=True))
    return 0 if report.good else 1


def _page_socket(port: int) -> socket.socket:
    """Loopback, here. Raises PcscfError."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(("127.0.0.1", port))
        made.listen()
    except OSError as error:
        made.close()
        raise PcscfError(f"127.0.0.1 port {port}: {error.strerror}; set admin.port") from error
    return made


def _show_report(report: "Report", console: "Console") -> None:
    from pcscf import ladder
    from pcscf.admin.tables import sa_table

    console.print(f"ESP backend   {report.status.backend} ({report.status.reason})")
    keys = os.environ.get(VARIABLE)
    how = f"; see inside: pcscf trace {report.capture} -k {keys}" if keys else ""
    console.print(f"Capture       {report.capture}{how}", markup=False)
    for phone in report.phones:
        offer = phone.offers[0].replace("/", " + ").replace("null + ", "").replace(" + null", "")
        user = phone.subscriber.impi.partition("@")[0]
        console.print(f"\n[bold]UE {phone.number}[/]  {user}  {phone.transport}  {phone.address}  {offer}")
        for line in [ladder.heading(), *report.ladder(phone)]:
            console.print(line, markup=False)
        for four in report.sas(phone):
            console.print(f"\nset {four[0].set_id} before deregistration: {four[0].state}")
            console.print(sa_table(four))
    console.print("\n[bold]Steps[/]")
    for step in report.steps:
        console.print(
            f"{'ok' if step.ok else 'FAILED':<7}{step.seconds:6.3f} s {step.sas:4} SAs  {step.text}", markup=False
        )
    console.print()
    failed = [check for check in report.checks if not check.holds]
    for check in failed:
        console.print(f"not as it must be: {check.text}", markup=False, style="red")
    if not failed:
        phones, sas = len(report.phones), sum(len(four) for phone in report.phones for four in report.sas(phone))
        console.print(
            f"{phones} of {phones} UEs registered, wrote, called and left; {sas} SAs; every protected message seen as "
            f"ESP in the capture and counted by its SA ({len(report.checks)} checks)"
        )
