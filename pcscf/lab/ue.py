"""A UE with AKA and IPsec of its own (TS 24.229 5.1.1, TS 33.203 7, digest C11): a phone without a radio.

Here is registering: what is sent when, inside which set of SAs. Texts are `handset`, the agreement is `agreement`,
the card is `usim`, sockets and SAs are `gm`. Calls and messages go over `line`, what comes in is `reception`'s. Wrong
behaviour on demand is `Fault`.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from pcscf.keylog import KeyLog
from pcscf.lab import handset
from pcscf.lab.agreement import Offer, SecuritySet, read_server
from pcscf.lab.call import Call
from pcscf.lab.callee import Answering, IncomingCall
from pcscf.lab.caller import OutgoingCall
from pcscf.lab.diary import Diary
from pcscf.lab.endpoint import NoAnswer
from pcscf.lab.fault import Fault, edited, other_user, spoiled
from pcscf.lab.gm import Gm
from pcscf.lab.handset import BadChallenge, Challenge, Identity, Origin
from pcscf.lab.line import Line
from pcscf.lab.outcome import Outcome, Timings
from pcscf.lab.phone import UeSettings, card
from pcscf.lab.reception import Reception
from pcscf.lab.usim import Answer, MacFailure, SyncFailure
from pcscf.lab.watching import Todo, Watch
from pcscf.sip.message import Request, Response
from pcscf.sip.parse import ParseError
from xfrm.backend import Backend
from xfrm.model import XfrmError

TEMP_LIFETIME = 240
"""Seconds; reg-await-auth (TS 24.229 7.8)."""
LIFETIME_MARGIN = 30
"""Seconds an SA outlives its registration (TS 24.229 5.1.1)."""
CHALLENGES = 2
"""Invalid ones in a row after which a UE stops (TS 24.229 5.1.1.5)."""


class Abandoned(Exception):
    """The procedure ends here; `status` is the last answer, 0 without; `str` is for people."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(slots=True, eq=False, kw_only=True)
class _Procedure:
    """One registration from its first REGISTER to its end."""

    expires: int
    begun_on: SecuritySet | None
    """The established set that carries its first REGISTER; None in clear."""
    offer: Offer
    authorization: str
    started: float
    challenged: float | None = None
    installed: float | None = None


