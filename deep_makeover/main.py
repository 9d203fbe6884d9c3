"""Deep Makeover: a face in, the same face made over; two small resnets, a GAN that is first held to repeat its input.

After the Deep Makeover document. Four modes (men to women, women to men, each to its attractive ones), or any pair of
conditions on CelebA's attributes; a made-over face goes back into its photo, of which the rest stays as it is.

One GPU:      python deep_makeover/main.py --dataset_dir=data/celeba --run train
Several:      torchrun --nproc_per_node=8 deep_makeover/main.py --dataset_dir=data/celeba
CPU, an hour: python deep_makeover/main.py --dataset_dir=data/celeba --run train --recipe best
A photo:      python deep_makeover/main.py --dataset_name=celeba --run inference --infile me.jpg --outfile you.png
Any filter:   python deep_makeover/main.py --dataset_dir=data/celeba --run train --source Smiling=0 --target Smiling=1
"""

import argparse
import copy
import json
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
from torchvision.utils import make_grid
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # the repository root
from common.celeba import (
    HEIGHT,
    MAKEOVER,
    WIDTH,
    CelebA,
    batches,
    match,
    pack,
    parse_condition,
    read_table,
    subset,
    to_tensor,
    to_uint8,
)
from common.mtcnn import MTCNN, align, pick, warp
from common.photos import VIDEO_TYPES, InputError, media_files, name_outputs, numbered_frames
from deep_makeover.model import make_networks

# ---------------------------------------------------------------------------------------------------------------------
# Flags

RECIPES = {  # what --recipe sets; each is a flag of its own, and a flag that is given wins
    "document": dict(network="document", batch_size=16, learning_rate=0.0002, learning_rate_end=0.000001,
                     annealing_half_life=5000, pixel_loss_max=0.95, pixel_loss_min=0.7, instance_noise=0.2,
                     lambda_class=0.0, lambda_keep=0.0, lambda_r1=0.0, flip=False, diff_augment=False,
                     show_ema=False),
    "best": dict(network="compact", batch_size=8, learning_rate=0.0005, learning_rate_end=0.00005,
                 annealing_half_life=3000, pixel_loss_max=0.9, pixel_loss_min=0.8, instance_noise=0.0,
                 lambda_class=0.1, lambda_keep=10.0, lambda_r1=1.0, flip=True, diff_augment=False, show_ema=True),
}  # fmt: skip
LOSSES = {  # what --loss sets on top of the document's recipe; wgan is the last state of its program
    "gan": dict(train_time=120.0, disc_loss_threshold=0.0, disc_weights_threshold=0.0),
    "wgan": dict(train_time=180.0, disc_loss_threshold=0.1, disc_weights_threshold=0.01, learning_rate=0.0001,
                 annealing_half_life=10000, instance_noise=0.5, pixel_loss_max=0.0, pixel_loss_min=0.0),
}  # fmt: skip

# Both sides of a mode without Blurry and Eyeglasses, the target attractive; a woman's face made over has no beard.
BEARDLESS = ",No_Beard=1,Goatee=0,Mustache=0"
MODES = {"mtf": ("Male=1", "Male=0"), "ftm": ("Male=0", "Male=1"), "mtm": ("Male=1", "Male=1"),
         "ftf": ("Male=0", "Male=0")}  # fmt: skip

# Flags that may differ when a run is resumed; all others shape the network, the data or the loss.
MAY_CHANGE = {"epoch", "steps", "train_time", "device", "precision", "workers", "dataset_dir", "record_dir",
              "checkpoint_dir", "model_path", "sample_dir", "log_every", "sample_every", "save_every", "run",
              "test_vectors", "min_faces", "infile", "outfile", "images", "out_dir", "overwrite", "all_faces",
              "strength", "side_by_side"}  # fmt: skip


