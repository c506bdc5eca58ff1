"""`pcscf trace`: the call flow of a capture, or of the P-CSCF that runs, as a ladder."""

import argparse
import asyncio
import json
import shutil
import sys
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcscf import PcscfError
from pcscf.arguments import add_command, add_control, add_json, add_keys
from pcscf.printable import printable

if TYPE_CHECKING:
    from pcscf.capture.sip import Seen, Unread
    from pcscf.capture.trace import Wanted
    from xfrm.model import IPAddress

EVERY = 0.3
"""Seconds between two looks at the journal."""
LEAST_WIDTH, REPORT_WIDTH = 80, 130
FONT_FACE, FONTS = "@font-face {", 2
"""What begins the fonts of a drawing, and how many it has; what stands further on may be text of peers."""
COLOURS = {"esp": "cyan", "clear": "yellow", "shut": "red", "bad": "red"}


def add_trace_command(commands: Any) -> None:
    """Add `trace` to the parser of `pcscf`."""
    trace = add_command(
        commands,
        "trace",
        "show the SIP of a capture, or of the running P-CSCF, as a call-flow ladder",
        "pcscf trace gm.pcapng -k gm.esp_sa\n"
        "  pcscf trace any.pcap --user +15551230001 --method INVITE --html call.html\n"
        "  pcscf trace any.pcap --host P-CSCF=10.45.0.1,10.46.0.1\n"
        "  pcscf trace --follow --user 10.45.0.2",
    )
    trace.add_argument("capture", type=Path, metavar="FILE", nargs="?", help="pcap or pcapng, ours or not")
    add_keys(trace)
    trace.add_argument("--user", default="", help="whose: IMPI, IMPU, number or address")
    trace.add_argument("--call-id", default="", metavar="TEXT", help="how the Call-ID begins")
    trace.add_argument(
        "--method", action="append", default=[], metavar="NAME", help="this method and its responses; may be repeated"
    )
    trace.add_argument(
        "--host", type=_host, action="append", default=[], metavar="NAME=ADDRESS[,ADDRESS]", help="one column for these"
    )
    trace.add_argument("--width", type=int, metavar="COLUMNS", help="of the terminal (default: as wide as it is)")
    trace.add_argument("--html", type=Path, metavar="FILE", help="write one page with the whole messages")
    trace.add_argument("--svg", type=Path, metavar="FILE", help="write a picture of the ladder")
    trace.add_argument("--follow", action="store_true", help="live, from the journal of the running P-CSCF")
    add_control(trace)
    add_json(trace)
    trace.set_defaults(command=lambda options: _trace(trace, options))


