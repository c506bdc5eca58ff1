"""The API over HTTP: who may ask, what comes, what is refused and how (RFC 9457)."""

import asyncio
import contextlib
import io
import json
import logging
import re
import stat
import zipfile
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate

from pcscf import PcscfError
from pcscf.admin.access import AccessError, Scope, Tokens
from pcscf.admin.feed import QUEUE, Client
from pcscf.admin.operations import OPERATIONS
from pcscf.admin.web import PAGE
from pcscf.aka import CHALLENGE_HEADERS
from pcscf.capture.file import Reader
from pcscf.hep import Mirror
from pcscf.keylog import KeyLog
from pcscf.messages import sent_without_keys
from pcscf.observe import Problem
from pcscf.registration import SetState
from pcscf.sip.parse import parse
from pcscf.transport import FLOODED
from pcscf.vocabulary import Flow, Interface
from tests.bench.load import Phone
from tests.unit.admin.serving import Operator, with_api
from tests.unit.test_server import CK, GM, IK, challenged, udp

UE = "001010000000001@test~127.1.0.1"


async def first_ue(operator: Operator) -> str:
    """Challenge a phone; how the API names it."""
    assert (await challenged(Phone(1))).startswith(b"SIP/2.0 401 ")
    return str((await operator.got("/api/registrations"))["items"][0]["ue"])


def quoted(ue: str) -> str:
    return ue.replace("@", "%40").replace("~", "%7E")


def test_tokens_are_made_once_and_are_their_owners(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    Tokens(folder)
    made = {scope: (folder / scope.file).read_text() for scope in Scope}
    assert len(set(made.values())) == 3 and all(len(each) > 40 for each in made.values())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE((folder / scope.file).stat().st_mode) for scope in Scope} == {0o600}
    Tokens(folder)
    assert {scope: (folder / scope.file).read_text() for scope in Scope} == made
    (folder / "read.token").chmod(0o640)
    with pytest.raises(AccessError, match="others may read it; chmod 600"):
        Tokens(folder)
    (folder / "read.token").chmod(0o600)
    (folder / "read.token").write_text("short\n")
    with pytest.raises(AccessError, match="too short to be one"):
        Tokens(folder)
    with pytest.raises(AccessError, match="set `state` to a place you may write"):
        Tokens(folder / "read.token" / "below")


def test_who_may_ask(tmp_path: Path) -> None:
    async def work(operator: Operator) -> None:
        status, said = await operator.asked("/api/status", scope=None)
        assert (status, said["status"], said["title"]) == (401, 401, "Unauthorized") and "token" in said["detail"]
        wrong = {"Authorization": "Bearer " + "x" * 43}
        assert (await operator.asked("/api/status", headers=wrong))[0] == 401
        assert (await operator.asked("/api/status", headers={"Authorization": "Basic eDp5"}))[0] == 401
        assert (await operator.asked("/api/health", scope=None))[0] == 200
        assert (await operator.asked("/api/status", scope=Scope.READ))[0] == 200
        for scope, status in ((Scope.READ, 403), (Scope.ADMIN, 200), (Scope.KEYS, 200)):
            assert (await operator.asked("/api/reload", "POST", scope=scope))[0] == status
        for scope in Scope:
            status, said = await operator.asked("/api/keys", scope=scope)
            assert status == 403, "key export is off"
        foreign = {"Origin": "http://elsewhere.example"}
        status, said = await operator.asked("/api/status", headers=foreign)
        assert status == 403 and "http://elsewhere.example" in said["detail"]
        assert (await operator.asked("/api/status", headers={"Origin": "null"}))[0] == 403
        assert (await operator.asked("/api/status", headers={"Origin": operator.url}))[0] == 200
        assert (await operator.asked("/api/status", headers={"Origin": "https://ims.example"}))[0] == 200
        async with operator.session.get(f"{operator.url}/") as page:
            assert page.status == 200 and "default-src 'none'" in page.headers["Content-Security-Policy"]
            assert "Set-Cookie" not in page.headers

    with_api(tmp_path, work, origins=("https://ims.example",))


