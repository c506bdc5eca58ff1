"""What a service manager hears of `pcscf run`: that it is ready, reloads, or stops (sd_notify(3))."""

import os
import socket
import time

VARIABLE = "NOTIFY_SOCKET"


def notify(*words: str) -> bool:
    """Say something to the manager, if there is one that wants to hear it."""
    name = os.environ.get(VARIABLE, "")
    if not name:
        return False
    address = f"\0{name[1:]}" if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect(address)
            channel.send("\n".join(words).encode())
    except OSError:
        return False  # it has gone; we serve all the same
    return True


def ready(status: str) -> None:
    notify("READY=1", f"STATUS={status}")


def reloading() -> None:
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    notify("STOPPING=1")