def parse_args(argv=None):
    """Read the command line. InputError: flags that do not go together."""
    parser = argparse.ArgumentParser(
        usage="python deep_makeover/main.py --dataset_dir DIR [--run VERB] [flags; --help lists them]",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.error = lambda message: sys.exit(fail(message))  # one line, without the usage
    switch = dict(type=boolean, nargs="?", const=True, metavar="True|False")

    do = parser.add_argument_group("What to do")
    do.add_argument("--run", choices=VERBS, default="train", help="train, test or inference (default: train)")
    do.add_argument("--train_mode", choices=MODES, default="mtf", help="who becomes who: m male, f female (mtf)")
    do.add_argument("--source", help="other faces to make over, as Male=1,Eyeglasses=0 (default: the mode's)")
    do.add_argument("--target", help="what they are to look like, likewise; replaces the mode's filters")
    do.add_argument("--strength", type=float, default=1.0, help="inference: 0 the photo, 1 all of it (default: 1)")
    do.add_argument("--all_faces", **switch, default=False, help="inference: every face, not only the largest")
    do.add_argument("--side_by_side", **switch, default=False, help="inference: the photo beside the result")

    model = parser.add_argument_group("Model")
    model.add_argument("--network", choices=("document", "compact"), help="pair of networks (best: compact)")
    model.add_argument("--poolings", type=int, default=2, help="of the document's generator, 1 to 4 (default: 2)")
    model.add_argument("--init", choices=("residual", "default"), default="residual", help="first weights (residual)")
    model.add_argument("--box", help="x,y,width,height in CelebA's 178 x 218 (default: 49,90,80,100)")
    model.add_argument("--scale", type=float, help="pixels of a picture for one of CelebA's (default: 1)")

    training = parser.add_argument_group("Training")
    training.add_argument("--epoch", type=int, default=0, help="passes over the training pictures (default: by steps)")
    training.add_argument("--steps", type=int, default=45000, help="end after so many steps whatever the epochs say")
    training.add_argument("--train_time", type=float, help="minutes after which a run ends; 0: never (120, wgan 180)")
    training.add_argument("--train_size", help="training pictures: a number, or a share such as 0.5 (default: all)")
    training.add_argument("--min_faces", type=int, default=200, help="fewest training faces of a side (default: 200)")
    training.add_argument("--batch_size", type=int, help="pictures a step, over all processes")
    training.add_argument("--learning_rate", "--learning_rate_start", type=float, help="at first (document: 0.0002)")
    training.add_argument("--learning_rate_end", type=float, help="it is halved down to this (document: 0.000001)")
    training.add_argument("--annealing_half_life", type=int, help="steps that halve it, and the weight's excess (5000)")
    training.add_argument("--beta1", type=float, default=0.5, help="Adam's momentum (default: 0.5)")
    training.add_argument("--loss", choices=LOSSES, default="gan", help="adversarial loss (default: gan)")
    training.add_argument("--pixel_loss_max", type=float, help="share of the pixel loss at first (document: 0.95)")
    training.add_argument("--pixel_loss_min", type=float, help="share of the pixel loss at last (document: 0.7)")
    training.add_argument("--instance_noise", type=float, help="on what the discriminator sees (document: 0.2)")
    training.add_argument("--disc_loss_threshold", type=float, help="its loss above which it learns alone; 0: none")
    training.add_argument("--disc_weights_threshold", type=float, help="clips its weights; 0: does not (wgan: 0.01)")
    training.add_argument("--lambda_class", type=float, help="a second logit tells the sides apart (best: 0.1)")
    training.add_argument("--lambda_keep", type=float, help="target faces stay as they are (document: 0, best: 10)")
    training.add_argument("--lambda_r1", type=float, help="gradient penalty on real pictures (document: 0, best: 1)")
    training.add_argument("--flip", **switch, help="mirror half of the pictures (document: False, best: True)")
    training.add_argument("--diff_augment", **switch, help="the discriminator sees all augmented (default: False)")
    training.add_argument("--ema", type=float, default=0.999, help="decay of the running mean of the weights")
    training.add_argument("--show_ema", **switch, help="test and keep that mean (document: False, best: True)")
    training.add_argument("--recipe", choices=RECIPES, default="document", help="set of defaults (default: document)")
    training.add_argument("--seed", "--random_seed", type=int, default=10,
                          help="of weights, order and noise (default: 10)")  # fmt: skip

    machine = parser.add_argument_group("Machine")
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    machine.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="bf16 where it is fast")
    machine.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that decode pictures")

    files = parser.add_argument_group("Files")
    files.add_argument("--dataset_dir", "--dataset", help="folder or zip with the pictures (default: dataset here)")
    files.add_argument("--attribute_file", help="list_attr_celeba.txt or .csv (default: the data set's own)")
    files.add_argument("--dataset_name", help="names checkpoint, model and samples (default: the folder's name)")
    files.add_argument("--record_dir", default=str(HERE / "records"),
                       help="packed pictures (default: records in the project's folder)")  # fmt: skip
    files.add_argument("--checkpoint_dir", default=str(HERE / "checkpoint"), help="default: checkpoint, likewise")
    files.add_argument("--model_path", default=str(HERE / "models"), help="model file, or folder (models, likewise)")
    files.add_argument("--sample_dir", "--train_dir", default=str(HERE / "samples"),
                       help="sheets, logs, results (samples, likewise)")  # fmt: skip
    files.add_argument("--log_every", type=int, default=50, help="steps from log line to log line (default: 50)")
    files.add_argument("--sample_every", "--summary_period", type=int, default=20,
                       help="steps from sheet to sheet (default: 20)")  # fmt: skip
    files.add_argument("--save_every", type=int, default=0, help="steps from checkpoint to checkpoint (an epoch)")
    files.add_argument("--test_vectors", type=int, default=16, help="test faces on a sheet (default: 16)")
    files.add_argument("--infile", help="inference: a photo, GIF or video, or a crop of the box's own size")
    files.add_argument("--outfile", help="inference: where it goes (default: inference_out.png, .gif or .mp4)")
    files.add_argument("--images", nargs="+", help="inference: several, or folders of them; they go to --out_dir")
    files.add_argument("--out_dir", help="folder for the results of --images (test: default below the sample folder)")
    files.add_argument("--overwrite", **switch, default=False, help="replace --outfile, write into a full --out_dir")

    first = parser.parse_known_args(argv)[0]
    chosen = RECIPES[first.recipe] | LOSSES["gan"]
    if first.loss == "wgan":
        chosen |= LOSSES["wgan"] if first.recipe == "document" else {}
    parser.set_defaults(**chosen)
    args = parser.parse_args(argv)
    check(args)
    return args


