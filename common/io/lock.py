"""Only one run at a time writes at a prefix."""

import contextlib
import errno
import fcntl
import os
import socket
import sys
from typing import Iterator

from common.cli import UserError

from .files import check_is_local
from .limits import limit_reached


@contextlib.contextmanager
def lock(prefix: str, flag: str = "--model-prefix") -> Iterator[bool]:
    """Keep other runs from writing at ``prefix``; its folder is made if need be.

    Afterwards a folder that was made and is still empty is removed again.

    The lock ends with its process, however that ends, so none is ever stale. It yields whether the
    file system could lock it; where it has no locks, a warning says so. UserError if another run
    has it, its file cannot be opened, or ``prefix`` is an address.
    """
    check_is_local(prefix, flag)
    made = _make_folder(os.path.dirname(os.path.abspath(prefix)))
    path = f"{prefix}.lock"
    file, locked = _lock(path, f"{flag} {prefix}")
    try:
        with contextlib.suppress(OSError):  # on a full disk the owner stays unknown
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield locked
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone, or the file another user's
            os.unlink(path)
        file.close()
        for folder in made:
            with contextlib.suppress(OSError):  # it is not empty
                os.rmdir(folder)


def _make_folder(folder):
    """Make ``folder``; return what was not there before, the deepest first."""
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for one in reversed(missing):
        os.makedirs(one, exist_ok=True)
    return missing


def _lock(path, what):
    """The open file at ``path``, and whether it could be locked; ``what`` is for messages."""
    while True:
        file, locked = _open(path, what), True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().decode(errors="replace").strip() or "unknown"
            file.close()
            raise UserError(
                f"{what}: another run ({owner}) is writing there; wait for it, or choose another"
                " prefix"
            )
        except OSError as error:  # ENOSYS, ENOLCK: Lustre, NFS
            locked = False
            print(
                f"warning: {what}: cannot be locked on this file system ({error.strerror}); make"
                " sure that no other run writes there",
                file=sys.stderr,
            )
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file, locked
        file.close()  # its last owner has just removed it


def _open(path, what):
    try:
        with contextlib.suppress(PermissionError):
            return open(path, "a+b", buffering=0)
        # Another user's file, left by a run that was killed: it can be locked without writing.
        return open(path, "rb", buffering=0)
    except OSError as error:
        reason = "may not be written" if error.errno == errno.ENOENT else limit_reached(error)
        raise UserError(
            f"{what}: its lock {path} cannot be opened ({reason}); remove that file or make its"
            " folder writable, or choose another prefix"
        )
