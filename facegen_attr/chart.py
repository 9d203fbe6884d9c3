"""Small charts as PNG: lines over steps, and bars."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189))


def draw_lines(path, title, steps, series):
    """Write a line chart: steps is a list of numbers, series maps a name to as many values."""
    width, height, left, right, top, bottom = 720, 400, 60, 15, 40, 30
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    values = np.array(list(series.values()), float).reshape(len(series), -1)
    low, high = min(0, np.nanmin(values)), max(np.nanmax(values), 1e-3)
    first, last = min(steps), max(max(steps), min(steps) + 1)
    for i in range(5):
        share = i / 4
        y = height - bottom - share * (height - top - bottom)
        x = left + share * (width - left - right)
        pen.line((left, y, width - right, y), (220, 220, 220))
        pen.text((4, y - 6), f"{low + share * (high - low):.3g}", "black")
        pen.text((x - 20, height - bottom + 8), f"{first + share * (last - first):.0f}", "black")
    pen.text((left, 6), title, "black")
    for index, (name, line) in enumerate(zip(series, values, strict=True)):
        colour = COLOURS[index % len(COLOURS)]
        points = [(left + (step - first) / (last - first) * (width - left - right),
                   height - bottom - (value - low) / (high - low) * (height - top - bottom))
                  for step, value in zip(steps, line, strict=True) if np.isfinite(value)]  # fmt: skip
        pen.line(points if len(points) > 1 else points * 2, colour, 2)
        pen.text((left + 150 * index + 180, 6), name, colour)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def draw_bars(path, title, shares):
    """Write a chart of shares from 0 to 1, a line for each name."""
    left, line, length = 150, 16, 400
    image = Image.new("RGB", (left + length + 60, 30 + line * len(shares)), "white")
    pen = ImageDraw.Draw(image)
    pen.text((4, 6), title, "black")
    for index, (name, share) in enumerate(shares.items()):
        y = 26 + index * line
        pen.text((4, y), name, "black")
        pen.rectangle((left, y, left + length * share, y + line - 4), COLOURS[0])
        pen.text((left + length * share + 5, y), f"{share:.1%}", "black")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
