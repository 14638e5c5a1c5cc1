"""Run in the sandbox's child process: give up rights permanently, then run the program from standard input.

Resource limits (rlimits) bound the CPU time and the memory. A seccomp filter refuses sockets, new processes, other programs, and
signals to other processes. The Linux kernel enforces the filter, and no process can remove it. Python's audit hooks refuse the
same on every system. They also refuse writes outside the temporary folder. This file runs as a script and imports only the
standard library.

Arguments: CPU seconds, bytes of memory, the folder, the number of the file descriptor for the report of the outcome.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
import sys

PASSED = "passed"
# The child writes this before the answer runs. If it ends earlier, the sandbox failed and not the answer.
READY = "ready:"
OPEN_FILES, FILE_BYTES = 64, 1 << 24

# linux/seccomp.h, linux/filter.h, linux/audit.h
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _REFUSE, _ABSENT, _KILL = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38, 0x80000000
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER, _PARENT_DEATH = 38, 22, 2, 1
_THREAD, _X32 = 0x00010000, 0x40000000
# By machine: the number of the architecture, the number of clone, and the numbers of the refused calls. These calls are socket,
# socketpair, io_uring_setup; fork, vfork, execve, execveat; kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_open,
# pidfd_send_signal, pidfd_getfd; ptrace, process_vm_readv, process_vm_writev; unshare, setns, mount, chroot, bpf.
_SYSTEMS = {
    "x86_64": (
        0xC000003E,
        56,
        (41, 53, 425, 57, 58, 59, 322, 62, 200, 234, 129, 297, 434, 424, 438, 101, 310, 311, 272, 308, 165, 161, 321),
    ),
    "aarch64": (
        0xC00000B7,
        220,
        (198, 199, 425, 221, 281, 129, 130, 131, 138, 240, 434, 424, 438, 117, 270, 271, 97, 268, 40, 51, 280),
    ),
}
_CLONE3 = 435

_REFUSED_EVENTS = (
    "socket.", "subprocess.", "ctypes.", "pty.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.kill",
    "os.startfile",
)  # fmt: skip
_CHANGES = frozenset({
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.chown", "os.link", "os.symlink", "os.utime",
    "os.chflags",
})  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main() -> None:
    """Run the program. Report `passed`, or the exception that it raised, on the descriptor."""
    seconds, memory, report = (int(sys.argv[place]) for place in (1, 2, 4))
    folder = os.path.realpath(sys.argv[3])
    program = sys.stdin.read()
    write, leave = os.write, os._exit
    limit(seconds, memory)
    if sys.platform == "linux":
        filter_system_calls()
    sys.addaudithook(watcher(folder))
    write(report, READY.encode())
    try:
        exec(compile(program, "<answer>", "exec"), {"__name__": "__main__"})
        outcome = PASSED
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
    write(report, outcome.encode(errors="replace")[:400])
    leave(0)


def limit(seconds: int, memory: int) -> None:
    """Limit the CPU time (seconds), the address space (bytes), the size of a file and the open files; forbid core dumps."""
    wanted = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in wanted.items():
        # macOS rejects some of these limits.
        with contextlib.nullcontext() if sys.platform == "linux" else contextlib.suppress(ValueError, OSError):
            _, hard = resource.getrlimit(kind)
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, most))


def filter_system_calls() -> None:
    """Make the kernel refuse the calls of `_SYSTEMS` from now on. Errors: OSError if the system has no such filter."""
    if platform.machine() not in _SYSTEMS:
        raise OSError(f"no filter of system calls for {platform.machine()}")
    architecture, clone, refused = _SYSTEMS[platform.machine()]
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _REFUSE),
    ]
    for number in refused:
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    # The filter cannot read the flags of clone3, so it reports that clone3 does not exist. Libraries then call clone, whose flags
    # it can read: it allows threads and refuses processes.
    lines += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ABSENT)]
    lines += [(_EQUAL, 0, 3, clone), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
    lines += [(_ANY_BIT, 1, 0, _THREAD), (_RETURN, 0, 0, _REFUSE)]
    lines.append((_RETURN, 0, 0, _ALLOW))
    text = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    program = struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(text))
    kernel = ctypes.CDLL(None, use_errno=True)
    kernel.prctl(_PARENT_DEATH, int(signal.SIGKILL), 0, 0, 0)
    if kernel.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or kernel.prctl(_SECCOMP, _FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel takes no filter of system calls")


def watcher(folder: str):
    """Return an audit hook that refuses the same calls as the filter, and every change to a file outside `folder`."""
    real, join = os.path.realpath, os.sep

    def inside(path: object) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return True  # an open descriptor
        return (real(os.fsdecode(path)) + join).startswith(folder + join)

    def watch(event: str, arguments: tuple) -> None:
        if event.startswith(_REFUSED_EVENTS):
            raise PermissionError(f"{event} is not allowed in the sandbox")
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
        paths = arguments[:1] if writes else arguments if event in _CHANGES else ()
        if not all(inside(path) for path in paths):
            raise PermissionError("the sandbox writes to its own folder only")

    return watch


if __name__ == "__main__":
    main()
