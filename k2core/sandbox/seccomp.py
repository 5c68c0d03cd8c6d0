"""The system calls that code in a sandbox has, as a filter for the kernel, made by libseccomp.

What is not listed does not exist (ENOSYS). Among what is missing: sockets other than a pair of connected ones, mounts,
namespaces, ptrace and all else that reaches into another process, keyrings, shared memory beyond the files' room,
io_uring, BPF, setting clocks.
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache

from k2core.sandbox.base import SandboxError

LIBRARY = "libseccomp.so.2"
ALLOWED = """
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 open openat close close_range lseek
sendfile stat fstat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getdents getdents64
statfs fstatfs mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat chmod
fchmod fchmodat truncate ftruncate fallocate fsync fdatasync utime utimes futimesat utimensat umask chdir fchdir
getcwd dup dup2 dup3 pipe pipe2 fcntl flock ioctl copy_file_range poll ppoll select pselect6 epoll_create
epoll_create1 epoll_ctl epoll_wait epoll_pwait eventfd eventfd2 mmap munmap mprotect mremap madvise brk msync
mincore membarrier rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack
kill tkill tgkill pause nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times getitimer
setitimer alarm fork vfork execve exit exit_group wait4 waitid set_tid_address set_robust_list get_robust_list futex
rseq arch_prctl prctl sched_yield sched_getaffinity sched_getparam sched_getscheduler getcpu getpid getppid gettid
getuid geteuid getgid getegid getgroups getpgrp getpgid setpgid getsid setsid getresuid getresgid setuid setgid
setreuid setregid setresuid setresgid setgroups getrlimit setrlimit prlimit64 getrusage getpriority setpriority
sysinfo uname getrandom restart_syscall sendto recvfrom sendmsg recvmsg shutdown getsockopt setsockopt getsockname
getpeername
"""
"""`setuid` and its like are the runner's way down from root; nobody gets more rights by them."""
NAMESPACES = 0x02000000 | 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
"""The flags of clone(2) that make a namespace: cgroup, mount, uts, ipc, user, pid, network."""
AF_UNIX = 1
_ALLOW, _ERRNO, _EQUAL, _MASKED_EQUAL, _OPTIMIZE = 0x7FFF0000, 0x00050000, 4, 7, 8


class _Argument(ctypes.Structure):
    """`struct scmp_arg_cmp`."""

    _fields_ = [
        ("arg", ctypes.c_uint), ("op", ctypes.c_int), ("datum_a", ctypes.c_uint64), ("datum_b", ctypes.c_uint64)
    ]  # fmt: skip


@cache
def program() -> bytes:
    """The filter as classic BPF, for this machine's architecture.

    Raises:
        SandboxError: libseccomp is missing.
    """
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        raise SandboxError(
            f"no {LIBRARY} here, without which no model-written code is run; install it (apt-get install libseccomp2)"
        ) from None
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ERRNO | errno.ENOSYS)))
    library.seccomp_attr_set(context, _OPTIMIZE, ctypes.c_uint32(2))
    for name in ALLOWED.split():
        _allow(library, context, name)
    _allow(library, context, "clone", _Argument(0, _MASKED_EQUAL, NAMESPACES, 0))
    _allow(library, context, "socketpair", _Argument(0, _EQUAL, AF_UNIX, 0))
    readable, writable = os.pipe()
    try:
        if library.seccomp_export_bpf(context, writable):
            raise SandboxError(f"{LIBRARY} cannot write its filter; no model-written code is run")
        os.close(writable)
        writable = -1
        return b"".join(iter(lambda: os.read(readable, 65536), b""))
    finally:
        os.close(readable)
        if writable >= 0:
            os.close(writable)
        library.seccomp_release(context)


def _allow(library: ctypes.CDLL, context: ctypes.c_void_p, name: str, *arguments: _Argument) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number < 0:  # another architecture does not have it
        return
    array = (_Argument * len(arguments))(*arguments)
    if library.seccomp_rule_add_array(context, ctypes.c_uint32(_ALLOW), number, len(arguments), array):
        raise SandboxError(f"{LIBRARY} takes no rule for {name}; no model-written code is run")
