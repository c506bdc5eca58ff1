"""The commands of the simulators: `pcscf scscf`, `pcscf ue register`, `pcscf lab`."""

import argparse
import asyncio
import json
import signal
import sys
import time
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pcscf import PcscfError
from pcscf.lab.challenge import CoreFault, Manners
from pcscf.lab.endpoint import Seen
from pcscf.lab.fault import Fault
from pcscf.lab.gm import pump, release
from pcscf.lab.outcome import Outcome
from pcscf.lab.phone import UeSettings
from pcscf.lab.registrar import RegistrarSettings
from pcscf.lab.scscf import Scscf
from pcscf.lab.subscribers import Subscriber, SubscribersError, load_subscribers
from pcscf.lab.ue import Ue
from xfrm.algorithms import VALID_PAIRS, Pair
from xfrm.backend import open_backend
from xfrm.model import IPAddress, PortRange

SUBSCRIBERS = Path("config/subscribers.toml")
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
    scscf.add_argument("--port", type=_port, default=5060)
    _subscribers(scscf)
    scscf.add_argument("--transport", choices=("udp", "tcp"), default="udp", help="what Service-Route asks for")
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
    scscf.set_defaults(command=_scscf)

    ue = commands.add_parser("ue", help="be a phone").add_subparsers(metavar="ACTION", required=True)
    register = ue.add_parser(
        "register",
        help="register with AKA and IPsec, and say what happened",
        formatter_class=raw,
        epilog="examples:\n"
        "  pcscf ue register --address 10.45.0.2 --pcscf 10.45.0.1 --impi 001010000000001@ims.mnc001.mcc001."
        "3gppnetwork.org\n"
        "  pcscf ue register --address 10.45.0.2 --pcscf 10.45.0.1 --tcp --offer hmac-sha-1-96/aes-cbc --json\n"
        "  pcscf ue register --address 10.45.0.2 --pcscf 10.45.0.1 --fault wrong-res",
    )
    _subscribers(register)
    register.add_argument("--impi", help="which subscriber (default: the first of the file)")
    register.add_argument("--address", type=ip_address, required=True, help="the UE's own address")
    register.add_argument("--pcscf", type=ip_address, required=True, help="the P-CSCF's address")
    register.add_argument("--port", type=_port, default=5060, help="port of the P-CSCF and of the UE for SIP in clear")
    register.add_argument(
        "--ports",
        type=_ports,
        metavar="FIRST-LAST",
        help="protected ports: the first is port_us, the others take turns as port_uc (default: eight by chance)",
    )
    register.add_argument("--tcp", action="store_true", help="over TCP")
    register.add_argument(
        "--offer",
        type=_pair,
        action="append",
        default=[],
        metavar="ALG/EALG",
        help=f"algorithms to offer, the best first: {', '.join(sorted(map(str, VALID_PAIRS)))}",
    )
    register.add_argument("--expires", type=int, default=600_000, metavar="SECONDS")
    register.add_argument(
        "--fault", type=Fault, choices=list(Fault), action="append", default=[], metavar="FAULT",
        help=f"do it wrong: {', '.join(Fault)}",
    )  # fmt: skip
    _backend(register)
    register.add_argument("--stay", action="store_true", help="stay registered until SIGTERM or Ctrl-C")
    register.add_argument("--json", action="store_true", help="write JSON for scripts, one line")
    register.set_defaults(command=_ue_register)

    lab = commands.add_parser(
        "lab",
        help="register three phones over ESP on this machine, and verify it",
        formatter_class=raw,
        description="Makes the namespaces ue, pcscf and core, registers one UE over UDP/IPv4, one over TCP/IPv4 and "
        "one over UDP/IPv6 with different algorithms, and holds the SA counters against a capture of Gm. "
        "Exit status 0 only when all of it was verified.",
        epilog="examples:\n  pcscf lab\n  pcscf lab --backend userspace --output /tmp/lab --json",
    )
    lab.add_argument("-c", "--config", type=Path, metavar="FILE", default=Path("config/pcscf.toml"))
    _subscribers(lab)
    lab.add_argument("--output", type=Path, metavar="FOLDER", default=Path("lab"), help="for capture and logs")
    _backend(lab)
    lab.add_argument("--json", action="store_true", help="write JSON for scripts")
    lab.set_defaults(command=_lab)


def _subscribers(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--subscribers", type=Path, metavar="FILE", default=SUBSCRIBERS, help=f"default: {SUBSCRIBERS}"
    )


def _backend(command: argparse.ArgumentParser) -> None:
    command.add_argument("--backend", choices=("auto", "kernel", "userspace"), default="auto", help="who does ESP")


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65_536:
        raise argparse.ArgumentTypeError(f"{port} is no port")
    return port


def _ports(text: str) -> PortRange:
    first, _, last = text.partition("-")
    try:
        ports = PortRange(first=int(first), count=int(last) - int(first) + 1)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}; write FIRST-LAST, for example 31800-31807") from error
    if ports.count < 2:
        raise argparse.ArgumentTypeError(f"{text}: two ports at least, one is port_us, another port_uc")
    return ports


def _pair(text: str) -> Pair:
    try:
        return Pair.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _core_fault(text: str) -> tuple[str, CoreFault]:
    impi, _, name = text.rpartition("=")
    try:
        return impi, CoreFault(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(CoreFault)}") from error


