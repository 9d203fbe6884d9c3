"""DAPGAN: InfoGAN and BEGAN whose latent can be read back, so that a few faces can be varied into many.

After the DAPGAN document, InfoGAN (arXiv 1606.03657) and BEGAN (arXiv 1703.10717).

One GPU:      python dapgan/main.py --dataset_dir=data/celeba --run train
Several:      torchrun --nproc_per_node=8 dapgan/main.py --dataset_dir=data/celeba
CPU:          python dapgan/main.py --dataset_dir=data/celeba --run train --recipe best --hidden 16
Digits:       python dapgan/main.py --data digits --model infogan --run train --recipe best
Then:         python dapgan/main.py --dataset_dir=data/celeba --run train_predictor
Own photos:   python dapgan/main.py --dataset_name=celeba --run augment --images me/ --count 20 --out_dir more
"""

import argparse
import copy
import math
import os
import pickle
import signal
import sys
import time
import zlib
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image, ImageDraw
from pytorch_msssim import ssim
from torchvision.utils import make_grid
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # the repository root
from common.celeba import SQUARE, CelebA, attribute_indices, batches, load_faces, pack, subset, to_tensor, to_uint8
from common.mtcnn import MTCNN
from common.photos import InputError, name_outputs
from dapgan import evaluation
from dapgan.augmentation import AttributeReader, Unlabelled, augment_person
from dapgan.digits import classify, cluster, deform, load_digits, purity, shape_of, train_digit_classifier
from dapgan.model import MODELS, SIZES, AutoEncoder, Decoder, InfoDiscriminator, InfoGenerator, Latent, Predictor
from dapgan.recovery import LOSSES, METHODS, optimise, recovery_loss

# ---------------------------------------------------------------------------------------------------------------------
# Flags

# What --recipe sets, for each model; each is a flag of its own, and a flag that is given wins.
INFOGAN = dict(hidden=64, d_batch_norm=True, taper=False, depth=2, batch_size=64, learning_rate=0.0002, d_rate=1.0,
               reconstruction="msssim", lambda_code=1.0, lambda_noise=1.0, lambda_rec=0.0, flip=False,
               deform=False, lambda_digit=0.0, diff_augment=False, lambda_r1=0.0, show_ema=False, gamma=0.5,
               lambda_k=0.001, decay_every=0)  # fmt: skip
BEGAN = INFOGAN | dict(hidden=128, batch_size=16, learning_rate=0.0001, lambda_code=0.1, lambda_noise=0.0)
RECIPES = {
    "document": dict(infogan=INFOGAN, began=BEGAN, info_began=BEGAN),
    "best": dict(
        infogan=INFOGAN | dict(d_batch_norm=False, batch_size=32, learning_rate=0.0005, d_rate=2.0, flip=True,
                               diff_augment=True, lambda_r1=0.1, lambda_rec=2.0, show_ema=True,
                               reconstruction="msssim_l1"),
        began=BEGAN | dict(hidden=32, taper=True, depth=1, learning_rate=0.0005, gamma=0.7, lambda_k=0.02, flip=True,
                           reconstruction="msssim_l1", show_ema=True, decay_every=2000),
    ),
}  # fmt: skip
RECIPES["best"]["info_began"] = RECIPES["best"]["began"] | dict(lambda_noise=0.2, lambda_rec=2.0)
# The same for digits, which are neither flipped nor recoloured, but slanted and stretched.
DIGITS = dict(hidden=32, batch_size=64, learning_rate=0.0005, lambda_noise=0.1, lambda_rec=0.0, flip=False, deform=True,
              diff_augment=False, show_ema=True)  # fmt: skip
TRAIN_SIZE = dict(document="0.5", best="1.0")
CODERS = dict(document=dict(learning_rate=0.002, lambda_code=0.0, lambda_noise=0.0),  # of --run train_predictor
              best=dict(learning_rate=0.0005, lambda_code=0.1, lambda_noise=0.5))  # fmt: skip

# Flags that may differ when a run is resumed; all others shape the network, the data or the loss.
MAY_CHANGE = {"epoch", "steps", "device", "precision", "workers", "dataset_dir", "record_dir", "checkpoint_dir",
              "model_path", "sample_dir", "log_every", "sample_every", "save_every", "run", "images", "count",
              "out_dir", "overwrite", "download", "method", "recovery_loss", "n_iter",
              "recovery_rate", "points", "strength", "min_identity", "min_quality", "attributes", "few",
              "seeds", "part"}  # fmt: skip


def parse_args(argv=None):
    """Read the command line. InputError: flags that do not go together."""
    parser = argparse.ArgumentParser(
        usage="python dapgan/main.py --dataset_dir DIR [--run VERB] [flags; --help lists them]",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.error = lambda message: sys.exit(fail(message))  # one line, without the usage
    switch = dict(type=boolean, nargs="?", const=True, metavar="True|False")

    do = parser.add_argument_group("What to do")
    do.add_argument("--run", choices=VERBS, default="train", help="what to do (default: train)")
    do.add_argument("--count", type=int, default=64, help="faces to take or draw; augment: pictures to make")
    do.add_argument("--method", choices=METHODS, help="how a latent is found (recover: all three; else both)")
    do.add_argument("--recovery_loss", choices=LOSSES, default="mse", help="of the optimisation (default: mse)")
    do.add_argument("--n_iter", type=int, default=100, help="its steps (default: 100)")
    do.add_argument("--recovery_rate", type=float, default=0.05, help="its learning rate (default: 0.05)")
    do.add_argument("--points", type=int, default=10, help="vary: values of each part of the code (default: 10)")
    do.add_argument("--strength", type=float, default=0.35, help="augment: how far from a picture to go (0.35)")
    do.add_argument("--min_identity", type=float, default=0.95, help="least share of strangers less alike; 0: no gate")
    do.add_argument("--min_quality", type=float, default=0.01, help="least share of faces that are odder; 0: no gate")
    do.add_argument("--attributes", default="Smiling,Male,Eyeglasses", help="evaluate: what to classify by")
    do.add_argument("--few", default="5,10,20", help="evaluate: real pictures per class (default: 5,10,20)")
    do.add_argument("--seeds", type=int, default=20, help="evaluate: choices of the few to average over (default: 20)")
    do.add_argument("--part", choices=("validation", "test"), default="test", help="evaluate: on whom (default: test)")
    do.add_argument("--download", **switch, default=False, help="fetch what is missing: MNIST, or VGG16's weights")

    model = parser.add_argument_group("Model")
    model.add_argument("--model", choices=MODELS, default="info_began", help="which GAN (default: info_began)")
    model.add_argument("--data", choices=("celeba", "mnist", "digits"), default="celeba", help="faces or digits")
    model.add_argument("--image_size", type=int, help="side of the pictures: 32, 64 or 128 (64; digits 32)")
    model.add_argument("--noise_size", type=int, default=64, help="numbers of noise in the latent (default: 64)")
    model.add_argument("--categorical", help="classes of its one-hot components: 10 or 10,10; none (infogan: 10)")
    model.add_argument("--continuous", type=int, help="its continuous code numbers (default: 2; began: 0)")
    model.add_argument("--hidden", type=int, help="channels of the largest maps (128, infogan 64; best: 32, 64)")
    model.add_argument("--taper", **switch, help="began: twice the channels at half the size (best: True)")
    model.add_argument("--depth", type=int, help="began: convolutions a size (document: 2, best: 1)")
    model.add_argument("--d_batch_norm", **switch, help="infogan: in the discriminator (document: True, best: False)")

    training = parser.add_argument_group("Training")
    training.add_argument("--epoch", type=int, default=50, help="passes over the training pictures (default: 50)")
    training.add_argument("--steps", type=int, default=0, help="end after so many steps whatever the epochs say")
    training.add_argument("--train_size", help="training pictures: a number, or a share such as 0.5 (document: 0.5)")
    training.add_argument("--batch_size", type=int, help="pictures a step, over all processes")
    training.add_argument("--learning_rate", type=float, help="Adam's (document: 0.0001; predictor 0.002)")
    training.add_argument("--beta1", type=float, default=0.5, help="Adam's momentum (default: 0.5)")
    training.add_argument("--d_rate", type=float, help="discriminator's rate by the generator's (default: 1)")
    training.add_argument("--decay_every", type=int, help="halve the rate every so many steps; 0: never (best: 2000)")
    training.add_argument("--learning_rate_floor", type=float, default=0.00005, help="but not below this")
    training.add_argument("--reconstruction", choices=("msssim", "msssim_l1", "l1"), help="loss of pictures repeated")
    training.add_argument("--gamma", type=float, help="BEGAN's balance: low sharp, high diverse (document: 0.5)")
    training.add_argument("--lambda_k", type=float, help="step of BEGAN's k (document: 0.001, best: 0.02)")
    training.add_argument("--lambda_code", type=float, help="weight of reading the code (document: 0.1, infogan 1)")
    training.add_argument("--lambda_noise", type=float, help="weight of reading the noise (document: 0, infogan 1)")
    training.add_argument("--lambda_rec", type=float, help="weight of real pictures, read and made anew (document: 0)")
    training.add_argument("--flip", **switch, help="mirror half of the pictures (document: False, best: True)")
    training.add_argument("--deform", **switch, help="slant and stretch real digits at random (best: True)")
    training.add_argument("--lambda_digit", type=float, help="digits: weight of reading real ones (best: 1)")
    training.add_argument("--diff_augment", **switch, help="infogan's discriminator sees all augmented (best: True)")
    training.add_argument("--lambda_r1", type=float, help="infogan: gradient penalty on real pictures (best: 0.1)")
    training.add_argument("--ema", type=float, default=0.999, help="decay of the running mean of the weights")
    training.add_argument("--show_ema", **switch, help="test and keep that mean (document: False, best: True)")
    training.add_argument("--recipe", choices=RECIPES, default="document", help="set of defaults (default: document)")
    training.add_argument("--seed", type=int, default=0, help="of weights, order and noise (default: 0)")

    machine = parser.add_argument_group("Machine")
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    machine.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="bf16 where it is fast")
    machine.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that decode pictures")

    files = parser.add_argument_group("Files")
    files.add_argument("--dataset_dir", help="folder or zip with the pictures")
    files.add_argument("--dataset_name", help="names checkpoint, model and samples (default: the folder's name)")
    files.add_argument("--record_dir", default=str(HERE / "records"),
                       help="packed pictures (default: records in the project's folder)")  # fmt: skip
    files.add_argument("--checkpoint_dir", default=str(HERE / "checkpoint"), help="default: checkpoint, likewise")
    files.add_argument("--model_path", default=str(HERE / "models"), help="model file, or folder (models, likewise)")
    files.add_argument("--sample_dir", default=str(HERE / "samples"), help="sheets, logs, results (samples, likewise)")
    files.add_argument("--log_every", type=int, default=50, help="steps from log line to log line (default: 50)")
    files.add_argument("--sample_every", type=int, default=0, help="steps from sheet to sheet (default: an epoch)")
    files.add_argument("--save_every", type=int, default=0, help="steps from checkpoint to checkpoint (an epoch)")
    files.add_argument("--images", nargs="+", help="own pictures: files, folders, GIFs, videos")
    files.add_argument("--out_dir", help="folder for what a verb writes (default: one below the sample folder)")
    files.add_argument("--overwrite", **switch, default=False, help="write into an --out_dir that is not empty")

    first = parser.parse_known_args(argv)[0]
    chosen = RECIPES[first.recipe][first.model] | dict(train_size=TRAIN_SIZE[first.recipe])
    if first.data != "celeba":
        chosen |= dict(image_size=32)
        if first.recipe == "best":
            chosen |= DIGITS | dict(lambda_digit=float(first.model == "infogan"))
    else:
        chosen |= dict(image_size=64)
    chosen |= dict(categorical="10" if first.model == "infogan" else "none", continuous=2 * (first.model != "began"))
    if first.run == "train_predictor":
        chosen |= CODERS[first.recipe]
    parser.set_defaults(**chosen)
    args = parser.parse_args(argv)
    check(args)
    return args


