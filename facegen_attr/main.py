"""Faces from attributes, by six conditional GANs, and faces refined request by request, the person staying the same.

After the DeepLearning_FaceGen document and DCGAN (arXiv 1511.06434); what obeys uses a projection discriminator
(arXiv 1802.05637), an auxiliary classifier (arXiv 1610.09585), conditional batch norm (arXiv 1707.00683).

One GPU:      python facegen_attr/main.py --dataset_dir=data/celeba --model dcgan2 --recipe best
Several:      torchrun --nproc_per_node=8 facegen_attr/main.py --dataset_dir=data/celeba --model dcgan2 --recipe best
CPU, minutes: python facegen_attr/main.py --dataset_dir=data/celeba --model dcgan1 --train_size 2000
Then:         python facegen_attr/main.py --dataset_name=celeba --model dcgan2 --recipe best --run generate \
                  --request "Male=1,Smiling=1,Eyeglasses=0" --count 16 --out_dir out
Own photo:    python facegen_attr/main.py --dataset_name=celeba --model dcgan5 --recipe best --run refine \
                  --images me.jpg --web
"""

import argparse
import copy
import csv
import math
import os
import pickle
import signal
import sys
import zlib
from datetime import timedelta
from functools import partial
from pathlib import Path

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
    ATTRIBUTES,
    FULL,
    SQUARE,
    CelebA,
    attribute_indices,
    batches,
    load_faces,
    pack,
    parse_condition,
    subset,
    to_tensor,
    to_uint8,
)
from common.mtcnn import MTCNN
from common.photos import InputError
from facegen_attr.chart import draw_bars, draw_lines
from facegen_attr.model import (
    MODELS,
    REFINERS,
    SETS,
    ConditionalDiscriminator,
    ConditionalGenerator,
    Discriminator,
    Editor,
    FullDiscriminator,
    FullGenerator,
    Generator,
    contradictions,
    exclusions,
    flipped,
    initialise,
    mismatched,
    resampled,
    start_shape,
)
from facegen_attr.predictor import SIZE, Predictor, balanced_accuracy, predict, shifted
from facegen_attr.refine import Session, talk

# ---------------------------------------------------------------------------------------------------------------------
# Flags

PRESETS = {  # the document's table for each model; a flag that is given wins
    "fcgan": dict(image_size=218, attributes="23", epoch=100, optimizer="adam", learning_rate=2e-4, train_size="40000"),
    "dcgan1": dict(image_size=32, attributes="1", epoch=10, optimizer="rmsprop", learning_rate=1e-4,
                   train_size="50000"),
    "dcgan2": dict(image_size=32, attributes="8", epoch=50, optimizer="adam", learning_rate=2e-4, train_size=None),
    "dcgan3": dict(image_size=32, attributes="5", epoch=20, optimizer="rmsprop", learning_rate=8e-5,
                   train_size="15000"),
    "dcgan4": dict(image_size=32, attributes="5", epoch=20, optimizer="rmsprop", learning_rate=8e-5,
                   train_size="20000"),
    "dcgan5": dict(image_size=32, attributes="5", epoch=20, optimizer="rmsprop", learning_rate=8e-5,
                   train_size="20000"),
}  # fmt: skip
DCGAN2_LARGE = dict(image_size=64, attributes="5", epoch=10, optimizer="rmsprop", train_size="50000")  # 64 x 64
PREDICTOR = dict(epoch=12, optimizer="adam", learning_rate=1e-3, beta1=0.9, train_size=None)
DCGAN2_EPOCHS = {2: 300, 8: 50, 23: 44}  # by the number of attributes

RECIPES = {  # what --recipe sets; each is a flag of its own, and a flag that is given wins
    "document": dict(network="document", lambda_mismatch=1.0, lambda_attributes=0.0, lambda_rec=0.5, balance=0.0,
                     lambda_r1=0.0, flip=False, diff_augment=False, ema=0.999, show_ema=False),
    "best": dict(network="conditional", lambda_mismatch=1.0, lambda_attributes=0.5, lambda_rec=1.5, balance=0.2,
                 lambda_r1=0.2, flip=True, diff_augment=False, ema=0.995, show_ema=True, image_size=64,
                 attributes="8", optimizer="adam", learning_rate=5e-4, train_size=None, epoch=40),
}  # fmt: skip

# Flags that may differ when a run is resumed; all others shape the network, the data or the loss.
MAY_CHANGE = {"run", "epoch", "steps", "device", "precision", "workers", "dataset_dir", "dataset_name", "record_dir",
              "checkpoint_dir", "model_path", "sample_dir", "log_every", "sample_every", "save_every", "request",
              "count", "images", "first_model", "predictor_path", "out_dir", "overwrite", "web",
              "port"}  # fmt: skip


