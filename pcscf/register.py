"""The REGISTER procedure of the P-CSCF (TS 24.229 5.2.2, TS 33.203 7.2 to 7.4; digest A6 to A10, C2 to C4).

What a REGISTER must show before the core sees it, and what the core's answer does to the sets of its user.
"""

from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network

from pcscf import aka, routing, security
from pcscf.granted import Granted, contacts_of, first_seconds, read_granted
from pcscf.nexthop import NextHops
from pcscf.observe import NAME, OFFER, Attempt, SetEvent
from pcscf.registrar import BACKSTOP, Registrar
from pcscf.registration import ESTABLISHED, UNPROVEN, Binding, ContactKey, Registration, SaSet, SetState
from pcscf.security import AgreementError, Chosen, Proposal
from pcscf.signalling import Signalling
from pcscf.sip.fields import Auth, parse_auth, parse_name_addr
from pcscf.sip.message import Header, Request, Response, header, response_to
from pcscf.sip.parse import ParseError, without_keys_in
from pcscf.sip.transaction import Transaction
from pcscf.sip.uri import parse_uri, same_uri
from pcscf.trust import SEC_AGREE
from pcscf.turn import Turn
from pcscf.vocabulary import Flow, InstallSecurity
from xfrm.algorithms import Pair
from xfrm.model import IPAddress

TIME_TO_ANSWER = 10.0
"""Seconds that a challenge inside ESP waits for its UE before one in clear may take its place; a phone takes one."""


class UnsupportedExtension(AgreementError):
    """Proxy-Require names what we do not know (RFC 3261 20.29)."""

    def __init__(self, tags: Sequence[str]) -> None:
        super().__init__(420, f"Proxy-Require: {', '.join(tags)}")
        self.tags = tags


class Without(StrEnum):
    """What a REGISTER without Security-Client gets (RFC 3329 2.3.1)."""

    REFUSE = "refuse"
    """421, or 494 where the UE says that it knows sec-agree."""
    EXTENSION_REQUIRED = "421"
    AGREEMENT_REQUIRED = "494"
    ADMIT = "admit"
    """It registers without IPsec."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterSettings:
    """What the operator decided about registrations."""

    core: routing.CoreSide
    preference: tuple[Pair, ...]
    """Acceptable pairs, the best first."""
    without: Without
    without_by_network: tuple[tuple[IPv4Network | IPv6Network, Without], ...] = ()
    """Other answers for the UEs of these networks; the first that holds the UE's address counts."""
    strict_ports: bool = False
    """Refuse a UE that comes back with the ports of its own live SAs (digest A6 `sa_conflict`)."""
    temp_lifetime: float

    def without_ipsec(self, address: IPAddress) -> Without:
        """What a REGISTER without Security-Client from this address gets."""
        return next((each for network, each in self.without_by_network if address in network), self.without)


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
    icid: str
    began: float
    """When it came."""
    ways: list[Flow] = field(default_factory=list)
    """Where it has not been sent yet."""
    path_uri: str = ""
    """What we put into its Path."""