def _host(text: str) -> "tuple[str, list[IPAddress]]":
    name, equals, addresses = text.partition("=")
    try:
        found = [ip_address(each) for each in addresses.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=ADDRESS")
    return name, found


def _trace(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.follow:
        if options.capture is not None or options.html or options.svg or options.keys or options.host:
            parser.error("--follow shows the running P-CSCF: it takes --user, --method, --call-id and --json")
        return asyncio.run(_follow(options))
    if options.capture is None:
        parser.error("a capture is needed, or --follow")
    return _show(options)


def _wanted(options: argparse.Namespace) -> "Wanted":
    from pcscf.capture.trace import Wanted

    methods = frozenset(name.upper() for name in options.method)
    return Wanted(user=options.user, call_id=options.call_id, methods=methods)


def _show(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.text import Text

    from pcscf.capture.trace import Flow, to_json, wanted_of

    found, remarks = _read(options)
    items = wanted_of(found, _wanted(options))
    for remark in remarks:
        print(f"pcscf: {printable(remark)}", file=sys.stderr)
    if options.json:
        print(json.dumps([to_json(item) for item in items], indent=2))
        return 0 if items else 1
    if not items:
        left = f"; {len(found)} messages are there that the filters leave out" if found else ""
        raise PcscfError(f"{options.capture}: no SIP to show{left}")
    names = {address: name for name, addresses in options.host for address in addresses}
    wide = options.width or shutil.get_terminal_size((REPORT_WIDTH, 0)).columns
    flow = Flow(items, names, max(wide, LEAST_WIDTH) if not (options.html or options.svg) else REPORT_WIDTH)
    lines = flow.lines()
    if options.html is not None:
        from pcscf.capture.page import page

        _write(options.html, page(options.capture.name, flow, lines))
    shown = Console(highlight=False, soft_wrap=True, no_color=None)
    drawn = Text("\n").join(
        [Text(flow.sheet.heading(), style="bold"), *(Text(line.text, style=COLOURS[line.kind]) for line in lines)]
    )
    if options.svg is not None:
        width = max(len(line) for line in drawn.plain.splitlines()) + 1
        with Path("/dev/null").open("w") as nowhere:
            recorder = Console(record=True, width=width, file=nowhere, highlight=False, force_terminal=True)
            recorder.print(drawn)
            picture = recorder.export_svg(title=f"pcscf trace {options.capture.name}", font_aspect_ratio=0.61)
        for _ in range(FONTS):  # a page that shows it is not to fetch anything: the fonts are those of the reader
            before, _, font = picture.partition(FONT_FACE)
            picture = before + font.partition("}")[2].lstrip()
        _write(options.svg, picture)
    if options.html is None and options.svg is None:
        shown.print(drawn)
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise PcscfError(f"{path}: {error.strerror}") from error


def _read(options: argparse.Namespace) -> "tuple[list[Seen | Unread], list[str]]":
    """All SIP of the file, and what to remark about it."""
    from rich.console import Console
    from rich.progress import Progress

    from pcscf.capture.decryption import Cause, Decryption
    from pcscf.capture.file import Reader
    from pcscf.capture.opened import read_keys
    from pcscf.capture.sip import SHUT_SHOWN, read_sip

    decryption = Decryption(read_keys(options.keys))
    console = Console(stderr=True)
    with (
        Reader(options.capture) as reader,
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task(reader.path.name, total=reader.size)
        found = list(read_sip(reader, decryption, lambda: progress.update(task, completed=reader.position)))
        remarks = [f"{options.capture}: damaged: {reader.damage}"] if reader.damage else []
    if decryption.unchecked:
        remarks.append(f"{decryption.unchecked} ESP packets were read without keys; their integrity was not checked")
    for (cause, spi, _, destination), count in decryption.shut.items():
        if count > SHUT_SHOWN and cause is not Cause.REPLAYED:
            to = ip_address(destination)
            remarks.append(f"{count} packets of SPI {spi} to {to} stay shut ({cause}); {SHUT_SHOWN} are shown")
    if decryption.shut and not options.keys:
        remarks.append("some ESP could not be opened; give its keys with -k (see `pcscf keys --help`)")
    return found, remarks


async def _follow(options: argparse.Namespace) -> int:
    """Until Ctrl-C. A P-CSCF that goes away and comes back is followed on."""
    from rich.console import Console
    from rich.markup import escape

    from pcscf import ladder
    from pcscf.admin.client import ClientError, ControlClient
    from pcscf.capture.follow import Following
    from pcscf.config import load

    client = ControlClient(options.control or load(options.config).control)
    following = Following(_wanted(options))
    console = Console(highlight=False, soft_wrap=True)
    await client.status()  # the first time it must be there
    if not options.json:
        console.print(ladder.heading(), style="bold")
    with suppress(asyncio.CancelledError):
        while True:
            try:
                status, rows = await client.status(), await client.journal(following.number)
                registrations = await client.registrations() if options.user else []
            except ClientError as error:
                following.lost(str(error))
                rows = []
            else:
                rows = following.take(status.pid, rows, registrations)
            for remark in following.remarks():
                print(f"pcscf: {printable(remark)}", file=sys.stderr)
            if options.json:
                for row in rows:
                    print(row.model_dump_json(), flush=True)
            else:
                for line in following.lines(rows):
                    console.print(escape(line))
            await asyncio.sleep(EVERY)
    return 0
