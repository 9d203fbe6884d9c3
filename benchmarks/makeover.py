"""How good are the makeovers of deep_makeover/? Test faces of a data set, judged by networks that never trained one.

    python deep_makeover/main.py --dataset_dir data/celeba --run train --recipe best
    python benchmarks/makeover.py --dataset_dir data/celeba

What a person sees is judged: the made-over face is put back into CelebA's aligned picture, as --run inference
--keep_all does, and of that the square of 178 pixels is taken, with hair and background. For the test faces of the
model's source side, four candidates side by side: the makeover; all that the generator draws (--strength 1
--face_strength 1); the picture itself (keeps the person, changes nothing); and a random test face of the target side
(changes all, and the person too). Each is read by two readers that share nothing, the attribute judge of
benchmarks/quality.py and a logistic regression on EfficientNet-Lite0's features, dlib's face embedding says whether it
is still the same person (rates with 95% intervals, Wilson's), and KID-EffNet how far the whole set is from real
pictures of the target side. Beside them: which kinds of faces it fails with, how well target faces are left as they
are, how much of the rest of the attributes is read otherwise than before, and the speed.
Packages: pip install -r requirements-bench.txt
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
import quality

from common.celeba import ATTRIBUTES, CROPS, HEIGHT, WIDTH, CelebA, attribute_indices, pack, parse_condition
from common.mtcnn import paste, rescale, soft_box, warp
from common.photos import check_writable, run_script
from deep_makeover.loading import MODES, load_model, make_over, read_box, sides, take
from deep_makeover.main import parse_args
from deep_makeover.measure import request_of, test

GROUPS = ("No_Beard", "Young", "Smiling", "Heavy_Makeup", "Pale_Skin", "Eyeglasses", "Wearing_Hat", "Bangs")
OTHERS = "Smiling,Mouth_Slightly_Open,Black_Hair,Blond_Hair,Young,Pale_Skin,High_Cheekbones,Narrow_Eyes"


def wilson(rate, count, z=1.96):
    """The 95% interval of a rate of count cases, (low, high); Wilson's, which holds near 0 and 1, too."""
    middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    return middle - half, middle + half


def show(rate, count):
    low, high = wilson(rate, count)
    return f"{rate:6.1%} [{low:.1%}, {high:.1%}]"


def whole(model, pictures, strengths):
    """Aligned pictures (N, 218, 178, 3) uint8 as --run inference gives them back: the box made over, and pasted.

    A list of them, one array for each of strengths, which are (--strength, --face_strength), None for the default.
    """
    generator, device, autocast, saved, _ = model
    box, size = read_box(saved.box, saved.scale)
    matrix, weight, results = rescale(np.eye(2, 3), box, size), soft_box(size), []
    faces = np.stack([warp(picture, matrix, size[::-1]) for picture in pictures])
    x, made = make_over(generator, faces, device, autocast)
    for strength, face_strength in strengths:
        how = argparse.Namespace(strength=strength, face_strength=face_strength)
        parts = (x, take(x, made, how, saved))
        old, new = (127.5 * part.permute(0, 2, 3, 1).cpu().numpy() for part in parts)
        rows = zip(pictures, new, old, strict=True)
        results.append(np.stack([paste(picture, n, matrix, o, weight) for picture, n, o in rows]))
    return results


def square(pictures):
    """The square of 178 pixels of aligned pictures (N, 218, 178, 3)."""
    x, y, width, height = CROPS["square"]
    return pictures[:, y : y + height, x : x + width]