def check(args):
    """Refuse what cannot work before anything is read or written, and read the lists: InputError."""
    if args.image_size not in SIZES:
        raise InputError(f"--image_size {args.image_size}: expected one of {', '.join(map(str, SIZES))}")
    for name in ("epoch", "batch_size", "log_every", "learning_rate", "noise_size", "hidden", "depth", "d_rate",
                 "count", "gamma", "lambda_k", "recovery_rate", "strength"):  # fmt: skip
        if not getattr(args, name) > 0:
            raise InputError(f"--{name} {getattr(args, name)}: expected more than 0")
    for name in ("steps", "sample_every", "save_every", "workers", "continuous", "n_iter", "decay_every",
                 "learning_rate_floor", "lambda_code", "lambda_noise", "lambda_rec", "lambda_digit",
                 "lambda_r1"):  # fmt: skip
        if not getattr(args, name) >= 0:
            raise InputError(f"--{name} {getattr(args, name)}: expected 0 or more")
    for name in ("beta1", "ema"):
        if not 0 <= getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: expected 0 or more and less than 1")
    if args.points < 2:
        raise InputError(f"--points {args.points}: expected 2 or more")
    for name in ("min_identity", "min_quality"):
        if not 0 <= getattr(args, name) <= 1:
            raise InputError(f"--{name} {getattr(args, name)}: expected a share from 0 to 1")
    if args.seeds < 2:
        raise InputError(f"--seeds {args.seeds}: expected 2 or more, for an interval")
    args.attributes = ",".join(name.strip() for name in args.attributes.split(","))
    attribute_indices(args.attributes.split(","))
    if not all(n.strip().isdecimal() and int(n) > 0 for n in args.few.split(",")):
        raise InputError(f"--few {args.few}: expected numbers such as 5,10,20")
    try:
        classes = [int(n) for n in args.categorical.split(",")] if args.categorical != "none" else []
        if not all(n > 1 for n in classes):
            raise ValueError
    except ValueError:
        raise InputError(f"--categorical {args.categorical}: expected numbers such as 10 or 10,10, or none") from None
    args.categorical = ",".join(map(str, classes)) or "none"
    if args.model == "began" and (classes or args.continuous):
        raise InputError("--model began has no code: leave --categorical and --continuous away, or take info_began")
    if args.model != "began" and not classes and not args.continuous:
        raise InputError(f"--model {args.model} needs a code: --categorical or --continuous")
    if args.deform and args.data == "celeba":
        raise InputError("--deform is for digits: --data digits or --data mnist")
    if args.lambda_digit and not (args.deform and args.model == "infogan"):
        raise InputError("--lambda_digit reads deformed digits: --model infogan and --deform")
    if args.dataset_name is None and args.data != "celeba":
        args.dataset_name = args.data
    if args.dataset_name is None and args.dataset_dir is not None:
        args.dataset_name = Path(args.dataset_dir).resolve().name.removesuffix(".zip")
    if args.dataset_name is None and args.model_path.endswith(".pt"):
        args.dataset_name = Path(args.model_path).stem.removesuffix(f"_{args.model}_{args.image_size}")
    if args.dataset_name is None:
        raise InputError("--dataset_dir is needed: the folder (or zip) with the pictures")
    if Path(args.dataset_name).name != args.dataset_name:
        raise InputError(f"--dataset_name {args.dataset_name}: expected a plain name, without slashes")
    if args.images and args.data != "celeba":
        raise InputError("--images are photos of faces; with digits the test part is taken")


def latent_of(args):
    """The latent that the flags describe."""
    return Latent(args.noise_size, [int(n) for n in args.categorical.split(",") if n != "none"], args.continuous)


# ---------------------------------------------------------------------------------------------------------------------
# Boilerplate: the same in all five projects, byte for byte (tests/test_parallel.py)


def boolean(text):
    """Flag type: true or false, in any case; anything else is refused."""
    try:
        return bool(("false", "true").index(text.lower()))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected True or False") from None


def setup(args):
    """Join torchrun's processes, if any, and seed; returns device, autocast, rank and number of processes.

    autocast() is the context that a forward pass runs in. InputError: a device or precision that is not there.
    """
    try:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else \
            torch.device(args.device)  # fmt: skip
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(f"--device {args.device} is not to be had here: cpu is, and auto finds the best") from None
    fast = torch.cpu._is_avx512_bf16_supported() if device.type == "cpu" else \
        device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)  # fmt: skip
    bf16 = args.precision == "bf16" or args.precision == "auto" and fast
    if args.precision != "fp32":
        torch.set_float32_matmul_precision("high")  # TF32 on CUDA
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(args.seed)  # the same on every rank: all start from the same weights and draw the same noise
    if "RANK" in os.environ and not dist.is_initialized():
        # Plain numbers travel over gloo even with GPUs; the others wait for hours while rank 0 packs a large data set.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=12))
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    return device, partial(torch.autocast, device.type, torch.bfloat16, enabled=bf16), rank, world


def average_gradients(module):
    """Average a module's gradients over all processes, in one message; nothing to do without torchrun."""
    if dist.is_initialized():
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        means = flat.div_(dist.get_world_size()).split([g.numel() for g in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))


@torch.no_grad()
def update_ema(ema, module, decay, step):
    """Move the running mean of the weights on: ema = decay * ema + (1 - decay) * weights; quicker at first."""
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(ema.parameters()), list(module.parameters()), 1 - decay)
    for mine, theirs in zip(ema.buffers(), module.buffers(), strict=True):
        mine.copy_(theirs)


def listen_for_stop():
    """From now on SIGTERM and Ctrl-C only ask: returns a function that says whether any process has been asked."""
    asked = torch.zeros(1)

    def ask(*_):
        if asked.item():  # a second time: at once
            raise KeyboardInterrupt
        asked.fill_(1)

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, ask)

    def stop_requested():
        if dist.is_initialized():
            dist.all_reduce(asked)
        return asked.item() > 0

    return stop_requested


def save_checkpoint(path, args, parts, **state):
    """Write everything stateful into one file, atomically; the file before it stays as previous.pt.

    parts: name -> module or optimizer; state: numbers, texts, lists and tensors. InputError: the disk refuses.
    """
    content = {"format": 1, "args": vars(args), "random": torch.get_rng_state(), "state": state}
    content |= {name: part.state_dict() for name, part in parts.items()}
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.replace(path, path.with_name("previous.pt"))
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written: {error}") from None