class RegisterProcedure:
    """Every REGISTER between arrival and final answer."""

    def __init__(
        self,
        turn: Turn,
        registrar: Registrar,
        signalling: Signalling,
        hops: NextHops,
        settings: RegisterSettings,
        on_registered: Callable[[Registration, str], None],
    ) -> None:
        self._turn = turn
        self._registrar = registrar
        self._signalling = signalling
        self._hops = hops
        self.settings = settings
        self._on_registered = on_registered
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
        if sa_set is not None:
            if sa_set.state is SetState.TEMP:
                self._registrar.answers(sa_set)
            if sa_set.state is SetState.NEW:
                self._registrar.step(sa_set, SetEvent.USED, "the UE registers on it")

        def forward(ways: list[Flow]) -> None:
            exchange.ways = ways
            self._forward(exchange, "there is no next hop toward the core")

        self._hops.to_home(forward)

    def _forward(self, exchange: Exchange, why: str) -> None:
        """Send it on the next way toward the core; if none is left it ends with `why` (RFC 3263 4.3)."""
        if not exchange.ways:
            self._fail(exchange, 504, why)
            return
        way = exchange.ways.pop(0)
        exchange.path_uri = self.settings.core.uri(exchange.path_token, way)
        forwarded = routing.register_to_core(
            exchange.request,
            self.settings.core,
            exchange.server.flow,
            way,
            branch=f"z9hG4bK{self._turn.token(8)}",
            path_uri=exchange.path_uri,
            icid=exchange.icid,
            integrity_protected=_integrity(exchange),
        )
        self._exchanges[self._signalling.request(forwarded, way, self)] = exchange

    def acknowledged(self, request: Request, flow: Flow) -> None:
        raise AssertionError("no ACK follows a REGISTER")

    def answered(self, response: Response, transaction: Transaction[Flow]) -> None:
        """A response of the core."""
        exchange = self._exchanges[transaction]
        if response.status >= 200:  # the transaction lingers, but needs no more of it
            del self._exchanges[transaction]
            self._signalling.disown(transaction)
        if response.status == 503:
            self._hops.failed(
                transaction.flow, "it answered 503", rest=first_seconds(response.first("retry-after")) or 0
            )
            if exchange.ways:
                self._forward(exchange, "")
                return
        else:
            self._hops.answered(transaction.flow)
        try:
            if response.status == 401:
                self._challenged(exchange, response)
            elif 200 <= response.status < 300:
                self._accepted(exchange, response)
            elif response.status >= 300:
                self._relay(exchange, response)
                said = without_keys_in(f"{response.reason}{_said(response)}")
                why = f"the core answered {response.status} {said}"
                self._turn.problem(f"REGISTER failed: {why}", None, exchange.key.impi)
                self._authentication_failed(exchange, why)
        except ParseError as error:
            self._fail(exchange, 500, f"the core's {response.status} cannot be used: {error}")

    def unanswered(self, transaction: Transaction[Flow], why: str) -> None:
        """The core did not answer, or cannot be reached."""
        self._hops.failed(transaction.flow, why)
        self._forward(self._exchanges[transaction], f"the core: {why}")

    def ended(self, transaction: Transaction[Flow]) -> None:
        self._exchanges.pop(transaction, None)

    @property
    def installing(self) -> Container[int]:
        """Sets whose SAs the kernel is asked for."""
        return self._installing.keys()

    def installed(self, set_id: int) -> None:
        """The kernel has all SAs of the set: now, and not before, the challenge may leave (digest A7)."""
        exchange, response = self._installing.pop(set_id)
        self._turn.message = exchange.request
        sa_set = self._registrar.by_id(set_id)
        if sa_set is None:
            self._fail(exchange, 500, "the challenge was overtaken while its SAs were installed")
            return
        self._registrar.step(sa_set, SetEvent.INSTALLED, f"{sa_set.chosen.pair}: {sa_set.chosen.why}")
        self._reply(exchange, response)
        self._turn.tally.challenge.observe(self._turn.now, self._turn.now - exchange.began)

    def refused(self, set_id: int, reason: str) -> None:
        """The kernel refused an SA: the challenge is not sent."""
        exchange, _ = self._installing.pop(set_id)
        self._turn.message = exchange.request
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
        unsupported = [tag for tag in routing.option_tags(request.values("proxy-require")) if tag != SEC_AGREE]
        if unsupported:
            raise UnsupportedExtension(unsupported)
        credentials = _credentials(request)
        address_of_record = parse_name_addr(request.first("to") or "").uri
        impi = credentials.param("username") if credentials else _implied_impi(address_of_record)
        if not impi:
            raise AgreementError(400, "the Authorization header has no username")
        without = self.settings.without_ipsec(flow.remote)
        if credentials is None and without is not Without.ADMIT:
            raise AgreementError(403, "REGISTER without Authorization: IMS AKA needs one (TS 24.229 5.2.2)")
        key = ContactKey(impi, flow.remote, _instance(request))
        client_lines = request.lines("security-client")
        self._turn.note(
            Attempt(
                self._turn.now,
                impi[:NAME],
                address_of_record[:NAME],
                flow.remote,
                0 if sa_set is None else sa_set.spi(flow.local_port, incoming=True),
                self._turn.call_id,
                credentials is not None and credentials.param("auts") is not None,
                ", ".join(client_lines)[:OFFER],
            )
        )
        proposal = chosen = None
        if sa_set is not None:
            self._check_protected(request, credentials, address_of_record, sa_set)
            key = sa_set.registration.key
            proposal = sa_set.proposal
            if sa_set.state is not SetState.TEMP:
                proposal, chosen = self._propose(key, client_lines)
                self._restart(key, credentials)
        elif client_lines:
            proposal, chosen = self._propose(key, client_lines)
            self._restart(key, credentials)
        elif without is not Without.ADMIT:
            asked = SEC_AGREE in routing.option_tags(request.values("supported"))
            status = (494 if asked else 421) if without is Without.REFUSE else int(without)
            raise AgreementError(status, "REGISTER without Security-Client; IPsec is required here")
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
            icid=self._turn.token(16),
            began=self._turn.now,
        )

    def _propose(self, key: ContactKey, lines: Sequence[str]) -> tuple[Proposal, Chosen]:
        """Read an offer and choose; its ports must be free to take (digest A6). Raises AgreementError."""
        proposal = security.parse_proposal(lines)
        chosen = security.choose(proposal, self.settings.preference)
        self._registrar.allocator.check_ports(key, proposal, strict=self.settings.strict_ports)
        return proposal, chosen

    def _check_protected(
        self, request: Request, credentials: Auth | None, address_of_record: str, sa_set: SaSet
    ) -> None:
        """Check a REGISTER that came inside ESP (digest A6, A7 step 6, C2 steps 3 and 5). Raises AgreementError."""
        registration = sa_set.registration
        if sa_set.state is not SetState.TEMP and sa_set.state not in ESTABLISHED:
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
            waiting = registration.unproven
            if waiting is not None and _answers(credentials, waiting.nonce):
                raise AgreementError(403, "the answer to a challenge belongs on its own, temporary SA")
            named = [parse_name_addr(value).uri for value in registration.associated_uris]
            identities = [sa_set.impu, *registration.bindings, *named]
        wanted = parse_uri(address_of_record)
        if not any(same_uri(wanted, parse_uri(identity)) for identity in identities):
            raise AgreementError(403, f"{address_of_record} is not an identity of the user the SA belongs to")

    def _restart(self, key: ContactKey, credentials: Auth | None) -> None:
        """A UE that found the network's MAC or SQN wrong starts anew: its challenge is void (digest A9).

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
            extra.append(header("Security-Server", sent or security.server_header(self.settings.preference, None)))
            extra.append(header("Require", SEC_AGREE))
        elif error.status == 503:
            extra.append(header("Retry-After", "5"))
        elif isinstance(error, UnsupportedExtension):
            extra.append(header("Unsupported", ", ".join(error.tags)))
        self._turn.problem(
            f"REGISTER refused with {error.status}: {error}", flow, sa_set.registration.key.impi if sa_set else ""
        )
        response = response_to(request, error.status, headers=extra, to_tag=self._turn.own_tag(request))
        self._signalling.refuse(transaction, self._refusal_flow(flow, sa_set), response)
        if sa_set is not None and sa_set.state is SetState.TEMP and not sa_set.answering:
            self._registrar.step(sa_set, SetEvent.DISAGREED, str(error), linger=self._signalling.linger(flow))

    def _refusal_flow(self, flow: Flow, sa_set: SaSet | None) -> Flow:
        """Where a refusal goes that would go on `flow`: a failed re-authentication is told on the set that stays.

        Over TCP the connection of the request is kept (digest A9, G4).
        """
        stays = sa_set.began_on if sa_set is not None and sa_set.state is SetState.TEMP else None
        if stays is None or stays.state not in ESTABLISHED or flow.transport == "TCP":
            return flow
        return self._signalling.downlink(stays)

    # Answers of the core

    def _challenged(self, exchange: Exchange, response: Response) -> None:
        """401: keys out, SAs in, and nothing to the UE before the kernel has them all (digest A7, C3)."""
        if exchange.arrived_on is not None and exchange.arrived_on.state not in ESTABLISHED:
            # The 401 would need SAs beside the ones it answers on, with the UE's SPIs in both.
            self._fail(exchange, 403, "the core challenged the answer to its own challenge")
            return
        if exchange.proposal is None or exchange.chosen is None:
            self._relay(exchange, response)
            return
        former = self._registrar.find(exchange.key)
        if former is not None and exchange.arrived_on is None and (why := self._is_guarded(former)):
            self._fail(exchange, 503, why)
            return
        for old in tuple(former.sets) if former else ():
            if old.state in UNPROVEN or old.state is SetState.CLOSING:
                self._registrar.step(old, SetEvent.SUPERSEDED, "a newer challenge came")
        try:
            challenge = aka.take_challenge(response)
            ends = self._registrar.parameters_for(exchange.key, exchange.proposal, exchange.server.flow.local)
        except aka.ChallengeError as error:
            self._fail(exchange, 500, str(error))
            return
        except AgreementError as error:
            self._fail(exchange, error.status, str(error))
            return
        if exchange.arrived_on is None and (crowded := self._registrar.pending.giving_way(exchange.key.address)):
            self._registrar.step(crowded, SetEvent.SUPERSEDED, "too many unanswered challenges")
        registration = self._registrar.obtain(exchange.key, exchange.path_token)
        sa_set = self._registrar.add(
            registration,
            parameters=ends,
            chosen=exchange.chosen,
            proposal=exchange.proposal,
            impu=exchange.impu,
            nonce=challenge.nonce,
            expires=self._turn.now + self.settings.temp_lifetime,
            began_on=exchange.arrived_on,
        )
        told = header("Security-Server", sa_set.new_security_server())
        to_ue = routing.response_to_ue(exchange.request, response, [told])
        self._installing[sa_set.id] = (exchange, to_ue)
        lifetime = int(self.settings.temp_lifetime) + BACKSTOP
        sas = security.associations(ends, exchange.chosen.pair, challenge.keys, lifetime)
        self._turn.do(InstallSecurity(sa_set.id, sas))

    def _is_guarded(self, registration: Registration) -> str:
        """Why a challenge in clear may not take the place of the one there is; "" if it may.

        Anybody can send a REGISTER in clear with the names of a phone. A challenge that is being answered stays, and so
        does one that began inside ESP, for as long as a phone that is there takes to answer. After that the phone may
        have restarted: it was told to come again, and gets in.
        """
        for each in registration.sets:
            if each.state not in UNPROVEN:
                continue
            if each.answering:
                return "the challenge before is being answered"
            if each.began_inside_esp and self._turn.now - each.made < TIME_TO_ANSWER:
                return "the UE is being challenged inside ESP"
        return ""

    def _accepted(self, exchange: Exchange, response: Response) -> None:
        """200: the set the REGISTER came on is the UE's now, or ends with its registration (digest C4, C5)."""
        sa_set = exchange.arrived_on
        if sa_set is not None and sa_set.state is not SetState.TEMP and sa_set.state not in ESTABLISHED:
            self._fail(exchange, 504, f"the core accepted too late: the set of SAs is {sa_set.state.value}")
            return
        if sa_set is None and exchange.proposal is not None:
            self._fail(exchange, 500, "the core accepted a REGISTER in clear without a challenge")
            return
        others = {each.contact for each in self._registrar.contacts_of(exchange.key.impi) if each.key != exchange.key}
        granted = read_granted(exchange.request, response, exchange.key.address, others)
        associated = tuple(response.values("p-associated-uri"))
        for value in associated:
            parse_uri(parse_name_addr(value).uri)  # nothing is kept that could not be read later
        self._relay(exchange, response)
        registration = self._registrar.obtain(exchange.key, exchange.path_token)
        if granted.seconds:
            self._bound(exchange, registration, response, granted, associated)
        self._unbound(exchange, registration, granted)
        if sa_set is not None and sa_set.state is SetState.TEMP:
            self._registrar.step(
                sa_set,
                SetEvent.DISAGREED,
                "it registered no contact",
                linger=self._signalling.linger(exchange.reply_flow),
            )

    def _bound(
        self,
        exchange: Exchange,
        registration: Registration,
        response: Response,
        granted: Granted,
        associated: tuple[str, ...],
    ) -> None:
        """The contact is registered, for the first time or again."""
        sa_set, registrar = exchange.arrived_on, self._registrar
        registration.service_route = tuple(response.values("service-route"))
        registration.contact = granted.contact
        registration.path_uri = exchange.path_uri
        expires = self._turn.now + granted.seconds
        binding = Binding(expires=expires, associated_uris=associated or (f"<{exchange.impu}>",))
        registrar.bind(registration, exchange.impu, binding)
        detail = f"{exchange.impu} for {granted.seconds} s"
        if sa_set is None:
            registrar.admit_in_clear(registration, exchange.server.flow)
            for each in tuple(registration.sets):
                registrar.step(each, SetEvent.SUPERSEDED, "the UE registered without IPsec")
        elif sa_set.state is not SetState.TEMP:
            # Not challenged: what it offered is dropped, the latest set lives on (digest C4 steps 4 and 7).
            if latest := registration.latest:
                registrar.step(latest, SetEvent.REFRESHED, detail)
        elif sa_set.began_inside_esp:
            registration.to_challenge = False
            registrar.step(sa_set, SetEvent.REAUTHENTICATED, detail)
        else:
            registration.to_challenge = False
            registrar.step(sa_set, SetEvent.AUTHENTICATED, detail)
        for former in registrar.moved_from(registration):
            for each in tuple(former.sets):
                registrar.step(each, SetEvent.SUPERSEDED, "the UE registered from another address")
            registrar.unregister(former, "the UE registered from another address")
        self._on_registered(registration, exchange.path_uri)

    def _unbound(self, exchange: Exchange, registration: Registration, granted: Granted) -> None:
        """Contacts that this REGISTER took out: its own, another of the user, or all (digest C5)."""
        ended = []
        for each in dict.fromkeys((*self._registrar.contacts_of(exchange.key.impi), registration)):
            own = each is registration and not granted.seconds and granted.own
            if own or granted.all or each.contact in granted.removed:
                last = self._registrar.unbind(each, exchange.impu, "deregistered by the UE")
                if last or (each is registration and not each.registered):
                    ended.append(each)
        linger = self._signalling.linger(exchange.reply_flow)
        for each in ended:
            for sa_set in tuple(each.sets):
                self._registrar.step(sa_set, SetEvent.DEREGISTERED, "deregistered by the UE", linger=linger)
            self._registrar.admit_in_clear(each, None)
            self._registrar.forget_if_idle(each)

    def _authentication_failed(self, exchange: Exchange, why: str) -> None:
        sa_set = exchange.arrived_on
        if sa_set is not None and sa_set.state is SetState.TEMP:
            linger = self._signalling.linger(exchange.reply_flow)
            self._registrar.step(sa_set, SetEvent.AUTHENTICATION_FAILED, why, linger=linger)

    def _relay(self, exchange: Exchange, response: Response) -> None:
        """Pass a response of the core on."""
        self._reply(exchange, routing.response_to_ue(exchange.request, response))

    def _reply(self, exchange: Exchange, response: Response) -> None:
        """Answer where the request came from.

        Of a refusal in clear nothing is kept: who asks again is judged again. A challenge is, for a second one would
        undo it.
        """
        flow = exchange.reply_flow
        if response.status >= 300:
            flow = self._refusal_flow(flow, exchange.arrived_on)
        forget = response.status >= 300 and response.status != 401
        self._signalling.reply(exchange.server, flow, response, forget=forget)

    def _fail(self, exchange: Exchange, status: int, why: str) -> None:
        """End a REGISTER with an answer of our own, on the SA it came on."""
        self._turn.problem(f"REGISTER failed with {status}: {why}", None, exchange.key.impi)
        extra = [header("Retry-After", "5")] if status == 503 else []
        tag = self._turn.own_tag(exchange.request)
        response = response_to(exchange.request, status, headers=extra, to_tag=tag)
        flow = self._refusal_flow(exchange.reply_flow, exchange.arrived_on)
        self._signalling.refuse(exchange.server, flow, response)
        self._authentication_failed(exchange, why)


