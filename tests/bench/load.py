"""The texts of the benchmarks: what many phones and a core say, made of text as they make it."""

from dataclasses import dataclass

REALM = "ims.mnc001.mcc001.3gppnetwork.org"
CORE_ADDRESS = "127.0.0.3:5080"
PORT_UC, PORT_US = 20_000, 20_001
"""Protected ports of every phone; each has an address of its own."""
NONCE = "I1U8vpY3qJ0hiuZNrke/NVXzKLQ1d7m5Sp/6w1Tfr7M="
SERVICE_ROUTE = f"<sip:orig@{CORE_ADDRESS};lr>"
COPIED = (b"via:", b"from:", b"to:", b"call-", b"cseq:")
SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.9\r\ns=-\r\nc=IN IP4 127.0.0.9\r\nb=AS:41\r\nt=0 0\r\n"
    "m=audio 50010 RTP/AVP 104 110 102 108 105 100\r\nb=AS:41\r\nb=RS:512\r\nb=RR:1537\r\n"
    "a=rtpmap:104 AMR-WB/16000/1\r\na=fmtp:104 mode-change-capability=2;max-red=0\r\n"
    "a=rtpmap:110 AMR-WB/16000/1\r\na=fmtp:110 octet-align=1;mode-change-capability=2;max-red=0\r\n"
    "a=rtpmap:102 AMR/8000/1\r\na=fmtp:102 mode-change-capability=2;max-red=0\r\n"
    "a=rtpmap:108 AMR/8000/1\r\na=fmtp:108 octet-align=1;mode-change-capability=2;max-red=0\r\n"
    "a=rtpmap:105 telephone-event/16000\r\na=fmtp:105 0-15\r\na=rtpmap:100 telephone-event/8000\r\n"
    "a=fmtp:100 0-15\r\na=curr:qos local none\r\na=curr:qos remote none\r\na=des:qos mandatory local sendrecv\r\n"
    "a=des:qos optional remote sendrecv\r\na=sendrecv\r\na=maxptime:240\r\na=ptime:20\r\n"
)
TEXT = "A short message, as people write them to each other all day long, with a greeting at its end: see you soon!"