def test_what_is_asked_wrongly_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(operator: Operator) -> None:
        ue = quoted(await first_ue(operator))
        for target, method, body, headers, status, words in (
            ("/api/nothing", "GET", None, {}, 404, "openapi.json"),
            ("/api/status", "DELETE", None, {}, 405, "GET is"),
            ("/api/status?a=1", "GET", None, {}, 400, "a: Extra inputs"),
            ("/api/registrations?limit=0", "GET", None, {}, 400, "limit: "),
            ("/api/registrations?limit=2&limit=3", "GET", None, {}, 400, "limit twice"),
            ("/api/registrations?offset=x", "GET", None, {}, 400, "offset: "),
            ("/api/journal?kind=secret", "GET", None, {}, 400, "kind: "),
            ("/api/stream?kinds=secret", "GET", None, {}, 400, "no kind secret"),
            ("/api/ues/nobody", "GET", None, {}, 404, "no UE nobody"),
            ("/api/ues/nobody/deregister", "POST", None, {}, 404, "no UE nobody"),
            (f"/api/ues/{ue}/reauthenticate", "POST", None, {}, 404, "is not registered"),
            (f"/api/ues/{ue}/messages/99999", "GET", None, {}, 404, "no message of this UE"),
            ("/api/hops/none%2Fudp", "PUT", {"enabled": True}, {}, 404, "no next hop none/udp"),
            ("/api/hops/x", "PUT", {"enabled": "yes"}, {}, 400, "enabled: "),
            ("/api/hops/x", "PUT", {}, {}, 400, "enabled: "),
            ("/api/hops/x", "PUT", b"{", {}, 400, "JSON"),
            ("/api/hops/x", "PUT", b"{}", {"Content-Type": "text/plain"}, 415, "application/json"),
            ("/api/hops/x", "PUT", b" " * 70_000, {}, 413, ""),
            (f"/api/ues/{ue}/trace-level", "PUT", {"level": "loud"}, {}, 400, "level: "),
        ):
            got, said = await operator.asked(target, method, body=body, headers=headers)
            assert got == status == said["status"] and words in said["detail"], (target, got, said)
        assert (await operator.asked("/api/status", headers={"X-Long": "x" * 9000}))[0] == 400

    with_api(tmp_path, work)
    assert "a bug" not in caplog.text


def test_a_ue_is_shown_with_its_set_its_ladder_and_its_messages(tmp_path: Path) -> None:
    async def work(operator: Operator) -> None:
        ue = quoted(await first_ue(operator))
        found = await operator.got(f"/api/ues/{ue}")
        (of_set,) = found["sets"]
        assert of_set["state"] == "temporary" and len(of_set["sas"]) == 4 and of_set["why"]
        assert found["registration"]["registered"] is False and not found["traced"]
        ladder = await operator.got(f"/api/ues/{ue}/ladder")
        messages = [row for row in ladder if row["kind"] == "message"]
        assert [(row["source"], row["destination"], row["text"]) for row in messages] == [
            ("ue", "pcscf", "REGISTER"),
            ("pcscf", "core", "REGISTER"),
            ("core", "pcscf", "401 Unauthorized"),
            ("pcscf", "ue", "401 Unauthorized"),
        ]
        assert [row["whole"] for row in messages] == [True] * 4
        texts = [(await operator.got(f"/api/ues/{ue}/messages/{row['number']}"))["text"] for row in messages]
        assert texts[0].startswith("REGISTER sip:") and "P-Visited-Network-ID" in texts[1]
        assert "Security-Server" in texts[3] and "WWW-Authenticate" in texts[2]
        assert not any(key in text for key in (CK, IK, "ck=", "ik=") for text in texts)
        second = messages[1]["number"]
        after = await operator.got(f"/api/ues/{ue}/ladder?after={second}")
        assert [row["number"] for row in after] == [row["number"] for row in ladder if row["number"] > second]
        why = await operator.got(f"/api/ues/{ue}/explanation")
        assert why["causes"] and why["steps"][0]["at"] is not None
        sas = await operator.got(f"/api/sas?ue={ue}")
        assert sas["total"] == 4 == (await operator.got("/api/sas"))["total"]
        part = await operator.got("/api/sas?offset=1&limit=2")
        assert [row["spi"] for row in part["items"]] == [row["spi"] for row in sas["items"]][1:3]

    with_api(tmp_path, work)