def read_checkpoint(path):
    """Everything that save_checkpoint wrote, on the CPU. InputError: the file is none of ours, or damaged."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != 1:
            raise InputError(f"{path} has format {content['format']}; this program reads 1")
        return content
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no checkpoint of this program, or damaged") from None


def load_checkpoint(path, args, parts):
    """Resume: fill parts from path, or from previous.pt beside it; returns the saved state, None without a file.

    InputError: no file is readable, or it was made with other flags that shape network, data or loss.
    """
    candidates = [file for file in (path, path.with_name("previous.pt")) if file.exists()]
    for file in candidates:
        try:
            content = read_checkpoint(file)
            break
        except InputError as error:
            print(f"{error}{': taking the one before' if file != candidates[-1] else ''}")
    else:
        if candidates:
            raise InputError(f"no checkpoint in {path.parent} can be read: move it away to start anew")
        return None
    saved = {name: value for name, value in content["args"].items() if name not in MAY_CHANGE}
    differ = [f"{name} was {value}, now {getattr(args, name, None)}" for name, value in saved.items()
              if getattr(args, name, None) != value]  # fmt: skip
    if differ:
        raise InputError(f"{file} was made with other flags ({'; '.join(differ)}): give those, or another place")
    for name, part in parts.items():
        part.load_state_dict(content[name])
    torch.set_rng_state(content["random"])
    print(f"resuming from {file}, step {content['state']['step']}")
    return content["state"]


def save_sheet(path, rows, columns=16):
    """Write a sheet of pictures as PNG: rows maps a label to (N, 3, H, W) in [-1, 1], each in lines of `columns`.

    Returns the sheet as (H, W, 3) uint8.
    """
    strips = []
    for label, pictures in rows.items():
        grid = make_grid(pictures.detach().float().cpu().clamp(-1, 1), columns, value_range=(-1, 1), normalize=True)
        if label:
            strip = Image.new("RGB", (grid.shape[2], 14), "white")
            ImageDraw.Draw(strip).text((3, 1), label, fill="black")
            strips.append(np.asarray(strip))
        strips.append(grid.mul(255).round().byte().permute(1, 2, 0).numpy())
    width = max(strip.shape[1] for strip in strips)
    sheet = np.concatenate([np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)
    return sheet


def new_folder(path, overwrite):
    """A folder to write into. InputError: it is not empty and --overwrite was not given."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())) and not overwrite:
        raise InputError(f"--out_dir {path} is not an empty folder: name another, or add --overwrite")
    path.mkdir(parents=True, exist_ok=True)
    return path


def main(argv=None):
    """Read the flags and do what they ask; a person's mistake ends in one line and exit code 2."""
    try:
        args = parse_args(argv)
        VERBS[args.run](args)
    except InputError as error:
        sys.exit(fail(str(error)))
    except KeyboardInterrupt:
        sys.exit(fail("stopped", code=130))
    except BrokenPipeError:  # who read the output, head for instance, has gone: nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except torch.OutOfMemoryError:
        sys.exit(fail(f"out of memory with --batch_size {args.batch_size}: try --batch_size {args.batch_size // 2}"))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def fail(message, code=2):
    """Print one line on stderr; returns the exit code, 2 for a person's mistake."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code


def diversity(x_fake, x_real):
    """Mean pairwise distance of generated pictures over that of real ones, both (N, 3, H, W); near 0: one picture."""
    return (torch.pdist(x_fake.float().flatten(1)).mean() / torch.pdist(x_real.float().flatten(1)).mean()).item()


def sliced_wasserstein(x_fake, x_real, patches=32, directions=128):
    """Sliced Wasserstein distance of two equally many pictures (N, 3, H, W) in [-1, 1]; 0 is equal.

    7 x 7 patches of each scale of a Laplacian pyramid (Karras et al., arXiv 1710.10196, section 5), and the whole
    pictures at less than 16 pixels, all whitened by the real ones: along random directions of plain pixels sharp noise
    has the spread of detail, and nothing else would be seen of it. The mean over the scales, the same patches and
    directions at every call.
    """
    generator = torch.Generator().manual_seed(0)
    fake, real, distances = x_fake.float(), x_real.float(), []
    while True:
        height, width = real.shape[2:]
        last = min(height, width) < 16
        sets = []
        for x in (fake, real):
            if last:
                sets.append(x.flatten(1))
                continue
            detail = x - F.interpolate(F.avg_pool2d(x, 2), (height, width), mode="bilinear")
            generator.manual_seed(height)  # the same spots in both
            spots = torch.randint((height - 6) * (width - 6), (patches,), generator=generator).tolist()
            pieces = [detail[:, :, spot // (width - 6) :, spot % (width - 6) :][:, :, :7, :7] for spot in spots]
            sets.append(torch.cat(pieces).flatten(1))
        variances, axes = torch.linalg.eigh(sets[1].T.cov())
        axes = axes / (variances.clamp(min=0) + 0.01 * variances[-1] + 1e-8).sqrt()  # no single axis may say it all
        axes = axes @ F.normalize(torch.randn(len(axes), directions, generator=generator), dim=0).to(real.device)
        ordered = [((pieces - sets[1].mean(0)) @ axes).sort(0).values for pieces in sets]
        distances.append((ordered[0] - ordered[1]).abs().mean())
        if last:
            return torch.stack(distances).mean().item()
        fake, real = F.avg_pool2d(fake, 2), F.avg_pool2d(real, 2)


def diff_augment(x, numbers):
    """Differentiable augmentation (Zhao et al., arXiv 2006.10738): colour, translation by an eighth, a hole of half.

    x: (N, 3, H, W) in [-1, 1]; numbers: (7, N) uniform in [0, 1), a column a picture. What is shifted in is 0.
    """
    numbers = numbers.to(x.device)
    brightness, saturation, contrast = numbers[:3, :, None, None, None]
    x = x + brightness - 0.5
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * saturation * 2 + grey
    grey = x.mean((1, 2, 3), keepdim=True)
    x = (x - grey) * (contrast + 0.5) + grey

    height, width = x.shape[2:]
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    right, down = ((numbers[3:5] * 2 - 1) * torch.tensor([[width], [height]], device=x.device) / 8).round()
    source = (rows - down[:, None])[:, :, None], (columns - right[:, None])[:, None, :]  # (N, H, 1), (N, 1, W)
    inside = (source[0] >= 0) & (source[0] < height) & (source[1] >= 0) & (source[1] < width)
    hole = [(axis - (centre * size).floor()[:, None]).abs() < size / 4
            for axis, centre, size in ((rows, numbers[5], height), (columns, numbers[6], width))]  # fmt: skip
    shown = inside & ~(hole[0][:, :, None] & hole[1][:, None, :])
    which = torch.arange(len(x), device=x.device)[:, None, None]
    x = x[which, :, source[0].clamp(0, height - 1).long(), source[1].clamp(0, width - 1).long()]  # (N, H, W, 3)
    return (x * shown[..., None]).permute(0, 3, 1, 2)


# ---------------------------------------------------------------------------------------------------------------------
# Losses


def d_loss(d_real, d_fake):
    """infogan's discriminator: cross entropy of real and generated pictures told apart, on logits, of any shape."""
    return F.softplus(-d_real).mean() + F.softplus(d_fake).mean()


def g_loss(d_fake):
    """infogan's generator: -log D of what it made, on logits."""
    return F.softplus(-d_fake).mean()


