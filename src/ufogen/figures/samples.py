"""Sheets of pictures. They are laid out in screen pixels, so each pixel of the art covers a whole number of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.textpath import TextPath

from ufogen.figures.style import DPI, plt, save_figure

FONT = 8  # points
LINE = round(1.2 * FONT * DPI / 72)  # pixels from one line of text to the next
GAP = 22  # pixels between pictures
LABEL = 184  # pixels for the names of the rows
MINIMUM_WIDTH = 520  # a sheet of one picture still has room for its caption


def one_step_samples(images: np.ndarray, prompts: list[str], path: Path, columns: int = 6, rows: int = 4) -> None:
    """The first `columns * rows` of images (n, h, w, 3) uint8, each above its prompt, as Figure 1 of the paper."""
    n = min(columns * rows, len(images))
    columns = min(columns, n)
    tile = images.shape[1] * _scale(images, 192)
    texts = [_wrap(prompt, tile) for prompt in prompts[:n]]
    note = f"UFOGen, one sampling step. The first {n} evaluation prompts in their order; nothing is picked."
    heights = [max(len(text) for text in texts[i : i + columns]) * LINE for i in range(0, n, columns)]

    sheet = _Sheet(GAP + columns * (tile + GAP), GAP + sum(tile + GAP + height for height in heights), note)
    y = GAP
    for row, height in enumerate(heights):
        for i in range(row * columns, min((row + 1) * columns, n)):
            x = sheet.left + GAP + (i % columns) * (tile + GAP)
            sheet.picture(images[i], x, y, tile)
            sheet.text("\n".join(texts[i]), x + tile / 2, y + tile + 5, ha="center", va="top")
        y += tile + height + GAP
    sheet.save(path)


def rows_of_samples(rows: dict[str, np.ndarray], prompts: list[str], note: str, path: Path) -> None:
    """One row a method or an update: `rows` maps a label to images (n, h, w, 3) uint8, one below each prompt."""
    first = next(iter(rows.values()))
    n = min(len(prompts), len(first))
    tile = first.shape[1] * _scale(first, 128)
    texts = [_wrap(prompt, tile) for prompt in prompts[:n]]
    head = GAP + max(map(len, texts)) * LINE

    sheet = _Sheet(LABEL + n * (tile + GAP), head + len(rows) * (tile + GAP // 2) + GAP // 2, note)
    for i, text in enumerate(texts):
        x = sheet.left + LABEL + i * (tile + GAP)
        sheet.text("\n".join(text), x + tile / 2, head - 8, ha="center", va="bottom")
        for row, images in enumerate(rows.values()):
            sheet.picture(images[i], x, head + row * (tile + GAP // 2), tile)
    for row, label in enumerate(rows):
        y = head + row * (tile + GAP // 2) + tile / 2
        sheet.text(label, sheet.left + LABEL - GAP / 2, y, ha="right", va="center")
    sheet.save(path)


class _Sheet:
    """A figure addressed in pixels from its upper left corner, with a note below."""

    def __init__(self, width: int, height: int, note: str):
        self.width = max(width, MINIMUM_WIDTH)
        self.left = (self.width - width) // 2
        lines = _wrap(note, self.width - 2 * GAP)
        self.height = height + (len(lines) + 1) * LINE
        self.figure = plt.figure(figsize=(self.width / DPI, self.height / DPI), dpi=DPI)
        self.text("\n".join(lines), GAP, height + LINE / 4, ha="left", va="top", color="#555555")

    def picture(self, image: np.ndarray, x: int, y: int, tile: int) -> None:
        enlarged = image.repeat(tile // len(image), axis=0).repeat(tile // len(image), axis=1)
        self.figure.figimage(enlarged, x, self.height - y - tile, origin="upper")

    def text(self, text: str, x: float, y: float, **style) -> None:
        self.figure.text(x / self.width, 1 - y / self.height, text, fontsize=FONT, **style)

    def save(self, path: Path) -> None:
        with plt.rc_context({"savefig.bbox": "standard"}):  # cropping would move pictures by fractions of a pixel
            save_figure(self.figure, path)


def _scale(images: np.ndarray, target: int) -> int:
    return max(target // images.shape[1], 1)


def _wrap(text: str, width: int) -> list[str]:
    """Lines of whole words, each at most `width` pixels where a word allows it."""
    lines: list[str] = []
    for word in text.split() or [""]:
        longer = f"{lines[-1]} {word}" if lines else ""
        if lines and TextPath((0, 0), longer, size=FONT).get_extents().width * DPI / 72 <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
