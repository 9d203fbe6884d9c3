"""The results of an evaluation as a table, as text and as a chart: means with Student's interval over the seeds."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ARMS = {
    "none": "the few pictures alone",
    "classical": "mirrored; brightness, contrast and tint changed",
    "generator": "classical, and counterfactual pairs that the GAN makes",
    "chosen": "classical, with those pairs where the few, cross-validated, speak for them",
    "linear generator": "the pairs with 64 principal components in place of the GAN",
    "pseudo-labels": "classical, and unlabelled real faces, the surer of a class the likelier",
    "axis alone": "the discriminant that the pairs are made along, and no classifier of pictures",
}
COLOURS = ("#888888", "#1f77b4", "#d62728", "#9467bd", "#ff9896", "#2ca02c", "#bcbd22")


def student_quantile(degrees):
    """The 97.5% quantile of Student's t: the density integrated on a fine grid."""
    t = np.linspace(0, 50, 500_001)
    density = (1 + t**2 / degrees) ** (-(degrees + 1) / 2)
    density *= math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    below = 0.5 + np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)]) * (t[1] - t[0])
    return float(t[np.searchsorted(below, 0.975)])


def interval(values):
    """Mean of values (at least 2) and half the width of its 95% interval by Student's t."""
    values = np.asarray(values, float)
    return values.mean(), student_quantile(len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))


def summarise(results):
    """A row for each attribute, count and arm: accuracy with its interval, and the paired gain over classical.

    Returns a list of dicts: attribute, count, arm, seeds, accuracy, half (of the interval), gain, gain_half, helps:
    "yes" and "no" where the gain's interval excludes zero, else "open"; empty for classical itself; pairs: how often
    generated pairs were learned from.
    """
    table = {}
    for row in results:
        table.setdefault((row["attribute"], row["count"]), {}).setdefault(row["arm"], {})[row["seed"]] = row
    rows = []
    for (name, count), arms in table.items():
        for arm, of_seed in arms.items():
            mean, half = interval([row["accuracy"] for row in of_seed.values()])
            pairs = np.mean([row["pairs"] for row in of_seed.values()])
            line = dict(attribute=name, count=count, arm=arm, seeds=len(of_seed), accuracy=mean, half=half)
            line |= dict(gain="", gain_half="", helps="", pairs=pairs)
            if arm != "classical" and "classical" in arms:
                without = arms["classical"]
                gain, width = interval([row["accuracy"] - without[seed]["accuracy"] for seed, row in of_seed.items()])
                verdict = "open" if abs(gain) <= width else "yes" if gain > 0 else "no"
                line |= dict(gain=gain, gain_half=width, helps=verdict)
            rows.append(line)
    return rows


def as_text(rows):
    """The summary as lines of text."""
    lines = [f"{'attribute':12}{'few':>4}  {'arm':18}{'accuracy':>16}{'gain over classical':>22}  helps  pairs"]
    for row in rows:
        gain = f"{100 * row['gain']:+.1f} +- {100 * row['gain_half']:.1f}" if row["gain"] != "" else ""
        accuracy = f"{100 * row['accuracy']:.1f} +- {100 * row['half']:.1f}"
        line = f"{row['attribute']:12}{row['count']:>4}  {row['arm']:18}{accuracy:>16}{gain:>22}"
        lines.append(f"{line}  {row['helps']:5}{row['pairs']:7.0%}")
    return lines


def draw_chart(path, rows):
    """Write the summary as a picture: for each attribute the accuracy over pictures per class, a line for each arm."""
    names = list(dict.fromkeys(row["attribute"] for row in rows))
    arms = [arm for arm in ARMS if any(row["arm"] == arm for row in rows)]
    colour = dict(zip(ARMS, COLOURS, strict=True))
    counts = sorted({row["count"] for row in rows})
    # Accuracies end at 0 and 1, which the interval of two seeds does not know; at most eleven lines, so that their
    # labels do not lie over each other.
    ends = [min(1, max(0, row["accuracy"] + side * row["half"])) for row in rows for side in (-1, 1)]
    step = next(percent for percent in (5, 10) if percent == 10 or max(ends) - min(ends) <= 0.45)
    low, high = math.floor(min(ends) * 100 / step) * step, math.ceil(max(ends) * 100 / step) * step
    high = max(high, low + step)
    width, height, left, top = max(260, 50 + 70 * len(counts)), 220, 46, 28
    image = Image.new("RGB", (max(left + width * len(names), 560), top + height + 46 + 16 * len(arms)), "white")
    pen = ImageDraw.Draw(image)
    pen.font = ImageFont.load_default(12)

    def level(value):
        """Where a share lies, in pixels from the top."""
        return top + height - height * (100 * min(1, max(0, value)) - low) / (high - low)

    for panel, name in enumerate(names):
        start = left + panel * width
        pen.text((start + 4, 8), f"{name}: balanced accuracy", fill="black")
        for tick in range(low, high + 1, step):
            pen.line([(start, level(tick / 100)), (start + width - 24, level(tick / 100))], fill="#dddddd")
            pen.text((start - 34, level(tick / 100) - 7), f"{tick}%", fill="black")
        for slot, count in enumerate(counts):
            pen.text((start + 20 + slot * 70, top + height + 6), f"{count}", fill="black")
        for number, arm in enumerate(arms):
            points = []
            for row in rows:
                if row["attribute"] == name and row["arm"] == arm:
                    across = start + 24 + counts.index(row["count"]) * 70 + 4 * number
                    points.append((across, level(row["accuracy"])))
                    bar = [(across, level(row["accuracy"] + side * row["half"])) for side in (-1, 1)]
                    pen.line(bar, fill=colour[arm])
            pen.line(points, fill=colour[arm], width=2)
            for across, y in points:
                pen.ellipse((across - 3, y - 3, across + 3, y + 3), fill=colour[arm])
    pen.text((left, top + height + 22), "real pictures per class; bars: 95% intervals over the seeds", fill="black")
    for number, arm in enumerate(arms):
        y = top + height + 42 + 16 * number
        pen.line([(left, y + 6), (left + 20, y + 6)], fill=colour[arm], width=3)
        pen.text((left + 26, y), f"{arm}: {ARMS[arm]}", fill="black")
    image.save(path)
