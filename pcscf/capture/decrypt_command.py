"""`pcscf decrypt`: a capture with its ESP opened, for Wireshark or anybody else without keys."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pcscf.arguments import add_command, add_json, add_keys
from pcscf.printable import printable


def add_decrypt_command(commands: Any) -> None:
    """Add `decrypt` to the parser of `pcscf`."""
    decrypt = add_command(
        commands,
        "decrypt",
        "open the ESP of a capture with a key file",
        "pcscf decrypt gm.pcapng -k gm.esp_sa -o clear.pcapng\n"
        "  pcscf decrypt gm.pcap -o clear.pcapng          null encryption needs no keys",
    )
    decrypt.add_argument("capture", type=Path, metavar="IN", help="pcap or pcapng")
    add_keys(decrypt)
    decrypt.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="pcapng to write")
    add_json(decrypt)
    decrypt.set_defaults(command=_decrypt)


def _decrypt(options: argparse.Namespace) -> int:
    from pcscf.capture.opened import read_keys, write_opened

    summary = write_opened(options.capture, read_keys(options.keys), options.output)
    if options.json:
        print(json.dumps(summary.to_json(), indent=2))
    else:
        for line in summary.lines():
            print(printable(line), file=sys.stderr)
    return 0 if summary.good else 1
