"""Face Math: a DCGAN used as an encoder; arithmetic on faces, holes filled, and how a VAE compares.

After the Face Math document, DCGAN (arXiv 1511.06434) and Semantic Image Inpainting (arXiv 1607.07539).

One GPU:      python face_math/main.py --dataset_dir=data/celeba --run train
Several:      torchrun --nproc_per_node=8 face_math/main.py --dataset_dir=data/celeba
CPU:          python face_math/main.py --dataset_dir=data/celeba --run train --recipe best --width 32 --batch_size 32
Then:         python face_math/main.py --dataset_dir=data/celeba --run train_encoder (and train_filler, train_vae)
Own photos:   python face_math/main.py --dataset_name=celeba --run project --images me.jpg --recipe best
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

import cv2
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
from common.photos import InputError, name_outputs, read_image
from face_math.baselines import linear_reconstructions, training_faces
from face_math.guess import Guess
from face_math.model import SIZES, Discriminator, Encoder, Generator, draw_z
from face_math.projection import MASKS, blend, make_hole, poisson, random_holes, search
from face_math.vectors import fit_vectors

# ---------------------------------------------------------------------------------------------------------------------
# Flags

RECIPES = {  # what --recipe sets; each is a flag of its own, and a flag that is given wins
    "document": dict(kernel=5, d_batch_norm=True, g_steps=2, learning_rate=0.0002, d_rate=1.0, flip=False,
                     diff_augment=False, lambda_r1=0.0, lambda_rec=0.0, show_ema=False),
    "best": dict(kernel=4, d_batch_norm=False, g_steps=1, learning_rate=0.0005, d_rate=2.0, flip=True,
                 diff_augment=True, lambda_r1=0.1, lambda_rec=2.0, show_ema=True),
}  # fmt: skip
# What it sets for the verbs that search z, but for complete, and for those that train an encoder or a filler.
SEARCHES = {
    "document": dict(start="random", contextual="l1", optimizer="nesterov", lam=0.1, learning_rate=0.0005,
                     momentum=0.75, n_iter=2000, vectors="mean"),
    "best": dict(start="encoder", contextual="l2", optimizer="adam", lam=0.0, learning_rate=0.05, momentum=0.9,
                 n_iter=100, vectors="regression"),
}  # fmt: skip
COMPLETE = {"document": dict(learning_rate=0.01, momentum=0.9, n_iter=1000), "best": dict(start="filler")}
CODERS = dict(learning_rate=0.001, beta1=0.9, flip=True, show_ema=True, lambda_rec=20.0)
FILLER = dict(learning_rate=0.0003, d_rate=2.0, flip=True, diff_augment=True, lambda_r1=0.1, show_ema=True,
              lambda_rec=10.0)  # fmt: skip

# Flags that may differ when a run is resumed; all others shape the network, the data or the loss.
MAY_CHANGE = {"epoch", "steps", "device", "precision", "workers", "dataset_dir", "record_dir", "checkpoint_dir",
              "model_path", "sample_dir", "log_every", "sample_every", "save_every", "run", "images", "minus", "plus",
              "mask", "attributes", "strengths", "vectors", "start", "contextual", "optimizer", "lam", "momentum",
              "n_iter", "restarts", "count", "frames", "start_from", "out_dir", "overwrite"}  # fmt: skip


def parse_args(argv=None):
    """Read the command line. InputError: flags that do not go together."""
    parser = argparse.ArgumentParser(
        usage="python face_math/main.py --dataset_dir DIR [--run VERB] [flags; --help lists them]",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.error = lambda message: sys.exit(fail(message))  # one line, without the usage
    switch = dict(type=boolean, nargs="?", const=True, metavar="True|False")

    do = parser.add_argument_group("What to do")
    do.add_argument("--run", choices=VERBS, default="train", help="what to do (default: train)")
    do.add_argument("--start", choices=("random", "encoder", "filler"),
                    help="of a search (document: random, best: encoder, complete filler)")  # fmt: skip
    do.add_argument("--n_iter", type=int, help="its steps (document: 2000, complete 1000; best: 100, filler 0)")
    do.add_argument("--restarts", type=int, default=1, help="searches per picture, the best kept (default: 1)")
    do.add_argument("--contextual", choices=("l1", "l2"), help="its loss on the pixels (document: l1, best: l2)")
    do.add_argument("--lam", type=float, help="weight of its perceptual loss (document: 0.1, best: 0)")
    do.add_argument("--optimizer", choices=("nesterov", "adam"), help="of the search (document: nesterov, best: adam)")
    do.add_argument("--momentum", type=float, help="of the search (document: 0.75, complete 0.9; best: 0.9)")
    do.add_argument("--mask", default="center", help="hole: center, left, random, full, or a picture, white the hole")
    do.add_argument("--frames", type=int, default=64, help="interpolate: pictures from one z to the next (default: 64)")
    do.add_argument("--attributes", default="Smiling,Eyeglasses,Male,Blond_Hair,Turn", help="vectors to add; or Turn")
    do.add_argument("--strengths", help="how often to add a vector (default: -2,-1,0,1,2; compare: 1.5)")
    do.add_argument("--vectors", choices=("mean", "regression"), help="difference of means, or of what else is equal")
    do.add_argument("--count", type=int, default=64, help="test faces to take without --images, or faces to sample")

    model = parser.add_argument_group("Model")
    model.add_argument("--image_size", type=int, default=64, help="side of the pictures: 32, 64 or 128 (default: 64)")
    model.add_argument("--z_size", type=int, default=100, help="numbers in z (default: 100)")
    model.add_argument("--width", type=int, default=64, help="channels of the largest maps (default: 64)")
    model.add_argument("--kernel", type=int, choices=(4, 5), help="side of the convolutions (document: 5, best: 4)")
    model.add_argument("--d_batch_norm", **switch, help="in discriminator and encoder (document: True, best: False)")

    training = parser.add_argument_group("Training")
    training.add_argument("--epoch", type=int, default=25, help="passes over the training pictures (default: 25)")
    training.add_argument("--steps", type=int, default=0, help="end after so many steps whatever the epochs say")
    training.add_argument("--train_size", help="training pictures: a number, or a share such as 0.5 (default: all)")
    training.add_argument("--batch_size", type=int, default=64, help="pictures a step, over all processes")
    training.add_argument("--learning_rate", type=float, help="Adam's, or the search's (document: 0.0002, 0.0005)")
    training.add_argument("--beta1", type=float, default=0.5, help="Adam's momentum (default: 0.5)")
    training.add_argument("--d_rate", type=float, help="discriminator's rate by the generator's (best: 2)")
    training.add_argument("--g_steps", type=int, help="generator's updates a step (document: 2, best: 1)")
    training.add_argument("--flip", **switch, help="mirror half of the pictures (document: False, best: True)")
    training.add_argument("--diff_augment", **switch, help="the discriminator sees all augmented (best: True)")
    training.add_argument("--lambda_r1", type=float, help="gradient penalty on real pictures (document: 0, best: 0.1)")
    training.add_argument("--lambda_rec", type=float, help="an encoder learns along; weight of its error (best: 2)")
    training.add_argument("--lambda_kl", type=float, default=0.1, help="train_vae: of the divergence, by squared error")
    training.add_argument("--holes", type=float, default=0.5, help="train_encoder: share of faces shown with a hole")
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
    files.add_argument("--images", nargs="+", help="own pictures: files, folders, GIFs, videos; z files (.npy) as well")
    files.add_argument("--start_from", help="train: model file or checkpoint of a GAN of the same shape to start from")
    files.add_argument("--minus", nargs="+", help="arithmetic: pictures to take away from --images")
    files.add_argument("--plus", nargs="+", help="arithmetic: pictures to add")
    files.add_argument("--out_dir", help="folder for what a verb writes (default: a new one, VERB_001 ...)")
    files.add_argument("--overwrite", **switch, default=False, help="write into an --out_dir that is not empty")

    first = parser.parse_known_args(argv)[0]
    chosen = RECIPES[first.recipe] | {name: SEARCHES[first.recipe][name] for name in SEARCHES[first.recipe]
                                      if name != "learning_rate"}  # fmt: skip
    if first.run == "train_filler":
        chosen |= FILLER
    elif first.run in ("train_encoder", "train_vae"):
        chosen |= CODERS
    elif first.run != "train":
        chosen |= SEARCHES[first.recipe]
        if first.run == "complete":
            chosen |= COMPLETE[first.recipe]
            if (first.start or chosen["start"]) == "filler":
                chosen["n_iter"] = 0
    parser.set_defaults(**chosen)
    args = parser.parse_args(argv)
    check(args)
    return args


def check(args):
    """Refuse what cannot work before anything is read or written, and read the lists: InputError."""
    if args.image_size not in SIZES:
        raise InputError(f"--image_size {args.image_size}: expected one of {', '.join(map(str, SIZES))}")
    for name in ("epoch", "batch_size", "log_every", "learning_rate", "z_size", "width", "g_steps", "d_rate",
                 "restarts", "count", "lambda_kl"):  # fmt: skip
        if not getattr(args, name) > 0:
            raise InputError(f"--{name} {getattr(args, name)}: expected more than 0")
    for name in ("steps", "sample_every", "save_every", "workers", "lambda_r1", "lambda_rec", "n_iter", "lam"):
        if not getattr(args, name) >= 0:
            raise InputError(f"--{name} {getattr(args, name)}: expected 0 or more")
    for name in ("beta1", "ema", "momentum"):
        if not 0 <= getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: expected 0 or more and less than 1")
    if not 0 <= args.holes <= 1:
        raise InputError(f"--holes {args.holes}: expected a share from 0 to 1")
    if args.frames < 2:
        raise InputError(f"--frames {args.frames}: expected 2 or more")
    names = [name.strip() for name in args.attributes.split(",")]
    attribute_indices([name for name in names if name != "Turn"])
    args.attributes = ",".join(names)
    try:
        strengths = args.strengths or ("1.5" if args.run == "compare" else "-2,-1,0,1,2")
        if not all(map(math.isfinite, map(float, strengths.split(",")))):
            raise ValueError
        args.strengths = strengths
    except ValueError:
        raise InputError(f"--strengths {args.strengths}: expected numbers such as -2,-1,0,1,2") from None
    if args.dataset_name is None and args.dataset_dir is not None:
        args.dataset_name = Path(args.dataset_dir).resolve().name.removesuffix(".zip")
    if args.dataset_name is None and args.model_path.endswith(".pt"):
        args.dataset_name = Path(args.model_path).stem.removesuffix(f"_{args.image_size}")
    if args.dataset_name is None:
        raise InputError("--dataset_dir is needed: the folder (or zip) with the pictures")
    if Path(args.dataset_name).name != args.dataset_name:
        raise InputError(f"--dataset_name {args.dataset_name}: expected a plain name, without slashes")
    if args.start == "filler" and args.run != "complete":
        raise InputError("--start filler goes with --run complete: it is trained to fill holes")
    if args.run == "interpolate" and not args.images:
        raise InputError("--run interpolate needs --images: two pictures or z files, or more")
    if (args.minus or args.plus) and not (args.run == "arithmetic" and args.images):
        raise InputError("--minus and --plus go with --run arithmetic and --images, what they change")


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
    """The discriminator's: cross entropy of real and generated pictures told apart, on logits, of any shape."""
    return F.softplus(-d_real).mean() + F.softplus(d_fake).mean()


