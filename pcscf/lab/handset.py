"""What a UE writes and reads (TS 24.229 5.1.1, digest C11 and F): REGISTER as text, challenges, 200s. Sans-IO.

A strict reader: what no P-CSCF should let through to a phone is put into words. When to send what is `ue`.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from pcscf.aka import digest_response
from pcscf.lab.subscribers import Subscriber
from pcscf.sip.fields import Auth, parse_auth, parse_name_addr
from pcscf.sip.message import Header, Request, Response, header
from pcscf.sip.parse import ParseError
from pcscf.sip.uri import parse_uri
from xfrm.model import IPAddress, bracketed

USER_AGENT = "pcscf lab UE"
ACCESS_NETWORK = "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=0010100010000101"
ALGORITHM = "AKAv1-MD5"
NOT_FOR_A_UE = (
    "security-client",
    "security-verify",
    "p-charging-vector",
    "p-charging-function-addresses",
    "p-visited-network-id",
)
"""Headers that no message to a UE may hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this UE says it is."""

    impi: str
    impu: str
    realm: str
    instance: str
    """URN of the device, for +sip.instance."""

    @classmethod
    def of(cls, subscriber: Subscriber, impu: str = "") -> "Identity":
        """The identity of a subscriber without ISIM; the IMEI is made up from the IMPI."""
        serial = "".join(char for char in subscriber.impi.partition("@")[0] if char.isdigit())[-6:].zfill(6)
        return cls(
            impi=subscriber.impi,
            impu=impu or subscriber.temporary_impu,
            realm=subscriber.realm,
            instance=f"urn:gsma:imei:35000000-{serial}-0",
        )

    @property
    def uri(self) -> str:
        """The home network's, the Request-URI of a REGISTER."""
        return f"sip:{self.realm}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """An AKA challenge as read from a 401."""

    realm: str
    nonce: str
    qop: str
    """The one we choose of those offered, "" for none."""
    opaque: str
    rand: bytes
    autn: bytes


class BadChallenge(ValueError):
    """The 401 holds no challenge that a UE can answer."""


def read_challenge(response: Response, identity: Identity) -> tuple[Challenge, list[str]]:
    """Read the AKA challenge of a 401, and what should not be in it. Raises BadChallenge."""
    found: list[Auth] = []
    for value in response.lines("www-authenticate"):
        try:
            auth = parse_auth(value)
        except ParseError as error:
            raise BadChallenge(f"WWW-Authenticate: {error}") from error
        if auth.scheme == "digest" and (auth.param("algorithm") or "").lower() == ALGORITHM.lower():
            found.append(auth)
    if len(found) != 1:
        raise BadChallenge(f"the 401 holds {len(found)} {ALGORITHM} challenges, expected one")
    (auth,) = found
    nonce, realm = auth.param("nonce") or "", auth.param("realm") or ""
    try:
        octets = base64.b64decode(nonce, validate=True)
    except (binascii.Error, ValueError):
        raise BadChallenge("the nonce is not base64") from None
    if len(octets) < 32:
        raise BadChallenge(f"the nonce has {len(octets)} octets, RAND and AUTN need 32")
    complaints = [f"the challenge still holds {name}" for name in ("ck", "ik") if auth.param(name) is not None]
    if realm != identity.realm:
        complaints.append(f"the realm {realm} is not our home network")
    qops = [each.strip().lower() for each in (auth.param("qop") or "").split(",")]
    qop = next((each for each in ("auth", "auth-int") if each in qops), "")
    challenge = Challenge(
        realm=realm, nonce=nonce, qop=qop, opaque=auth.param("opaque") or "", rand=octets[:16], autn=octets[16:32]
    )
    return challenge, complaints + _leaks(response)


def credentials(
    identity: Identity, challenge: Challenge | None, *, res: bytes | None = None, auts: bytes = b"", cnonce: str = ""
) -> str:
    """An Authorization value (RFC 3310): the first one without `challenge`, a MAC failure without `res`.

    `auts` reports a synchronisation failure; its response is made with an empty password.
    """
    start = f'Digest username="{identity.impi}",realm="{challenge.realm if challenge else identity.realm}"'
    start += f',uri="{identity.uri}"'
    if challenge is None:
        return f'{start},nonce="",response=""'
    start += f',nonce="{challenge.nonce}",algorithm={ALGORITHM}'
    if challenge.opaque:
        start += f',opaque="{challenge.opaque}"'
    if res is None and not auts:
        return f'{start},response=""'
    qop = challenge.qop
    response = digest_response(
        username=identity.impi,
        realm=challenge.realm,
        password=res or b"",
        method="REGISTER",
        uri=identity.uri,
        nonce=challenge.nonce,
        qop=qop,
        nc="00000001" if qop else "",
        cnonce=cnonce if qop else "",
    )
    start += f',response="{response}"'
    if qop:
        start += f',qop={qop},nc=00000001,cnonce="{cnonce}"'
    if auts:
        start += f',auts="{base64.b64encode(auts).decode()}"'
    return start


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a REGISTER comes from: our address and the port that answers and calls shall reach.

    `protected`: it goes inside ESP, so the port is port_us and answers need no rport (digest A2).
    """

    address: IPAddress
    port: int
    tcp: bool
    protected: bool

    @property
    def host(self) -> str:
        return bracketed(self.address)

    @property
    def contact(self) -> str:
        return f"sip:{self.host}:{self.port}{';transport=tcp' if self.tcp else ''}"


