"""What an operator takes away: the trace of a UE as pcapng or as a page, and a Wireshark profile.

The messages are those the P-CSCF itself saw, opened, so no key is needed to read them. In a pcapng file they are
"upper PDUs" (LINKTYPE_WIRESHARK_UPPER_PDU): Wireshark shows addresses, ports and SIP, and nobody pretends that they
were packets of that shape.
"""

import io
import struct
import zipfile
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

from pcscf.capture.file import Interface, Packet, Writer
from pcscf.capture.page import page
from pcscf.capture.sip import Seen
from pcscf.capture.trace import Flow
from pcscf.observe import MessageSeen
from pcscf.printable import printable
from pcscf.sip.parse import ParseError, parse
from pcscf.vocabulary import Interface as Side
from xfrm.model import IPAddress
from xfrm.wireshark import LUA, PREFERENCES

UPPER_PDU = 252
"""LINKTYPE_WIRESHARK_UPPER_PDU."""
WIDTH = 140
_END, _PROTOCOL, _PORT_KIND, _SOURCE_PORT, _DESTINATION_PORT = 0, 12, 24, 25, 26
_ADDRESSES = {4: (20, 21), 6: (22, 23)}
_PORT_KINDS = {"TCP": 2, "UDP": 3}


class Kept(NamedTuple):
    """A message with its record. `at`: nanoseconds since the epoch."""

    at: int
    seen: MessageSeen
    text: bytes


def pcapng(ue: str, messages: Sequence[Kept]) -> bytes:
    """The messages of a UE as a capture file."""
    stream = io.BytesIO()
    interface = Interface(
        link=UPPER_PDU, name="pcscf", description=f"SIP of {printable(ue)}, as the P-CSCF saw it opened"
    )
    writer = Writer(stream, [interface])
    for each in messages:
        spi = each.seen.spi
        data = _tags(each.seen) + each.text
        writer.write(Packet(each.at, 0, data, len(data), f"in ESP, SPI {spi}" if spi else "in clear"))
    return stream.getvalue()


def _tags(seen: MessageSeen) -> bytes:
    (source, source_port), (destination, destination_port) = seen.flow.ends(incoming=seen.incoming)
    from_, to = _ADDRESSES[source.version]
    return b"".join(
        (
            _tag(_PROTOCOL, b"sip"),
            _tag(from_, source.packed),
            _tag(to, destination.packed),
            _tag(_PORT_KIND, _number(_PORT_KINDS[seen.flow.transport])),
            _tag(_SOURCE_PORT, _number(source_port)),
            _tag(_DESTINATION_PORT, _number(destination_port)),
            _tag(_END, b""),
        )
    )


def _number(value: int) -> bytes:
    return struct.pack("!I", value)


def _tag(kind: int, value: bytes) -> bytes:
    padded = value + bytes(-len(value) % 4)
    return struct.pack("!HH", kind, len(padded)) + padded


def html(ue: str, messages: Sequence[Kept]) -> str:
    """The messages of a UE as a page."""
    items = [item for each in messages if (item := _item(each)) is not None]
    names: dict[IPAddress, str] = {}
    for each in messages:
        flow = each.seen.flow
        names[flow.local] = "P-CSCF"
        names.setdefault(flow.remote, "core" if flow.interface is Side.MW else "UE")
    flow_ = Flow(items, names, WIDTH)
    return page(ue, flow_, flow_.lines())


def _item(kept: Kept) -> Seen | None:
    (source, source_port), (destination, destination_port) = kept.seen.flow.ends(incoming=kept.seen.incoming)
    try:
        message = parse(kept.text)
    except ParseError:
        return None
    return Seen(
        at=kept.at,
        transport=kept.seen.flow.transport,
        source=source,
        source_port=source_port,
        destination=destination,
        destination_port=destination_port,
        spi=kept.seen.spi,
        message=message,
    )


def profile(lines: Sequence[str]) -> bytes:
    """A Wireshark profile as a zip file, for Wireshark's own import of profiles.

    The dissector for AES-GMAC is beside it; it has to be put where Wireshark looks for Lua, and told of the `esp_sa`.
    """
    preferences = "".join(line for line in PREFERENCES.splitlines(keepends=True) if "{" not in line)
    notes = (
        "Wireshark: Edit, Configuration Profiles, Import, from zip file; then open a capture in profile pcscf-gm.\n"
        f"For AES-GMAC: put {LUA} into Wireshark's personal Lua plugins folder (Help, About, Folders), and set the\n"
        "preference esp_gmac.sa_file to the esp_sa file of the profile.\n"
    )
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pcscf-gm/esp_sa", "".join(f"{line}\n" for line in lines))
        archive.writestr("pcscf-gm/preferences", preferences)
        archive.writestr(LUA, files("xfrm").joinpath(LUA).read_text())
        archive.writestr("README.txt", notes)
    return made.getvalue()