def r1_penalty(discriminator, x):
    """Mean squared length of the gradient of the logit by real pictures x (Mescheder et al., arXiv 1801.04406)."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    return gradient.float().square().sum((1, 2, 3)).mean()


def prior_distance(z_hat, z, directions):
    """Sliced Wasserstein distance, squared, of latents read from real faces to drawn ones (N, size), along directions.

    Kolouri et al., arXiv 1804.01947: what keeps the faces' latents spread as they are drawn. directions: (size, n).
    """
    directions = F.normalize(directions, dim=0)
    return (z_hat @ directions).sort(0).values.sub((z @ directions).sort(0).values).square().mean()


def digit_loss(latent, first, twin, found, moved):
    """What is to be read in real digits and in the same ones deformed otherwise, (N, size) raw each.

    The first category: the cluster that was found for the digit (N,), -1 for none. The first continuous numbers: to
    differ by half of what was done to one and not to the other, moved (N, 2) from -2 to 2.
    """
    (_, classes, continuous), (_, _, twins) = latent.parts(first), latent.parts(twin)
    known = min(2, latent.continuous)
    difference = torch.tanh(continuous[:, :known]) - torch.tanh(twins[:, :known])
    loss = F.mse_loss(difference, moved[:, :known] / 2) if known else first.new_zeros(())
    if latent.categorical:
        each = F.cross_entropy(classes[0], found, ignore_index=-1, reduction="sum")
        loss = loss + each / (found >= 0).sum().clamp(min=1)
    return loss


def ms_ssim(x, y, scales=3, window=7):
    """Multi-scale SSIM (Wang et al. 2003) of pictures (N, 3, S, S) in [-1, 1]: (N,), 1 where they are equal.

    The usual five scales with a window of 11 need more than 160 pixels, and pytorch-msssim's function refuses 64 x 64
    with any window above 3. So: 3 scales, a Gaussian window of 7 (sigma 1.5), the first three of the usual weights
    divided by their sum; contrast and structure at each scale, brightness at the last. Negative structure counts as
    nearly 0 and then has no gradient, so that a picture that is another's opposite is not mended by this loss alone.
    """
    weights = torch.tensor([0.0448, 0.2856, 0.3001][:scales], device=x.device)
    weights, last = weights / weights.sum(), scales - 1
    gauss = torch.exp(-((torch.arange(window, device=x.device) - window // 2) ** 2) / (2 * 1.5**2))
    kernel = (gauss / gauss.sum()).expand(15, 1, 1, window)
    x, y, value = x.float() / 2 + 0.5, y.float() / 2 + 0.5, 1
    for scale in range(scales):
        maps = torch.cat([x, y, x * x, y * y, x * y], 1)
        maps = F.conv2d(F.conv2d(maps, kernel, groups=15), kernel.transpose(2, 3), groups=15)
        mean_x, mean_y, xx, yy, xy = maps.split(3, 1)
        product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
        similar = (2 * (xy - product) + 0.03**2) / (xx + yy - squares + 0.03**2)
        if scale == last:
            similar = similar * (2 * product + 0.01**2) / (squares + 0.01**2)
        value = value * similar.mean((2, 3)).clamp(min=1e-4) ** weights[scale]
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return value.mean(1)


def reconstruction_loss(x_hat, x, kind):
    """How far pictures are from the ones they repeat, (N, 3, S, S) in [-1, 1]: (N,), 0 where they are equal.

    "msssim" is the document's, 1 - MS-SSIM; "l1" BEGAN's, of pictures in [0, 1]; "msssim_l1" is that and a quarter of
    the other, which has a gradient everywhere, sees colours (MS-SSIM alone hardly does) and weighs structure.
    """
    if kind == "msssim":
        return 1 - ms_ssim(x_hat, x)
    l1 = (x_hat.float() - x.float()).abs().mean((1, 2, 3)) / 2
    return l1 if kind == "l1" else l1 + (1 - ms_ssim(x_hat, x)) / 4


# ---------------------------------------------------------------------------------------------------------------------
# Training

R1_EVERY = 16  # steps from gradient penalty to gradient penalty, which then counts so many times


def place(args, kind, part=""):
    """Where things lie: a "checkpoint", "model" (the best so far) or "samples"; part: "" or "_predictor"."""
    name = f"{args.dataset_name}_{args.model}_{args.image_size}{part}"
    if kind == "checkpoint":
        return Path(args.checkpoint_dir) / name / "last.pt"
    if kind == "model":
        path = Path(args.model_path)
        return path.with_name(f"{path.stem}{part}.pt") if path.suffix == ".pt" else path / f"{name}.pt"
    return Path(args.sample_dir) / name


def load_records(args, device, rank):
    """The pictures: digits, or faces, the square in the middle of CelebA's aligned pictures, packed once."""
    if args.data != "celeba":
        if rank and args.download:  # rank 0 fetches, the others then find what it fetched
            dist.barrier()
        records = load_digits(args.data, args.image_size, args.dataset_dir, args.download)
        if rank == 0 and args.download and dist.is_initialized():
            dist.barrier()
        return records
    if args.dataset_dir is None:
        raise InputError("--dataset_dir is needed: the folder (or zip) with the pictures")
    dataset = CelebA(args.dataset_dir, args.seed)
    if rank:  # rank 0 packs, the others then find the packed file
        dist.barrier()
    records = pack(dataset, args.record_dir, "whole" if dataset.cropped else SQUARE, (args.image_size,) * 2,
                   args.workers, device, progress=rank == 0)  # fmt: skip
    if rank == 0 and dist.is_initialized():
        dist.barrier()
    return records


def training_rows(args, records, world):
    """The rows to train on and the first 500 to validate with. InputError: too few, or a batch that does not split."""
    args.pictures = f"{len(records.names)} pictures {zlib.crc32(' '.join(records.names).encode()):08x}"
    rows, validation_rows = subset(records.rows("train"), args.train_size, args.seed), records.rows("validation")[:500]
    if min(len(rows), len(validation_rows) - 1) <= 0:
        raise InputError(f"{len(records.names)} usable pictures are too few to train and to validate with")
    if args.batch_size % world:
        raise InputError(f"--batch_size {args.batch_size}: expected a multiple of the {world} processes")
    return rows, validation_rows


def in_chunks(rows, size=64):
    """Slices of 64 rows."""
    return [slice(start, start + size) for start in range(0, len(rows), size)]


@torch.no_grad()
def generate(generator, latent, autocast):
    """Latents (N, L) -> pictures (N, 3, S, S) in [-1, 1], in chunks, in eval mode."""
    generator.eval()
    with autocast():
        return torch.cat([generator(latent[part]) for part in in_chunks(latent)]).float()


@torch.no_grad()
def read(reader, latent, x, autocast):
    """Pictures (N, 3, S, S) -> the latents (N, L) that a predictor or discriminator reads in them, in eval mode."""
    reader.eval()
    with autocast():
        return torch.cat([latent.squash(reader.read(x[part]).float()) for part in in_chunks(x)])


def make_networks(args, latent):
    """Generator and discriminator of the model that the flags describe."""
    if args.model == "infogan":
        return (InfoGenerator(latent.size, args.image_size, args.hidden, 3 if args.data == "celeba" else 1),
                InfoDiscriminator(latent, args.image_size, args.hidden, args.d_batch_norm))  # fmt: skip
    shape = args.image_size, args.hidden, args.taper, args.depth
    return Decoder(latent.size, *shape), AutoEncoder(latent, *shape, read_noise=args.lambda_noise > 0)


def reads_noise(args):
    """Whether a model's discriminator was trained to read the noise too, so that it knows the latent of a picture."""
    return args.model == "infogan" or args.lambda_noise > 0


def set_rate(optimizer, args, step, factor=1.0):
    """The learning rate at a step: halved every --decay_every steps, never below --learning_rate_floor."""
    halvings = step // args.decay_every if args.decay_every else 0
    rate = max(args.learning_rate * 0.5**halvings, min(args.learning_rate, args.learning_rate_floor))
    for group in optimizer.param_groups:
        group["lr"] = rate * factor
    return rate