def test_lists_are_filtered_and_paged(tmp_path: Path) -> None:
    async def work(operator: Operator) -> None:
        for number in range(1, 6):
            await challenged(Phone(number))
        page = await operator.got("/api/registrations?limit=2&offset=2")
        assert page["total"] == 5 and len(page["items"]) == 2
        newest = (await operator.got("/api/registrations"))["items"]
        assert page["items"][0]["ue"] == newest[2]["ue"]
        ordered = (await operator.got("/api/registrations?order=impi"))["items"]
        assert [each["impi"] for each in ordered] == sorted(each["impi"] for each in newest)
        found = await operator.got(f"/api/registrations?search={newest[1]['address']}")
        assert [each["ue"] for each in found["items"]] == [newest[1]["ue"]]
        assert (await operator.got("/api/registrations?state=registered"))["total"] == 0
        assert (await operator.got("/api/registrations?state=waiting"))["total"] == 5
        sets = await operator.got("/api/journal?kind=set&newest=true&limit=2")
        assert [row["kind"] for row in sets] == ["set", "set"] and sets[0]["number"] > sets[1]["number"]
        rest = await operator.got(f"/api/journal?after={sets[1]['number']}")
        assert rest and all(row["number"] > sets[1]["number"] for row in rest)

    with_api(tmp_path, work)


def test_a_ue_is_deregistered_by_the_operator(tmp_path: Path) -> None:
    async def work(operator: Operator) -> None:
        ue = quoted(await first_ue(operator))
        assert operator.server.count() == 4 and operator.server.registrar.states[SetState.TEMP] == 1
        assert await operator.got(f"/api/ues/{ue}/deregister", method="POST") == b""
        assert operator.server.count() == 0 and len(operator.server.registrar) == 0
        assert operator.server.registrar.states.total() == 0
        gone = await operator.got(f"/api/ues/{ue}")
        assert gone["registration"] is None and gone["sets"] == []
        status, said = await operator.asked(f"/api/ues/{ue}/deregister", "POST")
        assert status == 404 and "is not registered" in said["detail"]

    with_api(tmp_path, work)


def test_messages_of_one_ue_go_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(operator: Operator) -> None:
        ue = quoted(await first_ue(operator))
        assert "REGISTER sip:" not in caplog.text
        await operator.got(f"/api/ues/{ue}/trace-level", method="PUT", body={"level": "log"})
        assert (await operator.got(f"/api/ues/{ue}"))["traced"]
        await challenged(Phone(1), 5071)
        await challenged(Phone(2))
        whole = [record for record in caplog.records if "SIP/2.0" in getattr(record, "whole", "")]
        assert {getattr(record, "ue", "") for record in whole} == {Phone(1).address} and len(whole) == 2
        assert CK not in caplog.text and IK not in caplog.text
        await operator.got(f"/api/ues/{ue}/trace-level", method="PUT", body={"level": "normal"})
        assert not (await operator.got(f"/api/ues/{ue}"))["traced"]

    with caplog.at_level(logging.INFO, "pcscf"):
        with_api(tmp_path, work)


def test_a_hop_is_switched_and_readiness_follows(tmp_path: Path) -> None:
    async def work(operator: Operator) -> None:
        await first_ue(operator)
        (hop,) = (await operator.got("/api/hops"))["hops"]
        assert (await operator.got("/api/ready", scope=None))["ok"]
        name = hop["name"].replace("/", "%2F")
        after = await operator.got(f"/api/hops/{name}", method="PUT", body={"enabled": False})
        assert after["state"] == "disabled"
        status, said = await operator.asked("/api/ready", scope=None)
        assert status == 503 and hop["name"] in said["detail"]
        assert (await operator.got(f"/api/hops/{name}", method="PUT", body={"enabled": True}))["state"] != "disabled"

    with_api(tmp_path, work)


