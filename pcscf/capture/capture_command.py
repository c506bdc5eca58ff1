"""`pcscf capture`: records Gm, as on the wire and decrypted, until Ctrl-C."""

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcscf.arguments import add_command, add_control, add_json
from pcscf.printable import printable

if TYPE_CHECKING:
    from pcscf.capture.keys import KeyFile, LiveKeys


def add_capture_command(commands: Any) -> None:
    """Add `capture` to the parser of `pcscf`."""
    capture = add_command(
        commands,
        "capture",
        "record the Gm side: ESP as on the wire, and beside it what was inside",
        "pcscf capture -i eth0 -o gm.pcapng                     keys from the P-CSCF that runs\n"
        "  pcscf capture -i eth0 -o gm.pcapng -k keys.esp_sa      keys from a file that may grow\n"
        "  pcscf capture -i eth0 -o gm.pcapng --rotate-size 100 --rotate-files 10",
    )
    capture.add_argument("-i", "--interface", required=True, metavar="IFACE", help="that of the phones")
    capture.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="pcapng to write, mode 0600")
    capture.add_argument("-k", "--keys", type=Path, metavar="FILE", help="key file (ESPKEYLOGFILE of whoever has them)")
    add_control(capture)
    capture.add_argument("--all", action="store_true", help="record every frame, not only ESP, SIP and ICMP")
    capture.add_argument("--rotate-size", type=_positive, metavar="MB", help="begin another file at this size")
    capture.add_argument("--rotate-files", type=_positive, metavar="N", help="keep only so many of them")
    add_json(capture)
    capture.set_defaults(command=lambda options: _capture(capture, options))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def key_source(keys: Path | None, control: Path | None, config: Path) -> "tuple[KeyFile | LiveKeys, frozenset[int]]":
    """Where keys come from, and the protected ports of the configuration if there is one."""
    from pcscf.capture.keys import KeyFile, LiveKeys
    from pcscf.config import ConfigError, load

    try:
        loaded = load(config)
    except ConfigError:
        loaded = None
        if keys is None and control is None:
            raise
    ports = frozenset((*loaded.ipsec.ports_ps, *loaded.ipsec.ports_pc, loaded.gm.port)) if loaded else frozenset()
    if keys is not None:
        return KeyFile(keys), ports
    if control is None:
        assert loaded is not None
        control = loaded.control
    return LiveKeys(control), ports


def _capture(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    import queue

    from pcscf.capture.file import CaptureError, Packet
    from pcscf.capture.live import Opening, Recorder, Tap, drain, follow
    from pcscf.capture.opened import Summary

    if options.rotate_files and not options.rotate_size:
        parser.error("--rotate-files needs --rotate-size")
    source, ports = key_source(options.keys, options.control, options.config)
    frames: queue.SimpleQueue[Packet] = queue.SimpleQueue()
    tap = Tap(options.interface, frames.put)
    size = (options.rotate_size or 0) * 1_000_000
    recorder = Recorder(options.output, options.interface, tap.link, size=size, files=options.rotate_files or 0)
    opening = Opening(source, tap.link, recorder, ports=ports, everything=options.all)
    recorder.on_new_file = opening.renew
    told: list[int] = []
    again: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.append(1))
    signal.signal(signal.SIGHUP, lambda *_: again.append(1))
    tap.start()
    if source.trouble:
        print(f"pcscf: {printable(source.trouble)}; only null encryption is opened meanwhile", file=sys.stderr)
    print(f"capturing on {options.interface}; Ctrl-C ends it", file=sys.stderr, flush=True)
    try:
        while not told and not tap.trouble:
            follow(frames, opening.take, recorder.flush)
            if again:
                again.clear()
                recorder.renew()
        lost = tap.stop()
        drain(frames, opening.take)
        recorder.close()
    except OSError as error:
        tap.stop()
        raise CaptureError(f"{options.output}: {error.strerror}; what came before is there") from error
    summary = Summary(packets=opening.packets, esp=opening.esp, damage="")
    summary.opened, summary.unchecked = opening.decryption.opened, opening.decryption.unchecked
    summary.shut = opening.decryption.shut
    if options.json:
        print(json.dumps(summary.to_json() | {"dropped": lost, "trouble": tap.trouble}, indent=2))
    else:
        for line in summary.lines():
            print(printable(line), file=sys.stderr)
        if lost:
            print(f"the kernel dropped {lost} frames: this machine was too slow", file=sys.stderr)
        if tap.trouble:
            print(f"pcscf: interface {options.interface}: {tap.trouble}; what came before is there", file=sys.stderr)
    return 1 if tap.trouble else 0
