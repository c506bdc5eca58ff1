"""What a service manager hears of `pcscf run`, and gives it: sd_notify(3), and a socket by sd_listen_fds(3)."""

import os
import socket
import time

VARIABLE = "NOTIFY_SOCKET"
FIRST_DESCRIPTOR = 3
"""`SD_LISTEN_FDS_START`."""


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


def listening_socket() -> socket.socket | None:
    """The socket of the page for operators, if the manager has opened it."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    return socket.socket(fileno=FIRST_DESCRIPTOR)