def g_loss(d_fake):
    """The generator's: -log D of what it made, on logits."""
    return F.softplus(-d_fake).mean()


def r1_penalty(discriminator, x):
    """Mean squared length of the gradient of the logit by real pictures x (Mescheder et al., arXiv 1801.04406)."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    return gradient.float().square().sum((1, 2, 3)).mean()


def prior_distance(z_hat, z, directions):
    """Sliced Wasserstein distance, squared, of encoded to drawn z (N, z_size) along directions (z_size, n).

    Kolouri et al., arXiv 1804.01947: what keeps the encoded faces spread over the whole cube that z is drawn from.
    """
    directions = F.normalize(directions, dim=0)
    return (z_hat @ directions).sort(0).values.sub((z @ directions).sort(0).values).square().mean()


def kl_divergence(mean, log_variance):
    """Of N(mean, exp(log_variance)) from N(0, 1), (N, z_size) both: (N,)."""
    return (mean.square() + log_variance.exp() - log_variance - 1).sum(1) / 2


# ---------------------------------------------------------------------------------------------------------------------
# Training

R1_EVERY = 16  # steps from gradient penalty to gradient penalty, which then counts so many times
PULL = 0.03  # of a filler's guess on the colours of what it fills a hole with


def place(args, kind, part=""):
    """Where things lie: a "checkpoint", "model" (the best so far) or "samples"; part: "", "_encoder", "_vae" ..."""
    name = f"{args.dataset_name}_{args.image_size}{part}"
    if kind == "checkpoint":
        return Path(args.checkpoint_dir) / name / "last.pt"
    if kind == "model":
        path = Path(args.model_path)
        return path.with_name(f"{path.stem}{part}.pt") if path.suffix == ".pt" else path / f"{name}.pt"
    return Path(args.sample_dir) / name


def load_records(args, device, rank):
    """The data set's faces, the square in the middle of CelebA's aligned pictures, packed once."""
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


def in_chunks(rows, size=64):
    """Slices of 64 rows."""
    return [slice(start, start + size) for start in range(0, len(rows), size)]


@torch.no_grad()
def generate(generator, z, autocast):
    """z (N, z_size) -> pictures (N, 3, S, S) in [-1, 1], in chunks, in eval mode."""
    generator.eval()
    with autocast():
        return torch.cat([generator(z[part]) for part in in_chunks(z)]).float()


@torch.no_grad()
def encode(encoder, x, autocast):
    """Pictures (N, 3, S, S) -> z (N, z_size), in chunks, in eval mode."""
    encoder.eval()
    with autocast():
        return torch.cat([encoder(x[part]) for part in in_chunks(x)]).float()


def start_from(path, parts):
    """Take the networks' weights, not the optimizers', from a GAN trained with other flags or on other faces.

    InputError: it is of another shape, or has no encoder where one is to be trained.
    """
    content = read_checkpoint(Path(path))
    for name, part in parts.items():
        if isinstance(part, torch.nn.Module):
            try:
                part.load_state_dict(content[name] if name in content else content[name.removeprefix("ema_")])
            except (KeyError, RuntimeError):
                raise InputError(f"{path} is of another shape: give the flags it was trained with") from None


def train(args):
    """Train the DCGAN, and with --lambda_rec an encoder along with it."""
    device, autocast, rank, world = setup(args)

    # Data
    records = load_records(args, device, rank)
    args.data = f"{len(records.names)} pictures {zlib.crc32(' '.join(records.names).encode()):08x}"
    rows, validation_rows = subset(records.rows("train"), args.train_size, args.seed), records.rows("validation")[:500]
    if min(len(rows), len(validation_rows) - 1) == 0:
        raise InputError(f"{len(records.names)} usable pictures are too few to train and to validate with")
    if args.batch_size % world:
        raise InputError(f"--batch_size {args.batch_size}: expected a multiple of the {world} processes")
    mine = slice(rank * args.batch_size // world, (rank + 1) * args.batch_size // world)
    epoch_steps = max(1, len(rows) // args.batch_size)
    planned = args.epoch * epoch_steps
    last = min(planned, args.steps or planned)

    # Models
    generator = Generator(args.z_size, args.image_size, args.width, args.kernel)
    discriminator = Discriminator(args.image_size, args.width, args.kernel, args.d_batch_norm)
    parts = dict(generator=generator, discriminator=discriminator)
    if args.lambda_rec:
        parts["encoder"] = encoder = Encoder(args.z_size, args.image_size, args.width, args.kernel, args.d_batch_norm)
    for part in parts.values():
        part.to(device, memory_format=torch.channels_last)
    learners = {name: part for name, part in parts.items() if name != "discriminator"}  # the generator's side
    emas = {name: copy.deepcopy(part).requires_grad_(False) for name, part in learners.items()}
    shown = emas if args.show_ema else learners
    parameters = [parameter for part in learners.values() for parameter in part.parameters()]
    g_optimizer = torch.optim.Adam(parameters, args.learning_rate, (args.beta1, 0.999), fused=True)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), args.learning_rate * args.d_rate, (args.beta1, 0.999),
                                   fused=True)  # fmt: skip
    parts |= {f"ema_{name}": ema for name, ema in emas.items()}
    parts |= dict(g_optimizer=g_optimizer, d_optimizer=d_optimizer)

    # Resume
    checkpoint, best_path, samples = (place(args, kind) for kind in ("checkpoint", "model", "samples"))
    state = load_checkpoint(checkpoint, args, parts)
    if state is None:
        if best_path.exists():
            raise InputError(f"{best_path} is there, but no checkpoint of its run: move it away or give --model_path")
        state = dict(step=0, best=math.inf, best_step=0)
        if args.start_from:
            start_from(args.start_from, parts)
    if state["step"] >= last:
        print(f"trained {state['step']} of {planned} steps already: raise --epoch or --steps to go on")
        return

    # Logs
    from torch.utils.tensorboard import SummaryWriter  # takes seconds, which the verbs below need not wait for

    if rank == 0:
        count = sum(p.numel() for p in parameters + list(discriminator.parameters()))
        print(f"{len(rows)} training and {len(validation_rows)} validation faces, {count:,} parameters, {planned} "
              f"steps of {args.batch_size}, {device}")  # fmt: skip
        print(f"watch it: tensorboard --logdir {samples / 'logs'}")
    writer = SummaryWriter(samples / "logs", purge_step=state["step"] + 1) if rank == 0 else None
    bar = tqdm(total=last * args.batch_size, initial=state["step"] * args.batch_size, unit="img", unit_scale=True,
               disable=rank > 0, mininterval=1 if sys.stderr.isatty() else 30)  # fmt: skip
    x_real = to_tensor(records.images[validation_rows], device)  # what the generated faces are measured against
    z_fixed = draw_z(len(x_real), args.z_size, torch.Generator().manual_seed(args.seed)).to(device)
    sums, bad_step, logged = torch.zeros(4, device=device), torch.zeros((), device=device), state["step"]
    zero = torch.zeros((), device=device)
    stream = batches(records, rows, args.batch_size, device, args.seed, state["step"], rank, world, args.flip)
    stop_requested = listen_for_stop()

    for step in range(state["step"] + 1, last + 1):
        x, _ = next(stream)
        generator.train()
        # Every process draws the whole batch's numbers and takes its slice.
        z = draw_z(args.batch_size, args.z_size)[mine].to(device)
        numbers = torch.rand(2, 7, args.batch_size)[:, :, mine] if args.diff_augment else (None, None)
        directions = torch.randn(args.z_size, 128).to(device) if args.lambda_rec else None

        def judge(x, numbers):
            return discriminator(diff_augment(x, numbers) if args.diff_augment else x).float()  # noqa: B023

        def make():
            """The generated faces and, with an encoder, the real ones' codes and their pictures; one batch for both."""
            z_hat = encoder(x) if args.lambda_rec else z[:0]  # noqa: B023
            x_fake, x_hat = generator(torch.cat([z, z_hat])).split([len(z), len(z_hat)])  # noqa: B023
            return x_fake, z_hat.float(), x_hat.float()

        # Discriminator: tell real from generated
        with autocast():
            x_fake, z_hat, x_hat = make()
            discriminator.requires_grad_(True)
            loss_d = d_loss(judge(x, numbers[0]), judge(x_fake.detach().float(), numbers[1]))
        total = loss_d
        if args.lambda_r1 and step % R1_EVERY == 0:
            total = total + args.lambda_r1 / 2 * R1_EVERY * r1_penalty(lambda x: judge(x, numbers[0]), x)  # noqa: B023
        d_optimizer.zero_grad()
        total.backward()
        average_gradients(discriminator)
        d_optimizer.step()

        # Generator: pass for real; with an encoder also: repeat the real face, and give the code back
        discriminator.requires_grad_(False)
        for update in range(args.g_steps):
            with autocast():
                if update:
                    x_fake, z_hat, x_hat = make()
                loss_g, loss_rec, loss_z = g_loss(judge(x_fake.float(), numbers[1])), zero, zero
                if args.lambda_rec:
                    loss_rec = F.mse_loss(x_hat, x)
                    loss_z = F.mse_loss(encoder(x_fake.detach()).float(), z) + prior_distance(z_hat, z, directions)
            g_optimizer.zero_grad()
            (loss_g + args.lambda_rec * loss_rec + loss_z).backward()
            for part in learners.values():
                average_gradients(part)
            g_optimizer.step()
        for name, ema in emas.items():
            update_ema(ema, learners[name], args.ema, step)
        sums += torch.stack([loss_d, loss_g, loss_rec, loss_z]).detach()
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
            means = dict(zip(("d", "g", "rec", "z"), means.tolist(), strict=True))
            bar.set_postfix({name: f"{mean:.3f}" for name, mean in means.items() if mean})
            if writer:
                for name, mean in means.items():
                    writer.add_scalar(f"loss/{name}", mean, step)
        better = False
        if due and rank == 0:
            x_fake = generate(shown["generator"], z_fixed, autocast)
            spread, distance = diversity(x_fake, x_real), sliced_wasserstein(x_fake, x_real)
            better = distance < state["best"]
            if better:
                state |= dict(best=distance, best_step=step)
            if spread < 0.5:
                bar.write(f"step {step}: diversity {spread:.2f}: the generated faces are nearly all the same")
            writer.add_scalar("diversity", spread, step)
            writer.add_scalar("sliced_wasserstein", distance, step)
            sheet = {f"step {step}, diversity {spread:.2f}, distance {distance:.3f}": x_fake[:64]}
            if args.lambda_rec:
                codes = encode(shown["encoder"], x_real, autocast)
                x_hat = generate(shown["generator"], codes, autocast)
                writer.add_scalar("validation/rec", F.mse_loss(x_hat, x_real).item(), step)
                sheet |= {"Real": x_real[:16], "Reconstructed": x_hat[:16]}
            sheet = save_sheet(samples / f"{step:07d}.png", sheet)
            writer.add_image("images/samples", sheet, step, dataformats="HWC")
        if rank == 0 and (save or better):  # the checkpoint first: no model without one
            save_checkpoint(checkpoint, args, parts, **state | {"step": step})
        if better:
            save_checkpoint(best_path, args, shown | {"discriminator": discriminator}, step=step, distance=distance)
        if stop:
            break
    bar.close()
    if writer:
        writer.close()
        print(f"trained {step} of {planned} steps; lowest distance {state['best']:.4f} at step {state['best_step']}")
        print(f"model {best_path}, sheets {samples}")


