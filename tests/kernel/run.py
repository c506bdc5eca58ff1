"""Run the kernel tests, or any command, under a Linux kernel that has ESP.

    python -m tests.kernel.run [pytest arguments]
    python -m tests.kernel.run --exec COMMAND...

The host's kernel is taken if it accepts a probe SA. If not, User-Mode Linux is booted on the host's own root file
system: its system calls are slow, so time nothing in it. When neither is there this fails; it never skips.
Returns the exit status of the command, 124 when it did not end in time.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from xfrm.kernel import probe

_USER_MODE_LINUX: Final = "/usr/bin/linux.uml"
_MODULE_TREES: Final = Path("/usr/lib/uml/modules")
_MODULES: Final = (
    "ipv6 xfrm_user xfrm_algo esp4 esp6 authenc hmac md5 sha1_generic cbc gcm ghash_generic seqiv echainiv"
    " crypto_null des_generic aes_generic veth tun bridge iptable_nat xt_nat"
)
_MEMORY: Final = 3 << 30
"""Octets of the guest's memory, and of the file on the host that backs it."""
_TIMED_OUT: Final = 124
_POWER_OFF: Final = 0x4321FEDC
"""LINUX_REBOOT_CMD_POWER_OFF: a container need not have halt(8)."""
_PASSED_ON: Final = ("HOME", "LANG", "TERM", "COLUMNS", "CI", "VIRTUAL_ENV", "PYTHONPATH", "PYTEST_ADDOPTS")

_INIT: Final = """\
#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TMPDIR=/run/tmp {environment}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mkdir -p /run/tmp /run/netns /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
echo {directory}/modprobe > /proc/sys/kernel/modprobe
for module in {modules}; do {directory}/modprobe $module || echo "no module $module" > /dev/tty1; done
ip link set lo up
stty -F /dev/tty1 -opost
cd {cwd}
{command} > /dev/tty1 2>&1 < /dev/null
echo $? > {directory}/status
sync
{python} -c "import ctypes; ctypes.CDLL(None).reboot({power_off})"
"""

_OWN_RUN: Final = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs /run && exec "$@"', "sh")
"""Names of namespaces are files there, and other tests may be running beside these."""

_MODPROBE: Final = """\
#!/bin/sh
exec /sbin/modprobe -d {directory} "$@"
"""


class NoKernel(Exception):
    """There is no kernel with ESP to run on; the text says what to install."""


def run(command: Sequence[str], timeout: float) -> int:
    """Run `command` under a kernel with ESP, its output on ours, and return its exit status. Raises NoKernel."""
    missing = probe()
    if not missing:
        print("kernel tests: this host's own kernel", file=sys.stderr, flush=True)
        return _wait(subprocess.Popen([*_OWN_RUN, *command], start_new_session=True), timeout)
    release = _user_mode_release(missing)
    print(f"kernel tests: User-Mode Linux {release} (this host lacks {missing[0]} ...)", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="pcscf-uml-") as directory:
        return _boot(Path(directory), release, command, timeout)


def _user_mode_release(missing: Sequence[str]) -> str:
    """Return the release of the installed User-Mode Linux, having checked that its modules are there."""
    advice = "apt-get install user-mode-linux kmod, or load esp4 and esp6 on this host"
    for program in (_USER_MODE_LINUX, "/sbin/modprobe"):
        if not os.access(program, os.X_OK):
            raise NoKernel(f"this kernel has no ESP for us ({'; '.join(missing)}) and there is no {program}: {advice}")
    release = subprocess.run([_USER_MODE_LINUX, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if not (_MODULE_TREES / release / "modules.dep").exists():
        raise NoKernel(f"no modules for User-Mode Linux {release} in {_MODULE_TREES}: {advice}")
    return release


def _boot(directory: Path, release: str, command: Sequence[str], timeout: float) -> int:
    """Boot the guest with an init that runs `command`; its /dev/tty1 is our standard output."""
    tree = directory / "lib" / "modules"
    tree.mkdir(parents=True)
    (tree / release).symlink_to(_MODULE_TREES / release)
    environment = {name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith("PCSCF_")}
    init = _INIT.format(
        environment=" ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items()),
        directory=shlex.quote(str(directory)),
        modules=_MODULES,
        cwd=shlex.quote(os.getcwd()),
        command=shlex.join(command),
        python=shlex.quote(sys.executable),
        power_off=_POWER_OFF,
    )
    for name, text in (("init", init), ("modprobe", _MODPROBE.format(directory=shlex.quote(str(directory))))):
        (directory / name).write_text(text)
        (directory / name).chmod(0o700)
    keyboard, _keyboard_end = os.pipe()  # kept open: the end of its input would hang up the console
    screen, screen_end = os.pipe()
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                _USER_MODE_LINUX,
                f"mem={_MEMORY >> 20}M",
                "root=/dev/root",
                "rootfstype=hostfs",
                "rootflags=/",
                "rw",
                f"init={directory}/init",
                f"uml_dir={directory}/uml",
                "con=null",
                "con0=null",
                f"con1=fd:{keyboard},fd:{screen_end}",
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=(keyboard, screen_end),
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": _memory_directory(directory)},
            start_new_session=True,
        )
    os.close(screen_end)
    reader = threading.Thread(target=_copy, args=(screen,), daemon=True)
    reader.start()
    exit_status = _wait(process, timeout)
    reader.join(timeout=5)
    if exit_status == _TIMED_OUT:
        return exit_status
    try:
        return int((directory / "status").read_text())
    except (OSError, ValueError):
        sys.stdout.write((directory / "log").read_text(errors="replace"))
        print("kernel tests: User-Mode Linux ended before the command did", file=sys.stderr)
        return exit_status or 1


def _memory_directory(otherwise: Path) -> str:
    """Where the guest's memory goes: /dev/shm unless it is too small (64 MiB in a default container)."""
    try:
        status = os.statvfs("/dev/shm")
    except OSError:
        return str(otherwise)
    return "/dev/shm" if status.f_bavail * status.f_frsize > _MEMORY else str(otherwise)


def _copy(screen: int) -> None:
    """Show what the guest writes as it comes."""
    while data := os.read(screen, 1 << 16):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _wait(process: subprocess.Popen[bytes], timeout: float) -> int:
    """Return the exit status; when `timeout` seconds are over, end the process and all it started."""
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        print(f"kernel tests: no end after {timeout:g} s, killed", file=sys.stderr)
        return _TIMED_OUT
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kernel.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS", help="for all of it (default 900)")
    parser.add_argument("--exec", dest="command", nargs=argparse.REMAINDER, help="run this instead of pytest")
    options, pytest_arguments = parser.parse_known_args(arguments)
    command = options.command or [sys.executable, "-m", "pytest", *(pytest_arguments or ["tests/kernel"])]
    try:
        return run(command, options.timeout)
    except NoKernel as error:
        print(f"kernel tests: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
