"""The DNS side against a small DNS server of our own on loopback: RFC 3263, and all that can go wrong with a DNS."""

import asyncio
import socket
import struct
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from pcscf import resolve
from pcscf.resolve import Resolver, Transport
from pcscf.vocabulary import Query, Resolved

HOST = "127.0.0.53"
NAPTR = '10 {preference} "s" "{service}" "" {to}'


class Dns:
    """Answers from `zone`: (name, type) -> records, or a code, or a way to misbehave."""

    def __init__(self, zone: dict[tuple[str, str], list[str] | str], ttl: int = 60) -> None:
        self.zone = zone
        self.ttl = ttl
        self.asked: list[tuple[str, str, str]] = []
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind((HOST, 0))
        self.udp.setblocking(False)
        self.port: int = self.udp.getsockname()[1]
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        asyncio.get_running_loop().add_reader(self.udp, self._datagram)
        self._server = await asyncio.start_server(self._connection, HOST, self.port)

    async def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self.udp)
        self.udp.close()
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    def _datagram(self) -> None:
        data, sender = self.udp.recvfrom(4096)
        for answer in self.answers(data, "UDP"):
            self.udp.sendto(answer, sender)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        for answer in self.answers(await reader.readexactly(length), "TCP"):
            writer.write(struct.pack("!H", len(answer)) + answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    def answers(self, data: bytes, transport: str) -> list[bytes]:
        query = dns.message.from_wire(data)
        name, kind = query.question[0].name, dns.rdatatype.to_text(query.question[0].rdtype)
        asked = (name.to_text(omit_final_dot=True).lower(), kind)
        again = sum(each[:2] == asked for each in self.asked)
        self.asked.append((*asked, transport))
        answer = dns.message.make_response(query)
        for _ in range(20):  # the chain of CNAMEs
            known = self.zone.get((name.to_text(omit_final_dot=True).lower(), "CNAME"))
            if known is None:
                break
            answer.answer.append(dns.rrset.from_text(name, self.ttl, "IN", "CNAME", known[0]))
            name = dns.name.from_text(known[0])
        found = self.zone.get((name.to_text(omit_final_dot=True).lower(), kind), [])
        if isinstance(found, list):
            if found:
                answer.answer.append(dns.rrset.from_text(name, self.ttl, "IN", kind, *found))
            elif not any(each[0] == name.to_text(omit_final_dot=True).lower() for each in self.zone):
                answer.set_rcode(dns.rcode.NXDOMAIN)
            return [answer.to_wire()]
        if found == "lost" or (found == "lost once" and not again):
            return []
        if found == "lost once":
            answer.answer.append(dns.rrset.from_text(name, self.ttl, "IN", "A", "10.46.0.2"))
        elif found == "truncated":
            if transport == "TCP":
                answer.answer.append(dns.rrset.from_text(name, self.ttl, "IN", "A", "10.46.0.2"))
            else:
                answer.flags |= dns.flags.TC
        elif found == "garbage":
            return [data[:2] + b"\x81\x80" + b"\xff" * 40]
        elif found == "bad rdata":  # an A record with three octets
            wire = bytearray(answer.to_wire())
            wire[7] = 1
            end = 12 + len(name.to_text()) + 1 + 4  # a name of letters and dots: as long as its text, and the root
            return [bytes(wire[:end]) + b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x03\x0a\x2e\0"]
        else:
            answer.set_rcode(dns.rcode.from_text(found))
        return [answer.to_wire()]


Zone = dict[tuple[str, str], list[str] | str]
Asked = list[tuple[str, str, str]]


def ask(
    zone: Zone,
    query: Query,
    *,
    families: tuple[int, ...] = (4,),
    transport: Transport = "UDP",
    ttl: int = 60,
    dns_: type[Dns] = Dns,
) -> tuple[Resolved, Asked]:
    """What a resolver says, and what it asked."""

    async def run() -> tuple[Resolved, Asked]:
        server = dns_(zone, ttl)
        await server.start()
        heard: asyncio.Queue[Resolved] = asyncio.Queue()
        resolver = Resolver(
            heard.put_nowait,
            families=families,
            transport=transport,
            nameservers=[ip_address(HOST)],
            port=server.port,
        )
        try:
            resolver.start(query)
            async with asyncio.timeout(12):
                return await heard.get(), server.asked
        finally:
            await resolver.close()
            await server.stop()

    return asyncio.run(run())


def shown(answer: Resolved) -> list[str]:
    return [f"{each.transport} {each.address} {each.port} {each.priority}/{each.weight}" for each in answer.targets]


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "TRY", 0.1)
    monkeypatch.setattr(resolve, "LIFETIME", 0.4)


def test_naptr_then_srv_then_addresses() -> None:
    zone: Zone = {
        ("ims.example", "NAPTR"): [
            NAPTR.format(preference=20, service="SIP+D2U", to="_sip._udp.ims.example."),
            NAPTR.format(preference=10, service="SIP+D2T", to="_sip._tcp.other.example."),
            NAPTR.format(preference=1, service="SIPS+D2T", to="_sips._tcp.ims.example."),
            '10 1 "u" "SIP+D2U" "!^.*$!sip:x@y!" .',
        ],
        ("_sip._tcp.other.example", "SRV"): ["1 5 5070 a.ims.example."],
        ("_sip._udp.ims.example", "SRV"): ["2 0 5060 b.ims.example.", "1 7 5080 a.ims.example."],
        ("a.ims.example", "A"): ["10.46.0.2"],
        ("b.ims.example", "A"): ["10.46.0.3", "10.46.0.4"],
    }
    answer, asked = ask(zone, Query("ims.example"))
    assert [*shown(answer)[:2], *sorted(shown(answer)[2:])] == [
        "TCP 10.46.0.2 5070 1/5",
        "UDP 10.46.0.2 5080 65537/7",
        "UDP 10.46.0.3 5060 65538/0",
        "UDP 10.46.0.4 5060 65538/0",
    ]
    assert answer.ttl == 60 and not answer.error
    assert not any(name.startswith("_sips") for name, _, _ in asked) and not any(kind == "AAAA" for _, kind, _ in asked)


@pytest.mark.parametrize(
    ("query", "questions", "servers"),
    [
        (Query("ims.example", 5070, "TCP"), [("ims.example", "A")], ["TCP 10.46.0.9 5070 0/0"]),
        (Query("ims.example", 5070), [("ims.example", "A")], ["UDP 10.46.0.9 5070 0/0"]),
        (
            Query("ims.example", 0, "TCP"),
            [("_sip._tcp.ims.example", "SRV"), ("ims.example", "A")],
            ["TCP 10.46.0.9 5060 0/0"],
        ),
        (
            Query("ims.example"),
            [
                ("ims.example", "NAPTR"),
                ("_sip._udp.ims.example", "SRV"),
                ("_sip._tcp.ims.example", "SRV"),
                ("ims.example", "A"),
            ],
            ["UDP 10.46.0.9 5060 0/0"],
        ),
    ],
)
def test_what_is_given_skips_steps(query: Query, questions: list[tuple[str, str]], servers: list[str]) -> None:
    answer, asked = ask({("ims.example", "A"): ["10.46.0.9"]}, query)
    assert [each[:2] for each in asked] == questions and shown(answer) == servers


def test_the_preferred_transport_is_tried_first_where_the_dns_does_not_say() -> None:
    zone: Zone = {
        ("_sip._udp.ims.example", "SRV"): ["1 1 5060 a.ims.example."],
        ("_sip._tcp.ims.example", "SRV"): ["9 1 5060 a.ims.example."],
        ("a.ims.example", "A"): ["10.46.0.2"],
    }
    answer, _ = ask(zone, Query("ims.example"), transport="TCP")
    assert shown(answer) == ["TCP 10.46.0.2 5060 9/1", "UDP 10.46.0.2 5060 65537/1"]


def test_both_families_and_cnames() -> None:
    zone: Zone = {
        ("ims.example", "CNAME"): ["real.example."],
        ("real.example", "A"): ["10.46.0.2"],
        ("real.example", "AAAA"): ["fd00:46::2"],
    }
    answer, _ = ask(zone, Query("ims.example", 5060, "UDP"), families=(4, 6), ttl=7)
    assert shown(answer) == ["UDP 10.46.0.2 5060 0/0", "UDP fd00:46::2 5060 0/0"] and answer.ttl == 7
    answer, _ = ask(zone, Query("ims.example", 5060, "UDP"), families=(6,))
    assert shown(answer) == ["UDP fd00:46::2 5060 0/0"]


def test_one_family_is_enough() -> None:
    zone: Zone = {("ims.example", "A"): ["10.46.0.2"], ("ims.example", "AAAA"): "SERVFAIL"}
    answer, _ = ask(zone, Query("ims.example", 5060, "UDP"), families=(4, 6))
    assert shown(answer) == ["UDP 10.46.0.2 5060 0/0"]


@pytest.mark.parametrize("kind", ["SERVFAIL", "NOTIMP", "REFUSED"])
def test_a_forwarder_that_does_not_know_naptr(kind: str) -> None:
    answer, _ = ask({("ims.example", "A"): ["10.46.0.2"], ("ims.example", "NAPTR"): kind}, Query("ims.example"))
    assert shown(answer) == ["UDP 10.46.0.2 5060 0/0"]


def test_srv_to_a_host_without_address_leaves_the_others() -> None:
    zone: Zone = {
        ("_sip._udp.ims.example", "SRV"): ["1 1 5060 none.example.", "2 1 5060 a.ims.example."],
        ("a.ims.example", "A"): ["10.46.0.2"],
    }
    assert shown(ask(zone, Query("ims.example", 0, "UDP"))[0]) == ["UDP 10.46.0.2 5060 2/1"]
    del zone["a.ims.example", "A"]
    answer, _ = ask(zone, Query("ims.example", 0, "UDP"))
    assert not answer.targets and "does not exist (NXDOMAIN)" in answer.error and answer.ttl
    zone["a.ims.example", "A"] = "SERVFAIL"
    answer, _ = ask(zone, Query("ims.example", 0, "UDP"))
    assert not answer.targets and "SERVFAIL" in answer.error and not answer.ttl, "the DNS could not say"


def test_srv_may_say_that_there_is_no_service() -> None:
    zone: Zone = {("_sip._udp.ims.example", "SRV"): ["0 0 0 ."], ("ims.example", "A"): ["10.46.0.2"]}
    answer, _ = ask(zone, Query("ims.example", 0, "UDP"))
    assert not answer.targets and answer.error == "_sip._udp.ims.example: SIP is not served there"


@pytest.mark.parametrize(
    ("behaviour", "words", "certain"),
    [
        ("SERVFAIL", "the DNS refuses ims.example (A): SERVFAIL", False),
        ("REFUSED", "the DNS refuses ims.example (A): REFUSED", False),
        ("lost", "no answer from the DNS about ims.example (A)", False),
        ("garbage", "ims.example (A)", False),
        ("bad rdata", "ims.example (A)", False),
        ([], "ims.example has no A record", True),
        (None, "ims.example does not exist (NXDOMAIN)", True),
    ],
)
@pytest.mark.usefixtures("hurry")
def test_errors_are_for_people(behaviour: list[str] | str | None, words: str, certain: bool) -> None:
    zone: Zone = {} if behaviour is None else {("ims.example", "A"): behaviour}
    answer, _ = ask(zone, Query("ims.example", 5060, "UDP"))
    assert not answer.targets and words in answer.error and bool(answer.ttl) is certain


@pytest.mark.usefixtures("hurry")
def test_a_lost_packet_is_sent_again() -> None:
    answer, asked = ask({("ims.example", "A"): "lost once"}, Query("ims.example", 5060, "UDP"))
    assert shown(answer) == ["UDP 10.46.0.2 5060 0/0"] and len(asked) == 2


def test_a_truncated_answer_is_asked_for_over_tcp() -> None:
    answer, asked = ask({("ims.example", "A"): "truncated"}, Query("ims.example", 5060, "UDP"))
    assert shown(answer) == ["UDP 10.46.0.2 5060 0/0"]
    assert [transport for _, _, transport in asked] == ["UDP", "TCP"]


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example", ".".join(["a" * 60] * 5), "-", "_"])
def test_names_that_are_none(host: str) -> None:
    answer, _ = ask({}, Query(host))
    assert not answer.targets and answer.error


def test_a_loop_of_cnames_ends() -> None:
    zone: Zone = {("a.example", "CNAME"): ["b.example."], ("b.example", "CNAME"): ["a.example."]}
    answer, _ = ask(zone, Query("a.example", 5060, "UDP"))
    assert not answer.targets and answer.error


def test_a_zone_full_of_servers_is_cut() -> None:
    zone: Zone = {("_sip._udp.ims.example", "SRV"): [f"{n} 1 5060 h{n}.example." for n in range(50)]}
    zone |= {(f"h{n}.example", "A"): [f"10.46.{n}.{m}" for m in range(1, 30)] for n in range(50)}
    answer, asked = ask(zone, Query("ims.example", 0, "UDP"))
    assert len(answer.targets) == resolve.TARGETS and len({name for name, _, _ in asked}) == 1 + resolve.SERVICES


def test_the_whole_question_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "WHOLE", 0.2)
    answer, _ = ask({("ims.example", "A"): "lost"}, Query("ims.example", 5060, "UDP"))
    assert "took longer" in answer.error and not answer.ttl


def test_a_bug_is_an_error_text_too(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> None:
        raise KeyError("what nobody thought of")

    monkeypatch.setattr(Resolver, "_services", broken)
    answer, _ = ask({}, Query("ims.example"))
    assert answer.error == "the answer of the DNS cannot be used: KeyError" and "what nobody thought of" in caplog.text


def test_a_machine_without_nameservers(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> None:
        raise OSError("no /etc/resolv.conf")

    monkeypatch.setattr("dns.resolver.BaseResolver.read_resolv_conf", absent)
    resolver = Resolver(print, families=(4,), transport="UDP")
    answer = asyncio.run(resolver.resolve(Query("ims.example")))
    assert "set mw.nameservers" in answer.error


def test_closing_ends_the_questions() -> None:
    async def run() -> list[Resolved]:
        server = Dns({("ims.example", "A"): "lost"})
        await server.start()
        heard: list[Resolved] = []
        resolver = Resolver(
            heard.append, families=(4,), transport="UDP", nameservers=[ip_address(HOST)], port=server.port
        )
        resolver.start(Query("ims.example", 5060, "UDP"))
        await asyncio.sleep(0)
        await resolver.close()
        await server.stop()
        return heard

    assert asyncio.run(run()) == []
