"""What one waits for: a projection, a makeover, a generated face, the faces in a photo. Rows of `make bench`."""

import argparse
import contextlib
import io
import re
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
import detector
from data import row
from request import milliseconds
from speed import alternate, signals_kept

from common.photos import read_image


def detection(args):
    """Faces a second, in batches, one by one and in a large photo, beside the faster of two packages."""
    faces = np.stack([read_image(path) for path in args.pictures[:32]])
    rounds = 3 if args.seconds >= 1 else 1
    results = detector.measure(faces, args.cores, rounds, args.device, args.peer_python)
    names = {"batch": "in one call", "single": "one by one", "photo": "in a photo of 1920 x 1080"}
    missing = [detector.NAMES[name] for name, found in results.items() if "missing" in found]
    told = f"; not installed: {', '.join(missing)} (make peers)" if missing else ""
    for column, name in names.items():
        ours, peer = results["ours"][column], detector.against_peers(results, column)
        who, theirs = (detector.NAMES[peer[0]], f"{results[peer[0]][column]:.1f}") if peer else ("", None)
        yield row(
            f"detection, {name}", f"{ours:.1f}", "photos/s" if column == "photo" else "faces/s",
            f"{who}{told}".removeprefix("; "), theirs, peer and peer[1], "3 times",
        )  # fmt: skip


def projection(args):
    """Seconds and dB of face_math's two searches for the z of test faces, by its own command."""
    from face_math.main import main

    count, steps = (64, 2000) if args.device == "cuda" else (4, 60)
    where = ["--dataset_dir", args.dataset_dir, "--device", args.device]
    for kind in ("record", "checkpoint", "sample"):
        where += [f"--{kind}_dir", args.out_dir / f"{kind}s"]
    shipped = ROOT / "face_math/gan.pt"
    if shipped.exists():
        where += ["--model_path", shipped]
        model = f"the GAN {shipped.name}"
    else:
        where += ["--model_path", args.out_dir / "models", "--recipe", "best"]
        model = f"a GAN of {steps} steps"
        for verb in ("train", "train_encoder"):
            quietly(main, ["--run", verb, "--steps", steps, "--epoch", 0, "--sample_every", 10**6, *where])

    def find(search):
        text = quietly(main, ["--run", "project", "--search", search, "--count", count, *where])
        seconds, decibels = re.search(r"([\d.]+) seconds a face, .* ([\d.]+) dB", text).groups()
        return float(seconds), float(decibels)

    (mine, better), (theirs, decibels) = find("best"), find("document")
    yield row(
        f"projecting {count} faces with {model}, --search best", f"{mine:.3f} ({better:.2f} dB)", "s a face",
        "--search document", f"{theirs:.3f} ({decibels:.2f} dB)", theirs / mine, "10 times, dB not less",
    )  # fmt: skip


def quietly(main, flags):
    """Call a project's main; what it has printed. RuntimeError: it ends in an error."""
    told = io.StringIO()
    try:
        with signals_kept(), contextlib.redirect_stdout(told):
            main(list(map(str, flags)))
    except SystemExit as stop:
        raise RuntimeError(f"{' '.join(map(str, flags[:2]))} ends with exit code {stop.code}") from None
    return told.getvalue()


def makeover(args):
    """Aligned pictures a second that deep_makeover makes over one by one, beside the document's network."""
    from deep_makeover.loading import make_over
    from deep_makeover.model import CompactGenerator, Generator
    from deep_makeover.plumbing import setup

    device, autocast, *_ = setup(argparse.Namespace(device=args.device, precision="auto", seed=0))
    picture = np.random.default_rng(0).integers(0, 256, (1, 100, 80, 3), np.uint8)
    with torch.inference_mode():
        calls = []
        for network in (CompactGenerator(), Generator()):
            network = network.to(device, memory_format=torch.channels_last)
            calls.append(lambda network=network: make_over(network, picture, device, autocast)[1].cpu())
        mine, theirs = alternate(args.seconds, *calls, least=5)
    yield row(
        "makeover of an aligned picture, --recipe best", f"{1 / mine:.1f}", "pictures/s", "the document's network",
        f"{1 / theirs:.1f}", theirs / mine, "60 a second",
    )  # fmt: skip


def generated(args):
    """The slowest of twenty requests for one generated face, as benchmarks/request.py times them."""
    from facegen_attr.model import ConditionalGenerator, Generator

    times, rounds = [], max(20, round(100 * args.seconds))
    for generator in (ConditionalGenerator(8, 64), Generator("dcgan2", 8, 64)):
        generator = generator.eval().to(args.device, memory_format=torch.channels_last)
        times.append(np.quantile(milliseconds(generator, 8, rounds, args.device), 0.95))
    yield row(
        "one generated face, 64 x 64, --recipe best, 95%", f"{times[0]:.1f}", "ms", "the document's dcgan2",
        f"{times[1]:.1f}", times[1] / times[0], "10 ms",
    )  # fmt: skip
