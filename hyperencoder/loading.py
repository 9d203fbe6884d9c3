"""What training and the verbs of hyperencoder both need: records, who is trained on what, the network, pictures."""

import argparse

import numpy as np
import torch

from common import celeba
from common.celeba import find_faces, subset, to_tensor
from common.mtcnn import MTCNN
from common.photos import InputError
from hyperencoder import plumbing
from hyperencoder.model import AutoEncoder, fit_pca, initialise
from hyperencoder.plumbing import (
    check_shape,
    fill,
    find_model,
    in_chunks,
    need_data,
    read_checkpoint,
    setup,
    shown_part,
)

SHAPE = ("embed_size", "embed_activation", "y_height", "y_width", "width_multiplier", "batch_norm", "pca_path")


def run_name(args):
    """What names this run's checkpoint, model and samples; the document's 64 x 64 pictures are not said."""
    size = [] if args.y_height == args.y_width == 64 else [f"{args.y_width}x{args.y_height}"]
    return plumbing.run_name(args, *["swap"] * ("swap" in args.run), *size)


def load_records(args, device, rank=0):
    """The data set's face crops, packed once, at 128 pixels or at the output's size where that is larger."""
    size = max(128, args.y_height, args.y_width)
    return celeba.load_records(args, "face", (size, size), device, rank)


def split(args, records):
    """Who is trained on what: people's names, and for each the rows of training and validation.

    One nameless person with all pictures, but for `train_swap`, which has each identity or sub-folder of --people.
    InputError: too few people, or too few pictures of one.
    """
    if args.run != "train_swap":
        rows = subset(records.rows("train"), args.train_size, args.seed), records.rows("validation")
        if min(map(len, rows)) == 0:
            raise InputError(f"{len(records.names)} usable pictures are too few to train and to validate with")
        return [""], [rows[0]], [rows[1]]
    folders = np.array([name.rpartition("/")[0] for name in records.names])
    owner = folders if records.identity is None else records.identity.astype(str)
    people = args.people.split(",") if args.people else sorted(set(folders.tolist()) - {""})
    if len(people) < 2:
        raise InputError("a swap needs two people: --people 12,57 (identities), or a sub-folder of pictures for each")
    train_rows, validation_rows = [], []
    for person in people:
        rows = np.flatnonzero(owner == person)
        if len(rows) < 10:
            raise InputError(f"{len(rows)} pictures of {person!r}: a decoder of one person's face needs 10 at least")
        rows = np.random.default_rng(args.seed).permutation(rows)
        validation_rows.append(np.sort(rows[: max(1, len(rows) // 10)]))
        train_rows.append(subset(rows[max(1, len(rows) // 10) :], args.train_size, args.seed))
    return people, train_rows, validation_rows


def make_model(flags, people=1):
    """The network that the flags describe: those of a run, or the dict of them in a model file."""
    flags = argparse.Namespace(**flags) if isinstance(flags, dict) else flags
    shape = flags.width_multiplier, flags.batch_norm, flags.embed_activation, flags.pca_path, people
    model = AutoEncoder(flags.embed_size, flags.y_height, flags.y_width, *shape)
    initialise(model, flags.init)
    return model


def start_at_pca(model, records, rows, device):
    """Fit the principal components on (at most 1 GB of) the training faces and leave them in the model."""
    height, width = model.size
    rows = subset(rows, max(1, 2**28 // (3 * height * width)))
    x = torch.cat([model.target(to_tensor(records.images[rows[part]], device)).flatten(1) for part in in_chunks(rows)])
    model.set_pca(*fit_pca(x, len(model.spread)))


def start_from(model, path):
    """Start encoder and decoders at a trained auto-encoder's. InputError: one of another shape."""
    weights = dict(read_checkpoint(path).get("model", {}))
    for person in range(1, len(model.decoders)):  # each begins as the one that knows everybody
        for part in ("decoders.0.", "perceptrons.0."):
            first = {name: value for name, value in weights.items() if name.startswith(part)}
            weights |= {name.replace(part, part.replace("0", str(person))): value for name, value in first.items()}
    fill(model, {"model": weights}, "model", path)


def load_model(args):
    """The best model so far, else the last checkpoint: model, device, autocast and what was saved beside it."""
    device, autocast, *_ = setup(args)
    path, content = find_model(args, run_name(args))
    check_shape(args, path, content, *SHAPE)
    flags, state = content["args"], content["state"]
    try:
        part = shown_part(content, "model", "ema")
        model = fill(make_model(flags, len(state.get("people", [""]))), content, part, path)
    except (KeyError, AttributeError):  # flags that this project's models have
        raise InputError(f"{path} is no model of this project") from None
    print(f"model {path}: step {state['step']}, {flags['embed_size']} numbers, {flags['recipe']} recipe")
    return model.to(device, memory_format=torch.channels_last).eval(), device, autocast, state


def load_pictures(args, model, device):
    """What a verb works on: --images, else the data set's test part. Returns images (N, h, w, 3) uint8 and names."""
    if args.images:
        return load_photos(args, model, device)[:2]
    need_data(args, "its test faces are taken where no --images are named")
    records = load_records(args, device)
    rows = records.rows("test")
    if len(rows) == 0:
        raise InputError(f"{args.dataset_dir} has no test pictures: name pictures with --images")
    return records.images[rows], [records.names[row] for row in rows]


def load_photos(args, model, device, faceless=False):
    """The largest face of each of --images, or with --all_faces every one; faceless: without one, a picture's middle.

    Returns images (N, h, w, 3) uint8, names, and for each whether a face was found.
    """
    size, which = (max(128, *model.size),) * 2, "all" if args.all_faces else "largest"
    images, names, skipped, places = find_faces(args.images, "face", size, MTCNN(device), which, faceless)
    for name, reason in skipped:
        print(f"skipped {name}: {reason}")
    return images, names, [place is not None for place in places]


@torch.no_grad()
def embed(model, images, device, autocast):
    """Pictures (N, h, w, 3) uint8: what the model is to repeat of them, (N, 3, H, W) in [-1, 1], and embeddings (N, E).

    The embeddings are in the precision of autocast.
    """
    model.eval()
    x = to_tensor(images, device)
    with autocast():
        embedding = model.encode(x)
    return model.target(x), embedding


@torch.no_grad()
def reconstruct(model, images, device, autocast, person=0):
    """Pictures (N, h, w, 3) uint8 through the model: target, x_hat (N, 3, H, W) in [-1, 1] and embeddings (N, E)."""
    x, embedding = embed(model, images, device, autocast)
    with autocast():
        x_hat = model.decode(embedding, person)
    return x, x_hat.float(), embedding.float()
