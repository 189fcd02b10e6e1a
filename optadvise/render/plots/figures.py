"""Matplotlib figures: styles, axes and files. Matplotlib is imported only when a plot is drawn."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError, InputError
from optadvise.core.files import check_writable, write_output

PICTURES = ("png", "svg", "pdf")
ANIMATIONS = ("gif",)
DPI = 160
# Okabe and Ito's colors, distinct for color-blind readers, without yellow, which is hard to see on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C510A", "#6A3D9A")
DASHES = ("-", (0, (6, 2)), (0, (6, 2, 1, 2)), (0, (1.2, 1.6)), (0, (3, 1.5)), (0, (8, 2, 1, 2, 1, 2)), (0, (2, 4)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
INK, PALE, GREY = "#22303f", "#c9d1da", "#55606c"
_FRAMES_PER_SECOND = 12
_NEARLY_WHITE = 248


def line_style(number: int) -> dict[str, object]:
    """Return color, dashes and marker of a line; the combination repeats late."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[number % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def check_picture(file: Path, flag: str, formats: Sequence[str] = PICTURES) -> None:
    """Check before a computation that its plot can be drawn and written.

    Raises:
        InputError: The file has another ending or cannot be written.
        CannotRunHereError: matplotlib is not installed.
    """
    if file.suffix.lstrip(".").lower() not in formats:
        endings = ", ".join(f".{name}" for name in formats)
        raise InputError(
            f"{flag} {str(file)!r}: unknown file type; use a file that ends in {endings}",
            code=ErrorCode.WRONG_FILE_TYPE,
            option=flag,
            value=str(file),
        )
    try:
        _import_matplotlib()
        if formats == ANIMATIONS:
            import PIL  # noqa: F401
    except ImportError as error:
        raise CannotRunHereError(
            f"{flag}: plots require matplotlib; pip install 'optadvise[plot]'",
            code=ErrorCode.MISSING_PACKAGE,
            option=flag,
            value=str(file),
        ) from error
    check_writable(file, flag)


def _import_matplotlib() -> None:
    """Import matplotlib without a matplotlibrc of the current folder, which can start LaTeX or hang.

    Raises:
        ImportError: It is not installed.
    """
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise ImportError("matplotlib")
    before = Path.cwd()
    os.chdir(Path(spec.origin).with_name("mpl-data"))  # it first looks for the file in the current folder
    try:
        import matplotlib
    finally:
        os.chdir(before)
    matplotlib.rcdefaults()  # of a program that imported it before
    matplotlib.rcParams["svg.hashsalt"] = "optadvise"  # the same data produce the same file
    matplotlib.rcParams["text.parse_math"] = False  # a $ in a label does not begin a formula


def make_figure(width: float, height: float, **options: Any) -> Any:
    """Return an empty figure without a window, sizes in inches; `options` go to matplotlib's Figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", **{"layout": "constrained", **options})
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, file: Path) -> None:
    """Write a figure atomically in the format of the file's ending."""
    kind = file.suffix.lstrip(".").lower()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    out = io.BytesIO()
    with warnings.catch_warnings():  # names may be so long that they leave too little space for the axes
        warnings.filterwarnings("ignore", "constrained_layout not applied")
        figure.savefig(out, format=kind, metadata=undated)
    write_output(file, _reduce_colours(out) if kind == "png" else out.getvalue())


def _reduce_colours(png: io.BytesIO) -> bytes:
    """Return an image with 256 colors, in a third of the bytes.

    The colors of lines are kept exactly, as quantization would change thin lines in favor of large areas.
    """
    from PIL import Image

    image = Image.open(png).convert("RGB")
    line_colours = [int(colour[at : at + 2], 16) for colour in (*COLOURS, INK, "#ffffff") for at in (1, 3, 5)]
    areas = image.quantize(256 - len(line_colours) // 3, dither=Image.Dither.NONE).getpalette() or []
    shades = [areas[at : at + 3] for at in range(0, 768 - len(line_colours), 3)]
    palette = Image.new("P", (1, 1))
    # Pillow uses the first color that is close, so the palette must not have near-white colors in addition to white.
    dark_shades = [shade for shade in shades if min(shade, default=255) < _NEARLY_WHITE]
    palette.putpalette(line_colours + [part for shade in dark_shades for part in shade])
    out = io.BytesIO()
    reduced = image.quantize(palette=palette, dither=Image.Dither.NONE)
    reduced.save(out, format="png", optimize=True, dpi=(DPI, DPI))
    return out.getvalue()


def save_animation(
    figure: Any, draw: Callable[[int], object], frames: Sequence[int], file: Path, dpi: int = 100
) -> None:
    """Write an animation.

    Args:
        draw: Function that draws a frame by its number.
        dpi: Dots per inch, lower than that of plots, as an animation has many frames.
    """
    from matplotlib.animation import PillowWriter

    writer = PillowWriter(fps=_FRAMES_PER_SECOND)
    with tempfile.TemporaryDirectory() as folder:
        animation = Path(folder) / "animation.gif"
        with writer.saving(figure, str(animation), dpi):
            for number in frames:
                draw(number)
                writer.grab_frame()
        write_output(file, animation.read_bytes())


def label_axes(axes: Any, x: str, y: str) -> None:
    """Label axes and hide the upper and right lines of the frame."""
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.grid(color=PALE, linewidth=0.6, alpha=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def set_title(axes: Any, title: str, subtitle: str = "") -> None:
    """Set a left-aligned title with a smaller line below it."""
    axes.set_title(title + ("\n" if subtitle else ""), loc="left", fontsize=13, fontweight="bold", color=INK)
    if subtitle:
        axes.annotate(subtitle, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", fontsize=9,
                      color=GREY, va="bottom")  # fmt: skip


def add_legend(axes: Any, *entries: Sequence[Any], **options: Any) -> None:
    """Add a legend to the right of the axes; `entries` are handles and labels if not all are shown."""
    axes.legend(*entries, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=10, **options)


def list_ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two ends."""
    from matplotlib.ticker import MaxNLocator

    values = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in values if low <= tick <= high]


def format_axis(axis: Any, format_number: Callable[[float], str]) -> None:
    """Format the numbers of an axis as in text output."""
    axis.set_major_formatter(lambda value, position: format_number(value))
