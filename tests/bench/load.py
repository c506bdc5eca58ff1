"""The texts of the benchmarks: REGISTERs of many phones, and the 401 of a core to each."""

from dataclasses import dataclass

REALM = "ims.mnc001.mcc001.3gppnetwork.org"


@dataclass(frozen=True, slots=True)
class Call:
    """One phone's first REGISTER, from an address and ports of its own."""

    number: int

    @property
    def address(self) -> str:
        return f"127.1.{self.number // 250 % 250}.{self.number % 250 + 1}"

    def register(self, port: int) -> bytes:
        spi, uc = 10_000 + 2 * self.number, 20_000
        entries = ", ".join(
            f"ipsec-3gpp; alg={alg}; ealg={ealg}; prot=esp; mod=trans; "
            f"spi-c={spi}; spi-s={spi + 1}; port-c={uc}; port-s={uc + 1}"
            for alg in ("hmac-md5-96", "hmac-sha-1-96")
            for ealg in ("des-ede3-cbc", "aes-cbc", "null")
        )
        user = f"0010100{self.number:08}@{REALM}"
        return (
            f"REGISTER sip:{REALM} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {self.address}:{port};branch=z9hG4bKbench{self.number};rport\r\n"
            f"Max-Forwards: 70\r\nFrom: <sip:{user}>;tag=f{self.number}\r\nTo: <sip:{user}>\r\n"
            f"Call-ID: bench{self.number}@{self.address}\r\nCSeq: 1 REGISTER\r\n"
            f'Contact: <sip:{self.address}:{port}>;+sip.instance="<urn:gsma:imei:35622410-483840-0>";+g.3gpp.smsip\r\n'
            f"Expires: 600000\r\nSupported: path\r\nRequire: sec-agree\r\nProxy-Require: sec-agree\r\n"
            f"Security-Client: {entries}\r\n"
            f'Authorization: Digest username="{user}",realm="{REALM}",uri="sip:{REALM}",nonce="",response=""\r\n'
            f"P-Access-Network-Info: 3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=0010100010000001\r\n"
            f"Content-Length: 0\r\n\r\n"
        ).encode()


def challenge(request: bytes) -> bytes:
    """A core's 401 to a REGISTER as it arrived there; fixed keys, as nobody looks at them."""
    kept = []
    for line in request.split(b"\r\n"):
        name = line[:5].lower()
        if name.startswith((b"via:", b"from:", b"to:", b"call-", b"cseq:", b"path:")):
            kept.append(line + b";tag=core" if name.startswith(b"to:") else line)
    return b"\r\n".join(
        [
            b"SIP/2.0 401 Unauthorized",
            *kept,
            b'WWW-Authenticate: Digest realm="' + REALM.encode() + b'",nonce="'
            b'I1U8vpY3qJ0hiuZNrke/NVXzKLQ1d7m5Sp/6w1Tfr7M=",algorithm=AKAv1-MD5,'
            b'ik="f769bcd751044604127672711c6d3441",ck="b40ba9a3c58b2a05bbf0d987b21bf8cb"',
            b"Content-Length: 0",
            b"\r\n",
        ]
    )
