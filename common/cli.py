"""What every command shares: the parser, the exception for a user's mistake, how it ends."""

import argparse
import contextlib
import math
import os
import sys
from typing import Any, Callable, Counter, Iterator, List, NoReturn, Optional, Tuple

from common import streams
from common.version import VERSION


class UserError(Exception):
    """A mistake that the user can mend; the message names the file or flag, cause and remedy."""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each flag that has one."""

    def _get_help_string(self, action):
        if action.default in (None, False, [], argparse.SUPPRESS):
            return action.help
        return super()._get_help_string(action)


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser without abbreviations whose errors are one line."""

    def __init__(self, doc: Optional[str] = None, **kwargs):
        """``doc``: a module's docstring (None under PYTHONOPTIMIZE=2); its first line is shown."""
        kwargs.setdefault("description", (doc or "").partition("\n")[0] or None)
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, **kwargs)
        if self.add_help:
            self.add_argument("--version", action="version", version=f"alexnet-mxnet {VERSION}")

    def error(self, message: str) -> NoReturn:
        """Print the message as one line, and exit with code 2."""
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def integers(text: str) -> List[int]:
    """'30,60' -> [30, 60]; an argparse type."""
    return _list(text, int, "integers such as 30,60")


def numbers(text: str) -> List[float]:
    """'123.68,116.779,103.939' -> list of floats; an argparse type."""
    return _list(text, float, "numbers such as 0.5,1")


def _list(text, kind, example):
    try:
        values = [kind(part) for part in text.split(",")]
        if not all(map(math.isfinite, values)):
            raise ValueError(text)
        return values
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of {example}")


def image_shape(text: str) -> Tuple[int, int, int]:
    """'3,227,227' -> (3, 227, 227), channels first; an argparse type."""
    try:
        channels, height, width = (int(part) for part in text.split(","))
    except ValueError:
        channels = height = width = 0
    if channels not in (1, 3) or height < 1 or width < 1:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not channels,height,width such as 3,227,227 with 1 or 3 channels"
        )
    return channels, height, width


def number(
    kind: type = float,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> Callable[[str], float]:
    """An argparse type: a finite ``kind``, int or float, within these bounds."""
    bounds = {"of at least": least, "above": above, "of at most": most, "below": below}
    said = " and ".join(f"{word} {bound}" for word, bound in bounds.items() if math.isfinite(bound))
    noun = "an integer" if kind is int else "a number"

    def parse(text: str) -> float:
        try:
            value = kind(text)
            fits = math.isfinite(value) and least <= value <= most and above < value < below
        except (ValueError, OverflowError):
            fits = False
        if not fits:
            raise argparse.ArgumentTypeError(f"'{text}' is not {noun} {said}".rstrip())
        return value

    return parse


positive_int = number(int, least=1)


def new_file(path: str) -> str:
    """An argparse type: a file that can be written once the figures are there."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise argparse.ArgumentTypeError(f"{path}: there is no folder {folder}; make it first")
    if os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{path}: is a folder; give the name of a file")
    return path


def new_file_of(*extensions: str) -> Callable[[str], str]:
    """An argparse type: a :func:`new_file` whose name has one of these extensions."""

    def parse(path: str) -> str:
        if not path.lower().endswith(extensions):
            raise argparse.ArgumentTypeError(f"{path}: has to end in {' or '.join(extensions)}")
        return new_file(path)

    return parse


def counted(kinds: Counter[str]) -> str:
    """'3 .heic, 1 .txt'"""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


@contextlib.contextmanager
def blaming(flag: str) -> Iterator[None]:
    """Turn a ``ValueError`` of the block into a :class:`UserError` that begins with ``flag``."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{flag} {error}")


def refuse(message: str) -> NoReturn:
    """Print the message as this program's one line on stderr, and exit with code 2."""
    print(f"{_program()}: error: {message}", file=sys.stderr)
    sys.exit(2)


def refuse_import(message: str) -> NoReturn:
    """End an import that lacks something: :func:`refuse` in a command of ours, else ImportError."""
    if _is_ours(getattr(sys.modules["__main__"], "__file__", None)):
        refuse(message)
    raise ImportError(message) from None


def _is_ours(script):
    """Whether ``script`` lies where this project's commands do; None: there is no script."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    folder = os.path.dirname(os.path.abspath(script or ""))
    rooms = ("", "common", "data", "symbols")
    return script is not None and folder in [os.path.join(root, room).rstrip("/") for room in rooms]


def _program():
    program = os.path.basename(sys.argv[0])
    if program == "__main__.py":
        program = "python -m " + os.path.basename(os.path.dirname(os.path.abspath(sys.argv[0])))
    return program


OUTPUT_LOST = 74  # exit code: all is done, but not all that was said could be written


def run(main: Callable[[], Optional[int]]) -> NoReturn:
    """Call ``main()`` and exit with what it returns.

    A :class:`UserError`, or an operating-system error about a named file, becomes one line on
    stderr and exit code 2; Ctrl-C exits 130; anything else is a defect and keeps its traceback.
    Output that cannot be written ends nothing: the exit code is then OUTPUT_LOST in place of 0.
    """
    streams.install()
    try:
        try:
            code: Any = main()
        except SystemExit as leaving:  # --help, and wrong flags
            code = leaving.code
        sys.stdout.flush()
        lost = streams.lost()
        if lost:  # stderr may be the better one
            print(f"{_program()}: output was lost: {lost}", file=sys.stderr)
        sys.exit(code or (OUTPUT_LOST if lost else 0))
    except UserError as error:
        message = str(error)
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.filename is None:
            raise
        message = f"{error.filename}: {error.strerror}"
    except KeyboardInterrupt:
        print(file=sys.stderr)
        sys.exit(130)
    refuse(message)
