"""SAs, sealed datagrams and captures, made for the tests of this folder."""

import io
import os
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from pcscf.capture.file import ETHERNET, Interface, Packet, Writer
from pcscf.capture.frames import Datagram, Reassembly
from xfrm.algorithms import ENCRYPTION, INTEGRITY, Encryption, Integrity, Pair
from xfrm.esp import Sealer
from xfrm.model import Key, Sa, Selector
from xfrm.wireshark import SaLine, line_of, read

ENDS = {4: ("10.45.0.2", "10.45.0.1"), 6: ("fd00:45::2", "fd00:45::1")}
MAC = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
HEAD = (
    "Via: SIP/2.0/UDP 10.45.0.2:31801;branch=z9hG4bK{call}\r\nFrom: <sip:alice@home>;tag=1\r\nTo: <sip:bob@home>\r\n"
    "Call-ID: {call}\r\nCSeq: 1 {method}\r\n"
)
SIP = (
    b"MESSAGE sip:bob@home SIP/2.0\r\n"
    + HEAD.format(call="one", method="MESSAGE").encode()
    + b"Content-Length: 0\r\n\r\n"
)
SCAPY = {
    Encryption.NULL: "NULL",
    Encryption.AES_CBC: "AES-CBC",
    Encryption.DES_EDE3_CBC: "3DES",
    Encryption.AES_GCM: "AES-GCM",
    Integrity.HMAC_SHA_1_96: "HMAC-SHA1-96",
    Integrity.HMAC_MD5_96: "HMAC-MD5-96",
}


def association(pair: Pair, version: int, *, seed: int = 0, spi: int = 1_000_000_101) -> Sa:
    """An SA from the UE to the P-CSCF, with keys by `seed`."""
    source, destination = map(ip_address, ENDS[version])
    integrity, chance = INTEGRITY[pair.integrity], Random(seed)
    return Sa(
        selector=Selector(source=source, destination=destination, source_port=31800, destination_port=5100),
        spi=spi,
        integrity=pair.integrity,
        encryption=pair.encryption,
        integrity_key=Key(chance.randbytes(integrity.key if integrity else 0)),
        encryption_key=Key(chance.randbytes(ENCRYPTION[pair.encryption].key)),
    )


def line(sa: Sa) -> SaLine:
    """What a key file has of it."""
    (found,), complaints = read(line_of(sa))
    assert not complaints
    return found


def scapy_association(sa: Sa) -> Any:
    gmac = sa.integrity is Integrity.AES_GMAC
    return SecurityAssociation(
        ESP,
        spi=sa.spi,
        crypt_algo="AES-NULL-GMAC" if gmac else SCAPY[sa.encryption],
        crypt_key=bytes(sa.integrity_key if gmac else sa.encryption_key),
        auth_algo=SCAPY.get(sa.integrity, "NULL"),
        auth_key=bytes(sa.integrity_key) if sa.integrity in SCAPY else None,
    )


def frame(sa: Sa, sealed: bytes) -> bytes:
    """An Ethernet frame with an ESP packet of this SA."""
    source, destination = str(sa.selector.source), str(sa.selector.destination)
    if sa.selector.source.version == 4:
        return bytes(Ether(**MAC) / IP(src=source, dst=destination, proto=50) / Raw(sealed))
    return bytes(Ether(**MAC) / IPv6(src=source, dst=destination, nh=50) / Raw(sealed))


def datagram(sa: Sa, sealed: bytes) -> Datagram:
    found = Reassembly().feed(ETHERNET, frame(sa, sealed))
    assert isinstance(found, Datagram)
    return found


def udp(payload: bytes = SIP) -> bytes:
    return bytes(UDP(sport=31800, dport=5100) / Raw(payload))


def sealed_frames(sa: Sa, count: int, payload: bytes = SIP) -> list[bytes]:
    sealer = Sealer(sa)
    return [frame(sa, sealer.seal(udp(payload), 17)) for _ in range(count)]


def write(path: Path, frames: Iterable[bytes], *, link: int = ETHERNET, step: int = 1_000_000) -> Path:
    """A capture with one frame each millisecond."""
    stream = io.BytesIO()
    writer = Writer(stream, [Interface(link=link, name="gm")])
    for number, each in enumerate(frames):
        writer.write(Packet(1_700_000_000_000_000_000 + number * step, 0, each, len(each)))
    path.write_bytes(stream.getvalue())
    return path


def write_keys(path: Path, *sas: Sa) -> Path:
    path.write_text("".join(f"{line_of(sa)}\n" for sa in sas))
    os.chmod(path, 0o600)
    return path