def test_reload_says_what_it_did_and_why_it_could_not(tmp_path: Path) -> None:
    results: list[Any] = [(["log.level"], ["gm.port"]), PcscfError("pcscf.toml: gm.port: too large")]

    def reload() -> tuple[list[str], list[str]]:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result  # type: ignore[no-any-return]

    async def work(operator: Operator) -> None:
        done = await operator.got("/api/reload", method="POST")
        assert done == {"taken": ["log.level"], "needs_restart": ["gm.port"]}
        status, said = await operator.asked("/api/reload", "POST")
        assert (status, said["detail"]) == (409, "pcscf.toml: gm.port: too large")

    with_api(tmp_path, work, reload=reload)


def test_traces_and_profiles_are_given(tmp_path: Path) -> None:
    async def work(operator: Operator) -> None:
        ue = quoted(await first_ue(operator))
        path = tmp_path / "ue.pcapng"
        path.write_bytes(await operator.got(f"/api/ues/{ue}/trace"))
        with Reader(path) as reader:
            packets = list(reader)
        assert len(packets) == 4 and all(b"SIP/2.0" in packet.data for packet in packets)
        assert packets[0].comment == "in clear"
        page = (await operator.got(f"/api/ues/{ue}/trace?form=html")).decode()
        assert page.count("<details>") == 4 and "Security-Server" in page
        key_log = KeyLog(tmp_path / "keys.esp_sa")
        operator.server._key_log = key_log
        assert (await operator.asked("/api/keys", scope=Scope.ADMIN))[0] == 403
        lines = (await operator.got("/api/keys", scope=Scope.KEYS)).decode().splitlines()
        assert len(lines) == 4 and IK in lines[0]
        archive = zipfile.ZipFile(io.BytesIO(await operator.got("/api/keys/profile", scope=Scope.KEYS)))
        assert archive.read("pcscf-gm/esp_sa").decode().splitlines() == lines
        assert b"esp.enable_encryption_decode: TRUE" in archive.read("pcscf-gm/preferences")
        key_log.close()

    with_api(tmp_path, work)


def test_events_are_streamed(tmp_path: Path) -> None:
    async def work(operator: Operator) -> None:
        ue = quoted(await first_ue(operator))
        headers = {"Authorization": f"Bearer {operator.token(Scope.READ)}"}
        events: list[dict[str, Any]] = []
        url = f"{operator.url}/api/stream?kinds=set,sample&ue={ue}"
        async with asyncio.timeout(20), operator.session.get(url, headers=headers) as stream:
            assert stream.content_type == "text/event-stream"
            line = await stream.content.readline()
            hello = json.loads(line.removeprefix(b"data: "))
            assert hello["type"] == "hello" and hello["payload"]["number"] == operator.server.journal.written
            await challenged(Phone(1), 5071)
            while not {"ue", "record", "sample", "changed"} <= {event["type"] for event in events}:
                line = await stream.content.readline()
                if line.startswith(b"data: "):
                    events.append(json.loads(line.removeprefix(b"data: ")))
        assert {event["payload"]["kind"] for event in events if event["type"] == "record"} == {"set"}
        sample = next(event["payload"] for event in events if event["type"] == "sample")
        assert sample["sas"] == sample["believed"] == 4
        while len(operator.service.feed):
            await asyncio.sleep(0.01)

    with_api(tmp_path, work)


def test_a_slow_reader_loses_the_oldest_and_hears_of_it() -> None:
    async def run() -> None:
        client = Client(frozenset())
        client.take(b"data: %d\n\n" % number for number in range(QUEUE + 7))
        lines = client.drain().split(b"\n\n")
        assert lines[0] == b'data: {"type":"lost","payload":{"events":7}}' and lines[1] == b"data: 7"
        assert client.drain() == b""

    asyncio.run(run())


def test_a_bug_is_answered_500_without_its_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(operator: Operator) -> None:
        operator.server.journal.append(Problem)  # type: ignore[arg-type]
        status, said = await operator.asked("/api/journal")
        assert (status, said["detail"]) == (500, "a bug; the log says more")

    with_api(tmp_path, work)
    assert "a bug in the API" in caplog.text


def test_the_document_is_valid_and_says_everything(tmp_path: Path) -> None:
    async def work(operator: Operator) -> None:
        document = await operator.got("/api/openapi.json", scope=None)
        validate(document)
        assert document["openapi"].startswith("3.1.")
        assert sum(len(each) for each in document["paths"].values()) == len(OPERATIONS)

    with_api(tmp_path, work)


