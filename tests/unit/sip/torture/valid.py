"""RFC 4475 3.1.1: the valid messages, by the names the RFC gives them.

Long repetitions are products, octets outside ASCII are escapes.
"""

from tests.unit.sip.torture.form import lines, message, sdp

_UNUSUAL_USER = b"1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"
_LONG_CALLER = b"amazinglylongcallername" * 5
_LONG_VALUE = b"unknown-" + b"long" * 20

_LONGREQ_VIAS = b"""\
Via: SIP/2.0/TCP sip33.example.com
v: SIP/2.0/TCP sip32.example.com
V: SIP/2.0/TCP sip31.example.com
Via: SIP/2.0/TCP sip30.example.com
ViA: SIP/2.0/TCP sip29.example.com
VIa: SIP/2.0/TCP sip28.example.com
VIA: SIP/2.0/TCP sip27.example.com
via: SIP/2.0/TCP sip26.example.com
viA: SIP/2.0/TCP sip25.example.com
vIa: SIP/2.0/TCP sip24.example.com
vIA: SIP/2.0/TCP sip23.example.com
V :  SIP/2.0/TCP sip22.example.com
v :  SIP/2.0/TCP sip21.example.com
V  : SIP/2.0/TCP sip20.example.com
v  : SIP/2.0/TCP sip19.example.com
Via : SIP/2.0/TCP sip18.example.com
Via  : SIP/2.0/TCP sip17.example.com
""" + b"".join(b"Via: SIP/2.0/TCP sip%d.example.com\n" % number for number in range(16, 0, -1))

_MPART01_SIGNATURE = bytes.fromhex(
    "3082015206092A864886F70D010702A08201433082013F02010131093007"
    "06052B0E03021A300B06092A864886F70D010701318201203082011C0201"
    "01307C3070310B300906035504061302555331133011060355040813"
    "0A43616C69666F726E69613111300F0603550407130853616E204A6F7365"
    "310E300C060355040A130573697069743129302706035504"
    "0B13205369706974205465737420436572746966696361746520"
    "417574686F7269747902080195007102330113300706052B0E03021A300D"
    "06092A864886F70D01010105000481808EF466F948F0522DD2E5978E9D95"
    "AAE9F2FE15A06659716292E8DA2AA8D8350A68CEFFAE3CBD2BFF1675DDD5"
    "648E593DD64728F26220F7E941749E330D9A15EDABDB93D10C42102E7B72"
    "89D29CC0C9AE2EFBC7C0CFF9172F3B027E4FC027E1546DE4B6AA3ABB3E66"
    "CCCB5DD6C64B8383149CB8E6FF182D944FE57B65BC99D005"
)

