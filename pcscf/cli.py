"""The command `pcscf`: its parsers, and the commands of an operator (run, check, doctor, sa).

Data goes to standard output, what happens to standard error. Exit status: 0 done, 1 refused or failed, 2 misused.
The commands of the simulators are `lab.commands`.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcscf import PcscfError
from pcscf.admin.explain_command import add_explain_command
from pcscf.admin.keys_command import add_keys_command
from pcscf.admin.status_command import add_status_command
from pcscf.arguments import add_command, add_configuration, add_control, add_json
from pcscf.capture.capture_command import add_capture_command
from pcscf.capture.decrypt_command import add_decrypt_command
from pcscf.capture.extcap_command import add_extcap_command
from pcscf.capture.trace_command import add_trace_command
from pcscf.forget_command import add_forget_command
from pcscf.lab import commands as lab
from pcscf.printable import printable, printable_lines

if TYPE_CHECKING:
    from pcscf.admin.views import Hops
    from pcscf.config import Config
    from pcscf.server import Server

log = logging.getLogger("pcscf")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    made = argparse.ArgumentParser(
        prog="pcscf",
        description="IMS P-CSCF with IPsec on Gm, and the simulators to try it with.",
        epilog="examples:\n"
        "  pcscf lab                            try everything on this machine\n"
        "  pcscf doctor -c config/pcscf.toml    what is missing here to run it\n"
        "  pcscf run -c config/pcscf.toml       run the P-CSCF\n"
        "  pcscf sa                             the SAs of the one that runs\n"
        "  pcscf hops                           its next hops toward the core",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"pcscf {version('pcscf')}")
    commands = made.add_subparsers(metavar="COMMAND", required=True)

    run = add_command(commands, "run", "run the P-CSCF until SIGTERM or Ctrl-C", "pcscf run -c config/pcscf.toml -v")
    add_configuration(run)
    run.add_argument("-v", "--verbose", action="store_true", help="log every message, too")
    run.set_defaults(command=_run)

    check = add_command(
        commands,
        "check",
        "validate a configuration file and show the effective values",
        "pcscf check -c config/pcscf.toml\n  PCSCF_IPSEC__BACKEND=userspace pcscf check --json",
    )
    add_configuration(check)
    add_json(check)
    check.set_defaults(command=_check)

    examine = add_command(
        commands,
        "doctor",
        "look for what this machine lacks: kernel ESP, modules, capabilities, TUN, addresses, ports, time",
        "pcscf doctor\n  pcscf doctor -c config/pcscf.toml",
    )
    examine.add_argument("-c", "--config", type=Path, metavar="FILE", help="also look at its addresses and ports")
    add_json(examine)
    examine.set_defaults(command=_doctor)

    sa = add_command(
        commands,
        "sa",
        "show the live SAs with their counters",
        "pcscf sa\n  pcscf sa --control lab/control.sock --json",
    )
    add_control(sa)
    add_json(sa)
    sa.set_defaults(command=_sa)

    hops = add_command(
        commands,
        "hops",
        "show the next hops toward the core and their state; take one out of use",
        "pcscf hops\n  pcscf hops --disable 10.46.0.2:5060/udp",
    )
    add_control(hops)
    switch = hops.add_mutually_exclusive_group()
    switch.add_argument("--disable", metavar="HOP", help="send nothing there any more until it is enabled")
    switch.add_argument("--enable", metavar="HOP", help="use it again")
    add_json(hops)
    hops.set_defaults(command=_hops)

    add_status_command(commands)
    add_explain_command(commands)
    add_forget_command(commands)
    add_keys_command(commands)
    add_capture_command(commands)
    add_decrypt_command(commands)
    add_extcap_command(commands)
    add_trace_command(commands)
    lab.add_commands(commands)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; every failure is one line for people."""
    options = parser().parse_args(arguments)
    try:
        status: int = options.command(options)
    except PcscfError as error:
        for line in printable_lines(str(error)).splitlines():
            print(f"pcscf: {line}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except OSError as error:
        advice = "; `pcscf doctor -c FILE` looks for the cause" if options.command is _run else ""
        print(f"pcscf: {printable(str(error.strerror or error))}{advice}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


# Each command imports what it needs when it runs: the shortest of them is started hundreds of times by tests.


def _run(options: argparse.Namespace) -> int:
    from pcscf import logs
    from pcscf.config import load

    config = load(options.config)
    logs.set_up("debug" if options.verbose else config.log.level, config.log.format)
    asyncio.run(_serve(config, options))
    return 0


async def _serve(config: "Config", options: argparse.Namespace) -> None:
    from pcscf import service
    from pcscf.admin.access import Scope, Tokens
    from pcscf.admin.api import service_of
    from pcscf.admin.control import Control
    from pcscf.admin.web import Web
    from pcscf.keylog import open_key_log
    from pcscf.server import Server, settle_memory
    from pcscf.store import Store
    from xfrm.backend import open_backend

    key_log = open_key_log(config.keys.file, os.environ)
    store = Store(config.state) if config.store.enabled else None
    choice = open_backend(config.ipsec.backend, config.kept_sas if config.store.userspace_keys else None)
    with_keys = config.store.userspace_keys and choice.backend.name == "userspace"
    server = Server(config, choice, key_log, store)
    admin = service_of(server, partial(_reload, server, options))
    control = Control(admin, config.control)
    page = None
    if config.admin.enabled:
        tokens = Tokens(config.state, config.admin.origins)
        page = Web(
            admin, tokens, config.admin.address, config.admin.port,
            origins=config.admin.origins, refused=config.without_admin, guard=server.guards.keep_from_phones,
            guarded=config.mw.addresses,
        )  # fmt: skip
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _on_hangup, server, options)
    try:
        await server.start()
        await control.start()
        if page is not None:
            await page.start()
        admin.history.start()
        settle_memory()
        log.info("ESP backend: %s (%s)", choice.backend.name, choice.reason)
        if with_keys:
            told = "keys of the SAs are in %s (store.userspace_keys): who reads it can read and forge what phones send"
            log.warning(told, config.kept_sas)
        else:
            config.kept_sas.unlink(missing_ok=True)
        for address in config.gm.addresses:
            ports = f"{config.gm.port}, protected {config.ipsec.ports_ps} and {config.ipsec.ports_pc}"
            log.info("Gm: %s ports %s", address, ports)
        for address in config.mw.addresses:
            log.info("Mw: %s port %s", address, config.mw.port)
        log.info("next hops: %s", ", ".join(each.uri for each in config.mw.next_hops))
        if page is not None:
            log.info("dashboard and API: %s with the token in %s", page.url, config.state / Scope.ADMIN.file)
            if not config.admin.address.is_loopback:
                log.warning("the admin API is open beyond this host and its token travels in clear: put TLS before it")
        log.info("ready")
        service.ready(f"{choice.backend.name} ESP")
        await stop.wait()
    finally:
        service.stopping()
        await admin.feed.stop()
        await admin.history.stop()
        if page is not None:
            await page.stop()
        await control.stop()
        await server.stop()
    stays = store is not None and (with_keys or choice.backend.name == "kernel")
    log.info("stopped; SAs and policies %s", "stay for the next start" if stays else "removed")


def _on_hangup(server: "Server", options: argparse.Namespace) -> None:
    """SIGHUP: reload."""
    from contextlib import suppress

    with suppress(PcscfError):
        _reload(server, options)


def _reload(server: "Server", options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Take over from the file what can be, and name the rest; a file that cannot be used changes nothing.

    Raises ConfigError.
    """
    from pcscf import logs, service
    from pcscf.config import ConfigError, load

    service.reloading()
    try:
        taken, left = server.reload(load(options.config))
    except ConfigError as error:
        log.warning("the configuration was not reloaded: %s", "; ".join(str(error).splitlines()))
        raise
    else:
        logs.set_up("debug" if options.verbose else server.config.log.level, server.config.log.format)
        log.info("configuration reloaded: %s", ", ".join(taken) or "nothing has changed that can be")
        if left:
            log.warning("changed, but needs a restart: %s", ", ".join(left))
    finally:
        service.ready(f"{server.backend.name} ESP")
    return taken, left


def _check(options: argparse.Namespace) -> int:
    from pcscf.config import load

    values = load(options.config).model_dump(mode="json")
    if options.json:
        print(json.dumps(values, indent=2))
        return 0
    for name, value in _flat(values):
        print(f"{name} = {json.dumps(value)}")
    return 0


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for name, value in values.items():
        out += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return out


def _doctor(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from pcscf import doctor
    from pcscf.config import load

    findings = doctor.examine(load(options.config) if options.config else None)
    fit = doctor.is_fit(findings)
    if options.json:
        rows = [
            {"subject": each.subject, "verdict": each.verdict.value, "text": each.text, "remedy": each.remedy}
            for each in findings
        ]
        print(json.dumps({"fit": fit, "findings": rows}, indent=2))
        return 0 if fit else 1
    colours = {doctor.Verdict.GOOD: "green", doctor.Verdict.WARNING: "yellow", doctor.Verdict.BAD: "red"}
    table = Table(box=None, show_header=False, pad_edge=False)
    for each in findings:
        text = f"{each.text}\n→ {each.remedy}" if each.remedy else each.text
        table.add_row(f"[{colours[each.verdict]}]{each.verdict.value}[/]", each.subject, text)
    console = Console(highlight=False)
    console.print(table)
    console.print("A P-CSCF can run here" if fit else "A P-CSCF cannot run here until the problems are solved")
    return 0 if fit else 1


def _sa(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.markup import escape

    from pcscf.admin.client import ControlClient
    from pcscf.admin.tables import sa_table
    from pcscf.config import load

    control = options.control or load(options.config).control
    rows = asyncio.run(ControlClient(control).sas())
    if options.json:
        print(json.dumps([row.model_dump(mode="json") for row in rows], indent=2))
        return 0
    if not rows:
        print("no SAs: nobody is registered and no challenge waits")
        return 0
    console = Console(highlight=False, soft_wrap=True)
    for place, (_, group) in enumerate(groupby(rows, key=lambda row: row.set_id)):
        four = list(group)
        first = four[0]
        ue = first.source if first.uplink else first.destination
        left = "" if first.expires_in is None else f", {first.expires_in:.0f} s left"
        console.print(
            f"{chr(10) * bool(place)}[bold]{escape(first.impi)}[/]  {ue}  set {first.set_id} {first.state}{left}"
        )
        console.print(sa_table(four))
    return 0


def _hops(options: argparse.Namespace) -> int:
    from rich.console import Console

    from pcscf.admin.client import ControlClient
    from pcscf.admin.tables import hop_table
    from pcscf.config import load

    client = ControlClient(options.control or load(options.config).control)

    async def ask() -> "Hops":
        if name := options.disable or options.enable:
            await client.switch_hop(name, enabled=options.disable is None)
        return await client.hops()

    found = asyncio.run(ask())
    if options.json:
        print(found.model_dump_json(indent=2))
        return 0
    console = Console(highlight=False, soft_wrap=True)
    if found.hops:
        console.print(hop_table(found.hops))
    for hop in filter(lambda each: each.words, found.hops):
        console.print(f"{hop.name} is {hop.state} for {hop.since:.0f} s: {hop.words}", markup=False)
    for name in found.names:
        servers = ", ".join(name.servers) or "no servers"
        error = f"{name.error}; " if name.error else ""
        console.print(
            f"{name.name}: {error}{servers}; not asked again for {max(0.0, name.expires_in):.0f} s", markup=False
        )
    if not found.hops and not found.names:
        print("no next hop is known yet: nothing has been sent to the core")
    return 0