def train_coder(args):
    """Train an encoder: for `train_encoder` to invert the GAN's generator, for `train_vae` along with a new one.

    The inverse encoder learns from generated faces (give z back) and from real ones (the generator, which is left as it
    is, has to repeat them), some of them with a hole, so that it can also start the search that fills one.

    `train_filler` goes on from all three networks of the GAN, for the sake of holes alone: encoder and generator see a
    face whose hole holds a linear guess, and what they fill it with is to be near the truth, and such that the
    discriminator takes the completed face for a real one.
    """
    device, autocast, rank, world = setup(args)
    vae, filler = (args.run == name for name in ("train_vae", "train_filler"))
    gan = None if vae else load_model(args, device, autocast)

    # Data
    records = load_records(args, device, rank)
    args.data = f"{len(records.names)} pictures {zlib.crc32(' '.join(records.names).encode()):08x}"
    rows, validation_rows = subset(records.rows("train"), args.train_size, args.seed), records.rows("validation")[:500]
    if min(len(rows), len(validation_rows)) == 0:
        raise InputError(f"{len(records.names)} usable pictures are too few to train and to validate with")
    if args.batch_size % world:
        raise InputError(f"--batch_size {args.batch_size}: expected a multiple of the {world} processes")
    mine = slice(rank * args.batch_size // world, (rank + 1) * args.batch_size // world)
    epoch_steps = max(1, len(rows) // args.batch_size)
    planned = args.epoch * epoch_steps
    last = min(planned, args.steps or planned)

    # Models
    if vae:
        generator = Generator(args.z_size, args.image_size, args.width, args.kernel)
        encoder = Discriminator(args.image_size, args.width, args.kernel, args.d_batch_norm, 2 * args.z_size)
        parts = dict(encoder=encoder, generator=generator)
    else:
        args.width, args.kernel, args.d_batch_norm = gan.saved.width, gan.saved.kernel, gan.saved.d_batch_norm
        args.inverts = gan.version
        generator, encoder = gan.generator, (gan.encoder if filler else gan.joint_encoder) or \
            Encoder(args.z_size, args.image_size, args.width, args.kernel, args.d_batch_norm)  # fmt: skip
        parts = dict(encoder=encoder.requires_grad_(True))
        if filler:
            parts["generator"] = generator.requires_grad_(True)
    for part in (generator, encoder):
        part.to(device, memory_format=torch.channels_last)
    learners = dict(parts)
    emas = {name: copy.deepcopy(part).requires_grad_(False) for name, part in learners.items()}
    shown = emas if args.show_ema else learners
    parameters = [parameter for part in learners.values() for parameter in part.parameters()]
    optimizer = torch.optim.Adam(parameters, args.learning_rate, (args.beta1, 0.999), fused=True)
    decode = partial(generate, shown["generator"] if vae else generator, autocast=autocast)
    parts |= {f"ema_{name}": ema for name, ema in emas.items()} | dict(optimizer=optimizer)
    if filler:
        parts["discriminator"] = discriminator = gan.discriminator.requires_grad_(True).train()
        parts["d_optimizer"] = d_optimizer = torch.optim.Adam(
            discriminator.parameters(), args.learning_rate * args.d_rate, (args.beta1, 0.999), fused=True)  # fmt: skip
        parts["guess"] = guess = Guess(args.image_size, min(300, len(rows) - 1)).to(device)

    # Resume
    checkpoint, best_path, samples = (place(args, kind, args.run.removeprefix("train"))
                                      for kind in ("checkpoint", "model", "samples"))  # fmt: skip
    state = load_checkpoint(checkpoint, args, parts)
    if state is None:
        if best_path.exists():
            raise InputError(f"{best_path} is there, but no checkpoint of its run: move it away or give --model_path")
        state = dict(step=0, best=math.inf, best_step=0)
        if filler:
            guess.fit(training_faces(records, rows))
    if state["step"] >= last:
        print(f"trained {state['step']} of {planned} steps already: raise --epoch or --steps to go on")
        return

    # Logs
    from torch.utils.tensorboard import SummaryWriter  # takes seconds, which the verbs below need not wait for

    if rank == 0:
        count = sum(p.numel() for p in parameters)
        print(f"{len(rows)} training and {len(validation_rows)} validation faces, {count:,} parameters, {planned} "
              f"steps of {args.batch_size}, {device}")  # fmt: skip
        print(f"watch it: tensorboard --logdir {samples / 'logs'}")
    writer = SummaryWriter(samples / "logs", purge_step=state["step"] + 1) if rank == 0 else None
    bar = tqdm(total=last * args.batch_size, initial=state["step"] * args.batch_size, unit="img", unit_scale=True,
               disable=rank > 0, mininterval=1 if sys.stderr.isatty() else 30)  # fmt: skip
    x_real = to_tensor(records.images[validation_rows], device)
    z_fixed = torch.randn(64, args.z_size, generator=torch.Generator().manual_seed(args.seed)).to(device)
    center = make_hole("center", args.image_size).to(device)
    names = ("rec", "kl") if vae else ("rec", "g", "d") if filler else ("rec", "z")
    sums, bad_step, logged = torch.zeros(len(names), device=device), torch.zeros((), device=device), state["step"]
    stream = batches(records, rows, args.batch_size, device, args.seed, state["step"], rank, world, args.flip)
    stop_requested = listen_for_stop()

    for step in range(state["step"] + 1, last + 1):
        x, _ = next(stream)
        encoder.train()
        if vae:  # Encoder and generator: the face again, at little divergence from N(0, 1)
            generator.train()
            noise = torch.randn(args.batch_size, args.z_size)[mine].to(device)
            with autocast():
                mean, log_variance = encoder(x).float().chunk(2, 1)
                x_hat = generator(mean + noise * (log_variance / 2).exp()).float()
            loss_rec, loss_z = F.mse_loss(x_hat, x), kl_divergence(mean, log_variance).mean()
            loss, losses = loss_rec + args.lambda_kl * loss_z / x[0].numel(), [loss_rec, loss_z]
        elif filler:
            generator.eval()  # keeps the batch norm that it was trained with
            hole = random_holes(1, args.image_size)[0, 0].to(device) == 0  # one for all of the step's faces
            hole = hole if step % 2 and hole.any() else center
            numbers = torch.rand(2, 7, args.batch_size)[:, :, mine]
            numbers[:, 5:] = 2  # diff_augment's own hole lies outside the picture: this is about what fills the other

            def judge(x, numbers):
                return discriminator(diff_augment(x, numbers) if args.diff_augment else x).float()  # noqa: B023

            guessed = guess(x, hole)
            with autocast():
                face = generator(encoder(guessed)).float()
            completed = poisson(face, x, hole, guessed, PULL)

            # Discriminator: tell real from completed
            with autocast():
                discriminator.requires_grad_(True)
                loss_d = d_loss(judge(x, numbers[0]), judge(completed.detach(), numbers[1]))
            total = loss_d
            if args.lambda_r1 and step % R1_EVERY == 0:
                penalty = r1_penalty(lambda x: judge(x, numbers[0]), x)  # noqa: B023
                total = total + args.lambda_r1 / 2 * R1_EVERY * penalty
            d_optimizer.zero_grad()
            total.backward()
            average_gradients(discriminator)
            d_optimizer.step()

            # Encoder and generator: pass for real, near what the hole hides, and a face of its surround
            discriminator.requires_grad_(False)
            with autocast():
                loss_g = g_loss(judge(completed, numbers[1]))
            loss_rec = F.mse_loss(completed[..., hole], x[..., hole])
            loss = loss_g + args.lambda_rec * (loss_rec + 0.2 * F.mse_loss(face, x))
            losses = [loss_rec, loss_g, loss_d]
        else:  # Encoder: the z of a generated face, and one that gives the real face, hole or not
            z = draw_z(args.batch_size, args.z_size)[mine].to(device)
            known = random_holes(args.batch_size, args.image_size)
            known[torch.rand(args.batch_size) >= args.holes] = 1
            with autocast():
                x_fake = generate(generator, z, autocast)
                z_hat = encoder(torch.cat([x * known[mine].to(device), x_fake])).float()
                x_hat = generator(z_hat[: len(x)]).float()
            loss_rec, loss_z = F.mse_loss(x_hat, x), F.mse_loss(z_hat[len(x) :], z)
            loss, losses = args.lambda_rec * loss_rec + loss_z, [loss_rec, loss_z]
        optimizer.zero_grad()
        loss.backward()
        for part in learners.values():
            average_gradients(part)
        optimizer.step()
        for name, ema in emas.items():
            update_ema(ema, learners[name], args.ema, step)
        sums += torch.stack(losses).detach()
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
            means = dict(zip(names, means.tolist(), strict=True))
            bar.set_postfix({name: f"{mean:.4g}" for name, mean in means.items()})
            if writer:
                for name, mean in means.items():
                    writer.add_scalar(f"loss/{name}", mean, step)
        better = False
        if due and rank == 0:
            code = partial(encode, shown["encoder"], autocast=autocast)
            sheet = {"Real": x_real[:32]}
            if filler:
                guessed = guess(x_real, center)
                x_hat = poisson(decode(code(guessed)), x_real, center, guessed, PULL).clamp(-1, 1)
                error = F.mse_loss(x_hat[..., center], x_real[..., center]).item()
                square = [part[..., center].unflatten(-1, (args.image_size // 2,) * 2) for part in (x_hat, x_real)]
                distance = sliced_wasserstein(*square)
                writer.add_scalar("sliced_wasserstein", distance, step)
                sheet |= {"Guessed": guessed[:32], f"Filled, {psnr(error):.1f} dB": x_hat[:32]}
            else:
                x_hat = decode(code(x_real)[:, : args.z_size])
                distance = error = F.mse_loss(x_hat, x_real).item()
                sheet[f"Reconstructed, {psnr(error):.1f} dB"] = x_hat[:32]
            if vae:
                sheet["Drawn"] = decode(z_fixed)
            elif not filler:
                sheet["With a hole"] = x_real[:32] * ~center
                sheet["Filled"] = decode(code(sheet["With a hole"]))
            better = distance < state["best"]
            if better:
                state |= dict(best=distance, best_step=step)
            writer.add_scalar("validation/rec", error, step)
            sheet = save_sheet(samples / f"{step:07d}.png", sheet)
            writer.add_image("images/samples", sheet, step, dataformats="HWC")
        if rank == 0 and (save or better):  # the checkpoint first: no model without one
            save_checkpoint(checkpoint, args, parts, **state | {"step": step})
        if better:
            used = shown | {"guess": guess} if filler else shown
            save_checkpoint(best_path, args, used, step=step, mse=error, distance=distance)
        if stop:
            break
    bar.close()
    if writer:
        writer.close()
        best = f"lowest distance {state['best']:.4f}" if filler else \
            f"best validation MSE {state['best']:.4f} in [-1, 1] ({psnr(state['best']):.2f} dB)"  # fmt: skip
        print(f"trained {step} of {planned} steps; {best} at step {state['best_step']}")
        print(f"model {best_path}, sheets {samples}")


# ---------------------------------------------------------------------------------------------------------------------
# Using the model


def psnr(mse):
    """Decibels of a mean squared error of pictures in [-1, 1]."""
    return 10 * math.log10(4 / mse) if mse else math.inf


def load_part(args, part=""):
    """The file of the best model so far, else the last checkpoint: its path, content and flags; None where none is.

    InputError: it is not of this size.
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
    for name in ("image_size", "z_size"):
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


def load_model(args, device, autocast):
    """The GAN: generator, discriminator, encoder (None without one), joint_encoder (its own), and its version."""
    path, content, saved = load_part(args)
    shape = saved.image_size, saved.width, saved.kernel
    model = argparse.Namespace(device=device, autocast=autocast, saved=saved, joint_encoder=None, guess=None)
    model.generator = fill(Generator(args.z_size, *shape), content, "generator", path, device)
    model.discriminator = fill(Discriminator(*shape, saved.d_batch_norm), content, "discriminator", path, device)
    model.version = f"{zlib.crc32(model.generator.fc.weight.cpu().numpy().tobytes()):08x}"
    if "encoder" in content:
        model.joint_encoder = fill(Encoder(args.z_size, *shape, saved.d_batch_norm), content, "encoder", path, device)
    model.encoder = model.joint_encoder
    print(f"model {path}: step {content['state']['step']}, {saved.recipe} recipe")
    path, content, saved = load_part(args, "_encoder")
    if content and saved.inverts != model.version:
        print(f"encoder {path} inverts another generator, so it is not used: --run train_encoder again")
    elif content and args.run != "train_encoder":
        model.encoder = fill(Encoder(args.z_size, *shape, saved.d_batch_norm), content, "encoder", path, device)
        print(f"encoder {path}: step {content['state']['step']}")
    return model


def prepare(args):
    """Set up, and load the GAN; with --start filler, the filler's generator and encoder instead, and its guess.

    InputError: the search is to start from an encoder or filler and there is none.
    """
    device, autocast, *_ = setup(args)
    model = load_model(args, device, autocast)
    if args.start == "encoder" and model.encoder is None:
        raise InputError("no encoder to start the search from: --run train_encoder first, or --start random")
    if args.start == "filler":
        path, content, saved = load_part(args, "_filler")
        if content is None:
            raise InputError("no filler to fill a hole: --run train_filler first, or --start encoder")
        if getattr(saved, "inverts", None) != model.version:
            raise InputError(f"filler {path} was trained from another generator: --run train_filler again, elsewhere")
        shape = saved.image_size, saved.width, saved.kernel
        model.generator = fill(Generator(args.z_size, *shape), content, "generator", path, device)
        model.encoder = fill(Encoder(args.z_size, *shape, saved.d_batch_norm), content, "encoder", path, device)
        model.guess = fill(Guess(args.image_size, len(content["guess"]["axes"])), content, "guess", path, device)
        print(f"filler {path}: step {content['state']['step']}")
    return model


def load_pictures(args, device, paths=None):
    """Photos, or without any the first --count test faces: images (N, S, S, 3) uint8 and their names, which differ."""
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


def find_z(args, model, x, hole=None, watch=None):
    """The z of pictures (N, 3, S, S), and its lowest loss at every step (n_iter + 1, N).

    By --restarts searches of which the best is kept for each picture: the first from --start, others from other random
    z, or from near the encoder's. hole: (S, S) bool, what not to look at; a filler's encoder sees its guess there.
    """
    known = torch.ones(x.shape[2:], device=x.device) if hole is None or hole.all() else 1 - hole.to(x.device).float()
    random = torch.Generator().manual_seed(args.seed)
    how = dict(n_iter=args.n_iter, learning_rate=args.learning_rate, momentum=args.momentum, lam=args.lam,
               contextual=args.contextual, optimizer=args.optimizer)  # fmt: skip
    if args.start != "random":
        guessed = guess_hole(model, x, hole) if args.start == "filler" else x * known
        first = encode(model.encoder, guessed, model.autocast)
    best = None
    for restart in range(args.restarts):
        start = draw_z(len(x), args.z_size, random).to(x.device)
        if args.start != "random":
            start = (first + 0.3 * start * (restart > 0)).clamp(-1, 1)
        found = [search(model.generator, model.discriminator, x[part], start[part], known, **how,
                        watch=watch if restart == 0 and part.start == 0 else None)
                 for part in in_chunks(x)]  # fmt: skip
        z, losses = torch.cat([z for z, _ in found]), torch.cat([losses for _, losses in found], 1)
        if best is not None:
            better = losses[-1] < best[1][-1]
            z, losses = torch.where(better[:, None], z, best[0]), torch.where(better, losses, best[1])
        best = z, losses
    return best


def embed(args, model, paths):
    """z (N, z_size) of pictures and z files, in their order, and a name for each.

    InputError: a z file that cannot be read, or has another size, or numbers that are none or beyond [-1, 1].
    """
    codes, names = [], []
    for path in paths:
        if Path(path).suffix == ".npy":
            try:
                z = np.atleast_2d(np.load(path, allow_pickle=False)).astype(np.float32)
            except (OSError, ValueError, EOFError, TypeError) as error:
                raise InputError(f"{path} is no z file: {error}") from None
            if z.ndim != 2 or z.shape[1] != args.z_size or len(z) == 0:
                raise InputError(f"{path} has shape {z.shape}: expected (N, {args.z_size})")
            if not (np.abs(z) <= 1.0001).all():
                raise InputError(f"{path}: expected numbers from -1 to 1")
            codes.append(torch.from_numpy(z).to(model.device))
            names += [f"{Path(path).stem}_{i}" for i in range(len(z))]
    photos = [path for path in paths if Path(path).suffix != ".npy"]
    if photos and len(photos) == len(paths):
        images, names = load_pictures(args, model.device, photos)
        codes = [find_z(args, model, to_tensor(images, model.device))[0]]
    elif photos:  # some of each: one by one, to keep their order
        found = [embed(args, model, [path]) for path in paths]
        codes, names = [z for z, _ in found], [name for _, more in found for name in more]
    return torch.cat(codes), [stem.replace("/", "_") for stem in name_outputs([f"{name}.png" for name in names])]


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
    """Faces of --count random z: single pictures, z.npy, a sheet."""
    device, autocast, *_ = setup(args)
    model = load_model(args, device, autocast)
    out = output_folder(args)
    z = draw_z(args.count, args.z_size, torch.Generator().manual_seed(args.seed)).to(device)
    x_fake = generate(model.generator, z, autocast)
    save_pictures(out / "faces", [f"{i:06d}" for i in range(args.count)], x_fake)
    np.save(out / "z.npy", z.cpu().numpy())
    save_sheet(out / "sheet.png", {"": x_fake[:64]})
    print(f"{args.count} faces, z.npy and sheet.png in {out}")


def project(args):
    """The z of photos or test faces: originals, projections every few steps, z files, the average, a manifest."""
    model = prepare(args)
    images, names = load_pictures(args, model.device, args.images)
    out = output_folder(args)
    x = to_tensor(images, model.device)
    every, steps = args.sample_every or max(1, args.n_iter // 10), {}

    def watch(step, z):
        if step % every == 0 or step == args.n_iter:
            steps[step] = z

    began = time.perf_counter()
    z, losses = find_z(args, model, x, watch=watch)
    seconds = (time.perf_counter() - began) / len(x)
    x_hat = generate(model.generator, z, model.autocast)
    errors = (x_hat - x).square().mean((1, 2, 3)).tolist()
    save_pictures(out / "originals", names, images)
    save_pictures(out / "projections", names, x_hat)
    (out / "z").mkdir(exist_ok=True)
    for name, code in zip(names, z.cpu().numpy(), strict=True):
        np.save(out / "z" / f"{name}.npy", code)
    np.save(out / "z.npy", z.cpu().numpy())
    for step, kept in steps.items():  # of the first 64 pictures' first search
        save_sheet(out / "steps" / f"{step:07d}.png", {f"step {step}": generate(model.generator, kept, model.autocast)})
    mean = z.mean(0, keepdim=True)
    np.save(out / "average.npy", mean.cpu().numpy())
    save_pictures(out, ["average"], generate(model.generator, mean, model.autocast))
    save_sheet(out / "sheet.png", {"Originals": x[:64], "Projections": x_hat[:64]})
    write_table(out / "manifest.tsv", ["file", "source"],
                [[f"projections/{name}.png", f"originals/{name}.png"] for name in names])  # fmt: skip
    shown = sorted({*range(0, args.n_iter + 1, every), args.n_iter})
    write_table(out / "losses.tsv", ["file", *shown],
                [[name, *(f"{loss:.6g}" for loss in losses[shown, i].tolist())] for i, name in enumerate(names)])
    write_table(out / "results.tsv", ["file", "mse", "psnr"],
                [[name, f"{e:.6g}", f"{psnr(e):.3f}"] for name, e in zip(names, errors, strict=True)])  # fmt: skip
    print(f"{len(x)} faces, {args.n_iter} steps, {seconds:.3f} seconds a face, MSE {np.mean(errors) / 4:.5f} in "
          f"[0, 1], {psnr(np.mean(errors)):.2f} dB: {out}")  # fmt: skip


def read_hole(args):
    """The hole (S, S) bool that --mask names, or shows in white. InputError: a picture of another size, or no hole."""
    size = args.image_size
    if args.mask in MASKS:
        return make_hole(args.mask, size, torch.Generator().manual_seed(args.seed))
    if not Path(args.mask).is_file():
        raise InputError(f"--mask {args.mask}: expected {', '.join(MASKS)}, or a picture with the hole in white")
    picture = read_image(args.mask)
    if picture.shape[:2] != (size, size):
        raise InputError(f"--mask {args.mask} is {picture.shape[1]} x {picture.shape[0]}: expected {size} x {size}")
    hole = torch.from_numpy(picture.mean(2) > 127)
    if not hole.any() or hole.all():
        raise InputError(f"--mask {args.mask} is all {'white' if hole.any() else 'black'}: expected the hole in white, "
                         "the rest black")  # fmt: skip
    return hole


def guess_hole(model, x, hole):
    """Pictures x (N, 3, S, S) with the filler's guess in the hole (S, S); with all of it known, or no filler, x."""
    return model.guess(x, hole.to(x.device)) if model.guess and not hole.all() else x


def fill_hole(args, model, images, hole):
    """Images (N, S, S, 3) uint8 -> z, and what the hole (S, S) is filled with: name -> pictures like images.

    "filled" is the generator's face as it is; "blended" fits its colours to the surround, and to a filler's guess.
    """
    x = to_tensor(images, model.device)
    z, _ = find_z(args, model, x, hole)
    faces, inside = to_uint8(generate(model.generator, z, model.autocast)), hole.numpy()
    guessed = to_uint8(guess_hole(model, x, hole))
    return z, {"filled": np.where(inside[:, :, None], faces, images),
               "blended": blend(faces, np.array(images), inside, guessed, PULL if model.guess else 0)}  # fmt: skip


def complete(args):
    """Fill a hole of photos or test faces with what the generator makes of the rest: masked, filled, blended."""
    hole = read_hole(args)
    model = prepare(args)
    images, names = load_pictures(args, model.device, args.images)
    out = output_folder(args)
    began = time.perf_counter()
    z, made = fill_hole(args, model, images, hole)
    seconds = (time.perf_counter() - began) / len(images)
    inside = hole.numpy()
    made = {"masked": images * ~inside[:, :, None]} | made
    for name, pictures in (made | {"originals": images}).items():
        save_pictures(out / name, names, pictures)
    np.save(out / "z.npy", z.cpu().numpy())
    for name in ("filled", "blended"):
        write_table(out / f"{name}.tsv", ["file", "source"],
                    [[f"{name}/{stem}.png", f"originals/{stem}.png"] for stem in names])  # fmt: skip
    save_sheet(out / "sheet.png", {name.capitalize(): to_tensor(pictures[:32]) for name, pictures in made.items()}
               | {"Originals": to_tensor(images[:32])})  # fmt: skip
    results = {name: made[name] for name in ("filled", "blended")}
    if not inside.all():
        mask = inside.astype(np.uint8)
        results["telea"] = np.stack([cv2.inpaint(picture, mask, 3, cv2.INPAINT_TELEA) for picture in np.array(images)])
    errors = {name: hole_error(pictures, images, inside) for name, pictures in results.items()}
    write_table(out / "results.tsv", ["file", *(f"{name}_psnr" for name in errors)],
                [[name, *(f"{psnr(error[i]):.3f}" for error in errors.values())] for i, name in enumerate(names)])
    table = ", ".join(f"{name} {psnr(mean.mean()):.2f} dB" for name, mean in errors.items())
    print(f"{len(images)} faces, {seconds:.3f} seconds a face; in the hole: {table}: {out}")


def hole_error(pictures, images, inside):
    """Mean squared error (N,) in [-1, 1] of uint8 pictures (N, S, S, 3) to images, in the hole alone."""
    return ((pictures[:, inside].astype(np.float64) - images[:, inside]) / 127.5).__pow__(2).mean((1, 2))


def interpolate(args):
    """From photo to photo, or z file to z file: --frames pictures on a straight line, a GIF and a video."""
    model = prepare(args)
    z, names = embed(args, model, args.images)
    if len(z) < 2:
        raise InputError(f"--run interpolate needs two faces at least; there is one: {names[0]}")
    out = output_folder(args)
    share = torch.linspace(0, 1, args.frames, device=z.device)[:, None]
    lines = [torch.lerp(a, b, share) for a, b in zip(z, z[1:], strict=False)]
    pictures = [to_uint8(generate(model.generator, line, model.autocast)) for line in lines]
    rows = []
    for number, line in enumerate(pictures):
        save_pictures(out, [f"{number:03d}_{frame:04d}" for frame in range(args.frames)], line)
        rows += [[f"{number:03d}_{frame:04d}.png", number] for frame in range(args.frames)]
    write_table(out / "manifest.tsv", ["file", "path"], rows)
    np.save(out / "z.npy", torch.cat(lines).cpu().numpy())
    write_film(out / "interpolation", np.concatenate(pictures))
    save_sheet(out / "sheet.png", {f"{a} to {b}": to_tensor(line[:: max(1, args.frames // 16)][:16])
               for a, b, line in zip(names, names[1:], pictures, strict=False)})  # fmt: skip
    print(f"{len(rows)} pictures, interpolation.gif and interpolation.mp4 in {out}")


def write_film(path, pictures, rate=16):
    """Pictures (N, S, S, 3) uint8 as path.gif and path.mp4, enlarged to 256 pixels in the video."""
    stills = [Image.fromarray(picture) for picture in pictures]
    stills[0].save(path.with_suffix(".gif"), save_all=True, append_images=stills[1:], duration=1000 // rate, loop=0)
    side = max(256, pictures.shape[1])
    video = cv2.VideoWriter(str(path.with_suffix(".mp4")), cv2.VideoWriter_fourcc(*"mp4v"), rate, (side, side))
    for picture in pictures:
        video.write(cv2.cvtColor(cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC), cv2.COLOR_RGB2BGR))
    video.release()


def average(args):
    """The mean face of many pictures, of one person or kind: their mean z, decoded."""
    model = prepare(args)
    if args.images:
        z, names = embed(args, model, args.images)
    else:
        images, names = load_pictures(args, model.device)
        z = find_z(args, model, to_tensor(images, model.device))[0]
    out = output_folder(args)
    mean = z.mean(0, keepdim=True)
    picture = generate(model.generator, mean, model.autocast)
    save_pictures(out, ["average"], picture)
    np.save(out / "average.npy", mean.cpu().numpy())
    np.save(out / "z.npy", z.cpu().numpy())
    sheet = {"Projections": generate(model.generator, z[:64], model.autocast), "Average": picture}
    save_sheet(out / "sheet.png", sheet)
    print(f"the average of {len(z)} faces, {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}: {out}")


def arithmetic(args):
    """a - b + c with --images, --minus and --plus; else attribute vectors added to --images or test faces."""
    model = prepare(args)
    vectors = None if args.minus or args.plus else attribute_vectors(args, model)
    sets = {}
    for name in ("images", "minus", "plus"):
        if getattr(args, name):
            sets[name] = embed(args, model, getattr(args, name))
    if not sets:
        images, names = load_pictures(args, model.device)
        sets["images"] = find_z(args, model, to_tensor(images, model.device))[0], names
    out, (z, names) = output_folder(args), sets["images"]
    if vectors is None:
        means = {name: z.mean(0, keepdim=True) for name, (z, _) in sets.items()}
        result = (means["images"] - means.get("minus", 0) + means.get("plus", 0)).clamp(-1, 1)
        picture = generate(model.generator, result, model.autocast)
        save_pictures(out, ["result"], picture)
        np.save(out / "result.npy", result.cpu().numpy())
        save_sheet(out / "sheet.png", {name.capitalize(): generate(model.generator, z[:16], model.autocast)
                   for name, (z, _) in sets.items()} | {"Result": picture})  # fmt: skip
        print(f"result.png, result.npy and sheet.png in {out}")
        return
    strengths, rows, sheet = [float(strength) for strength in args.strengths.split(",")], [], {}
    save_pictures(out / "projections", names, generate(model.generator, z, model.autocast))
    for attribute, vector in vectors.items():
        edited = torch.stack([(z + strength * vector).clamp(-1, 1) for strength in strengths], 1)  # (N, strengths, z)
        pictures = generate(model.generator, edited.flatten(0, 1), model.autocast).unflatten(0, edited.shape[:2])
        for i, strength in enumerate(strengths):
            files = [f"{attribute}/{name}_{strength:+.2f}" for name in names]
            (out / attribute).mkdir(exist_ok=True)
            save_pictures(out, files, pictures[:, i])
            request = f"{attribute}={int(strength > 0)}" if strength and attribute != "Turn" else ""
            rows += [[f"{file}.png", f"projections/{name}.png", request]
                     for file, name in zip(files, names, strict=True)]  # fmt: skip
        shown = max(1, 16 // len(strengths))  # faces in a line of the sheet
        sheet[f"{attribute}, {', '.join(f'{strength:+g}' for strength in strengths)}"] = \
            pictures[: 4 * shown].flatten(0, 1)  # fmt: skip
    write_table(out / "manifest.tsv", ["file", "source", "request"], rows)
    save_sheet(out / "sheet.png", sheet, columns=len(strengths) * shown)
    print(f"{len(rows)} pictures and sheet.png in {out}")


def attribute_vectors(args, model):
    """Attribute name -> vector (z_size,), as `fit_vectors` finds them, kept beside the model for later.

    InputError: no labels, or no encoder.
    """
    path, names = place(args, "model", "_vectors"), args.attributes.split(",")
    kept = read_checkpoint(path)["state"] if path.exists() else {}
    if kept.get("inverts") != model.version or kept.get("kind") != args.vectors or not set(names) <= set(kept["names"]):
        if args.dataset_dir is None:
            raise InputError(f"{path} does not hold these vectors yet: give --dataset_dir, with labels, once")
        if model.encoder is None:
            raise InputError("attribute vectors need the training faces' z: --run train_encoder first")
        records = load_records(args, model.device, 0)
        vectors = labelled_vectors(args, records, partial(encode, model.encoder, autocast=model.autocast), model.device)
        kept = dict(inverts=model.version, kind=args.vectors, names=names, vectors=torch.stack([*vectors.values()]))
        save_checkpoint(path, args, {}, **kept)
    return {name: kept["vectors"][kept["names"].index(name)].to(model.device) for name in names}


def labelled_vectors(args, records, to_z, device):
    """The vectors of --attributes from the training faces, for any encoder: to_z takes pictures (N, 3, S, S) to z."""
    rows = subset(records.rows("train"), args.train_size, args.seed)
    z = torch.cat([to_z(to_tensor(records.images[rows[part]], device)) for part in in_chunks(rows)])
    return fit_vectors(records, rows, z.cpu(), args.attributes.split(","), args.vectors)


def compare(args):
    """The document's questions in numbers: GAN projection, GAN with an inverse encoder, VAE; beside mean face and PCA.

    For each, on the test faces or --images: reconstructions, edits at the last of --strengths, interpolations, and a
    manifest of each for benchmarks/quality.py; one table (table.tsv) and one picture (sheet.png).
    """
    args.start = "encoder"
    model = prepare(args)
    path, content, saved = load_part(args, "_vae")
    if content is None:
        raise InputError("no VAE to compare with: --run train_vae first")
    shape = saved.image_size, saved.width, saved.kernel
    vae_generator = fill(Generator(args.z_size, *shape), content, "generator", path, model.device)
    vae_encoder = Discriminator(*shape, saved.d_batch_norm, 2 * args.z_size)
    fill(vae_encoder, content, "encoder", path, model.device)
    records = load_records(args, model.device, 0)
    images, names = load_pictures(args, model.device, args.images)
    out = output_folder(args)
    x = to_tensor(images, model.device)
    save_pictures(out / "originals", names, images)

    def vae_code(x):
        return encode(vae_encoder, x, model.autocast)[:, : args.z_size]

    def search_as(recipe, **changes):
        return find_z(argparse.Namespace(**vars(args) | SEARCHES[recipe] | changes), model, x)[0]

    vectors = labelled_vectors(args, records, partial(encode, model.encoder, autocast=model.autocast), model.device)
    gan, has = (model.generator, vectors), labels_of(args, records, names)
    methods = {  # how a face becomes z, the generator, its vectors
        "GAN, projection": (partial(search_as, "document", n_iter=args.n_iter), *gan),
        "GAN, encoder alone": (partial(search_as, "best", n_iter=0), *gan),
        "GAN, encoder and search": (partial(search_as, "best"), *gan),
        "VAE": (lambda: vae_code(x), vae_generator, labelled_vectors(args, records, vae_code, model.device)),
    }
    table, sheet = [], {"Real": x[:16]}
    rows = subset(records.rows("train"), args.train_size, args.seed)
    for name, x_hat in linear_reconstructions(records, rows, x).items():
        table.append([name, *scores(x_hat, x), ""])
    for name, (to_z, generator, vectors) in methods.items():
        began = time.perf_counter()
        z = to_z()
        seconds = (time.perf_counter() - began) / len(x)
        folder, limit = out / name.replace(", ", "_").replace(" ", "_").lower(), 1 if name != "VAE" else math.inf
        x_hat = generate(generator, z, model.autocast)
        table.append([name, *scores(x_hat, x), f"{seconds:.4f}"])
        save_pictures(folder / "reconstructions", names, x_hat)
        write_table(folder / "reconstructions.tsv", ["file", "source"],
                    [[f"reconstructions/{stem}.png", f"../originals/{stem}.png"] for stem in names])  # fmt: skip
        sheet[f"{name}: reconstructed, {table[-1][2]} dB"] = x_hat[:16]

        edits = []
        for attribute, vector in vectors.items():
            # Towards what the face has not; without labels, towards having it.
            sign = 1 - 2 * has[attribute].to(z) if attribute in has else torch.ones(len(z)).to(z)
            edited = (z + float(args.strengths.split(",")[-1]) * sign[:, None] * vector.to(z)).clamp(-limit, limit)
            pictures = generate(generator, edited, model.autocast)
            files = [f"{attribute}_{stem}" for stem in names]
            save_pictures(folder / "edits", files, pictures)
            if attribute != "Turn":
                edits += [[f"edits/{file}.png", f"reconstructions/{stem}.png", f"{attribute}={int(to > 0)}"]
                          for file, stem, to in zip(files, names, sign.tolist(), strict=True)]  # fmt: skip
            sheet[f"{name}: {attribute} changed"] = pictures[:16]
        write_table(folder / "edits.tsv", ["file", "source", "request"], edits)

        share = torch.linspace(0, 1, 16, device=z.device)[:, None]
        frames = []
        for pair in range(min(16, len(z) // 2)):
            line = generate(generator, torch.lerp(z[2 * pair], z[2 * pair + 1], share), model.autocast)
            save_pictures(folder / "interpolations", [f"{pair:02d}_{frame:02d}" for frame in range(16)], line)
            frames += [[f"interpolations/{pair:02d}_{frame:02d}.png", pair] for frame in range(16)]
            if pair == 0:
                sheet[f"{name}: interpolated"] = line
        write_table(folder / "interpolations.tsv", ["file", "path"], frames)
    write_table(out / "table.tsv", ["method", "mse", "psnr", "ssim", "seconds_per_face"], table)
    save_sheet(out / "sheet.png", sheet)
    print(f"{len(x)} faces; squared error in [0, 1]")
    for row in [["", "MSE", "PSNR", "SSIM", "seconds a face"], *table]:
        print("{:28}{:>10}{:>8}{:>8}{:>16}".format(*row))
    print(f"table.tsv, sheet.png, pictures and manifests in {out}")


def labels_of(args, records, names):
    """Attribute -> (N,) bool of the test faces that load_pictures gave; nothing for a person's own photos."""
    if args.images or records.attributes is None:
        return {}
    wanted = [name for name in args.attributes.split(",") if name != "Turn"]
    table = records.attributes[records.rows("test")[: len(names)]][:, attribute_indices(wanted)]
    return dict(zip(wanted, torch.from_numpy(table > 0).T, strict=True))


def scores(x_hat, x):
    """MSE in [0, 1], PSNR of the mean MSE, SSIM, as texts."""
    error = F.mse_loss(x_hat, x).item()
    similar = ssim(x_hat / 2 + 0.5, x / 2 + 0.5, data_range=1).item()
    return f"{error / 4:.5f}", f"{psnr(error):.2f}", f"{similar:.3f}"


VERBS = dict(train=train, train_encoder=train_coder, train_vae=train_coder, train_filler=train_coder,
             sample=sample, project=project,
             complete=complete, interpolate=interpolate, average=average, arithmetic=arithmetic,
             compare=compare)  # fmt: skip


if __name__ == "__main__":
    main()
