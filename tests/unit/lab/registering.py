"""A REGISTER as a P-CSCF sends it to the core, and the answers to a challenge."""

from ipaddress import IPv4Address
from typing import Any

from pcscf.aka import digest_response
from pcscf.lab.registrar import RegistrarSettings
from pcscf.sip.fields import parse_auth
from pcscf.sip.message import Request, Response
from pcscf.sip.parse import parse
from tests.unit.lab.vectors import IMPI, REALM

URI = f"sip:{REALM}"


def settings(**changes: Any) -> RegistrarSettings:
    defaults: dict[str, Any] = {"realm": REALM, "address": IPv4Address("127.0.0.1"), "port": 5060}
    return RegistrarSettings(**{**defaults, **changes})


def register_text(
    *,
    flag: str | None = "no",
    authorization: str = 'nonce="",response=""',
    impi: str = IMPI,
    to: str = f"sip:{IMPI}",
    call_id: str = "reg1@10.45.0.2",
    cseq: int = 1,
    contact: str = '<sip:10.45.0.2:31801>;+sip.instance="<urn:gsma:imei:35000000-000000-0>"',
    expires: str = "600000",
    via: str = "SIP/2.0/UDP 10.46.0.1:5060",
    without: tuple[str, ...] = (),
    extra: tuple[str, ...] = (),
) -> bytes:
    integrity = f',integrity-protected="{flag}"' if flag is not None else ""
    lines = [
        f"Via: {via};branch=z9hG4bK{cseq}x{call_id.partition('@')[0]}",
        "Via: SIP/2.0/UDP 10.45.0.2:5060;branch=z9hG4bKa1",
        "Max-Forwards: 69",
        f"From: <{to}>;tag=f1",
        f"To: <{to}>",
        f"Call-ID: {call_id}",
        f"CSeq: {cseq} REGISTER",
        f"Contact: {contact}",
        f"Expires: {expires}",
        "Supported: path",
        "Path: <sip:term-8f3a@10.46.0.1:5060;lr;ob>",
        "Require: path",
        'P-Visited-Network-ID: "visited.example"',
        'P-Charging-Vector: icid-value="p1-1a2b3c";orig-ioi="visited.example"',
        f'Authorization: Digest username="{impi}",realm="{REALM}",uri="{URI}",{authorization}{integrity}',
    ]
    kept = [line for line in lines if line.partition(":")[0] not in without]
    return "\r\n".join([f"REGISTER {URI} SIP/2.0", *kept, *extra, "Content-Length: 0", "", ""]).encode()


def register(**parts: Any) -> Request:
    message = parse(register_text(**parts))
    assert isinstance(message, Request)
    return message


def nonce_of(response: Response) -> str:
    assert response.status == 401
    (value,) = response.lines("www-authenticate")
    return parse_auth(value).param("nonce") or ""


def answer(nonce: str, password: bytes, *, qop: str = "", auts: str = "", nc: str = "00000001") -> str:
    """The rest of an Authorization value: nonce, response and what belongs to it."""
    response = digest_response(
        username=IMPI,
        realm=REALM,
        password=password,
        method="REGISTER",
        uri=URI,
        nonce=nonce,
        qop=qop,
        nc=nc,
        cnonce="0a4f113b",
    )
    quality = f',qop={qop},nc={nc},cnonce="0a4f113b"' if qop else ""
    synchronise = f',auts="{auts}"' if auts else ""
    return f'nonce="{nonce}",algorithm=AKAv1-MD5,response="{response}"{quality}{synchronise}'
