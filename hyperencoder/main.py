"""HyperEncoder: a face as 100 numbers and back; a HyperFace encoder and a DCGAN decoder trained on squared error.

After the HyperEncoder document, HyperFace (arXiv 1603.01249) and DCGAN (arXiv 1511.06434).

One GPU:      python hyperencoder/main.py --dataset_dir=data/celeba --train=True
Several:      torchrun --nproc_per_node=8 hyperencoder/main.py --dataset_dir=data/celeba --train=True
CPU, minutes: make demo
Then:         python hyperencoder/main.py --dataset_dir=data/celeba --train=False
Own photos:   python hyperencoder/main.py --dataset_name=celeba --train=False --images holiday/ me.jpg
"""

import argparse
import copy
import csv
import json
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
from pytorch_msssim import ssim
from torchvision.utils import make_grid
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # the repository root
from common.celeba import CelebA, batches, load_faces, pack, subset, to_tensor, to_uint8
from common.mtcnn import MTCNN, crop, paste, pick, square_matrix
from common.photos import InputError, frames, media_files, name_outputs
from hyperencoder.anomaly import ANOMALIES, roc_auc
from hyperencoder.model import X_SIZE, AutoEncoder, augment, fit_pca, initialise, map_sizes

# ---------------------------------------------------------------------------------------------------------------------
# Flags

RECIPES = {  # what --recipe sets; each is a flag of its own, and a flag that is given wins
    "document": dict(embed_activation="linear", width_multiplier=1.0, batch_norm=False, init="document",
                     pca_path=False, learning_rate=0.0002, beta1=0.5, schedule="constant", flip=False, shift=0.0,
                     show_ema=False, patience=5),
    "best": dict(embed_activation="linear", width_multiplier=0.25, batch_norm=True, init="he",
                 pca_path=True, learning_rate=0.001, beta1=0.9, schedule="cosine", flip=True, shift=0.03,
                 show_ema=True, patience=0),
}  # fmt: skip

# Flags that may differ when a run is resumed; all others shape the network, the data or the loss.
MAY_CHANGE = {"epoch", "steps", "patience", "device", "precision", "workers", "dataset_dir", "record_dir",
              "checkpoint_dir", "model_path", "sample_dir", "log_every", "sample_every", "save_every", "train", "run",
              "images", "out_dir", "overwrite", "start_from", "person", "all_faces"}  # fmt: skip


