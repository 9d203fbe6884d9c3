"""Whether varied pictures help: a classifier learns from few real faces, with and without them, over many seeds.

The arms share everything but the pictures: for each seed the same few faces, the same first weights, as many steps and
as large batches. What is compared is each seed's difference, with Student's interval over the seeds.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import nn
from tqdm import tqdm

from common.celeba import attribute_indices
from dapgan.augmentation import SIDE, ClassAxis, LinearFaces, Pool, balanced, confident, counterfactuals, resized

ARMS = {
    "none": "the few pictures alone",
    "classical": "mirrored; brightness, contrast and tint changed",
    "generator": "classical, and counterfactual pairs that the GAN makes",
    "linear generator": "the same with 64 principal components in place of the GAN",
    "pseudo-labels": "classical, and unlabelled real faces as the classical arm labels them",
    "axis alone": "the discriminant that the pairs are made along, and no classifier of pictures",
}
COLOURS = ("#888888", "#1f77b4", "#d62728", "#ff9896", "#2ca02c", "#bcbd22")


def view(x):
    """(N, 3, S, S) -> (N, 3, 24, 24): the face without most of hair and background, as the classifiers see it."""
    return resized(x, SIDE)[:, :, 6:30, 4:28]


def classical(x, colour, random):
    """Mirror half of the pictures; change contrast by up to `colour`, brightness and tint by parts of it."""

    def draw(*size):
        return torch.rand(len(x), *size, generator=random) * 2 - 1

    x = torch.where(draw(1, 1, 1) < 0, x.flip(3), x)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * (1 + colour * draw(1, 1, 1)) + mean
    return (x + 0.7 * colour * draw(1, 1, 1) + colour * draw(3, 1, 1)).clamp(-1, 1)


def make_classifier(width=16, dropout=0.2):
    """(N, 3, 24, 24) -> (N, 1) logits, from scratch: 24,273 parameters."""
    layers, channels = [], 3
    for outputs in (width, 2 * width, 4 * width):
        layers += [nn.Conv2d(channels, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        channels = outputs
    net = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout), nn.Linear(9 * channels, 1))
    return net.to(memory_format=torch.channels_last)


def fit_classifier(x, y, seed, colour=0.9, made=None, share=0.5, steps=200, batch=32, learning_rate=0.005):
    """Train a classifier on few pictures x (N, 3, 24, 24), y (N,) bool; made: pictures and labels to add.

    Both classes are drawn equally often; `share` of each batch are made pictures, where there are. colour 0: no
    classical augmentation at all, mirroring neither.
    """
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
        torch.manual_seed(seed)
        net, random = make_classifier(), torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(net.parameters(), learning_rate, weight_decay=0.05, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps)
        sources = [(x[y], 1.0), (x[~y], 0.0)]
        sizes = [batch - batch // 2, batch // 2]
        if made is not None:
            sources += [(made[0][made[1]], 1.0), (made[0][~made[1]], 0.0)]
            extra = round(share * batch)
            real = batch - extra
            sizes = [real - real // 2, real // 2, extra - extra // 2, extra // 2]
        target = torch.cat([torch.full((size,), label) for size, (_, label) in zip(sizes, sources, strict=True)])
        for _ in range(steps):
            drawn = torch.cat([pictures[torch.randint(len(pictures), (size,), generator=random)]
                               for size, (pictures, _) in zip(sizes, sources, strict=True)])  # fmt: skip
            drawn = classical(drawn, colour, random) if colour else drawn
            logits = net(drawn.contiguous(memory_format=torch.channels_last))[:, 0]
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(logits, target).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


@torch.no_grad()
def look(net, x):
    """Scores (N,) of pictures x (N, 3, 24, 24), each seen as it is and mirrored: above 0 for the first class."""
    return (net(x) + net(x.flip(3)))[:, 0]


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


def pick_few(y, count, seed):
    """(2 count,) rows: as many random ones of each class of y (N,) bool, first those where it is so."""
    random = torch.Generator().manual_seed(1000 + seed)
    rows = [there.nonzero()[:, 0] for there in (y, ~y)]
    return torch.cat([part[torch.randperm(len(part), generator=random)[:count]] for part in rows])


def evaluate(x, attributes, x_test, attributes_test, encode, generate, constrain, names=("Smiling",),
             counts=(5, 10, 20), seeds=20, first_seed=0, arms=tuple(ARMS), progress=False, **settings):  # fmt: skip
    """Balanced accuracy on x_test of every arm, name, number of pictures per class and seed.

    x, x_test (N, 3, S, S); attributes (N, 40) of 0 and 1, of which each case sees `count` of each class; the rest of x
    is used without labels. The pairs of the arms with a generator are made in two steps: a teacher, the classifier of
    the classical arm, says of which unlabelled faces it is surest; their mean difference, divided by the
    covariance of all, is the axis that other unlabelled faces are moved along, to either side.

    settings: of fit_classifier. Returns a list of dicts: attribute, count, seed, arm, accuracy.
    """
    linear = LinearFaces(x)
    pools = {"linear generator": (Pool(x, linear.encode, linear.generate), lambda z: z)}
    if "generator" in arms:
        pools["generator"] = (Pool(x, encode, generate), constrain)
    middle, features = pools["linear generator"][0].middle, pools["linear generator"][0].features
    features_test, seen, seen_test, results = middle.features(x_test), view(x), view(x_test), []
    seeds = range(first_seed, first_seed + seeds)
    cases = [(name, count, seed) for name in names for count in counts for seed in seeds]
    for name, count, seed in tqdm(cases, "cases", disable=not progress):
        column = attribute_indices([name])[0]
        truth, y_test = (torch.as_tensor(table[:, column] > 0) for table in (attributes, attributes_test))
        rows, y = pick_few(truth, count, seed), torch.arange(2 * count) < count
        few = seen[rows]
        teacher = fit_classifier(few, y, seed, **settings)
        # From here on the unlabelled faces are known by what the teacher, which has seen the few alone, says of them.
        with_it, without = confident(look(teacher, seen))
        axis = ClassAxis(middle, features[with_it], features[without])
        for arm in arms:
            if arm == "axis alone":
                score = axis.score(features_test)
            elif arm == "classical":
                score = look(teacher, seen_test)
            elif arm == "none":
                score = look(fit_classifier(few, y, seed, **{**settings, "colour": 0}), seen_test)
            else:
                if arm == "pseudo-labels":
                    made = seen[torch.cat([with_it, without])], torch.arange(2 * len(with_it)) < len(with_it)
                else:
                    pairs = counterfactuals(pools[arm][0], axis, pools[arm][1], seed=seed)
                    made = view(pairs.pictures), pairs.labels
                score = look(fit_classifier(few, y, seed, made=made, **settings), seen_test)
            results.append(dict(attribute=name, count=count, seed=seed, arm=arm, accuracy=balanced(score, y_test)))
    return results


def summarise(results):
    """A row for each attribute, count and arm: accuracy with its interval, and the paired gain over classical.

    Returns a list of dicts: attribute, count, arm, seeds, accuracy, half (of the interval), gain, gain_half, helps:
    "yes" and "no" where the gain's interval excludes zero, else "open"; empty for classical itself.
    """
    table = {}
    for row in results:
        table.setdefault((row["attribute"], row["count"]), {}).setdefault(row["arm"], {})[row["seed"]] = row["accuracy"]
    rows = []
    for (name, count), arms in table.items():
        for arm, of_seed in arms.items():
            mean, half = interval(list(of_seed.values()))
            row = dict(attribute=name, count=count, arm=arm, seeds=len(of_seed), accuracy=mean, half=half, gain="",
                       gain_half="", helps="")  # fmt: skip
            if arm != "classical" and "classical" in arms:
                gain, width = interval([value - arms["classical"][seed] for seed, value in of_seed.items()])
                verdict = "open" if abs(gain) <= width else "yes" if gain > 0 else "no"
                row |= dict(gain=gain, gain_half=width, helps=verdict)
            rows.append(row)
    return rows


def as_text(rows):
    """The summary as lines of text."""
    lines = [f"{'attribute':12}{'few':>4}  {'arm':18}{'accuracy':>16}{'gain over classical':>22}  helps"]
    for row in rows:
        gain = f"{100 * row['gain']:+.1f} +- {100 * row['gain_half']:.1f}" if row["gain"] != "" else ""
        accuracy = f"{100 * row['accuracy']:.1f} +- {100 * row['half']:.1f}"
        lines.append(f"{row['attribute']:12}{row['count']:>4}  {row['arm']:18}{accuracy:>16}{gain:>22}  {row['helps']}")
    return lines


def draw_chart(path, rows):
    """Write the summary as a picture: for each attribute the accuracy over pictures per class, a line for each arm."""
    names = list(dict.fromkeys(row["attribute"] for row in rows))
    arms = [arm for arm in ARMS if any(row["arm"] == arm for row in rows)]
    colour = dict(zip(ARMS, COLOURS, strict=True))
    counts = sorted({row["count"] for row in rows})
    ends = [row["accuracy"] + side * row["half"] for row in rows for side in (-1, 1)]
    low, high = math.floor(min(ends) * 20) / 20, math.ceil(max(ends) * 20) / 20
    width, height, left, top = 260, 220, 46, 28
    image = Image.new("RGB", (max(left + width * len(names), 520), top + height + 46 + 16 * len(arms)), "white")
    pen = ImageDraw.Draw(image)

    def level(value):
        return top + height - height * (value - low) / (high - low)

    for panel, name in enumerate(names):
        start = left + panel * width
        pen.text((start + 4, 8), f"{name}: balanced accuracy", fill="black")
        for tick in range(round(low * 20), round(high * 20) + 1):
            pen.line([(start, level(tick / 20)), (start + width - 24, level(tick / 20))], fill="#dddddd")
            pen.text((start - 30, level(tick / 20) - 6), f"{tick * 5}%", fill="black")
        for slot, count in enumerate(counts):
            pen.text((start + 20 + slot * 70, top + height + 6), f"{count}", fill="black")
        for number, arm in enumerate(arms):
            points = []
            for row in rows:
                if row["attribute"] == name and row["arm"] == arm:
                    across = start + 24 + counts.index(row["count"]) * 70 + 4 * number
                    points.append((across, level(row["accuracy"])))
                    pen.line([(across, level(row["accuracy"] - row["half"])),
                              (across, level(row["accuracy"] + row["half"]))], fill=colour[arm])  # fmt: skip
            pen.line(points, fill=colour[arm], width=2)
            for across, y in points:
                pen.ellipse((across - 3, y - 3, across + 3, y + 3), fill=colour[arm])
    pen.text((left, top + height + 22), "real pictures per class; bars: 95% intervals over the seeds", fill="black")
    for number, arm in enumerate(arms):
        y = top + height + 42 + 16 * number
        pen.line([(left, y + 6), (left + 20, y + 6)], fill=colour[arm], width=3)
        pen.text((left + 26, y), f"{arm}: {ARMS[arm]}", fill="black")
    image.save(path)