def check(args):
    """Refuse what cannot work before anything is read or written, and read the conditions: InputError."""
    if not 1 <= args.poolings <= 4:
        raise InputError(f"--poolings {args.poolings}: expected 1 to 4")
    for name in ("batch_size", "log_every", "learning_rate", "annealing_half_life", "test_vectors", "min_faces"):
        if not getattr(args, name) > 0:
            raise InputError(f"--{name} {getattr(args, name)}: expected more than 0")
    for name in ("epoch", "steps", "sample_every", "save_every", "workers", "train_time", "learning_rate_end",
                 "instance_noise", "disc_loss_threshold", "disc_weights_threshold", "lambda_class", "lambda_keep",
                 "lambda_r1"):  # fmt: skip
        if not getattr(args, name) >= 0:
            raise InputError(f"--{name} {getattr(args, name)}: expected 0 or more")
    for name in ("pixel_loss_max", "pixel_loss_min", "strength"):
        if not 0 <= getattr(args, name) <= 1:
            raise InputError(f"--{name} {getattr(args, name)}: expected 0 to 1")
    if not 0 <= args.beta1 < 1 or not 0 <= args.ema < 1:
        raise InputError(f"--beta1 {args.beta1} --ema {args.ema}: expected 0 or more and less than 1")
    if not args.epoch and not args.steps:
        raise InputError("--epoch 0 --steps 0: expected one of them to say how long to train")
    read_box(args.box, args.scale)
    read_conditions(args)
    if args.dataset_name is None and args.dataset_dir is None and args.model_path.endswith(".pt"):
        args.dataset_name = Path(args.model_path).stem
    if args.dataset_dir is None:
        args.dataset_dir = str(HERE / "dataset")  # where the document has it
    if args.dataset_name is None:
        args.dataset_name = Path(args.dataset_dir).resolve().name.removesuffix(".zip")
    if Path(args.dataset_name).name != args.dataset_name:
        raise InputError(f"--dataset_name {args.dataset_name}: expected a plain name, without slashes")


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


def read_conditions(args):
    """Fill in --source and --target: the mode's filters where they were not given, and Blurry=0 in any case."""
    source, target = MODES[args.train_mode]
    args.mode = args.train_mode
    if args.source or args.target:
        args.mode = "-to-".join((args.source or source, args.target or target)).translate({44: "-", 61: None, 32: None})
    clean = ",Eyeglasses=0,Blurry=0"
    args.source = args.source or source + clean
    args.target = args.target or target + ",Attractive=1" + clean + BEARDLESS * (args.train_mode == "ftm")
    for name in ("source", "target"):
        if "Blurry" not in parse_condition(getattr(args, name)):
            setattr(args, name, getattr(args, name) + ",Blurry=0")
    if parse_condition(args.source) == parse_condition(args.target):
        raise InputError(f"--source and --target are the same, {args.source}: there is nothing to make over")


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


def d_loss(d_real, d_fake, kind):
    """The discriminator's on logits: "gan", cross entropy of real and generated; "wgan", the critic's difference."""
    if kind == "wgan":
        return d_fake.mean() - d_real.mean()
    return F.softplus(-d_real).mean() + F.softplus(d_fake).mean()


def g_loss(d_fake, kind):
    """The generator's on logits: "gan", -log D of what it made; "wgan", minus the critic's mean."""
    return -d_fake.mean() if kind == "wgan" else F.softplus(-d_fake).mean()


def pixel_loss(x_fake, x):
    """Mean absolute difference of two batches in [-1, 1], each shrunk to a quarter, on the scale of [0, 1]."""
    return (F.avg_pool2d(x_fake, 4) - F.avg_pool2d(x, 4)).abs().mean() / 2


def temperature(step, half_life):
    """The annealing temperature: 1 at first, halved every half_life steps, however fast the machine is."""
    return 0.5 ** ((step - 1) / half_life)