def parse_args(argv=None):
    """Read the command line. InputError: flags that do not go together."""
    parser = argparse.ArgumentParser(
        usage="python hyperencoder/main.py --dataset_dir DIR [--train=True] [flags; --help lists them]",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.error = lambda message: sys.exit(fail(message))  # one line, without the usage
    switch = dict(type=boolean, nargs="?", const=True, metavar="True|False")

    do = parser.add_argument_group("What to do")
    do.add_argument("--run", choices=VERBS, help="train, test, anomaly, train_swap or swap; wins over --train")
    do.add_argument("--train", **switch, help="True: train; False: test (default: True)")
    do.add_argument("--no-train", dest="train", action="store_false", default=None, help="the same as --train=False")

    model = parser.add_argument_group("Model")
    model.add_argument("--embed_size", type=int, default=100, help="numbers in an embedding (default: 100)")
    model.add_argument("--x_height", type=int, default=X_SIZE, help="height of the encoder's input: 227")
    model.add_argument("--x_width", type=int, help="its width: 227 (default: x_height)")
    model.add_argument("--y_height", type=int, default=64, help="height of the pictures made (default: 64)")
    model.add_argument("--y_width", type=int, help="their width (default: y_height)")
    model.add_argument("--embed_activation", choices=("linear", "relu"), help="of the embedding (default: linear)")
    model.add_argument("--width_multiplier", type=float, help="scales all channel counts (document: 1, best: 0.25)")
    model.add_argument("--batch_norm", **switch, help="normalise each layer (document: False, best: True)")
    model.add_argument("--init", choices=("document", "he"), help="first weights (document: document, best: he)")
    model.add_argument("--pca_path", **switch, help="start at PCA and learn what it misses (best: True)")

    training = parser.add_argument_group("Training")
    training.add_argument("--epoch", type=int, default=25, help="passes over the training pictures (default: 25)")
    training.add_argument("--steps", type=int, default=0, help="end after so many steps whatever the epochs say")
    training.add_argument("--train_size", help="training pictures: a number, or a share such as 0.5 (default: all)")
    training.add_argument("--batch_size", type=int, default=64, help="pictures a step, over all processes")
    training.add_argument("--learning_rate", type=float, help="Adam's (document: 0.0002)")
    training.add_argument("--beta1", type=float, help="Adam's momentum (document: 0.5)")
    training.add_argument("--schedule", choices=("constant", "cosine"), help="of the rate (document: constant)")
    training.add_argument("--flip", **switch, help="mirror half of the pictures (document: False, best: True)")
    training.add_argument("--shift", type=float, help="rotate, scale, shift by up to this share (document: 0)")
    training.add_argument("--ema", type=float, default=0.999, help="decay of the running mean of the weights")
    training.add_argument("--show_ema", **switch, help="test and keep that mean (document: False, best: True)")
    training.add_argument("--patience", type=int, help="epochs without a better validation MSE to stop after; 0: never")
    training.add_argument("--recipe", choices=RECIPES, default="document", help="set of defaults (default: document)")
    training.add_argument("--seed", type=int, default=0, help="of weights, order and noise (default: 0)")

    machine = parser.add_argument_group("Machine")
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    machine.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="bf16 where it is fast")
    machine.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that decode pictures")

    files = parser.add_argument_group("Files")
    files.add_argument("--dataset_dir", help="folder or zip with the pictures")
    files.add_argument("--dataset_name", help="names checkpoint, model and samples (default: the folder's name)")
    files.add_argument("--record_dir", "--tf_record_path", default=str(HERE / "tf_record_path"),
                       help="packed pictures (default: tf_record_path in the project's folder)")  # fmt: skip
    files.add_argument("--checkpoint_dir", default=str(HERE / "checkpoint"), help="default: checkpoint, likewise")
    files.add_argument("--model_path", default=str(HERE / "models"), help="model file, or folder (models, likewise)")
    files.add_argument("--sample_dir", default=str(HERE / "samples"), help="sheets, logs, results (samples, likewise)")
    files.add_argument("--log_every", type=int, default=50, help="steps from log line to log line (default: 50)")
    files.add_argument("--sample_every", type=int, default=0, help="steps from sheet to sheet (default: an epoch)")
    files.add_argument("--save_every", type=int, default=0, help="steps from checkpoint to checkpoint (an epoch)")
    files.add_argument("--images", nargs="+", help="own pictures: files, folders, GIFs, videos")
    files.add_argument("--out_dir", help="folder for single pictures (test --images, swap)")
    files.add_argument("--overwrite", **switch, default=False, help="write into an --out_dir that is not empty")
    files.add_argument("--people", help="train_swap: identities such as 12,57, or sub-folders (default: all of these)")
    files.add_argument("--start_from", help="train_swap: model file of an auto-encoder to start from")
    files.add_argument("--person", help="swap: whose face to put in (default: the last that was trained)")
    files.add_argument("--all_faces", **switch, default=False, help="swap: every face, not only the largest")

    first = parser.parse_known_args(argv)[0]
    parser.set_defaults(**RECIPES[first.recipe])
    if first.run == "train_swap":  # the path would carry the first person's looks past the second's decoder
        parser.set_defaults(pca_path=False)
    args = parser.parse_args(argv)
    chosen = args.run or ("train" if args.train in (None, True) else "test")
    if args.train is not None and args.train != chosen.startswith("train"):
        raise InputError(f"--train={args.train} and --run {args.run} disagree: give one of the two")
    args.run, args.train = chosen, chosen.startswith("train")
    args.x_width, args.y_width = args.x_width or args.x_height, args.y_width or args.y_height
    check(args)
    return args


