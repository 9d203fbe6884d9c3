"""Reading a data set, beside what torchvision does: batches, packing, the index; memory; and how time grows with size.

Rows of `make bench`; see benchmarks/bench.py.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
from speed import alternate

from common.celeba import ATTRIBUTES, CROPS, TABLES, CelebA, batches, pack, to_tensor

FULL = 202_599  # pictures of CelebA
SIDE = 64
LINKS = 50_000  # that a file may have; file systems end at 65,000


def row(name, ours, unit, peer="", theirs=None, ratio=None, reach=""):
    """A row of the table; numbers are texts already."""
    return dict(row=name, ours=ours, unit=unit, peer=peer, theirs=theirs, ratio=ratio, reach=reach)


# Data sets


def link_set(folder, pictures, count):
    """A CelebA of count pictures, in torchvision's layout, which are links to a few; annotations of the real size."""
    images = folder / "celeba" / "img_align_celeba"
    if (images.parent / "list_bbox_celeba.txt").exists():  # written last
        return folder
    images.mkdir(parents=True, exist_ok=True)
    names = [f"{number:06d}.jpg" for number in range(1, count + 1)]
    for index, name in enumerate(names):
        source = images.parent / f"{index // LINKS}_{index % len(pictures)}.jpg"
        if index % LINKS < len(pictures):
            shutil.copyfile(pictures[index % len(pictures)], source)
        os.link(source, images / name)
    rng = np.random.default_rng(0)
    makers = {
        "attributes": lambda: rng.choice([" 1", "-1"], 40),
        "identity": lambda: [str(rng.integers(1, 10178))],
        "landmarks": lambda: map(str, rng.integers(60, 160, 10)),
        "partition": lambda: [str(rng.choice(3, p=[0.8, 0.1, 0.1]))],
        "box": lambda: map(str, rng.integers(50, 200, 4)),
    }
    titles = {"attributes": 40, "landmarks": 10, "box": 4}
    for kind, make in makers.items():
        stem = TABLES[kind][0] if kind in TABLES else "list_bbox_celeba"
        rows = [" ".join(make()) for _ in range(min(count, 997))]  # a prime: no two columns repeat together
        lines = [str(count), " ".join(f"column_{i}" for i in range(titles[kind]))] if kind in titles else []
        if kind == "attributes":
            lines[1] = " ".join(ATTRIBUTES)
        lines += [f"{name} {rows[index % len(rows)]}" for index, name in enumerate(names)]
        (images.parent / f"{stem}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def folder_of(dataset):
    """The same pictures as torchvision's ImageFolder has them: one class, 64 x 64 squares, mirrored at random."""
    from torchvision import datasets, transforms

    classes = dataset.root / "classes"
    classes.mkdir(exist_ok=True)
    if not (classes / "faces").exists():
        (classes / "faces").symlink_to(dataset.image_dir.resolve())
    steps = [transforms.CenterCrop(178), transforms.Resize(SIDE), transforms.RandomHorizontalFlip()]
    steps += [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    return datasets.ImageFolder(classes, transforms.Compose(steps))


def read_folder(dataset, args, device):
    """One pass over ImageFolder with PIL in a DataLoader with a process on each core: a call, to be timed."""
    loader = torch.utils.data.DataLoader(folder_of(dataset), 64, shuffle=True, num_workers=args.cores, drop_last=True)

    def read():
        for x, _ in loader:
            x.to(device)

    return read


# Rows


def loading(args):
    """Batches of 64 from packed records beside the DataLoader."""
    count, device = min(2000, args.sizes[-1]), args.device
    dataset = CelebA(link_set(args.out_dir / f"set_{count}", args.pictures, count))
    records = pack(dataset, args.out_dir / "records", CROPS["square"], (SIDE, SIDE), progress=False)
    stream, count = batches(records, np.arange(len(records.names)), 64, device), len(records.names) // 64 * 64

    def ours():
        for _ in range(10 * count // 64):
            next(stream)

    mine, theirs = alternate(args.seconds, ours, read_folder(dataset, args, device))
    stream.close()
    rates = 10 * count / mine, count / theirs
    peer = f"ImageFolder, PIL, DataLoader with {args.cores} workers"
    yield row(
        f"loading {SIDE} x {SIDE} from {args.shape} JPEGs, warm records", f"{rates[0]:,.0f}", "pictures/s", peer,
        f"{rates[1]:,.0f}", rates[0] / rates[1], "30 times",
    )  # fmt: skip


def index(args):
    """The index of the full-size set beside the reader of torchvision's CelebA, and how much memory it takes."""
    folder = link_set(args.out_dir / f"set_{args.full}", args.pictures[:1], args.full)
    found = child("--index", folder, "--seconds", args.seconds)
    mine, theirs = found["seconds"]
    yield row(
        f"index of {args.full:,} pictures", f"{mine:.2f}", "s", "torchvision.datasets.CelebA's reader", f"{theirs:.2f}",
        theirs / mine, "2 s",
    )  # fmt: skip
    yield row("memory that it takes", f"{found['memory']:.0f}", "MB", reach="300 MB")


def child(*flags):
    """What this file tells in a process of its own."""
    command = list(map(str, [sys.executable, __file__, *flags]))
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def index_here(folder, seconds):
    """What index() tells, measured in a process of its own."""
    from torchvision.datasets import CelebA as Peer

    def peer():
        reader = Peer.__new__(Peer)  # as its __init__ reads, which would first compare MD5 sums of the real files
        reader.root = str(folder)
        for name, header in ("list_eval_partition", None), ("identity_CelebA", None), ("list_bbox_celeba", 1), (
            "list_landmarks_align_celeba", 1), ("list_attr_celeba", 1):  # fmt: skip
            reader._load_csv(f"{name}.txt", header)

    before = resident("VmRSS")
    dataset = CelebA(folder)
    memory = resident("VmHWM") - before
    print(json.dumps({"seconds": alternate(seconds, lambda: CelebA(folder), peer), "memory": memory}))
    assert len(dataset.files) > 0


def resident(kind):
    """Megabytes of this process: VmRSS now, VmHWM at most, RssAnon without files that are mapped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind))


def memory(args):
    """What a process takes while batches are drawn from few and from many records."""
    found = []
    for count in (min(8000, args.full), args.full):
        flags = ["--memory", args.out_dir / f"{count}.npy", "--count", count, "--device", args.device]
        found.append(child(*flags, "--seconds", 2 * args.seconds))
    few, many = found
    name = f"memory, batches drawn from {args.full:,} records"
    peer = f"from {few['count']:,}"
    yield row(name, f"{many['own']:.0f}", "MB", peer, f"{few['own']:.0f}", few["own"] / many["own"], "within 100 MB")
    yield row(
        "with the pages of the records that are in use", f"{many['all']:.0f}", "MB", peer, f"{few['all']:.0f}",
        few["all"] / many["all"],
    )  # fmt: skip


def memory_here(path, count, device, seconds):
    """What memory() tells of count generated records, measured in a process of its own."""
    if not path.exists():
        images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, SIDE, SIDE, 3))
        noise = np.random.default_rng(0).integers(0, 256, (1024, SIDE, SIDE, 3), np.uint8)
        for start in range(0, count, 1024):
            images[start : start + 1024] = noise[: count - start]
        del images
    records = argparse.Namespace(images=np.load(path, mmap_mode="r"))
    stream, end, drawn, own, whole = batches(records, np.arange(count), 64, device), time.perf_counter(), 0, 0, 0
    end += seconds
    while time.perf_counter() < end or drawn < 2:
        next(stream)
        drawn += 1
        if drawn % 50 == 2:
            own, whole = max(own, resident("RssAnon")), max(whole, resident("VmRSS"))
    stream.close()
    print(json.dumps({"count": count, "own": own, "all": whole, "batches": drawn}))


def sizes(args):
    """Seconds of packing, index and projection by the number of pictures; the first beside the DataLoader's pass."""
    taken = {"index": [], "packing": [], "projection": []}
    encode = make_projection(args.device)
    for count in args.sizes:
        folder = link_set(args.out_dir / f"set_{count}", args.pictures, count)
        taken["index"].append(statistics.median(timed(lambda folder=folder: CelebA(folder)) for _ in range(3)))
        dataset, places = CelebA(folder), args.out_dir / "packed"
        shutil.rmtree(places, ignore_errors=True)
        how = places, CROPS["square"], (SIDE, SIDE), args.cores
        taken["packing"].append(timed(lambda d=dataset, how=how: pack(d, *how, progress=False)))
        records = pack(dataset, *how, progress=False)
        taken["projection"].append(timed(lambda images=records.images: encode(images)))
        if count == max(size for size in args.sizes if size <= max(10_000, min(args.sizes))):
            theirs, packed = timed(read_folder(dataset, args, "cpu")), taken["packing"][-1]
            yield row(
                f"first pass over {count:,}, which packs, {args.cores} workers", f"{count / packed:,.0f}", "pictures/s",
                "ImageFolder, PIL, DataLoader", f"{count / theirs:,.0f}", theirs / packed, "not slower",
            )  # fmt: skip
    from facegen_attr.chart import draw_lines

    path = args.out_dir / "sizes.png"
    per_picture = {name: [s / n * 1e3 for s, n in zip(times, args.sizes, strict=True)] for name, times in taken.items()}
    draw_lines(path, "ms a picture", args.sizes, per_picture)
    for name, times in taken.items():
        power = math.log(times[-1] / times[0]) / math.log(args.sizes[-1] / args.sizes[0])
        what = " / ".join(f"{count:,}" for count in args.sizes)
        seconds = " / ".join(f"{value:.2f}" for value in times)
        yield row(f"{name} of {what} pictures", seconds, "s", f"time grows as size to the {power:.2f}", reach="linear")
    print(f"{path}: ms a picture by size", file=sys.stderr)


def make_projection(device):
    """A function that finds the z of pictures (N, 64, 64, 3) as face_math's encoder does, the start of every search."""
    from face_math.model import Encoder

    encoder = Encoder().to(device, memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def project(images):
        for start in range(0, len(images), 64):
            encoder(to_tensor(images[start : start + 64], device)).clamp(-1, 1).cpu()

    return project


def timed(call):
    """The seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main(argv=None):
    """What child() asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--device", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.index:
        index_here(args.index, args.seconds)
    elif args.memory:
        memory_here(args.memory, args.count, args.device, args.seconds)
    else:
        parser.error("its rows are those of benchmarks/bench.py")


if __name__ == "__main__":
    main()
