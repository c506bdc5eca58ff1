"""The command `pcscf ue`: register once, or play a script of steps, given at once or line by line."""

import argparse
import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from pcscf import PcscfError
from pcscf.keylog import open_key_log
from pcscf.lab.arguments import add_backend, add_subscribers, port, share, until_told
from pcscf.lab.fault import Fault
from pcscf.lab.gm import StaticNumbers, pump, release
from pcscf.lab.outcome import Outcome, Step
from pcscf.lab.phone import UeSettings
from pcscf.lab.player import Player, StepResult
from pcscf.lab.script import GRAMMAR, ScriptError, ScriptStep, parse_script, parse_step
from pcscf.lab.subscribers import SubscribersError, load_subscribers
from pcscf.lab.ue import Ue
from pcscf.printable import printable
from xfrm.algorithms import VALID_PAIRS, Pair
from xfrm.backend import Backend, open_backend
from xfrm.model import PortRange

LONGEST_LINE = 16_384


def add_ue_command(commands: Any) -> None:
    """Add `ue` to the parser of `pcscf`."""
    ue = commands.add_parser(
        "ue",
        help="be a phone: register with AKA and IPsec, call, send messages, with faults on demand",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="pcscf ue (register | -x SCRIPT) --address ADDRESS --pcscf ADDRESS [options]",
        epilog=f"steps of a script, separated by semicolons or lines:\n{_indented(GRAMMAR)}\n\n"
        "With -x - steps are read from standard input, and each is answered by one line of JSON.\n"
        "Exit status 0 only if every step did what it should.\n\n"
        "examples:\n"
        "  pcscf ue register --address 10.45.0.2 --pcscf 10.45.0.1 --tcp --offer hmac-sha-1-96/aes-cbc --json\n"
        "  pcscf ue register --address 10.45.0.2 --pcscf 10.45.0.1 --fault wrong-res\n"
        '  pcscf ue --address 10.45.0.2 --pcscf 10.45.0.1 -x "register; message +15551230002 hello; call +15551230002; '
        'wait 2; hangup; deregister"',
    )
    ue.add_argument("action", nargs="?", choices=("register",), help="register, and say what happened")
    ue.add_argument("-x", dest="script", metavar="SCRIPT", help="the steps to do; - reads them from standard input")
    add_subscribers(ue)
    ue.add_argument("--impi", help="which subscriber (default: the first of the file)")
    ue.add_argument("--address", type=ip_address, required=True, help="the UE's own address")
    ue.add_argument("--pcscf", type=ip_address, required=True, help="the P-CSCF's address")
    ue.add_argument("--port", type=port, default=5060, help="port of the P-CSCF and of the UE for SIP in clear")
    ue.add_argument(
        "--ports",
        type=_ports,
        metavar="FIRST-LAST",
        help="protected ports: the first is port_us, the others take turns as port_uc (default: eight by chance)",
    )
    ue.add_argument(
        "--static",
        type=_static,
        metavar="PORT-C,PORT-S[,SPI-C,SPI-S]",
        help="be a phone that offers the same protected ports, and SPIs, for ever",
    )
    ways = ue.add_mutually_exclusive_group()
    ways.add_argument("--tcp", action="store_true", help="over TCP")
    ways.add_argument("--udp-only", action="store_true", help="over UDP, requests above 1300 octets, too")
    ue.add_argument(
        "--offer",
        type=_pair,
        action="append",
        default=[],
        metavar="ALG/EALG",
        help=f"algorithms to offer, the best first: {', '.join(sorted(map(str, VALID_PAIRS)))}",
    )
    ue.add_argument("--expires", type=int, default=600_000, metavar="SECONDS")
    ue.add_argument(
        "--fault", type=Fault, choices=list(Fault), action="append", default=[], metavar="FAULT",
        help=f"do it wrong: {', '.join(Fault)}",
    )  # fmt: skip
    ue.add_argument("--loss", type=share, default=0.3, metavar="SHARE", help="of the fault `lose` (default: 0.3)")
    ue.add_argument("--seed", type=int, default=1, help="of the fault `lose`: the same losses for the same seed")
    add_backend(ue)
    ue.add_argument("--stay", action="store_true", help="stay as it is then until SIGTERM or Ctrl-C")
    ue.add_argument("--json", action="store_true", help="write JSON for scripts, one line")
    ue.set_defaults(command=lambda options: _ue(ue, options))


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _ports(text: str) -> PortRange:
    first, _, last = text.partition("-")
    try:
        ports = PortRange(first=int(first), count=int(last) - int(first) + 1)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}; write FIRST-LAST, for example 31800-31807") from error
    if ports.count < 2:
        raise argparse.ArgumentTypeError(f"{text}: two ports at least, one is port_us, another port_uc")
    return ports


def _static(text: str) -> StaticNumbers:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error
    if len(numbers) not in (2, 4) or not all(0 < number < 65_536 for number in numbers[:2]):
        raise argparse.ArgumentTypeError(f"{text}: two ports, perhaps followed by two SPIs")
    return StaticNumbers(*numbers)


