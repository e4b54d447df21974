"""Landlock: the three system calls by which a thread gives up the reach of files, for itself and all that it starts.

There are packages for it, none of them settled yet, and they restrict the calling process in one go; here the rules are
made in one place and taken on in another. Linux only; nothing is looked up before it is needed.

Source: https://docs.kernel.org/userspace-api/landlock.html; linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
import stat
from types import TracebackType
from typing import Any

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION_FLAG = 1
RULE_PATH_BENEATH = 1
PR_SET_NO_NEW_PRIVS = 38

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_BLOCK, REFER, TRUNCATE, IOCTL_DEV = 1 << 6, 1 << 11, 1 << 13, 1 << 14, 1 << 15
READ = EXECUTE | READ_FILE | READ_DIR
FOR_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
"""What can be done with a file that is no directory."""
KNOWN_TO = {1: REFER - 1, 2: TRUNCATE - 1, 3: IOCTL_DEV - 1, 4: IOCTL_DEV - 1, 5: (IOCTL_DEV << 1) - 1}
"""What an ABI of the kernel's can restrict; later ones add nothing to that about the reach of files."""
NEEDED = 3
"""The first ABI (Linux 6.2) by which nothing is left that changes what a file holds: before, truncating was free."""
DEVICES = MAKE_CHAR | MAKE_BLOCK
"""Never allowed: a privileged process could make a device of the disk itself, and open that."""


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"  # which _pack_ has always meant; from 3.14 on it has to be said
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def abi() -> int:
    """Return the kernel's version of Landlock; 0: it has none, or it is switched off."""
    try:
        return _call(CREATE_RULESET, None, 0, VERSION_FLAG)
    except OSError:
        return 0


class Ruleset:
    """Rules: what is not allowed by one of them is not allowed. Close it, or use it in a with statement.

    Raises:
        OSError: The kernel will not have it.
    """

    def __init__(self) -> None:
        self._known = KNOWN_TO[min(abi(), max(KNOWN_TO))]
        attributes = ctypes.c_uint64(self._known)
        self._descriptor = _call(CREATE_RULESET, ctypes.byref(attributes), ctypes.sizeof(attributes), 0)

    def allow_reading(self, path: str) -> None:
        """Let a path, and what is beneath it, be read and executed; raises OSError."""
        self._allow(path, READ)

    def allow_all(self, path: str) -> None:
        """Let a path, and what is beneath it, be read, written and executed; raises OSError."""
        self._allow(path, self._known & ~DEVICES)

    def _allow(self, path: str, access: int) -> None:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                access &= FOR_FILES
            rule = _PathBeneath(access & self._known, descriptor)
            _call(ADD_RULE, self._descriptor, RULE_PATH_BENEATH, ctypes.byref(rule), 0)
        finally:
            os.close(descriptor)

    def restrict_this_thread(self) -> None:
        """Take the rules on, for ever: for this thread, and every process and thread that it starts; raises OSError.

        It gains no privileges any more either: programs that are set-user-id run without that.
        """
        if _libc().prctl(PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))):
            raise _os_error()
        _call(RESTRICT_SELF, self._descriptor, 0)

    def close(self) -> None:
        """Give the rules back; who has taken them on keeps them."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Ruleset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _call(number: int, *arguments: Any) -> int:
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result: int = _libc().syscall(ctypes.c_long(number), *wide)
    if result < 0:
        raise _os_error()
    return result


def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _os_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
