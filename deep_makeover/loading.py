"""What training and the verbs of deep_makeover both need: who becomes who, the box, records, the generator."""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from common.celeba import (
    FACE,
    HEIGHT,
    MAKEOVER,
    WIDTH,
    CelebA,
    face_weights,
    match,
    matches,
    pack,
    parse_condition,
    read_table,
    to_tensor,
)
from common.photos import InputError
from deep_makeover import plumbing
from deep_makeover.model import make_networks
from deep_makeover.plumbing import check_shape, fill, find_model, in_chunks, setup, shown_part

# Both sides of a mode without Blurry and Eyeglasses, the target attractive; a woman's face made over has no beard.
MODES = dict(mtf=("Male=1", "Male=0"), ftm=("Male=0", "Male=1"), mtm=("Male=1", "Male=1"), ftf=("Male=0", "Male=0"))
CLEAN, BEARDLESS = ",Eyeglasses=0,Blurry=0", ",No_Beard=1,Goatee=0,Mustache=0"
# How much of a change from men to women, or back, is taken where the box shows more than the face (--strength and
# --face_strength, chosen on validation faces): hair and chin say it as well as the face, by which a person is known.
BETWEEN_SEXES = 1.2, 0.62


def read_box(box, scale):
    """The box (x, y, width, height) in CelebA's geometry, and the size (height, width) of its pictures."""
    try:
        box = MAKEOVER if box is None else tuple(map(int, box.split(",")))
        x, y, width, height = box
    except ValueError:
        raise InputError(f"--box {box}: expected x,y,width,height such as 49,90,80,100") from None
    if min(x, y) < 0 or min(width, height) < 1 or x + width > WIDTH or y + height > HEIGHT:
        raise InputError(f"--box {x},{y},{width},{height}: it leaves CelebA's {WIDTH} x {HEIGHT}")
    scale = 1 if scale is None else scale
    size = round(height * scale), round(width * scale)
    if not (min(size) >= 32 and max(size) <= 2048):
        raise InputError(f"--scale {scale} makes pictures of {size[1]} x {size[0]}: expected sides of 32 to 2048")
    return box, size


def mode_of(args):
    """What a run is named for: the mode, or --source and --target where one of them is given."""
    source, target = MODES[args.train_mode]
    if not (args.source or args.target):
        return args.train_mode
    return "-to-".join((args.source or source, args.target or target)).translate({44: "-", 61: None, 32: None})


def read_conditions(args):
    """Fill in --source and --target: the mode's filters where they were not given, and Blurry=0 in any case."""
    source, target = MODES[args.train_mode]
    args.source = args.source or source + CLEAN
    args.target = args.target or target + ",Attractive=1" + CLEAN + BEARDLESS * (args.train_mode == "ftm")
    for name in ("source", "target"):
        if "Blurry" not in parse_condition(getattr(args, name)):
            setattr(args, name, getattr(args, name) + ",Blurry=0")
    if parse_condition(args.source) == parse_condition(args.target):
        raise InputError(f"--source and --target are the same, {args.source}: there is nothing to make over")


def run_name(args):
    """What names this run's checkpoint, model and samples."""
    height, width = read_box(args.box, args.scale)[1]
    return plumbing.run_name(args, args.mode, f"{width}x{height}")


def load_records(args, device, rank=0):
    """The data set's faces, the box of CelebA's aligned pictures, packed once; rank 0 packs them first."""
    dataset = CelebA(args.dataset_dir)
    if args.attribute_file:
        path = Path(args.attribute_file)
        if not path.is_file():
            raise InputError(f"--attribute_file {path} is no file")
        names, table = read_table(path, "attributes")
        found = match(dataset.files, names, path, dataset.image_dir, dataset.problems)
        if found.min() < 0:
            without = f"{(found < 0).sum()} of the pictures, such as {dataset.files[int(found.argmin())]}"
            raise InputError(f"--attribute_file {path} has no row for {without}")
        dataset.attributes = table[found]
    for condition in (args.source, args.target):
        matches(dataset.attributes, condition)  # what is wrong with it is said before any work
    if rank:
        dist.barrier()
    records = pack(dataset, args.record_dir, *read_box(args.box, args.scale), args.workers, device, progress=rank == 0)
    if rank == 0 and dist.is_initialized():
        dist.barrier()
    return records