def _pair(text: str) -> Pair:
    try:
        return Pair.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _ue(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if (options.action is None) == (options.script is None):
        parser.error("either `register` or -x SCRIPT is needed")
    settings = _settings(options)
    if options.action == "register":
        return asyncio.run(_with_ue(settings, options, None))
    realm = settings.subscriber.realm
    if options.script != "-":
        return asyncio.run(_with_ue(settings, options, parse_script(options.script, realm)))
    if stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode):  # the loop cannot wait for a file, and need not
        return asyncio.run(_with_ue(settings, options, parse_script(sys.stdin.read(), realm)))
    return asyncio.run(_with_ue(settings, options, ()))


def _settings(options: argparse.Namespace) -> UeSettings:
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
        static=options.static,
        tcp=options.tcp,
        large_over_tcp=not options.udp_only,
        expires=options.expires,
        loss=options.loss,
        seed=options.seed,
        faults=frozenset(options.fault),
    )
    return replace(settings, offers=tuple(options.offer)) if options.offer else settings


async def _with_ue(settings: UeSettings, options: argparse.Namespace, steps: tuple[ScriptStep, ...] | None) -> int:
    """Be the phone. `steps` None: register once; empty: as standard input says."""
    key_log = open_key_log("", os.environ)
    choice = open_backend(options.backend)
    pump(choice.backend)
    ue = Ue(settings, choice.backend, key_log=key_log)
    try:
        await ue.start()
        if steps is None:
            good = await _register(ue, options, choice.backend)
        elif steps:
            good = await _play(ue, options, steps)
        else:
            good = await _follow(ue, options)
        if options.stay and (good or steps is None):
            await until_told()
        return 0 if good else 1
    finally:
        await ue.close()
        release(choice.backend)


async def _register(ue: Ue, options: argparse.Namespace, backend: Backend) -> bool:
    from pydantic_core import to_jsonable_python

    outcome = await ue.register()
    if options.json:
        print(json.dumps({"impi": ue.settings.subscriber.impi} | to_jsonable_python(outcome)), flush=True)
    else:
        _print_outcome(outcome, backend.name)
    return outcome.registered


async def _play(ue: Ue, options: argparse.Namespace, steps: tuple[ScriptStep, ...]) -> bool:
    """Play a whole script; Ctrl-C and SIGTERM end it, and it leaves quietly."""
    player = Player(ue)
    playing = asyncio.current_task()
    assert playing is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, playing.cancel)
    try:
        good = await player.play(steps)
    except asyncio.CancelledError:
        playing.uncancel()
        await player.leave()
        good = False
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    if options.json:
        print(json.dumps(player.report()), flush=True)
    else:
        _print_ladder(ue.diary.steps(), ue.diary.complaints())
        for each in player.results:
            print(printable(_line(each)))
        for step in steps[len(player.results) :]:
            print(f"not done  {step.text}")
    return good


async def _follow(ue: Ue, options: argparse.Namespace) -> bool:
    """Do what standard input says, a line at a time; the end of the input is the end. A bad line is answered, too."""
    from pydantic_core import to_jsonable_python

    player = Player(ue)
    good, number = True, 0
    async for line in _lines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        number += 1
        try:
            step = parse_step(line, number, ue.settings.subscriber.realm)
        except ScriptError as error:
            good = False
            result = StepResult(step=line.strip(), name="", ok=False, reason=str(error))
        else:
            result = await player.do(step)
        print(json.dumps(to_jsonable_python(result)), flush=True)
    if options.json:
        print(json.dumps(player.report()), flush=True)
    return good and player.ok


async def _lines() -> AsyncIterator[str]:
    """Standard input, until its end, SIGTERM or Ctrl-C."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LONGEST_LINE)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, reader.feed_eof)
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while line := await reader.readline():
            yield line.decode(errors="replace").rstrip("\r\n")
    finally:
        pipe.close()


def _print_ladder(ladder: tuple[Step, ...], complaints: tuple[str, ...]) -> None:
    for step in ladder:
        way = f"spi {step.spi}" if step.spi else "clear"
        sign, again = ("◀" if step.incoming else "▶"), " (again)" if step.again else ""
        print(f"{step.at:<8.3f}{sign} {printable(step.summary):<20} {way:<16} {step.flow}{again}")
    for complaint in complaints:
        print(f"complaint: {printable(complaint)}")


def _line(result: StepResult) -> str:
    status = f" {result.status}" if result.status else ""
    return f"{'ok' if result.ok else 'FAILED':<9} {result.step}:{status} {result.reason} ({result.seconds:.3f} s)"


def _print_outcome(outcome: Outcome, backend: str) -> None:
    _print_ladder(outcome.ladder, outcome.complaints)
    if outcome.registered:
        print(printable(f"registered for {outcome.expires} s as {', '.join(outcome.associated_uris)} ({backend} ESP)"))
    else:
        print(f"not registered: {printable(outcome.reason)}")
