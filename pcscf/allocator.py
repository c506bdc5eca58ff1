"""Which SPIs and protected ports a new set gets, which are taken, and which challenge makes room (TS 33.203 7.1, 7.2).

The ports of one UE are few, and whoever forges REGISTERs with its address and numbers takes them. So a challenge to a
REGISTER in clear that nobody has answered makes room where there is none; one that began inside ESP, or that is being
answered, never does.
"""

from collections.abc import Iterable, Sequence

from pcscf.registration import ESTABLISHED, ContactKey, Registration, SaSet, SetState
from pcscf.security import AgreementError, Parameters, Proposal
from pcscf.spis import Spis
from pcscf.turn import Turn
from xfrm.model import IPAddress, PortRange, SaId

Ports = tuple[IPAddress, int, int]
"""Where messages of a UE come from, and at which port of ours."""


class Allocator:
    """The SPIs and ports of one proxy."""

    def __init__(self, turn: Turn, *, ports_ps: PortRange, ports_pc: PortRange) -> None:
        self._ports_ps = ports_ps
        self._ports_pc = ports_pc
        self._spis = Spis(turn)
        self.by_ports: dict[Ports, SaSet] = {}
        self.by_sa: dict[SaId, SaSet] = {}

    def are_free(self, sets: Sequence[SaSet]) -> bool:
        """Whether these sets can live beside the others, and beside each other."""
        ports = {each for sa_set in sets for each in _ports(sa_set.parameters)}
        ids = {each for sa_set in sets for each in sa_set.ids}
        doubled = len(ports) < 2 * len(sets) or len(ids) < 4 * len(sets)
        return not (doubled or self.by_ports.keys() & ports or self.by_sa.keys() & ids)

    def take(self, sa_set: SaSet) -> None:
        """From here on the SPIs and ports of a set are taken."""
        self.by_ports.update(dict.fromkeys(_ports(sa_set.parameters), sa_set))
        self.by_sa.update(dict.fromkeys(sa_set.ids, sa_set))
        self._spis.take((sa_set.parameters.spi_pc, sa_set.parameters.spi_ps))

    def free(self, sa_set: SaSet) -> None:
        """They are taken no more. What a bug left of an earlier try is freed."""
        for ports in _ports(sa_set.parameters):
            if self.by_ports.get(ports) is sa_set:
                del self.by_ports[ports]
        for sa_id in sa_set.ids:
            if self.by_sa.get(sa_id) is sa_set:
                del self.by_sa[sa_id]
                if sa_id.destination == sa_set.parameters.pcscf:
                    self._spis.free((sa_id.spi,))

    def check_ports(self, key: ContactKey, proposal: Proposal, *, strict: bool) -> None:
        """The UE's client port may not be that of an established SA of another user (TS 33.203 7.1 rule 3).

        An unanswered challenge keeps nobody away: it may be forged, and there is another port_ps for who comes next.
        `strict`: nor that of an established SA of its own, as the rule has it to the letter; a phone that comes back
        with its static ports is then refused until its old SAs end. Raises AgreementError(403).
        """
        for holder in self._holders(key.address, proposal.port_uc, self._ports_ps):
            if holder is None or holder.state not in ESTABLISHED:
                continue
            if holder.registration.key.impi != key.impi:
                raise AgreementError(
                    403, f"{key.address} port {proposal.port_uc} belongs to an SA of another user (TS 33.203 7.1)"
                )
            if strict:
                raise AgreementError(
                    403, f"{key.address} port {proposal.port_uc} belongs to an SA that is in use (sa_conflict = strict)"
                )

    def in_the_way(self, key: ContactKey, proposal: Proposal) -> list[SaSet]:
        """What must end before a set of these numbers can be made: the SPIs of the UE, and the last of our ports.

        Raises AgreementError where something that may stay is in the way; then nothing needs to end.
        """
        self.check_ports(key, proposal, strict=False)
        ending: dict[SaSet, None] = {}
        for spi in (proposal.spi_uc, proposal.spi_us):
            holder = self.by_sa.get(SaId(key.address, spi))
            if holder is None:
                continue
            if not _makes_room(holder):
                raise AgreementError(503, f"SPI {spi} of {key.address} is in use by an earlier SA; offer another")
            ending[holder] = None
        for ue_port, own_ports in ((proposal.port_uc, self._ports_ps), (proposal.port_us, self._ports_pc)):
            if any((key.address, ue_port, port) not in self.by_ports for port in own_ports):
                continue
            holders = [each for each in self._holders(key.address, ue_port, own_ports) if each is not None]
            if any(each in ending for each in holders):
                continue
            oldest = min(filter(_makes_room, holders), key=lambda each: each.id, default=None)
            if oldest is None:
                raise AgreementError(503, f"no free protected port toward {key.address} port {ue_port}")
            ending[oldest] = None
        return list(ending)

    def _holders(self, ue: IPAddress, ue_port: int, own_ports: Iterable[int]) -> list[SaSet | None]:
        return [self.by_ports.get((ue, ue_port, port)) for port in own_ports]

    def parameters_for(
        self, key: ContactKey, registration: Registration | None, proposal: Proposal, pcscf: IPAddress
    ) -> Parameters:
        """Pick ports and SPIs for a new set of a contact, which may have others. Raises AgreementError.

        Equal selectors never live side by side: port_pc rotates, and a UE that comes back with the port_uc of a set
        that is still alive (static ports after a reboot) gets the next port_ps, so that the old set stays untouched
        until the UE has proven itself.
        """
        ue = key.address
        port_ps = self._next_port_ps(ue, registration, proposal.port_uc)
        port_pc = self._next_port_pc(ue, registration, proposal.port_us)
        if port_ps is None or port_pc is None:
            raise AgreementError(503, f"no free protected port toward {ue} port {proposal.port_us}")
        avoid = {proposal.spi_uc, proposal.spi_us}
        spi_pc = self._spis.fresh(avoid)
        spi_ps = self._spis.fresh(avoid | {spi_pc})
        return Parameters(
            ue=ue,
            pcscf=pcscf,
            port_uc=proposal.port_uc,
            port_us=proposal.port_us,
            port_pc=port_pc,
            port_ps=port_ps,
            spi_uc=proposal.spi_uc,
            spi_us=proposal.spi_us,
            spi_pc=spi_pc,
            spi_ps=spi_ps,
        )

    def _next_port_ps(self, ue: IPAddress, registration: Registration | None, port_uc: int) -> int | None:
        """The port_ps this contact has already (TS 33.203 7.1: fixed while it is registered), else the first."""
        latest = registration.latest if registration else None
        choices = list(self._ports_ps)
        if latest is not None:
            choices.sort(key=lambda port: port != latest.parameters.port_ps)
        return next((port for port in choices if (ue, port_uc, port) not in self.by_ports), None)

    def _next_port_pc(self, ue: IPAddress, registration: Registration | None, port_us: int) -> int | None:
        count, first = self._ports_pc.count, self._ports_pc.first
        start = registration.last_port_pc + 1 - first if registration and registration.last_port_pc else 0
        choices = (first + (start + place) % count for place in range(count))
        return next((port for port in choices if (ue, port_us, port) not in self.by_ports), None)


def _makes_room(sa_set: SaSet) -> bool:
    """Whether it is a challenge in clear that nobody has answered."""
    return sa_set.state is SetState.TEMP and not sa_set.answering and not sa_set.began_inside_esp


def _ports(ends: Parameters) -> tuple[Ports, Ports]:
    return (ends.ue, ends.port_uc, ends.port_ps), (ends.ue, ends.port_us, ends.port_pc)
