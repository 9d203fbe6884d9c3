"""The face detector against two packages: speed, import time and memory, in one run on the same cores.

Each detector has a process of its own; they take turns. Faces of 178 x 218 are drawn, or taken from --dataset_dir:
    python benchmarks/detector.py
    python benchmarks/detector.py --dataset_dir data/celeba --cores 2
The peers are looked for in .peers, which `make peers` sets up, else beside this program; or:
    python benchmarks/detector.py --peer_python other/bin/python
Agreement with detections of the mtcnn package that were saved as JSON ({"images": {name: {"raw_xyxy_conf_lm": rows}}}):
    python benchmarks/detector.py --reference reference.json --dataset_dir data/celeba --photos astronaut.png
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SIZE = (178, 218)
NAMES = {"ours": "common/mtcnn.py", "mtcnn": "mtcnn (TensorFlow)", "facenet": "facenet-pytorch"}
COLUMNS = {"batch": "faces/s in one call", "single": "faces/s one by one", "photo": "photos/s, 1920 x 1080"}
PEERS = ROOT / ".peers/bin/python"


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", help="pictures to use instead of drawn ones; enlarged to 178 x 218 if need be")
    parser.add_argument("--cores", type=int, default=1, help="cores and threads that each detector gets")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each detector; the median counts")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--peer_python", default=str(PEERS), help="the Python that has the peers (.peers/bin/python)")
    parser.add_argument("--reference", help="saved detections of the mtcnn package: report agreement, not speed")
    parser.add_argument("--photos", nargs="*", default=[], help="further pictures that the reference has, by name")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def load_pictures(dataset_dir, names):
    """(N, 218, 178, 3) uint8: the named pictures of a data set; its first 64 where names is None."""
    from PIL import Image

    from common.celeba import CelebA

    dataset = CelebA(dataset_dir)
    pictures = [Image.open(dataset.image_dir / name).convert("RGB") for name in names or dataset.files[:64]]
    return np.stack([np.asarray(picture.resize(SIZE, Image.Resampling.BICUBIC)) for picture in pictures])


def draw_photo(faces):
    """A 1920 x 1080 photo with eight of the faces, large and small, before a background of soft spots and noise."""
    rng = np.random.default_rng(0)
    photo = cv2.resize(rng.integers(0, 256, (27, 48, 3), np.uint8), (1920, 1080), interpolation=cv2.INTER_CUBIC)
    photo = (photo + rng.normal(0, 8, photo.shape)).clip(0, 255).astype(np.uint8)
    for index, share in enumerate((2.2, 1.6, 1.0, 0.7, 0.5, 0.4, 0.3, 1.3)):
        face = cv2.resize(faces[index], None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
        top, left = 20 + 540 * (index // 4), 20 + 470 * (index % 4)
        photo[top : top + len(face), left : left + face.shape[1]] = face
    return photo


# One detector, in its own process


def make_detector(name, device):
    """A function that takes a list of pictures and finds the faces in each."""
    if name == "ours":
        from common.mtcnn import MTCNN

        return MTCNN(device).detect
    if name == "mtcnn":
        from mtcnn import MTCNN

        detector = MTCNN()
        return lambda images: detector.detect_faces(images if len(images) > 1 else images[0])
    from facenet_pytorch import MTCNN

    detector = MTCNN(keep_all=True, device=device)
    return lambda images: detector.detect(np.stack(images))


def work(name, file, device):
    """Load one detector, then measure a column for each line that comes in; a line of JSON for each."""
    start = time.perf_counter()
    try:
        detect = make_detector(name, device)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return
    print(json.dumps({"import": time.perf_counter() - start}), flush=True)
    content = np.load(file)
    faces, photo = list(content["faces"]), content["photo"]
    calls = {"batch": [faces], "single": [[face] for face in faces[:16]], "photo": [[photo]]}
    for column in map(str.strip, sys.stdin):
        start = time.perf_counter()
        for call in calls[column]:
            detect(call)
        rate = sum(map(len, calls[column])) / (time.perf_counter() - start)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"rate": rate, "memory": memory}), flush=True)


# All of them


def measure(faces, cores, rounds, device="cpu", peer_python=PEERS, names=NAMES):
    """Let the detectors take turns: {name: {column: median of its rates, "import": s, "memory": MB}}.

    Of a peer that is not installed {"missing": why}.
    """
    python = peer_python if Path(peer_python).exists() else sys.executable
    environment = os.environ | {"TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), str(cores))
    environment |= {} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    there = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    chosen = ["taskset", "-c", ",".join(map(str, there[-cores:]))] if there else []
    results, processes = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/pictures.npz", faces=faces, photo=draw_photo(faces))
        for name in names:
            command = [*chosen, sys.executable if name == "ours" else python, __file__, "--worker", name]
            pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            more = ["--device", device, "--photos", f"{folder}/pictures.npz"]
            process = processes[name] = subprocess.Popen([*map(str, command), *more], env=environment, **pipes)
            results[name] = answer(process, name)
        there = [name for name in names if "missing" not in results[name]]
        for column in COLUMNS:
            found = {name: [] for name in there}
            for turn in range(rounds + 1):
                for name in there:
                    processes[name].stdin.write(f"{column}\n")
                    processes[name].stdin.flush()
                    told = answer(processes[name], name)
                    results[name]["memory"] = told["memory"]
                    found[name] += [told["rate"]] * (turn > 0)  # the first one warms up
            for name, rates in found.items():
                results[name][column] = statistics.median(rates)
        for process in processes.values():
            process.communicate()
    return results


def answer(process, name):
    """The next line of JSON that a worker prints; packages print lines of their own."""
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    sys.exit(f"error: {NAMES[name]}: {process.stderr.read().strip().splitlines()[-1]}")


def against_peers(results, column):
    """The name of the faster of the peers that are there, and how many times as fast we are; None where none is."""
    rates = {name: found[column] for name, found in results.items() if name != "ours" and column in found}
    best = max(rates, key=rates.get, default=None)
    return best and (best, results["ours"][column] / rates[best])


def compare(args):
    """Let the detectors take turns and print a table."""
    if args.dataset_dir:
        faces = load_pictures(args.dataset_dir, None)
    else:
        from common.synthetic import draw, parameters

        faces = np.stack([draw(parameters(seed))[0] for seed in range(64)])
    results = measure(faces, args.cores, args.rounds, args.device, args.peer_python)
    print(f"{len(faces)} faces of {SIZE[0]} x {SIZE[1]}, {args.cores} core(s), median of {args.rounds} turns\n")
    print(f"| detector | {' | '.join(COLUMNS.values())} | import, s | memory, MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, result in results.items():
        if "missing" not in result:
            rates = " | ".join(f"{result[column]:.1f}" for column in COLUMNS)
            print(f"| {NAMES[name]} | {rates} | {result['import']:.1f} | {result['memory']:.0f} |")
    if found := {column: against_peers(results, column) for column in COLUMNS}["batch"]:
        ratios = ", ".join(f"{against_peers(results, column)[1]:.1f} {COLUMNS[column]}" for column in COLUMNS)
        print(f"\ntimes as fast as the faster of the peers (in batches {NAMES[found[0]]}): {ratios}")
    for name in (name for name, result in results.items() if "missing" in result):
        print(f"\n{NAMES[name]} is not installed ({results[name]['missing']}); for the comparison: make peers")


def overlap(boxes, others):
    """Intersection over union of boxes (n, 4) with boxes (m, 4); (n, m)."""
    sides = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
    shared = sides.clip(0).prod(2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1), (others[:, 2:] - others[:, :2]).prod(1)
    return shared / (areas[0][:, None] + areas[1] - shared)


def agree(args):
    """Print how far our detections are those of the reference file."""
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
        work(args.worker, args.photos[0], args.device)
    elif args.reference:
        agree(args)
    else:
        compare(args)
