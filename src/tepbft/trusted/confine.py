"""Keep a host process out of its trusted component's folder, as far as the kernel helps.

Landlock (Linux 5.19 or newer) lets an unprivileged process give up rights for good. It
knows allow-lists only, so what stays allowed is every entry beside the path that leads
to the folder, as it is when `confine_replica` is called. The price: files that are made
later *directly in a folder on that path* (the node's own folder, its parents) cannot be
made or opened by the process. Make folders and open such files first. Descriptors that are open
already keep working, and so does the component's socket.

Also given up, where the kernel can (6.12): sending signals to processes outside. Landlock
itself bars reading or tracing their memory. All this binds the process and whatever it
starts, root included; it must be called before threads start. The component's process
must not be started from a confined one: it could not open its own folder.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38
_EXECUTE, _WRITE_FILE, _READ_FILE, _MAKE_FILE = 1, 1 << 1, 1 << 2, 1 << 8
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_SCOPE_SIGNAL = 1 << 1
_RULESET = struct.Struct("=QQQ")
_PATH_BENEATH = struct.Struct("=Qi")
_MAX_ENTRIES = 65536
_ABI_REFER, _ABI_TRUNCATE, _ABI_SCOPE = 2, 3, 6
_RULESET_BYTES = {1: 8, 2: 8, 3: 8, 4: 16, 5: 16}


class _Unavailable(Exception):
    """Why nothing is in force."""


def confine_replica(secret_folder: Path) -> str:
    """Bar this process from opening files in `secret_folder`; one sentence on what is in force.

    Never raises: where the kernel lacks it, or threads run already, nothing changes and
    the sentence says so.
    """
    try:
        return _confine(secret_folder.resolve(strict=True))
    except _Unavailable as reason:
        return f"Landlock is not available ({reason}): only file permissions guard {secret_folder}."
    except OSError as error:
        return f"Landlock is not in force ({error}): only file permissions guard {secret_folder}."


def _syscall(libc: ctypes.CDLL, number: int, *arguments: object) -> int:
    result = int(libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def _confine(secret: Path) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        abi = _syscall(libc, _CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    except OSError as error:
        raise _Unavailable(f"this kernel lacks it: {error.strerror}") from None
    if abi < _ABI_REFER:
        raise _Unavailable("this kernel's is too old")
    if len(os.listdir("/proc/self/task")) != 1:
        raise _Unavailable("threads run already")
    if secret == Path("/"):
        raise _Unavailable("the root folder cannot be left out")

    on_files = _EXECUTE | _WRITE_FILE | _READ_FILE | (_TRUNCATE if abi >= _ABI_TRUNCATE else 0)
    on_folders = on_files | _MAKE_FILE | _REFER
    scoped = _SCOPE_SIGNAL if abi >= _ABI_SCOPE else 0
    attributes = _RULESET.pack(on_folders, 0, scoped)[: _RULESET_BYTES.get(abi, _RULESET.size)]
    ruleset = _syscall(
        libc, _CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)
    )
    try:
        for entry in _entries_beside(secret):
            _allow(libc, ruleset, entry, on_folders, on_files)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise _Unavailable("no_new_privs was refused")
        _syscall(libc, _RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
    return _what_is_in_force(secret, bool(scoped))


def _entries_beside(secret: Path) -> list[str]:
    """Every entry of every folder from the root down to `secret`, those on the path left out."""
    entries: list[str] = []
    below = secret
    for folder in secret.parents:
        entries += [os.path.join(folder, name) for name in os.listdir(folder) if name != below.name]
        below = folder
        if len(entries) > _MAX_ENTRIES:
            raise _Unavailable(f"more than {_MAX_ENTRIES} entries beside the path to {secret}")
    return entries


def _allow(libc: ctypes.CDLL, ruleset: int, entry: str, on_folders: int, on_files: int) -> None:
    try:
        handle = os.open(entry, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # gone since, or not ours to see
        return
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISLNK(mode):  # what it points to is allowed, or not, by its own path
            return
        rights = on_folders if stat.S_ISDIR(mode) else on_files
        rule = _PATH_BENEATH.pack(rights, handle)
        _syscall(
            libc, _ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH_BENEATH), rule, ctypes.c_uint32(0)
        )
    finally:
        os.close(handle)


def _what_is_in_force(secret: Path, scoped: bool) -> str:
    """Tries the lock before praising it."""
    for name in os.listdir(secret):
        try:
            os.close(os.open(secret / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK))
        except OSError:
            continue
        return f"Landlock was accepted but does not keep this process out of {secret}."
    signals = " and cannot send signals to other processes" if scoped else ""
    return f"Landlock is in force: this process cannot open files in {secret}{signals}."
