"""One run at a time where checkpoints are written."""

import contextlib
import fcntl
import os
import socket
from typing import Iterator

from common.cli import UserError

from . import store


@contextlib.contextmanager
def lock(prefix: str, flag: str = "--model-prefix") -> Iterator[None]:
    """Keep other runs from writing at ``prefix``; its folder is made if need be.

    The lock goes when the process does, however it ends, so none is ever stale.

    Raises:
        UserError: another run has it.
    """
    os.makedirs(os.path.dirname(os.path.abspath(prefix)), exist_ok=True)
    path = f"{prefix}.lock"
    while True:
        file = open(path, "a+b", buffering=0)  # noqa: SIM115 it is held open, and closed below
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read().decode(errors="replace").strip() or "unknown"
            file.close()
            raise UserError(
                f"{flag} {prefix}: another run ({owner}) is writing there; wait for it, or"
                " choose another prefix"
            )
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                break
        file.close()  # its last owner has just removed it
    try:
        with contextlib.suppress(OSError):  # on a full disk the owner stays unknown
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        store.remove_left_over(prefix)
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):  # the folder may be gone
            os.unlink(path)
        file.close()