def sides(args, records, part):
    """Rows of a part, "train", "validation" or "test", that are source and that are target."""
    rows = records.rows(part)
    return [rows[matches(records.attributes, condition)[rows]] for condition in (args.source, args.target)]


def report_sides(args, records):
    """Print how many faces each side has. InputError: too few to learn a side from, or both sides are the same."""
    train, validation, test = (sides(args, records, part) for part in ("train", "validation", "test"))
    for side, name in enumerate(("source", "target")):
        counts = f"{len(train[side])} training, {len(validation[side])} validation, {len(test[side])} test faces"
        print(f"{name}: {counts} ({getattr(args, name)})")
    for side, name in enumerate(("source", "target")):
        what, few = f"--{name} {getattr(args, name)}:", len(train[side])
        if few < args.min_faces:
            wider = "give a wider condition, or fewer --min_faces"
            raise InputError(f"{what} {few} training faces are too few, {args.min_faces} are needed: {wider}")
        if len(validation[side]) < 2:
            raise InputError(f"{what} {len(validation[side])} validation faces are too few to measure")
    if np.array_equal(*train):
        raise InputError("--source and --target select the same faces: there is nothing to make over")


def networks_of(flags):
    """The generator and the discriminator that the flags describe."""
    width = getattr(flags, "width", 16)  # the document's networks of before --width know none
    return make_networks(flags.network, flags.poolings, flags.init, 2 if flags.lambda_class else 1, width)


def load_model(args):
    """The best generator so far, else the last checkpoint's: generator, device, autocast, flags.

    And the judge, None in a file that knows none: the discriminator that was trained with it, and the score below which
    1% of validation makeovers lie. --box and --scale that are given win over the model's own: the networks take
    pictures of any size.
    """
    device, autocast, *_ = setup(args)
    path, content = find_model(args, run_name(args))
    check_shape(args, path, content, "network", "width", "poolings")
    saved = argparse.Namespace(**content["args"])
    try:
        generator, discriminator = networks_of(saved)
    except AttributeError:
        raise InputError(f"{path} is no model of this project") from None
    part = shown_part(content, "generator", "ema")
    fill(generator, content, part, path)
    saved.box, saved.scale = args.box or saved.box, args.scale or saved.scale
    print(f"model {path}: step {content['state']['step']}, {saved.recipe} recipe, {saved.source} to {saved.target}")
    generator, discriminator = (net.to(device, memory_format=torch.channels_last) for net in (generator, discriminator))
    judge = None
    if "discriminator" in content and "least" in content["state"]:
        judge = fill(discriminator, content, "discriminator", path).eval(), content["state"]["least"]
    return generator.eval(), device, autocast, saved, judge


@torch.no_grad()
def make_over(generator, images, device, autocast):
    """Pictures (N, h, w, 3) uint8 -> (N, 3, h, w) in [-1, 1], those before and after, in chunks, in eval mode."""
    generator.eval()
    x = to_tensor(images, device)
    with autocast():
        made = torch.cat([generator(x[part]) for part in in_chunks(x, size=16)])
    return x, made.float().clamp(-1, 1)


def take(x, made, args, saved):
    """What --strength and --face_strength take of the change from x to made, both (N, 3, h, w) in [-1, 1].

    saved: the model's flags. By default all is taken, between men and women as much as BETWEEN_SEXES says.
    """
    box, size = read_box(saved.box, saved.scale)
    sexes = {parse_condition(condition).get("Male") for condition in (saved.source, saved.target)}
    strength, on_face = BETWEEN_SEXES if sexes == {0, 1} and box[2] > FACE[2] else (1, 1)
    strength = strength if args.strength is None else args.strength
    on_face = on_face if args.face_strength is None else args.face_strength
    weights = face_weights(size, box, strength * on_face, strength, device=x.device)
    return (x + weights * (made - x)).clamp(-1, 1)
