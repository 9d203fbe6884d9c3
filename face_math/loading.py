"""What training and the verbs of face_math both need: places, records, pictures, networks."""

import argparse
from pathlib import Path

import torch

from common import celeba
from common.celeba import SQUARE, find_faces, subset, to_tensor
from common.mtcnn import MTCNN
from common.photos import InputError, name_outputs
from face_math.model import Discriminator, Encoder, Generator
from face_math.plumbing import fill, in_chunks, need_data, output_folder, place, read_checkpoint, run_name, shown_part

# ---------------------------------------------------------------------------------------------------------------------
# Places and data


def beside(args, part=""):
    """Flags and name of the run that trains a part: "" is the GAN, "_encoder", "_filler", "_vae" stand beside it.

    The name is that of checkpoint, model and samples; a --model_path that is a file is the GAN's, and the part's file
    has its name and the part's.
    """
    path = Path(args.model_path)
    path = path.with_name(f"{path.stem}{part}.pt") if path.suffix == ".pt" else path
    flags = argparse.Namespace(**vars(args) | {"model_path": str(path)})
    return flags, run_name(args, args.image_size) + part


def results_folder(args):
    """Where a verb writes: see `output_folder`."""
    return output_folder(args, place(args, "samples", beside(args)[1]))


def load_records(args, device, rank=0):
    """The data set's faces, the square in the middle of CelebA's aligned pictures, packed once."""
    return celeba.load_records(args, SQUARE, (args.image_size,) * 2, device, rank)


def split(args, records, device):
    """The rows that are trained on, and (at most 500) validation faces (N, 3, S, S). InputError: too few of them."""
    rows, validation_rows = training_rows(args, records), records.rows("validation")[:500]
    if len(rows) == 0 or len(validation_rows) < 2:
        raise InputError(f"{len(records.names)} usable pictures are too few to train and to validate with")
    return rows, to_tensor(records.images[validation_rows], device)


def training_rows(args, records):
    """The rows of the training faces, as many as --train_size says."""
    return subset(records.rows("train"), args.train_size, args.seed)


def training_faces(records, rows):
    """At most 1 GB of the training faces as (N, 3 S S), in [-1, 1]: what linear models are fitted to."""
    rows = subset(rows, max(1, 2**28 // records.images[0].size))
    return to_tensor(records.images[rows]).flatten(1)


def load_pictures(args, device):
    """--images, else the first --count test faces: images (N, S, S, 3) uint8 and their names, which differ."""
    if args.images:
        return load_photos(args, device, args.images)[:2]
    need_data(args, "its test faces are taken where no --images are named")
    records = load_records(args, device)
    rows = records.rows("test")[: args.count]
    if len(rows) == 0:
        raise InputError(f"{args.dataset_dir} has no test pictures: name pictures with --images")
    return records.images[rows], plain_names([records.names[row] for row in rows])


def load_photos(args, device, paths):
    """The largest face of each photo, or with --all_faces every one: images, names, and the Place of each."""
    which = "all" if args.all_faces else "largest"
    images, names, skipped, places = find_faces(paths, SQUARE, (args.image_size,) * 2, MTCNN(device), which)
    for name, reason in skipped:
        print(f"skipped {name}: {reason}")
    return images, plain_names(names), places


def plain_names(names):
    """Names for what is made of pictures: without folders and suffixes, and all different."""
    return name_outputs([name.replace("/", "_") for name in names])


# ---------------------------------------------------------------------------------------------------------------------
# Networks


@torch.no_grad()
def generate(generator, z, autocast):
    """z (N, z_size) -> pictures (N, 3, S, S) in [-1, 1], in chunks, in eval mode."""
    generator.eval()
    with autocast():
        return torch.cat([generator(z[part]) for part in in_chunks(z)]).float()


@torch.no_grad()
def encode(encoder, x, autocast, *how):
    """Pictures (N, 3, S, S) -> z (N, z_size), in chunks, in eval mode; of a VAE's encoder mean and log variance.

    how: what else the encoder is called with: the generator, if it is to correct itself, and what of x is known.
    """
    encoder.eval()
    with autocast():
        return torch.cat([encoder(x[part], *how) for part in in_chunks(x)]).float()


def repeat(generator, encoder, x, autocast, *how):
    """Pictures (N, 3, S, S) as the generator makes them of the encoder's z, of a VAE's the mean; in eval mode."""
    return generate(generator, encode(encoder, x, autocast, *how)[:, : generator.fc.in_features], autocast)


def make_generator(flags):
    """A generator of the shape that the flags of a run describe."""
    return Generator(flags.z_size, flags.image_size, flags.width, flags.kernel)


def make_discriminator(flags, outputs=1):
    """A discriminator of that shape; outputs: how many numbers it gives, the one being a logit."""
    return Discriminator(flags.image_size, flags.width, flags.kernel, flags.d_batch_norm, outputs)


def make_encoder(flags, corrections=0):
    """An encoder of that shape."""
    return Encoder(flags.z_size, flags.image_size, flags.width, flags.kernel, flags.d_batch_norm, corrections)


def saved_encoder(flags, path):
    """The encoder of a model file or checkpoint, and the generator that train_encoder has given it, or None.

    InputError: there is no encoder, or one of another shape.
    """
    content, own = read_checkpoint(Path(path)), None
    encoder = make_encoder(flags, content["args"].get("corrections", 0))
    fill(encoder, content, shown_part(content, "encoder"), path)
    if "generator" in content and "inverts" in content["args"]:
        own = fill(make_generator(flags), content, shown_part(content, "generator"), path)
    return encoder, own


def make_vae(flags):
    """The networks of a VAE of that shape, by name: a generator, and an encoder to mean and log variance of z."""
    return dict(generator=make_generator(flags), encoder=make_discriminator(flags, 2 * flags.z_size))


def start_from(path, networks):
    """Take the weights of networks, by name, from a GAN trained with other flags or on other faces.

    InputError: it is of another shape, or has no encoder where one is to be trained.
    """
    content = read_checkpoint(Path(path))
    for name, network in networks.items():
        fill(network, content, name if name in content else name.removeprefix("ema_"), path)