def r1_penalty(discriminator, x):
    """Mean squared length of the gradient of the logit by real pictures x (Mescheder et al., arXiv 1801.04406)."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(x)[:, 0].sum(), x, create_graph=True)
    return gradient.float().square().sum((1, 2, 3)).mean()


# ---------------------------------------------------------------------------------------------------------------------
# Training

R1_EVERY = 16  # steps from gradient penalty to gradient penalty, which then counts so many times


def place(args, kind):
    """Where things lie: a "checkpoint", "model" (the best so far) or "samples"."""
    height, width = read_box(args.box, args.scale)[1]
    name = f"{args.dataset_name}_{args.mode}_{width}x{height}"
    if kind == "checkpoint":
        return Path(args.checkpoint_dir) / name / "last.pt"
    if kind == "model":
        path = Path(args.model_path)
        return path if path.suffix == ".pt" else path / f"{name}.pt"
    return Path(args.sample_dir) / name


def load_records(args, device, rank):
    """The data set's faces without hair, the box of CelebA's aligned pictures, packed once."""
    dataset = CelebA(args.dataset_dir, args.seed)
    if args.attribute_file:
        path = Path(args.attribute_file)
        if not path.is_file():
            raise InputError(f"--attribute_file {path} is no file")
        names, table = read_table(path, "attributes")
        found = match(dataset.files, names, path, dataset.image_dir, dataset.problems)
        if found.min() < 0:
            raise InputError(f"--attribute_file {path} has no row for {(found < 0).sum()} of the pictures, such as "
                             f"{dataset.files[int(found.argmin())]}")  # fmt: skip
        dataset.attributes = table[found]
    if rank:  # rank 0 packs, the others then find the packed file
        dist.barrier()
    records = pack(dataset, args.record_dir, *read_box(args.box, args.scale), args.workers, device, progress=rank == 0)
    if rank == 0 and dist.is_initialized():
        dist.barrier()
    return records


def sides(args, records, part):
    """Rows of a part, "train", "validation" or "test", that are source and that are target."""
    rows = records.rows(part)
    return [rows[records.where(condition)[rows]] for condition in (args.source, args.target)]


def report_sides(args, records):
    """Print how many faces each side has. InputError: too few to learn a side from, or both sides are the same."""
    counts = [sides(args, records, part) for part in ("train", "validation", "test")]
    for side, name in enumerate(("source", "target")):
        train, validation, test = (len(rows[side]) for rows in counts)
        print(f"{name}: {train} training, {validation} validation, {test} test faces ({getattr(args, name)})")
    for side, name in enumerate(("source", "target")):
        train, validation, _ = (len(rows[side]) for rows in counts)
        if train < args.min_faces:
            raise InputError(f"--{name} {getattr(args, name)}: {train} training faces are too few, {args.min_faces} "
                             "are needed: give a wider condition, or fewer --min_faces")  # fmt: skip
        if validation < 2:
            raise InputError(f"--{name} {getattr(args, name)}: {validation} validation faces are too few to measure")
    if np.array_equal(*counts[0]):
        raise InputError("--source and --target select the same faces: there is nothing to make over")


@torch.no_grad()
def make_over(generator, images, device, autocast):
    """Pictures (N, h, w, 3) uint8 -> (N, 3, h, w) in [-1, 1], those before and after, in chunks, in eval mode."""
    generator.eval()
    x = to_tensor(images, device)
    with autocast():
        made = torch.cat([generator(x[start : start + 16]) for start in range(0, len(x), 16)])
    return x, made.float().clamp(-1, 1)


def psnr(x_fake, x):
    """Of the mean squared error of all the pictures, both (N, 3, H, W) in [-1, 1]."""
    return 10 * math.log10(4 / max((x_fake - x).square().mean().item(), 1e-12))


def validate(generator, discriminator, images, device, autocast):
    """Numbers on validation faces; images: those of the source and of the target, (N, h, w, 3) uint8.

    "distance" is the sliced Wasserstein distance of what was made to target faces, "before" that of the faces it was
    made from; "read" the share that a second logit of the discriminator takes for the target.
    """
    x, x_fake = make_over(generator, images[0], device, autocast)
    y, y_kept = make_over(generator, images[1], device, autocast)
    count = min(len(x), len(y))
    numbers = dict(diversity=diversity(x_fake, y), distance=sliced_wasserstein(x_fake[:count], y[:count]),
                   before=sliced_wasserstein(x[:count], y[:count]), kept=psnr(y_kept, y))  # fmt: skip
    with torch.no_grad(), autocast():
        logits = torch.cat([discriminator(part) for part in x_fake.split(64)])
    if logits.shape[1] > 1:
        numbers["read"] = (logits[:, 1] > 0).float().mean().item()
    return numbers


def truncated_noise(shape, std):
    """Normal noise of that spread, cut off at twice of it."""
    return torch.nn.init.trunc_normal_(torch.empty(shape), std=std, a=-2 * std, b=2 * std)


def train(args):
    """Train generator and discriminator on the two sides."""
    device, autocast, rank, world = setup(args)
    started = time.monotonic()

    # Data
    records = load_records(args, device, rank)
    args.data = f"{len(records.names)} pictures {zlib.crc32(' '.join(records.names).encode()):08x}"
    if rank == 0:
        report_sides(args, records)
    if args.batch_size % world:
        raise InputError(f"--batch_size {args.batch_size}: expected a multiple of the {world} processes")
    mine = slice(rank * args.batch_size // world, (rank + 1) * args.batch_size // world)
    rows = [subset(side, args.train_size, args.seed) for side in sides(args, records, "train")]
    validation = [records.images[side[:500]] for side in sides(args, records, "validation")]
    shown_rows = np.concatenate([sides(args, records, part)[0] for part in ("test", "validation")])[: args.test_vectors]
    epoch_steps = max(1, len(rows[0]) // args.batch_size)
    planned = args.epoch * epoch_steps if args.epoch else args.steps
    last = min(planned, args.steps or planned)

    # Models
    networks = make_networks(args.network, args.poolings, args.init, outputs=2 if args.lambda_class else 1)
    generator, discriminator = (net.to(device, memory_format=torch.channels_last) for net in networks)
    ema = copy.deepcopy(generator).requires_grad_(False)
    shown = ema if args.show_ema else generator
    g_optimizer = torch.optim.Adam(generator.parameters(), args.learning_rate, (args.beta1, 0.999), fused=True)
    if args.loss == "wgan":  # as in arXiv 1701.07875, together with the clipped weights
        d_optimizer = torch.optim.RMSprop(discriminator.parameters(), args.learning_rate)
    else:
        d_optimizer = torch.optim.Adam(discriminator.parameters(), args.learning_rate, (args.beta1, 0.999), fused=True)
    parts = dict(generator=generator, discriminator=discriminator, ema=ema, g_optimizer=g_optimizer,
                 d_optimizer=d_optimizer)  # fmt: skip

    # Resume
    checkpoint, best_path, samples = (place(args, kind) for kind in ("checkpoint", "model", "samples"))
    state = load_checkpoint(checkpoint, args, parts)
    if state is None:
        if best_path.exists():
            raise InputError(f"{best_path} is there, but no checkpoint of its run: move it away or give --model_path")
        state = dict(step=0, best=math.inf, best_step=0, d_last=0.0)
    if state["step"] >= last:
        print(f"trained {state['step']} of {planned} steps already: raise --epoch or --steps to go on")
        return

    # Logs
    from torch.utils.tensorboard import SummaryWriter  # takes seconds, which the verbs below need not wait for

    if rank == 0:
        counts = [sum(p.numel() for p in net.parameters()) for net in networks]
        print(f"generator {counts[0]:,} and discriminator {counts[1]:,} parameters, {planned} steps of "
              f"{args.batch_size}, {device}")  # fmt: skip
        print(f"watch it: tensorboard --logdir {samples / 'logs'}")
    writer = SummaryWriter(samples / "logs", purge_step=state["step"] + 1) if rank == 0 else None
    bar = tqdm(total=last * args.batch_size, initial=state["step"] * args.batch_size, unit="img", unit_scale=True,
               disable=rank > 0, mininterval=1 if sys.stderr.isatty() else 30)  # fmt: skip
    zero = torch.zeros((), device=device)
    sums, bad_step, logged = torch.zeros(5, device=device), zero, state["step"]
    # Source and target each in an order of its own, of which every process takes its slice
    streams = [batches(records, side, args.batch_size, device, args.seed + number, state["step"], rank, world,
                       args.flip) for number, side in enumerate(rows)]  # fmt: skip
    stop_requested = listen_for_stop()

    for step in range(state["step"] + 1, last + 1):
        x, y = (next(stream)[0] for stream in streams)
        heat = temperature(step, args.annealing_half_life)
        for optimizer in (g_optimizer, d_optimizer):
            optimizer.param_groups[0]["lr"] = max(args.learning_rate * heat, args.learning_rate_end)
        share = args.pixel_loss_min + (args.pixel_loss_max - args.pixel_loss_min) * heat
        # Every process draws the whole batch's numbers and takes its slice. Noise is on the scale of [0, 1].
        numbers = torch.rand(3, 7, args.batch_size)[:, :, mine] if args.diff_augment else [None] * 3
        std = 2 * args.instance_noise * heat
        noises = [None] * 2
        if std:
            noises = truncated_noise((2, args.batch_size, *x.shape[1:]), std)[:, mine].to(device)

        def judge(x, numbers, noise=None):
            x = diff_augment(x, numbers) if args.diff_augment else x
            return discriminator(x if noise is None else x + noise).float()

        generator.train()
        discriminator.train().requires_grad_(True)
        alone = bool(args.disc_loss_threshold) and state["d_last"] > args.disc_loss_threshold
        with autocast(), torch.set_grad_enabled(not alone):
            some = y[::4] if args.lambda_keep else y[:0]
            x_fake, y_kept = generator(torch.cat([x, some])).float().split([len(x), len(some)])

        # Discriminator: tell target faces from made-over ones, and with a second logit from source faces
        with autocast():
            real, fake = judge(y, numbers[0], noises[0]), judge(x_fake.detach(), numbers[1], noises[1])
            loss_d = d_loss(real[:, 0], fake[:, 0], args.loss)
            loss_side = zero
            if args.lambda_class:
                loss_side = d_loss(real[:, 1], judge(x, numbers[2])[:, 1], "gan")
        total = loss_d + loss_side
        if args.lambda_r1 and step % R1_EVERY == 0:
            total = total + args.lambda_r1 / 2 * R1_EVERY * r1_penalty(lambda y: judge(y, numbers[0]), y)  # noqa: B023
        d_optimizer.zero_grad()
        total.backward()
        average_gradients(discriminator)
        d_optimizer.step()
        if args.disc_weights_threshold:
            with torch.no_grad():
                for parameter in discriminator.parameters():
                    parameter.clamp_(-args.disc_weights_threshold, args.disc_weights_threshold)

        # Generator: pass for a target face, and stay near the input; target faces stay as they are
        loss_g, loss_pixel, loss_keep = zero, zero, zero
        if not alone:
            discriminator.requires_grad_(False)
            with autocast():
                fake = judge(x_fake, numbers[1], noises[1])
            loss_g, loss_pixel = g_loss(fake[:, 0], args.loss), pixel_loss(x_fake, x)
            total = (1 - share) * loss_g + share * loss_pixel
            if args.lambda_class:
                total = total + args.lambda_class * g_loss(fake[:, 1], "gan")
            if args.lambda_keep:
                loss_keep = (y_kept - some).square().mean() / 4  # in [0, 1]
                total = total + args.lambda_keep * loss_keep
            g_optimizer.zero_grad()
            total.backward()
            average_gradients(generator)
            g_optimizer.step()
            update_ema(ema, generator, args.ema, step)
        sums += torch.stack([loss_d, loss_g, loss_pixel, loss_side, loss_keep]).detach()
        bad_step = torch.where(torch.isfinite(sums.sum()) | (bad_step > 0), bad_step, step)
        if args.disc_loss_threshold:
            mean = loss_d.detach() / world
            if dist.is_initialized():
                dist.all_reduce(mean)
            state["d_last"] = mean.item()

        # What is due: numbers, validation, a sheet, a checkpoint
        bar.update(args.batch_size)
        if rank == 0 and args.train_time and time.monotonic() - started > 60 * args.train_time:
            signal.raise_signal(signal.SIGTERM)  # the clock asks for a stop as a person would
        stop = stop_requested()
        at_end = stop or step == last
        epoch_end = step % epoch_steps == 0 or at_end
        save = at_end or (step % args.save_every == 0 if args.save_every else epoch_end)
        if step % args.log_every == 0 or save or epoch_end:
            means = sums / (step - logged)
            if dist.is_initialized():
                dist.all_reduce(means.div_(world))
            if not math.isfinite(means.sum().item()):
                bad = int(bad_step.item()) or step
                sys.exit(fail(f"the loss is not finite at step {bad}; the last good state is {checkpoint}", code=1))
            sums, logged = torch.zeros_like(sums), step
            means = dict(zip(("d", "g", "pixel", "class", "keep"), means.tolist(), strict=True))
            bar.set_postfix({name: f"{mean:.3f}" for name, mean in means.items() if mean})
            if writer:
                for name, mean in means.items():
                    writer.add_scalar(f"loss/{name}", mean, step)
                writer.add_scalar("annealing/temperature", heat, step)
                writer.add_scalar("annealing/pixel_share", share, step)
                writer.add_scalar("learning_rate", g_optimizer.param_groups[0]["lr"], step)
        better = False
        if rank == 0 and epoch_end:
            found = validate(shown, discriminator.eval(), validation, device, autocast)
            for name, value in found.items():
                writer.add_scalar(name if name == "diversity" else f"validation/{name}", value, step)
            if found["diversity"] < 0.5:
                bar.write(f"step {step}: diversity {found['diversity']:.2f}: the faces made are nearly all the same")
            # What hardly changes a face would be near to all faces: what is not read as the target counts, too.
            score = found["distance"] + 1 - found.get("read", 1)
            better = score < state["best"]
            if better:
                state |= dict(best=score, best_step=step)
        if rank == 0 and (at_end or (step % args.sample_every == 0 if args.sample_every else epoch_end)):
            x_shown, x_made = make_over(shown, records.images[shown_rows], device, autocast)
            sheet = save_sheet(samples / f"{step:07d}.png", {"Source": x_shown, f"Output, step {step}": x_made})
            writer.add_image("images/samples", sheet, step, dataformats="HWC")
        if rank == 0 and (save or better):  # the checkpoint first: no model without one
            save_checkpoint(checkpoint, args, parts, **state | {"step": step})
        if better:
            save_checkpoint(best_path, args, {"generator": shown}, step=step, **found)
        if stop:
            break
    bar.close()
    if writer:
        writer.close()
        early = "" if step == planned else ": under-trained; the same command goes on"
        print(f"trained {step} of {planned} steps{early}")
        print(f"best at step {state['best_step']} (score {state['best']:.4f}): model {best_path}, sheets {samples}")


# ---------------------------------------------------------------------------------------------------------------------
# Using the model


def load_model(args):
    """The best generator so far, else the last checkpoint's, else the shipped one: generator, device, autocast, flags.

    --box and --scale that are given win over the model's own: the networks take pictures of any size.
    """
    device, autocast, *_ = setup(args)
    candidates = [place(args, "model"), place(args, "checkpoint"), HERE / "models" / f"shipped_{args.mode}.pt"]
    if Path(args.model_path).suffix == ".pt":  # that one and no other
        candidates = candidates[:1]
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        missing = " nor ".join(map(str, candidates[:2]))
        raise InputError(f"no model: no {missing} is there; train first (--run train)")
    content = read_checkpoint(path)
    try:
        saved = argparse.Namespace(**content["args"])
        generator, _ = make_networks(saved.network, saved.poolings, saved.init, 1)
        part = "ema" if "ema" in content and saved.show_ema else "generator"
        generator.load_state_dict(content[part])
    except (AttributeError, KeyError, RuntimeError):
        raise InputError(f"{path} is no model of this project") from None
    saved.box, saved.scale = args.box or saved.box, args.scale or saved.scale
    print(f"model {path}: step {content['state']['step']}, {saved.recipe} recipe, {saved.source} to {saved.target}")
    return generator.to(device, memory_format=torch.channels_last).eval(), device, autocast, saved


def test(args):
    """Make over the data set's test faces: pictures, a manifest for benchmarks/quality.py, a sheet, metrics.json."""
    generator, device, autocast, saved = load_model(args)
    samples = place(args, "samples")
    args.source, args.target, args.box, args.scale = saved.source, saved.target, saved.box, saved.scale
    records = load_records(args, device, 0)
    source, target = (records.images[rows] for rows in sides(args, records, "test"))
    if min(len(source), len(target)) == 0:
        raise InputError(f"{len(source)} test faces are {args.source}, {len(target)} are {args.target}: none to test")
    out_dir = new_folder(args.out_dir or samples / "test", args.overwrite or not args.out_dir)

    # What the faces are asked to become: what the sides differ in, else what only the target's condition names
    before, after = parse_condition(args.source), parse_condition(args.target)
    asked = {name: value for name, value in after.items() if before.get(name, value) != value} or \
        {name: value for name, value in after.items() if name not in before}  # fmt: skip
    request = ",".join(f"{name}={value}" for name, value in asked.items())
    rows = ["file\tsource\trequest\n"]
    started = time.monotonic()
    x, x_fake = make_over(generator, source, device, autocast)
    seconds = time.monotonic() - started
    for kind, pictures in (("source", source), ("made", to_uint8(x_fake)), ("target", target)):
        (out_dir / kind).mkdir(exist_ok=True)
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(out_dir / kind / f"{number:05d}.png")
            if kind == "made":
                rows.append(f"made/{number:05d}.png\tsource/{number:05d}.png\t{request}\n")
    (out_dir / "manifest.tsv").write_text("".join(rows))

    y, y_kept = make_over(generator, target, device, autocast)
    metrics = {"faces": len(x), "faces_per_second": len(x) / seconds, "change": (x_fake - x).abs().mean().item() / 2,
               "psnr_to_source": psnr(x_fake, x), "target_faces": len(y), "psnr_of_target_faces": psnr(y_kept, y)}
    samples.mkdir(parents=True, exist_ok=True)
    (samples / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    save_sheet(samples / "test.png", {"Source": x[:16], "Made over": x_fake[:16], "Target": y[:16],
                                      "Target, made over (to stay as it is)": y_kept[:16]})  # fmt: skip
    print(json.dumps(metrics, indent=1))
    print(f"test.png and metrics.json in {samples}; pictures and manifest.tsv in {out_dir}")


def soft_mask(size, share=0.2):
    """(height, width) weights of a changed face: 1 inside, falling smoothly to 0 over that share of each side."""
    lines = [np.minimum(np.arange(n), np.arange(n)[::-1]) / (n * share) for n in size]
    lines = [(1 - np.cos(np.pi * line.clip(0, 1))) / 2 for line in lines]
    return np.outer(*lines).astype(np.float32)


def blend(photo, change, matrix, strength):
    """Add the change of a face, (h, w, 3) float, to a photo where it belongs; a new (H, W, 3) uint8 picture.

    matrix: from pixels of the photo to those of the face. The change fades out towards the sides of its box, so there
    is no seam, and the photo keeps the detail that the small picture of the face did not have.
    """
    height, width = change.shape[:2]
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]]) @ inverse.T
    left, top = np.clip(np.floor(corners.min(0)) - 1, 0, photo.shape[1::-1]).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(0)) + 2, 0, photo.shape[1::-1]).astype(int)
    if left >= right or top >= bottom:
        return photo
    inverse[:, 2] -= left, top  # to the part of the photo that the box lies in
    size = int(right - left), int(bottom - top)
    weight = cv2.warpAffine(soft_mask((height, width)), inverse, size, flags=cv2.INTER_LINEAR)[..., None]
    part = photo[top:bottom, left:right] + strength * weight * warp(change, inverse, size)
    result = photo.copy()
    result[top:bottom, left:right] = part.round().clip(0, 255).astype(np.uint8)
    return result