def register_request(
    identity: Identity,
    origin: Origin,
    *,
    call_id: str,
    tag: str,
    cseq: int,
    branch: str,
    expires: int,
    authorization: str,
    security_client: Sequence[str],
    security_verify: str,
) -> Request:
    """A REGISTER (digest F1, F5, F12). Without `security_client` it asks for no security agreement."""
    sent_by = f"SIP/2.0/{'TCP' if origin.tcp else 'UDP'} {origin.host}:{origin.port}"
    headers = [
        header("Via", f"{sent_by};branch={branch}{'' if origin.protected else ';rport'}"),
        header("Max-Forwards", "70"),
        header("From", f"<{identity.impu}>;tag={tag}"),
        header("To", f"<{identity.impu}>"),
        header("Call-ID", call_id),
        header("CSeq", f"{cseq} REGISTER"),
        header("Contact", f'<{origin.contact}>;+sip.instance="<{identity.instance}>";+g.3gpp.smsip'),
        header("Expires", str(expires)),
        header("Supported", "path"),
        header("User-Agent", USER_AGENT),
    ]
    if origin.protected:
        headers.append(header("P-Access-Network-Info", ACCESS_NETWORK))
    if security_client:
        headers += [header("Require", "sec-agree"), header("Proxy-Require", "sec-agree")]
        headers += [header("Security-Client", value) for value in security_client]
    if security_verify:
        headers.append(header("Security-Verify", security_verify))
    headers += [header("Authorization", authorization), header("Content-Length", "0")]
    return Request(method="REGISTER", uri=identity.uri, headers=tuple(headers))


def clear_request(identity: Identity, origin: Origin, *, method: str, call_id: str, tag: str, branch: str) -> Request:
    """A MESSAGE or INVITE to ourselves: a request other than REGISTER, to be refused in clear (digest A6)."""
    headers: list[Header] = [
        header("Via", f"SIP/2.0/{'TCP' if origin.tcp else 'UDP'} {origin.host}:{origin.port};branch={branch};rport"),
        header("Max-Forwards", "70"),
        header("From", f"<{identity.impu}>;tag={tag}"),
        header("To", f"<{identity.impu}>"),
        header("Call-ID", call_id),
        header("CSeq", f"1 {method}"),
        header("Contact", f"<{origin.contact}>"),
        header("Content-Type", "text/plain"),
        header("Content-Length", "5"),
    ]
    if method == "MESSAGE":  # RFC 3428 forbids a Contact
        headers = [each for each in headers if each.name != "contact"]
    return Request(method=method, uri=identity.impu, headers=tuple(headers), body=b"hello")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """What a 200 to REGISTER told us. `expires` in seconds, 0 after a deregistration."""

    expires: int
    associated_uris: tuple[str, ...]
    service_route: tuple[str, ...]


def read_registered(response: Response, origin: Origin, asked: int) -> tuple[Registered, list[str]]:
    """Read a 200 to REGISTER, and what should not be in it or is missing (digest C4, F6)."""
    complaints = _leaks(response)
    expires = response.first("expires") or ""
    found = False
    for value in response.values("contact"):
        try:
            contact = parse_name_addr(value)
            uri = parse_uri(contact.uri)
            ours = (ip_address(uri.host), uri.port) == (origin.address, origin.port)
        except ValueError:
            continue  # somebody else's contact; ParseError is a ValueError
        if ours:
            found = True
            expires = contact.param("expires") or expires
    if asked and not found:
        complaints.append("the 200 does not list our contact")
    if asked and not response.lines("p-associated-uri"):
        complaints.append("the 200 has no P-Associated-URI")
    granted = int(expires) if expires.isascii() and expires.isdigit() else asked
    registered = Registered(
        expires=granted if asked else 0,
        associated_uris=tuple(parse_name_addr(value).uri for value in response.values("p-associated-uri")),
        service_route=tuple(response.values("service-route")),
    )
    return registered, complaints


def _leaks(response: Response) -> list[str]:
    """What a P-CSCF must not let through to a UE, in any response."""
    names = [*NOT_FOR_A_UE, *(() if response.status == 401 else ("security-server",))]
    complaints = [f"the {response.status} holds {name.title()}" for name in names if response.lines(name)]
    if 200 <= response.status < 300 and "sec-agree" in [tag.lower() for tag in response.values("require")]:
        complaints.append(f"the {response.status} has Require: sec-agree")
    return complaints
