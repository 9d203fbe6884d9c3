"""--run analyse, and small charts as PNG: lines over steps, and bars."""

import numpy as np
from PIL import Image, ImageDraw

from common.celeba import ATTRIBUTES, CelebA
from common.photos import InputError
from facegen_attr.loading import run_name
from facegen_attr.plumbing import output_folder, place

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
        x = left + (np.array(steps) - first) / (last - first) * (width - left - right)
        y = height - bottom - (line - low) / (high - low) * (height - top - bottom)
        points = [point for point in zip(x.tolist(), y.tolist(), strict=True) if np.isfinite(point[1])]
        pen.line(points if len(points) > 1 else points * 2, colour, 2)
        pen.text((left + 150 * index + 180, 6), name, colour)
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
    image.save(path)


def draw_history(samples, history):
    """The curves of both losses, and of D's mean probability on real, generated and mismatched pictures, as PNG."""
    steps, *columns = history.T.tolist()
    draw_lines(samples / "loss.png", "loss", steps, dict(zip(("d", "g"), columns[:2], strict=True)))
    names = ("real", "fake", "mismatch")
    draw_lines(samples / "probability.png", "D's mean probability", steps, dict(zip(names, columns[2:], strict=True)))


def analyse(args):
    """How often each of the 40 attributes is there, and the chosen ones: a table, and two charts as PNG."""
    if args.dataset_dir is None:
        raise InputError("--dataset_dir is needed: the folder (or zip) with the pictures")
    dataset = CelebA(args.dataset_dir)
    if dataset.attributes is None:
        raise InputError(f"{args.dataset_dir} has no attributes (list_attr_celeba.txt or .csv): nothing to analyse")
    shares = dict(zip(ATTRIBUTES, dataset.attributes.mean(0).tolist(), strict=True))
    chosen = {name: shares[name] for name in args.attributes}
    print(f"{len(dataset.files)} pictures; * chosen ({len(chosen)}); sparse: less than 10% have it")
    for name, share in sorted(shares.items(), key=lambda item: -item[1]):
        mark, sparse, bar = "*" if name in chosen else " ", "sparse" if share < 0.1 else "", "#" * round(share * 50)
        print(f"{mark} {name:20} {share:6.1%} {sparse:6} {bar}".rstrip())
    print(f"sparse among the chosen: {', '.join(name for name, share in chosen.items() if share < 0.1) or 'none'}")
    out = output_folder(args, place(args, "samples", run_name(args)))
    draw_bars(out / "all_attributes.png", f"all 40 attributes of {len(dataset.files)} pictures", shares)
    draw_bars(out / "chosen_attributes.png", f"the {len(chosen)} chosen attributes", chosen)
    print(f"all_attributes.png and chosen_attributes.png in {out}")