def make_over_photo(photo, generator, detector, device, autocast, args, saved):
    """The photo with the largest face (or all) made over, (H, W, 3) uint8; None where there is no face."""
    box, size = read_box(saved.box, saved.scale)
    if photo.shape[:2] == size:  # a crop already, as the document has it
        x, made = make_over(generator, photo[None], device, autocast)
        made = (photo + args.strength * 127.5 * (made - x)[0].permute(1, 2, 0).cpu().numpy()).round().clip(0, 255)
        return made.astype(np.uint8)
    (boxes,), _, (landmarks,) = detector.detect([photo])
    if len(boxes) == 0:
        return None
    chosen = range(len(boxes)) if args.all_faces else [pick(boxes, photo.shape, "largest")]
    result = photo
    for index in chosen:
        _, matrix = align(photo, landmarks[index])
        zoom = np.array([size[1] / box[2], size[0] / box[3]])  # from CelebA's pixels to those of the box
        matrix = matrix * zoom[:, None]
        matrix[:, 2] += (0.5 - np.array(box[:2])) * zoom - 0.5
        x, made = make_over(generator, warp(photo, matrix, size[::-1])[None], device, autocast)
        change = 127.5 * (made - x)[0].permute(1, 2, 0).cpu().numpy()
        result = blend(result, np.ascontiguousarray(change), matrix, args.strength)
    return result


