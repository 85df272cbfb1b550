"""Files that appear only when whole, written under another name, flushed and renamed; checksums."""

import contextlib
import errno
import hashlib
import json
import os

from common.cli import UserError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cache_folder() -> str:
    """Where downloads and builds are kept: ``$XDG_CACHE_HOME/alexnet-mxnet``, or in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # to be ignored, says the XDG standard
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "alexnet-mxnet")


@contextlib.contextmanager
def atomic(*paths):
    """Yield a temporary path for each of ``paths``; rename them all once the block ends well.

    The temporary files lie in the same folder, so the renames cannot fail for lack of space. The
    first path is renamed last: give the file that marks the set as whole first. If the block
    raises, the temporary files go and whatever stood at ``paths`` before stays.

    >>> with atomic("x.rec", "x.idx") as (rec, idx):
    ...     ...

    Raises:
        UserError: the disk is full or fails.
    """
    temporary = [f"{path}.tmp{os.getpid()}" for path in paths]
    try:
        yield temporary[0] if len(paths) == 1 else temporary
        for path in temporary:
            _flush(path)
        for path, target in reversed(list(zip(temporary, paths))):
            os.replace(path, target)
    except OSError as error:
        if error.errno not in _NO_SPACE and error.filename:
            raise
        raise UserError(f"{paths[0]}: cannot be written: {error.strerror}; make room and run again")
    finally:
        for path in temporary:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    for folder in {os.path.dirname(os.path.abspath(path)) for path in paths}:
        _flush(folder)


def sha256(path: str) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def checksum_of(entries: dict) -> str:
    """SHA-256, in hex, of what is to be a JSON file, but for the entry ``sha256``: its place."""
    rest = {name: value for name, value in entries.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _flush(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
