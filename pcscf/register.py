"""The REGISTER procedure of the P-CSCF (TS 24.229 5.2.2, TS 33.203 7.2 to 7.4; digest A6 to A10, C2 to C4).

What a REGISTER must show before the core sees it, and what the core's answer does to the sets of its user.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pcscf import aka, routing, security
from pcscf.observe import RegistrationChanged, SetEvent
from pcscf.registration import BACKSTOP, UNPROVEN, ContactKey, Registrar, SaSet, SetState
from pcscf.security import AgreementError, Chosen, Proposal
from pcscf.signalling import Signalling
from pcscf.sip.fields import Auth, parse_auth, parse_name_addr
from pcscf.sip.message import Header, Request, Response, header, response_to
from pcscf.sip.parse import ParseError
from pcscf.sip.transaction import GM_TIMERS, Transaction
from pcscf.sip.uri import parse_uri, same_uri
from pcscf.turn import Turn
from pcscf.vocabulary import Flow, InstallSecurity
from xfrm.algorithms import Pair

DEFAULT_EXPIRES = 600_000
"""Seconds, where neither side says (TS 24.229 5.1.1.2)."""


class UnsupportedExtension(AgreementError):
    """Proxy-Require names what we do not know (RFC 3261 20.29)."""

    def __init__(self, tags: Sequence[str]) -> None:
        super().__init__(420, f"Proxy-Require: {', '.join(tags)}")
        self.tags = tags


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterSettings:
    """What the operator decided about registrations."""

    core: routing.CoreSide
    next_hop: Flow
    """The flow toward the I-CSCF or S-CSCF."""
    preference: tuple[Pair, ...]
    """Acceptable pairs, the best first."""
    admit_without_ipsec: bool
    temp_lifetime: float


@dataclass(slots=True, eq=False, kw_only=True)
class Exchange:
    """One REGISTER on its way: from the UE, to the core, and its answer back."""

    request: Request
    server: Transaction[Flow]
    reply_flow: Flow
    key: ContactKey
    impu: str
    arrived_on: SaSet | None
    proposal: Proposal | None
    chosen: Chosen | None
    path_token: str


class RegisterProcedure:
    """Every REGISTER between arrival and final answer."""

    def __init__(self, turn: Turn, registrar: Registrar, signalling: Signalling, settings: RegisterSettings) -> None:
        self._turn = turn
        self._registrar = registrar
        self._signalling = signalling
        self._settings = settings
        self._exchanges: dict[Transaction[Flow], Exchange] = {}
        self._installing: dict[int, tuple[Exchange, Response]] = {}

    def arrived(self, request: Request, transaction: Transaction[Flow]) -> None:
        """A new REGISTER from a UE: refuse it or send it to the core."""
        flow = transaction.flow
        sa_set = self._signalling.sa_set_of(flow)
        reply_flow = flow
        try:
            reply_flow = self._signalling.reply_flow(request, flow)
            exchange = self._admit(request, transaction, reply_flow, sa_set)
        except AgreementError as error:
            self._reject(request, transaction, reply_flow, sa_set, error)
            return
        except ParseError as error:
            self._reject(request, transaction, reply_flow, sa_set, AgreementError(error.status, str(error)))
            return
        if sa_set is not None and sa_set.state is SetState.TEMP:
            sa_set.answering = True
        forwarded = routing.register_to_core(
            request,
            self._settings.core,
            flow,
            branch=f"z9hG4bK{self._turn.token(8)}",
            path_token=exchange.path_token,
            icid=self._turn.token(16),
            integrity_protected=_integrity(exchange),
        )
        self._exchanges[self._signalling.request(forwarded, self._settings.next_hop, self)] = exchange

    def acknowledged(self, request: Request, flow: Flow) -> None:
        raise AssertionError("no ACK follows a REGISTER")

    def answered(self, response: Response, transaction: Transaction[Flow]) -> None:
        """A response of the core."""
        exchange = self._exchanges[transaction]
        try:
            if response.status == 401:
                self._challenged(exchange, response)
            elif 200 <= response.status < 300:
                self._accepted(exchange, aka.strip_keys(response))
            elif response.status >= 300:
                self._relay(exchange, aka.strip_keys(response))
                self._authentication_failed(exchange, f"the core answered {response.status} {response.reason}")
        except ParseError as error:
            self._fail(exchange, 500, f"the core's {response.status} cannot be used: {error}")

    def unanswered(self, transaction: Transaction[Flow], why: str) -> None:
        """The core did not answer, or cannot be reached."""
        if exchange := self._exchanges.get(transaction):
            self._fail(exchange, 504, why)

    def ended(self, transaction: Transaction[Flow]) -> None:
        self._exchanges.pop(transaction, None)

    def installed(self, set_id: int) -> None:
        """The kernel has all SAs of the set: now, and not before, the challenge may leave (digest A7)."""
        exchange, response = self._installing.pop(set_id)
        sa_set = self._registrar.by_id(set_id)
        if sa_set is None:
            self._fail(exchange, 500, "the challenge was overtaken while its SAs were installed")
            return
        self._registrar.step(sa_set, SetEvent.INSTALLED, f"{sa_set.chosen.pair}: {sa_set.chosen.why}")
        self._relay(exchange, response, [header("Security-Server", sa_set.security_server)])

    def refused(self, set_id: int, reason: str) -> None:
        """The kernel refused an SA: the challenge is not sent."""
        exchange, _ = self._installing.pop(set_id)
        sa_set = self._registrar.by_id(set_id)
        if sa_set is not None:
            self._registrar.step(sa_set, SetEvent.REFUSED_BY_KERNEL, reason)
        self._fail(exchange, 500, f"the SAs could not be installed: {reason}")

    def _admit(
        self, request: Request, transaction: Transaction[Flow], reply_flow: Flow, sa_set: SaSet | None
    ) -> Exchange:
        """Check a REGISTER before the core sees it (digest C2). Raises AgreementError or ParseError."""
        flow = transaction.flow
        if routing.hops_left(request) == 0:
            raise AgreementError(483, "Max-Forwards is 0")
        unsupported = [tag for tag in routing.option_tags(request.values("proxy-require")) if tag != routing.SEC_AGREE]
        if unsupported:
            raise UnsupportedExtension(unsupported)
        credentials = _credentials(request)
        address_of_record = parse_name_addr(request.first("to") or "").uri
        impi = credentials.param("username") if credentials else _implied_impi(address_of_record)
        if not impi:
            raise AgreementError(400, "the Authorization header has no username")
        if credentials is None and not self._settings.admit_without_ipsec:
            raise AgreementError(403, "REGISTER without Authorization: IMS AKA needs one (TS 24.229 5.2.2)")
        key = ContactKey(impi, flow.remote, _instance(request))
        client_lines = request.lines("security-client")
        proposal = chosen = None
        if sa_set is not None:
            self._check_protected(request, credentials, address_of_record, sa_set)
            key = sa_set.registration.key
            proposal = sa_set.proposal
            if sa_set.state is not SetState.TEMP:
                proposal = security.parse_proposal(client_lines)
                chosen = security.choose(proposal, self._settings.preference)
        elif client_lines:
            proposal = security.parse_proposal(client_lines)
            chosen = security.choose(proposal, self._settings.preference)
            self._restart(key, credentials)
        elif not self._settings.admit_without_ipsec:
            asked = routing.option_tags(request.values("supported"))
            raise AgreementError(
                494 if routing.SEC_AGREE in asked else 421, "REGISTER without Security-Client; IPsec is required here"
            )
        registration = self._registrar.find(key)
        return Exchange(
            request=request,
            server=transaction,
            reply_flow=reply_flow,
            key=key,
            impu=address_of_record,
            arrived_on=sa_set,
            proposal=proposal,
            chosen=chosen,
            path_token=registration.path_token if registration else f"term-{self._turn.token(8)}",
        )

    def _check_protected(
        self, request: Request, credentials: Auth | None, address_of_record: str, sa_set: SaSet
    ) -> None:
        """Check a REGISTER that came inside ESP (digest A6, A7 step 6, C2 steps 3 and 5). Raises AgreementError."""
        registration = sa_set.registration
        if sa_set.state not in (SetState.TEMP, SetState.ACTIVE):
            raise AgreementError(403, f"REGISTER on a set of SAs that is {sa_set.state.value}")
        if not routing.via_address_is(request, sa_set.parameters.ue):
            raise AgreementError(400, f"the Via names another address than {sa_set.parameters.ue}")
        if credentials is None or credentials.param("username") != registration.key.impi:
            raise AgreementError(403, "Authorization names another user than the SA belongs to")
        security.check_verify(request.lines("security-verify"), sa_set.security_server)
        if sa_set.state is SetState.TEMP:
            security.check_repeated_client(request.lines("security-client"), sa_set.proposal)
            if credentials.param("nonce") != sa_set.nonce or not credentials.param("response"):
                raise AgreementError(403, "only the answer to this challenge may come on a temporary SA")
            identities = [sa_set.impu]
        else:
            identities = [sa_set.impu, *registration.associated_uris]
        wanted = parse_uri(address_of_record)
        if not any(same_uri(wanted, parse_uri(identity)) for identity in identities):
            raise AgreementError(403, f"{address_of_record} is not an identity of the user the SA belongs to")

    def _restart(self, key: ContactKey, credentials: Auth | None) -> None:
        """A UE that found the network's MAC or SQN wrong starts anew in clear: its challenge is void (digest A9).

        Only a message that knows the challenge can do this; anything else waits for the core's next challenge.
        """
        registration = self._registrar.find(key)
        waiting = registration.unproven if registration else None
        if waiting is None or credentials is None or credentials.param("nonce") != waiting.nonce:
            return
        synchronise = credentials.param("auts") is not None
        if synchronise or not credentials.param("response"):
            why = "synchronisation failure (AUTS)" if synchronise else "the UE found the network's MAC wrong"
            self._registrar.step(waiting, SetEvent.RESTARTED, why)

    def _reject(
        self,
        request: Request,
        transaction: Transaction[Flow],
        flow: Flow,
        sa_set: SaSet | None,
        error: AgreementError,
    ) -> None:
        """Answer a REGISTER that goes no further; a broken agreement ends the temporary set (digest A9)."""
        extra: list[Header] = []
        if error.status in (421, 494):
            sent = None if sa_set is None else sa_set.security_server
            extra.append(header("Security-Server", sent or security.server_header(self._settings.preference, None)))
            extra.append(header("Require", routing.SEC_AGREE))
        elif error.status == 503:
            extra.append(header("Retry-After", "5"))
        elif isinstance(error, UnsupportedExtension):
            extra.append(header("Unsupported", ", ".join(error.tags)))
        self._turn.problem(
            f"REGISTER refused with {error.status}: {error}", flow, sa_set.registration.key.impi if sa_set else ""
        )
        response = response_to(request, error.status, headers=extra, to_tag=self._turn.token(4))
        self._signalling.reply(transaction, flow, response)
        if sa_set is not None and sa_set.state is SetState.TEMP and not sa_set.answering:
            self._registrar.step(sa_set, SetEvent.DISAGREED, str(error), linger=_linger(flow))

    # Answers of the core

    def _challenged(self, exchange: Exchange, response: Response) -> None:
        """401: keys out, SAs in, and nothing to the UE before the kernel has them all (digest A7, C3)."""
        if exchange.arrived_on is not None and exchange.arrived_on.state is not SetState.ACTIVE:
            # The 401 would need SAs beside the ones it answers on, with the UE's SPIs in both.
            self._fail(exchange, 403, "the core challenged the answer to its own challenge")
            return
        if exchange.proposal is None or exchange.chosen is None:
            self._relay(exchange, aka.strip_keys(response))
            return
        former = self._registrar.find(exchange.key)
        for old in tuple(former.sets) if former else ():
            if old.state in UNPROVEN or old.state is SetState.CLOSING:
                self._registrar.step(old, SetEvent.SUPERSEDED, "a newer challenge came")
        if crowded := self._registrar.crowded_out(exchange.key.address):
            self._registrar.step(crowded, SetEvent.SUPERSEDED, "too many unanswered challenges at this address")
        try:
            challenge = aka.take_challenge(response)
            ends = self._registrar.parameters_for(exchange.key, exchange.proposal, exchange.server.flow.local)
        except aka.ChallengeError as error:
            self._fail(exchange, 500, str(error))
            return
        except AgreementError as error:
            self._fail(exchange, error.status, str(error))
            return
        sa_set = self._registrar.add(
            self._registrar.obtain(exchange.key, exchange.path_token),
            parameters=ends,
            chosen=exchange.chosen,
            proposal=exchange.proposal,
            security_server=security.server_header(self._settings.preference, ends),
            impu=exchange.impu,
            nonce=challenge.nonce,
            expires=self._turn.now + self._settings.temp_lifetime,
        )
        self._installing[sa_set.id] = (exchange, aka.strip_keys(response))
        lifetime = int(self._settings.temp_lifetime) + BACKSTOP
        sas = security.associations(ends, exchange.chosen.pair, challenge.keys, lifetime)
        self._turn.do(InstallSecurity(sa_set.id, sas))

    def _accepted(self, exchange: Exchange, response: Response) -> None:
        """200: the set the REGISTER came on is the UE's now, or ends with its registration (digest C4, C5)."""
        sa_set = exchange.arrived_on
        linger = _linger(exchange.reply_flow)
        if sa_set is not None and sa_set.state not in (SetState.TEMP, SetState.ACTIVE):
            self._fail(exchange, 504, f"the core accepted too late: the set of SAs is {sa_set.state.value}")
            return
        if sa_set is None and exchange.proposal is not None:
            self._fail(exchange, 500, "the core accepted a REGISTER in clear without a challenge")
            return
        granted = _granted(exchange.request, response)
        associated = tuple(parse_name_addr(value).uri for value in response.values("p-associated-uri"))
        self._relay(exchange, response)
        registration = self._registrar.obtain(exchange.key, exchange.path_token)
        if granted == 0:
            for each in list(registration.sets):
                self._registrar.step(each, SetEvent.DEREGISTERED, "deregistered by the UE", linger=linger)
            self._registrar.unregister(registration, "deregistered by the UE")
            return
        watched = registration.registered
        registration.expires = self._turn.now + granted
        registration.service_route = tuple(response.values("service-route"))
        registration.associated_uris = associated
        if not watched:
            self._registrar.watch(registration)
        detail = f"{exchange.impu} for {granted} s"
        self._turn.note(RegistrationChanged(at=self._turn.now, impi=exchange.key.impi, registered=True, detail=detail))
        if sa_set is not None:
            self._registrar.step(sa_set, SetEvent.AUTHENTICATED, detail, linger=linger)
            for former in self._registrar.moved_from(registration):
                for each in list(former.sets):
                    self._registrar.step(each, SetEvent.SUPERSEDED, "the UE registered from another address")
                self._registrar.unregister(former, "the UE registered from another address")

    def _authentication_failed(self, exchange: Exchange, why: str) -> None:
        sa_set = exchange.arrived_on
        if sa_set is not None and sa_set.state is SetState.TEMP:
            linger = _linger(exchange.reply_flow)
            self._registrar.step(sa_set, SetEvent.AUTHENTICATION_FAILED, why, linger=linger)

    def _relay(self, exchange: Exchange, response: Response, extra: Sequence[Header] = ()) -> None:
        """Pass a response on where its request came from. Its keys are out already."""
        self._signalling.reply(exchange.server, exchange.reply_flow, routing.response_to_ue(response, extra))

    def _fail(self, exchange: Exchange, status: int, why: str) -> None:
        """End a REGISTER with an answer of our own, on the SA it came on."""
        self._turn.problem(f"REGISTER failed with {status}: {why}", None, exchange.key.impi)
        extra = [header("Retry-After", "5")] if status == 503 else []
        response = response_to(exchange.request, status, headers=extra, to_tag=self._turn.token(4))
        self._signalling.reply(exchange.server, exchange.reply_flow, response)
        self._authentication_failed(exchange, why)


