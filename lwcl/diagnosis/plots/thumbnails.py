"""Sheets of thumbnails as SVG: JPEGs side by side, with frames and marks that show correct or wrong without colour."""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from lwcl.reporting.plots import shorten

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Photo = NDArray[numpy.uint8]

THUMBNAIL_SIDE = 64  # units of a small thumbnail; a large one takes two by two
THUMBNAIL_GAP = 6
MAP_SIDE, MAP_PHOTO_SIDE = 480, 36
TEXT_HEIGHT = 18  # height of a line of text
THUMBNAIL_QUALITY = 78
CORRECT_COLOUR, WRONG_COLOUR = "#009E73", "#D55E00"
MARK_PATHS = {True: "M-4.5 0.5 L-1.5 3.5 L4.5 -3.5", False: "M-3.5 -3.5 L3.5 3.5 M-3.5 3.5 L3.5 -3.5"}


class NeighbourRow(NamedTuple):
    """A query (height, width, 3) uint8, its neighbours, nearest first, whether each is correct, and a line of text."""

    query: "Photo"
    neighbours: "Sequence[Photo]"
    correct: Sequence[bool | None]
    text: str


def neighbour_sheet(rows: Sequence[NeighbourRow]) -> str:
    """Each query, large, next to its neighbours in two rows, as SVG text."""
    parts, top = [], 0
    across = max((-(-len(row.neighbours) // 2) for row in rows), default=0)
    for row in rows:
        parts.append(svg_text(0, top + TEXT_HEIGHT - 5, row.text))
        top += TEXT_HEIGHT
        parts.append(svg_photo(row.query, 0, top, 2 * THUMBNAIL_SIDE + THUMBNAIL_GAP))
        for number, (image, right) in enumerate(zip(row.neighbours, row.correct, strict=True)):
            line, column = divmod(number, across)
            x, y = (
                (2 + column) * (THUMBNAIL_SIDE + THUMBNAIL_GAP) + THUMBNAIL_GAP,
                top + line * (THUMBNAIL_SIDE + THUMBNAIL_GAP),
            )
            parts += [svg_photo(image, x, y, THUMBNAIL_SIDE), *svg_mark(right, x, y)]
        top += 2 * (THUMBNAIL_SIDE + THUMBNAIL_GAP) + THUMBNAIL_GAP
    return svg_element(parts, (2 + across) * (THUMBNAIL_SIDE + THUMBNAIL_GAP), top)


def view_grid(images: "Sequence[Sequence[Photo]]", titles: Sequence[str]) -> str:
    """Rows of thumbnails below a title for each column, as SVG text."""
    parts = [
        svg_text(column * (THUMBNAIL_SIDE + THUMBNAIL_GAP), TEXT_HEIGHT - 5, title)
        for column, title in enumerate(titles)
    ]
    for row, line in enumerate(images):
        parts += [
            svg_photo(
                one,
                n * (THUMBNAIL_SIDE + THUMBNAIL_GAP),
                TEXT_HEIGHT + row * (THUMBNAIL_SIDE + THUMBNAIL_GAP),
                THUMBNAIL_SIDE,
            )
            for n, one in enumerate(line)
        ]
    return svg_element(
        parts,
        len(titles) * (THUMBNAIL_SIDE + THUMBNAIL_GAP) - THUMBNAIL_GAP,
        TEXT_HEIGHT + len(images) * (THUMBNAIL_SIDE + THUMBNAIL_GAP),
    )


def photo_map(places: "NDArray[numpy.floating]", photos: "Sequence[Photo]", shown: int) -> str:
    """Images at their places (N, 2) on a square: the first `shown` as thumbnails, the others as dots."""
    low, high = places.min(0), places.max(0)
    room = MAP_SIDE - MAP_PHOTO_SIDE
    spots = [(int(x), int(y)) for x, y in (places - low) / max(float((high - low).max()), 1e-9) * room]
    half = MAP_PHOTO_SIDE // 2
    dots = [f'<circle cx="{x + half}" cy="{y + half}" r="2.5" opacity="0.4"/>' for x, y in spots[shown:]]
    drawn = [svg_photo(one, x, y, MAP_PHOTO_SIDE) for one, (x, y) in zip(photos[:shown], spots, strict=False)]
    return svg_element([*dots, *drawn], MAP_SIDE, MAP_SIDE)


def svg_element(parts: Sequence[str], width: int, height: int) -> str:
    """An `<svg>` element of parts."""
    inside = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2 0 {width + 4} {height}" width="{width + 4}" '
        f'height="{height}" fill="currentColor" font-family="system-ui, sans-serif" font-size="12">\n{inside}\n</svg>\n'
    )


def svg_text(x: int, y: int, text: str) -> str:
    """A line of text, escaped."""
    return f'<text x="{x}" y="{y}">{escape(shorten(text))}</text>'


def svg_photo(image: "Photo", x: int, y: int, side: int) -> str:
    """A thumbnail (height, width, 3) uint8 as an embedded JPEG."""
    from PIL import Image

    written = io.BytesIO()
    Image.fromarray(image).save(written, "JPEG", quality=THUMBNAIL_QUALITY, optimize=True)
    data = base64.b64encode(written.getvalue()).decode()
    return f'<image x="{x}" y="{y}" width="{side}" height="{side}" href="data:image/jpeg;base64,{data}"/>'


def svg_mark(correct: bool | None, x: int, y: int) -> list[str]:
    """A frame and a mark: solid with a tick if correct, dashed with a cross if wrong; none where it is unknown."""
    if correct is None:
        return []
    colour, dash = (CORRECT_COLOUR, "") if correct else (WRONG_COLOUR, ' stroke-dasharray="7 4"')
    frame = f'fill="none" stroke="{colour}" stroke-width="3"{dash}'
    sign = f'fill="none" stroke="#ffffff" stroke-width="2.2" stroke-linecap="round" d="{MARK_PATHS[correct]}"'
    return [
        f'<rect x="{x + 0.5}" y="{y + 0.5}" width="{THUMBNAIL_SIDE - 1}" height="{THUMBNAIL_SIDE - 1}" {frame}/>',
        f'<g transform="translate({x + THUMBNAIL_SIDE - 9} {y + 9})"><circle r="8" fill="{colour}"/><path {sign}/></g>',
    ]