def plan_outputs(args):
    """[(file to read, file to write), ...]. InputError: what cannot be read or written, or must not be."""
    if bool(args.infile) == bool(args.images):
        raise InputError("--run inference needs --infile, one photo, GIF or video, or --images with --out_dir")
    if args.images and (args.outfile or not args.out_dir):
        raise InputError("the results of --images go to a folder, --out_dir; --outfile is for --infile")
    if args.infile and args.out_dir:
        raise InputError("the result of --infile is --outfile; --out_dir is for --images")
    files = media_files(args.images or [args.infile])
    if args.infile and (len(files) > 1 or Path(args.infile).is_dir()):
        raise InputError(f"--infile {args.infile} is a folder: give --images and --out_dir")
    kinds = [".mp4" if file.suffix.lower() in VIDEO_TYPES else ".gif" if file.suffix.lower() == ".gif" else ".png"
             for file in files]  # fmt: skip
    if args.images:
        folder = Path(args.out_dir)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not args.overwrite:
            raise InputError(f"--out_dir {folder} is not an empty folder: name another, or add --overwrite")
        above = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise InputError(f"--out_dir {folder}: {above} is not a folder that can be written to")
        stems = name_outputs([file.name for file in files])
        paths = [folder / f"{stem}{kind}" for stem, kind in zip(stems, kinds, strict=True)]
        originals = {file.resolve() for file in files}
        if clash := next((path for path in paths if path.resolve() in originals), None):
            raise InputError(f"--out_dir {folder}: {clash} would replace one of the pictures: name another folder")
        return list(zip(files, paths, strict=True))
    path, kind = Path(args.outfile or f"inference_out{kinds[0]}"), kinds[0]
    types = {".mp4": (".mp4", ".avi", ".mkv", ".mov"), ".gif": (".gif",),
             ".png": (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")}[kind]  # fmt: skip
    if path.suffix.lower() not in types:
        raise InputError(f"--outfile {path}: for {files[0].name} expected a name that ends in {', '.join(types)}")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"--outfile {path}: {path.parent} is not a folder that can be written to")
    if path.exists() and (not path.is_file() or path.samefile(files[0])):
        raise InputError(f"--outfile {path} is the photo itself, or no file: name another")
    if path.exists() and not args.overwrite:
        raise InputError(f"--outfile {path} is there already: name another, or add --overwrite")
    return [(files[0], path)]


class Writer:
    """Pictures to one file, a still picture, a GIF or a video, which is there whole or not at all.

    Use it in a with statement; what was not kept (see keep) is gone at the end. InputError: the codec is missing.
    """

    def __init__(self, source, path):
        self.source, self.path, self.temporary = source, path, path.with_name(f".part_{path.name}")
        self.pictures, self.video = [], None

    def __enter__(self):
        return self

    def add(self, picture):
        if self.source.suffix.lower() not in VIDEO_TYPES:
            if self.pictures and self.path.suffix.lower() != ".gif":
                raise InputError(f"{self.source} is animated: convert it to a GIF or a video")
            self.pictures.append(Image.fromarray(picture))
            return
        if self.video is None:
            video = cv2.VideoCapture(str(self.source), cv2.CAP_FFMPEG)
            rate = video.get(cv2.CAP_PROP_FPS) or 25
            video.release()
            code = "MJPG" if self.path.suffix.lower() == ".avi" else "mp4v"
            self.video = cv2.VideoWriter(str(self.temporary), cv2.VideoWriter_fourcc(*code), rate, picture.shape[1::-1])
            if not self.video.isOpened():
                raise InputError(f"{self.path}: OpenCV cannot write this kind of video here: try .mp4 or .avi")
        self.video.write(np.ascontiguousarray(picture[..., ::-1]))

    def keep(self):
        """All pictures were added: make the file."""
        try:
            if self.video is not None:
                self.video.release()
            elif self.path.suffix.lower() == ".gif":
                with Image.open(self.source) as gif:
                    pauses = []
                    for number in range(len(self.pictures)):
                        gif.seek(number)
                        pauses.append(gif.info.get("duration") or 100)
                self.pictures[0].save(self.temporary, save_all=True, append_images=self.pictures[1:], duration=pauses,
                                      loop=0)  # fmt: skip
            else:
                self.pictures[0].save(self.temporary, quality=95)
            os.replace(self.temporary, self.path)
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error}") from None

    def __exit__(self, *_):
        if self.video is not None:
            self.video.release()
        self.temporary.unlink(missing_ok=True)


