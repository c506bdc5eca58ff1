"""TOML files that people write: read, or refused with the file's name and what is wrong."""

import tomllib
from pathlib import Path
from typing import Any

from pcscf import PcscfError


def read(path: Path, refusal: type[PcscfError]) -> dict[str, Any]:
    """The tables of a file. Raises `refusal`."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise refusal(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise refusal(f"{path}: not TOML: {error}") from error
