"""`pcscf forget`: what a P-CSCF that is not running left for its next start goes: SAs, policies, the store."""

import argparse
from typing import Any

from pcscf.arguments import add_command, add_configuration


def add_forget_command(commands: Any) -> None:
    """Add `forget` to the parser of `pcscf`."""
    forget = add_command(
        commands,
        "forget",
        "remove what a stopped P-CSCF left for its next start: SAs, policies, stored registrations",
        "pcscf forget -c config/pcscf.toml",
    )
    add_configuration(forget)
    forget.set_defaults(command=_forget)


def _forget(options: argparse.Namespace) -> int:
    from pcscf.config import load
    from pcscf.store import Store
    from xfrm.backend import open_backend

    config = load(options.config)
    store = Store(config.state)  # while a P-CSCF runs with it, this is refused
    try:
        registrations = len(store.take().registrations)
        backend = open_backend(config.ipsec.backend).backend
        try:
            for address in config.gm.addresses:  # taking the ports over removes what an earlier run left on them
                backend.protect(address, (config.ipsec.ports_ps, config.ipsec.ports_pc))
        finally:
            backend.close()
    finally:
        store.close()
    config.kept_sas.unlink(missing_ok=True)
    store.path.unlink()
    print(f"{registrations} registrations are forgotten; their SAs and the policies of {config.ipsec.ports_ps} and "
          f"{config.ipsec.ports_pc} are removed")  # fmt: skip
    return 0