async def _until_told() -> None:
    """Until SIGTERM or Ctrl-C."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _scscf(options: argparse.Namespace) -> int:
    subscribers = load_subscribers(options.subscribers)
    settings = RegistrarSettings(
        realm=next(iter(subscribers.values())).realm,
        address=options.address,
        port=options.port,
        transport=options.transport,
        manners=options.manners,
        require_integrity=not options.without_integrity,
        reauth=options.reauth,
        qop=options.qop,
        min_expires=options.min_expires,
    )
    core = Scscf(settings, subscribers, on_seen=_show)
    faults: dict[str, list[CoreFault]] = {}
    for impi, fault in options.fault:
        if impi not in subscribers:
            raise SubscribersError(f"{options.subscribers}: no subscriber {impi}")
        faults.setdefault(impi, []).append(fault)
    for impi, wrong in faults.items():
        core.registrar.set_faults(impi, wrong)

    async def serve() -> None:
        await core.start()
        try:
            _say(f"core at {settings.address} port {settings.port}, {len(subscribers)} subscribers")
            _say("ready")
            await _until_told()
        finally:
            await core.close()

    asyncio.run(serve())
    return 0


def _show(seen: Seen) -> None:
    _say(f"{'<-' if seen.incoming else '->'} {seen.message.start_line} {seen.flow}")


def _ue_register(options: argparse.Namespace) -> int:
    subscribers = load_subscribers(options.subscribers)
    impi = options.impi or next(iter(subscribers))
    if impi not in subscribers:
        raise SubscribersError(f"{options.subscribers}: no subscriber {impi}")
    if options.address.version != options.pcscf.version:
        raise PcscfError(f"{options.address} and {options.pcscf} are of different families")
    settings = UeSettings(
        subscriber=subscribers[impi],
        address=options.address,
        pcscf=options.pcscf,
        pcscf_port=options.port,
        port=options.port,
        ports=options.ports,
        tcp=options.tcp,
        expires=options.expires,
        faults=frozenset(options.fault),
    )
    if options.offer:
        settings = replace(settings, offers=tuple(options.offer))
    outcome = asyncio.run(_register(settings, options))
    return 0 if outcome.registered else 1


async def _register(settings: UeSettings, options: argparse.Namespace) -> Outcome:
    from pydantic_core import to_jsonable_python

    choice = open_backend(options.backend)
    pump(choice.backend)
    ue = Ue(settings, choice.backend)
    try:
        await ue.start()
        outcome = await ue.register()
        if options.json:
            print(json.dumps({"impi": settings.subscriber.impi} | to_jsonable_python(outcome)), flush=True)
        else:
            _print_outcome(outcome, choice.backend.name)
        if options.stay:
            await _until_told()
        return outcome
    finally:
        await ue.close()
        release(choice.backend)


def _print_outcome(outcome: Outcome, backend: str) -> None:
    for step in outcome.ladder:
        way = f"spi {step.spi}" if step.spi else "clear"
        sign, again = ("◀" if step.incoming else "▶"), " (again)" if step.again else ""
        print(f"{step.at:<8.3f}{sign} {step.summary:<20} {way:<16} {step.flow}{again}")
    for complaint in outcome.complaints:
        print(f"complaint: {complaint}")
    if outcome.registered:
        print(f"registered for {outcome.expires} s as {', '.join(outcome.associated_uris)} ({backend} ESP)")
    else:
        print(f"not registered: {outcome.reason}")


def _lab(options: argparse.Namespace) -> int:
    from pcscf.lab.network import own_world

    own_world(sys.argv[1:])
    from rich.console import Console

    from pcscf import ladder
    from pcscf.admin.tables import sa_table
    from pcscf.config import load
    from pcscf.lab.network import Network, NetworkError
    from pcscf.lab.scenario import Phone, Scenario

    config = load(options.config)
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
        scenario = Scenario(
            config=options.config,
            subscribers=options.subscribers,
            output=options.output,
            backend=options.backend,
            phones=phones,
            ports=(config.ipsec.ports_ps, config.ipsec.ports_pc),
            core=(config.mw.next_hop, config.mw.next_hop_port),
            tell=status.update,
        )
        with Network() as network:
            report = asyncio.run(scenario.run(network))
    if options.json:
        print(json.dumps(report.to_json(), indent=2))
        return 0 if report.good else 1
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"ESP backend   {report.status.backend} ({report.status.reason})")
    console.print(f"Capture       {report.capture}")
    for each in report.phones:
        offer = each.offers[0].replace("/", " + ").replace("null + ", "").replace(" + null", "")
        user = each.subscriber.impi.partition("@")[0]
        console.print(f"\n[bold]UE {each.number}[/]  {user}  {each.transport}  {each.address}  {offer}")
        for line in [ladder.heading(), *report.ladder(each)]:
            console.print(line, markup=False)
        console.print()
        console.print(sa_table(report.sas[each.number]))
    console.print()
    failed = [check for check in report.checks if not check.holds]
    for check in failed:
        console.print(f"[red]not as it must be[/]: {check.text}")
    if not failed:
        sas = sum(map(len, report.sas.values()))
        console.print(
            f"{len(phones)} of {len(phones)} UEs registered; {sas} SAs; every protected message seen as ESP in the "
            f"capture and counted by its SA ({len(report.checks)} checks)"
        )
    return 0 if report.good else 1
