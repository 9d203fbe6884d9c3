"""--run evaluate: do varied pictures help? A classifier learns from few faces, with and without them, over many seeds.

The arms share everything but the pictures: for each seed the same few faces, the same first weights, as many steps and
as large batches. What is compared is each seed's difference, with Student's interval over the seeds.
"""

import sys

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from common.celeba import attribute_indices, to_tensor
from common.photos import InputError, write_table
from dapgan.augmentation import unlabelled_faces
from dapgan.counterfactuals import ClassAxis, Pool, counterfactuals, likely
from dapgan.faces import SIDE, LinearFaces, SeenMiddle, balanced, resized
from dapgan.loading import load_reader, run_name
from dapgan.plumbing import output_folder, place
from dapgan.summary import ARMS, as_text, draw_chart, summarise

FOLDS = 4  # of the few, in cross-validation


def view(x):
    """(N, 3, S, S) -> (N, 3, 24, 24): the face without most of hair and background, as the classifiers see it."""
    return resized(x, SIDE)[:, :, 6:30, 4:28]


def classical(x, colour, random):
    """Mirror half of the pictures; change contrast by up to `colour`, brightness and tint by parts of it."""

    def draw(*size):
        return torch.rand(len(x), *size, generator=random, device=x.device) * 2 - 1

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
    sources, sizes = [x[y], x[~y]], [batch - batch // 2, batch // 2]
    if made is not None:
        sources += [made[0][made[1]], made[0][~made[1]]]
        extra = round(share * batch)
        real = batch - extra
        sizes = [real - real // 2, real // 2, extra - extra // 2, extra // 2]
    labels = [torch.full((size,), 1.0 - kind % 2, device=x.device) for kind, size in enumerate(sizes)]
    target = torch.cat(labels)
    with torch.random.fork_rng([x.device] if x.is_cuda else []):  # the caller's random numbers stay as they are
        torch.manual_seed(seed)
        random = torch.Generator(x.device).manual_seed(seed)
        with x.device:
            net = make_classifier()
        optimizer = torch.optim.AdamW(net.parameters(), learning_rate, weight_decay=0.05, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps)
        for _ in range(steps):
            drawn = []
            for size, pictures in zip(sizes, sources, strict=True):
                drawn.append(pictures[torch.randint(len(pictures), (size,), generator=random, device=x.device)])
            drawn = torch.cat(drawn)
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


def ranked(score, y):
    """How often a score (N,) is higher for one with it than for one without, y (N,) bool: the area under the ROC."""
    return ((score[y, None] > score[~y]).float().mean() + (score[y, None] == score[~y]).float().mean() / 2).item()


def pick_few(y, count, seed):
    """(2 count,) rows: as many random ones of each class of y (N,) bool, first those where it is so."""
    random = torch.Generator(y.device).manual_seed(1000 + seed)
    rows = [there.nonzero()[:, 0] for there in (y, ~y)]
    return torch.cat([part[torch.randperm(len(part), generator=random, device=y.device)[:count]] for part in rows])


def measure(faces, tested, networks, names, counts, seeds, arms=ARMS, progress=False, **how):
    """Balanced accuracy on the tested faces of every arm, name, number of pictures per class and seed.

    faces, tested: pictures (N, 3, S, S) and attributes (N, 40) of 0 and 1; of the first each case sees the attributes
    of `count` of each class, all others are used without labels. networks: encode, generate, constrain, and maps, what
    the discriminator sees. The pairs of the arms with a generator are made in two steps: a teacher, the classifier of
    the classical arm, and the discriminant of the few in what the discriminator sees say together how likely each of
    the unlabelled faces is of either class; the discriminant of faces drawn by that is the axis that other unlabelled
    faces are moved along, to either side.

    The arm "chosen", which comes after the two, is the generator's where cross-validation on the few speaks for it:
    those that are left out, in FOLDS folds, are ranked better by classifiers that saw pairs than by those that did not.
    Else, and where both rank alike, it is the classical one: so what the generator cannot draw does less harm.

    how: settings of fit_classifier. Returns a list of dicts: attribute, count, seed, arm, accuracy, pairs (1 where the
    classifier learned from pairs, else 0).
    """
    (x, attributes), (x_test, attributes_test), (encode, generate, constrain, maps) = faces, tested, networks
    linear, middle = LinearFaces(x), SeenMiddle(x, maps)
    pools = {"linear generator": (Pool(x, middle, linear.encode, linear.generate), lambda z: z)}
    if "generator" in arms:
        pools["generator"] = (Pool(x, middle, encode, generate), constrain)
    features, features_test, seen, seen_test, results = *map(middle.features, (x, x_test)), view(x), view(x_test), []

    def sure_of(teacher, few, y):
        """Unlabelled faces likely to be of either class, to teacher and discriminator, and the axis between them."""
        scores = look(teacher, seen), ClassAxis(middle, features[few[y]], features[few[~y]]).score(features)
        with_it, without = likely(sum(score / score.std() for score in scores))
        return with_it, without, ClassAxis(middle, features[with_it], features[without])

    def learn(few, y, seed, arm, axis):
        """A classifier that the pairs of an arm are shown to as well."""
        pool, allowed = pools[arm]
        pictures, labels = counterfactuals(pool, axis, allowed, seed=seed)
        return fit_classifier(seen[few], y, seed, made=(view(pictures), labels), **how)

    def pairs_help(few, y, seed):
        """Whether the generator's do, by cross-validation on the few; of one of each class nothing can be left out."""
        count = len(y) // 2  # of each class
        if count == 1:
            return False
        fold = torch.arange(len(y), device=y.device) % count % FOLDS
        scores = torch.zeros(2, len(y), device=y.device)
        for out in (fold == number for number in range(min(FOLDS, count))):
            rest = few[~out], y[~out]
            teacher = fit_classifier(seen[rest[0]], rest[1], seed, **how)
            taught = learn(*rest, seed, "generator", sure_of(teacher, *rest)[2])
            scores[:, out] = torch.stack([look(net, seen[few[out]]) for net in (teacher, taught)])
        without, with_pairs = (ranked(score, y) for score in scores)
        return with_pairs > without

    cases = [(name, count, seed) for name in names for count in counts for seed in range(seeds)]
    for name, count, seed in tqdm(cases, "cases", disable=not progress):
        column = attribute_indices([name])[0]
        tables = attributes[:, column] > 0, attributes_test[:, column] > 0
        truth, y_test = (torch.as_tensor(table, device=x.device) for table in tables)
        few, y = pick_few(truth, count, seed), torch.arange(2 * count, device=x.device) < count
        teacher = fit_classifier(seen[few], y, seed, **how)
        # From here on the unlabelled faces are known by what is said of them, knowing labels of the few alone.
        with_it, without, axis = sure_of(teacher, few, y)
        scores = {"classical": look(teacher, seen_test)}
        for arm in arms:
            taken = arm in pools
            if arm == "axis alone":
                scores[arm] = axis.score(features_test)
            elif arm == "none":
                scores[arm] = look(fit_classifier(seen[few], y, seed, **how | dict(colour=0)), seen_test)
            elif arm == "pseudo-labels":
                labels = torch.arange(2 * len(with_it), device=x.device) < len(with_it)
                made = seen[torch.cat([with_it, without])], labels
                scores[arm] = look(fit_classifier(seen[few], y, seed, made=made, **how), seen_test)
            elif arm == "chosen":
                taken = pairs_help(few, y, seed)
                scores[arm] = scores["generator" if taken else "classical"]
            elif arm in pools:
                scores[arm] = look(learn(few, y, seed, arm, axis), seen_test)
            row = dict(attribute=name, count=count, seed=seed, arm=arm, accuracy=balanced(scores[arm], y_test))
            results.append(row | dict(pairs=int(taken)))
    return results


def evaluate(args):
    """Whether it helps: classifiers from few real faces, alone, with classical augmentation, and with generated pairs.

    The few come from the training part, --seeds times others, and are tested on --part: table.tsv, results.tsv, chart.
    """
    gan = load_reader(args)
    records, rows, x = unlabelled_faces(args, gan.device)
    if records.attributes is None:
        raise InputError(f"{args.dataset_dir} has no attributes to classify by (list_attr_celeba.txt)")
    names, tested = args.attributes.split(","), records.rows(args.part)
    for name in names:
        column = attribute_indices([name])[0]
        for part, least in ((rows, max(args.few)), (tested, 1)):
            there = int((records.attributes[part][:, column] > 0).sum())
            if min(there, len(part) - there) < least:
                raise InputError(f"{name}: {there} of {len(part)} faces have it; {least} with and without are needed")
    out = output_folder(args, place(args, "samples", run_name(args)))
    faces, x_test = (x, records.attributes[rows]), to_tensor(records.images[tested], gan.device)
    networks = gan.read, gan.generate, gan.latent.constrain, gan.maps
    cases = dict(names=names, counts=args.few, seeds=args.seeds, progress=sys.stderr.isatty())
    results = measure(faces, (x_test, records.attributes[tested]), networks, **cases)
    table = summarise(results)
    for name, lines in (("results.tsv", results), ("table.tsv", table)):
        write_table(out / name, list(lines[0]), [list(line.values()) for line in lines])
    draw_chart(out / "chart.png", table)
    print("\n".join(as_text(table)))
    print(f"table.tsv, results.tsv and chart.png in {out}")
