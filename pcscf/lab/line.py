"""A phone's line through its SAs: requests other than REGISTER, and its answers (TS 24.229 5.1.2A, digest C11, F8-F11).

Says who it is and by which way: Route, Via, identity, security headers, and the transport by size. What is said is
the callers'; which port and SA that takes is `gm`. Wrong behaviour on demand is `Fault`.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pcscf.lab.agreement import SecuritySet
from pcscf.lab.dialog import Draft
from pcscf.lab.diary import Diary
from pcscf.lab.endpoint import Listener, NoAnswer
from pcscf.lab.fault import ANOTHER_ROUTE, FORBIDDEN, Fault, edited, other_user
from pcscf.lab.gm import Gm
from pcscf.lab.handset import ACCESS_NETWORK, USER_AGENT, Identity, Registered
from pcscf.lab.phone import UeSettings
from pcscf.lab.strict import response_complaints
from pcscf.sip.message import Header, Request, Response, header, response_to
from pcscf.sip.transaction import Transaction
from pcscf.vocabulary import Flow
from xfrm.model import bracketed

LARGE = 1300
"""Octets above which a request goes over a transport with congestion control (RFC 3261 18.1.1)."""
METHODS = "INVITE, ACK, CANCEL, BYE, PRACK, UPDATE, OPTIONS, MESSAGE, NOTIFY"
ICSI = "urn:urn-7:3gpp-service.ims.icsi.mmtel"
FEATURES = '+g.3gpp.icsi-ref="urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel"'
PHRASES = {
    180: "Ringing",
    183: "Session Progress",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    491: "Request Pending",
    603: "Decline",
}
"""Reason phrases that a proxy has no use for."""
WITHOUT_AGREEMENT = ("ACK", "CANCEL")
"""Methods that carry no Security-Verify and no option tags (RFC 3329 2.6)."""


class NotRegistered(NoAnswer):
    """There is no set of SAs that could carry it."""


@dataclass(slots=True, eq=False, kw_only=True)
class Sent:
    """A request on its way: what a CANCEL, or the same ACK again, needs to take the same one."""

    request: Request
    over: SecuritySet
    tcp: bool
    transaction: Transaction[Flow] | None = None


class Line:
    """What one registered phone says. `registered` is what its last 200 to REGISTER told, None before."""

    def __init__(
        self,
        settings: UeSettings,
        identity: Identity,
        gm: Gm,
        diary: Diary,
        random_octets: Callable[[int], bytes],
    ) -> None:
        self.settings = settings
        self.diary = diary
        self.registered: Registered | None = None
        self._identity = identity
        self._gm = gm
        self._random_octets = random_octets
        self._late: set[asyncio.TimerHandle] = set()

    @property
    def me(self) -> str:
        """The URI we call ourselves: the first of P-Associated-URI, else the one we registered."""
        told = self.registered.associated_uris if self.registered else ()
        return told[0] if told else self._identity.impu

    @property
    def sender(self) -> str:
        """From, without a tag."""
        return f"<{other_user(self.me) if self.has(Fault.FOREIGN_IDENTITY) else self.me}>"

    @property
    def contact(self) -> Header:
        """Where requests in a dialog shall come: port_us, as registered."""
        over = self._gm.in_use
        port = over.offer.port_us if over else self.settings.port
        tcp = ";transport=tcp" if self.settings.tcp else ""
        return header("Contact", f"<sip:{bracketed(self.settings.address)}:{port}{tcp}>;{FEATURES}")

    @property
    def realm(self) -> str:
        return self._identity.realm

    def token(self) -> str:
        """For tags, branches and Call-IDs."""
        return self._random_octets(8).hex()

    def has(self, fault: Fault) -> bool:
        return fault in self.settings.faults

    def draft(
        self, method: str, uri: str, *, headers: Iterable[Header] = (), content_type: str = "", body: bytes = b""
    ) -> Draft:
        """A request outside every dialog, to this URI."""
        return Draft(
            method=method,
            uri=uri,
            sender=f"{self.sender};tag={self.token()}",
            recipient=f"<{uri}>",
            call_id=f"{self.token()}@{bracketed(self.settings.address)}",
            cseq=1,
            headers=tuple(headers),
            content_type=content_type,
            body=body,
        )

    # Sending

    async def ask(self, draft: Draft, *, on_sent: Callable[[Sent], None] = lambda sent: None) -> Response:
        """Send a request that is no INVITE and wait for its final response. Raises NoAnswer."""
        sent = self._write(draft)
        on_sent(sent)
        return await self._final(sent)

    async def cancel(self, sent: Sent) -> Response:
        """Take an INVITE back, by the way it went (RFC 3261 9.1). Raises NoAnswer."""
        invite = sent.request
        kept = [item for item in invite.headers if item.name in ("from", "to", "call-id", "route", "max-forwards")]
        number = (invite.first("cseq") or "").split()[0]
        headers = [invite.headers[0], *kept, header("CSeq", f"{number} CANCEL"), header("Content-Length", "0")]
        request = Request(method="CANCEL", uri=invite.uri, headers=tuple(headers))
        return await self._final(Sent(request=request, over=sent.over, tcp=sent.tcp))

    async def _final(self, sent: Sent) -> Response:
        method, patience = sent.request.method, self.settings.patience
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        def heard(response: Response) -> None:
            if response.status >= 200 and not answer.done():
                answer.set_result(response)

        def failed(why: str) -> None:
            if not answer.done():
                answer.set_exception(NoAnswer(f"no answer to {method}: {why}"))

        self._start(sent, Listener(on_response=heard, on_failure=failed))
        try:
            async with asyncio.timeout(patience):
                return await answer
        except TimeoutError:
            raise NoAnswer(f"no answer to {method} in {patience:g} s") from None
        finally:
            if not answer.done() or answer.cancelled():
                self.abandon(sent)

    def begin(self, draft: Draft, listener: Listener) -> Sent:
        """Send a request and go on. Raises NotRegistered."""
        sent = self._write(draft)
        self._start(sent, listener)
        return sent

    def _start(self, sent: Sent, listener: Listener) -> None:
        def heard(response: Response) -> None:
            for each in response_complaints(response, sent.request, sent.over):
                self.diary.complain(each)
            listener.on_response(response)

        watched = Listener(on_response=heard, on_failure=listener.on_failure, on_end=listener.on_end)
        sent.transaction = self._gm.begin(sent.request, sent.over, watched, tcp=sent.tcp)
        if sent.tcp and self.has(Fault.TCP_RESET):
            asyncio.get_running_loop().call_later(0.05, lambda: self._gm.hang_up(sent.over, reset=True))

    def abandon(self, sent: Sent) -> None:
        """Send a request no more; its listener hears nothing more."""
        if sent.transaction is not None:
            self._gm.abandon(sent.transaction)

    def acknowledge(self, draft: Draft) -> Sent:
        """Send the ACK of a 2xx. Raises NotRegistered."""
        sent = self._write(draft)
        self._gm.transmit(sent.request, sent.over, tcp=sent.tcp)
        return sent

    def again(self, sent: Sent) -> None:
        """The same ACK once more, if its set is still there."""
        if sent.over in self._gm.sets:
            self._gm.transmit(sent.request, sent.over, tcp=sent.tcp, again=True)

    def _write(self, draft: Draft) -> Sent:
        over = self._gm.in_use
        if over is None:
            raise NotRegistered(f"{draft.method} needs a registration with SAs; there is none")
        headers = [header("Max-Forwards", "70")]
        headers += [header("Route", value) for value in self._route(draft, over)]
        headers += [
            header("From", draft.sender),
            header("To", draft.recipient),
            header("Call-ID", draft.call_id),
            header("CSeq", f"{draft.cseq} {draft.method}"),
            *draft.headers,
        ]
        if draft.route is None:
            headers += self._identities()
        if draft.method not in WITHOUT_AGREEMENT:
            headers += self._agreement(over)
        if self.has(Fault.FORBIDDEN_HEADERS):
            headers += [header(name, value) for name, value in FORBIDDEN]
        headers.append(header("User-Agent", USER_AGENT))
        if draft.content_type:
            headers.append(header("Content-Type", draft.content_type))
        headers.append(header("Content-Length", str(len(draft.body))))
        branch = f"z9hG4bK{self.token()}"

        def request(transport: str) -> Request:
            sent_by = f"{bracketed(self.settings.address)}:{over.offer.port_us}"
            via = header("Via", f"SIP/2.0/{transport} {sent_by};branch={branch}")
            return Request(method=draft.method, uri=draft.uri, headers=(via, *headers), body=draft.body)

        settings = self.settings
        made = request("UDP")
        tcp = settings.tcp or (settings.large_over_tcp and len(made.to_bytes()) > LARGE)
        return Sent(request=request("TCP") if tcp else made, over=over, tcp=tcp)

    def _route(self, draft: Draft, over: SecuritySet) -> tuple[str, ...]:
        if draft.route is not None:
            return draft.route
        told = self.registered.service_route if self.registered else ()
        if self.has(Fault.ROUTE_SKIPS_SERVICE_ROUTE):
            told = ()
        if self.has(Fault.ROUTE_OF_ANOTHER):
            told = (ANOTHER_ROUTE,)
        return (f"<sip:{bracketed(over.pcscf)}:{over.agreed.port_ps};lr>", *told)

    def _identities(self) -> list[Header]:
        if not self.has(Fault.FOREIGN_IDENTITY):
            return [header("P-Preferred-Identity", f"<{self.me}>")]
        stranger = f"<{other_user(self.me)}>"
        return [header("P-Preferred-Identity", stranger), header("P-Asserted-Identity", stranger)]

    def _agreement(self, over: SecuritySet) -> list[Header]:
        headers = [
            header("P-Access-Network-Info", ACCESS_NETWORK),
            header("Require", "sec-agree"),
            header("Proxy-Require", "sec-agree"),
        ]
        if not self.has(Fault.DROP_SECURITY_VERIFY):
            verify = edited(over.server) if self.has(Fault.EDIT_SECURITY_VERIFY) else over.server
            headers.append(header("Security-Verify", verify))
        return headers

    # Answering

    def reply(
        self,
        transaction: Transaction[Flow],
        status: int,
        *,
        headers: Iterable[Header] = (),
        tag: str = "",
        content_type: str = "",
        body: bytes = b"",
    ) -> None:
        """Answer a request of the network; `tag` is that of the dialog, else one is made."""
        if self.has(Fault.SILENT):
            return
        more = [*headers, header("P-Access-Network-Info", ACCESS_NETWORK)] if status > 100 else list(headers)
        if self.has(Fault.FORBIDDEN_HEADERS):
            more += [header(name, value) for name, value in FORBIDDEN]
        if body:
            more.append(header("Content-Type", content_type))
        to_tag = (tag or self.token()) if status > 100 else ""
        reason = PHRASES.get(status, "")
        response = response_to(transaction.request, status, reason=reason, headers=more, to_tag=to_tag, body=body)
        if not self.has(Fault.LATE_ANSWER):
            self._gm.reply(transaction, response)
            return
        late = asyncio.get_running_loop().call_later(self.settings.late, self._gm.reply, transaction, response)
        self._late = {each for each in self._late if not each.cancelled() and each.when() > late.when() - 60}
        self._late.add(late)

    def close(self) -> None:
        """Forget late answers."""
        for each in self._late:
            each.cancel()
        self._late.clear()
