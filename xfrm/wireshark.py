"""Keys as Wireshark takes them: lines of its table `esp_sa`, and a ready profile folder.

Columns, all quoted: protocol, source, destination, SPI, encryption, its key, authentication, its key. Wireshark 4.0
to 4.6 takes these eight. It has no AES-GMAC (RFC 4543): such an SA is a line behind `# `, which Wireshark skips and
the Lua dissector of the profile reads. The first line that fits a packet wins there, so the newest comes first.
"""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

from xfrm.algorithms import ENCRYPTION, INTEGRITY, VALID_PAIRS, Encryption, Integrity, Pair
from xfrm.model import IPAddress, Key, Sa

ENCRYPTION_NAMES = {
    Encryption.NULL: "NULL",
    Encryption.DES_EDE3_CBC: "TripleDES-CBC [RFC2451]",
    Encryption.AES_CBC: "AES-CBC [RFC3602]",
    Encryption.AES_GCM: "AES-GCM with 16 octet ICV [RFC4106]",
}
INTEGRITY_NAMES = {
    Integrity.NULL: "NULL",
    Integrity.HMAC_MD5_96: "HMAC-MD5-96 [RFC2403]",
    Integrity.HMAC_SHA_1_96: "HMAC-SHA-1-96 [RFC2404]",
    Integrity.AES_GMAC: "AES-GMAC [RFC4543]",
}
UNCHECKED = {f"ANY {bits} bit authentication [no checking]": bits // 8 for bits in (64, 96, 128, 192, 256)}
"""What says only how long the integrity check value is."""
OLD_GCM = "AES-GCM [RFC4106]"
LUA = "esp_gmac.lua"
PREFERENCES = """\
# Made by pcscf: ESP is opened with the keys in esp_sa, its integrity is checked.
# SIP is known by its looks before ports are: those of a UE may be another protocol's by name.
udp.try_heuristic_first: TRUE
tcp.try_heuristic_first: TRUE
esp.enable_encryption_decode: TRUE
esp.enable_authentication_check: TRUE
esp.enable_null_encryption_decode_heuristic: TRUE
esp_gmac.sa_file: {sa_file}
"""
READING_WINDOW = 1024
"""Packets. A capture may hold them in another order than the receiver got them in."""
_COLUMNS = 8
_ADDRESSES: dict[str, type[IPv4Address] | type[IPv6Address]] = {"IPv4": IPv4Address, "IPv6": IPv6Address}
_IN_ENCRYPTION = {name: token for token, name in ENCRYPTION_NAMES.items()} | {OLD_GCM: Encryption.AES_GCM}
_IN_INTEGRITY = {name: token for token, name in INTEGRITY_NAMES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class SaLine:
    """One line of an `esp_sa` file: what it opens, and how. None: any address, any SPI.

    `icv` is the octets of the integrity check value on the wire; not `checked`: its algorithm is not known.
    """

    version: int
    source: IPAddress | None
    destination: IPAddress | None
    spi: int | None
    integrity: Integrity
    encryption: Encryption
    integrity_key: Key
    encryption_key: Key
    icv: int
    checked: bool = True
    replay_window: int = READING_WINDOW

    def __str__(self) -> str:
        spi = "*" if self.spi is None else self.spi
        source, destination = self.source or "*", self.destination or "*"
        return f"SA {spi} from {source} to {destination} ({self.integrity}/{self.encryption})"


class LineError(ValueError):
    """A line that cannot be used; `str` says why and holds no key."""


def line_of(sa: Sa) -> str:
    """The line of an SA, without its end."""
    encryption_key, integrity_key = (f"0x{key.hex()}" if key else "" for key in (sa.encryption_key, sa.integrity_key))
    columns = (
        f"IPv{sa.selector.source.version}",
        str(sa.selector.source),
        str(sa.selector.destination),
        f"0x{sa.spi:08x}",
        ENCRYPTION_NAMES[sa.encryption],
        encryption_key,
        INTEGRITY_NAMES[sa.integrity],
        integrity_key,
    )
    line = ",".join(f'"{column}"' for column in columns)
    return f"# {line}" if sa.integrity is Integrity.AES_GMAC else line


def read(text: str) -> tuple[list[SaLine], list[str]]:
    """The lines of an `esp_sa` file, whoever wrote it, and a complaint for each that cannot be used."""
    found: list[SaLine] = []
    complaints: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        gmac = INTEGRITY_NAMES[Integrity.AES_GMAC] in line
        body = line.strip()
        if body.startswith("#"):
            if not gmac:
                continue
            body = body.lstrip("# ")
        if not body:
            continue
        try:
            found.append(_read_line(body))
        except LineError as error:
            complaints.append(f"line {number}: {error}")
    return found, complaints


def _read_line(line: str) -> SaLine:
    try:
        columns = next(csv.reader([line], strict=True, skipinitialspace=True))
    except (csv.Error, StopIteration) as error:
        raise LineError("the columns are not quoted as Wireshark does") from error
    if len(columns) < _COLUMNS:
        raise LineError(f"{len(columns)} columns; an SA has {_COLUMNS}")
    protocol, source, destination, spi, encryption, encryption_key, integrity, integrity_key = columns[:_COLUMNS]
    if protocol not in _ADDRESSES:
        raise LineError(f"protocol {protocol[:20]!r} is neither IPv4 nor IPv6")
    if encryption not in _IN_ENCRYPTION:
        raise LineError(f"encryption {encryption[:60]!r} is none of Gm")
    token = _IN_ENCRYPTION[encryption]
    if integrity not in _IN_INTEGRITY and integrity not in UNCHECKED:
        raise LineError(f"authentication {integrity[:60]!r} is none of Gm")
    method = _IN_INTEGRITY.get(integrity, Integrity.NULL)
    aead = ENCRYPTION[token].aead
    if aead and method is not Integrity.NULL:
        raise LineError(f"{encryption} brings its own authentication; say NULL there")
    if method is Integrity.AES_GMAC and token is not Encryption.NULL:
        raise LineError(f"{integrity} goes with NULL encryption")
    checked = integrity not in UNCHECKED
    if aead and not checked:
        raise LineError(f"{encryption} brings its own authentication; say NULL there")
    if checked and Pair(method, token) not in VALID_PAIRS:
        raise LineError(f"{encryption} without authentication is none of Gm")
    algorithm = INTEGRITY[method]
    return SaLine(
        version=int(protocol[-1]),
        source=_address(protocol, source),
        destination=_address(protocol, destination),
        spi=_spi(spi),
        integrity=method,
        encryption=token,
        integrity_key=_key(integrity, integrity_key, algorithm.key if algorithm and checked else 0, method),
        encryption_key=_key(encryption, encryption_key, ENCRYPTION[token].key, None),
        icv=UNCHECKED.get(integrity) or ENCRYPTION[token].icv or (algorithm.icv if algorithm else 0),
        checked=checked,
    )


def _address(protocol: str, text: str) -> IPAddress | None:
    if text == "*":
        return None
    try:
        return _ADDRESSES[protocol](text)
    except ValueError as error:
        raise LineError(f"{text[:50]!r} is no {protocol} address, nor *") from error


def _spi(text: str) -> int | None:
    if text == "*":
        return None
    try:
        spi = int(text, 16 if text[:2].lower() == "0x" else 10)
    except ValueError as error:
        raise LineError(f"SPI {text[:20]!r} is neither a number nor *") from error
    if not 0 <= spi <= 0xFFFF_FFFF:
        raise LineError(f"SPI {text[:20]} has more than 32 bits")
    return spi


def _key(name: str, text: str, octets: int, hmac: Integrity | None) -> Key:
    """Keys of an HMAC may be shorter: it pads them with zeros itself (RFC 2104 2)."""
    if not octets:
        return Key(b"")
    try:
        key = bytes.fromhex(text[2:]) if text[:2].lower() == "0x" else text.encode("latin-1")
    except ValueError as error:
        raise LineError(f"the key of {name} is not hexadecimal") from error
    if hmac in (Integrity.HMAC_SHA_1_96, Integrity.HMAC_MD5_96) and 0 < len(key) < octets:
        key = key.ljust(octets, b"\0")
    if len(key) != octets:
        raise LineError(f"the key of {name} has {len(key)} octets, not {octets}")
    return Key(key)


def merged(new: Iterable[str], old: Iterable[str]) -> list[str]:
    """Lines of both, the new ones first, each once; remarks are left out."""
    return list(dict.fromkeys(line for line in (*new, *old) if line.startswith('"') or line.startswith('# "')))


class Profile(NamedTuple):
    """Where the files of a profile lie, and what to type before the name of a capture to use it."""

    folder: Path
    lua: Path
    command: str


def profile(name: str, environment: Mapping[str, str]) -> Profile:
    """Where the profile `name` belongs: that of the user's Wireshark; or a folder, if `name` has a slash.

    Such a folder is a profile of the configuration it lies in (`.../profiles/NAME`), or a configuration of its own.
    Wireshark loads Lua from a folder of the user and from the `init.lua` of a configuration, from no profile.
    """
    home = Path(environment.get("HOME", "~")).expanduser()
    base = environment.get("XDG_CONFIG_HOME") or home / ".config"
    own = Path(environment.get("WIRESHARK_CONFIG_DIR") or Path(base) / "wireshark")
    folder = Path(name) if "/" in name else own / "profiles" / name
    within = folder.parent.name == "profiles"
    configuration = folder.parent.parent if within else folder
    choice = f"wireshark -C {folder.name}" if within else "wireshark"
    if configuration.resolve() != own.resolve():
        return Profile(folder, configuration / "init.lua", f"WIRESHARK_CONFIG_DIR={configuration} {choice}")
    if "WIRESHARK_CONFIG_DIR" in environment:
        return Profile(folder, configuration / "init.lua", choice)
    return Profile(folder, home / ".local" / "lib" / "wireshark" / "plugins" / LUA, choice)


def write_profile(made: Profile, lines: Sequence[str]) -> None:
    """Write `esp_sa`, `preferences` and the Lua dissector.

    Keys that were there stay, behind the new ones; so does what else `preferences` said.
    Raises OSError; FileExistsError when somebody else's `init.lua` is in the way.
    """
    table, preferences, lua = made.folder / "esp_sa", made.folder / "preferences", files("xfrm").joinpath(LUA)
    text = lua.read_text()
    if made.lua.exists() and made.lua.read_text(errors="replace").splitlines()[:1] != text.splitlines()[:1]:
        raise FileExistsError(f"{made.lua} is somebody else's; load {lua} from it with dofile, or take it away")
    for folder in (made.folder, made.lua.parent):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    present = table.read_text().splitlines() if table.exists() else []
    # Of the lines given, the last was written last.
    _write(table, "".join(f"{line}\n" for line in merged(reversed(lines), present)))
    mine = PREFERENCES.format(sa_file=table.resolve())
    names = {line.partition(":")[0] for line in mine.splitlines()}
    kept = preferences.read_text().splitlines() if preferences.exists() else []
    _write(preferences, mine + "".join(f"{line}\n" for line in kept if line.partition(":")[0] not in names))
    _write(made.lua, text)


def _write(path: Path, text: str) -> None:
    """Write a file that only its owner may read, in place of what was there."""
    new = path.with_name(f".{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    new.replace(path)
