"""The subscribers of the lab: who they are and the secrets of their cards, from a TOML file.

The core and the UE read the same file, as a real HSS and a real card share K. Every refusal names the field.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    field_validator,
    model_validator,
)

from pcscf import PcscfError, tomlfile
from pcscf.lab.milenage import Milenage
from pcscf.sip.parse import ParseError
from pcscf.sip.uri import parse_uri
from xfrm.model import Key


class SubscribersError(PcscfError):
    """The file cannot be used; `str` is for people, one finding a line, and holds no key."""


def _key(value: Any) -> Key:
    """16 octets in hexadecimal. The message does not repeat the value: it may be a real key with a slip in it."""
    try:
        key = Key.fromhex(value)
    except (TypeError, ValueError):
        raise ValueError("not a key in hexadecimal") from None
    if len(key) != 16:
        raise ValueError(f"{len(key)} octets, 16 (32 hexadecimal digits) are needed")
    return key


def _amf(value: Any) -> bytes:
    try:
        amf = bytes.fromhex(value)
    except (TypeError, ValueError):
        raise ValueError("not hexadecimal") from None
    if len(amf) != 2:
        raise ValueError("4 hexadecimal digits are needed")
    return amf


KeyText = Annotated[Key, PlainValidator(_key), PlainSerializer(repr)]
AmfText = Annotated[bytes, PlainValidator(_amf), PlainSerializer(bytes.hex)]


class Subscriber(BaseModel):
    """One subscription: IMPI, the IMPUs in the order of P-Associated-URI (default first), and the card."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    impi: Annotated[str, Field(pattern=r'^[^@\s"<>]+@[^@\s"<>]+$')]
    impus: Annotated[tuple[Annotated[str, Field(pattern=r"^(sips?|tel):[^\s<>]+$")], ...], Field(min_length=1)]
    k: KeyText
    op: KeyText | None = None
    opc: KeyText | None = None
    amf: AmfText = bytes(2)
    sqn: Annotated[int, Field(ge=0, lt=1 << 48)] = 0
    """The last SQN used: the core goes on from it, a new card has accepted nothing above it."""

    @field_validator("impus")
    @classmethod
    def readable(cls, impus: tuple[str, ...]) -> tuple[str, ...]:
        for impu in impus:
            try:
                canonical(impu)
            except ParseError as error:
                raise ValueError(str(error)) from None
        return impus

    @model_validator(mode="after")
    def one_operator_key(self) -> Self:
        if (self.op is None) == (self.opc is None):
            raise ValueError("give either op or opc")
        return self

    @property
    def realm(self) -> str:
        return self.impi.partition("@")[2]

    @property
    def temporary_impu(self) -> str:
        """The identity a UE without ISIM registers: barred, so no P-Associated-URI (TS 23.003 13.4B)."""
        return f"sip:{self.impi}"

    @property
    def milenage(self) -> Milenage:
        if self.opc is not None:
            return Milenage(self.k, self.opc)
        assert self.op is not None  # one_operator_key
        return Milenage.from_op(self.k, self.op)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    subscriber: Annotated[tuple[Subscriber, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def distinct(self) -> Self:
        impis = [each.impi for each in self.subscriber]
        if twice := next((impi for impi in impis if impis.count(impi) > 1), None):
            raise ValueError(f"{twice} is listed twice")
        return self


def canonical(identity: str) -> str:
    """A public identity as it is compared: no parameters, no port, no separators in a number. Raises ParseError."""
    uri = parse_uri(identity)
    user = re.sub(r"[-.()]", "", uri.user) if uri.scheme == "tel" or uri.user.startswith("+") else uri.user
    return f"tel:{user}" if uri.scheme == "tel" else f"sip:{user}@{uri.host}"


def load_subscribers(path: Path) -> dict[str, Subscriber]:
    """Read the file: IMPI -> subscriber, in order. Raises SubscribersError with every finding."""
    text = tomlfile.read(path, SubscribersError)
    try:
        file = _File(**text)
    except ValidationError as error:
        findings = [f"{path}: {_finding(detail)}" for detail in error.errors(include_input=False)]
        raise SubscribersError("\n".join(findings)) from error
    return {each.impi: each for each in file.subscriber}


def _finding(detail: Any) -> str:
    """One error for people. Without the value that was refused: it may be a key."""
    where = ".".join(str(part) for part in detail["loc"])
    return f"{where or 'subscribers'}: {detail['msg'].removeprefix('Value error, ')}"
