"""Sheets of small photographs as SVG: JPEGs side by side, frames and signs that say right or wrong without colour."""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from lwcl.reporting.plots import label

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Photo = NDArray[numpy.uint8]

SIDE = 64  # units of a small photograph; a large one takes two by two
GAP = 6
LINE = 18  # height of a line of text
QUALITY = 78
RIGHT, WRONG = "#009E73", "#D55E00"
SIGNS = {True: "M-4.5 0.5 L-1.5 3.5 L4.5 -3.5", False: "M-3.5 -3.5 L3.5 3.5 M-3.5 3.5 L3.5 -3.5"}


class Row(NamedTuple):
    """A query (height, width, 3) uint8, its neighbours, nearest first, whether each is right, and a line of text."""

    query: "Photo"
    neighbours: "Sequence[Photo]"
    right: Sequence[bool | None]
    text: str


def neighbour_sheet(rows: Sequence[Row]) -> str:
    """Each query, large, beside its neighbours in two lines, as SVG text."""
    parts, top = [], 0
    across = max((-(-len(row.neighbours) // 2) for row in rows), default=0)
    for row in rows:
        parts.append(text_at(0, top + LINE - 5, row.text))
        top += LINE
        parts.append(photo(row.query, 0, top, 2 * SIDE + GAP))
        for number, (image, right) in enumerate(zip(row.neighbours, row.right, strict=True)):
            line, column = divmod(number, across)
            x, y = (2 + column) * (SIDE + GAP) + GAP, top + line * (SIDE + GAP)
            parts += [photo(image, x, y, SIDE), *marked(right, x, y)]
        top += 2 * (SIDE + GAP) + GAP
    return whole(parts, (2 + across) * (SIDE + GAP), top)


def grid(images: "Sequence[Sequence[Photo]]", titles: Sequence[str]) -> str:
    """Rows of photographs below a title for each column, as SVG text."""
    parts = [text_at(column * (SIDE + GAP), LINE - 5, title) for column, title in enumerate(titles)]
    for row, line in enumerate(images):
        parts += [photo(one, n * (SIDE + GAP), LINE + row * (SIDE + GAP), SIDE) for n, one in enumerate(line)]
    return whole(parts, len(titles) * (SIDE + GAP) - GAP, LINE + len(images) * (SIDE + GAP))


def whole(parts: Sequence[str], width: int, height: int) -> str:
    """An `<svg>` element of parts."""
    inside = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2 0 {width + 4} {height}" width="{width + 4}" '
        f'height="{height}" fill="currentColor" font-family="system-ui, sans-serif" font-size="12">\n{inside}\n</svg>\n'
    )


def text_at(x: int, y: int, text: str) -> str:
    """A line of text; names may come from strangers."""
    return f'<text x="{x}" y="{y}">{escape(label(text))}</text>'


def photo(image: "Photo", x: int, y: int, side: int) -> str:
    """A photograph (height, width, 3) uint8 as a JPEG in the page."""
    from PIL import Image

    written = io.BytesIO()
    Image.fromarray(image).save(written, "JPEG", quality=QUALITY, optimize=True)
    data = base64.b64encode(written.getvalue()).decode()
    return f'<image x="{x}" y="{y}" width="{side}" height="{side}" href="data:image/jpeg;base64,{data}"/>'


def marked(right: bool | None, x: int, y: int) -> list[str]:
    """A frame and a sign: whole with a tick if right, dashed with a cross if wrong; none where it is not known."""
    if right is None:
        return []
    colour, dash = (RIGHT, "") if right else (WRONG, ' stroke-dasharray="7 4"')
    frame = f'fill="none" stroke="{colour}" stroke-width="3"{dash}'
    sign = f'fill="none" stroke="#ffffff" stroke-width="2.2" stroke-linecap="round" d="{SIGNS[right]}"'
    return [
        f'<rect x="{x + 0.5}" y="{y + 0.5}" width="{SIDE - 1}" height="{SIDE - 1}" {frame}/>',
        f'<g transform="translate({x + SIDE - 9} {y + 9})"><circle r="8" fill="{colour}"/><path {sign}/></g>',
    ]
