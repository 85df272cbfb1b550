"""Download public files over HTTP: resumed where they were cut, checked before they are used."""

import contextlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
import zipfile
import zlib
from typing import NamedTuple, Optional

from tqdm import tqdm

from common.cli import UserError
from common.io.files import atomic, digest
from common.io.lock import lock

_SILENCE = 30  # seconds without a byte, after which a connection counts as cut


class _Wrong(UserError):
    """The bytes are not those of the file."""


class File(NamedTuple):
    """A public file, and how to tell it from any other."""

    address: str
    checksum: str  # such as sha256:7be5..., in hex
    size: Optional[int] = None  # bytes that the address gives; None: its makers do not say
    member: str = ""  # the address gives a zip archive, and the file is this member of it

    @property
    def name(self) -> str:
        """Its name on disk."""
        return self.member or os.path.basename(self.address)


def get(file: File, root: str, remedy: str, source: Optional[str] = None) -> str:
    """Path of ``file``, whole, in the folder ``root``, downloaded if need be.

    Nothing is downloaded if ``source`` is the file at hand, or the archive with it. What an
    interrupted download has brought stays as NAME.part; the next one goes on from there. UserError,
    which ends with ``remedy``, if the address has another file or none, or the disk is full.
    """
    path, part = (os.path.join(root, f"{file.name}{end}") for end in ("", ".part"))
    if source is None and os.path.exists(path):
        with contextlib.suppress(_Wrong):
            return _checked(file, path, path, "")
        print(f"{path}: damaged (its checksum differs); fetching it again")
    with lock(path, "--root"):
        if source is not None:
            return _checked(file, source, path, f"get it from {file.address}")
        print(f"Fetching {file.address} into {root} ...", flush=True)
        _complete(file, part, remedy)
        try:
            if _checked(file, part, path, remedy) == part:
                with atomic(path) as temporary:
                    os.replace(part, temporary)
            else:
                os.unlink(part)
        except _Wrong as error:
            os.unlink(part)
            raise UserError(f"{file.address}: {error}")
    return path


def _checked(file, source, path, remedy):
    """``source`` if it is the file; ``path`` if it is the archive: then the file is there now."""
    if file.member and zipfile.is_zipfile(source):
        with atomic(path) as temporary:
            _extract(source, file.member, temporary, remedy)
            _compare(file, temporary, source, remedy)
        return path
    _compare(file, source, source, remedy)
    return source


def _compare(file, path, named, remedy):
    algorithm, _, expected = file.checksum.partition(":")
    found = digest(path, algorithm)
    if found != expected:
        short = f"{found[:12]}..., not {expected[:12]}..."
        raise _Wrong(f"{named}: is not {file.name} ({algorithm} {short}); {remedy}")


def _extract(archive, member, path, remedy):
    try:
        with zipfile.ZipFile(archive) as members, open(path, "wb") as out:
            shutil.copyfileobj(members.open(member), out, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError):
        raise _Wrong(f"{archive}: is no whole zip archive with {member}; {remedy}")


def _complete(file, part, remedy):
    """Append to ``part`` until it has all bytes; a connection that is cut is made again."""
    while True:
        start = os.path.getsize(part) if os.path.exists(part) else 0
        expected = _append(file, part, start, remedy)
        size = os.path.getsize(part)
        if expected in (None, size):
            return
        if size <= start:
            raise UserError(
                f"{file.address}: the connection was cut after {size:,} of {expected:,} bytes; they"
                f" are kept: {remedy}"
            )


def _append(file, part, start, remedy):
    """Add to ``part`` what one connection brings; how many bytes it should have then, or None."""
    response = _response(file.address, start, remedy)
    if response is None:
        return None
    with response, open(part, "ab") as out:
        if response.status != 206:  # the server does not resume: it sends the whole file again
            start = 0
            out.truncate(0)
        length = response.headers["Content-Length"]
        expected = start + int(length) if length else file.size
        shown = {"desc": file.name, "initial": start, "unit": "B", "unit_scale": True}
        try:
            with tqdm(total=expected, disable=None, leave=False, **shown) as bar:
                for block in _blocks(response):
                    out.write(block)
                    bar.update(len(block))
        except OSError as error:
            raise UserError(f"{part}: cannot be written: {error.strerror}; make room and run again")
    return expected


def _response(address, start, remedy):
    """An open answer with the bytes from ``start`` on; None: there are no more."""
    headers = {"User-Agent": "alexnet-mxnet", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        request = urllib.request.Request(address, headers=headers)
        return urllib.request.urlopen(request, timeout=_SILENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:
            return None
        reason = f"HTTP status {error.code}, {error.reason}"
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
    said = " ".join(str(reason).split())  # urllib's word for a loop of redirects has three lines
    raise UserError(f"{address}: cannot be fetched ({said}); {remedy}")


def _blocks(response):
    """The bytes of an answer as they come. A cut ends them: it shows in their number."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        yield from iter(lambda: response.read1(1 << 16), b"")
