"""What outlives the process, as plain data: registrations with their established sets, and confirmed dialogs.

What is read back may be damaged, or somebody's who wants harm: only what this could have written is taken. No key is in
it: the kernel keeps those. Times are seconds since the epoch there and of the core's clock here; `epoch`
is what was since the epoch when that clock was 0.
"""

import json
import math
import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from pcscf.dialog import Dialog, DialogKey, Usage
from pcscf.registration import ESTABLISHED, Binding, ContactKey, Registration, SaSet, SetState
from pcscf.security import Chosen, Parameters, Proposal
from pcscf.vocabulary import Flow, Interface
from xfrm.algorithms import Pair
from xfrm.model import IPAddress

Unwanted = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
"""What reading damaged data raises."""
LATEST = float(1 << 33)
"""Seconds since the epoch; no time is later."""
LOWEST_SPI = 256
_UNSENDABLE = re.compile("[\r\n\0\ud800-\udc7f\udd00-\udfff]")
"""What no header line can hold: line breaks, NUL, and surrogates that stand for no octet."""


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
            key=ContactKey(_text(data["impi"]), _address(data["address"]), _text(data["instance"])),
            path_token=_text(data["token"]),
            path_uri=_text(data["path"]),
            contact=_text(data["contact"]),
            service_route=_texts(data["route"]),
            last_port_pc=_whole(data["port_pc"], 0, 0xFFFF),
            to_challenge=_flag(data["to_challenge"]),
            clear=_flow(data["clear"]) if data["clear"] is not None else None,
        )
        for impu, expires, uris in _list(data["bindings"]):
            binding = Binding(expires=_time(expires) - epoch, associated_uris=_texts(uris))
            if made.bindings.setdefault(_text(impu), binding) is not binding:
                raise ValueError("an identity is there twice")
        made.sets.extend(_set_from(each, made, epoch) for each in _list(data["sets"]))
    except Unwanted as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error
    return made


def _set_from(data: Mapping[str, Any], registration: Registration, epoch: float) -> SaSet:
    ue, pcscf, *numbers = _list(data["ends"])
    port_uc, port_us, port_pc, port_ps = (_whole(each, 1, 0xFFFF) for each in numbers[:4])
    spi_uc, spi_us, spi_pc, spi_ps = (_whole(each, LOWEST_SPI, 0xFFFF_FFFF) for each in numbers[4:])
    if _address(ue) != registration.key.address or _address(pcscf).version != _address(ue).version:
        raise ValueError("a set of another address")
    state = SetState(data["state"])
    if state not in ESTABLISHED:
        raise ValueError(f"a set that is {state.value}")
    pairs = tuple(map(Pair.parse, _list(data["pairs"])))
    return SaSet(
        id=_whole(data["id"], 1, 1 << 53),
        registration=registration,
        state=state,
        parameters=Parameters(
            ue=_address(ue), pcscf=_address(pcscf), port_uc=port_uc, port_us=port_us, port_pc=port_pc,
            port_ps=port_ps, spi_uc=spi_uc, spi_us=spi_us, spi_pc=spi_pc, spi_ps=spi_ps,
        ),
        proposal=Proposal(
            spi_uc=spi_uc, spi_us=spi_us, port_uc=port_uc, port_us=port_us, pairs=pairs, text=_text(data["offer"])
        ),
        chosen=Chosen(
            pair=Pair.parse(data["chosen"]),
            offered=tuple(map(Pair.parse, _list(data["offered"]))),
            preference=tuple(map(Pair.parse, _list(data["preference"]))),
        ),
        told=_text(data["server"]),
        impu=_text(data["impu"]),
        nonce=_text(data["nonce"]),
        expires=_time(data["expires"]) - epoch,
        made=_time(data["made"]) - epoch,
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
            key=DialogKey(*_texts(data["key"])),
            registration=registration,
            route=_texts(data["route"]),
            usages={Usage(value) for value in _list(data["usages"])},
            early=False,
            expires=math.inf if data["expires"] is None else _time(data["expires"]) - epoch,
        )
    except Unwanted as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def _wall(at: float, epoch: float) -> float:
    return round(at + epoch, 3)


def read(text: str) -> Any:
    """The data of a stored text. Raises Unreadable."""
    try:
        return json.loads(text, parse_constant=_no_number, object_pairs_hook=_once)
    except Unwanted as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name is there twice")
    return made


def _text(value: object) -> str:
    if not isinstance(value, str) or _UNSENDABLE.search(value):
        raise TypeError("no text of a message")
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("no list")
    return value


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(_text, _list(value)))


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("neither true nor false")
    return value


def _whole(value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"no whole number from {least} to {most}")
    return value


def _time(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= LATEST:
        raise ValueError("no time")
    return float(value)


def _address(value: object) -> IPAddress:
    return ip_address(_text(value))


def _of_flow(flow: Flow) -> list[Any]:
    return [
        flow.transport, flow.interface.value, str(flow.local), flow.local_port, str(flow.remote), flow.remote_port,
    ]  # fmt: skip


def _flow(data: object) -> Flow:
    transport, interface, local, local_port, remote, remote_port = _list(data)
    if transport not in ("UDP", "TCP"):
        raise ValueError(f"transport {transport!r}")
    return Flow(
        transport,
        Interface(interface),
        _address(local),
        _whole(local_port, 1, 0xFFFF),
        _address(remote),
        _whole(remote_port, 1, 0xFFFF),
    )
