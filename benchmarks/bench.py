"""`make bench`: what this repository does, measured beside what people would use instead, in one run, as one table.

    python benchmarks/bench.py                            # on faces that it draws; a GPU is used where there is one
    python benchmarks/bench.py --dataset_dir data/celeba
    python benchmarks/bench.py --rows loading,detection   # these alone; or trainings: --rows "facegen_attr,(64)"
    python benchmarks/bench.py --sizes 1000,10000,100000  # make bench-large: a plot of time against size

Ours and the other take turns and medians are compared: a busy machine slows both, so of all numbers the ratios count.
The table is printed as Markdown, and lies with bench.json (the numbers, and what machine it was) in --out_dir. Peers of
the face detector are an extra (`make peers`). What needs a GPU says so in its row.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
import data
import detector
import latency
import models
import scale
import speed

from common.celeba import CelebA
from common.photos import InputError, read_image, run_script, tolerate_names
from common.synthetic import write

GROUPS = {
    "loading": data.loading,
    "detection": latency.detection,
    "projection": latency.projection,
    "makeover": latency.makeover,
    "generated": latency.generated,
    "index": data.index,
    "memory": data.memory,
    "sizes": data.sizes,
    "torchrun": scale.torchrun,
}
GPU = "python3 benchmarks/bench.py --dataset_dir data/celeba, or make bench PY=python3, on a machine with a GPU"


def parse_args(argv):
    def numbers(text):
        return sorted(map(int, text.split(",")))

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset_dir", type=Path, help="CelebA, or what common/synthetic.py has drawn (default: draws --count faces)")
    add("--out_dir", type=Path, default=ROOT / "benchmarks/cache/bench", help="what it makes, table.md and bench.json")
    add("--rows", default="", help=f"these alone: training, or parts of their names, {', '.join(GROUPS)}")
    add("--seconds", type=float, default=2, help="of measuring, each row and each of its sides (default: 2)")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--cores", type=int, default=os.cpu_count(), help="of detectors, processes that decode (default: all)")
    add("--count", type=int, default=2000, help="faces to draw (default: 2000)")
    add("--sizes", type=numbers, default=[1000, 10_000], help="pictures of sets that time is plotted against")
    add("--full", type=int, default=data.FULL, help=f"pictures of the full-size set (default: {data.FULL})")
    add("--peer_python", type=Path, default=detector.PEERS, help="the Python that has the detector's peers")
    args = parser.parse_args(argv)
    args.rows = [name.strip() for name in args.rows.split(",") if name.strip()] or ["training", *GROUPS]
    parts = [part for part in args.rows if part not in GROUPS]
    chosen = {part: [name for name in speed.ROWS if part == "training" or part in name] for part in parts}
    if unknown := [part for part, names in chosen.items() if not names]:
        raise InputError(f"--rows {','.join(unknown)}: expected some of training,{','.join(GROUPS)}")
    wanted = {name for names in chosen.values() for name in names}
    args.trainings = {name: line for name, line in speed.ROWS.items() if name in wanted}
    there = torch.cuda.is_available()
    if args.device == "cuda" and not there:
        raise InputError("--device cuda is not to be had here: cpu is, and auto finds the best")
    args.device = "cuda" if there and args.device != "cpu" else "cpu"
    return args


def machine(args):
    """What the numbers were measured on."""
    return {
        "gpu": torch.cuda.get_device_name() if args.device == "cuda" else None,
        "cpu": models.cpu_name(),
        "cores": args.cores,
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "command": f"python benchmarks/bench.py {' '.join(sys.argv[1:])}".strip(),
    }


def measure(args):
    """All rows, in order: those of the trainings as benchmarks/speed.py has them, and those of data.row()."""
    trainings, rows = {}, []
    for name, found in speed.measure(args, args.trainings):
        print(f"{name}: {speed.describe(found)[0]} steps/s", file=sys.stderr, flush=True)
        trainings[name] = found
    for name in (name for name in GROUPS if name in args.rows):
        start = time.perf_counter()
        try:
            for row in GROUPS[name](args):
                rows.append(row)
                print(f"{row['row']}: {row['ours']} {row['unit']}, {row['theirs']}", file=sys.stderr, flush=True)
        except Exception as error:  # the other rows are still wanted
            rows.append(data.row(name, f"failed: {' '.join(str(error).split())[:200]}", "") | {"failed": True})
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return trainings, rows


def table(facts, trainings, rows):
    """The Markdown of all that was found."""
    where = facts["gpu"] or "no GPU"
    bf16 = "with" if facts["avx512_bf16"] else "without"
    lines = [f"{where}; {facts['cpu']}, {facts['cores']} cores, {bf16} AVX512-BF16; torch {facts['torch']}", ""]
    if trainings:
        rates = [found["example"] for found in trainings.values()]
        lines += [speed.HEADING]
        lines += [f"| {name} | {' | '.join(speed.describe(found))} |" for name, found in trainings.items()]
        lines += [f"| {speed.EXAMPLE} | {min(rates):.3g} to {max(rates):.3g} | 1 | | | | |", ""]
        if not facts["gpu"]:
            lines += [f"What the GPU computes of a step needs one: {GPU}", ""]
    if rows:
        lines += ["| what | here | instead | there | ratio | to reach |", "|---|---|---|---|---|---|"]
        for found in rows:
            here = f"{found['ours']} {found['unit']}".strip()
            there = f"{found['theirs']} {found['unit']}" if found["theirs"] else ""
            ratio = f"{found['ratio']:.2f}" if found["ratio"] else ""
            lines.append(f"| {found['row']} | {here} | {found['peer']} | {there} | {ratio} | {found['reach']} |")
    return "\n".join(lines) + "\n"


def main(argv=None):
    tolerate_names()
    args = parse_args(argv)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    if args.dataset_dir is None:
        args.dataset_dir = args.out_dir / f"faces_{args.count}"
        write(args.dataset_dir, args.count, workers=args.cores)
    dataset = CelebA(args.dataset_dir)
    args.pictures = [dataset.image_dir / name for name in dataset.files[:1000]]
    height, width = read_image(args.pictures[0]).shape[:2]
    args.shape = f"{width} x {height}"
    facts = machine(args)
    trainings, rows = measure(args)
    text = table(facts, trainings, rows)
    print(f"\n{text}")
    (args.out_dir / "table.md").write_text(text, encoding="utf-8")
    content = {"machine": facts, "training": trainings, "rows": rows}
    (args.out_dir / "bench.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(args.out_dir / "bench.json")
    if any("failed" in row for row in rows) or any("rate" not in found for found in trainings.values()):
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
