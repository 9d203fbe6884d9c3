"""How good are the makeovers of deep_makeover/? Test faces of a data set, judged by networks that never trained one.

    python deep_makeover/main.py --dataset_dir data/celeba --run train --recipe best
    python benchmarks/makeover.py --dataset_dir data/celeba

For the test faces of the model's source side, three candidates side by side: the makeover; the picture itself (keeps
the person, changes nothing); and a random test face of the target side (changes all, and the person too). Each is read
by the attribute judge of benchmarks/quality.py, and dlib's face embedding says whether it is still the same person;
rates with 95% intervals (Wilson). Beside them: which kinds of faces it fails with, how well target faces are left as
they are, how much of the rest of the attributes is read otherwise than before, and the speed. Packages: pip install -r
requirements-bench.txt
"""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
import quality

from common.celeba import ATTRIBUTES, CROPS, CelebA, attribute_indices, pack, parse_condition
from common.photos import InputError
from deep_makeover.loading import MODES, run_name, sides
from deep_makeover.main import parse_args
from deep_makeover.measure import test
from deep_makeover.plumbing import place

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


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True, help="what the model was trained on")
    parser.add_argument("--train_mode", choices=MODES, default="mtf", help="of the model")
    parser.add_argument("--recipe", help="of the model (default: that of the only one there is)")
    parser.add_argument("--source", help="condition that the model was trained with, if any")
    parser.add_argument("--target", help="likewise")
    parser.add_argument("--model_path", help="model file, or folder (default: the project's)")
    parser.add_argument("--size", type=int, default=100, help="height to judge at (default: 100)")
    parser.add_argument("--out_dir", type=Path, default=ROOT / "benchmarks/cache/makeover", help="for the pictures")
    parser.add_argument("--cache_dir", type=Path, default=ROOT / "benchmarks/cache", help="keeps the judge")
    parser.add_argument("--json", type=Path, help="write the numbers to this file as well")
    args = parser.parse_args(argv)

    embed = quality.load_identity("makeover")  # first: what is missing is said before any work
    flags = {
        name: getattr(args, name) for name in ("dataset_dir", "train_mode", "recipe", "source", "target", "model_path")
    }
    flags |= dict(run="test", out_dir=args.out_dir / "pictures", sample_dir=args.out_dir, overwrite=True)
    flags |= dict(record_dir=args.cache_dir / "records")
    options = parse_args([f"--{name}={value}" for name, value in flags.items() if value is not None])
    folder = args.out_dir / "pictures"
    for old in folder.glob("*/*.png"):  # of another model
        old.unlink()
    test(options)
    metrics = json.loads((place(options, "samples", run_name(options)) / "metrics.json").read_text())

    _, _, width, height = CROPS["makeover"]
    size = (args.size, round(args.size * width / height))
    records = pack(CelebA(args.dataset_dir), args.cache_dir / "records", CROPS["makeover"], size, progress=False)
    how = argparse.Namespace(crop="makeover", epoch=12, cache_dir=args.cache_dir)
    judge, thresholds, judge_hash = quality.load_judge(how, records, size)
    real = records.rows("test")
    truth = torch.from_numpy(records.attributes[real] > 0)
    read = quality.logits_of(judge, records.images[real]) > thresholds
    rows = quality.read_manifest(folder / "manifest.tsv", folder)
    request = parse_condition(rows[0]["request"])
    columns = {name: ATTRIBUTES.index(name) for name in request}
    accuracy = {name: quality.balanced(read[:, i], truth[:, i]) for name, i in columns.items()}
    right = ", ".join(f"{name} {value:.3f}" for name, value in accuracy.items())
    print(f"judge {judge_hash}, {size[1]} x {size[0]}, balanced accuracy on {len(real)} real test faces: {right}")

    paths = {kind: sorted((folder / kind).glob("*.png")) for kind in ("source", "made", "target")}
    order = np.random.default_rng(0).integers(len(paths["target"]), size=len(paths["source"]))
    paths["target"] = [paths["target"][i] for i in order]
    full = {kind: quality.read_pictures(files) for kind, files in paths.items()}
    small = {kind: quality.read_pictures(files, size) for kind, files in paths.items()}
    others = attribute_indices([name for name in OTHERS.split(",") if name not in request])
    before = quality.logits_of(judge, small["source"]) > thresholds
    kinds = records.attributes[sides(options, records, "test")[0]] > 0
    numbers = {"judge": accuracy, "request": request, "test": metrics, "groups": {}}
    print(
        f"{len(rows)} test faces, {options.source}, asked to be {rows[0]['request']}; read as such, the same person "
        f"(dlib, {quality.SAME_PERSON}), others of {len(others)} attributes read anew:"
    )
    embeddings = {}
    for kind, label in (("source", "the picture itself"), ("made", "made over"), ("target", "a random target face")):
        after = quality.logits_of(judge, small[kind]) > thresholds
        hit = torch.stack([after[:, columns[name]] == bool(value) for name, value in request.items()]).all(0)
        anew = (after[:, others] != before[:, others]).float().mean().item()
        row = dict(n=len(hit), read=hit.float().mean().item(), others=anew)
        if embed is not None:
            embeddings[kind] = embed(full[kind])
            distance = (embeddings[kind] - embeddings["source"]).norm(dim=1)
            near = (distance < quality.SAME_PERSON).float().mean().item()
            row |= dict(distance=distance.mean().item(), same_person=near)
        numbers[kind] = row
        if kind == "made":
            for name in GROUPS:
                for value in (0, 1):
                    group = kinds[:, ATTRIBUTES.index(name)] == bool(value)
                    if group.sum() >= 10 and not group.all():
                        rate = hit[torch.from_numpy(group)].float().mean().item()
                        numbers["groups"][f"{name}={value}"] = dict(n=int(group.sum()), read=rate)
        same = f"same person {show(row['same_person'], row['n'])} (distance {row['distance']:.3f}), " if embed else ""
        print(f"  {label:22} read {show(row['read'], row['n'])}  {same}others {row['others']:.1%}")
    if embed is not None:
        strangers = (embeddings["made"] - embeddings["source"].roll(1, 0)).norm(dim=1) < quality.SAME_PERSON
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
        args.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