def second_reader(features, args, columns, count=3000):
    """A logistic regression on EfficientNet-Lite0's features of `count` training faces: (N, 1280) -> (N, A) bool."""
    records = pack(CelebA(args.dataset_dir), args.cache_dir / "records", CROPS["square"], (64, 64), progress=False)
    rows = records.rows("train")[:count]
    path = args.cache_dir / f"second_reader_{records.path.stem}_{len(rows)}.pt"
    if not path.exists():
        torch.save(features(records.images[rows]), path)
    x, wanted = torch.load(path, weights_only=True), torch.from_numpy(records.attributes[rows][:, columns] > 0).float()
    mean, spread = x.mean(0), x.std(0) + 1e-3
    x = (x - mean) / spread
    weights = torch.zeros(x.shape[1] + 1, len(columns), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")
    balance = (1 - wanted.mean(0)) / wanted.mean(0).clamp_min(1e-3)  # a rare side counts as much as a frequent one

    def loss():
        optimizer.zero_grad()
        logits = x @ weights[1:] + weights[0]
        value = (
            F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=balance) + 0.01 * weights[1:].square().sum()
        )
        value.backward()
        return value

    optimizer.step(loss)
    weights = weights.detach()
    return lambda made: (made - mean) / spread @ weights[1:] + weights[0] > 0


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True, help="what the model was trained on")
    parser.add_argument("--train_mode", choices=MODES, default="mtf", help="of the model")
    parser.add_argument("--recipe", help="of the model (default: that of the only one there is)")
    parser.add_argument("--source", help="condition that the model was trained with, if any")
    parser.add_argument("--target", help="likewise")
    parser.add_argument("--model_path", help="model file, or folder (default: the project's)")
    parser.add_argument("--out_dir", type=Path, default=ROOT / "benchmarks/cache/makeover", help="for the pictures")
    parser.add_argument("--cache_dir", type=Path, default=ROOT / "benchmarks/cache", help="keeps the judge")
    parser.add_argument("--json", type=Path, help="write the numbers to this file as well")
    return parser.parse_args(argv)


def run_test(args):
    """`deep_makeover --run test` on the model. Returns its flags, what is asked for, and its metrics."""
    flags = {
        name: getattr(args, name) for name in ("dataset_dir", "train_mode", "recipe", "source", "target", "model_path")
    }
    flags |= dict(run="test", out_dir=args.out_dir / "pictures", sample_dir=args.out_dir, overwrite=True)
    flags |= dict(record_dir=args.cache_dir / "records")
    options = parse_args([f"--{name}={value}" for name, value in flags.items() if value is not None])
    for kind in ("source", "made", "target"):
        for old in Path(options.out_dir, kind).glob("[0-9]*.png"):  # of another model
            old.unlink()
    test(options)
    metrics = json.loads(Path(options.out_dir, "metrics.json").read_text())
    return options, parse_condition(request_of(options.source, options.target)), metrics


class Look(NamedTuple):
    """What all judges see in pictures, each asked once."""

    read: torch.Tensor  # (N, 40) bool, the attribute judge's
    seen: torch.Tensor | None  # (N, 1280), EfficientNet-Lite0's features
    face: torch.Tensor | None  # (N, 128), dlib's embeddings

    def of(self, rows):
        """That of some of the pictures."""
        return Look(*(None if part is None else part[rows] for part in self))


class Judges:
    """All who judge pictures (N, 178, 178, 3) uint8, for the attributes that are asked for."""

    def __init__(self, args, request):
        self.embed = quality.load_identity(CROPS["square"])
        self.read = quality.load_reader(args.dataset_dir, args.cache_dir)
        self.features, _ = quality.load_features()
        self.columns = attribute_indices(list(request))
        self.wanted = torch.tensor([value == 1 for value in request.values()])
        self.others = attribute_indices([name for name in OTHERS.split(",") if name not in request])
        self.second = None
        if self.features is not None:
            self.second = second_reader(self.features, args, self.columns)

    def look(self, pictures):
        """See Look; features as quality.py takes them."""
        seen = None if self.features is None else self.features(quality.resized(pictures, (64, 64)))
        return Look(self.read(pictures), seen, None if self.embed is None else self.embed(pictures))

    def readings(self, look):
        """What each reader says of the attributes asked for: {name: (N, A) bool}."""
        second = {} if self.second is None else {"second reader": self.second(look.seen)}
        return {"judge": look.read[:, self.columns]} | second


