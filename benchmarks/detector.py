"""The face detector against two packages: speed, import time and memory, in one run on the same cores.

Each detector runs in a process of its own, in turns. Faces are drawn (or taken from --dataset_dir), 178 x 218 pixels:
    python benchmarks/detector.py
    python benchmarks/detector.py --dataset_dir data/celeba --cores 2
Peers that are not installed are named, with the command that installs them; they may have a Python of their own:
    python benchmarks/detector.py --peer_python mtcnn=peers/bin/python facenet=peers/bin/python
Agreement with detections of the mtcnn package that were saved as JSON ({"images": {name: {"raw_xyxy_conf_lm": rows}}}):
    python benchmarks/detector.py --reference reference.json --dataset_dir data/celeba --photos astronaut.png
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SIZE = (178, 218)
NAMES = {"ours": "common/mtcnn.py", "mtcnn": "mtcnn (TensorFlow)", "facenet": "facenet-pytorch"}
INSTALL = {
    "mtcnn": '.venv/bin/pip install "mtcnn[tensorflow]"',
    "facenet": ".venv/bin/pip install requests && .venv/bin/pip install --no-deps facenet-pytorch",
}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", help="pictures to use instead of drawn ones; enlarged to 178 x 218 if need be")
    parser.add_argument("--cores", type=int, default=1, help="cores and threads that each detector gets")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each detector; the best one counts")
    parser.add_argument("--peer_python", nargs="+", default=[], help="NAME=PYTHON: the Python that has this peer")
    parser.add_argument("--reference", help="saved detections of the mtcnn package: report agreement, not speed")
    parser.add_argument("--photos", nargs="*", default=[], help="further pictures that the reference has, by name")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def load_pictures(dataset_dir, names):
    """(N, 218, 178, 3) uint8: the named pictures of a data set; its first 64 where names is None."""
    from PIL import Image

    sys.path.insert(0, str(ROOT))
    from common.celeba import CelebA

    dataset = CelebA(dataset_dir)
    pictures = [Image.open(dataset.image_dir / name).convert("RGB") for name in names or dataset.files[:64]]
    return np.stack([np.asarray(picture.resize(SIZE, Image.Resampling.BICUBIC)) for picture in pictures])


# One detector, in its own process


def make_detector(name):
    """A function that takes a list of pictures and finds the faces in each."""
    if name == "ours":
        sys.path.insert(0, str(ROOT))
        from common.mtcnn import MTCNN

        return MTCNN().detect
    if name == "mtcnn":
        from mtcnn import MTCNN

        detector = MTCNN()
        return lambda images: detector.detect_faces(images if len(images) > 1 else images[0])
    from facenet_pytorch import MTCNN

    detector = MTCNN(keep_all=True)
    return lambda images: detector.detect(np.stack(images))


def work(name, file):
    """Measure one detector on the pictures in a .npy file; prints a line of JSON."""
    start = time.perf_counter()
    try:
        detect = make_detector(name)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}))
        return
    loaded = time.perf_counter() - start
    images = list(np.load(file))
    speeds = {}
    for what, calls in (("batch", [images]), ("single", [[image] for image in images[:32]])):
        detect(calls[0])
        start = time.perf_counter()
        for call in calls:
            detect(call)
        speeds[what] = sum(map(len, calls)) / (time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"import": loaded, "memory": memory, **speeds}))


# All of them


def compare(args):
    """Let the detectors take turns and print a table."""
    if args.dataset_dir:
        images = load_pictures(args.dataset_dir, None)
    else:
        sys.path.insert(0, str(ROOT))
        from common.synthetic import draw

        images = np.stack([draw(seed)[0] for seed in range(64)])
    pythons = dict(pair.split("=", 1) for pair in args.peer_python)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(args.cores),
        "TF_NUM_INTRAOP_THREADS": str(args.cores),
        "TF_NUM_INTEROP_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
    }
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-args.cores :])

    results = {}
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/images.npy", images)
        for _ in range(args.rounds):
            for name in NAMES:
                if "missing" in results.get(name, {}):
                    continue
                command = [pythons.get(name, sys.executable), __file__, "--worker", name, f"{folder}/images.npy"]
                done = subprocess.run(command, capture_output=True, text=True, env=environment)
                if done.returncode:
                    sys.exit(f"error: {NAMES[name]}: {done.stderr.strip().splitlines()[-1]}")
                result = json.loads(done.stdout.strip().splitlines()[-1])
                best = results.setdefault(name, result)
                for key in result.keys() - {"missing"}:
                    best[key] = (max if key in ("batch", "single") else min)(best[key], result[key])

    there = {name: result for name, result in results.items() if "missing" not in result}
    peers = [result for name, result in there.items() if name != "ours"]
    print(f"{len(images)} faces of {SIZE[0]} x {SIZE[1]}, {args.cores} core(s), best of {args.rounds} turns\n")
    print("| detector | a second, all in one call | a second, one by one | import, s | memory, MB |")
    print("| --- | --- | --- | --- | --- |")
    for name, result in there.items():
        print(
            f"| {NAMES[name]} | {result['batch']:.1f} | {result['single']:.1f} | {result['import']:.1f} "
            f"| {result['memory']:.0f} |"
        )
    if peers:
        batch, single = (there["ours"][key] / max(peer[key] for peer in peers) for key in ("batch", "single"))
        print(f"\nours against the faster of the peers: {batch:.1f} times in one call, {single:.1f} times one by one")
    for name in sorted(results.keys() - there.keys()):
        print(f"\n{NAMES[name]} is not installed ({results[name]['missing']}); for the comparison: {INSTALL[name]}")


def overlap(boxes, others):
    """Intersection over union of boxes (n, 4) with boxes (m, 4); (n, m)."""
    sides = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
    shared = sides.clip(0).prod(2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1), (others[:, 2:] - others[:, :2]).prod(1)
    return shared / (areas[0][:, None] + areas[1] - shared)


def agree(args):
    """Print how far our detections are those of the reference file."""
    sys.path.insert(0, str(ROOT))
    from common.mtcnn import MTCNN
    from common.photos import read_image

    reference = json.loads(Path(args.reference).read_text())
    rows, images = [], []
    if args.dataset_dir:
        rows += [reference["images"][name]["raw_xyxy_conf_lm"] for name in reference["images"]]
        images += list(load_pictures(args.dataset_dir, list(reference["images"])))
    for photo in map(Path, args.photos):
        rows.append(reference["photos"][photo.name]["raw_xyxy_conf_lm"])
        images.append(read_image(photo))
    detector = MTCNN()
    together, apart = detector.detect(images), [detector.detect([image]) for image in images]
    same, close, ious, errors, moved = 0, 0, [], [], 0.0
    for index, wanted in enumerate(rows):
        wanted = np.array(wanted).reshape(-1, 15)
        boxes, _, landmarks = (part[index] for part in together)
        single = apart[index][0][0]
        moved = max([moved, *np.abs(single - boxes).max(1)]) if len(single) == len(boxes) else np.inf
        if len(wanted) != len(boxes):
            continue
        iou = overlap(wanted[:, :4], boxes) if len(boxes) else np.ones((0, 1))
        nearest = iou.argmax(1)
        same += (iou.max(1) > 0.5).all() and len(set(nearest)) == len(nearest)
        close += (iou.max(1) >= 0.95).all()
        ious += iou.max(1).tolist()
        points = wanted[:, 5:].reshape(-1, 2, 5).transpose(0, 2, 1)
        errors += np.linalg.norm(points - landmarks[nearest], axis=2).mean(1).tolist()
    print(f"pictures with the same faces: {same} of {len(images)}; with all boxes at IoU 0.95 or more: {close}")
    print(f"IoU {np.mean(ious):.4f} on average, at least {min(ious):.3f}; landmarks {np.mean(errors):.3f} pixels apart")
    print(f"largest difference between boxes found in a batch and one by one: {moved:.5f} pixels")


if __name__ == "__main__":
    args = parse_args()
    if args.worker:
        work(*args.worker)
    elif args.reference:
        agree(args)
    else:
        compare(args)