VALID = {
    "wsinv": message(
        rb"""
INVITE sip:vivekg@chair-dnrc.example.com;unknownparam SIP/2.0
TO :
 sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n
from   : "J Rosenberg \\\""       <sip:jdrosen@example.com>
  ;
  tag = 98asjd8
MaX-fOrWaRdS: 0068
Call-ID: wsinv.ndaksdj@192.0.2.1
Content-Length   : 150
cseq: 0009
  INVITE
Via  : SIP  /   2.0
 /UDP
    192.0.2.2;branch=390skdjuw
s :
NewFangledHeader:   newfangled value
 continued newfangled value
UnknownHeaderWithUnusualValue: ;;,,;;,;
Content-Type: application/sdp
Route:
 <sip:services.example.com;lr;unknownwith=value;unknown-no-value>
v:  SIP  / 2.0  / TCP     spindle.example.com   ;
  branch  =   z9hG4bK9ikj8  ,
 SIP  /    2.0   / UDP  192.168.255.111   ; branch=
 z9hG4bK30239
m:"Quoted string \"\"" <sip:jdrosen@example.com> ; newparam =
      newvalue ;
  secondparam ; q = 0.33
""",
        lines(
            b"v=0",
            b"o=mhandley 29739 7272939 IN IP4 192.0.2.3",
            b"s=-",
            b"c=IN IP4 192.0.2.4",
            b"t=0 0",
            b"m=audio 49217 RTP/AVP 0 12",
            b"m=video 3227 RTP/AVP 31",
            b"a=rtpmap:31 LPC",
        ),
    ),
    "intmeth": message(
        b"!interesting-Method0123456789_*+`.%indeed'~ sip:"
        + _UNUSUAL_USER
        + b":&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com SIP/2.0\n"
        b"Via: SIP/2.0/TCP host1.example.com;branch=z9hG4bK-.!%66*_+`'~\n"
        b'To: "BEL:\\\x07 NUL:\\\x00 DEL:\\\x7f" <sip:' + _UNUSUAL_USER + b"@example.com>\n"
        b"From: token1~` token2'+_ token3*%!.- <sip:mundane@example.com>;fromParam''~+*_!.-%="
        b'"\xd1\x80\xd0\xb0\xd0\xb1\xd0\xbe\xd1\x82\xd0\xb0\xd1\x8e\xd1\x89\xd0\xb8\xd0\xb9";tag=_token~1\'+`*%!-.\n'
        b"Call-ID: intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{\n"
        b"CSeq: 139122385 !interesting-Method0123456789_*+`.%indeed'~\n"
        b"Max-Forwards: 255\n"
        b"extensionHeader-!.%*+_`'~:\xef\xbb\xbf\xe5\xa4\xa7\xe5\x81\x9c\xe9\x9b\xbb\n"
        b"Content-Length: 0"
    ),
    "esc01": message(
        b"""
INVITE sip:sips%3Auser%40example.com@example.net SIP/2.0
To: sip:%75se%72@example.com
From: <sip:I%20have%20spaces@example.net>;tag=938
Max-Forwards: 87
i: esc01.239409asdfakjkn23onasd0-3234
CSeq: 234234 INVITE
Via: SIP/2.0/UDP host5.example.net;branch=z9hG4bKkdjuw
C: application/sdp
Contact:
  <sip:cal%6Cer@host5.example.net;%6C%72;n%61me=v%61lue%25%34%31>
Content-Length: 150
""",
        sdp(b"192.0.2.1"),
    ),
    "escnull": message(b"""
REGISTER sip:example.com SIP/2.0
To: sip:null-%00-null@example.com
From: sip:null-%00-null@example.com;tag=839923423
Max-Forwards: 70
Call-ID: escnull.39203ndfvkjdasfkq3w4otrq0adsfdfnavd
CSeq: 14398234 REGISTER
Via: SIP/2.0/UDP host5.example.com;branch=z9hG4bKkdjuw
Contact: <sip:%00@host5.example.com>
Contact: <sip:%00%00@host5.example.com>
L:0
"""),
    "esc02": message(b"""
RE%47IST%45R sip:registrar.example.com SIP/2.0
To: "%Z%45" <sip:resource@example.com>
From: "%Z%45" <sip:resource@example.com>;tag=f232jadfj23
Call-ID: esc02.asdfnqwo34rq23i34jrjasdcnl23nrlknsdf
Via: SIP/2.0/TCP host.example.com;branch=z9hG4bK209%fzsnel234
CSeq: 29344 RE%47IST%45R
Max-Forwards: 70
Contact: <sip:alias1@host1.example.com>
C%6Fntact: <sip:alias2@host2.example.com>
Contact: <sip:alias3@host3.example.com>
l: 0
"""),
    "lwsdisp": message(b"""
OPTIONS sip:user@example.com SIP/2.0
To: sip:user@example.com
From: caller<sip:caller@example.com>;tag=323
Max-Forwards: 70
Call-ID: lwsdisp.1234abcd@funky.example.com
CSeq: 60 OPTIONS
Via: SIP/2.0/UDP funky.example.com;branch=z9hG4bKkdjuw
l: 0
"""),
    "longreq": message(
        b"INVITE sip:user@example.com SIP/2.0\n"
        b'To: "I have a user name of ' + b"extreme " * 10 + b'proportion" <sip:user@example.com:6000'
        b";unknownparam1=very" + b"long" * 20 + b"value;longparam" + b"name" * 25 + b"=shortvalue"
        b";very" + b"long" * 25 + b"ParameterNameWithNoValue>\n"
        b"F: sip:" + _LONG_CALLER + b"@example.net;tag=12" + b"982" * 50 + b"424"
        b";unknownheaderparam" + b"name" * 20 + b"=unknowheaderparam" + b"value" * 15 + b""
        b";unknownValueless" + b"paramname" * 10 + b"\n"
        b"Call-ID: longreq.one" + b"really" * 20 + b"longcallid\n"
        b"CSeq: 3882340 INVITE\n"
        b"Unknown-" + b"Long" * 20 + b"-Name:" + _LONG_VALUE + b"-value;" + _LONG_VALUE + b"-parameter-name =" + b""
        b"" + _LONG_VALUE + b"-parameter-value\n" + _LONGREQ_VIAS + b""
        b"Via: SIP/2.0/TCP host.example.com;received=192.0.2.5;branch=very" + b"long" * 50 + b"branchvalue\n"
        b"Max-Forwards: 70\n"
        b"Contact: <sip:" + _LONG_CALLER + b"@host5.example.net>\n"
        b"Content-Type: application/sdp\n"
        b"l: 150",
        sdp(b"192.0.2.1"),
    ),
    "dblreq": message(b"""
REGISTER sip:example.com SIP/2.0
To: sip:j.user@example.com
From: sip:j.user@example.com;tag=43251j3j324
Max-Forwards: 8
I: dblreq.0ha0isndaksdj99sdfafnl3lk233412
Contact: sip:j.user@host.example.com
CSeq: 8 REGISTER
Via: SIP/2.0/UDP 192.0.2.125;branch=z9hG4bKkdjuw23492
Content-Length: 0
""")
    + message(
        b"""
INVITE sip:joe@example.com SIP/2.0
t: sip:joe@example.com
From: sip:caller@example.net;tag=141334
Max-Forwards: 8
Call-ID: dblreq.0ha0isnda977644900765@192.0.2.15
CSeq: 8 INVITE
Via: SIP/2.0/UDP 192.0.2.15;branch=z9hG4bKkdjuw380234
Content-Type: application/sdp
Content-Length: 150
""",
        sdp(b"192.0.2.15", video=b"m =video 3227 RTP/AVP 31"),
    ),
    "semiuri": message(b"""
OPTIONS sip:user;par=u%40example.net@example.com SIP/2.0
To: sip:j_user@example.com
From: sip:caller@example.org;tag=33242
Max-Forwards: 3
Call-ID: semiuri.0ha0isndaksdj
CSeq: 8 OPTIONS
Accept: application/sdp, application/pkcs7-mime,
        multipart/mixed, multipart/signed,
        message/sip, message/sipfrag
Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKkdjuw
l: 0
"""),
    "transports": message(b"""
OPTIONS sip:user@example.com SIP/2.0
To: sip:user@example.com
From: <sip:caller@example.com>;tag=323
Max-Forwards: 70
Call-ID:  transports.kijh4akdnaqjkwendsasfdj
Accept: application/sdp
CSeq: 60 OPTIONS
Via: SIP/2.0/UDP t1.example.com;branch=z9hG4bKkdjuw
Via: SIP/2.0/SCTP t2.example.com;branch=z9hG4bKklasjdhf
Via: SIP/2.0/TLS t3.example.com;branch=z9hG4bK2980unddj
Via: SIP/2.0/UNKNOWN t4.example.com;branch=z9hG4bKasd0f3en
Via: SIP/2.0/TCP t5.example.com;branch=z9hG4bK0a9idfnee
l: 0
"""),
    "mpart01": message(
        b"""
MESSAGE sip:kumiko@example.org SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK-d87543-4dade06d0bdb11ee-1--d87543-;rport
Max-Forwards: 70
Route: <sip:127.0.0.1:5080>
Identity: r5mwreLuyDRYBi/0TiPwEsY3rEVsk/G2WxhgTV1PF7hHuLIK0YWVKZhKv9Mj8UeXqkMVbnVq37CD+813gvYjcBUaZngQmXc9WNZSDN\
GCzA+fWl9MEUHWIZo1CeJebdY/XlgKeTa0Olvq0rt70Q5jiSfbqMJmQFteeivUhkMWYUA=
Contact: <sip:fluffy@127.0.0.1:5070>
To: <sip:kumiko@example.org>
From: <sip:fluffy@example.com>;tag=2fb0dcc9
Call-ID: 3d9485ad0c49859b@Zmx1ZmZ5LW1hYy0xNi5sb2NhbA..
CSeq: 1 MESSAGE
Content-Transfer-Encoding: binary
Content-Type: multipart/mixed;boundary=7a9cbec02ceef655
Date: Sat, 15 Oct 2005 04:44:56 GMT
User-Agent: SIPimp.org/0.2.5 (curses)
Content-Length: 553
""",
        lines(
            b"--7a9cbec02ceef655",
            b"Content-Type: text/plain",
            b"Content-Transfer-Encoding: binary",
            b"",
            b"Hello",
            b"--7a9cbec02ceef655",
            b"Content-Type: application/octet-stream",
            b"Content-Transfer-Encoding: binary",
            b"",
            _MPART01_SIGNATURE,
            b"--7a9cbec02ceef655--",
        ),
    ),
    "unreason": message(
        b"SIP/2.0 200 = 2**3 * 5**2 \xd0\xbd\xd0\xbe \xd1\x81\xd1\x82\xd0\xbe \xd0\xb4\xd0\xb5\xd0\xb2\xd1\x8f\xd0\xbd"
        b"\xd0\xbe\xd1\x81\xd1\x82\xd0\xbe \xd0\xb4\xd0\xb5\xd0\xb2\xd1\x8f\xd1\x82\xd1\x8c - \xd0\xbf\xd1\x80\xd0\xbe"
        b"\xd1\x81\xd1\x82\xd0\xbe\xd0\xb5"
        b"""
Via: SIP/2.0/UDP 192.0.2.198;branch=z9hG4bK1324923
Call-ID: unreason.1234ksdfak3j2erwedfsASdf
CSeq: 35 INVITE
From: sip:user@example.com;tag=11141343
To: sip:user@example.edu;tag=2229
Content-Length: 154
Content-Type: application/sdp
Contact: <sip:user@host198.example.com>
""",
        sdp(b"192.0.2.198"),
    ),
    "noreason": message(b"""
SIP/2.0 100\x20
Via: SIP/2.0/UDP 192.0.2.105;branch=z9hG4bK2398ndaoe
Call-ID: noreason.asndj203insdf99223ndf
CSeq: 35 INVITE
From: <sip:user@example.com>;tag=39ansfi3
To: <sip:user@example.edu>;tag=902jndnke3
Content-Length: 0
Contact: <sip:user@host105.example.com>
"""),
}
