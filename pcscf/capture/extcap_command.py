"""`pcscf extcap`: what Wireshark calls to list and capture "IMS Gm, decrypted", and how it gets to know of us."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from pcscf.arguments import DEFAULT_CONFIG, add_command

KEYS_VARIABLE = "ESPKEYLOGFILE"


def add_extcap_command(commands: Any) -> None:
    """Add `extcap` to the parser of `pcscf`."""
    extcap = add_command(
        commands,
        "extcap",
        'have Wireshark list the interface "IMS Gm, decrypted" and capture on it live',
        "pcscf extcap --install      then start Wireshark, and choose the interface and a key file there\n"
        "  pcscf extcap --uninstall\n"
        "  ESPKEYLOGFILE=keys.esp_sa tshark -i ims-gm -o extcap.ims_gm.interface:eth0",
    )
    extcap.add_argument("--install", action="store_true", help="for the user who runs this")
    extcap.add_argument("--uninstall", action="store_true")
    extcap.add_argument("--interface", default="", help="that of the phones")
    extcap.add_argument("--keys", type=Path, metavar="FILE", help=f"key file (default: {KEYS_VARIABLE})")
    extcap.add_argument("--control", type=Path, metavar="SOCKET", help="of a P-CSCF that exports keys")
    extcap.add_argument("--both", action="store_true", help="ESP as on the wire, too")
    # What Wireshark says.
    extcap.add_argument("--extcap-interfaces", action="store_true", help=argparse.SUPPRESS)
    extcap.add_argument("--extcap-version", help=argparse.SUPPRESS)
    extcap.add_argument("--extcap-interface", help=argparse.SUPPRESS)
    extcap.add_argument("--extcap-dlts", action="store_true", help=argparse.SUPPRESS)
    extcap.add_argument("--extcap-config", action="store_true", help=argparse.SUPPRESS)
    extcap.add_argument("--extcap-capture-filter", help=argparse.SUPPRESS)
    extcap.add_argument("--extcap-reload-option", help=argparse.SUPPRESS)
    extcap.add_argument("--capture", action="store_true", help=argparse.SUPPRESS)
    extcap.add_argument("--fifo", type=Path, help=argparse.SUPPRESS)
    extcap.set_defaults(command=lambda options: _extcap(extcap, options))


def _extcap(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from pcscf.capture import extcap
    from pcscf.capture.capture_command import key_source
    from pcscf.capture.file import CaptureError

    if options.install or options.uninstall:
        paths = (extcap.install if options.install else extcap.uninstall)(os.environ)
        for path in paths:
            print(f"{'made' if options.install else 'removed'} {path}")
        if not paths:
            print("nothing was installed", file=sys.stderr)
        return 0
    if options.extcap_interfaces:
        print(extcap.INTERFACES, end="")
    elif options.extcap_dlts:
        print(extcap.DLTS, end="")
    elif options.extcap_config:
        print(extcap.CONFIGURATION, end="")
    elif options.capture:
        if options.fifo is None or not options.interface:
            raise CaptureError(
                "set the interface of the phones in the options of this capture interface, for example eth0"
            )
        keys = options.keys
        if keys is None and options.control is None and os.environ.get(KEYS_VARIABLE):
            keys = Path(os.environ[KEYS_VARIABLE])
        source, ports = key_source(keys, options.control, DEFAULT_CONFIG)
        extcap.run(options.interface, options.fifo, source, ports, both=options.both)
    else:
        parser.error("Wireshark calls this; you want --install")
    return 0
