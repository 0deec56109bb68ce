"""The report's style: colours, markers, panels.

Colours are Petroff's (2021) ten, which people with colour vision deficiency tell apart; an eleventh
category takes the first colour again with another marker, and unknown cells are light grey.
"""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Final, ParamSpec

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import NDArray

from scgpt_core.keys import UNKNOWN

_STYLE: Final[dict[Any, Any]] = {
    "axes.axisbelow": True,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.dpi": 110,
    "font.size": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
COLOURS: Final = tuple(mpl.colors.to_hex(colour) for colour in mpl.color_sequences["petroff10"])
BLUE, ORANGE, RED = COLOURS[:3]
GREY: Final = "#94a4a2"
PALE: Final = "#d9d9d9"
MARKERS: Final = "o^sDvP"
THOUSANDS: Final = StrMethodFormatter("{x:,.0f}")
P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw under the report's style, whatever the caller's rcParams are."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_STYLE)
            return draw(*args, **kwargs)

    return drawn


def panels(
    n_rows: int, n_columns: int, *, width: float, height: float, **subplots: Any
) -> tuple[Figure, NDArray[Any]]:
    """Figure and its axes (n_rows, n_columns); width and height of one panel in inches."""
    figure = Figure(figsize=(width * n_columns, height * n_rows), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False, **subplots)


def assign_styles(categories: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of every category, in sorted order; `UNKNOWN` is pale and comes last."""
    found = set(categories)
    styles = {
        name: (COLOURS[i % len(COLOURS)], MARKERS[i // len(COLOURS) % len(MARKERS)])
        for i, name in enumerate(sorted(found - {UNKNOWN}))
    }
    if UNKNOWN in found:
        styles[UNKNOWN] = (PALE, MARKERS[0])
    return styles


def unknown_last(name: str) -> tuple[bool, str]:
    """Key that sorts names, `UNKNOWN` behind all others."""
    return name == UNKNOWN, name