def inference(args):
    """Make over the faces of photos, GIFs and videos, and put them back where they were."""
    plan = plan_outputs(args)
    generator, device, autocast, saved = load_model(args)
    detector, done, why = MTCNN(device), 0, ""
    plan[0][1].parent.mkdir(parents=True, exist_ok=True)
    for file, path in plan:
        with Writer(file, path) as writer:
            found = count = 0
            try:
                for _, photo in numbered_frames(file):
                    made = make_over_photo(photo, generator, detector, device, autocast, args, saved)
                    count, found = count + 1, found + (made is not None)
                    made = photo if made is None else made
                    writer.add(np.concatenate([photo, made], 1) if args.side_by_side else made)
                if found:
                    writer.keep()
            except InputError as error:
                found, why = 0, str(error).removeprefix(f"{file}: ")
            else:
                why = "" if found else "no face found" + (f" in {count} frames" if count > 1 else "")
        if found:
            done += 1
            print(f"{path}: " + (f"a face made over in {found} of {count} frames" if count > 1 else "made over"))
        elif len(plan) > 1:
            print(f"skipped {file.name}: {why}")
    if not done:
        if args.images and not any(Path(args.out_dir).iterdir()):
            Path(args.out_dir).rmdir()
        raise InputError(f"{plan[0][0]}: {why}" if len(plan) == 1 else f"none of {len(plan)} files: the last, {why}")


VERBS = dict(train=train, test=test, inference=inference)


if __name__ == "__main__":
    main()
