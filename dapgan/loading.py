"""What training and the verbs of dapgan both need: pictures, and a GAN that draws pictures and reads their latents."""

import argparse
import contextlib
import copy
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from common import celeba
from common.celeba import SQUARE, find_faces, subset, to_tensor
from common.mtcnn import MTCNN
from common.photos import InputError, name_outputs
from dapgan import plumbing
from dapgan.gan import augmentation
from dapgan.model import AutoEncoder, Decoder, InfoDiscriminator, InfoGenerator, Latent, Predictor
from dapgan.plumbing import (
    check_shape,
    fill,
    find_model,
    in_chunks,
    need_data,
    place,
    read_checkpoint,
    setup,
    shown_part,
)

FLOOR = 0.00005  # the learning rate is not halved below this
MOST_VALIDATION = 500  # pictures
SHAPE = ("data", "model", "image_size", "noise_size", "categorical", "continuous", "hidden")


def run_name(args):
    """What names this run's checkpoint, model and samples."""
    return plumbing.run_name(args, args.model, args.image_size)


def load_records(args, device, rank=0):
    """The pictures: digits, or faces, the square in the middle of CelebA's aligned pictures, packed once."""
    if args.data == "celeba":
        return celeba.load_records(args, SQUARE, (args.image_size,) * 2, device, rank)
    from dapgan.digits import load_digits  # what else is in there is about training

    if rank and args.download:  # rank 0 fetches, the others then find what it fetched
        dist.barrier()
    records = load_digits(args.data, args.image_size, args.dataset_dir, args.download)
    if rank == 0 and args.download and dist.is_initialized():
        dist.barrier()
    return records


def split(args, records, device):
    """The rows to train on, and the pictures (N, 3, S, S) to validate with. InputError: there are too few."""
    rows, validation = subset(records.rows("train"), args.train_size, args.seed), records.rows("validation")
    if len(rows) == 0 or len(validation) < 2:
        raise InputError(f"{len(records.names)} usable pictures are too few to train and to validate with")
    return rows, to_tensor(records.images[validation[:MOST_VALIDATION]], device)


def rate_at(args, step):
    """The learning rate at a step: halved every --decay_every steps, never below FLOOR unless it began there."""
    halvings = step // args.decay_every if args.decay_every else 0
    return max(args.learning_rate * 0.5**halvings, min(args.learning_rate, FLOOR))


def reads_noise(flags):
    """Whether a model's discriminator is trained to read the noise too, so that it knows the latent of a picture."""
    return flags.model == "infogan" or flags.lambda_noise > 0


@dataclass
class GAN:
    """A generator, a discriminator, what they are fed, and, once there is one, a predictor. flags: of their run."""

    flags: argparse.Namespace
    device: torch.device
    autocast: Callable
    latent: Latent
    generator: nn.Module
    discriminator: nn.Module
    predictor: nn.Module = None
    faces: dict = None  # what it brings along about unlabelled faces (see ship.py)

    @property
    def reader(self):
        """What reads the latents of pictures: the predictor, else the discriminator, else None."""
        if self.predictor is not None:
            return self.predictor
        return self.discriminator if reads_noise(self.flags) else None

    @property
    def version(self):
        """A few characters that another generator, or this one after more steps, does not have."""
        return version_of(self.generator.state_dict())

    def train(self):
        """Both networks in training mode: batch norm by the batch."""
        self.generator.train()
        self.discriminator.train()

    @torch.no_grad()
    def generate(self, z):
        """Latents (N, L) -> pictures (N, 3, S, S) in [-1, 1], in chunks, in eval mode."""
        self.generator.eval()
        with self.autocast():
            return torch.cat([self.generator(z[part]) for part in in_chunks(z)]).float()

    @torch.no_grad()
    def read(self, x):
        """Pictures (N, 3, S, S) -> the latents (N, L) that are read in them, in chunks, in eval mode."""
        self.generator.eval()
        reader = self.reader.eval()
        how = [self.draw] if reader is self.predictor else []
        with self.autocast():
            return torch.cat([self.latent.squash(reader.read(x[part], *how).float()) for part in in_chunks(x)])

    @torch.no_grad()
    def maps(self, x):
        """Pictures (N, 3, S, S) -> what the discriminator sees in them: a list of (N, C, h, w), in chunks."""
        with self.autocast():
            parts = [self.discriminator.maps(x[part]) for part in in_chunks(x)]
        return [torch.cat(maps).float() for maps in zip(*parts, strict=True)]

    def draw(self, raw):
        """What a reader gives (N, L), without bounds -> pictures (N, 3, S, S), with gradients."""
        return self.generator(self.latent.squash(raw.float()))


def make_gan(flags, device, autocast):
    """The networks of the model that the flags describe, as they are at first."""
    latent = Latent(flags.noise_size, [int(n) for n in flags.categorical.split(",") if n != "none"], flags.continuous)
    if flags.model == "infogan":
        shape = flags.image_size, flags.hidden
        generator = InfoGenerator(latent.size, *shape, 3 if flags.data == "celeba" else 1)
        discriminator = InfoDiscriminator(latent, *shape, flags.d_batch_norm)
    else:
        shape = flags.image_size, flags.hidden, flags.taper, flags.depth
        generator = Decoder(latent.size, *shape)
        discriminator = AutoEncoder(latent, *shape, read_noise=reads_noise(flags))
    for network in (generator, discriminator):
        network.to(device, memory_format=torch.channels_last)
    return GAN(flags, device, autocast, latent, generator, discriminator)