def check(args):
    """Refuse what cannot work before anything is read or written: InputError."""
    if (args.x_height, args.x_width) != (X_SIZE, X_SIZE):
        raise InputError(f"the encoder reads {X_SIZE} x {X_SIZE}, not {args.x_width} x {args.x_height}: leave x_height")
    try:
        map_sizes(args.y_height, args.y_width)
    except ValueError as error:
        raise InputError(str(error)) from None
    if not 1 <= args.embed_size <= 1024:
        raise InputError(f"--embed_size {args.embed_size}: expected 1 to 1024")
    for name in ("epoch", "batch_size", "log_every", "learning_rate", "width_multiplier"):
        if getattr(args, name) <= 0:
            raise InputError(f"--{name} {getattr(args, name)}: expected more than 0")
    for name in ("steps", "sample_every", "save_every", "patience", "workers", "shift"):
        if getattr(args, name) < 0:
            raise InputError(f"--{name} {getattr(args, name)}: expected 0 or more")
    if args.run == "train_swap" and args.pca_path:
        raise InputError("--pca_path carries a person's looks past the decoders: not with --run train_swap")
    if not 0 <= args.beta1 < 1 or not 0 <= args.ema < 1:
        raise InputError(f"--beta1 {args.beta1} --ema {args.ema}: expected 0 or more and less than 1")
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


# ---------------------------------------------------------------------------------------------------------------------
# Training


def place(args, kind):
    """Where this run's things lie: its "checkpoint", "model" (the best so far) or "samples"."""
    name = args.dataset_name + ("_swap" if "swap" in args.run else "")
    if kind == "checkpoint":
        return Path(args.checkpoint_dir) / name / "last.pt"
    if kind == "model":
        path = Path(args.model_path)
        return path if path.suffix == ".pt" else path / f"{name}.pt"
    return Path(args.sample_dir) / name


def load_records(args, device, rank):
    """The data set's face crops, packed once, at 128 pixels or at the output's size where that is larger."""
    if args.dataset_dir is None:
        raise InputError("--dataset_dir is needed: the folder (or zip) with the pictures")
    dataset = CelebA(args.dataset_dir, args.seed)
    size = max(128, args.y_height, args.y_width)
    if rank:  # rank 0 packs, the others then find the packed file
        dist.barrier()
    records = pack(dataset, args.record_dir, "whole" if dataset.cropped else "face", (size, size), args.workers, device,
                   progress=rank == 0)  # fmt: skip
    if rank == 0 and dist.is_initialized():
        dist.barrier()
    return records


def make_model(args, people=1):
    """The network that the flags describe."""
    model = AutoEncoder(args.embed_size, args.y_height, args.y_width, args.width_multiplier, args.batch_norm,
                        args.embed_activation, args.pca_path, people)  # fmt: skip
    initialise(model, args.init)
    return model


def split(args, records):
    """Who is trained on what: people's names, and for each the rows of training and validation.

    One nameless person with all pictures, but for `train_swap`, which has each identity or sub-folder of --people.
    """
    if args.run != "train_swap":
        return [""], [subset(records.rows("train"), args.train_size, args.seed)], [records.rows("validation")]
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


def in_chunks(rows, rank=0, world=1, size=64):
    """Slices of 64 rows, those of this process."""
    return [slice(start, start + size) for start in range(rank * size, len(rows), world * size)]


def validate(model, records, rows, device, autocast, rank, world):
    """Mean squared error in [-1, 1] of each face of each person's rows, in one (N,) tensor."""
    errors = [torch.zeros(len(mine), device=device) for mine in rows]
    for person, mine in enumerate(rows):
        for part in in_chunks(mine, rank, world):
            x, x_hat, _ = reconstruct(model, records.images[mine[part]], device, autocast, person)
            errors[person][part] = (x_hat - x).square().mean((1, 2, 3))
    errors = torch.cat(errors)
    if dist.is_initialized():
        dist.all_reduce(errors)
    return errors.cpu()


