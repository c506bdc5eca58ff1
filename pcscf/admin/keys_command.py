"""`pcscf keys`: the keys of the live SAs, as Wireshark takes them, or as a profile that is ready to use."""

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from pcscf import PcscfError
from pcscf.arguments import add_command, add_control, add_json
from pcscf.printable import printable


def add_keys_command(commands: Any) -> None:
    """Add `keys` to the parser of `pcscf`."""
    keys = add_command(
        commands,
        "keys",
        "print the keys of the live SAs for Wireshark, or make a Wireshark profile of them",
        "pcscf keys > esp_sa\n"
        "  pcscf keys --profile gm && wireshark -C gm capture.pcapng\n"
        "  pcscf keys --profile gm -k capture.esp_sa    of a key file instead of the running P-CSCF",
    )
    add_control(keys)
    keys.add_argument("-k", "--keys", type=Path, metavar="FILE", help="take them from a key file (esp_sa lines)")
    keys.add_argument(
        "--profile",
        metavar="NAME|DIR",
        help="write a profile of Wireshark: NAME among your own, or a folder if it has a slash",
    )
    add_json(keys)
    keys.set_defaults(command=_keys)


def _keys(options: argparse.Namespace) -> int:
    from xfrm.wireshark import profile, read, write_profile

    text = _text(options)
    found, complaints = read(text)
    for complaint in complaints:
        print(f"pcscf: {options.keys}: {printable(complaint)}", file=sys.stderr)
    if options.profile is not None:
        made = profile(options.profile, os.environ)
        try:
            write_profile(made, text.splitlines())
        except OSError as error:
            raise PcscfError(f"profile {made.folder}: {error.strerror or error}") from error
        print(f"{len(found)} SAs in {made.folder}, the dissector of AES-GMAC in {made.lua}", file=sys.stderr)
        print(f"{made.command} CAPTURE")
        return 0
    if options.json:
        rows = [
            {
                "source": str(each.source or "*"),
                "destination": str(each.destination or "*"),
                "spi": each.spi,
                "integrity": each.integrity.value,
                "encryption": each.encryption.value,
                "integrity_key": each.integrity_key.hex(),
                "encryption_key": each.encryption_key.hex(),
            }
            for each in found
        ]
        print(json.dumps(rows, indent=2))
    elif text:
        print(text, end="" if text.endswith("\n") else "\n")
    else:
        print("no SAs: nobody is registered and no challenge waits", file=sys.stderr)
    return 0


def _text(options: argparse.Namespace) -> str:
    if options.keys is not None:
        try:
            return str(options.keys.read_text(errors="replace"))
        except OSError as error:
            raise PcscfError(f"{options.keys}: {error.strerror}") from error
    from pcscf.admin.client import ControlClient
    from pcscf.config import load

    return asyncio.run(ControlClient(options.control or load(options.config).control).keys())