def parse_args(argv=None):
    """Read the command line. InputError: flags that do not go together."""
    parser = argparse.ArgumentParser(
        usage="python facegen_attr/main.py --dataset_dir DIR [--run VERB] [--model MODEL] [flags; --help lists them]",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.error = lambda message: sys.exit(fail(message))  # one line, without the usage
    switch = dict(type=boolean, nargs="?", const=True, metavar="True|False")

    do = parser.add_argument_group("What to do")
    do.add_argument("--run", choices=VERBS, default="train", help="train, analyse, generate, refine or train_predictor")

    model = parser.add_argument_group("Model")
    model.add_argument("--model", choices=MODELS, default="dcgan2", help="one of the document's six (default: dcgan2)")
    model.add_argument("--network", choices=("document", "conditional"), help="conditional obeys (dcgan2, dcgan5 only)")
    model.add_argument("--image_size", type=int, help="height of the pictures: 16 to 128 (fcgan: of the whole, 218)")
    model.add_argument("--attributes", help="1, 2, 5, 8, 23 or a list such as Male,Smiling (default: the model's)")

    training = parser.add_argument_group("Training")
    training.add_argument("--epoch", type=int, help="passes over the training pictures (default: by model)")
    training.add_argument("--steps", type=int, default=0, help="end after so many steps whatever the epochs say")
    training.add_argument("--train_size", help="training pictures: a number, or a share such as 0.5 (default: all)")
    training.add_argument("--batch_size", type=int, default=32, help="pictures a step, over all processes")
    training.add_argument("--optimizer", choices=("adam", "rmsprop"), help="of both networks (default: the model's)")
    training.add_argument("--learning_rate", type=float, help="of both networks (default: the model's)")
    training.add_argument("--beta1", type=float, default=0.5, help="Adam's momentum (default: 0.5)")
    training.add_argument("--lambda_mismatch", type=float, help="weight of D's loss on real faces, wrong attributes")
    training.add_argument("--lambda_attributes", type=float, help="weight of reading them (document: 0, best: 0.5)")
    training.add_argument("--lambda_rec", type=float, help="weight of the distance to the picture fed in (dcgan4, 5)")
    training.add_argument("--balance", type=float, help="repeat faces until each attribute is in this share of them")
    training.add_argument("--flip", **switch, help="mirror half of the pictures (document: False, best: True)")
    training.add_argument("--diff_augment", **switch, help="recolour, shift and hole what D sees (default: no)")
    training.add_argument("--lambda_r1", type=float, help="weight of the gradient penalty, every 16 steps (0: none)")
    training.add_argument("--ema", type=float, help="decay of the mean of the weights (document: 0.999, best: 0.995)")
    training.add_argument("--show_ema", **switch, help="show and keep that mean (document: False, best: True)")
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
    files.add_argument("--request", help="generate, refine: what is asked for, such as Male=1,Smiling=0")
    files.add_argument("--count", type=int, help="generate: how many pictures (default: 16)")
    files.add_argument("--images", nargs="+", help="own pictures: files, folders, GIFs, videos (dcgan5)")
    files.add_argument("--first_model", help="refine: model file that makes the first guess from noise (dcgan5)")
    files.add_argument("--predictor_path", help="refine: model file of the predictor (default: beside the model)")
    files.add_argument("--out_dir", help="generate: folder for single pictures and manifest.tsv")
    files.add_argument("--overwrite", **switch, default=False, help="write into an --out_dir that is not empty")
    files.add_argument("--web", **switch, default=False, help="refine: in the browser, on this machine only")
    files.add_argument("--port", type=int, default=7860, help="refine --web: where the page is served (default: 7860)")

    first = parser.parse_known_args(argv)[0]
    defaults = {**PRESETS[first.model], **RECIPES[first.recipe]}
    if first.recipe == "document" and first.model == "dcgan2":
        if first.image_size == 64:
            defaults |= DCGAN2_LARGE
        else:
            count = len(attribute_list(first.attributes or defaults["attributes"]))
            defaults["epoch"] = DCGAN2_EPOCHS.get(count, defaults["epoch"])
    if first.run == "train_predictor":
        defaults |= PREDICTOR
    parser.set_defaults(**defaults)
    args = parser.parse_args(argv)
    check(args)
    return args


def attribute_list(text):
    """Names of attributes from the name of a set, or a list; InputError with the nearest names."""
    names = SETS.get(text) or [name.strip() for name in text.split(",")]
    attribute_indices(names)
    return names


def check(args):
    """Refuse what cannot work before anything is read or written: InputError."""
    args.attributes = attribute_list(args.attributes)
    sizes = range(16, 513) if args.model == "fcgan" else (16, 32, 64, 128)
    if args.image_size not in sizes:
        possible = "16 to 512" if args.model == "fcgan" else "16, 32, 64 and 128"
        raise InputError(f"--image_size {args.image_size}: {args.model} makes {possible}")
    if args.network == "conditional" and args.model not in ("dcgan2", "dcgan5"):
        raise InputError("--network conditional, as --recipe best has it, is for dcgan2, which begins from noise, and "
                         f"for dcgan5, which refines a picture; {args.model} is the document's alone")
    if args.lambda_attributes and args.network != "conditional":
        raise InputError("--lambda_attributes needs --network conditional, whose discriminator reads them")
    for name in ("epoch", "batch_size", "log_every", "learning_rate"):
        if getattr(args, name) <= 0:
            raise InputError(f"--{name} {getattr(args, name)}: expected more than 0")
    for name in ("steps", "sample_every", "save_every", "workers", "lambda_mismatch", "lambda_attributes", "lambda_rec",
                 "lambda_r1"):  # fmt: skip
        if getattr(args, name) < 0:
            raise InputError(f"--{name} {getattr(args, name)}: expected 0 or more")
    if args.count is not None and not 1 <= args.count <= 100_000:
        raise InputError(f"--count {args.count}: expected 1 to 100000")
    if not 0 <= args.balance <= 0.5:
        raise InputError(f"--balance {args.balance}: expected a share from 0 to 0.5")
    if not 0 <= args.beta1 < 1 or not 0 <= args.ema < 1:
        raise InputError(f"--beta1 {args.beta1} --ema {args.ema}: expected 0 or more and less than 1")
    if not 0 <= args.port <= 65535:
        raise InputError(f"--port {args.port}: expected 0 to 65535 (0: any that is free)")
    if args.request is not None:
        parse_condition(args.request)
    if args.dataset_name is None and args.dataset_dir is not None:
        args.dataset_name = Path(args.dataset_dir).resolve().name.removesuffix(".zip")
    if args.dataset_name is None and args.model_path.endswith(".pt"):
        args.dataset_name = Path(args.model_path).stem
    if args.dataset_name is None:
        raise InputError("--dataset_dir is needed: the folder (or zip) with the pictures")
    if Path(args.dataset_name).name != args.dataset_name:
        raise InputError(f"--dataset_name {args.dataset_name}: expected a plain name, without slashes")


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


def discriminator_loss(d_real, d_fake, d_mismatch, lambda_mismatch):
    """The document's D_real + D_fake + D_mismatch: cross entropy on logits, (N,) each; d_mismatch may be None.

    A real face with its attributes is to be told from a generated one, and from a real one with wrong attributes.
    """
    loss = F.softplus(-d_real).mean() + F.softplus(d_fake).mean()
    return loss if d_mismatch is None else loss + lambda_mismatch * F.softplus(d_mismatch).mean()


def generator_loss(d_fake):
    """The document's cross_entropy(D_fake, ones), on logits (N,)."""
    return F.softplus(-d_fake).mean()


def reconstruction_loss(x, x_fed, network):
    """How far refining has led from the picture fed in: squared error (the document's), absolute for the editor."""
    return F.l1_loss(x, x_fed) if network == "conditional" else F.mse_loss(x, x_fed)


def attribute_loss(reading, c):
    """Cross entropy of the logits read, (N, A), and the attributes: summed over these, mean over the pictures."""
    return F.binary_cross_entropy_with_logits(reading, c, reduction="none").sum(1).mean()


# ---------------------------------------------------------------------------------------------------------------------
# Training


def place(args, kind):
    """Where this run's things lie: its "checkpoint", "model" (the best so far) or "samples"."""
    name = {"train_predictor": "predictor", "analyse": "analysis"}.get(args.run, f"{args.model}_{args.image_size}")
    name = f"{args.dataset_name}_{name}"
    if kind == "checkpoint":
        return Path(args.checkpoint_dir) / name / "last.pt"
    if kind == "model":
        path = Path(args.model_path)
        return path if path.suffix == ".pt" else path / f"{name}.pt"
    return Path(args.sample_dir) / name


def picture_size(args):
    """Height and width: square, but for fcgan, which has CelebA's whole picture, 218 x 178 or in that proportion."""
    if args.run == "train_predictor":
        return SIZE, SIZE
    return args.image_size, round(args.image_size * 178 / 218) if args.model == "fcgan" else args.image_size


def load_records(args, device, rank):
    """The data set's pictures at the network's size, packed once: the square, but for fcgan the whole picture."""
    if args.dataset_dir is None:
        raise InputError("--dataset_dir is needed: the folder (or zip) with the pictures")
    dataset = CelebA(args.dataset_dir, args.seed)
    if dataset.attributes is None:
        raise InputError(f"{args.dataset_dir} has no attributes (list_attr_celeba.txt or .csv): nothing to ask for")
    crop = "whole" if dataset.cropped else FULL if args.model == "fcgan" and args.run != "train_predictor" else \
        SQUARE  # fmt: skip
    if rank:  # rank 0 packs, the others then find the packed file
        dist.barrier()
    records = pack(dataset, args.record_dir, crop, picture_size(args), args.workers, device, progress=rank == 0)
    if rank == 0 and dist.is_initialized():
        dist.barrier()
    return records


def make_generator(args):
    """The generator that the flags describe."""
    count, size = len(args.attributes), args.image_size
    if args.model == "fcgan":
        generator = FullGenerator(count, *picture_size(args))
    elif args.network == "document":
        generator = Generator(args.model, count, size)
    else:
        generator = Editor(count) if args.model in REFINERS else ConditionalGenerator(count, size)
    initialise(generator, "document" if args.network == "document" else "he")
    return generator


def make_discriminator(args):
    """The discriminator that the flags describe."""
    count, size = len(args.attributes), args.image_size
    if args.model == "fcgan":
        discriminator = FullDiscriminator(count, *picture_size(args))
    elif args.network == "document":
        discriminator = Discriminator(args.model, count, size)
    else:
        discriminator = ConditionalDiscriminator(count, size)
    initialise(discriminator, "document" if args.network == "document" else "he")
    return discriminator


def make_optimizer(args, network):
    """Adam, or RMSprop with TensorFlow's decay of 0.9."""
    if args.optimizer == "rmsprop":
        return torch.optim.RMSprop(network.parameters(), args.learning_rate, alpha=0.9)
    return torch.optim.Adam(network.parameters(), args.learning_rate, (args.beta1, 0.99), fused=True)


def ask(args, generator, start, c, asked):
    """A generator's answer: the picture of the attributes `asked`, or start with the attributes c changed to these."""
    edits = args.model in REFINERS and args.network == "conditional"
    return generator(start, asked - c if edits else asked)


def imagine(args, generator, x, c, pool, mine):
    """What a step's losses look at: for each round (x_fake, what was asked for, the picture fed in or None).

    x, c: this process's real faces and their attributes, the slice `mine` of the whole batch, for which every process
    draws the numbers; pool: (M, A), the attributes of all faces. dcgan4 begins from noise and is fed what it made;
    dcgan5 begins from a real face, asked for another's attributes, and is fed what it made, asked for the face's own.
    The editor leaves one face in four as it is, turns one attribute round of one or two, and gives the others the
    attributes of another face: many changes at once, and the rare ones often.
    """
    numbers = torch.rand(3, args.batch_size)[:, mine]
    wrong = mismatched(c, pool, numbers[:2])
    if args.model in REFINERS and args.network == "conditional":
        changed = flipped(c, numbers[0], exclusions(args.attributes))
        kind = numbers[2, :, None].to(c.device)
        asked = torch.where(kind < 0.25, c, torch.where(kind < 0.6, changed, wrong))
        return [(ask(args, generator, x, c, asked), asked, x)]
    if args.model == "dcgan5":
        first = generator(x, wrong)
        return [(first, wrong, x), (generator(first, c), c, first)]
    start = torch.randn(args.batch_size, *start_shape(args.model, *x.shape[2:]))[mine].to(x.device)
    first = generator(start, c)
    if args.model == "dcgan4":
        return [(first, c, None), (generator(first, wrong), wrong, first)]
    return [(first, c, None)]


@torch.no_grad()
def answer(args, generator, start, c, asked, device, autocast):
    """ask() in evaluation mode, 64 at a time: (N, 3, H, W) float32 on the CPU."""
    generator.eval()
    pieces = []
    for begin in range(0, len(asked), 64):
        parts = [part[begin : begin + 64].to(device) for part in (start, c, asked)]
        with autocast():
            pieces.append(ask(args, generator, *parts).float().cpu())
    return torch.cat(pieces)


@torch.no_grad()
def obeyed(discriminator, x, asked, device, autocast):
    """How far the discriminator's own reading finds in pictures x (N, 3, H, W) what was asked for (N, A).

    For each attribute the mean of "yes" where it was asked for and of "no" where it was not, then the mean of those; a
    half is chance, 1 is all. Attributes that were asked of all or of none do not count.
    """
    with autocast():
        pieces = zip(x.split(64), asked.split(64), strict=True)
        read = torch.cat([discriminator(part.to(device), c.to(device))[1].float().cpu() for part, c in pieces])
    rate = balanced_accuracy((read > 0).float(), (asked > 0.5).float()).nanmean()
    return rate.nan_to_num(1.0).item()  # nothing to tell apart: nothing is disobeyed


def fixed_starts(args, records, rows, c):
    """What the sheets and the score begin from: the same noise always, or for dcgan5 the faces themselves; and what is
    asked for in the score: the faces' own attributes, or for dcgan5 others.
    """
    numbers = torch.Generator().manual_seed(args.seed)
    if args.model == "dcgan5":
        if args.network == "conditional":
            return to_tensor(records.images[rows]), flipped(c, torch.rand(len(c), generator=numbers),
                                                            exclusions(args.attributes))  # fmt: skip
        return to_tensor(records.images[rows]), mismatched(c, c, torch.rand(2, len(c), generator=numbers))
    return torch.randn(len(rows), *start_shape(args.model, *picture_size(args)), generator=numbers), c


def setting_rows(args, generator, start, c, device, autocast, count=4):
    """The rows of a sheet: `count` starts, each as asked first, then with each attribute turned round."""
    exclusive, rows = exclusions(args.attributes), {}
    total = len(args.attributes)
    for i in range(min(count, len(c))):
        each = flipped(c[i].repeat(total, 1), (torch.arange(total) + 0.5) / total, exclusive)
        first = start[i : i + 1] if args.model == "dcgan5" else \
            answer(args, generator, start[i : i + 1], c[i : i + 1], c[i : i + 1], device, autocast)  # fmt: skip
        begin = first if args.model in REFINERS else start[i : i + 1]
        begin = begin.expand(total, *begin.shape[1:])
        others = answer(args, generator, begin, c[i].repeat(total, 1), each, device, autocast)
        label = f"face {i + 1}" if i else f"as asked, then turned round: {', '.join(args.attributes)}"
        rows[label] = torch.cat([first, others])
    return rows


def train(args):
    """Train a generator and its discriminator."""
    device, autocast, rank, world = setup(args)

    # Data
    if args.batch_size % world:
        raise InputError(f"--batch_size {args.batch_size}: expected a multiple of {world}, the number of processes")
    records = load_records(args, device, rank)
    args.data = f"{len(records.names)} pictures {zlib.crc32(' '.join(records.names).encode()):08x}"
    attributes = torch.from_numpy(records.attributes[:, attribute_indices(args.attributes)]).float()
    train_rows = subset(records.rows("train"), args.train_size, args.seed)
    validation_rows = subset(records.rows("validation"), 500)
    if min(len(train_rows), len(validation_rows)) < 2:
        raise InputError(f"{len(records.names)} usable pictures are too few to train and to validate with")
    epoch_steps = max(1, len(train_rows) // args.batch_size)
    planned = args.epoch * epoch_steps
    last = min(planned, args.steps or planned)
    mine = slice(rank * args.batch_size // world, (rank + 1) * args.batch_size // world)
    x_validation, c_validation = to_tensor(records.images[validation_rows]), attributes[validation_rows]
    start, asked = fixed_starts(args, records, validation_rows, c_validation)
    known = attributes[subset(train_rows, 2000)].byte()  # whose other attributes a request of a few goes with
    shown_rows = train_rows
    if args.balance:  # a row that is there several times is shown so often
        shown_rows = train_rows[resampled(attributes[train_rows], args.balance, 4 * len(train_rows)).numpy()]
    attributes, pool = attributes.to(device), attributes[shown_rows].to(device)

    # Models
    generator = make_generator(args).to(device, memory_format=torch.channels_last)
    discriminator = make_discriminator(args).to(device, memory_format=torch.channels_last)
    ema = copy.deepcopy(generator).requires_grad_(False)
    shown = ema if args.show_ema else generator
    g_optimizer, d_optimizer = make_optimizer(args, generator), make_optimizer(args, discriminator)

    # Resume
    checkpoint, best_path, samples = (place(args, kind) for kind in ("checkpoint", "model", "samples"))
    parts = dict(generator=generator, discriminator=discriminator, ema=ema, g_optimizer=g_optimizer,
                 d_optimizer=d_optimizer)  # fmt: skip
    state = load_checkpoint(checkpoint, args, parts)
    if state is None:
        if best_path.exists():
            raise InputError(f"{best_path} is there, but no checkpoint of its run: move it away or give --model_path")
        state = dict(step=0, best=math.inf, best_step=0, history=torch.zeros(0, 6), known=known)
    if state["step"] >= last:
        print(f"trained {state['step']} of {planned} steps already: raise --epoch or --steps to go on")
        return

    # Logs
    from torch.utils.tensorboard import SummaryWriter  # takes seconds, which the verbs below need not wait for

    if rank == 0:
        sizes = [sum(p.numel() for p in network.parameters()) for network in (generator, discriminator)]
        print(f"{len(train_rows)} training and {len(validation_rows)} validation faces, {len(args.attributes)} "
              f"attributes, {sizes[0]:,} parameters in the generator and {sizes[1]:,} in the discriminator, {planned} "
              f"steps of {args.batch_size}, {device}")  # fmt: skip
        print(f"watch it: tensorboard --logdir {samples / 'logs'}")
    writer = SummaryWriter(samples / "logs", purge_step=state["step"] + 1) if rank == 0 else None
    bar = tqdm(total=last * args.batch_size, initial=state["step"] * args.batch_size, unit="img", unit_scale=True,
               disable=rank > 0, mininterval=1 if sys.stderr.isatty() else 30)  # fmt: skip
    sums, logged = torch.zeros(5, device=device), state["step"]
    bad_step = torch.zeros((), device=device)
    stream = batches(records, shown_rows, args.batch_size, device, args.seed, state["step"], rank, world, args.flip)
    stop_requested = listen_for_stop()

    for step in range(state["step"] + 1, last + 1):
        x, chosen = next(stream)
        c = attributes[chosen]
        wrong = mismatched(c, pool, torch.rand(2, args.batch_size)[:, mine])
        generator.train()
        discriminator.train()
        with autocast():
            rounds = imagine(args, generator, x, c, pool, mine)
        x_fake, c_fake = (torch.cat([made[i] for made in rounds]).float() for i in (0, 1))

        def seen(x, rounds=1):  # what the discriminator sees of the pictures
            if not args.diff_augment:
                return x
            numbers = [torch.rand(7, args.batch_size)[:, mine] for _ in range(rounds)]
            return diff_augment(x, torch.cat(numbers, 1)).contiguous(memory_format=torch.channels_last)

        # Discriminator: tell real from generated, right attributes from wrong ones, and read the attributes
        x_seen = seen(x)
        with autocast():
            d_real, reading = discriminator(x_seen, c, *([wrong] if args.lambda_mismatch else []))
            (d_fake,), _ = discriminator(seen(x_fake.detach(), len(rounds)), c_fake)
        d_real, d_mismatch = d_real[0].float(), d_real[1].float() if args.lambda_mismatch else None
        d_loss = discriminator_loss(d_real, d_fake.float(), d_mismatch, args.lambda_mismatch)
        total = d_loss
        if args.lambda_attributes:
            total = total + args.lambda_attributes * attribute_loss(reading.float(), c)
        if args.lambda_r1 and step % 16 == 1:  # lazily: 16 times as strong
            x_seen = x_seen.detach().requires_grad_()
            (slope,) = torch.autograd.grad(discriminator(x_seen, c)[0][0].sum(), x_seen, create_graph=True)
            total = total + 16 * args.lambda_r1 / 2 * slope.square().sum((1, 2, 3)).mean()
        d_optimizer.zero_grad()
        total.backward()
        average_gradients(discriminator)
        d_optimizer.step()

        # Generator: pass for real, show the attributes asked for, and stay near the picture fed in
        discriminator.requires_grad_(False)
        with autocast():
            (d_judged,), reading = discriminator(seen(x_fake, len(rounds)), c_fake)
        g_loss = generator_loss(d_judged.float())
        total = g_loss
        if args.lambda_attributes:
            total = total + args.lambda_attributes * attribute_loss(reading.float(), c_fake)
        if args.model in REFINERS:
            pairs = [(made.float(), fed) for made, _, fed in rounds if fed is not None]
            total = total + args.lambda_rec * sum(reconstruction_loss(*pair, args.network) for pair in pairs)
        g_optimizer.zero_grad()
        total.backward()
        average_gradients(generator)
        g_optimizer.step()
        discriminator.requires_grad_(True)
        update_ema(ema, generator, args.ema, step)

        # What is due: numbers, a sheet and the score, a checkpoint
        with torch.no_grad():
            mismatch = torch.zeros(1, device=device) if d_mismatch is None else d_mismatch.sigmoid()
            sums += torch.stack([d_loss, g_loss, *(p.mean() for p in (d_real.sigmoid(), d_fake.float().sigmoid(),
                                                                      mismatch))])  # fmt: skip
            bad_step = torch.where(torch.isfinite(d_loss + total) | (bad_step > 0), bad_step, step)
        bar.update(args.batch_size)
        stop = stop_requested()
        epoch_end = step % epoch_steps == 0
        at_end = step == last or stop
        save = at_end or (step % args.save_every == 0 if args.save_every else epoch_end)
        sheet_due = step == last or (step % args.sample_every == 0 if args.sample_every else epoch_end)
        if step % args.log_every == 0 or save or sheet_due:
            mean = sums / (step - logged)
            if dist.is_initialized():
                dist.all_reduce(mean.div_(world))
            if bad_step.item():
                bad = int(bad_step.item())
                sys.exit(fail(f"the loss is not finite at step {bad}; the last good state is {checkpoint}", code=1))
            sums, logged = torch.zeros_like(sums), step
            state["history"] = torch.cat([state["history"], torch.tensor([[step, *mean.tolist()]])])
            bar.set_postfix(d=f"{mean[0].item():.3f}", g=f"{mean[1].item():.3f}")
            if writer:
                for tag, value in zip(("loss/d", "loss/g", "probability/real", "probability/fake",
                                       "probability/mismatch"), mean.tolist(), strict=True):  # fmt: skip
                    writer.add_scalar(tag, value, step)
        better = False
        if rank == 0 and sheet_due:
            x_shown = answer(args, shown, start, c_validation, asked, device, autocast)
            spread, distance = diversity(x_shown, x_validation), sliced_wasserstein(x_shown, x_validation)
            # Real-looking faces that show something else are no good: what is not obeyed counts as well.
            score = distance
            if args.lambda_attributes:
                read = obeyed(discriminator, x_shown, asked, device, autocast)
                score = distance + 1 - read
                writer.add_scalar("attributes/read", read, step)
            writer.add_scalar("diversity", spread, step)
            writer.add_scalar("sliced_wasserstein", distance, step)
            if spread < 0.5:
                bar.write(f"step {step}: the faces are too much alike (diversity {spread:.2f} of real faces')")
            rows = {"fixed noise" if args.model != "dcgan5" else "refined": x_shown[:32]}
            rows |= setting_rows(args, shown, start, c_validation, device, autocast)
            sheet = save_sheet(samples / f"{step:07d}.png", rows, columns=max(16, len(args.attributes) + 1))
            writer.add_image("images/samples", sheet, step, dataformats="HWC")
            # An editor that does nothing comes nearest to real faces: of editors, the newest that has not collapsed.
            edits = args.model in REFINERS and args.network == "conditional"
            better = spread >= 0.5 if edits else score < state["best"]
            if better:
                state |= dict(best=score, best_step=step)
        if rank == 0 and (save or better):  # the checkpoint first: no model without one
            save_checkpoint(checkpoint, args, parts, **state | {"step": step})
        if rank == 0 and better:
            save_checkpoint(best_path, args, {"generator": shown}, step=step, known=state["known"])
        if stop:
            break
    bar.close()
    if writer:
        writer.close()
        draw_history(samples, state["history"])
        print(f"trained {step} of {planned} steps; the model kept is that of step {state['best_step']} "
              f"(score {state['best']:.4f})")  # fmt: skip
        print(f"model {best_path}, sheets and curves {samples}")


def draw_history(samples, history):
    """The curves of both losses, and of D's mean probability on real, generated and mismatched pictures, as PNG."""
    steps, *columns = history.T.tolist()
    draw_lines(samples / "loss.png", "loss", steps, dict(zip(("d", "g"), columns[:2], strict=True)))
    names = ("real", "fake", "mismatch")
    draw_lines(samples / "probability.png", "D's mean probability", steps, dict(zip(names, columns[2:], strict=True)))


# ---------------------------------------------------------------------------------------------------------------------
# Using the model


def load_generator(args):
    """The best model so far, else the last checkpoint: generator, the flags it was trained with, what was saved beside
    it, device and autocast.
    """
    device, autocast, *_ = setup(args)
    candidates = [place(args, "model"), place(args, "checkpoint")]
    if Path(args.model_path).suffix == ".pt":  # that one and no other
        candidates = candidates[:1]
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        missing = " nor ".join(map(str, candidates))
        raise InputError(f"no model: no {missing} is there; train first (--run train)")
    generator, saved, state = read_generator(path)
    return generator.to(device, memory_format=torch.channels_last), saved, state, device, autocast


def read_generator(path):
    """A generator from a model file or checkpoint, with the flags it was trained with and the state saved beside it."""
    content = read_checkpoint(path)
    saved = argparse.Namespace(**content["args"])
    try:
        generator = make_generator(saved)
        generator.load_state_dict(content["ema" if "ema" in content and saved.show_ema else "generator"])
    except (AttributeError, KeyError, RuntimeError):
        raise InputError(f"{path} is no generator of this project") from None
    print(f"model {path}: {saved.model}, step {content['state']['step']}, {saved.recipe} recipe, {saved.image_size} "
          f"pixels, {len(saved.attributes)} attributes")  # fmt: skip
    return generator.eval(), saved, content["state"]


def wanted(args, attributes):
    """--request as columns of the model's attributes and values. InputError: one that it was not trained on."""
    request = parse_condition(args.request or "")
    strange = [name for name in request if name not in attributes]
    if strange:
        raise InputError(f"the model was not trained on {', '.join(strange)}, but on {', '.join(attributes)}")
    for pair in contradictions([name for name, value in request.items() if value]):
        print(f"note: {pair} contradict each other; asked for all the same")
    return [attributes.index(name) for name in request], torch.tensor(list(request.values()), dtype=torch.float32)


def draw_requests(args, saved, state, count):
    """count rows (N, A) of attributes to ask for, as faces have them together.

    With --request, rows that have it (or most of it, and then made to have all); without, for each attribute in turn a
    row that has it and one that lacks it, from the data set's test part, or from the training faces that the model
    remembers where no data set is given.
    """
    columns, values = wanted(args, saved.attributes)
    pool = state["known"]
    if args.dataset_dir:
        dataset = CelebA(args.dataset_dir, args.seed)
        if dataset.attributes is not None and (dataset.partition == 2).any():
            pool = torch.from_numpy(dataset.attributes[dataset.partition == 2][:, attribute_indices(saved.attributes)])
    rng, pool, rows = np.random.default_rng(args.seed), pool.float(), []
    for i in range(count):
        if columns:
            misses = (pool[:, columns] != values).sum(1)
            candidates = (misses == misses.min()).nonzero()
        else:
            candidates = (pool[:, i // 2 % pool.shape[1]] == i % 2).nonzero()
        rows.append(pool[candidates[rng.integers(len(candidates)), 0]] if len(candidates) else pool[i % len(pool)])
    rows = torch.stack(rows)
    rows[:, columns] = values
    return rows


def own_faces(args, saved, device):
    """--images as face crops at the model's size, with the attributes that the predictor reads in them (N, A)."""
    folder = Path(args.model_path).parent if args.model_path.endswith(".pt") else Path(args.model_path)
    path = Path(args.predictor_path or folder / f"{args.dataset_name}_predictor.pt")
    if not path.exists():
        raise InputError(f"no {path}: --run train_predictor makes it, so that nobody has to label a photo by hand")
    predictor = Predictor()
    try:
        predictor.load_state_dict(read_checkpoint(path)["predictor"])
    except (KeyError, RuntimeError):
        raise InputError(f"{path} is no predictor of this project") from None
    images, names, skipped = load_faces(args.images, SQUARE, (max(SIZE, saved.image_size),) * 2, MTCNN(device))
    for name, reason in skipped:
        print(f"skipped {name}: {reason}")
    x = to_tensor(images)
    read = predict(predictor.to(device), to_uint8(F.interpolate(x, (SIZE, SIZE), mode="area")))
    c = read[:, attribute_indices(saved.attributes)]
    for name, row in zip(names, c.tolist(), strict=True):
        print(f"{name} shows {', '.join(a for a, there in zip(saved.attributes, row, strict=True) if there) or 'none'}")
    return F.interpolate(x, (saved.image_size,) * 2, mode="area"), c


def test_faces(args, saved, device):
    """The data set's test faces (N, 3, H, W) in [-1, 1] and their attributes (N, A)."""
    records = load_records(argparse.Namespace(**vars(args) | {"model": saved.model, "image_size": saved.image_size}),
                           device, 0)  # fmt: skip
    rows = records.rows("test")
    if len(rows) == 0:
        raise InputError(f"{args.dataset_dir} has no test pictures: name pictures with --images")
    c = torch.from_numpy(records.attributes[rows][:, attribute_indices(saved.attributes)]).float()
    return to_tensor(records.images[rows]), c


def new_numbered(folder, name):
    """The path of the first of name_001, name_002, ... in a folder that is not there yet."""
    return next(path for i in range(1, 10**6) if not (path := folder / f"{name}_{i:03d}").exists())


def as_request(attributes, row):
    """The text of a request from a row of 1 and 0."""
    return ",".join(f"{name}={int(value)}" for name, value in zip(attributes, row.tolist(), strict=True))


def generate(args):
    """Pictures of what is asked for: a sheet, single files and manifest.tsv, which benchmarks/quality.py reads.

    dcgan5 changes pictures (--images, or the test faces in turn) instead: to --request, or one attribute each.
    """
    generator, saved, state, device, autocast = load_generator(args)
    count, samples, sources = args.count or 16, place(args, "samples"), None
    if args.images and saved.model != "dcgan5":
        raise InputError(f"{saved.model} begins from noise: --images is for --model dcgan5")
    if saved.model == "dcgan5":
        x, c = own_faces(args, saved, device) if args.images else test_faces(args, saved, device)
        columns, values = wanted(args, saved.attributes)
        chosen = torch.arange(count if not args.images or args.count else len(x)) % len(x)
        sources, c = x[chosen], c[chosen]
        which = (torch.arange(len(c)) % c.shape[1] + 0.5) / c.shape[1]
        asked = flipped(c, which, exclusions(saved.attributes))
        if columns:
            asked = c.clone()
            asked[:, columns] = values
        start, texts = sources, []
        for before, after in zip(c, asked, strict=True):  # what is to change; of hair colours, the one that comes
            turned = columns or [k for k in range(len(after)) if after[k] != before[k]]
            turned = [k for k in turned if columns or after[k]] or turned
            texts.append(as_request([saved.attributes[k] for k in turned], after[turned]))
    else:
        c = asked = draw_requests(args, saved, state, count)
        texts = [as_request(saved.attributes, row) for row in asked]
        numbers = torch.Generator().manual_seed(args.seed)
        start = torch.randn(count, *start_shape(saved.model, *picture_size(saved)), generator=numbers)
    out_dir = new_folder(args.out_dir or new_numbered(samples, "generate"), args.overwrite)
    x = answer(saved, generator, start, c, asked, device, autocast)

    with open(out_dir / "manifest.tsv", "w", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(["file", "request", *(["source"] if sources is not None else [])])
        for i, (picture, text) in enumerate(zip(to_uint8(x), texts, strict=True)):
            Image.fromarray(picture).save(out_dir / f"{i:05d}.png")
            table.writerow([f"{i:05d}.png", text, *([f"source/{i:05d}.png"] if sources is not None else [])])
    if sources is not None:
        (out_dir / "source").mkdir(exist_ok=True)
        for i, picture in enumerate(to_uint8(sources)):
            Image.fromarray(picture).save(out_dir / "source" / f"{i:05d}.png")
    rows = {"as they were": sources[:32], "as asked for": x[:32]} if sources is not None else \
        {args.request or "as some face has it": x[:256]}  # fmt: skip
    save_sheet(out_dir / "sheet.png", rows)
    print(f"{len(x)} pictures, sheet.png and manifest.tsv in {out_dir}")


def refine(args):
    """Refine a face request by request: from noise, from a photo of one's own, or from a test face."""
    generator, saved, state, device, autocast = load_generator(args)
    if args.images and saved.model != "dcgan5":
        raise InputError(f"{saved.model} begins from noise: --images is for --model dcgan5")
    if args.first_model and saved.model != "dcgan5":
        raise InputError(f"{saved.model} makes the first guess itself: --first_model is for --model dcgan5")
    first_guess = read_generator(Path(args.first_model)) if args.first_model else None
    if first_guess and first_guess[1].attributes != saved.attributes:
        raise InputError(f"--first_model was trained on other attributes: {', '.join(first_guess[1].attributes)}")
    if first_guess and first_guess[1].model in REFINERS:
        raise InputError(f"--first_model is to begin from noise; {args.first_model} is a {first_guess[1].model}")
    if saved.model == "dcgan5" and not (args.images or first_guess or args.dataset_dir):
        raise InputError("dcgan5 refines a picture: give --images, --first_model, or --dataset_dir for a test face")
    columns, values = wanted(args, saved.attributes)

    def begin(seed, photo=None):
        """A session on a new face: the noise of a seed, the seed-th test face, or a photo."""
        fixed = argparse.Namespace(**vars(args) | {"seed": seed, "images": [photo] if photo else args.images})
        if photo or args.images:
            if saved.model != "dcgan5":
                raise InputError(f"{saved.model} begins from noise; dcgan5 refines a photo")
            pictures, rows = own_faces(fixed, saved, device)
            start, picture, c = pictures[:1], pictures[0], rows[0]
        elif saved.model == "dcgan5" and not first_guess:
            pictures, rows = test_faces(args, saved, device)
            start, picture, c = pictures[seed % len(rows)][None], pictures[seed % len(rows)], rows[seed % len(rows)]
        else:
            maker, made_by, remembered = first_guess or (generator, saved, state)
            c = draw_requests(argparse.Namespace(**vars(fixed) | {"dataset_dir": None}), saved, remembered, 1)[0]
            numbers = torch.Generator().manual_seed(seed)
            start = torch.randn(1, *start_shape(made_by.model, *picture_size(made_by)), generator=numbers)
            picture = answer(made_by, maker.to(device), start, c[None], c[None], device, autocast)[0]
            if first_guess:
                picture = F.interpolate(picture[None], picture_size(saved), mode="bilinear", antialias=True)[0]
                start = picture[None]

        def render(before, asked):
            """The editor changes the first picture, so that nothing wears off; dcgan4, 5 are fed what they made."""
            fed = before[None] if saved.model in REFINERS and saved.network == "document" else start
            return answer(saved, generator, fed, c[None], asked[None], device, autocast)[0]

        session = Session(saved.attributes, picture, c, render, new_numbered(place(args, "samples"), "refine"))
        if columns and (photo or args.images or saved.model == "dcgan5" and not first_guess):
            session.change({saved.attributes[k]: value * 2 - 1 for k, value in zip(columns, values.tolist(),
                                                                                   strict=True)})  # fmt: skip
        return session

    if args.web:
        try:
            from facegen_attr.web import serve
        except ModuleNotFoundError as error:
            raise InputError(f"--web needs {error.name}: pip install -r requirements-web.txt") from None
        serve(begin, saved.attributes, args.seed, saved.model == "dcgan5", args.port)
    else:
        talk(begin(args.seed), sys.stdin, "> " if sys.stdin.isatty() else "")


def analyse(args):
    """How often each of the 40 attributes is there, and the chosen ones: a table, and two charts as PNG."""
    if args.dataset_dir is None:
        raise InputError("--dataset_dir is needed: the folder (or zip) with the pictures")
    dataset = CelebA(args.dataset_dir, args.seed)
    if dataset.attributes is None:
        raise InputError(f"{args.dataset_dir} has no attributes (list_attr_celeba.txt or .csv): nothing to analyse")
    shares = dict(zip(ATTRIBUTES, dataset.attributes.mean(0).tolist(), strict=True))
    print(f"{len(dataset.files)} pictures; * chosen ({len(args.attributes)}); sparse: less than 10% have it")
    for name, share in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"{'*' if name in args.attributes else ' '} {name:20} {share:6.1%} {'sparse' if share < 0.1 else '':6} "
              f"{'#' * round(share * 50)}".rstrip())  # fmt: skip
    sparse = [name for name in args.attributes if shares[name] < 0.1]
    print(f"sparse among the chosen: {', '.join(sparse) or 'none'}")
    samples = place(args, "samples")
    draw_bars(samples / "all_attributes.png", f"all 40 attributes of {len(dataset.files)} pictures", shares)
    draw_bars(samples / "chosen_attributes.png", f"the {len(args.attributes)} chosen attributes",
              {name: shares[name] for name in args.attributes})  # fmt: skip
    print(f"all_attributes.png and chosen_attributes.png in {samples}")


def train_predictor(args):
    """Train the network that reads the attributes of a person's own photo; the best on validation is kept."""
    device, autocast, rank, world = setup(args)

    # Data
    if args.batch_size % world:
        raise InputError(f"--batch_size {args.batch_size}: expected a multiple of {world}, the number of processes")
    records = load_records(args, device, rank)
    args.data = f"{len(records.names)} pictures {zlib.crc32(' '.join(records.names).encode()):08x}"
    attributes = torch.from_numpy(records.attributes).float()
    train_rows = subset(records.rows("train"), args.train_size, args.seed)
    held_out = {part: records.rows(part) for part in ("validation", "test")}
    if min(len(train_rows), len(held_out["validation"])) < 2:
        raise InputError(f"{len(records.names)} usable pictures are too few to train and to validate with")
    epoch_steps = max(1, len(train_rows) // args.batch_size)
    planned = args.epoch * epoch_steps
    last = min(planned, args.steps or planned)
    mine = slice(rank * args.batch_size // world, (rank + 1) * args.batch_size // world)

    # Models
    predictor = Predictor().to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(args, predictor)

    # Resume
    checkpoint, best_path, samples = (place(args, kind) for kind in ("checkpoint", "model", "samples"))
    parts = dict(predictor=predictor, optimizer=optimizer)
    state = load_checkpoint(checkpoint, args, parts)
    if state is None:
        if best_path.exists():
            raise InputError(f"{best_path} is there, but no checkpoint of its run: move it away or give --model_path")
        state = dict(step=0, best=math.inf)
    if state["step"] >= last:
        print(f"trained {state['step']} of {planned} steps already: raise --epoch or --steps to go on")
        return

    # Logs
    from torch.utils.tensorboard import SummaryWriter  # takes seconds, which the verbs need not wait for

    writer = SummaryWriter(samples / "logs", purge_step=state["step"] + 1) if rank == 0 else None
    bar = tqdm(total=last * args.batch_size, initial=state["step"] * args.batch_size, unit="img", unit_scale=True,
               disable=rank > 0, mininterval=1 if sys.stderr.isatty() else 30)  # fmt: skip
    there = attributes.to(device)
    stream = batches(records, train_rows, args.batch_size, device, args.seed, state["step"], rank, world, flip=True)
    stop_requested = listen_for_stop()

    for step in range(state["step"] + 1, last + 1):
        x, chosen = next(stream)
        c = there[chosen]
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 + math.cos(math.pi * step / planned)) / 2

        # Predictor: read the attributes
        predictor.train()
        with autocast():
            reading = predictor(shifted(x, torch.rand(2, args.batch_size)[:, mine]))
        loss = F.binary_cross_entropy_with_logits(reading.float(), c)
        optimizer.zero_grad()
        loss.backward()
        average_gradients(predictor)
        optimizer.step()

        # What is due: numbers, validation, a checkpoint
        bar.update(args.batch_size)
        stop = stop_requested()
        due = step % epoch_steps == 0 or step == last or stop
        if (step % args.log_every == 0 or due) and not math.isfinite(loss.item()):
            sys.exit(fail(f"the loss is not finite at step {step}; the last good state is {checkpoint}", code=1))
        if writer and (step % args.log_every == 0 or due):
            writer.add_scalar("loss/predictor", loss.item(), step)
        if due and rank == 0:
            rows = held_out["validation"]
            predictor.eval()
            with torch.no_grad():
                logits = torch.cat([predictor(to_tensor(records.images[rows[i : i + 64]], device)).cpu()
                                    for i in range(0, len(rows), 64)])  # fmt: skip
            error = F.binary_cross_entropy_with_logits(logits, attributes[rows]).item()
            writer.add_scalar("loss/validation", error, step)
            better = error < state["best"]
            state |= dict(best=min(error, state["best"]), step=step)
            save_checkpoint(checkpoint, args, parts, **state)
            if better:
                save_checkpoint(best_path, args, {"predictor": predictor}, step=step)
        if stop:
            break
    bar.close()
    if writer:
        writer.close()
        predictor.load_state_dict(read_checkpoint(best_path)["predictor"])
        print("balanced accuracy on validation and test faces:")
        table = {part: balanced_accuracy(predict(predictor, records.images[rows]), attributes[rows])
                 for part, rows in held_out.items() if len(rows)}  # fmt: skip
        for k, name in enumerate(ATTRIBUTES):
            print(f"{name:20} {'  '.join(f'{values[k].item():.3f}' for values in table.values())}")
        print(f"mean                 {'  '.join(f'{values.nanmean().item():.3f}' for values in table.values())}")
        print(f"predictor {best_path}")


VERBS = dict(train=train, analyse=analyse, generate=generate, refine=refine, train_predictor=train_predictor)


if __name__ == "__main__":
    main()