def test_metrics_tell_what_is_counted(tmp_path: Path) -> None:
    async def work(operator: Operator) -> None:
        await first_ue(operator)
        assert (await operator.asked("/metrics", scope=None))[0] == 401
        text = (await operator.got("/metrics", scope=Scope.READ)).decode()
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        assert values['pcscf_requests_total{method="REGISTER",status="401"}'] == "1.0"
        assert values["pcscf_challenge_duration_seconds_count"] == "1.0"
        assert values["pcscf_sas"] == values["pcscf_sas_believed"] == "4.0"
        assert values['pcscf_sa_sets{state="temporary"}'] == "1.0"
        assert values['pcscf_registration_events_total{event="installed"}'] == "1.0"
        assert values['pcscf_backend_errors_total{operation="install"}'] == "0.0"

    with_api(tmp_path, work)


OURS = ("127.0.0.1", "127.0.0.1:8060", "[::1]:80", "[fd00:45::1]", "10.9.8.7:1", "localhost:9", "LocalHost", "pcscf:1")
FOREIGN = (
    "rebound.example", "rebound.example:8060", "127.0.0.1.rebound.example", "localhost.rebound.example", "pcscf.evil",
    "127.0.0.1 rebound.example", "a@127.0.0.1", "127.0.0.1:x", "[::1", "", "xn--localhost", "localhost.", "0x7f.1",
)  # fmt: skip