def compare(model, records, rows, people, device, autocast, count=16):
    """The rows of a sheet: the first faces of each person, and what the model makes of them, as each person."""
    sheet = {}
    for person, name in enumerate(people):
        images = records.images[rows[person][:count]]
        sheet[f"Real {name}".strip()] = reconstruct(model, images, device, autocast)[0]
        for other, their in enumerate(people):
            label = f"{name} as {their}" if other != person else f"Predicted {name}".strip()
            sheet[label] = reconstruct(model, images, device, autocast, other)[1]
    return sheet


def start_at_pca(model, records, rows, device):
    """Fit the principal components on (at most 1 GB of) the training faces and leave them in the model."""
    height, width = model.size
    rows = subset(rows, max(1, 2**28 // (3 * height * width)))
    x = torch.cat([model.target(to_tensor(records.images[rows[part]], device)).flatten(1) for part in in_chunks(rows)])
    model.set_pca(*fit_pca(x, len(model.spread)))


def start_from(model, args):
    """Start encoder and decoders at a trained auto-encoder's. InputError: one of another shape."""
    weights = read_checkpoint(Path(args.start_from))["model"]
    for person in range(1, len(model.decoders)):  # each begins as the one that knows everybody
        for part in ("decoders", "perceptrons"):
            weights |= {name.replace(f"{part}.0.", f"{part}.{person}."): value for name, value in weights.items()
                        if name.startswith(f"{part}.0.")}  # fmt: skip
    try:
        model.load_state_dict(weights)
    except RuntimeError:
        raise InputError(f"{args.start_from} is of another shape: give the flags it was trained with") from None


def extend_film(film, frame, samples, step):
    """Add a column, (n, h, w, 3) uint8, to the filmstrip of a fixed batch over the epochs, and write it.

    Beyond 40 columns every second one goes, so that the strip stays readable however long the run.
    """
    frame = torch.from_numpy(frame)[None]
    frame = F.pad(frame, (0, 0) * 3 + (0, 8 - frame.shape[1]), value=255)
    film = torch.cat([film[::2] if len(film) >= 40 else film, frame])
    faces = film.transpose(0, 1).flatten(0, 1).permute(0, 3, 1, 2) / 127.5 - 1
    save_sheet(samples / "filmstrip.png", {f"to step {step}": faces}, columns=len(film))
    return film


def train(args):
    """Train the auto-encoder; for `train_swap` one shared encoder and a decoder for each person."""
    device, autocast, rank, world = setup(args)

    # Data
    records = load_records(args, device, rank)
    args.data = f"{len(records.names)} pictures {zlib.crc32(' '.join(records.names).encode()):08x}"
    people, train_rows, validation_rows = split(args, records)
    if min(map(len, train_rows + validation_rows)) == 0:
        raise InputError(f"{len(records.names)} usable pictures are too few to train and to validate with")
    if args.batch_size % (len(people) * world):
        raise InputError(f"--batch_size {args.batch_size}: expected a multiple of {len(people) * world}, "
                         "the number of people times that of processes")  # fmt: skip
    share = args.batch_size // len(people)  # of each person, in a step
    mine = slice(rank * share // world, (rank + 1) * share // world)
    epoch_steps = max(1, sum(map(len, train_rows)) // args.batch_size)
    planned = args.epoch * epoch_steps
    last = min(planned, args.steps or planned)

    # Models
    model = make_model(args, len(people))
    model = model.to(device, memory_format=torch.channels_last)
    ema = copy.deepcopy(model).requires_grad_(False)
    shown = ema if args.show_ema else model
    optimizer = torch.optim.Adam(model.parameters(), args.learning_rate, (args.beta1, 0.999), fused=True)

    # Resume
    checkpoint, best_path, samples = (place(args, kind) for kind in ("checkpoint", "model", "samples"))
    parts = dict(model=model, ema=ema, optimizer=optimizer)
    state = load_checkpoint(checkpoint, args, parts)
    if state is None:
        if best_path.exists():
            raise InputError(f"{best_path} is there, but no checkpoint of its run: move it away or give --model_path")
        film = torch.zeros(0, 8, *model.size, 3, dtype=torch.uint8)
        state = dict(step=0, people=people, best=math.inf, best_epoch=0, film=film)
        if args.start_from:
            start_from(model, args)
        else:
            start_at_pca(model, records, np.concatenate(train_rows), device)
        ema.load_state_dict(model.state_dict())
    if state["step"] >= last:
        print(f"trained {state['step']} of {planned} steps already: raise --epoch or --steps to go on")
        return
    if args.patience and state["step"] // epoch_steps - state["best_epoch"] >= args.patience:
        print(f"stopped by itself at step {state['step']} already: raise --patience, or set it to 0, to go on")
        return

    # Logs
    from torch.utils.tensorboard import SummaryWriter  # takes seconds, which the verbs below need not wait for

    if rank == 0:
        counts = [len(np.concatenate(rows)) for rows in (train_rows, validation_rows)]
        print(f"{counts[0]} training and {counts[1]} validation faces, {sum(p.numel() for p in model.parameters()):,} "
              f"parameters, {planned} steps of {args.batch_size}, {device}")  # fmt: skip
        print(f"watch it: tensorboard --logdir {samples / 'logs'}")
    writer = SummaryWriter(samples / "logs", purge_step=state["step"] + 1) if rank == 0 else None
    bar = tqdm(total=last * args.batch_size, initial=state["step"] * args.batch_size, unit="img", unit_scale=True,
               disable=rank > 0, mininterval=1 if sys.stderr.isatty() else 30)  # fmt: skip
    loss_sum, bad_step, logged = torch.zeros((), device=device), torch.zeros((), device=device), state["step"]
    streams = [batches(records, rows, share, device, args.seed + person, state["step"], rank, world, args.flip)
               for person, rows in enumerate(train_rows)]  # fmt: skip
    stop_requested = listen_for_stop()

    for step in range(state["step"] + 1, last + 1):
        x = torch.cat([next(stream)[0] for stream in streams])
        if args.shift:  # every process draws the whole batch's numbers and takes its slice
            x = augment(x, torch.rand(4, len(people), share)[:, :, mine].flatten(1), args.shift)
        if args.schedule == "cosine":  # over all epochs, whatever --steps says, so that a run can be continued
            warm = min(1.0, step / min(200, planned / 10))
            optimizer.param_groups[0]["lr"] = args.learning_rate * warm * (1 + math.cos(math.pi * step / planned)) / 2

        # Encoder and decoder: repeat the face
        model.train()
        with autocast():
            x_hat, embedding = model(x)
        loss = F.mse_loss(x_hat.float(), model.target(x))
        optimizer.zero_grad()
        loss.backward()
        average_gradients(model)
        optimizer.step()
        update_ema(ema, model, args.ema, step)
        loss_sum += loss.detach()
        bad_step = torch.where(torch.isfinite(loss.detach()) | (bad_step > 0), bad_step, step)

        # What is due: numbers, validation, a sheet, a checkpoint
        bar.update(args.batch_size)
        stop = stop_requested()
        at_end = step == last or stop
        epoch_end = step % epoch_steps == 0 or step == last
        save = at_end or (step % args.save_every == 0 if args.save_every else epoch_end)
        if step % args.log_every == 0 or epoch_end or save:
            mean = loss_sum / (step - logged)
            if dist.is_initialized():
                dist.all_reduce(mean.div_(world))
            if not math.isfinite(mean.item()):
                bad = int(bad_step.item()) or step
                sys.exit(fail(f"the loss is not finite at step {bad}; the last good state is {checkpoint}", code=1))
            loss_sum, logged = torch.zeros_like(loss_sum), step
            bar.set_postfix(mse=f"{mean.item():.4f}")
            if writer:
                writer.add_scalars("loss/mse", {"train": mean.item()}, step)
                writer.add_scalar("embedding/max", embedding.max().item(), step)
                writer.add_scalar("embedding/min", embedding.min().item(), step)
                writer.add_scalar("embedding/std", embedding.float().std(0).mean().item(), step)
                writer.add_scalar("learning_rate", optimizer.param_groups[0]["lr"], step)
        better = False
        if epoch_end:
            errors = validate(shown, records, validation_rows, device, autocast, rank, world)
            better = errors.mean().item() < state["best"]
            if better:
                state |= dict(best=errors.mean().item(), best_epoch=math.ceil(step / epoch_steps))
                if rank == 0 and len(people) > 1:
                    state["means"] = mean_embeddings(shown, records, train_rows, device, autocast)
            if writer:
                writer.add_scalars("loss/mse", {"validation": errors.mean().item()}, step)
        if rank == 0 and (step % args.sample_every == 0 if args.sample_every else epoch_end):
            rows = compare(shown, records, validation_rows, people, device, autocast)
            sheet = save_sheet(samples / f"{step:07d}.png", rows)
            writer.add_image("images/real_vs_predicted", sheet, step, dataformats="HWC")
            state["film"] = extend_film(state["film"], to_uint8(list(rows.values())[1][:8]), samples, step)
        stop_early = args.patience and epoch_end and step // epoch_steps - state["best_epoch"] >= args.patience
        if rank == 0 and (save or stop_early or better):  # the checkpoint first: no model without one
            save_checkpoint(checkpoint, args, parts, **state | {"step": step})
        if rank == 0 and better:
            save_checkpoint(best_path, args, {"model": shown}, step=step, people=people, means=state.get("means"),
                            validation_errors=errors.sort().values)  # fmt: skip
        if stop or stop_early:
            break
    bar.close()
    if writer:
        if not stop:
            embed_validation(shown, records, np.concatenate(validation_rows)[:1000], device, autocast, writer, step)
        writer.close()
        print(f"trained {step} of {planned} steps; best validation MSE {state['best']:.4f} in [-1, 1] "
              f"({state['best'] / 4:.5f} in [0, 1]) in epoch {state['best_epoch']}")  # fmt: skip
        if stop_early:
            print(f"stopped by itself: no better validation MSE for {args.patience} epochs")
        print(f"model {best_path}, sheets {samples}")


def embed_validation(model, records, rows, device, autocast, writer, step):
    """TensorBoard's embedding projector for the validation faces."""
    pieces = [reconstruct(model, records.images[rows[part]], device, autocast) for part in in_chunks(rows)]
    faces, _, embeddings = (torch.cat(piece).cpu() for piece in zip(*pieces, strict=True))
    names = [records.names[row] for row in rows]
    icons = F.interpolate(faces, (64, 64)) / 2 + 0.5  # the projector wants squares
    writer.add_embedding(embeddings, metadata=names, label_img=icons, global_step=step, tag="embedding")


def mean_embeddings(model, records, rows, device, autocast, most=512):
    """The mean embedding of each person's pictures, of at most so many: (people, E), on the CPU."""
    return torch.stack([
        torch.cat([embed(model, records.images[mine[:most][part]], device, autocast)[1].float()
                   for part in in_chunks(mine[:most])]).mean(0) for mine in rows
    ]).cpu()  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Using the model


def load_model(args):
    """The best model so far, else the last checkpoint: model, device, autocast and what was saved beside it."""
    device, autocast, *_ = setup(args)
    candidates = [place(args, "model"), place(args, "checkpoint")]
    if Path(args.model_path).suffix == ".pt":  # that one and no other
        candidates = candidates[:1]
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        missing = " nor ".join(map(str, candidates))
        raise InputError(f"no model: no {missing} is there; train first (--train=True)")
    content = read_checkpoint(path)
    saved = argparse.Namespace(**content["args"])
    people = content["state"].get("people", [""])
    model = make_model(saved, len(people))
    part = "model" if path == candidates[0] or not saved.show_ema else "ema"
    try:
        model.load_state_dict(content[part])
    except (KeyError, RuntimeError):
        raise InputError(f"{path} is no model of this project") from None
    print(f"model {path}: step {content['state']['step']}, {saved.embed_size} numbers, {saved.recipe} recipe")
    return model.to(device, memory_format=torch.channels_last).eval(), device, autocast, content["state"]


def load_pictures(args, model, device):
    """What a verb works on: --images, else the data set's test part. Returns images (N, h, w, 3) uint8 and names."""
    if args.images:
        size = (max(128, *model.size),) * 2
        odd = args.run == "anomaly"  # there, a picture without a face counts too
        images, names, skipped = load_faces(args.images, "face", size, MTCNN(device), faceless=odd)
        for name, reason in skipped:
            print(f"skipped {name}: {reason}")
        return images, names
    records = load_records(args, device, 0)
    rows = records.rows("test")
    if len(rows) == 0:
        raise InputError(f"{args.dataset_dir} has no test pictures: name pictures with --images")
    return records.images[rows], [records.names[row] for row in rows]


def test(args):
    """Reconstruct the test faces or --images: grid, metrics.json and embeddings.csv in the sample folder."""
    model, device, autocast, _ = load_model(args)
    images, names = load_pictures(args, model, device)
    out_dir = new_folder(args.out_dir, args.overwrite) if args.out_dir else None
    samples = place(args, "samples")
    samples.mkdir(parents=True, exist_ok=True)

    sums = dict.fromkeys(("mse", "ssim", "pca_mse", "pca_ssim", "mean_face_mse"), 0.0)
    embeddings, sheet, stems = [], {}, name_outputs(names)
    for part in in_chunks(images):
        x, x_hat, embedding = reconstruct(model, images[part], device, autocast)
        x_pca = model.pca(x)
        embeddings.append(embedding.cpu())
        for name, guess in (("", x_hat), ("pca_", x_pca)):
            sums[name + "mse"] += (guess - x).square().mean((1, 2, 3)).sum().item()
            scores = ssim(guess / 2 + 0.5, x / 2 + 0.5, data_range=1, size_average=False)
            sums[name + "ssim"] += scores.sum().item()
        sums["mean_face_mse"] += (model.mean.view(3, *model.size) - x).square().mean((1, 2, 3)).sum().item()
        sheet = sheet or {"Real": x[:16], "Predicted": x_hat[:16], f"PCA, {model.embed_size} numbers": x_pca[:16]}
        if out_dir:
            for stem, picture in zip(stems[part], to_uint8(x_hat), strict=True):
                (out_dir / stem).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(out_dir / f"{stem}.png")

    embeddings = torch.cat(embeddings)
    metrics = {"faces": len(images), "embed_size": model.embed_size}
    for name, value in sums.items():
        value /= len(images)
        if name.endswith("mse"):
            metrics |= {name: value, f"{name}_01": value / 4, name[:-3] + "psnr": 10 * math.log10(4 / value)}
        else:
            metrics[name] = value
    if len(images) > 1:
        metrics |= {"embedding_std": embeddings.std(0).mean().item(),
                    "dead_numbers": int((embeddings.std(0) < 1e-6).sum())}  # fmt: skip
    save_sheet(samples / "test.png", sheet)
    (samples / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    with open(samples / "embeddings.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", *(f"x{i}" for i in range(model.embed_size))])
        for name, row in zip(names, embeddings.tolist(), strict=True):
            table.writerow([name, *map("{:.6g}".format, row)])
    print(json.dumps(metrics, indent=1))
    print(f"test.png, metrics.json and embeddings.csv in {samples}")


def anomaly(args):
    """Score pictures by reconstruction error: --images one by one, or the test faces against five kinds of others."""
    model, device, autocast, state = load_model(args)
    if "validation_errors" not in state:
        raise InputError("anomaly scores need the best model, which training writes at the end of its first epoch")
    images, names = load_pictures(args, model, device)
    samples = place(args, "samples")
    samples.mkdir(parents=True, exist_ok=True)

    def errors(images):
        pieces = [reconstruct(model, images[part], device, autocast)[:2] for part in in_chunks(images)]
        return torch.cat([(x_hat - x).square().mean((1, 2, 3)).cpu() for x, x_hat in pieces])

    normal = errors(images)
    known = state["validation_errors"]
    rank = torch.searchsorted(known, normal).double() / len(known)
    with open(samples / "anomaly.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "error", "validation_faces_below"])
        table.writerows([name, f"{error:.6g}", f"{share:.4f}"]
                        for name, error, share in zip(names, normal.tolist(), rank.tolist(), strict=True))  # fmt: skip
    print(f"anomaly.csv in {samples}: an error above 99% of the validation faces' ({known.quantile(0.99):.4f}) is odd")
    if args.images:
        for name, error, share in zip(names, normal.tolist(), rank.tolist(), strict=True):
            print(f"{name}: error {error:.4f}, above {share:.0%} of the validation faces")
        return

    generator = torch.Generator().manual_seed(args.seed)
    sheet, table = {}, {}
    for kind, change in ANOMALIES.items():
        odd = to_uint8(change(to_tensor(images), generator))
        scores = errors(odd)
        # Blur is reconstructed too well, not too badly: the second score is the distance from the usual error.
        usual = known.log().median()
        two_sided = roc_auc((normal.log() - usual).abs(), (scores.log() - usual).abs())
        table[kind] = {"auc": roc_auc(normal, scores), "auc_two_sided": two_sided}
        sheet[kind] = to_tensor(odd[:8])
        sheet[f"{kind}, reconstructed"] = reconstruct(model, odd[:8], device, autocast)[1].cpu()
        print(f"{kind:16} ROC-AUC {table[kind]['auc']:.3f}, two-sided {table[kind]['auc_two_sided']:.3f}")
    (samples / "anomaly.json").write_text(json.dumps(table, indent=1) + "\n")
    sheet = {kind: F.interpolate(x, model.size) for kind, x in sheet.items()}
    save_sheet(samples / "anomaly.png", sheet, columns=8)


@torch.no_grad()
def put_in(model, images, device, autocast, person, means):
    """Faces (N, h, w, 3) uint8 as `person`'s decoder draws them, and themselves: (N, 3, H, W) in [-1, 1] each.

    A decoder has only seen its own person's embeddings, and draws noise from others'. So each embedding is first moved
    by the way from the mean of whoever of the trained people is nearest, to `person`'s mean (means: (people, E)).
    """
    x, embedding = embed(model, images, device, autocast)
    embedding, means = embedding.float(), means.to(device)
    nearest = torch.cdist(embedding, means).argmin(1)
    with autocast():
        made = model.decode(embedding - means[nearest] + means[person], person)
    return made.float(), x


def swap(args):
    """Put --person's face over the faces of --images: embed each face, decode it as that person, blend it back."""
    if not args.images or not args.out_dir:
        raise InputError("--run swap needs --images, what to change, and --out_dir, where the results go")
    model, device, autocast, state = load_model(args)
    people = state["people"]
    person = args.person or people[-1]
    if person not in people:
        raise InputError(f"--person {person}: the model knows {', '.join(people)}")
    if state.get("means") is None:
        raise InputError("this model does not know its people's mean embeddings: --run train_swap again")
    files = media_files(args.images)
    out_dir, detector, swapped = new_folder(args.out_dir, args.overwrite), MTCNN(device), 0
    for file, stem in zip(files, name_outputs([file.name for file in files]), strict=True):
        for name, photo, problem in frames([file]):
            boxes, _, _ = detector.detect([] if photo is None else [photo])
            if problem or not len(boxes[0]):
                print(f"{name} skipped: {problem or 'no face found'}")
                continue
            chosen = boxes[0] if args.all_faces else boxes[0][[pick(boxes[0], photo.shape, "largest")]]
            for box in chosen:
                face = crop(photo, box, 128)[None]
                made, _ = put_in(model, face, device, autocast, people.index(person), state["means"])
                made = to_uint8(made)[0]
                photo = paste(photo, made, square_matrix(box, made.shape))
            swapped += 1
            number = name.removesuffix(file.suffix)[len(file.stem) :]  # of a frame
            Image.fromarray(photo).save(out_dir / f"{stem}{number}.png")
    if not swapped:
        raise InputError("no face found in any of the pictures")
    print(f"{swapped} pictures now show {person}: {out_dir}")


VERBS = dict(train=train, test=test, anomaly=anomaly, train_swap=train, swap=swap)


if __name__ == "__main__":
    main()
