"""A copy of a capture with its ESP opened, and a summary of what stayed shut."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import Progress

from pcscf.capture.decryption import ADVICE, Cause, Decryption, KeyRing, Opened
from pcscf.capture.file import CaptureError, Packet, Reader, Writer
from pcscf.capture.frames import ESP, HELD, Reassembly
from pcscf.printable import printable
from xfrm.wireshark import read

SHOWN = 10
"""Flows that a summary names for each cause."""
STEP = 20_000
"""Packets between two moves of the progress bar."""


@dataclass(slots=True)
class Summary:
    """What became of a capture."""

    packets: int = 0
    esp: int = 0
    opened: int = 0
    unchecked: int = 0
    incomplete: int = 0
    damage: str = ""
    shut: Counter[tuple[Cause, int, bytes, bytes]] = field(default_factory=Counter)

    @property
    def good(self) -> bool:
        """Something was opened, or there was nothing to open."""
        return bool(self.opened) or not self.esp

    def rows(self) -> list[dict[str, Any]]:
        """What stayed shut: cause, SPI, addresses and how many packets; most of them first."""
        return [
            {
                "cause": cause.value,
                "spi": spi,
                "source": str(ip_address(source)),
                "destination": str(ip_address(destination)),
                "packets": count,
            }
            for (cause, spi, source, destination), count in self.shut.most_common()
        ]

    def to_json(self) -> dict[str, Any]:
        names = ("packets", "esp", "opened", "unchecked", "incomplete", "damage")
        return {name: getattr(self, name) for name in names} | {"shut": self.rows()}

    def lines(self) -> list[str]:
        """For people."""
        out = [f"{self.packets} packets, {self.esp} of them ESP, {self.opened} opened"]
        if self.unchecked:
            out.append(f"{self.unchecked} of those: null encryption without keys; their integrity was not checked")
        rows = self.rows()
        for cause in Cause:
            those = [row for row in rows if row["cause"] == cause]
            if not those:
                continue
            out.append(f"not opened, {cause}: {sum(row['packets'] for row in those)} ({ADVICE[cause]})")
            out += [
                f"  {row['packets']} of SPI {row['spi']} from {row['source']} to {row['destination']}"
                for row in those[:SHOWN]
            ]
            if len(those) > SHOWN:
                out.append(f"  and of {len(those) - SHOWN} more")
        if self.incomplete:
            out.append(f"{self.incomplete} fragmented packets lack a part; left as they are")
        if self.damage:
            out.append(f"the file is damaged: {self.damage}; what came before is there")
        return out


def read_keys(paths: Sequence[Path]) -> KeyRing:
    """The lines of key files, the complaints to standard error. Raises CaptureError: unreadable, or no line of use."""
    ring = KeyRing()
    for path in paths:
        try:
            text = path.read_text(errors="replace")
        except OSError as error:
            raise CaptureError(f"{path}: {error.strerror}") from error
        lines, complaints = read(text)
        for complaint in complaints:
            print(f"pcscf: {path}: {printable(complaint)}", file=sys.stderr)
        if not lines and (complaints or text.strip("# \n")):
            raise CaptureError(f"{path}: no line of it is an SA as Wireshark's esp_sa has it")
        ring.add(lines)
    return ring


def write_opened(source: Path, ring: KeyRing, output: Path) -> Summary:
    """Write the copy, readable by its owner only; it appears when it is complete. Raises CaptureError."""
    if output.exists() and output.samefile(source):
        raise CaptureError(f"{output}: it would overwrite what is read; name another file")
    new = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with Reader(source) as reader:
            try:
                with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                    summary = _copy(reader, stream, ring)
                new.replace(output)
            except OSError as error:
                raise CaptureError(f"{output}: {error.strerror}") from error
    finally:
        new.unlink(missing_ok=True)
    return summary


def _copy(reader: Reader, stream: BinaryIO, ring: KeyRing) -> Summary:
    """Copy a capture, ESP opened. Raises OSError."""
    summary = Summary()
    decryption = Decryption(ring)
    reassembly = Reassembly()
    writer = Writer(stream, [], comment="ESP opened by pcscf")
    told = 0

    def write(packet: Packet) -> None:
        nonlocal told
        while told < len(reader.interfaces):
            writer.add_interface(reader.interfaces[told])
            told += 1
        writer.write(packet)

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(reader.path.name, total=reader.size)
        feed, links = reassembly.feed, reader.interfaces
        for number, packet in enumerate(reader):
            if number % STEP == 0:
                progress.update(task, completed=reader.position)
            summary.packets += 1
            datagram = feed(links[packet.interface].link, packet.data, packet)
            if datagram is HELD:
                continue
            if datagram is not None and datagram.protocol == ESP:
                summary.esp += 1
                found = decryption.open(datagram)
                if isinstance(found, Opened):
                    data = datagram.frame(found.protocol, found.payload)
                    write(packet._replace(data=data, length=len(data)))
                    continue
            if datagram is not None and datagram.parts:
                for part in datagram.parts:
                    assert isinstance(part, Packet)
                    write(part)
            else:
                write(packet)
        for part in reassembly.abandoned(all_of_them=True):
            assert isinstance(part, Packet)
            write(part)
    writer.flush()
    summary.opened, summary.unchecked = decryption.opened, decryption.unchecked
    summary.shut, summary.incomplete, summary.damage = decryption.shut, reassembly.incomplete, reader.damage
    return summary
