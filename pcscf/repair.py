"""After a bug: what the registrar believes and what the kernel has are brought together again, by ending more.

A set of which a step broke off half way is not to be reasoned about: its SAs go, and it is known no more. Its UE
registers again.
"""

from collections.abc import Container
from typing import TYPE_CHECKING

from pcscf.observe import SetEvent
from pcscf.registration import SaSet, SetState
from pcscf.turn import Turn

if TYPE_CHECKING:
    from pcscf.registrar import Registrar


def end(
    registrar: "Registrar", turn: Turn, sa_set: SaSet, event: SetEvent, detail: str = "", *, linger: float = 0.0
) -> None:
    """Let one of several sets take a step that ends it: a bug keeps neither it nor the others alive."""
    if not turn.attempt(registrar.step, sa_set, event, detail, linger=linger):
        discard(registrar, turn, sa_set)


def discard(registrar: "Registrar", turn: Turn, sa_set: SaSet) -> None:
    """Remove the SAs of a set, and know it no more, whatever of that has been done already."""
    registrar.remove(sa_set)
    if sa_set.state is not SetState.GONE:
        registrar.states[sa_set.state] -= 1
        registrar.states[SetState.GONE] += 1
        sa_set.state = SetState.GONE
    registrar.drop(sa_set)
    registration = sa_set.registration
    registrar.touched[registration.path_token] = registration
    if registration.registered and not registration.sets and registration.clear is None:
        turn.attempt(registrar.unregister, registration, "its last set of SAs is gone")
    turn.attempt(registrar.forget_if_idle, registration)


def mend(registrar: "Registrar", turn: Turn, installing: Container[int], suspect: SaSet | None = None) -> None:
    """No set that this turn has touched, nor `suspect`, stays half ended or waits for SAs that nobody installs.

    `installing`: ids of the sets whose SAs the kernel is asked for.
    """
    suspects = [each for registration in registrar.touched.values() for each in registration.sets]
    for each in suspects if suspect is None else [*suspects, suspect]:
        if each.state is SetState.GONE or (each.state is SetState.PENDING and each.id not in installing):
            discard(registrar, turn, each)
