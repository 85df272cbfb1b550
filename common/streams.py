"""stdout and stderr that never end a program: what cannot be written is dropped.

A terminal goes away, the disk that stdout is redirected to fills up, a program is started without
any: no reason to lose hours of work. The exit code tells at the end.
"""

import codecs
import contextlib
import io
import os
import sys
from typing import Any, Optional, TextIO

_ERRORS = "bytes or escapes"


class Stream:
    """A text stream over ``inner`` that drops what it cannot write.

    ``lost`` is then the cause. A pipe whose reader has gone is another matter on stdout: that still
    is a BrokenPipeError, because ``script | head`` should end. With None, which Python has for a
    descriptor that is closed, all is dropped and none is lost.
    """

    def __init__(self, inner: Optional[TextIO], ends_on_broken_pipe: bool = False):
        self.lost: Optional[str] = None
        # It is open as long as the process lives, and takes any text.
        self._inner = inner or open(os.devnull, "w", encoding="utf-8", errors=_ERRORS)  # noqa: SIM115
        self._ends = ends_on_broken_pipe

    def write(self, text: str) -> int:
        """Write ``text``, or drop it; its length."""
        with self._forgiving():
            self._inner.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what there is, or drop it."""
        with self._forgiving():
            self._inner.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal that is still there."""
        with contextlib.suppress(OSError, ValueError):
            return self._inner.isatty()
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @contextlib.contextmanager
    def _forgiving(self):
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: it is closed
            if self._ends and isinstance(error, BrokenPipeError):
                raise
            self.lost = self.lost or getattr(error, "strerror", None) or str(error)


def _bytes_or_escapes(error):
    """Bytes of a path that is not UTF-8 as they are, other letters as Python escapes them."""
    letter = error.object[error.start]
    if "\udc80" <= letter <= "\udcff":
        return bytes([ord(letter) - 0xDC00]), error.start + 1
    return letter.encode("ascii", "backslashreplace").decode(), error.start + 1


codecs.register_error(_ERRORS, _bytes_or_escapes)


def install() -> None:
    """Make stdout and stderr a :class:`Stream` each, for as long as the process lives."""
    _open_standard_descriptors()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_ERRORS)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(line_buffering=True)  # as it is from Python 3.9 on
    if not isinstance(sys.stdout, Stream):
        sys.stdout = Stream(sys.stdout, ends_on_broken_pipe=True)
    if not isinstance(sys.stderr, Stream):
        sys.stderr = Stream(sys.stderr)


def lost() -> Optional[str]:
    """'stdout: No space left on device' if output has been lost, else None."""
    for name in ("stdout", "stderr"):
        cause = getattr(getattr(sys, name), "lost", None)
        if cause:
            return f"{name}: {cause}"
    return None


def _open_standard_descriptors():
    """Give closed ones to the null device, or the next file that is opened would get them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
