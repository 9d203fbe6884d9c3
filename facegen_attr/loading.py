"""What training and the verbs of facegen_attr both need: records, networks, and a trained generator that is asked."""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from common import celeba
from common.celeba import FULL, SQUARE, attribute_indices, subset
from common.photos import InputError
from facegen_attr import plumbing
from facegen_attr.model import (
    READ_SIZE,
    REFINERS,
    ConditionalDiscriminator,
    ConditionalGenerator,
    Discriminator,
    Editor,
    FullDiscriminator,
    FullGenerator,
    Generator,
    Predictor,
    fitted,
    initialise,
    scaled,
    start_shape,
    tuned,
)
from facegen_attr.plumbing import (
    check_shape,
    fill,
    find_model,
    in_chunks,
    make_adam,
    read_checkpoint,
    setup,
    shown_part,
)

BEFORE = dict(width=32)  # of models that were made before --width was there


def run_name(args):
    """What names this run's checkpoint, model and samples."""
    if args.run in ("train_predictor", "analyse"):
        return f"{args.dataset_name}_{'predictor' if args.run == 'train_predictor' else 'analysis'}"
    return plumbing.run_name(args, args.model, args.image_size)


def picture_size(flags):
    """Height and width: square, but for fcgan, which has CelebA's whole picture, 218 x 178 or in that proportion."""
    return flags.image_size, round(flags.image_size * 178 / 218) if flags.model == "fcgan" else flags.image_size


def crop_of(size):
    """The box of CelebA's aligned pictures that pictures of a size (height, width) show."""
    return SQUARE if size[0] == size[1] else FULL


def load_records(args, size, device, rank=0):
    """The data set's pictures, packed once: CelebA's square, or where the size (height, width) is none, the whole.

    InputError: pictures without attributes.
    """
    return celeba.load_records(args, crop_of(size), size, device, rank, purpose="nothing to ask for")


def attributes_of(records, names):
    """The attributes of all pictures, (N, A) of 1 and 0."""
    return torch.from_numpy(records.attributes[:, attribute_indices(names)]).float()


def split(args, records, most=None):
    """The rows to train on and those, `most` at most, to validate with. InputError: too few."""
    rows = subset(records.rows("train"), args.train_size, args.seed), subset(records.rows("validation"), most)
    if min(map(len, rows)) < 2:
        raise InputError(f"{len(records.names)} usable pictures are too few to train and to validate with")
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# Networks


def is_editor(flags):
    """Whether the generator is asked for a change of the picture it is fed, and not for what it is to look like."""
    return flags.model in REFINERS and flags.network == "conditional"


def make_generator(flags):
    """The generator that the flags describe."""
    count, size = len(flags.attributes), flags.image_size
    if flags.model == "fcgan":
        generator = FullGenerator(count, *picture_size(flags))
    elif flags.network == "document":
        generator = Generator(flags.model, count, size)
    elif is_editor(flags):
        generator = Editor(count, flags.width)
    else:
        generator = ConditionalGenerator(count, size, flags.width)
    return initialise(generator, "document" if flags.network == "document" else "he")


def make_discriminator(flags):
    """The discriminator that the flags describe."""
    count, size = len(flags.attributes), flags.image_size
    if flags.model == "fcgan":
        discriminator = FullDiscriminator(count, *picture_size(flags))
    elif flags.network == "document":
        discriminator = Discriminator(flags.model, count, size)
    else:
        discriminator = ConditionalDiscriminator(count, size, flags.width)
    return initialise(discriminator, "document" if flags.network == "document" else "he")


def make_optimizer(args, network, share=1.0):
    """Adam, or RMSprop with TensorFlow's decay of 0.9; on CUDA as a graph needs them (see make_adam).

    share: of the learning rate.
    """
    rate = args.learning_rate * share
    if args.optimizer == "adam":
        return make_adam(network.parameters(), rate, args.beta1, beta2=0.99)
    parameters = list(network.parameters())
    cuda = parameters[0].device.type == "cuda"
    rate = torch.tensor(rate, device=parameters[0].device) if cuda else rate
    return torch.optim.RMSprop(parameters, rate, alpha=0.9, capturable=cuda)


# ---------------------------------------------------------------------------------------------------------------------
# A generator that is asked


def noise(flags, count, seed):
    """What a generator that begins from noise begins from: the same for a seed, wherever it is used."""
    shape = start_shape(flags.model, *picture_size(flags))
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def ask(flags, generator, start, c, asked):
    """A generator's answer: the picture of the attributes `asked`, or start with the attributes c changed to these."""
    return generator(start, asked - c if is_editor(flags) else asked)


