"""How many packets a second `pcscf decrypt` takes, file to file, with their integrity checked."""

import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pcscf.capture.file import ETHERNET, Interface, Packet, Writer
from pcscf.capture.opened import read_keys, write_opened
from tests.unit.capture.made import association, write_keys
from xfrm.algorithms import Pair
from xfrm.esp import Sealer

PAIRS = ("hmac-sha-1-96/null", "hmac-sha-1-96/aes-cbc", "null/aes-gcm")
BODY = 600


def measure(count: int) -> Iterator[dict[str, Any]]:
    """One figure for each pair: `count` packets of 600 octets of SIP."""
    for name in PAIRS:
        with tempfile.TemporaryDirectory() as folder:
            yield _measure(Path(folder), name, count)


def _measure(folder: Path, name: str, count: int) -> dict[str, Any]:
    sa = association(Pair.parse(name), 4)
    sealer = Sealer(sa)
    segment = struct.pack("!HHHH", 31800, 5100, 8 + BODY, 0) + bytes(BODY)
    ends = sa.selector.source.packed + sa.selector.destination.packed
    source = folder / "in.pcapng"
    with source.open("wb", buffering=1 << 20) as stream:
        writer = Writer(stream, [Interface(link=ETHERNET, name="gm")])
        for number in range(count):
            sealed = sealer.seal(segment, 17)
            header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(sealed), 0, 0, 64, 50, 0)
            data = bytes(12) + b"\x08\0" + header + ends + sealed
            writer.write(Packet(number * 1000, 0, data, len(data)))
    ring = read_keys([write_keys(folder / "keys", sa)])
    begun = time.perf_counter(), time.process_time()
    summary = write_opened(source, ring, folder / "out.pcapng")
    took, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
    return {
        "name": f"decrypt {name}",
        "packets": summary.opened,
        "packets_per_second": round(count / took),
        "cpu_microseconds": round(cpu / count * 1e6, 1),
    }