@dataclass(slots=True)
class Phone:
    """One phone: an address of its own, and what it has learned from its challenge."""

    number: int
    security_server: str = ""
    pcscf: str = ""
    """Address and port_ps of the proxy."""
    sent: int = 0

    @property
    def address(self) -> str:
        return f"127.1.{self.number // 250 % 250}.{self.number % 250 + 1}"

    @property
    def user(self) -> str:
        return f"0010100{self.number:08}@{REALM}"

    def register(self, port: int) -> bytes:
        """The first REGISTER, in clear from this port."""
        return self._register(port, 1, "", 'nonce="",response=""')

    def answer(self) -> bytes:
        """The REGISTER inside the set that answers the challenge; nobody looks at the response."""
        credentials = f'nonce="{NONCE}",algorithm=AKAv1-MD5,response="486f3ee163ac4a424493c7ee626d3794"'
        return self._register(PORT_US, 2, f"Security-Verify: {self.security_server}\r\n", credentials)

    def _register(self, port: int, number: int, verify: str, credentials: str) -> bytes:
        spi = 10_000 + 2 * self.number
        entries = ", ".join(
            f"ipsec-3gpp; alg={alg}; ealg={ealg}; prot=esp; mod=trans; "
            f"spi-c={spi}; spi-s={spi + 1}; port-c={PORT_UC}; port-s={PORT_US}"
            for alg in ("hmac-md5-96", "hmac-sha-1-96")
            for ealg in ("des-ede3-cbc", "aes-cbc", "null")
        )
        return (
            f"REGISTER sip:{REALM} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {self.address}:{port};branch=z9hG4bKbench{self.number}-{number};rport\r\n"
            f"Max-Forwards: 70\r\nFrom: <sip:{self.user}>;tag=f{self.number}\r\nTo: <sip:{self.user}>\r\n"
            f"Call-ID: bench{self.number}@{self.address}\r\nCSeq: {number} REGISTER\r\n"
            f'Contact: <sip:{self.address}:{port}>;+sip.instance="<urn:gsma:imei:35622410-483840-0>";+g.3gpp.smsip\r\n'
            f"Expires: 600000\r\nSupported: path\r\nRequire: sec-agree\r\nProxy-Require: sec-agree\r\n"
            f"Security-Client: {entries}\r\n{verify}"
            f'Authorization: Digest username="{self.user}",realm="{REALM}",uri="sip:{REALM}",{credentials}\r\n'
            f"P-Access-Network-Info: 3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=0010100010000001\r\n"
            f"Content-Length: 0\r\n\r\n"
        ).encode()

    def challenged(self, response: bytes, pcscf: str) -> None:
        """Learn from the 401 what the proxy at this address has chosen."""
        self.security_server = values(response, b"security-server:")[0]
        port = self.security_server.partition("port-s=")[2].partition(";")[0].partition(",")[0]
        self.pcscf = f"{pcscf}:{port}"

    def request(
        self,
        method: str,
        call_id: str,
        number: int,
        *,
        uri: str = f"sip:+15551230002@{REALM};user=phone",
        to_tag: str = "",
        routes: str = SERVICE_ROUTE,
        extra: str = "",
        body: str = "",
    ) -> bytes:
        """A request inside the set, with the headers that phones send."""
        self.sent += 1
        tag = f";tag={to_tag}" if to_tag else ""
        return (
            f"{method} {uri} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {self.address}:{PORT_US};branch=z9hG4bK{self.number}x{self.sent};rport\r\n"
            f"Max-Forwards: 70\r\nRoute: <sip:{self.pcscf};lr>, {routes}\r\n"
            f"From: <sip:{self.user}>;tag=u{call_id}\r\nTo: <sip:+15551230002@{REALM};user=phone>{tag}\r\n"
            f"Call-ID: {call_id}\r\nCSeq: {number} {method}\r\n"
            f"P-Access-Network-Info: 3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=0010100010000001\r\n"
            f"Require: sec-agree\r\nProxy-Require: sec-agree\r\nSecurity-Verify: {self.security_server}\r\n"
            f"{extra}Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    def message(self, call_id: str) -> bytes:
        preferred = f"P-Preferred-Identity: <sip:{self.user}>\r\n"
        return self.request("MESSAGE", call_id, 1, extra=f"{preferred}Content-Type: text/plain\r\n", body=TEXT)

    def invite(self, call_id: str) -> bytes:
        extra = (
            f"P-Preferred-Identity: <sip:{self.user}>\r\n"
            f"P-Preferred-Service: urn:urn-7:3gpp-service.ims.icsi.mmtel\r\n"
            f'Contact: <sip:{self.address}:{PORT_US}>;+g.3gpp.icsi-ref="urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel"\r\n'
            f'Accept-Contact: *;+g.3gpp.icsi-ref="urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel"\r\n'
            f"Allow: INVITE, ACK, OPTIONS, CANCEL, BYE, UPDATE, INFO, REFER, NOTIFY, MESSAGE, PRACK\r\n"
            f"Supported: 100rel, timer, precondition\r\nSession-Expires: 1800\r\nContent-Type: application/sdp\r\n"
        )
        return self.request("INVITE", call_id, 1, extra=extra, body=SDP)


def values(message: bytes, name: bytes) -> list[str]:
    """The values of the header lines that begin with `name` (lower case, with its colon)."""
    return [
        line.partition(b":")[2].strip().decode() for line in message.split(b"\r\n") if line.lower().startswith(name)
    ]


def answer(
    request: bytes, status: str, extra: str = "", *, tag: str = "core", copied: tuple[bytes, ...] = (), body: str = ""
) -> bytes:
    """A core's answer to a request as it arrived there; `copied` are further headers that it repeats."""
    kept = []
    for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        name = line[:13].lower()
        if name.startswith((*COPIED, *copied)):
            kept.append(line + f";tag={tag}".encode() if name.startswith(b"to:") and b";tag=" not in line else line)
    head = f"{extra}Content-Length: {len(body)}\r\n\r\n{body}".encode()
    return b"\r\n".join([f"SIP/2.0 {status}".encode(), *kept, head])


def challenge(request: bytes) -> bytes:
    """A core's 401 to a REGISTER; fixed keys, as nobody looks at them."""
    keys = 'ik="f769bcd751044604127672711c6d3441",ck="b40ba9a3c58b2a05bbf0d987b21bf8cb"'
    value = f'Digest realm="{REALM}",nonce="{NONCE}",algorithm=AKAv1-MD5,{keys}'
    return answer(request, "401 Unauthorized", f"WWW-Authenticate: {value}\r\n", copied=(b"path:",))


def accept(request: bytes) -> bytes:
    """A core's 200 to the REGISTER that answers the challenge."""
    contact, user = values(request, b"contact:")[0], values(request, b"to:")[0]
    extra = (
        f"Contact: {contact};expires=600000\r\nService-Route: {SERVICE_ROUTE}\r\n"
        f"P-Associated-URI: {user}, <sip:+15551230001@{REALM}>, <tel:+15551230001>\r\n"
    )
    return answer(request, "200 OK", extra, copied=(b"path:",))
