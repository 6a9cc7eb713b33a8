"""Figures as SVG that look right on light and on dark pages: their colours are names that the page's style defines.

Letters are drawn as paths, so that a label takes the room that it was measured for, whatever fonts a browser has.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from xml.etree import ElementTree as Xml

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from aam.data.sampling.seeded import generator
from aam.report.blocks import Picture

INK: Final = "#0a0b01"
FAINT: Final = "#0a0b02"
SERIES: Final = tuple(f"#0a0c{number:02x}" for number in range(8))
"""Colours of learners and classes; distinct to the colour-blind (Okabe & Ito 2008)."""
RAMP: Final = tuple(f"#0a0d{number:02x}" for number in range(7))
"""Colours of low to high numbers."""
MARKERS: Final = "osD^vPX*"
NAMES: Final = {
    INK: "currentColor",
    FAINT: "var(--faint)",
    **{colour: f"var(--series{number})" for number, colour in enumerate(SERIES)},
    **{colour: f"var(--ramp{number})" for number, colour in enumerate(RAMP)},
}
"""What stands in the file for a colour that is drawn with."""
LOOK: Final[Any] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "aam",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "text.parse_math": False,  # names may hold dollars
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}
WIDTH: Final = 3.4
"""Inches of the axes, without labels: a figure is to be read on a telephone."""
HEIGHT: Final = 2.6
MOST_POINTS: Final = 1500
"""Points that a figure shows; of more it shows a seeded sample."""
LONGEST: Final = 28
"""Letters of a label, beyond which its middle is left out."""

_SVG: Final = "http://www.w3.org/2000/svg"
_LINK: Final = "{http://www.w3.org/1999/xlink}href"
_ROUNDED: Final = re.compile(r"\d+\.\d{3,}")
_REFERENCE: Final = re.compile(r"url\(#([^)]+)\)")
_COLOUR: Final = re.compile("|".join(NAMES))
TOKEN: Final = "figure-number-"
"""Begins the names of parts of a figure, until the page numbers its figures."""


@dataclass
class Canvas:
    """A figure that is being drawn."""

    axes: Axes
    alt: str
    """What it shows, in words."""
    tips: dict[str, Sequence[str]] = field(default_factory=dict)
    """Texts that a browser shows for the points of a group, by its id in the figure."""
    pictures: list[Picture] = field(default_factory=list)
    """The picture, once it is drawn."""

    @property
    def picture(self) -> Picture:
        """The picture."""
        return self.pictures[0]


@contextmanager
def canvas(alt: str, caption: str = "", width: float = WIDTH, height: float = HEIGHT) -> Iterator[Canvas]:
    """Open axes to draw on; the picture is there when the block ends, grown by as much as its labels need.

    Args:
        alt: what the figure shows, in words; may also be set on what this yields, while drawing.
        caption: what stands below it.
        width: inches of the axes.
        height: inches of the axes.
    """
    with rc_context(LOOK):
        figure = Figure(figsize=(width, height))
        FigureCanvasSVG(figure)
        drawn = Canvas(figure.add_axes((0, 0, 1, 1)), alt)
        yield drawn
        drawn.pictures.append(Picture(_svg(figure, drawn.alt, drawn.tips), drawn.alt, caption))


def scatter(
    drawn: Canvas, x: NDArray[Any], y: NDArray[Any], colour: str, tips: Sequence[str] = (), **style: Any
) -> None:
    """Draw points; with a text for each, a browser shows it where the mouse is."""
    dots = drawn.axes.scatter(x, y, **{"s": 12, "alpha": 0.65, "linewidths": 0, "color": colour, **style})
    if len(tips):
        name = f"points{len(drawn.tips)}"
        dots.set_gid(name)
        drawn.tips[name] = list(tips)


def log_axis(axes: Axes, which: str) -> None:
    """Make an axis logarithmic, with plain numbers at its ticks."""
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def few_ticks(axes: Axes, which: str, most: int = 5) -> None:
    """Ticks that leave room for their labels."""
    getattr(axes, f"{which}axis").set_major_locator(MaxNLocator(most))


def shortened(name: object, longest: int = LONGEST) -> str:
    """A label without its middle, where it is long."""
    text = " ".join(str(name).split())
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def _svg(figure: Figure, alt: str, tips: Mapping[str, Sequence[str]]) -> str:
    file = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")  # drawn as boxes
        figure.savefig(
            file, format="svg", bbox_inches="tight", pad_inches=0.05, transparent=True, metadata={"Date": None}
        )
    root = Xml.fromstring(file.getvalue())
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    _add_tips(root, tips)
    _rename(root)
    width = float(root.attrib.pop("width").removesuffix("pt")) * 4 / 3
    root.attrib.pop("height")
    root.attrib |= {"role": "img", "aria-label": alt, "width": f"{width:.0f}"}
    Xml.register_namespace("", _SVG)
    return _COLOUR.sub(lambda found: NAMES[found[0]], Xml.tostring(root, encoding="unicode"))


def _add_tips(root: Xml.Element, tips: Mapping[str, Sequence[str]]) -> None:
    for group in root.iter(f"{{{_SVG}}}g"):
        texts = tips.get(group.get("id", ""))
        if texts is not None:
            for dot, text in zip(group.iter(f"{{{_SVG}}}use"), texts, strict=True):
                Xml.SubElement(dot, f"{{{_SVG}}}title").text = text


def _rename(root: Xml.Element) -> None:
    """Names of parts that no other figure of the page has, for those that are referred to; fewer digits elsewhere."""
    used = {element.get(_LINK, "").removeprefix("#") for element in root.iter()}
    used |= {name for element in root.iter() for value in element.attrib.values() for name in _REFERENCE.findall(value)}
    for element in root.iter():
        own = element.attrib
        if own.get("id") is not None and own["id"] not in used:
            del own["id"]
        elif "id" in own:
            own["id"] = f"{TOKEN}{own['id']}"
        if _LINK in own:
            own["href"] = f"#{TOKEN}{own.pop(_LINK).removeprefix('#')}"
        for name, value in own.items():
            if "url(#" in value:
                own[name] = _REFERENCE.sub(rf"url(#{TOKEN}\1)", value)
            elif name in ("x", "y", "d"):
                own[name] = _ROUNDED.sub(lambda found: f"{float(found[0]):.2f}", value)


def thinned(size: int, most: int = MOST_POINTS) -> NDArray[np.int64]:
    """Places of the things that a figure shows: all, or a seeded sample of so many, in order."""
    if size <= most:
        return np.arange(size)
    return np.sort(generator(size, "report").choice(size, most, replace=False))
