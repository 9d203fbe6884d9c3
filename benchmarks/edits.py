"""facegen_attr's editor, attribute by attribute: put on, and taken off, on every test face that shows it otherwise.

    python benchmarks/edits.py --dataset_dir data/celeba
    python benchmarks/edits.py --dataset_dir data/celeba --degree 2
It takes the flags of `python facegen_attr/main.py --run generate --model dcgan5 --recipe best`, the degree (1: as
asked, 2: as after `more 1`), and --cache_dir, where benchmarks/quality.py keeps the judge that reads the faces before
and after (it is trained where it is missing). `--run generate` changes each face in one way only, so that rare changes,
such as glasses taken off, are there a handful of times; here they are all tried.
"""

import argparse
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.quality import load_reader
from common.celeba import attribute_indices, to_uint8
from common.photos import run_script
from facegen_attr.asking import test_faces
from facegen_attr.attributes import exclusions
from facegen_attr.loading import load_model
from facegen_attr.main import parse_args


def main(argv=None):
    """Print the table; returns its rows: (change, faces, share changed, share of other attributes read anew)."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--degree", type=float, default=1)
    own.add_argument("--cache_dir", type=Path, default=ROOT / "benchmarks/cache")
    own, rest = own.parse_known_args(argv)
    args = parse_args(["--run", "generate", "--model", "dcgan5", "--recipe", "best", *rest])
    model = load_model(args)
    x, c = test_faces(args, model)
    names = model.flags.attributes
    read, columns = load_reader(args.dataset_dir, own.cache_dir), attribute_indices(names)
    before, exclusive, table = read(to_uint8(x))[:, columns], exclusions(names), []
    for k, name in enumerate(names):
        for value in (1, 0):
            rows = ((before[:, k] != value) & (c[:, k] != value)).nonzero()[:, 0]
            if not len(rows):
                continue
            ended = exclusive[k] if value else torch.zeros_like(exclusive[k])  # a hair colour ends when another begins
            asked = torch.where(ended, 0, c[rows])
            asked[:, k] = value
            asked = c[rows] + (asked - c[rows]) * (own.degree + 1) / 2
            edited = model.answer(x[rows], c[rows], asked)
            after = read(to_uint8(edited))[:, columns]
            others = ~ended
            others[k] = False
            anew = (after != before[rows])[:, others].float().mean().item()
            table.append((f"{name}={value}", len(rows), (after[:, k] == value).float().mean().item(), anew))
    print(f"{len(x)} test faces, degree {own.degree:g}; changed as asked, and others of {len(columns)} read anew")
    for change, count, changed, anew in table:
        print(f"  {change:16} changed {changed:.3f}  others {anew:.3f}  (n {count})")
    changed, anew = (sum(row[i] for row in table) / len(table) for i in (2, 3))
    print(f"  mean             changed {changed:.3f}  others {anew:.3f}")
    return table


if __name__ == "__main__":
    run_script(main)
