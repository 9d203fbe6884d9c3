"""How far the makeovers have come: numbers on validation faces while training, and --run test on the test faces."""

import json
import math
import time

import torch

from common.celeba import parse_condition, to_tensor, to_uint8
from common.photos import InputError, save_pictures, write_table
from deep_makeover.gan import diversity, face_distance, face_numbers
from deep_makeover.loading import load_model, load_records, make_over, run_name, sides, take
from deep_makeover.plumbing import in_chunks, output_folder, place, psnr, save_sheet

READ = 0.8  # share taken for the target from which on all count as equal: of real target faces 85 to 89% are


def fit_reader(images, crop, device):
    """Who has no part in training tells the sides apart: a direction (256,) in face_numbers and a number along it.

    Fisher's linear discriminant of source and target faces, images: two (N, h, w, 3) uint8; beyond the number: target.
    """
    numbers = []
    for side in images:
        parts = (face_numbers(to_tensor(side[part], device), crop) for part in in_chunks(side, size=256))
        numbers.append(torch.cat(list(parts)).double())
    means, spread = [x.mean(0) for x in numbers], sum(torch.cov(x.T, correction=0) for x in numbers) / 2
    spread.diagonal().add_(0.01 * spread.diagonal().mean())
    direction = torch.linalg.solve(spread, means[1] - means[0])
    return direction, direction @ (means[0] + means[1]) / 2


def validate(generator, discriminator, images, reader, crop, device, autocast):
    """Numbers on validation faces; images: those of the source and of the target, (N, h, w, 3) uint8; crop: their box.

    "distance" is the face distance (see gan.py) of what was made to target faces, "before" that of the faces it was
    made from; "read" the share that the reader (see fit_reader) takes for the target, "read_before" that of the faces
    it was made from; "least" the discriminator's logit that 1% of what was made lie below.
    """
    direction, middle = reader
    x, x_fake = make_over(generator, images[0], device, autocast)
    y, y_kept = make_over(generator, images[1], device, autocast)
    numbers = dict(
        diversity=diversity(x_fake, y),
        distance=face_distance(x_fake, y, crop),
        before=face_distance(x, y, crop),
        kept=psnr((y_kept - y).square().mean().item()),
    )
    discriminator.eval()
    with torch.no_grad(), autocast():
        logits = torch.cat([discriminator(part)[:, 0] for part in x_fake.split(64)])
    numbers["least"] = logits.float().quantile(0.01).item()
    for name, pictures in (("read", x_fake), ("read_before", x)):
        read = face_numbers(pictures, crop).double() @ direction > middle
        numbers[name] = read.double().mean().item()
    return numbers


def request_of(source, target):
    """What the faces are asked to become: what the sides differ in, else what only the target's condition names."""
    before, after = parse_condition(source), parse_condition(target)
    differ = {name: value for name, value in after.items() if before.get(name, value) != value}
    asked = differ or {name: value for name, value in after.items() if name not in before}
    return ",".join(f"{name}={value}" for name, value in asked.items())


def test(args):
    """Make over the data set's test faces: pictures, a manifest for benchmarks/quality.py, a sheet, metrics.json."""
    generator, device, autocast, saved, _ = load_model(args)
    args.source, args.target, args.box, args.scale = saved.source, saved.target, saved.box, saved.scale
    records = load_records(args, device)
    source, target = (records.images[rows] for rows in sides(args, records, "test"))
    if min(len(source), len(target)) == 0:
        raise InputError(f"{len(source)} test faces are {args.source}, {len(target)} are {args.target}: none to test")
    out_dir = output_folder(args, place(args, "samples", run_name(args)))

    started = time.monotonic()
    x, x_fake = make_over(generator, source, device, autocast)
    x_fake = take(x, x_fake, args, saved)
    made = to_uint8(x_fake)  # on the CPU, so that they are done
    seconds = time.monotonic() - started
    for kind, pictures in (("source", source), ("made", made), ("target", target)):
        save_pictures(out_dir / kind, [f"{number:05d}" for number in range(len(pictures))], pictures)
    files, request = [f"{number:05d}.png" for number in range(len(x))], request_of(args.source, args.target)
    rows = [(f"made/{file}", f"source/{file}", request) for file in files]
    write_table(out_dir / "manifest.tsv", ("file", "source", "request"), rows)

    y, y_kept = make_over(generator, target, device, autocast)
    y_kept = take(y, y_kept, args, saved)
    metrics = dict(
        faces=len(x),
        faces_per_second=len(x) / seconds,
        change=(x_fake - x).abs().mean().item() / 2,
        psnr_to_source=psnr((x_fake - x).square().mean().item()),
        target_faces=len(y),
        psnr_of_target_faces=psnr((y_kept - y).square().mean().item()),
    )
    metrics = {name: value if math.isfinite(value) else None for name, value in metrics.items()}  # JSON has no infinity
    (out_dir / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    sheet = {"Source": x, "Made over": x_fake, "Target": y, "Target, made over (to stay as it is)": y_kept}
    save_sheet(out_dir / "test.png", {label: pictures[:16] for label, pictures in sheet.items()})
    print(json.dumps(metrics, indent=1))
    print(f"test.png, metrics.json, manifest.tsv and the pictures in {out_dir}")