def train(args):
    """Train generator and discriminator of the chosen model."""
    device, autocast, rank, world = setup(args)

    # Data
    records = load_records(args, device, rank)
    rows, validation_rows = training_rows(args, records, world)
    mine = slice(rank * args.batch_size // world, (rank + 1) * args.batch_size // world)
    epoch_steps = max(1, len(rows) // args.batch_size)
    planned = args.epoch * epoch_steps
    last = min(planned, args.steps or planned)

    # Models
    latent = latent_of(args)
    generator, discriminator = make_networks(args, latent)
    networks = dict(generator=generator, discriminator=discriminator)
    for network in networks.values():
        network.to(device, memory_format=torch.channels_last)
    emas = {name: copy.deepcopy(network).requires_grad_(False) for name, network in networks.items()}
    shown = emas if args.show_ema else networks
    g_optimizer = torch.optim.Adam(generator.parameters(), args.learning_rate, (args.beta1, 0.999), fused=True)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), args.learning_rate * args.d_rate, (args.beta1, 0.999),
                                   fused=True)  # fmt: skip
    parts = networks | {f"ema_{name}": ema for name, ema in emas.items()}
    parts |= dict(g_optimizer=g_optimizer, d_optimizer=d_optimizer)

    # Resume
    checkpoint, best_path, samples = (place(args, kind) for kind in ("checkpoint", "model", "samples"))
    state = load_checkpoint(checkpoint, args, parts)
    if state is None:
        if best_path.exists():
            raise InputError(f"{best_path} is there, but no checkpoint of its run: move it away or give --model_path")
        state = dict(step=0, best=math.inf, best_step=0, k=0.0)
    if state["step"] >= last:
        print(f"trained {state['step']} of {planned} steps already: raise --epoch or --steps to go on")
        return

    # Logs
    from torch.utils.tensorboard import SummaryWriter  # takes seconds, which the verbs below need not wait for

    if rank == 0:
        count = sum(p.numel() for network in (generator, discriminator) for p in network.parameters())
        print(f"{len(rows)} training and {len(validation_rows)} validation pictures, {count:,} parameters, {planned} "
              f"steps of {args.batch_size}, {device}")  # fmt: skip
        print(f"watch it: tensorboard --logdir {samples / 'logs'}")
    writer = SummaryWriter(samples / "logs", purge_step=state["step"] + 1) if rank == 0 else None
    bar = tqdm(total=last * args.batch_size, initial=state["step"] * args.batch_size, unit="img", unit_scale=True,
               disable=rank > 0, mininterval=1 if sys.stderr.isatty() else 30)  # fmt: skip
    x_real = to_tensor(records.images[validation_rows], device)  # what the generated pictures are measured against
    fixed = latent.draw(len(x_real), torch.Generator().manual_seed(args.seed)).to(device)
    k = torch.tensor(state["k"], device=device)
    zero = torch.zeros((), device=device)
    names = ("d", "g", "code", "noise", "digit", "rec", "real", "fake", "convergence", "k")
    sums, bad_step, logged = torch.zeros(len(names), device=device), torch.zeros((), device=device), state["step"]
    if args.lambda_digit:
        clusters = torch.full((len(records.names),), -1, device=device)
        if latent.categorical:
            clusters[rows] = torch.from_numpy(cluster(records.images[rows], latent.categorical[0], device)).to(device)
    stream = batches(records, rows, args.batch_size, device, args.seed, state["step"], rank, world, args.flip)
    stop_requested = listen_for_stop()

    for step in range(state["step"] + 1, last + 1):
        x, chosen = next(stream)
        generator.train()
        discriminator.train()
        # Every process draws the whole batch's numbers and takes its slice.
        z = latent.draw(args.batch_size)[mine].to(device)
        if args.deform:
            moves = (torch.rand(2, 2, args.batch_size) * 2 - 1)[:, :, mine].to(device)
            x, twin = deform(x, moves[0]), deform(x, moves[1])
        numbers = torch.rand(2, 7, args.batch_size)[:, :, mine] if args.diff_augment else (None, None)
        directions = torch.randn(latent.size, 128).to(device) if args.lambda_rec else None
        for optimizer, factor in ((g_optimizer, 1), (d_optimizer, args.d_rate)):
            set_rate(optimizer, args, step, factor)
        loss_code = loss_noise = loss_digit = loss_rec = loss_real = loss_fake = measure = zero

        def repeat(raw):
            """The losses of real pictures made anew from what was read of them, and of how those latents are spread."""
            z_hat = latent.squash(raw.float())
            with autocast():
                x_hat = generator(z_hat)  # noqa: B023
            rec = reconstruction_loss(x_hat, x, args.reconstruction).mean()  # noqa: B023
            return rec, prior_distance(z_hat, z, directions)  # noqa: B023

        if args.model == "infogan":

            def judge(x, numbers):
                return discriminator(diff_augment(x, numbers) if args.diff_augment else x)[0].float()  # noqa: B023

            # Generator: pass for real
            discriminator.requires_grad_(False)
            with autocast():
                x_fake = generator(z)
                loss_g = g_loss(judge(x_fake.float(), numbers[1]))
            g_optimizer.zero_grad()
            loss_g.backward()
            average_gradients(generator)
            g_optimizer.step()

            # Discriminator: tell real from generated
            discriminator.requires_grad_(True)
            with autocast():
                loss_d = d_loss(judge(x, numbers[0]), judge(x_fake.detach().float(), numbers[1]))
            total = loss_d
            if args.lambda_r1 and step % R1_EVERY == 0:
                total = total + args.lambda_r1 / 2 * R1_EVERY * r1_penalty(lambda x: judge(x, numbers[0]), x)  # noqa: B023
            d_optimizer.zero_grad()
            total.backward()
            average_gradients(discriminator)
            d_optimizer.step()

            # Both: the latent of generated pictures can be read in them, and real ones are repeated
            with autocast():
                loss_code, loss_noise = latent.losses(discriminator.read(generator(z)).float(), z)
            total = args.lambda_code * loss_code + args.lambda_noise * loss_noise
            if args.lambda_rec:
                with autocast():
                    raw = discriminator.read(x)
                loss_rec, spread = repeat(raw)
                total = total + args.lambda_rec * loss_rec + spread
            if args.lambda_digit:
                with autocast():
                    first, second = discriminator.read(torch.cat([x, twin])).float().chunk(2)
                loss_digit = digit_loss(latent, first, second, clusters[chosen], (moves[0] - moves[1]).T)
                total = total + args.lambda_digit * loss_digit
            g_optimizer.zero_grad()
            d_optimizer.zero_grad()
            total.backward()
            for network, optimizer in ((generator, g_optimizer), (discriminator, d_optimizer)):
                average_gradients(network)
                optimizer.step()
        else:
            # Both at once, as BEGAN has it. Generated pictures are judged once: they are a leaf, so that what the
            # generator wants of them (small loss) is kept while what the discriminator does is turned round (-k).
            with autocast():
                x_fake = generator(z)
            seen = x_fake.detach().requires_grad_()
            g_optimizer.zero_grad()
            d_optimizer.zero_grad()
            with autocast():
                fake_hat, raw = discriminator(seen)
            loss_fake = reconstruction_loss(fake_hat, seen, args.reconstruction).mean()
            loss_fake.backward(retain_graph=reads_noise(args) or latent.code_size > 0)
            for parameter in discriminator.parameters():
                if parameter.grad is not None:
                    parameter.grad *= -k

            with autocast():
                real_hat, real_raw = discriminator(x)
            loss_real = reconstruction_loss(real_hat, x, args.reconstruction).mean()
            loss_code, loss_noise = latent.losses(raw.float(), z)
            if not reads_noise(args):
                loss_noise = zero
            total = loss_real + args.lambda_code * loss_code + args.lambda_noise * loss_noise
            if args.lambda_rec:
                loss_rec, spread = repeat(real_raw)
                total = total + args.lambda_rec * loss_rec + spread
            total.backward()
            x_fake.backward(seen.grad)
            for network, optimizer in ((generator, g_optimizer), (discriminator, d_optimizer)):
                average_gradients(network)
                optimizer.step()
            loss_d, loss_g = loss_real.detach() - k * loss_fake.detach(), loss_fake

            # k: what the generator's pictures count, so that their loss is gamma times that of real ones
            both = torch.stack([loss_real, loss_fake]).detach()
            if dist.is_initialized():
                dist.all_reduce(both.div_(world))
            balance = args.gamma * both[0] - both[1]
            measure, k = both[0] + balance.abs(), (k + args.lambda_k * balance).clamp(0, 1)
        for name, ema in emas.items():
            update_ema(ema, networks[name], args.ema, step)
        losses = loss_d, loss_g, loss_code, loss_noise, loss_digit, loss_rec, loss_real, loss_fake, measure, k
        sums += torch.stack([loss.detach() for loss in losses])
        bad_step = torch.where(torch.isfinite(sums.sum()) | (bad_step > 0), bad_step, step)

        # What is due: numbers, validation, a sheet, a checkpoint
        bar.update(args.batch_size)
        stop = stop_requested()
        epoch_end = step % epoch_steps == 0 or step == last
        save = stop or step == last or (step % args.save_every == 0 if args.save_every else epoch_end)
        due = step % args.sample_every == 0 or step == last if args.sample_every else epoch_end
        if step % args.log_every == 0 or save or due:
            means = sums / (step - logged)
            if dist.is_initialized():
                dist.all_reduce(means.div_(world))
            if not math.isfinite(means.sum().item()):
                bad = int(bad_step.item()) or step
                sys.exit(fail(f"the loss is not finite at step {bad}; the last good state is {checkpoint}", code=1))
            sums, logged = torch.zeros_like(sums), step
            means = {name: mean for name, mean in zip(names, means.tolist(), strict=True)
                     if mean or name == "k" and args.model != "infogan"}  # fmt: skip
            bar.set_postfix({name: f"{mean:.3f}" for name, mean in means.items()})
            if writer:
                for name, mean in means.items():
                    tag = f"began/{name}" if name in ("k", "convergence") else f"loss/{name}"
                    writer.add_scalar(tag, mean, step)
                writer.add_scalar("learning_rate", g_optimizer.param_groups[0]["lr"], step)
        better = False
        if due and rank == 0:
            x_fake = generate(shown["generator"], fixed, autocast)
            spread, distance = diversity(x_fake, x_real), sliced_wasserstein(x_fake, x_real)
            better = distance < state["best"]
            if better:
                state |= dict(best=distance, best_step=step)
            if spread < 0.5:
                bar.write(f"step {step}: diversity {spread:.2f}: the generated pictures are nearly all the same")
            writer.add_scalar("diversity", spread, step)
            writer.add_scalar("sliced_wasserstein", distance, step)
            sheet = {f"step {step}, diversity {spread:.2f}, distance {distance:.3f}": x_fake[:64]}
            if latent.code_size:
                sheet["The code varied, noise fixed"] = \
                    generate(shown["generator"], code_grid(latent, fixed[:1], 16)[0], autocast)  # fmt: skip
            if reads_noise(args):
                x_hat = generate(shown["generator"], read(shown["discriminator"], latent, x_real, autocast), autocast)
                writer.add_scalar("validation/rec", F.mse_loss(x_hat, x_real).item(), step)
                sheet |= {"Real": x_real[:16], f"Read and made anew, {psnr(F.mse_loss(x_hat, x_real).item()):.2f} dB":
                          x_hat[:16]}  # fmt: skip
            sheet = save_sheet(samples / f"{step:07d}.png", sheet)
            writer.add_image("images/samples", sheet, step, dataformats="HWC")
        if rank == 0 and (save or better):  # the checkpoint first: no model without one
            save_checkpoint(checkpoint, args, parts, **state | {"step": step, "k": k.item()})
        if better:
            save_checkpoint(best_path, args, shown, step=step, distance=distance)
        if stop:
            break
    bar.close()
    if writer:
        writer.close()
        print(f"trained {step} of {planned} steps; lowest distance {state['best']:.4f} at step {state['best_step']}")
        print(f"model {best_path}, sheets {samples}")


def code_grid(latent, start, points):
    """Latents for the document's grids, and what varies in each line: every part of the code, all else held.

    start: (N, L). Each continuous number takes `points` values from -1 to 1, each one-hot component all its classes.
    Returns latents (N * lines' lengths, L), face by face, and a list of (name, length) of a face's lines.
    """
    lines, titles = [], []
    first = latent.noise
    for number, classes in enumerate(latent.categorical):
        line = start[:, None].repeat(1, classes, 1)
        line[:, :, first : first + classes] = torch.eye(classes).to(start)
        lines, titles, first = [*lines, line], [*titles, (f"category_{number + 1}", classes)], first + classes
    for number in range(latent.continuous):
        line = start[:, None].repeat(1, points, 1)
        line[:, :, first + number] = torch.linspace(-1, 1, points).to(start)
        lines, titles = [*lines, line], [*titles, (f"code_{number + 1}", points)]
    return torch.cat(lines, 1).flatten(0, 1), titles