def judge_kind(judges, look, source, goal):
    """Numbers of one set of candidates, beside the looks of the source pictures and of target pictures.

    goal: those target pictures; None for such pictures themselves, whose distance from what they are drawn from says
    nothing (kid_floor has that of two halves).
    """
    hits = {name: (reading == judges.wanted).all(1) for name, reading in judges.readings(look).items()}
    row = dict(n=len(look.read), read={name: hit.float().mean().item() for name, hit in hits.items()})
    row["others"] = (look.read[:, judges.others] != source.read[:, judges.others]).float().mean().item()
    if look.face is not None:
        distance = (look.face - source.face).norm(dim=1)
        near = (distance < quality.SAME_PERSON).float().mean().item()
        row |= dict(distance=distance.mean().item(), same_person=near)
    if look.seen is not None and goal is not None:
        row["kid"], row["kid_std"] = quality.kid(look.seen, goal.seen, min(len(look.seen), len(goal.seen), 300) // 2)
    return row, hits["judge"]


def tell(label, row):
    """One line about one set of candidates."""
    told = [f"  {label:22} read {' / '.join(show(rate, row['n']).strip() for rate in row['read'].values())}"]
    if "same_person" in row:
        told.append(f"same person {show(row['same_person'], row['n'])} (distance {row['distance']:.3f})")
    if "kid" in row:
        told.append(f"KID-EffNet to the target {row['kid']:.1f} +- {row['kid_std']:.1f}")
    print("; ".join([*told, f"others {row['others']:.1%}"]))


def main(argv=None):
    args = parse(argv)
    for package in ("dlib", "efficientnet_lite_pytorch"):  # what is missing is said before any work
        quality.need(package)
    if args.json:
        check_writable("--json", args.json)
    options, request, metrics = run_test(args)
    records = pack(CelebA(args.dataset_dir), args.cache_dir / "records", CROPS["full"], (HEIGHT, WIDTH), progress=False)
    rows = sides(options, records, "test")
    judges = Judges(args, request)
    before, goal = (records.images[side] for side in rows)
    made_over = whole(load_model(options), before, [(None, None), (1, 1)])
    source, target, made, drawn = (judges.look(square(pictures)) for pictures in (before, goal, *made_over))

    test_rows = records.rows("test")
    truth = torch.from_numpy(records.attributes[test_rows] > 0)
    numbers = {"request": request, "test": metrics, "readers": {}, "groups": {}}
    for name, reading in judges.readings(judges.look(square(records.images[test_rows]))).items():
        columns = enumerate(judges.columns)
        accuracy = [quality.balanced(reading[:, i], truth[:, column]) for i, column in columns]
        numbers["readers"][name] = dict(zip(request, accuracy, strict=True))
        right = ", ".join(f"{attribute} {value:.3f}" for attribute, value in numbers["readers"][name].items())
        print(f"{name}: balanced accuracy on {len(truth)} real test faces: {right}")

    asked = ",".join(f"{name}={value}" for name, value in request.items())
    readers = " and ".join(numbers["readers"])
    print(f"{len(source.read)} test faces, {options.source}, asked to be {asked}: read as such by {readers},")
    print(f"the same person (dlib, {quality.SAME_PERSON}), others of {len(judges.others)} attributes read anew:")
    kinds = records.attributes[rows[0]] > 0
    order = np.random.default_rng(0).integers(len(target.read), size=len(source.read))
    for kind, label, look in (
        ("source", "the picture itself", source),
        ("made", "made over", made),
        ("drawn", "all that is drawn", drawn),
        ("target", "a random target face", target.of(torch.from_numpy(order))),
    ):
        numbers[kind], hit = judge_kind(judges, look, source, None if kind == "target" else target)
        tell(label, numbers[kind])
        for column, name in ((ATTRIBUTES.index(name), name) for name in GROUPS) if kind == "made" else ():
            for value in (0, 1):
                group = torch.from_numpy(kinds[:, column] == bool(value))
                if group.sum() >= 10 and not group.all():
                    rate = hit[group].float().mean().item()
                    numbers["groups"][f"{name}={value}"] = dict(n=int(group.sum()), read=rate)
    if target.seen is not None and (half := len(target.seen) // 2) > 1:
        numbers["kid_floor"] = quality.kid(target.seen[:half], target.seen[half:], half)[0]
        print(f"  KID-EffNet of two halves of the {len(target.seen)} target faces: {numbers['kid_floor']:.1f}")
    if made.face is not None:
        strangers = (made.face - source.face.roll(1, 0)).norm(dim=1) < quality.SAME_PERSON
        numbers["strangers"] = row = dict(n=len(strangers), same_person=strangers.float().mean().item())
        taken = show(row["same_person"], row["n"])
        print(f"  strangers (made over against the next source) are taken for the same person in {taken}")
    for name, row in numbers["groups"].items():
        print(f"  made over, {name:15} read {show(row['read'], row['n'])} (n {row['n']})")
    print(
        f"{metrics['target_faces']} target faces made over keep {metrics['psnr_of_target_faces']:.1f} dB; "
        f"{metrics['faces_per_second']:.0f} faces a second; change {metrics['change']:.3f} of 1"
    )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    run_script(main)