class Ue:
    """One phone on a backend, which its owner closes (`gm.release`). Made inside a running loop.

    `diary` has all it saw on the wire and did not like, `reception` its messages and calls.
    """

    def __init__(
        self,
        settings: UeSettings,
        backend: Backend,
        *,
        random_octets: Callable[[int], bytes] = os.urandom,
        key_log: KeyLog | None = None,
    ) -> None:
        self.settings = settings
        self.diary = Diary()
        self._lost = Random(settings.seed)
        self.gm = Gm(
            backend,
            settings.address,
            settings.port,
            ports=settings.ports,
            static=settings.static,
            timers=settings.timers,
            patience=settings.patience,
            on_seen=self.diary.saw,
            on_complaint=self.diary.complain,
            on_request=lambda *arrived: self.reception.requested(*arrived),
            on_ack=lambda *arrived: self.reception.acknowledged(*arrived),
            random_octets=random_octets,
            is_lost=self._is_lost,
            key_log=key_log,
        )
        self._identity = Identity.of(settings.subscriber, settings.impu)
        self._random_octets = random_octets
        self._usim = card(settings)
        self._registered_until: float = 0.0
        self.line = Line(settings, self._identity, self.gm, self.diary, random_octets)
        self.reception = Reception(self.line)
        self._one_at_a_time = asyncio.Lock()
        self._following: set[asyncio.Task[None]] = set()
        self._forget()

    async def start(self) -> None:
        """Bind every port and protect the protected ones. Raises OSError, XfrmError."""
        await self.gm.start()

    async def close(self) -> None:
        """Stop without a word to the network; no SA of ours stays."""
        for task in self._following:
            task.cancel()
        self.line.close()
        self.reception.close()
        await self.gm.close()

    def set_faults(self, faults: frozenset[Fault]) -> None:
        """Be wrong in these ways from now on. Those of the card count from the beginning only."""
        self.settings = self.line.settings = replace(self.settings, faults=faults)

    @property
    def set_in_use(self) -> SecuritySet | None:
        """The set that carries what we send."""
        return self.gm.in_use

    async def register(self) -> Outcome:
        """Register in clear, as at power-on or after losing the SAs (digest F1 to F6, F12c)."""
        if self.settings.static is not None or not self.registered:
            # The old sets of a phone with static numbers cannot stay beside the new ones: it has been off.
            await self.reboot()
        return await self._run(self.settings.expires, None)

    async def reregister(self) -> Outcome:
        """Register again inside the set in use; whether it is challenged is the core's affair (digest F12a, b)."""
        return await self._run(self.settings.expires, self.set_in_use)

    async def deregister(self) -> Outcome:
        """End the registration inside the set in use (digest F13)."""
        return await self._run(0, self.set_in_use)

    async def reboot(self) -> None:
        """Lose everything but the card: sets, connections, calls, Call-ID. The network hears nothing."""
        self.reception.close()
        await self.gm.reboot()
        self._forget()

    @property
    def registered(self) -> bool:
        """Whether the last 200 to REGISTER still holds."""
        return asyncio.get_running_loop().time() < self._registered_until

    # What a phone is for

    async def message(self, to: str, body: str | bytes, content_type: str = "text/plain") -> Response:
        """Send a MESSAGE to a URI and wait for its answer; SMS over IP gives octets (RFC 3428). Raises NoAnswer."""
        octets = body.encode() if isinstance(body, str) else body
        return await self.line.ask(self.line.draft("MESSAGE", to, content_type=content_type, body=octets))

    async def options(self, to: str) -> Response:
        """Send OPTIONS to a URI and wait for its answer. Raises NoAnswer."""
        return await self.line.ask(self.line.draft("OPTIONS", to))

    def call(self, to: str, *, preconditions: bool = True) -> Call:
        """Begin a call to a URI; it goes on by itself, see `Call.until`. Raises NotRegistered."""
        call = OutgoingCall(self.line, to, preconditions=preconditions)
        self.reception.place(call)
        return call

    def answer_as(self, answering: Answering) -> None:
        """What to do with calls: those to come, and one that rings now."""
        self.reception.answering = answering
        for each in self.reception.calls:
            if isinstance(each, IncomingCall) and each.alive:
                each.answer_as(answering)

    async def subscribe(self) -> Response:
        """Watch our own registration: what the network says of it is done (TS 24.229 5.1.1.3). Raises NoAnswer."""
        watch = self.reception.watch = Watch(self.line, self._told)
        return await watch.subscribe()

    async def ask_in_clear(self, method: str) -> int:
        """Send a MESSAGE or INVITE to the port for REGISTER; the status of its answer, 0 for silence (digest A6)."""
        origin = self._origin(None)
        request = handset.clear_request(
            self._identity,
            origin,
            method=method,
            call_id=f"{self._token()}@{origin.host}",
            tag=self._token(),
            branch=f"z9hG4bK{self._token()}",
        )
        try:
            return (await self._send(request, None)).status
        except NoAnswer:
            return 0

    def _told(self, wanted: Todo, expires: int) -> None:
        """The network has said something of our registration (TS 24.229 5.1.1.5A, 5.1.1.7)."""

        async def follow() -> None:
            if wanted is Todo.REREGISTER:
                await self.reregister()
            else:
                self.reception.close()
                await self.gm.remove(self.gm.sets)
                self._forget()
                if wanted is Todo.REGISTER:
                    await self.register()

        if self._one_at_a_time.locked():
            return  # we are at it: the end of our own procedure is newer
        if wanted is Todo.REREGISTER and expires:
            self._registered_until = min(self._registered_until, asyncio.get_running_loop().time() + expires)
        task = asyncio.get_running_loop().create_task(follow())
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    # The procedure

    async def _run(self, expires: int, begun_on: SecuritySet | None) -> Outcome:
        async with self._one_at_a_time:  # TS 33.203 7.4.1a
            return await self._run_alone(expires, begun_on)

    async def _run_alone(self, expires: int, begun_on: SecuritySet | None) -> Outcome:
        mark = self.diary.mark
        self.gm.prune()
        first = self._authorization if begun_on is not None else ""
        procedure = _Procedure(
            expires=expires,
            begun_on=begun_on,
            offer=self._offer(),
            authorization=first or handset.credentials(self._identity, None),
            started=asyncio.get_running_loop().time(),
        )
        before = list(self.gm.sets)
        clear_request_status = None
        try:
            response, used = await self._register(procedure)
            outcome = await self._accepted(procedure, response, used)
            for fault, method in ((Fault.NON_REGISTER_IN_CLEAR, "MESSAGE"), (Fault.CLEAR_INVITE, "INVITE")):
                if outcome.registered and fault in self.settings.faults:
                    clear_request_status = await self.ask_in_clear(method)
        except (Abandoned, NoAnswer, XfrmError, ParseError) as error:
            await self.gm.remove([each for each in self.gm.sets if each not in before])
            status = error.status if isinstance(error, Abandoned) else 0
            outcome = Outcome(registered=self.registered, status=status, reason=str(error))
        begun_at = procedure.started - self.diary.started
        return replace(
            outcome,
            sets=tuple(self.gm.sets),
            timings=Timings(
                challenged=procedure.challenged, installed=procedure.installed, ended=self._elapsed(procedure)
            ),
            ladder=tuple(replace(step, at=step.at - begun_at) for step in self.diary.steps(mark)),
            complaints=self.diary.complaints(mark),
            clear_request_status=clear_request_status,
        )

    async def _register(self, procedure: _Procedure) -> tuple[Response, SecuritySet | None]:
        """REGISTER until it is accepted: the 200, and the set it came on. Raises Abandoned, NoAnswer, XfrmError."""
        why = ""
        for _ in range(CHALLENGES):
            response = await self._unanswering(procedure)
            if response.status == 200:
                return response, procedure.begun_on
            if response.status != 401:
                raise Abandoned(response.status, f"refused: {response.status} {response.reason}")
            procedure.challenged = self._elapsed(procedure)
            if Fault.IGNORE_CHALLENGE in self.settings.faults:
                raise Abandoned(401, "the challenge is ignored, on demand")
            try:
                challenge, complaints = handset.read_challenge(response, self._identity)
            except BadChallenge as error:
                raise Abandoned(401, str(error)) from error
            self._complain(complaints)
            try:
                answer = self._usim.authenticate(challenge.rand, challenge.autn)
            except MacFailure as error:
                why = str(error)
                procedure.authorization = handset.credentials(self._identity, challenge)
            except SyncFailure as error:
                why = str(error)
                procedure.authorization = handset.credentials(
                    self._identity, challenge, auts=error.auts, cnonce=self._token()
                )
            else:
                return await self._answer(procedure, response, challenge, answer)
            procedure.offer = self._offer()  # new SPIs and port_uc (digest A9, C11)
        raise Abandoned(401, f"{CHALLENGES} invalid challenges in a row; the last: {why}")

    async def _unanswering(self, procedure: _Procedure) -> Response:
        """A REGISTER that answers no good challenge: in clear or on the established set. Raises NoAnswer."""
        over = procedure.begun_on
        agree = Fault.NO_SEC_AGREE not in self.settings.faults
        request = self._request(
            procedure,
            over,
            authorization=procedure.authorization,
            client=procedure.offer.header_lines() if agree else [],
            verify=over.server if over else "",
        )
        return await self._send(request, over)

    async def _answer(
        self, procedure: _Procedure, unauthorized: Response, challenge: Challenge, answer: Answer
    ) -> tuple[Response, SecuritySet | None]:
        """Agree, install the SAs and answer inside them (digest F5). Raises Abandoned, NoAnswer, XfrmError."""
        faults, identity = self.settings.faults, self._identity
        if Fault.FOREIGN_IMPI in faults:
            identity = replace(identity, impi=self.settings.foreign_impi or other_user(identity.impi))
        res = spoiled(answer.res) if Fault.WRONG_RES in faults else answer.res
        procedure.authorization = handset.credentials(identity, challenge, res=res, cnonce=self._token())
        values = unauthorized.values("security-server")
        if Fault.NO_SEC_AGREE in faults and not values:
            request = self._request(procedure, None, authorization=procedure.authorization, client=[], verify="")
            return _expect_200(await self._send(request, None)), None
        new = self._install(procedure, values, answer)
        client, verify = procedure.offer.header_lines(), new.server
        if Fault.EDIT_SECURITY_CLIENT in faults:
            client = [edited(client[0]), *client[1:]]
        if Fault.EDIT_SECURITY_VERIFY in faults:
            verify = edited(verify)
        if Fault.DROP_SECURITY_VERIFY in faults:
            verify = ""
        request = self._request(procedure, new, authorization=procedure.authorization, client=client, verify=verify)
        if Fault.CLEAR_TO_PROTECTED in faults:
            settings = self.settings
            response = await self.gm.send_clear(request, settings.pcscf, new.agreed.port_ps, tcp=settings.tcp)
        else:
            response = await self._send(request, new, refused_over=procedure.begun_on)
        return _expect_200(response), new

    def _install(self, procedure: _Procedure, values: list[str], answer: Answer) -> SecuritySet:
        """Take what Security-Server offers and make the set of it. Raises Abandoned, XfrmError."""
        agreed, complaints = read_server(values, procedure.offer)
        self._complain(complaints)
        if agreed is None:
            raise Abandoned(401, "no usable Security-Server in the 401")
        if Fault.WRONG_SPI in self.settings.faults:
            agreed = replace(agreed, spi_pc=agreed.spi_pc ^ 1, spi_ps=agreed.spi_ps ^ 1)
        new = SecuritySet(
            ue=self.settings.address,
            pcscf=self.settings.pcscf,
            offer=procedure.offer,
            agreed=agreed,
            server=", ".join(values),
        )
        keys = answer.keys
        if Fault.WRONG_IK in self.settings.faults:
            keys = replace(keys, ik=spoiled(keys.ik))
        self.gm.install(new, keys, TEMP_LIFETIME)
        procedure.installed = self._elapsed(procedure)
        return new

    async def _accepted(self, procedure: _Procedure, response: Response, used: SecuritySet | None) -> Outcome:
        """A 200: keep the set it came on, and what is still needed of the others (digest A8). Raises Abandoned."""
        if used is None and procedure.challenged is None:
            raise Abandoned(200, "accepted in clear without a challenge: the network has proven nothing")
        origin = self._origin(used)
        told, complaints = handset.read_registered(response, origin, procedure.expires)
        self._complain(complaints)
        if procedure.expires == 0:
            await self.gm.remove(self.gm.sets)
            self._forget()
            return Outcome(registered=False, status=200, reason="deregistered")
        self._authorization = procedure.authorization
        self.line.registered = told
        self._registered_until = asyncio.get_running_loop().time() + told.expires
        if used is not None:
            keep = {used, procedure.begun_on}
            await self.gm.remove([each for each in self.gm.sets if each not in keep])
            self.gm.extend(used, told.expires + LIFETIME_MARGIN)
            if Fault.TCP_FIN_AFTER_REGISTER in self.settings.faults:
                self.gm.hang_up(used)
            if Fault.TCP_RESET in self.settings.faults:
                self.gm.hang_up(used, reset=True)
        return Outcome(
            registered=True,
            status=200,
            reason="registered",
            expires=told.expires,
            associated_uris=told.associated_uris,
            service_route=told.service_route,
        )

    # Messages

    def _request(
        self, procedure: _Procedure, over: SecuritySet | None, *, authorization: str, client: list[str], verify: str
    ) -> Request:
        self._cseq += 1
        return handset.register_request(
            self._identity,
            self._origin(over),
            call_id=self._call_id,
            tag=self._tag,
            cseq=self._cseq,
            branch=f"z9hG4bK{self._token()}",
            expires=procedure.expires,
            authorization=authorization,
            security_client=client,
            security_verify=verify,
        )

    async def _send(
        self, request: Request, over: SecuritySet | None, *, refused_over: SecuritySet | None = None
    ) -> Response:
        """Send in clear, or inside a set, and wait; a refusal may also come on another set. Raises NoAnswer."""
        settings = self.settings
        if over is None:
            return await self.gm.send_clear(request, settings.pcscf, settings.pcscf_port, tcp=settings.tcp)
        return await self.gm.send_protected(request, over, refused_over, tcp=settings.tcp)

    def _origin(self, over: SecuritySet | None) -> Origin:
        port = over.offer.port_us if over else self.settings.port
        return Origin(address=self.settings.address, port=port, tcp=self.settings.tcp, protected=over is not None)

    def _offer(self) -> Offer:
        return self.gm.new_offer(self.settings.offers, self.settings.offer_lines)

    def _complain(self, texts: list[str]) -> None:
        for text in texts:
            self.diary.complain(text)

    def _is_lost(self) -> bool:
        return Fault.LOSE in self.settings.faults and self._lost.random() < self.settings.loss

    # Small things

    def _forget(self) -> None:
        """Be a UE that has just been switched on."""
        self._call_id = self._token()
        self._tag = self._token()
        self._cseq = 0
        self._authorization = ""
        self.line.registered = None
        self._registered_until = 0.0

    def _token(self) -> str:
        return self._random_octets(8).hex()

    def _elapsed(self, procedure: _Procedure) -> float:
        return asyncio.get_running_loop().time() - procedure.started


def _expect_200(response: Response) -> Response:
    if response.status != 200:
        raise Abandoned(response.status, f"the answer was refused: {response.status} {response.reason}")
    return response