def train_predictor(args):
    """Train the predictor: real pictures, read and made anew by the generator, which is left as it is.

    With lambda_code and lambda_noise it also learns from the generator's own pictures, whose latents are known. Where
    the discriminator reads all of the latent already, the predictor starts as its copy.
    """
    device, autocast, rank, world = setup(args)
    gan = load_gan(args, device, autocast)

    # Data
    records = load_records(args, device, rank)
    rows, validation_rows = training_rows(args, records, world)
    mine = slice(rank * args.batch_size // world, (rank + 1) * args.batch_size // world)
    epoch_steps = max(1, len(rows) // args.batch_size)
    planned = args.epoch * epoch_steps
    last = min(planned, args.steps or planned)

    # Models
    args.inverts, latent = gan.version, gan.latent
    predictor = make_predictor(gan.saved, latent)
    if reads_noise(gan.saved):
        mine_too = predictor.state_dict()
        predictor.load_state_dict({name: value for name, value in gan.discriminator.state_dict().items()
                                   if name in mine_too})  # fmt: skip
    predictor.to(device, memory_format=torch.channels_last)
    ema = copy.deepcopy(predictor).requires_grad_(False)
    shown = ema if args.show_ema else predictor
    optimizer = torch.optim.Adam(predictor.parameters(), args.learning_rate, (args.beta1, 0.999), fused=True)
    parts = dict(predictor=predictor, ema_predictor=ema, optimizer=optimizer)

    # Resume
    checkpoint, best_path, samples = (place(args, kind, "_predictor") for kind in ("checkpoint", "model", "samples"))
    state = load_checkpoint(checkpoint, args, parts)
    if state is None:
        if best_path.exists():
            raise InputError(f"{best_path} is there, but no checkpoint of its run: move it away or give --model_path")
        state = dict(step=0, best=math.inf, best_step=0)
    if state["step"] >= last:
        print(f"trained {state['step']} of {planned} steps already: raise --epoch or --steps to go on")
        return

    # Logs
    from torch.utils.tensorboard import SummaryWriter  # takes seconds, which the verbs below need not wait for

    if rank == 0:
        print(f"{len(rows)} training and {len(validation_rows)} validation pictures, "
              f"{sum(p.numel() for p in predictor.parameters()):,} parameters, {planned} steps of {args.batch_size}, "
              f"{device}")  # fmt: skip
        print(f"watch it: tensorboard --logdir {samples / 'logs'}")
    writer = SummaryWriter(samples / "logs", purge_step=state["step"] + 1) if rank == 0 else None
    bar = tqdm(total=last * args.batch_size, initial=state["step"] * args.batch_size, unit="img", unit_scale=True,
               disable=rank > 0, mininterval=1 if sys.stderr.isatty() else 30)  # fmt: skip
    x_real = to_tensor(records.images[validation_rows], device)
    names = ("rec", "code", "noise")
    sums, bad_step, logged = torch.zeros(len(names), device=device), torch.zeros((), device=device), state["step"]
    loss_code = loss_noise = torch.zeros((), device=device)
    stream = batches(records, rows, args.batch_size, device, args.seed, state["step"], rank, world, args.flip)
    stop_requested = listen_for_stop()

    for step in range(state["step"] + 1, last + 1):
        x, _ = next(stream)
        predictor.train()
        z = latent.draw(args.batch_size)[mine].to(device)
        set_rate(optimizer, args, step)

        # Predictor: the real picture again, and the latent of a generated one
        with autocast():
            x_hat = gan.generator(latent.squash(predictor.read(x).float()))
        loss_rec = reconstruction_loss(x_hat, x, args.reconstruction).mean()
        loss = loss_rec
        if args.lambda_code or args.lambda_noise:
            x_fake = generate(gan.generator, z, autocast)
            with autocast():
                loss_code, loss_noise = latent.losses(predictor.read(x_fake).float(), z)
            loss = loss + args.lambda_code * loss_code + args.lambda_noise * loss_noise
        optimizer.zero_grad()
        loss.backward()
        average_gradients(predictor)
        optimizer.step()
        update_ema(ema, predictor, args.ema, step)
        sums += torch.stack([loss_rec, loss_code, loss_noise]).detach()
        bad_step = torch.where(torch.isfinite(sums.sum()) | (bad_step > 0), bad_step, step)

        # What is due: numbers, validation, a sheet, a checkpoint
        bar.update(args.batch_size)
        stop = stop_requested()
        epoch_end = step % epoch_steps == 0 or step == last
        save = stop or step == last or (step % args.save_every == 0 if args.save_every else epoch_end)
        due = step % args.sample_every == 0 or step == last if args.sample_every else epoch_end
        if step % args.log_every == 0 or save or due:
            means = sums / (step - logged)
            if dist.is_initialized():
                dist.all_reduce(means.div_(world))
            if not math.isfinite(means.sum().item()):
                bad = int(bad_step.item()) or step
                sys.exit(fail(f"the loss is not finite at step {bad}; the last good state is {checkpoint}", code=1))
            sums, logged = torch.zeros_like(sums), step
            means = {name: mean for name, mean in zip(names, means.tolist(), strict=True) if mean}
            bar.set_postfix({name: f"{mean:.3f}" for name, mean in means.items()})
            if writer:
                for name, mean in means.items():
                    writer.add_scalar(f"loss/{name}", mean, step)
        better = False
        if due and rank == 0:
            x_hat = generate(gan.generator, read(shown, latent, x_real, autocast), autocast)
            error = F.mse_loss(x_hat, x_real).item()
            better = error < state["best"]
            if better:
                state |= dict(best=error, best_step=step)
            writer.add_scalar("validation/rec", error, step)
            sheet = {"Real": x_real[:32], f"Read and made anew, {psnr(error):.2f} dB": x_hat[:32]}
            sheet = save_sheet(samples / f"{step:07d}.png", sheet)
            writer.add_image("images/samples", sheet, step, dataformats="HWC")
        if rank == 0 and (save or better):  # the checkpoint first: no model without one
            save_checkpoint(checkpoint, args, parts, **state | {"step": step})
        if better:
            save_checkpoint(best_path, args, dict(predictor=shown), step=step, mse=error)
        if stop:
            break
    bar.close()
    if writer:
        writer.close()
        print(f"trained {step} of {planned} steps; best validation MSE {state['best']:.4f} in [-1, 1] "
              f"({psnr(state['best']):.2f} dB) at step {state['best_step']}")  # fmt: skip
        print(f"model {best_path}, sheets {samples}")


# ---------------------------------------------------------------------------------------------------------------------
# Using the model


def psnr(mse):
    """Decibels of a mean squared error of pictures in [-1, 1]."""
    return 10 * math.log10(4 / mse) if mse else math.inf


def load_part(args, part=""):
    """The file of the best model so far, else the last checkpoint: its path, content and flags; None where none is.

    InputError: it is not of this model, data or size.
    """
    candidates = [place(args, "model", part), place(args, "checkpoint", part)]
    if Path(args.model_path).suffix == ".pt":  # that one and no other
        candidates = candidates[:1]
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        if not part:
            missing = " nor ".join(map(str, candidates))
            raise InputError(f"no model: no {missing} is there; train first (--run train)")
        return None, None, None
    content = read_checkpoint(path)
    saved = argparse.Namespace(**content["args"])
    for name in ("model", "image_size") if not part else ():
        if getattr(saved, name, None) != getattr(args, name):
            raise InputError(f"{path} has {name} {getattr(saved, name, None)}, not {getattr(args, name)}: "
                             f"give --{name} {getattr(saved, name, None)}, or another model")  # fmt: skip
    return path, content, saved


def fill(network, content, name, path, device):
    """Weights from a model file or checkpoint into a network, which is then only used. InputError: others' weights."""
    ema = content["args"]["show_ema"] and f"ema_{name}" in content
    try:
        network.load_state_dict(content[f"ema_{name}" if ema else name])
    except (KeyError, RuntimeError):
        raise InputError(f"{path} is no model of this project") from None
    return network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


def make_predictor(saved, latent):
    """A predictor for the GAN whose flags are given."""
    return Predictor(saved.model, latent, saved.image_size, saved.hidden, saved.taper, saved.depth, saved.d_batch_norm,
                     reads_noise(saved))  # fmt: skip


def load_gan(args, device, autocast):
    """The GAN: generator, discriminator, latent, its flags (saved) and its version."""
    path, content, saved = load_part(args)
    latent = latent_of(saved)
    generator, discriminator = make_networks(saved, latent)
    gan = argparse.Namespace(device=device, autocast=autocast, saved=saved, latent=latent)
    gan.generator = fill(generator, content, "generator", path, device)
    gan.discriminator = fill(discriminator, content, "discriminator", path, device)
    gan.version = f"{zlib.crc32(gan.generator.fc.weight.cpu().numpy().tobytes()):08x}"
    print(f"model {path}: step {content['state']['step']}, {saved.recipe} recipe")
    return gan


def load_model(args, device, autocast):
    """The GAN, and what reads the latent of a picture: reader, the predictor, else the discriminator, else None."""
    gan = load_gan(args, device, autocast)
    gan.reader = gan.discriminator if reads_noise(gan.saved) else None
    path, content, saved = load_part(args, "_predictor")
    if content and saved.inverts != gan.version:
        print(f"predictor {path} inverts another generator, so it is not used: --run train_predictor again")
    elif content:
        gan.reader = fill(make_predictor(gan.saved, gan.latent), content, "predictor", path, device)
        print(f"predictor {path}: step {content['state']['step']}")
    gan.generate = partial(generate, gan.generator, autocast=autocast)
    gan.read = partial(read, gan.reader, gan.latent, autocast=autocast)
    return gan


def load_pictures(args, device, paths=None):
    """Photos, or else the first --count test pictures: images (N, S, S, 3) uint8 and their names, which differ."""
    if paths:
        images, names, skipped = load_faces(paths, SQUARE, (args.image_size,) * 2, MTCNN(device))
        for name, reason in skipped:
            print(f"skipped {name}: {reason}")
    else:
        records = load_records(args, device, 0)
        rows = records.rows("test")[: args.count]
        if len(rows) == 0:
            raise InputError(f"{args.dataset_dir} has no test pictures: name pictures with --images")
        images, names = records.images[rows], [records.names[row] for row in rows]
    return images, [stem.replace("/", "_") for stem in name_outputs(names)]


def find_latents(args, model, x, method):
    """The latents (N, L) of pictures (N, 3, S, S), by the predictor, by optimisation from the mean latent, or by both.

    InputError: there is no predictor, or the loss needs weights that are not there.
    """
    if method != "optimisation" and model.reader is None:
        raise InputError("no predictor to read a latent with: --run train_predictor first, or --method optimisation")
    mean = torch.cat([torch.full((n,), 1 / n if i in range(1, 1 + len(model.latent.categorical)) else 0.0)
                      for i, n in enumerate(model.latent.sizes)]).to(x.device)  # fmt: skip
    start = mean.expand(len(x), -1) if method == "optimisation" else model.read(x)
    if method == "predictor":
        return start
    loss_of = recovery_loss(args.recovery_loss, ms_ssim, args.download, x.device)
    found = [optimise(model.generator, model.latent, x[part], start[part], loss_of, args.n_iter, args.recovery_rate)
             for part in in_chunks(x)]  # fmt: skip
    return torch.cat([z for z, _ in found])


def prepare(args):
    """Set up, and load the GAN and what reads its latents."""
    device, autocast, *_ = setup(args)
    return load_model(args, device, autocast)


def new_numbered(folder, name):
    """The path of the first of name_001, name_002, ... in a folder that is not there yet."""
    return next(path for i in range(1, 10**6) if not (path := folder / f"{name}_{i:03d}").exists())


def output_folder(args):
    """Where a verb writes: --out_dir, which must be empty or --overwrite, else a new one, VERB_001 ..., of the samples.

    So a second run writes beside the first and not over it.
    """
    return new_folder(args.out_dir or new_numbered(place(args, "samples"), args.run), args.overwrite)


def save_pictures(folder, names, pictures):
    """Write pictures, (N, 3, S, S) or uint8 (N, S, S, 3), as PNG files, one per name."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = to_uint8(pictures) if isinstance(pictures, torch.Tensor) else pictures
    for name, picture in zip(names, pictures, strict=True):
        Image.fromarray(picture).save(folder / f"{name}.png")


def write_table(path, title, rows):
    """A table with tabs: results, and the manifests that benchmarks/quality.py reads."""
    lines = ["\t".join(map(str, row)) for row in [title, *rows]]
    path.write_text("\n".join(lines) + "\n")


def sample(args):
    """Pictures of --count random latents: single pictures, latents.npy, a sheet."""
    model = prepare(args)
    out = output_folder(args)
    z = model.latent.draw(args.count, torch.Generator().manual_seed(args.seed)).to(model.device)
    x_fake = model.generate(z)
    save_pictures(out / "pictures", [f"{i:06d}" for i in range(args.count)], x_fake)
    np.save(out / "latents.npy", z.cpu().numpy())
    save_sheet(out / "sheet.png", {"": x_fake[:64]})
    print(f"{args.count} pictures, latents.npy and sheet.png in {out}")


def recover(args):
    """The latents of photos or test pictures, by predictor, optimisation and both: errors, seconds, pictures.

    And how well the reader knows the latents of the generator's own pictures.
    """
    model = prepare(args)
    methods = [args.method] if args.method else METHODS
    if model.reader is None and methods != ["optimisation"]:
        raise InputError("no predictor to read a latent with: --run train_predictor first, or --method optimisation")
    if methods != ["predictor"]:
        recovery_loss(args.recovery_loss, ms_ssim, args.download, model.device)  # what is missing is said at once
    images, names = load_pictures(args, model.device, args.images)
    out = output_folder(args)
    x = to_tensor(images, model.device)
    save_pictures(out / "originals", names, images)
    table, sheet, errors = [], {"Originals": x[:32]}, {}
    for method in methods:
        began = time.perf_counter()
        z = find_latents(args, model, x, method)
        seconds = (time.perf_counter() - began) / len(x)
        x_hat = model.generate(z)
        errors[method] = (x_hat - x).square().mean((1, 2, 3))
        save_pictures(out / method, names, x_hat)
        np.save(out / f"{method}.npy", z.cpu().numpy())
        write_table(out / f"{method}.tsv", ["file", "source"],
                    [[f"{method}/{name}.png", f"originals/{name}.png"] for name in names])  # fmt: skip
        mse = errors[method].mean().item()
        similar = ssim(x_hat / 2 + 0.5, x / 2 + 0.5, data_range=1).item()
        table.append([method, f"{mse / 4:.5f}", f"{psnr(mse):.2f}", f"{similar:.3f}", f"{seconds:.4f}"])
        sheet[f"{method}: {psnr(mse):.2f} dB, SSIM {similar:.3f}"] = x_hat[:32]
    title = ["method", "mse", "psnr", "ssim", "seconds_per_picture"]
    write_table(out / "table.tsv", title, table)
    write_table(out / "results.tsv", ["file", *(f"{method}_psnr" for method in methods)],
                [[name, *(f"{psnr(errors[method][i].item()):.3f}" for method in methods)]
                 for i, name in enumerate(names)])  # fmt: skip
    save_sheet(out / "sheet.png", sheet)
    print(f"{len(x)} pictures, --recovery_loss {args.recovery_loss}, {args.n_iter} steps; squared error in [0, 1]")
    for row in [title, *table]:
        print("{:14}{:>10}{:>8}{:>8}{:>20}".format(*row))
    if model.reader is not None:
        print(f"own pictures, read: {', '.join(f'{name} {value}' for name, value in read_own(args, model).items())}")
    print(f"tables, latents, pictures and sheet.png in {out}")


def read_own(args, model, count=500):
    """How well the reader knows the latents of pictures that the generator made of `count` drawn ones: name -> text."""
    latent = model.latent
    z = latent.draw(count, torch.Generator().manual_seed(args.seed + 1)).to(model.device)
    (noise_hat, classes_hat, continuous_hat), (noise, classes, continuous) = \
        latent.parts(model.read(model.generate(z))), latent.parts(z)  # fmt: skip
    found = {f"category {number + 1} right": f"{(c_hat.argmax(1) == c.argmax(1)).float().mean().item():.1%}"
             for number, (c_hat, c) in enumerate(zip(classes_hat, classes, strict=True))}  # fmt: skip
    for name, ours, theirs in (("code", continuous_hat, continuous), ("noise", noise_hat, noise)):
        if theirs.shape[1]:
            # A guess of 0 errs by 0.577: the deviation of what is drawn.
            found[f"{name} error (of 0.577)"] = f"{F.mse_loss(ours, theirs).sqrt().item():.3f}"
    return found


def vary(args):
    """The document's grids: noise held, each part of the code varied, for random latents or for given pictures.

    One sheet for each part of the code, a line for each face; where the code has categories, also a sheet with a line
    for each category for each continuous number.
    """
    model = prepare(args)
    latent = model.latent
    if not latent.code_size:
        raise InputError("--run vary needs a code: --model began has none")
    if args.images:
        images, names = load_pictures(args, model.device, args.images)
        x = to_tensor(images, model.device)
        z = find_latents(args, model, x, args.method or "both")
    else:
        z = latent.draw(args.count, torch.Generator().manual_seed(args.seed)).to(model.device)
        names = [f"random_{i:03d}" for i in range(len(z))]
    out = output_folder(args)
    grid, titles = code_grid(latent, z, args.points)
    pictures = model.generate(grid).unflatten(0, (len(z), -1))  # (N, of all lines, 3, S, S)
    begin, rows = 0, []
    for title, length in titles:
        line = pictures[:, begin : begin + length]
        if args.images:  # the picture itself, and what the generator makes of it, before the varied ones
            line = torch.cat([x[:, None], model.generate(z)[:, None], line], 1)
        save_sheet(out / f"{title}.png", {"": line[:32].flatten(0, 1)}, columns=line.shape[1])
        for i, name in enumerate(names):
            files = [f"{title}/{name}_{number:02d}" for number in range(length)]
            (out / title).mkdir(exist_ok=True)
            save_pictures(out, files, pictures[i, begin : begin + length])
            rows += [[f"{file}.png", f"{title}/{name}"] for file in files]
        begin += length
    if latent.categorical:  # the document's figures: categories down, a number of the code across
        each = z[:1].repeat(latent.categorical[0], 1)
        each[:, latent.noise : latent.noise + latent.categorical[0]] = torch.eye(latent.categorical[0]).to(z)
        each[:, latent.size - latent.continuous :] = 0
        pictures = model.generate(code_grid(latent, each, args.points)[0]).unflatten(0, (len(each), -1))
        begin = sum(latent.categorical)
        for number in range(latent.continuous):
            lines = pictures[:, begin + number * args.points :][:, : args.points]
            save_sheet(out / f"categories_by_code_{number + 1}.png", {"": lines.flatten(0, 1)}, columns=args.points)
    write_table(out / "manifest.tsv", ["file", "path"], rows)
    np.save(out / "latents.npy", z.cpu().numpy())
    print(f"{len(rows)} pictures, a sheet for each of {', '.join(title for title, _ in titles)} in {out}")


def check_digits(args):
    """What the code of a model of digits means: purity of its categories, width and slant by its numbers.

    Judged by a classifier that is trained here on real digits, on --count generated ones (64: 1,000 are taken).
    """
    if args.data == "celeba":
        raise InputError("--run purity is for digits: --data digits or --data mnist")
    model = prepare(args)
    latent = model.latent
    if not latent.categorical:
        raise InputError("--run purity needs a categorical code: --categorical 10")
    records = load_records(args, model.device, 0)
    classifier, accuracy = train_digit_classifier(records, model.device)
    out = output_folder(args)
    z = latent.draw(max(args.count, 1000), torch.Generator().manual_seed(args.seed)).to(model.device)
    x_fake = model.generate(z)
    _, classes, continuous = latent.parts(z)
    digits, category = classify(classifier, x_fake), classes[0].argmax(1)
    share, majority = purity(digits, category, latent.categorical[0])
    rows = [[number, majority[number], *torch.bincount(digits[category == number].cpu(), minlength=10).tolist()]
            for number in range(latent.categorical[0])]  # fmt: skip
    write_table(out / "purity.tsv", ["category", "majority", *range(10)], rows)
    print(f"judge: {accuracy:.1%} of real test digits right")
    print(f"purity {share:.1%} of {len(z)} pictures; digits by category: {' '.join(map(str, majority))}; "
          f"{len(set(majority))} different")  # fmt: skip
    measured = shape_of(x_fake)
    for number in range(latent.continuous):
        # Within a category, since digits differ in both; beside it the means at the ends of the number's range.
        code, texts = continuous[:, number].cpu(), []
        for name, values in measured.items():
            centred = values.clone()
            for c in range(latent.categorical[0]):
                centred[category.cpu() == c] -= values[category.cpu() == c].mean()
            together = torch.corrcoef(torch.stack([code, centred]))[0, 1].item()
            low, high = (values[part].mean().item() for part in (code < -0.8, code > 0.8))
            texts.append(f"{name} {low:+.2f} to {high:+.2f} (correlation {together:+.2f})")
        print(f"code {number + 1}: {', '.join(texts)}")
    print(f"read: {', '.join(f'{name} {value}' for name, value in read_own(args, model).items())}")
    print(f"purity.tsv in {out}")


MOST_FEW = 60  # training faces, without labels, that augment and evaluate need at least


def unlabelled_faces(args, device):
    """Records, rows of at most 7,000 training faces, and those faces as tensors (N, 3, S, S). InputError: too few."""
    records = load_records(args, device, 0)
    rows = subset(records.rows("train"), min(len(records.rows("train")), 7000), args.seed)
    if len(rows) < MOST_FEW:
        raise InputError(f"{args.dataset_dir} has {len(rows)} training faces; {MOST_FEW} are needed, without labels")
    return records, rows, to_tensor(records.images[rows], device)


def prepare_reader(args):
    """As prepare. InputError: nothing reads the latents of pictures."""
    model = prepare(args)
    if model.reader is None:
        raise InputError("no predictor to read a latent with: --run train_predictor first")
    return model


def augment(args):
    """From a few pictures of one person, or of one class, --count varied ones: pictures, manifest, what varied.

    Each is one of the given pictures with what a random step in its latent changes; the gates, which know faces without
    labels only, refuse what has become another person or no face. The folder of the given pictures is left alone.
    """
    if not args.images:
        raise InputError("--run augment needs --images: the pictures to vary")
    if args.out_dir:
        target = Path(args.out_dir).resolve()
        for path in map(Path, args.images):
            folder = (path if path.is_dir() else path.parent).resolve()
            if target == folder or folder in target.parents and path.is_dir() or target in folder.parents:
                raise InputError(f"--out_dir {args.out_dir} and {folder}, where the pictures are, lie in one another: "
                                 "name another")  # fmt: skip
    model = prepare_reader(args)
    records, rows, faces = unlabelled_faces(args, model.device)
    images, names = load_pictures(args, model.device, args.images)
    x = to_tensor(images, model.device)
    made = augment_person(x, Unlabelled(faces, model.read), model.read, model.generate, model.latent.constrain,
                          args.count, args.strength, args.min_identity, args.min_quality, args.seed)  # fmt: skip
    refused = ", ".join(f"{count} refused as {reason}" for reason, count in made.rejected.items()) or "none refused"
    if not made.rows:
        raise InputError(f"nothing passed the gates ({refused}): lower --strength, --min_identity or --min_quality")
    out = output_folder(args)
    sources = [row["source"] for row in made.rows]
    files = [f"{i:04d}_{names[source]}" for i, source in enumerate(sources)]
    save_pictures(out / "originals", names, images)
    save_pictures(out / "pictures", files, made.pictures)
    table = []
    for file, row in zip(files, made.rows, strict=True):
        code, latent = (",".join(f"{value:.3f}" for value in numbers.tolist()) for numbers in
                        (row["step"][model.latent.noise :], row["latent"]))  # fmt: skip
        table.append([f"pictures/{file}.png", f"originals/{names[row['source']]}.png", int(row["mirrored"]),
                      f"{row['identity']:.3f}", f"{row['quality']:.3f}", code, latent])  # fmt: skip
    write_table(out / "manifest.tsv", ["file", "source", "mirrored", "identity", "quality", "code", "latent"], table)
    write_table(out / "rejected.tsv", ["reason", "pictures"], made.rejected.items())
    save_sheet(out / "sheet.png", {"Originals": x[:16], "Varied": made.pictures[:64]})
    few = f"only {len(made.rows)} of {args.count}: " if len(made.rows) < args.count else ""
    print(f"{few}{len(made.rows)} varied pictures of {len(x)}; {refused}")
    if records.attributes is None:
        print("no attributes in this data set: what varied is not read")
    else:
        reader, known = AttributeReader(faces, records.attributes[rows]), records.rows("validation")
        accuracy = reader.accuracy(to_tensor(records.images[known], model.device), records.attributes[known])
        varied = reader.varied(made.pictures, x[sources])
        write_table(out / "varied.tsv", ["attribute", "read_otherwise", "deviation", "reader_accuracy"],
                    [[name, f"{share:.3f}", f"{deviation:.3f}", f"{accuracy.get(name, math.nan):.3f}"]
                     for name, (share, deviation) in varied.items()])  # fmt: skip
        print("read otherwise than in the original: " +
              ", ".join(f"{name} {share:.0%}" for name, (share, _) in varied.items()))  # fmt: skip
        print("eye colour is not annotated in CelebA, so it is not read")
    print(f"pictures, manifest.tsv and tables in {out}")


def evaluate(args):
    """Whether it helps: classifiers from few real faces, alone, with classical augmentation, and with generated pairs.

    The few come from the training part, --seeds times others, and are tested on --part: table.tsv, results.tsv, chart.
    """
    model = prepare_reader(args)
    records, rows, faces = unlabelled_faces(args, model.device)
    if records.attributes is None:
        raise InputError(f"{args.dataset_dir} has no attributes to classify by (list_attr_celeba.txt)")
    names, counts, tested = args.attributes.split(","), [int(n) for n in args.few.split(",")], records.rows(args.part)
    for name in names:
        column = attribute_indices([name])[0]
        for part, least in ((rows, max(counts)), (tested, 1)):
            there = int((records.attributes[part][:, column] > 0).sum())
            if min(there, len(part) - there) < least:
                raise InputError(f"{name}: {there} of {len(part)} faces have it; {least} with and without are needed")
    out = output_folder(args)
    results = evaluation.evaluate(faces, records.attributes[rows], to_tensor(records.images[tested], model.device),
                                  records.attributes[tested], model.read, model.generate, model.latent.constrain,
                                  names, counts, args.seeds, progress=sys.stderr.isatty())  # fmt: skip
    summary = evaluation.summarise(results)
    for name, lines in (("results.tsv", results), ("table.tsv", summary)):
        write_table(out / name, list(lines[0]), [list(line.values()) for line in lines])
    evaluation.draw_chart(out / "chart.png", summary)
    print("\n".join(evaluation.as_text(summary)))
    print(f"table.tsv, results.tsv and chart.png in {out}")


VERBS = dict(train=train, train_predictor=train_predictor, sample=sample, recover=recover, vary=vary, augment=augment,
             evaluate=evaluate, purity=check_digits)  # fmt: skip


if __name__ == "__main__":
    main()
