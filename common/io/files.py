"""Write files so that they appear only when whole; checksums of files and of JSON records."""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
import tempfile
from typing import Any, Iterator, Sequence

from common.cli import UserError

from .limits import is_limit, limit_reached

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Folders that cannot be flushed: CIFS, vboxsf and others refuse, or the folder cannot be read.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES)
TEMPORARY = r"\.tmp\d+(-[0-9a-f]{16})?"  # how temporary names end, as a regular expression


def cache_folder() -> str:
    """The folder for downloads and builds: ``$XDG_CACHE_HOME/alexnet-mxnet``, or in ~/.cache.

    A user without a home has a private folder under the temporary directory; UserError if that
    belongs to somebody else.
    """
    base, home = os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~")
    if os.path.isabs(base):  # the XDG standard says to ignore others
        return os.path.join(base, "alexnet-mxnet")
    if os.path.isabs(home):
        return os.path.join(home, ".cache", "alexnet-mxnet")
    path = os.path.join(tempfile.gettempdir(), f"alexnet-mxnet-{os.getuid()}")
    os.makedirs(path, 0o700, exist_ok=True)
    state = os.lstat(path)  # code is loaded from here, so nobody else may write to it
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise UserError(f"{path}: others can write to it; set XDG_CACHE_HOME to a folder of yours")
    return path


@contextlib.contextmanager
def atomic(*paths: str, instead_of: Sequence[str] = ()) -> Iterator[Any]:
    """Yield a temporary path for each of ``paths``; rename them all once the block succeeds.

    The temporary files lie in the same folder, so the renames cannot fail for lack of space. The
    first path is renamed last: give the file that marks the set as whole first. If the block
    raises, the temporary files are removed and whatever stood at ``paths`` before stays. The files
    ``instead_of`` are deleted just before the renames, in this order, so that a kill between two
    renames leaves no mixture of an old set with the new one. UserError if the disk is full or
    fails, or a limit of the machine is reached.

    >>> with atomic("x.rec", "x.idx") as (rec, idx):  # of one path: a string, no list
    ...     ...
    """
    temporary = []
    try:
        for path in paths:
            temporary.append(_new_temporary(path))
        yield temporary[0] if len(paths) == 1 else temporary
        for path in temporary:
            _flush(path)
        delete(*instead_of)
        for path, target in reversed(list(zip(temporary, paths))):
            os.replace(path, target)
    except OSError as error:
        if is_limit(error):
            raise UserError(f"{paths[0]}: cannot be written: {limit_reached(error)}")
        if error.errno not in _NO_SPACE and error.filename:
            raise
        raise UserError(f"{paths[0]}: cannot be written: {error.strerror}; make room and run again")
    finally:
        delete(*temporary)
    for folder in {os.path.dirname(os.path.abspath(path)) for path in paths}:
        _flush_folder(folder)


def delete(*paths: str) -> None:
    """Delete files, in this order; they may be gone already."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _new_temporary(path):
    """Make an empty file beside ``path`` that no other process has, in any container."""
    while True:
        name = f"{path}.tmp{os.getpid()}-{secrets.token_hex(8)}"
        with contextlib.suppress(FileExistsError):
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return name


def check_is_local(path: str, flag: str) -> None:
    """Raise UserError if ``path`` is an address, such as s3://bucket/name."""
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", path):
        raise UserError(f"{flag} {path}: is an address; give a path on this machine, copy it then")


def sha256(path: str) -> str:
    """SHA-256 of a file, in hex."""
    return digest(path, "sha256")


def digest(path: str, algorithm: str) -> str:
    """What one of hashlib's algorithms makes of a file, in hex."""
    hasher = hashlib.new(algorithm)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            hasher.update(block)
    return hasher.hexdigest()


def write_json(path: str, entries: dict) -> None:
    """Write ``entries`` as a JSON file that holds its own checksum, in the entry ``sha256``."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump({**entries, "sha256": _checksum(entries)}, file, indent=1)
        file.write("\n")


def save_json(path: str, entries: dict) -> None:
    """:func:`write_json`, whole or not at all."""
    with atomic(path) as temporary:
        write_json(temporary, entries)


def read_json(path: str, remedy: str, unsigned: bool = False) -> dict:
    """The entries of a JSON file that :func:`write_json` wrote, without their checksum.

    UserError, which ends with ``remedy``, if it is damaged. ``unsigned`` may lack the checksum.
    """
    try:
        with open(path, encoding="utf-8") as file:
            entries = json.load(file)
        checksum = entries.pop("sha256", None)
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise UserError(f"{path}: is damaged (it is not a JSON object); {remedy}")
    if checksum != _checksum(entries) and not (unsigned and checksum is None):
        raise UserError(f"{path}: is damaged (its checksum is wrong); {remedy}")
    return entries


def _checksum(entries):
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _flush(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_folder(path):
    try:
        _flush(path)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
