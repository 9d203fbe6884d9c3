"""The face swap of hyperencoder/, measured where the truth is known: two drawn people, pose and expression exchanged.

Draws pictures of two people, trains one encoder and a decoder for each (`--run train_swap`), then puts the second
person's face over unseen pictures of the first and compares with that very scene drawn with the second person:
    python benchmarks/swap.py --out_dir /tmp/swap --epoch 40
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from common.celeba import to_tensor
from common.mtcnn import MTCNN, crop, pick
from common.photos import run_script
from common.synthetic import draw, parameters, person
from hyperencoder.loading import load_model, load_records
from hyperencoder.main import parse_args
from hyperencoder.plumbing import save_sheet
from hyperencoder.swap import put_in

PEOPLE = {"first": 1, "second": 3}  # identities of the drawn data set with seed 0: two men
COUNT, HELD_OUT = 200, 40  # pictures of each that are trained on, and further ones of the first


def scene(identity, picture, shown=None):
    """A picture of one person; with `shown`, the same pose, light and expression with that person instead."""
    p = parameters(0, identity, picture)
    return draw(p if shown is None else {**p, **person(np.random.default_rng([0, shown]), male=shown % 2)})[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out_dir", type=Path, required=True, help="folder for pictures, model and sheet")
    parser.add_argument("--epoch", type=int, default=40, help="passes over them")
    args = parser.parse_args()

    faces = args.out_dir / "faces"
    for name, identity in PEOPLE.items():
        (faces / name).mkdir(parents=True, exist_ok=True)
        for picture in range(COUNT):
            path = faces / name / f"{picture:04d}.png"
            if not path.exists():
                Image.fromarray(scene(identity, picture)).save(path)
    places = dict(record_dir="records", model_path="models", checkpoint_dir="checkpoint", sample_dir="samples")
    flags = ["--dataset_dir", faces, "--recipe", "best"]
    flags += [part for flag, name in places.items() for part in (f"--{flag}", args.out_dir / name)]
    command = [sys.executable, ROOT / "hyperencoder/main.py", *flags, "--run", "train_swap", "--epoch", args.epoch]
    subprocess.run(list(map(str, command)), check=True)

    options = parse_args([str(part) for part in [*flags, "--run", "swap"]])
    model, device, autocast, state = load_model(options)
    detector, before, truth = MTCNN(device), [], []
    for picture in range(COUNT, COUNT + HELD_OUT):
        image = scene(PEOPLE["first"], picture)
        boxes, _, _ = detector.detect([image])
        index = pick(boxes[0], image.shape, "centre")
        if index is not None:
            before.append(crop(image, boxes[0][index], 128))
            truth.append(crop(scene(PEOPLE["first"], picture, shown=PEOPLE["second"]), boxes[0][index], 128))
    before, truth = np.stack(before), np.stack(truth)
    swapped, x = put_in(model, before, device, autocast, 1, state["means"])
    x_true = model.target(to_tensor(truth, device))
    records = load_records(options, device)
    rows = np.flatnonzero(np.array([name.startswith("second/") for name in records.names]))
    mean_face = model.target(to_tensor(records.images[rows], device)).mean(0, keepdim=True).expand_as(x_true)

    def mse(guess):
        return ((guess - x_true) / 2).square().mean((1, 2, 3))

    print(f"{len(x)} unseen pictures of the first person; MSE in [0, 1] to the same scene with the second person")
    guesses = {"the swap": swapped, "no swap: the first person": x, "the second's mean face": mean_face}
    for label, guess in guesses.items():
        print(f"  {label:28} {mse(guess).mean().item():.4f}")
    nearer = ((swapped - x_true).square().mean((1, 2, 3)) < (swapped - x).square().mean((1, 2, 3))).float().mean()
    print(f"  nearer to the second person's scene than to the picture that went in: {nearer:.0%}")
    rows = {"First person": x[:12], "Second person's face put in": swapped[:12], "Truth": x_true[:12]}
    sheet = save_sheet(args.out_dir / "swap.png", rows, columns=12)
    print(f"sheet {args.out_dir / 'swap.png'}, {sheet.shape[1]} x {sheet.shape[0]}")


if __name__ == "__main__":
    run_script(main)