class Model(NamedTuple):
    """A generator and what it takes to ask it: the flags that it is trained with, device and autocast.

    An editor that was tuned has requests, what to ask for beside (see model.tuned), and means, (2, A): what the
    predictor says, on average, of faces without and with each attribute.
    """

    generator: torch.nn.Module
    flags: argparse.Namespace
    device: torch.device
    autocast: Callable
    known: torch.Tensor = None  # (M, A), attributes as some of its training faces have them together
    requests: torch.Tensor = None  # (2, A, A)
    means: torch.Tensor = None
    predictor: torch.nn.Module = None

    @torch.no_grad()
    def answer(self, start, c, asked):
        """What ask() gives, in evaluation mode, in chunks: (N, 3, H, W) float32 on the CPU.

        A tuned editor is asked, face by face, so that the predictor sees what was asked for, and little else; see
        model.fitted.
        """
        self.generator.eval()
        pieces = []
        for part in in_chunks(asked):
            begin, was, to_be = (x[part].to(self.device) for x in (start, c, asked))
            with self.autocast():
                if is_editor(self.flags):
                    request = tuned(to_be - was, self.requests)
                    if self.predictor is not None:
                        request = fitted(self.edit, self.read, begin, was, to_be, request)
                    x = self.edit(begin, request)
                else:
                    x = self.generator(begin, to_be)
            pieces.append(x.float().cpu())
        return torch.cat(pieces)

    def edit(self, x, request):
        """An editor's answer, the mean of what it makes of the face and of its mirror image: what it does on one side
        only is halved.
        """
        return (self.generator(x, request) + self.generator(x.flip(3), request).flip(3)) / 2

    def read(self, x):
        """The predictor's reading of pictures (N, 3, H, W), (N, A): -1 and 1 for the mean faces without and with."""
        return scaled(self.logits(x), self.means.to(self.device))

    def logits(self, x):
        """What the predictor says of the attributes in pictures (N, 3, H, W): (N, A)."""
        logits = self.predictor(F.interpolate(x.float(), (READ_SIZE, READ_SIZE), mode="area")).float()
        return logits[:, attribute_indices(self.flags.attributes)]


def read_model(path, device="cpu", autocast=nullcontext, content=None):
    """The generator of a model file or checkpoint; content: what is in it, where it was read already."""
    content = content or read_checkpoint(path)
    flags, state = argparse.Namespace(**BEFORE | content["args"]), content["state"]
    try:
        generator = make_generator(flags)
        generator.load_state_dict(content[shown_part(content, "generator", "ema")])
    except (AttributeError, KeyError, RuntimeError):
        raise InputError(f"{path} is no generator of this project") from None
    about = f"{flags.model}, step {state['step']}, {flags.recipe} recipe, {flags.image_size} pixels"
    print(f"model {path}: {about}, {len(flags.attributes)} attributes")
    generator = generator.to(device, memory_format=torch.channels_last).eval()
    return Model(generator, flags, device, autocast, *map(state.get, ("known", "requests", "means")))


def find_own(args):
    """The best model of the run that the flags name, else its last checkpoint: path and content.

    InputError: there is none, or it has another shape than the flags ask for.
    """
    path, content = find_model(args, run_name(args))
    content["args"] = BEFORE | content["args"]
    check_shape(args, path, content, "model", "image_size", "attributes", "network", "width")
    return path, content


def load_model(args):
    """The model of the run that the flags name, with the predictor that it needs.

    InputError: as find_own, load_predictor; --images for a model that begins from noise.
    """
    device, autocast, *_ = setup(args)
    path, content = find_own(args)
    model = read_model(path, device, autocast, content)
    if args.images and model.flags.model != "dcgan5":
        raise InputError(f"{model.flags.model} begins from noise: --images is for --model dcgan5")
    if model.means is None:
        return model
    return model._replace(predictor=load_predictor(args, device, "so that the editor sees what it has changed"))


def predictor_file(args):
    """Where the predictor of the run is: --predictor_path, else beside the model."""
    folder = Path(args.model_path).parent if args.model_path.endswith(".pt") else Path(args.model_path)
    return Path(args.predictor_path or folder / f"{args.dataset_name}_predictor.pt")


def load_predictor(args, device, why):
    """The predictor of the run, else the one that comes with the program, which is only used.

    InputError: there is none, and why one is needed.
    """
    path = predictor_file(args)
    if not args.predictor_path:  # who has trained an editor alone has the one that comes with the program
        others = path.with_name("predictor.pt"), plumbing.PROJECT / "predictor.pt"
        path = next((file for file in (path, *others) if file.exists()), path)
    if not path.exists():
        raise InputError(f"no {path}: --run train_predictor makes it, {why}")
    return fill(Predictor(), read_checkpoint(path), "predictor", path).to(device).eval().requires_grad_(False)
