"""What all pictures share: matplotlib, one palette, one style, and how a picture is written."""

import functools
import io
import re
import sys
import threading
import warnings
from typing import Any, Callable, Sequence, Tuple

from common import cli
from common.cli import UserError
from common.io.files import atomic

FORMATS = (".png", ".svg")
# Masataka Okabe and Kei Ito's colours, which colour-blind readers can tell apart, without yellow:
# on white its lines cannot be seen.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
INK, FAINT = "#222222", "#767676"
SHADES = ("#ffffff", "#9ccbe4", "#0072b2", "#00263c")  # from nothing to much

_DOTS = 200  # an inch: twice those of a screen
_LARGEST = 200_000  # bytes of a PNG in full colour
_SETTINGS = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # names may have a $ in them
    "svg.hashsalt": "",  # the same picture is the same file
}
# The first comes with matplotlib; for what it lacks, Chinese above all, the first of these that is
# installed.
_FONTS = (
    *("DejaVu Sans", "Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Micro Hei"),
    *("WenQuanYi Zen Hei", "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "PingFang SC"),
)
_lock = threading.Lock()  # matplotlib's settings are the process's


def add_out(parser: cli.ArgumentParser, default: str) -> None:
    """Add the flag for the picture's file."""
    kind, names = cli.new_file_of(*FORMATS), "X.png|X.svg"
    parser.add_argument("--out", type=kind, default=default, metavar=names, help="the picture")


def check(flag: str) -> None:
    """Raise UserError, which begins with ``flag``, if matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UserError(f"{flag}: a picture needs matplotlib; pip install '.[plots]'")


def styled(draw: Callable) -> Callable:
    """A decorator of functions that draw: what they make has the style of this file."""

    @functools.wraps(draw)
    def within(*args, **kwargs):
        import matplotlib

        with _lock, matplotlib.rc_context(_settings()):
            return draw(*args, **kwargs)

    return within


def _settings():
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return {**_SETTINGS, "font.family": [name for name in _FONTS if name in installed]}


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of so many inches, whose parts make room for each other."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def shades(exponent: float) -> Tuple[Any, Any]:
    """SHADES as a matplotlib colour map, and a norm for it: 0 to 1, raised to ``exponent``."""
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    return LinearSegmentedColormap.from_list("shades", SHADES), PowerNorm(exponent, 0, 1)


def show_pixels(axes: Any, pixels: Any, title: str = "", size: float = 9) -> None:
    """Show an RGB array in ``axes``, pixel by pixel, with neither frame nor ticks."""
    axes.imshow(pixels, interpolation="nearest")
    axes.set_title(title, fontsize=size)
    axes.set_axis_off()


def rgb(colour: str) -> Tuple[int, int, int]:
    """'#0072b2' -> (0, 114, 178)"""
    return tuple(bytes.fromhex(colour[1:]))


def fitting(names: Sequence[str], length: int) -> Sequence[str]:
    """The names, those of more than ``length`` characters cut."""
    return [name if len(name) <= length else name[: length - 1] + "…" for name in names]


def write(figure: Any, path: str) -> None:
    """Write a figure to ``path``, whole or not at all: SVG if it ends in .svg, else PNG.

    Characters that no font has are boxes; a line on stderr names them.
    """
    import matplotlib

    kind = "svg" if path.lower().endswith(".svg") else "png"
    nothing = {"Date": None} if kind == "svg" else {"Software": None}  # that changes by itself
    content = io.BytesIO()
    with _lock, matplotlib.rc_context(_settings()), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        figure.savefig(
            content, format=kind, dpi=_DOTS, bbox_inches="tight", pad_inches=0.08, metadata=nothing
        )
    missing = re.findall(r"Glyph (\d+) .*missing", "\n".join(str(one.message) for one in told))
    if missing:
        letters = "".join(sorted({chr(int(number)) for number in missing}))
        remedy = "install one, such as Debian's fonts-noto-cjk"
        print(f"{path}: no font here has {letters[:20]}; {remedy}", file=sys.stderr)
    if kind == "png":
        content = _smaller(content)
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(content.getvalue())


def _smaller(content):
    """The PNG, in 256 colours if it is large: that of photographs is."""
    if content.tell() <= _LARGEST:
        return content
    from PIL import Image  # matplotlib needs it, too

    small = io.BytesIO()
    Image.open(content).convert("RGB").quantize(256, Image.Quantize.MEDIANCUT).save(
        small, "PNG", optimize=True
    )
    return small