def _integrity(exchange: Exchange) -> str:
    """The indicator of digest A10. A UE that is admitted without IPsec is not under IMS AKA: none (A14)."""
    if exchange.arrived_on is not None:
        return "yes"
    return "" if exchange.proposal is None else "no"


def _linger(flow: Flow) -> float:
    """Timer J of the Gm profile; over TCP it is 0, but the last bytes must still arrive, so T4."""
    return GM_TIMERS.t4 if flow.transport == "TCP" else GM_TIMERS.timeout


def _credentials(request: Request) -> Auth | None:
    """The Digest credentials. Raises AgreementError(400) for more than one."""
    found = [auth for auth in map(parse_auth, request.lines("authorization")) if auth.scheme == "digest"]
    if len(found) > 1:
        raise AgreementError(400, "two Digest Authorization headers")
    return found[0] if found else None


def _implied_impi(address_of_record: str) -> str:
    uri = parse_uri(address_of_record)
    return f"{uri.user}@{uri.host}"


def _instance(request: Request) -> str:
    """The `+sip.instance` of the contact, "" without (RFC 5626 4.1)."""
    for value in request.values("contact"):
        instance = parse_name_addr(value).param("+sip.instance")
        if instance:
            return instance
    return ""


def _granted(request: Request, response: Response) -> int:
    """Seconds the core registered this UE's contact for (digest C4); 0 is a deregistration. Raises nothing.

    The contact's `expires` counts first, then the Expires header of the response, then what was asked for.
    """
    asked = [value for value in request.values("contact") if value != "*"]
    try:
        wanted = parse_uri(parse_name_addr(asked[0]).uri) if asked else None
        for value in response.values("contact"):
            contact = parse_name_addr(value)
            if wanted is not None and same_uri(parse_uri(contact.uri), wanted):
                if (text := contact.param("expires")) and text.isdigit():
                    return int(text)
                break
        own = parse_name_addr(asked[0]).param("expires") if asked else None
    except ParseError:
        own = None
    for text in (response.first("expires"), own, request.first("expires")):
        if text and text.strip().isascii() and text.strip().isdigit():
            return int(text)
    return DEFAULT_EXPIRES
