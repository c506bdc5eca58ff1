"""An interface of Wireshark's own: "IMS Gm, decrypted", captured live through Wireshark's extcap protocol.

Wireshark reads keys only when it starts, so what comes here is opened already. Protocol: doc/extcap.adoc of Wireshark.
"""

import queue
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pcscf.capture.file import ETHERNET, RAW, CaptureError, Interface, Packet, Writer
from pcscf.capture.live import KeySource, Opening, Tap, drain, follow

NAME = "ims-gm"
DISPLAY = "IMS Gm, decrypted"
WRAPPER = "pcscf-extcap"
INTERFACES = f"""\
extcap {{version=1.0}}{{help=https://www.wireshark.org/docs/wsdg_html_chunked/ChCaptureExtcap.html}}{{display=pcscf}}
interface {{value={NAME}}}{{display={DISPLAY}}}
"""
DLTS = "dlt {number=1}{name=EN10MB}{display=Ethernet}\n"
CONFIGURATION = """\
arg {number=0}{call=--interface}{display=Interface}{type=string}{tooltip=That of the phones, for example eth0}
arg {number=1}{call=--keys}{display=Key file}{type=fileselect}{tooltip=ESPKEYLOGFILE of the P-CSCF or of a UE}
arg {number=2}{call=--control}{display=Control socket}{type=string}{tooltip=Of a P-CSCF that exports keys}
arg {number=3}{call=--both}{display=ESP as on the wire, too}{type=boolflag}{default=false}
"""
_SCRIPT = """\
#!/bin/sh
# Made by pcscf: shows "{display}" among Wireshark's interfaces.
exec "{python}" -m pcscf extcap "$@"
"""


def folders(environment: Mapping[str, str]) -> list[Path]:
    """Where Wireshark looks for extcap programs of the user: until 4.0 with its settings, later beside its plugins."""
    home = Path(environment.get("HOME", "~")).expanduser()
    own = environment.get("WIRESHARK_CONFIG_DIR") or Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    settings = Path(own) if "WIRESHARK_CONFIG_DIR" in environment else Path(own) / "wireshark"
    return [settings / "extcap", home / ".local" / "lib" / "wireshark" / "extcap"]


def install(environment: Mapping[str, str]) -> list[Path]:
    """Put the wrapper where Wireshark finds it; returns where. Raises CaptureError."""
    made = []
    for folder in folders(environment):
        path = folder / WRAPPER
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(_SCRIPT.format(display=DISPLAY, python=sys.executable))
            path.chmod(0o755)
        except OSError as error:
            raise CaptureError(f"{path}: {error.strerror}") from error
        made.append(path)
    return made


def uninstall(environment: Mapping[str, str]) -> list[Path]:
    """Take the wrapper away; returns from where. Raises CaptureError."""
    removed = []
    for folder in folders(environment):
        path = folder / WRAPPER
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CaptureError(f"{path}: {error.strerror}") from error
        removed.append(path)
    return removed


class _Pipe:
    """A `View` that gives Wireshark one interface of Ethernet: what was inside ESP, and what could not be opened."""

    def __init__(self, writer: Writer, link: int, *, both: bool) -> None:
        self._writer = writer
        self._raw = link == RAW
        self._both = both
        self._held: Packet | None = None

    def wire(self, packet: Packet) -> None:
        self.flush()
        self._held = packet

    def inside(self, packet: Packet) -> None:
        if not self._both:
            self._held = None
        self.flush()
        self._write(packet)

    def flush(self) -> None:
        if self._held is not None:
            self._write(self._held)
        self._held = None

    def _write(self, packet: Packet) -> None:
        data = packet.data
        if self._raw:
            kind = b"\x86\xdd" if data[:1] and data[0] >> 4 == 6 else b"\x08\x00"
            data = bytes(12) + kind + data
        self._writer.write(packet._replace(interface=0, data=data, length=len(data)))


def run(interface: str, fifo: Path, source: KeySource, ports: frozenset[int], *, both: bool) -> None:
    """Write to Wireshark's pipe until it closes it or ends us. Raises CaptureError."""
    frames: queue.SimpleQueue[Packet] = queue.SimpleQueue()
    told: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.append(1))
    tap = Tap(interface, frames.put)
    try:
        stream = fifo.open("wb")
    except OSError as error:
        tap.stop()
        raise CaptureError(f"{fifo}: {error.strerror}") from error
    pipe = _Pipe(Writer(stream, [Interface(link=ETHERNET, name=interface, description=DISPLAY)]), tap.link, both=both)
    opening = Opening(source, tap.link, pipe, ports=ports)

    def flush() -> None:
        pipe.flush()
        stream.flush()

    try:
        stream.flush()
        tap.start()
        while not told and not tap.trouble:
            follow(frames, opening.take, flush)
    except BrokenPipeError:
        pass  # Wireshark has stopped
    finally:
        tap.stop()
    with suppress(OSError):
        drain(frames, opening.take)
        flush()
        stream.close()
    if tap.trouble:
        raise CaptureError(f"interface {interface}: {tap.trouble}")