def test_a_flood_that_was_not_looked_at_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 1, 5: by status, metrics and a problem."""
    monkeypatch.setattr("pcscf.intake.MOST_OF_ONE", 32)  # fewer than wait at a socket whoever runs this

    async def work(operator: Operator) -> None:
        assert (await operator.got("/api/status"))["clear_lost"] == 0
        with udp("127.0.0.9", 5070) as stranger:
            for _ in range(2000):
                stranger.sendto(Phone(1).register(5070), (GM, 15060))
        async with asyncio.timeout(10):
            while not (lost := (await operator.got("/api/status"))["clear_lost"]):
                await asyncio.sleep(0.01)
        said = (await operator.got("/metrics")).decode()
        (counted,) = (line.split()[1] for line in said.splitlines() if line.startswith("pcscf_clear_datagrams_lost_t"))
        assert float(counted) >= lost
        assert FLOODED in [each.detail for _, each in operator.server.journal.after(0) if isinstance(each, Problem)]

    with_api(tmp_path, work)


def test_a_name_that_is_not_ours_gets_nothing(tmp_path: Path) -> None:
    """Step 1, 20: a page whose name was turned to this address was taken for our own."""

    async def work(operator: Operator) -> None:
        token = {"Authorization": f"Bearer {operator.token(Scope.ADMIN)}"}
        targets = [(each.method, each.path.partition("{")[0].rstrip("/")) for each in OPERATIONS]
        targets += [("GET", path) for path in (*PAGE, "/nothing", "/api/nothing")]
        for host in FOREIGN:
            for method, path in targets if host == FOREIGN[0] else targets[:1]:
                headers = token | {"Host": host, "Origin": f"http://{host}"}
                status, said = await operator.asked(path, method, headers=headers)
                assert status == 421 or (status == 400 and not host), (host, method, path, status)
                assert "admin.origins" in str(said) and b"<html" not in str(said).encode()
        for host in OURS:
            status, said = await operator.asked("/api/status", headers=token | {"Host": host})
            assert status == 200, (host, said)
        assert (await operator.asked("/api/status", headers=token | {"Host": "PCSCF"}))[0] == 200
        assert (await operator.asked("/api/health", scope=None, headers={"Host": "pcscf"}))[0] == 200
        own = {"Host": "pcscf:1", "Origin": "http://pcscf:1"}
        assert (await operator.asked("/api/status", headers=token | own))[0] == 200
        reader, writer = await asyncio.open_connection("127.0.0.1", int(operator.url.rpartition(":")[2]))
        writer.write(b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: rebound.example\r\n\r\n")
        assert (await reader.readline()).split()[1] in (b"421", b"400")
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(operator.url.rpartition(":")[2]))
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"421"
        writer.close()

    with_api(tmp_path, work, origins=("http://pcscf:8060",))


def test_phones_do_not_reach_the_api(tmp_path: Path) -> None:
    """Step 1, 20: on 0.0.0.0 it answered at the address of Gm, too."""

    async def work(operator: Operator) -> None:
        port = int(operator.url.rpartition(":")[2])
        assert (await operator.asked("/api/status"))[0] == 200
        reader, writer = await asyncio.open_connection("127.0.0.9", port)
        writer.write(b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.9\r\n\r\n")
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b"", "not even a refusal"
        writer.close()
        assert (await operator.asked("/api/status"))[0] == 200

    with_api(tmp_path, work, address="0.0.0.0", refused=("127.0.0.9",))


@pytest.mark.parametrize("name", sorted(CHALLENGE_HEADERS))
def test_no_message_shows_keys_whatever_carries_them(name: str, tmp_path: Path) -> None:
    """Step 1, 17: only responses were looked at, and of them two headers."""
    keys = f'ck="{CK}", ik="{IK.upper()}"'

    async def work(operator: Operator) -> None:
        ue = quoted(await first_ue(operator))
        phone = Phone(1)
        flow = Flow("UDP", Interface.GM, ip_address("127.0.0.1"), 15060, ip_address(phone.address), 5070)
        value = f'Digest realm="a", {keys}, username="{phone.user}", nonce="b"'
        text = phone.register(5070).replace(b"Call-ID: ", b"Call-ID: more-").replace(b"z9hG4bK", b"z9hG4bKmore")
        text = re.sub(rb"Authorization: [^\r]*\r\n", b"", text) if name == "authorization" else text
        lines = f"\r\n{name.title()}: {value}\r\n".encode()
        collected: list[bytes] = []
        server = operator.server
        mirror = server._mirror = Mirror(ip_address("127.0.0.1"), 9, capture_id=1, password="")
        mirror._send = collected.append  # type: ignore[assignment, method-assign]
        server.traced.add(ip_address(phone.address))
        server._on_mirrored_message(parse(text.replace(b"\r\n", lines, 1)), flow)
        for method in ("OPTIONS", "MESSAGE"):
            request = text.replace(b"REGISTER", method.encode()).replace(b"\r\n", lines, 1)
            server._on_mirrored_message(parse(request.replace(b"Supported", b"X-Supported")), flow)
        response = parse(b"SIP/2.0 407 No" + text.partition(b"SIP/2.0")[2].replace(b"\r\n", lines, 1))
        server._on_mirrored_message(response, flow)
        found = map(server.messages.find, range(1, server.journal.written + 1))
        shown = [each for each in found if each]
        assert sum(name.encode() in text.lower() for text in shown) >= 2
        ladder = await operator.got(f"/api/ues/{ue}/ladder")
        for row in ladder:
            if row["whole"]:
                shown.append(str(await operator.got(f"/api/ues/{ue}/messages/{row['number']}")).encode())
        shown += [await operator.got(f"/api/ues/{ue}/trace?form={form}") for form in ("pcapng", "html")]
        assert len(collected) >= 4
        for each in (*shown, *collected):
            assert CK.encode() not in each.lower() and IK.encode() not in each.lower()

    with_api(tmp_path, work)


def test_what_goes_on_shows_no_keys_either() -> None:
    """Step 1, 17."""
    sent = f'MESSAGE sip:a SIP/2.0\r\nCall-ID: a\r\nPROXY-Authenticate : Digest a="b",CK = {CK}\r\n'.encode()
    rest = b"Via: SIP/2.0/UDP a;branch=z9hG4bKx\r\nFrom: <sip:a>;tag=1\r\nTo: <sip:a>\r\nCSeq: 1 MESSAGE\r\n\r\n"
    assert CK.encode() not in sent_without_keys(sent + rest) and b'Digest a="b"' in sent_without_keys(sent + rest)
    plain = rest.replace(b"\r\n\r\n", b"\r\nX: ck=1\r\n\r\n")
    assert sent_without_keys(plain) is plain