def draw(args, gan, mine, share=None):
    """What is random in a step: latents (N, L), and, as the flags ask for them, how digits are deformed (2, 2, N),
    augmentation (3, 7, N) of a share () of the pictures, directions (L, 128). Every process draws the whole batch's and
    takes its slice, `mine`.
    """
    count, device, moves, numbers, directions = args.batch_size, gan.device, None, (None,) * 3, None
    z = gan.latent.draw(count, device=device)[mine]
    if args.deform:
        moves = (torch.rand(2, 2, count, device=device) * 2 - 1)[:, :, mine]
    if share is not None and args.diff_augment:
        numbers = augmentation(share, 3, count)[:, :, mine]
    if args.lambda_rec:
        directions = torch.randn(gan.latent.size, 128, device=device)
    return z, moves, numbers, directions


def make_predictor(flags, latent, corrections=0):
    """A predictor for the GAN whose flags are given."""
    shape = flags.image_size, flags.hidden, flags.taper, flags.depth
    return Predictor(flags.model, latent, *shape, flags.d_batch_norm, reads_noise(flags), corrections)


def version_of(weights):
    """A few characters that another generator, or this one after more steps, does not have; weights: its state."""
    return f"{zlib.crc32(weights['fc.weight'].cpu().numpy().tobytes()):08x}"


def freeze(network, content, name, path, device):
    """A network with the weights of a model file or checkpoint, which is then only used; the running mean if shown."""
    fill(network, content, shown_part(content, name), path)
    return network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


def load_gan(args, device, autocast):
    """The GAN of the run that the flags name. InputError: there is none, or it has another data, model or shape."""
    path, content = find_model(args, run_name(args))
    if "generator" not in content:
        raise InputError(f"{path} is no GAN of this project: a predictor is found beside its GAN")
    check_shape(args, path, content, *SHAPE)
    flags = argparse.Namespace(**content["args"])
    try:
        gan = make_gan(flags, device, autocast)
    except AttributeError:  # flags that this project's models have
        raise InputError(f"{path} is no model of this project") from None
    gan.faces = content["state"].get("faces")
    for name in ("generator", "discriminator"):
        freeze(getattr(gan, name), content, name, path, device)
    print(f"model {path}: step {content['state']['step']}, {flags.recipe} recipe")
    return gan


def predictor_run(args):
    """The predictor's run: flags and name. Its model lies beside the GAN's, with _predictor at the end of its name.

    A GAN that --model_path names may be of another recipe than the predictor's, which is then in its name as well.
    """
    args, path, recipe = copy.copy(args), Path(args.model_path), args.recipe
    if path.suffix == ".pt":
        recipe = read_checkpoint(path, mmap=True)["args"]["recipe"]
    part = "_predictor" if args.recipe == recipe else f"_predictor_{args.recipe}"
    if path.suffix == ".pt":
        args.model_path = str(path.with_name(f"{path.stem}{part}.pt"))
    return args, run_name(argparse.Namespace(**vars(args) | {"recipe": recipe})) + part


def find_predictor(args):
    """The best predictor so far, else its last checkpoint, for the GAN of the flags: path, content; None where none."""
    args, name = predictor_run(args)
    kinds = ["model"] if args.model_path.endswith(".pt") else ["model", "checkpoint"]
    if not any(place(args, kind, name).exists() for kind in kinds):
        return None, None
    return find_model(args, name)


def say_outdated(args):
    """After a training of the GAN: whether the predictor beside it has to be trained again."""
    with contextlib.suppress(InputError):  # a training that was stopped before it had a model
        _, gan = find_model(args, run_name(args))
        path, content = find_predictor(args)
        if content and content["args"].get("inverts") != version_of(gan[shown_part(gan, "generator")]):
            print(f"{path} was trained for the generator as it was: --run train_predictor again")


def load_model(args):
    """Set up; the GAN of the run that the flags name, with the predictor that was trained for it, if any."""
    device, autocast, *_ = setup(args)
    gan = load_gan(args, device, autocast)
    path, content = find_predictor(args)
    if content is None:
        return gan
    if content["args"].get("inverts") != gan.version:
        print(f"predictor {path} inverts another generator, so it is not used: --run train_predictor again")
        return gan
    print(f"predictor {path}: step {content['state']['step']}")
    return replace(gan, predictor=saved_predictor(gan, path, content))


def saved_predictor(gan, path, content):
    """The predictor of a model file or checkpoint, with as many corrections as it was trained with."""
    predictor = make_predictor(gan.flags, gan.latent, content["args"].get("corrections", 0))
    return freeze(predictor, content, "predictor", path, gan.device)


def reader_to_start(args, gan):
    """What a predictor starts from: that of --start_from, else a discriminator that reads all of the latent, else None.

    InputError: --start_from is no predictor, or one of another shape.
    """
    if args.start_from:
        path = Path(args.start_from)
        return saved_predictor(gan, path, read_checkpoint(path))
    return gan.discriminator if reads_noise(gan.flags) else None


def load_reader(args):
    """As load_model. InputError: nothing reads the latents of pictures."""
    gan = load_model(args)
    if gan.reader is None:
        raise InputError(f"no predictor of the {args.recipe} recipe to read a latent with: --run train_predictor first")
    return gan


def load_pictures(args, device):
    """--images, else the first --count test pictures: images (N, S, S, 3) uint8 and their names, which differ."""
    if args.images:
        images, names, skipped, _ = find_faces(args.images, SQUARE, (args.image_size,) * 2, MTCNN(device))
        for name, reason in skipped:
            print(f"skipped {name}: {reason}")
    else:
        if args.data == "celeba":
            need_data(args, "its test faces are taken where no --images are named")
        records = load_records(args, device)
        rows = records.rows("test")[: args.count]
        if len(rows) == 0:
            raise InputError(f"{args.dataset_dir} has no test pictures: name pictures with --images")
        images, names = records.images[rows], [records.names[row] for row in rows]
    return images, name_outputs([name.replace("/", "_") for name in names])
