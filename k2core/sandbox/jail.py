"""Runs in new namespaces, before the runner: makes the file system, gives up all rights, and loads the filter.

It finds `PLAN` in its name space: steps (see `k2core.sandbox.local.Step`), the filter (classic BPF), and whether it is
root outside too, so that the runner must change to another user. Its process stays as process 1, which alone keeps the
order to die with its parent: the kernel forgets that order where a process changes its user, as the runner does.
"""

from __future__ import annotations

import ctypes
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STEPS, FILTER, PRIVILEGED = globals()["PLAN"]
BIND, RECURSIVE, REMOUNT, READ_ONLY, DETACH = 4096, 16384, 32, 1, 2
NO_SUID, NO_DEVICES = 2, 4
MOUNT_SETATTR, AT_RECURSIVE, AT_FDCWD = 442, 0x8000, -100
PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 23, 24, 38, 22, 2
PR_SET_DUMPABLE, CAPABILITY_VERSION, SETGID, SETUID = 4, 0x20080522, 6, 7
OLD = "/old"
libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> int:
    """A function of the C library, with an error where it fails."""
    words = [each.encode() if isinstance(each, str) else each for each in arguments]
    done: int = getattr(libc, name)(*words)
    if done < 0:
        raise OSError(ctypes.get_errno(), f"{name}{arguments}: {os.strerror(ctypes.get_errno())}")
    return done


def mount(source: str | None, place: str, kind: str | None, flags: int, options: str | None = None) -> None:
    call("mount", source, place, kind, ctypes.c_ulong(flags), options)


def tmpfs(place: str, mode: str, size: str | int) -> None:
    mount("tmpfs", place, "tmpfs", NO_SUID | NO_DEVICES, f"mode={mode},size={size}")


def lock(place: str, *, devices: bool = False) -> None:
    """Make a mount, and all below it, read-only."""
    flags = READ_ONLY | NO_SUID | (0 if devices else NO_DEVICES)
    call("syscall", MOUNT_SETATTR, AT_FDCWD, place, AT_RECURSIVE, (ctypes.c_uint64 * 4)(flags, 0, 0, 0), 32)


def bind(place: str, source: str) -> None:
    if os.path.isdir(OLD + source):
        os.makedirs(place, exist_ok=True)
    else:
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(OLD + source, place, None, BIND | RECURSIVE)


def build() -> None:
    os.umask(0o022)
    tmpfs("/tmp", "755", 2**20)
    os.mkdir("/tmp" + OLD)
    call("pivot_root", "/tmp", "/tmp" + OLD)
    os.chdir("/")
    for kind, place, *rest in STEPS:
        if kind == "dir":
            os.makedirs(place, exist_ok=True)
        elif kind == "bind":
            bind(place, *rest)
            lock(place)
        elif kind == "device":
            bind(place, place)
            lock(place, devices=True)
        elif kind == "symlink":
            os.symlink(rest[0], place)
        elif kind == "tmpfs":
            os.makedirs(place, exist_ok=True)
            tmpfs(place, *rest)
        elif place != "/":
            mount(None, place, None, REMOUNT | BIND | READ_ONLY | NO_SUID)
    call("umount2", OLD, DETACH)
    os.rmdir(OLD)
    mount(None, "/", None, REMOUNT | BIND | READ_ONLY | NO_SUID | NO_DEVICES)
    call("sethostname", "sandbox", 7)


def surrender() -> None:
    """Keep no right but, as root, that of becoming another user."""
    kept = (SETGID, SETUID) if PRIVILEGED else ()
    capability = 0
    while libc.prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0:
        if capability not in kept:
            call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)
        capability += 1
    rights = sum(1 << each for each in kept)
    call("capset", (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)(rights, rights, 0, 0, 0, 0))


def restrict() -> None:
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    program = Program(len(FILTER) // 8, FILTER)
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)  # nobody reads its memory by /proc, where there is one
    call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


try:
    if STEPS:  # in a pod all of this is done
        os.setsid()
        build()
        surrender()
    restrict()
    sys.path_importer_cache.clear()  # of folders that were not there before
except OSError as error:
    sys.exit(f"unshare: {error}")
if STEPS and (child := os.fork()):
    while True:
        done, status = os.wait()
        if done == child:
            os._exit(abs(os.waitstatus_to_exitcode(status)))