def _said(response: Response) -> str:
    """What else the core says of its reason (RFC 3261 20.43, RFC 3326)."""
    words = [f"{name.title()}: {value}" for name in ("warning", "reason") if (value := response.first(name))]
    return f" ({'; '.join(words)})" if words else ""


def _integrity(exchange: Exchange) -> str:
    """The indicator of digest A10. A UE that is admitted without IPsec is not under IMS AKA: none (A14)."""
    sa_set = exchange.arrived_on
    if sa_set is None:
        return "" if exchange.proposal is None else "no"
    if sa_set.state is SetState.TEMP:
        return "yes"
    registration = sa_set.registration
    return "yes" if sa_set is registration.latest and not registration.to_challenge else "no"


def _credentials(request: Request) -> Auth | None:
    """The Digest credentials. Raises AgreementError(400) for more than one, or a parameter twice."""
    found = [auth for auth in map(parse_auth, request.lines("authorization")) if auth.scheme == "digest"]
    if len(found) > 1:
        raise AgreementError(400, "two Digest Authorization headers")
    names = [name for auth in found for name, _ in auth.params]
    if len(set(names)) < len(names):  # who reads the other one would see another user
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise AgreementError(400, f"the Authorization header has {without_keys_in(twice[:40])} twice")
    return found[0] if found else None


def _answers(credentials: Auth, nonce: str) -> bool:
    """Whether these are the answer to a challenge, and not a report of its failure."""
    return credentials.param("nonce") == nonce and bool(credentials.param("response")) and not credentials.param("auts")


def _implied_impi(address_of_record: str) -> str:
    uri = parse_uri(address_of_record)
    return f"{uri.user}@{uri.host}"


def _instance(request: Request) -> str:
    """The `+sip.instance` of the contact, "" without (RFC 5626 4.1)."""
    for contact in contacts_of(request):
        if instance := contact.param("+sip.instance"):
            return instance
    return ""
