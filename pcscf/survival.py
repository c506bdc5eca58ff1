"""What outlives the process, as plain data: registrations with their established sets, and confirmed dialogs.

No key is in it: the kernel keeps those. Times are seconds since the epoch there and of the core's clock here; `epoch`
is what was since the epoch when that clock was 0.
"""

import math
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from pcscf.dialog import Dialog, DialogKey, Usage
from pcscf.registration import ESTABLISHED, Binding, ContactKey, Registration, SaSet, SetState
from pcscf.security import Chosen, Parameters, Proposal
from pcscf.vocabulary import Flow, Interface
from xfrm.algorithms import Pair


class Unreadable(ValueError):
    """Data that no version of this made."""


def of_registration(each: Registration, epoch: float) -> dict[str, Any] | None:
    """A contact; None when there is nothing of it worth keeping: it is not registered."""
    if not each.registered:
        return None
    return {
        "impi": each.key.impi,
        "address": str(each.key.address),
        "instance": each.key.instance,
        "token": each.path_token,
        "path": each.path_uri,
        "contact": each.contact,
        "route": each.service_route,
        "port_pc": each.last_port_pc,
        "to_challenge": each.to_challenge,
        "clear": _of_flow(each.clear) if each.clear is not None else None,
        "bindings": [[impu, _wall(one.expires, epoch), one.associated_uris] for impu, one in each.bindings.items()],
        "sets": [_of_set(one, epoch) for one in each.sets if one.state in ESTABLISHED],
    }


def _of_set(each: SaSet, epoch: float) -> dict[str, Any]:
    ends, proposal, chosen = each.parameters, each.proposal, each.chosen
    return {
        "id": each.id,
        "state": each.state.value,
        "ends": [
            str(ends.ue), str(ends.pcscf), ends.port_uc, ends.port_us, ends.port_pc, ends.port_ps, ends.spi_uc,
            ends.spi_us, ends.spi_pc, ends.spi_ps,
        ],
        "pairs": list(map(str, proposal.pairs)),
        "offer": proposal.text,
        "chosen": str(chosen.pair),
        "offered": list(map(str, chosen.offered)),
        "preference": list(map(str, chosen.preference)),
        "server": each.security_server,
        "impu": each.impu,
        "nonce": each.nonce,
        "expires": _wall(each.expires, epoch),
        "made": _wall(each.made, epoch),
    }  # fmt: skip


def registration_from(data: Mapping[str, Any], epoch: float) -> Registration:
    """A contact as it was. Raises Unreadable."""
    try:
        made = Registration(
            key=ContactKey(_text(data["impi"]), ip_address(data["address"]), _text(data["instance"])),
            path_token=_text(data["token"]),
            path_uri=_text(data["path"]),
            contact=_text(data["contact"]),
            service_route=tuple(map(_text, data["route"])),
            last_port_pc=int(data["port_pc"]),
            to_challenge=bool(data["to_challenge"]),
            clear=_flow(data["clear"]) if data["clear"] is not None else None,
        )
        for impu, expires, uris in data["bindings"]:
            binding = Binding(expires=float(expires) - epoch, associated_uris=tuple(map(_text, uris)))
            made.bindings[_text(impu)] = binding
        made.sets.extend(_set_from(each, made, epoch) for each in data["sets"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error
    return made


def _set_from(data: Mapping[str, Any], registration: Registration, epoch: float) -> SaSet:
    ue, pcscf, *numbers = data["ends"]
    port_uc, port_us, port_pc, port_ps, spi_uc, spi_us, spi_pc, spi_ps = map(int, numbers)
    state = SetState(data["state"])
    if state not in ESTABLISHED:
        raise ValueError(f"a set that is {state.value}")
    pairs = tuple(map(Pair.parse, data["pairs"]))
    return SaSet(
        id=int(data["id"]),
        registration=registration,
        state=state,
        parameters=Parameters(
            ue=ip_address(ue), pcscf=ip_address(pcscf), port_uc=port_uc, port_us=port_us, port_pc=port_pc,
            port_ps=port_ps, spi_uc=spi_uc, spi_us=spi_us, spi_pc=spi_pc, spi_ps=spi_ps,
        ),
        proposal=Proposal(
            spi_uc=spi_uc, spi_us=spi_us, port_uc=port_uc, port_us=port_us, pairs=pairs, text=_text(data["offer"])
        ),
        chosen=Chosen(
            pair=Pair.parse(data["chosen"]),
            offered=tuple(map(Pair.parse, data["offered"])),
            preference=tuple(map(Pair.parse, data["preference"])),
        ),
        security_server=_text(data["server"]),
        impu=_text(data["impu"]),
        nonce=_text(data["nonce"]),
        expires=float(data["expires"]) - epoch,
        made=float(data["made"]) - epoch,
    )  # fmt: skip


def of_dialog(each: Dialog, epoch: float) -> dict[str, Any] | None:
    """A dialog; None for one that is not confirmed."""
    if each.early:
        return None
    return {
        "key": each.key,
        "token": each.registration.path_token,
        "route": each.route,
        "usages": sorted(usage.value for usage in each.usages),
        "expires": None if each.expires == math.inf else _wall(each.expires, epoch),
    }


def dialog_from(data: Mapping[str, Any], registrations: Mapping[str, Registration], epoch: float) -> Dialog | None:
    """A dialog as it was; None if its contact is not among these, by token. Raises Unreadable."""
    try:
        registration = registrations.get(data["token"])
        if registration is None:
            return None
        return Dialog(
            key=DialogKey(*map(_text, data["key"])),
            registration=registration,
            route=tuple(map(_text, data["route"])),
            usages={Usage(value) for value in data["usages"]},
            early=False,
            expires=math.inf if data["expires"] is None else float(data["expires"]) - epoch,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def _wall(at: float, epoch: float) -> float:
    return round(at + epoch, 3)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _of_flow(flow: Flow) -> list[Any]:
    return [
        flow.transport, flow.interface.value, str(flow.local), flow.local_port, str(flow.remote), flow.remote_port,
    ]  # fmt: skip


def _flow(data: list[Any]) -> Flow:
    transport, interface, local, local_port, remote, remote_port = data
    if transport not in ("UDP", "TCP"):
        raise ValueError(f"transport {transport!r}")
    return Flow(
        transport, Interface(interface), ip_address(local), int(local_port), ip_address(remote), int(remote_port)
    )
