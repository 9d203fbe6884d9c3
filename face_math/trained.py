"""The trained models as the verbs use them: a GAN, what was trained beside it, and a VAE."""

import argparse
import contextlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from common.photos import InputError
from face_math.loading import beside, encode, generate, make_discriminator, make_encoder, make_generator, make_vae
from face_math.model import Discriminator, Generator, Guess
from face_math.plumbing import check_shape, fill, find_model, place, setup, shown_part


@dataclass
class Model:
    """Trained networks as the verbs use them: in eval mode, and none of their weights moves."""

    generator: Generator  # train_encoder's, if it has one of its own; for --run sample always the GAN's
    discriminator: Discriminator | None  # a VAE has none
    encoder: Discriminator | None  # train_encoder's, else the one that the GAN has learned with, if it has
    guess: Guess | None  # a filler's
    flags: argparse.Namespace  # that it was trained with
    version: str  # of the GAN's generator: what was trained to invert this one knows no other
    device: torch.device
    autocast: Callable

    @property
    def reader(self):
        """Of the encoder what version is of the generator; "" without one."""
        return version_of(self.encoder.state_dict()) if self.encoder else ""

    def decode(self, z):
        """z (N, z_size) -> pictures (N, 3, S, S) in [-1, 1]."""
        return generate(self.generator, z, self.autocast)

    def encode(self, x, known=1):
        """Pictures (N, 3, S, S), known where known is 1 (S, S) -> z (N, z_size), of a VAE the mean."""
        how = [self.generator.eval(), known] if self.discriminator else []
        return encode(self.encoder, x, self.autocast, *how)[:, : self.flags.z_size]


def find_part(args, part=""):
    """The best GAN so far, or part beside it, else its last checkpoint: path, content, flags; None where none is.

    InputError: there is no GAN, or the file is not of this project, or not of this size; or the GAN not as asked for.
    """
    flags, name = beside(args, part)
    one = flags.model_path.endswith(".pt")  # that one and no other
    kinds = ("model",) if one else ("model", "checkpoint")
    if part and not any(place(flags, kind, name).exists() for kind in kinds):
        return None, None, None
    path, content = find_model(flags, name)
    saved = content.get("args", {})
    if not {"image_size", "z_size", "width", "kernel", "d_batch_norm", "show_ema", "recipe"} <= set(saved):
        raise InputError(f"{path} is no model of this project")
    shape = () if part else ("width", "kernel", "d_batch_norm")  # what lies beside the GAN may have another
    check_shape(args, path, content, *shape, always=("image_size", "z_size"))
    return path, content, argparse.Namespace(**saved)


def version_of(weights):
    """A few characters that another generator, or this one after more steps, does not have; weights: its state."""
    return f"{zlib.crc32(weights['fc.weight'].cpu().numpy().tobytes()):08x}"


def restore(network, content, name, path, device):
    """Weights from a file's content into a network, which from here on is only used."""
    fill(network, content, shown_part(content, name), path)
    return network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


def load_model(args, device, autocast):
    """The GAN: its generator, its discriminator, and what encoder there is."""
    path, content, flags = find_part(args)
    generator = restore(make_generator(flags), content, "generator", path, device)
    discriminator = restore(make_discriminator(flags), content, "discriminator", path, device)
    version = version_of(generator.state_dict())
    model = Model(generator, discriminator, None, None, flags, version, device, autocast)
    if "encoder" in content:
        model.encoder = restore(make_encoder(flags), content, "encoder", path, device)
    print(f"model {path}: step {content['state']['step']}, {flags.recipe} recipe")
    path, content, saved = find_part(args, "_encoder") if args.run not in ("sample", "train_encoder") else [None] * 3
    if content and getattr(saved, "inverts", None) != version:
        print(f"encoder {path} inverts another generator, so it is not used: --run train_encoder again")
    elif content:
        encoder = make_encoder(flags, getattr(saved, "corrections", 0))
        model.encoder = restore(encoder, content, "encoder", path, device)
        if "generator" in content:  # one of its own, which went on from the GAN's
            restore(model.generator, content, "generator", path, device)
        print(f"encoder {path}: step {content['state']['step']}")
    return model


def say_outdated(args):
    """After a training of the GAN: which of the parts beside it have to be trained again."""
    with contextlib.suppress(InputError):  # a training that was stopped before it had a model
        content = find_part(args)[1]
        version = version_of(content[shown_part(content, "generator")])
        for part in ("_encoder", "_filler"):
            path, _, saved = find_part(args, part)
            if saved and getattr(saved, "inverts", None) != version:
                print(f"{path} was trained for the generator as it was: --run train{part} again")


def take_shape(args, gan):
    """The flags that shape the networks, from the GAN that is gone on from."""
    for name in ("width", "kernel", "d_batch_norm"):
        setattr(args, name, getattr(gan.flags, name))


def take_filler(args, model):
    """Put the filler's generator, encoder and guess into a model. InputError: none, or one of another generator."""
    path, content, flags = find_part(args, "_filler")
    if content is None:
        raise InputError("no filler to fill a hole: --run train_filler first, or --start encoder")
    if getattr(flags, "inverts", None) != model.version:
        raise InputError(f"filler {path} was trained from another generator: --run train_filler again")
    model.generator = restore(make_generator(flags), content, "generator", path, model.device)
    model.encoder = restore(make_encoder(flags), content, "encoder", path, model.device)
    guess = Guess(flags.image_size, len(content["guess"]["axes"]))
    model.guess = restore(guess, content, "guess", path, model.device)
    print(f"filler {path}: step {content['state']['step']}")


def load_vae(args, device, autocast):
    """The VAE's decoder and encoder. InputError: there is none."""
    path, content, flags = find_part(args, "_vae")
    if content is None:
        raise InputError("no VAE to compare with: --run train_vae first")
    networks = {name: restore(network, content, name, path, device) for name, network in make_vae(flags).items()}
    return Model(networks["generator"], None, networks["encoder"], None, flags, "", device, autocast)


def prepare(args):
    """Set up, and load what a search needs: the GAN; with --start filler, the filler's networks in their places.

    InputError: the search is to start from an encoder or filler and there is none.
    """
    device, autocast, *_ = setup(args)
    model = load_model(args, device, autocast)
    if args.start == "encoder" and model.encoder is None:
        raise InputError("no encoder to start the search from: --run train_encoder first, or --start random")
    if args.start == "filler":
        take_filler(args, model)
    return model
