"""What every script needs and nobody comes for: flags, set-up, checkpoints, sheets, and the logbook of a training.

The same file in all five projects (`make copies` after a change; tests/test_parallel.py compares them).
"""

import argparse
import contextlib
import copy
import math
import os
import platform
import shlex
import shutil
import signal
import sys
import time
from collections import Counter
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from common import photos
from common.celeba import CelebA, subset, to_uint8
from common.photos import InputError, check_writable, fail, keep_apart, new_folder, plain_path, tolerate_names

PROJECT = Path(__file__).resolve().parent
FORMAT = 2  # of checkpoints and model files; those of format 1 can be used, but not resumed
PREVIOUS = ".previous.pt"  # how the name of the file that stood there before ends
SHIPPED = "shipped"  # what the runs of models that come with the program call their data set
MOST_SHIPPED = 16_000_000  # bytes of such a file

# ---------------------------------------------------------------------------------------------------------------------
# Flags


def boolean(text):
    """Flag type: true or false, in any case; anything else is refused."""
    try:
        return bool(("false", "true").index(text.lower()))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected True or False") from None


def path(text):
    """Flag type: a file or folder; ~ is the home folder."""
    if not text.strip():  # a shell's variable that is not set, say: it would be the folder one stands in
        raise argparse.ArgumentTypeError("expected a file or folder, found nothing")
    return os.path.expanduser(text)


def number(kind, expected, allowed):
    """A flag type: int or float, as far as `allowed` says yes to it."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not allowed(value):  # what is no number is not allowed either: nan compares false
            raise argparse.ArgumentTypeError(f"{text}: expected {expected}")
        return value

    return parse


def up_to(most, least=1):
    """A flag type: a whole number within bounds, for what otherwise takes all the memory there is."""
    expected = f"a whole number, more than {least - 1}, at most {most}"
    return number(int, expected, lambda n: least <= n <= most)


positive = number(int, "a whole number, more than 0", lambda n: n > 0)
natural = number(int, "a whole number, 0 or more", lambda n: n >= 0)
rate = number(float, "more than 0", lambda x: 0 < x < math.inf)
weight = number(float, "0 or more", lambda x: 0 <= x < math.inf)
decay = number(float, "0 or more and less than 1", lambda x: 0 <= x < 1)
share = number(float, "a share from 0 to 1", lambda x: 0 <= x <= 1)


def count_or_share(text):
    """A flag type: how many training pictures, a number or a share, as `subset` takes it."""
    try:
        subset([0], text)
    except InputError as error:
        raise argparse.ArgumentTypeError(error) from None
    return text


SWITCH = dict(type=boolean, nargs="?", const=True, metavar="True|False")


def make_parser(text, project):
    """The parser of a script; text: its docstring. A mistake ends in one line, without the usage."""
    parser = argparse.ArgumentParser(
        usage=f"python {project}/main.py --dataset_dir DIR [--run VERB] [flags; --help lists them]",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )

    def refuse(message):
        dash = ": one that begins with - is given as --flag=VALUE" * message.endswith("expected one argument")
        sys.exit(fail(message.removeprefix("argument ") + dash))

    parser.error = refuse
    return parser


def add_training_flags(parser, recipes, epoch, batch_size, steps=0, seed=0):
    """The group Training with what all five share; a project's own flags follow. Returns the group."""
    add = (group := parser.add_argument_group("Training")).add_argument
    add("--epoch", type=natural, default=epoch, help=f"passes over the training pictures ({epoch}, or the recipe's)")
    add(
        "--steps",
        type=natural,
        default=steps,
        help=f"end after so many steps whatever the epochs say ({steps or 'no'})",
    )
    add("--train_size", type=count_or_share, help="training pictures: a number or a share (all, or the recipe's)")
    add("--batch_size", type=up_to(65536), default=batch_size, help="pictures a step, over all processes")
    add("--learning_rate", type=rate, help="of the optimizers")
    add("--beta1", type=decay, help="Adam's momentum")
    add("--recipe", choices=recipes, default="document", help="set of defaults (default: document)")
    add("--seed", type=up_to(2**63 - 1, least=0), default=seed, help=f"of weights, order and noise (default: {seed})")
    return group


def add_machine_flags(parser):
    """The group Machine, the same in all five."""
    add = parser.add_argument_group("Machine").add_argument
    add("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="bf16 where it is fast")
    add("--workers", type=natural, default=os.cpu_count() or 1, help="processes that decode pictures")


def add_file_flags(parser, *also, records="../records", sample_every="an epoch; 50 at most"):
    """The group Files with what all five share; also: other names of --record_dir; sample_every: how often
    a sheet is due by default, in words. Returns the group.

    Packed pictures lie beside the projects: one crop and size of a data set is packed once for all of them.
    """
    add = (group := parser.add_argument_group("Files")).add_argument
    add_path = partial(add, type=path)
    add_path("--dataset_dir", help="folder or zip with the pictures")
    add("--dataset_name", help="names checkpoint, model and samples (default: the folder's name)")
    add_path(
        "--record_dir",
        *also,
        default=os.path.abspath(PROJECT / records),
        help="packed pictures, for all projects (records)",
    )
    add_path("--checkpoint_dir", default=str(PROJECT / "checkpoint"), help="default: checkpoint, by main.py")
    add_path("--model_path", default=str(PROJECT / "models"), help="model file, or folder (models, by main.py)")
    add_path("--sample_dir", default=str(PROJECT / "samples"), help="sheets, logs, results (samples, by main.py)")
    add("--restart", **SWITCH, default=False, help="train anew; what was there is moved aside")
    add("--log_every", type=positive, default=50, help="steps from log line to log line (default: 50)")
    add("--sample_every", type=natural, default=0, help=f"steps from sheet to sheet ({sample_every})")
    add("--save_every", type=natural, default=0, help="steps from checkpoint to checkpoint (an epoch; 50 at most)")
    return group


def read_flags(parser, argv, defaults, named, uses):
    """Parse the command line.

    defaults: a first reading of the flags -> what recipe and verb set, which a flag that is given wins over. uses: a
    first reading -> the training whose model the verb uses, else None; named: what a model of it is named for besides
    the data set -> the flags that say it, as {"recipe": ["recipe"]}. Where they are not given, the only model there is
    says it (`find_run`).
    A verb that finds none uses the one that comes with the program (`find_shipped`), and args.shipped says so, unless
    the person has said which, or where theirs lie. args.given: the flags on the command line; args.only: those of them
    that are for some verbs alone, and for which (`verbs_of`). args.shaping: the flags that shape a run, those of the
    groups Model and Training but for how long it goes on. A run can be resumed with others changed, not with these.
    """
    argv = sys.argv[1:] if argv is None else list(map(str, argv))
    first = parser.parse_known_args(argv)[0]
    blank = argparse.Namespace(**dict.fromkeys(vars(first)))  # so that no default is filled in
    given = {name for name, value in vars(parser.parse_known_args(argv, blank)[0]).items() if value is not None}
    parser.set_defaults(**defaults(first))
    args = parser.parse_args(argv)
    if "dataset_dir" in given and args.dataset_name is None:
        args.dataset_name = name_of(args.dataset_dir)
    makes = str(first.run).startswith(("train", "ship", "tune"))
    alone = uses(first) and not makes and "model_path" in given and "checkpoint_dir" not in given
    if alone and not args.model_path.endswith(".pt") and not Path(args.model_path).is_dir():
        raise InputError(f"--model_path {args.model_path}: expected a model file, NAME.pt, or a folder of such")
    found, others = find_run(args, given, uses(first), named) if uses(first) else ({}, "")
    shipped, first.shipped = None, ""
    if uses(first) and not (found or makes or given & {"model_path", "checkpoint_dir", "dataset_name"}):
        shipped = find_shipped(args, given, uses(first), named)
        if not shipped and (there := sorted(file.name for file in PROJECT.glob("*.pt"))):
            others += f"; of those that come with the program ({', '.join(there)}) none fits"
    if shipped:
        file, content = shipped
        found = {flag: content["args"][flag] for flag in ("dataset_name", *named)} | dict(model_path=str(file))
        first.shipped = f"no model of your own fits: {file}, which comes with the program, is used, {content['about']}"
    if found:
        vars(first).update({name: value for name, value in found.items() if name not in given})
        parser.set_defaults(**defaults(first) | found)
        args = parser.parse_args(argv)
        args.model_path = found.get("model_path", args.model_path)
    args.others, args.shipped, args.given = others, first.shipped, given
    told = [f"python {PROJECT.name}/main.py --dataset_dir DIR"]
    told += [f"--run {uses(first)}"] * (uses(first) not in (None, "train"))
    told += as_flags([name for name in named if given & set(named[name])], named, vars(args))
    args.train_first = f"train first: {' '.join(told)} (--help says how)"
    args.command = shlex.join(["python", f"{PROJECT.name}/main.py", *argv])
    groups = {group.title: group._group_actions for group in parser._action_groups}
    names = {action.dest for title in ("Model", "Training") for action in groups[title]}
    args.shaping = sorted(names - {"epoch", "steps", "patience", "train_time"})
    del groups["Training"]  # a verb may be given those of the run whose model it uses
    only = {action.dest: verbs_of(parser, action) for actions in groups.values() for action in actions}
    args.only = {flag: verbs for flag, verbs in only.items() if verbs and flag in given}
    if args.dataset_name is None and args.dataset_dir is not None:
        args.dataset_name = name_of(args.dataset_dir)
    if args.dataset_name is None and args.model_path.endswith(".pt"):
        args.dataset_name = Path(args.model_path).stem
    if args.dataset_name is None and uses(first):
        where = f"{args.model_path} nor {args.checkpoint_dir}"
        raise InputError(f"no model: none in {where} fits{others}; {args.train_first}")
    if args.dataset_name is None:
        needed = "--dataset_dir is needed: the folder (or zip) with the pictures"
        raise InputError("; ".join([needed, *misplaced(args)]))
    if Path(args.dataset_name).name != args.dataset_name or args.dataset_name in ("", ".."):
        raise InputError(f"--dataset_name {args.dataset_name!r}: expected a plain name, without slashes")
    return args


def verbs_of(parser, action):
    """The verbs that a flag is for alone: those its help begins with, as in "generate, refine: what is asked for"."""
    verbs = next(other.choices for other in parser._actions if other.dest == "run")
    named = action.help.partition(": ")[0].split(", ")
    return named if set(named) <= set(verbs) else []


def misplaced(args):
    """What is to be said of flags that were given to another verb than they are for."""
    return [f"--{flag} is for --run {' or '.join(verbs)}" for flag, verbs in args.only.items() if args.run not in verbs]


def find_shipped(args, given, training, named):
    """The model that comes with the program which is most like what the flags say, (file, content) or None.

    What was given has to fit; of what was not, the defaults decide between those that do.
    """
    told, best = [flag for flag in named if given & set(named[flag])], (-1, None)
    for file in sorted(PROJECT.glob("*.pt")):
        content = read_checkpoint(file, mmap=True)
        same = {flag: content["args"].get(flag) == getattr(args, flag) for flag in named}
        if content["args"].get("run") == training and all(same[flag] for flag in told) and sum(same.values()) > best[0]:
            best = sum(same.values()), (file, content)
    return best[1]


def name_of(folder):
    """A data set's name: its folder's, or its zip's; of a link, its own."""
    name = os.path.basename(os.path.abspath(folder)).removesuffix(".zip")
    return os.fsdecode(os.fsencode(name)[:150])  # with what is added, a file's name has 255 bytes


def find_run(args, given, training, named):
    """What names the model that a verb is to use, as far as it was not given, and a text about those that do not fit.

    The file of --model_path, else the run that the flags name, else the only one that fits those given; {} where none
    does. InputError: several could be meant.
    """
    known, models = args.dataset_name is not None, {}
    files = [*Path(args.model_path).glob("*.pt"), *Path(args.checkpoint_dir).glob("*/last.pt")]
    if one := args.model_path.endswith(".pt"):
        files = [Path(args.model_path)]
    for file in files:
        if file.name == "last.pt" and models and "model_path" in given and "checkpoint_dir" not in given:
            break  # the folder's own, as there are some
        try:
            content = read_checkpoint(file, mmap=True)
        except InputError as error:
            if not one:  # else it is read again, and then the end
                print(f"{error}: passed over")
            continue
        saved, name = content["args"], file.parent.name if file.name == "last.pt" else file.stem
        if one or (saved.get("run"), saved.get("name")) == (training, name):  # and not, say, NAME.001.pt
            # A small model, of `write_shipped`, is not called what its run is: it is the file itself
            models[name] = saved | (dict(file=str(file)) if "about" in content else {})

    def naming(model):
        """What names it, of the flags it was made with."""
        names = {flag: model[flag] for flag in ("dataset_name", *named) if flag in model}
        return names | (dict(model_path=model["file"]) if "file" in model else {})

    if one:
        return next(map(naming, models.values()), {}), ""
    told = ["dataset_name"] * known + [flag for flag in named if given & set(named[flag])]

    def fitting(flags):
        same = {name: all(m.get(flag) == getattr(args, flag) for flag in flags) for name, m in models.items()}
        return {name: model for name, model in models.items() if same[name]}

    fit = known and fitting({"dataset_name", *named}) or fitting(told)
    if len(fit) == 1 or not models:
        return next(map(naming, fit.values()), {}), ""
    shown, differ = fit or models, told  # by what they differ in, from each other or from what was given
    if fit:
        differ = [flag for flag in ("dataset_name", *named) if len({str(m.get(flag)) for m in fit.values()}) > 1]
    said = {name: " ".join(as_flags(differ, named, model)) for name, model in shown.items()}
    there = "there is " + ", ".join(f"{name} ({said[name]})" for name in sorted(said))
    if fit:
        raise InputError(f"which model? {there}: give the flags of one, or its file as --model_path")
    return {}, f"; {there}"


def as_flags(names, named, values):
    """What a model is named for as it is typed: ["--train_mode mtf"]. named: of read_flags; values: of the flags."""
    flags = [flag for name in names for flag in ([name] if name in named.get(name, [name]) else named[name])]
    return [f"--{flag} {values[flag]}" for flag in flags if values.get(flag) is not None]


def run_name(args, *parts):
    """What names a run's checkpoint, model and samples: data set, parts, and the recipe if it is not the document's."""
    recipe = [args.recipe] if args.recipe != "document" else []
    return "_".join(map(str, [args.dataset_name, *parts, *recipe]))


def check_places(args):
    """InputError, before any work, where what a verb writes cannot be written, or a flag is not for it."""
    training = args.run.startswith("train")
    if wrong := misplaced(args):
        raise InputError(f"{wrong[0]}, not for --run {args.run}")
    if args.restart and not training:
        raise InputError(f"--restart begins a training anew; --run {args.run} is none")
    if training and getattr(args, "out_dir", None):
        raise InputError(f"--out_dir is for another --run: {args.run} writes to --sample_dir and --model_path")
    if int(os.environ.get("RANK", 0)):
        return  # of several processes the first one writes
    if training:
        model = Path(args.model_path)
        check_writable("--model_path", model if model.suffix == ".pt" else model / "model.pt")
        check_writable("--checkpoint_dir", Path(args.checkpoint_dir, "last.pt"))
        check_writable("--sample_dir", Path(args.sample_dir, "sheet.png"))
    elif getattr(args, "out_dir", None):
        new_folder(args.out_dir, args.overwrite, make=False)
        for flag in ("images", "minus", "plus"):  # results never replace what they are made of
            keep_apart(args.out_dir, getattr(args, flag, None) or [])
        check_writable("--out_dir", Path(args.out_dir, "sheet.png"))
    elif not getattr(args, "infile", None):  # whose result goes elsewhere
        check_writable("--sample_dir" + " or --out_dir" * hasattr(args, "out_dir"), Path(args.sample_dir, "sheet.png"))


# ---------------------------------------------------------------------------------------------------------------------
# Set-up, gradients, running means


def fast_in_bf16():
    """Whether this CPU is faster in bf16 than in fp32: one with AMX, or AMD's with AVX512-BF16.

    Intel's AVX512-BF16 alone does no more sums a cycle than fp32: facegen_attr's dcgan2 ran at 0.76 of its speed (Xeon,
    family 6, model 207, in a virtual machine without AMX; torch 2.14).
    """
    cpuinfo = Path("/proc/cpuinfo")
    intel = "Intel" in (cpuinfo.read_text() if cpuinfo.exists() else platform.processor())
    return torch.cpu._is_avx512_bf16_supported() and (torch.cpu._is_amx_tile_supported() or not intel)


def setup(args):
    """Join torchrun's processes, if any; returns device, autocast, rank and number of processes.

    autocast() is the context that a forward pass runs in. InputError: a device or precision that is not there.
    """
    try:
        found = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(found if args.device == "auto" else args.device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(f"--device {args.device} is not to be had here: cpu is, and auto finds the best") from None
    if device.type == "cpu":
        fast = fast_in_bf16()
    else:
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    bf16 = args.precision == "bf16" or args.precision == "auto" and fast
    torch.backends.cudnn.allow_tf32 = args.precision != "fp32"
    torch.set_float32_matmul_precision("highest" if args.precision == "fp32" else "high")
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(args.seed)
    if "RANK" in os.environ and not dist.is_initialized():
        # Plain numbers travel over gloo even with GPUs; the others wait for hours while rank 0 packs a large data set.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=12))
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    kept = device.type == "cpu"  # a weight's bf16 copy: a CUDA graph must make its own
    return device, partial(torch.autocast, device.type, torch.bfloat16, bf16, kept), rank, world


def slice_of(batch_size, rank, world, people=1, least=1):
    """The slice of a whole batch that is this process's; least: pictures in it, of each of the people.

    InputError: the processes cannot share it equally, or it is too small.
    """
    if batch_size % (people * world):
        what = f"the {world} processes" if people == 1 else f"{people * world}, the people times the processes"
        raise InputError(f"--batch_size {batch_size}: expected a multiple of {what}")
    if batch_size < least * people * world:
        expected = f"{least * people * world} at least, as batch norm needs {least} in each process"
        raise InputError(f"--batch_size {batch_size}: expected {expected}")
    return slice(rank * batch_size // people // world, (rank + 1) * batch_size // people // world)


def descend(loss, *optimizers):
    """One step of each optimizer down the gradient of a loss, averaged over all processes in one message each."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        average_gradients(optimizer)
        optimizer.step()


def average_gradients(optimizer):
    """Average the gradients of an optimizer's parameters over all processes; nothing to do without torchrun."""
    if dist.is_initialized():
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        means = flat.div_(dist.get_world_size()).split([g.numel() for g in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))


def whole(x):
    """The whole batch of which each process has the slice x (n, ...); x itself without torchrun.

    For a loss that is no mean over pictures: every process works it out of all of them, and has the gradient of its own
    slice, times their number, since average_gradients will divide by that.
    """
    if not dist.is_initialized():
        return x
    world = dist.get_world_size()
    parts = [torch.empty_like(x) for _ in range(world)]
    dist.all_gather(parts, x.detach().contiguous())
    parts[dist.get_rank()] = world * x - (world - 1) * x.detach()
    return torch.cat(parts)


def mean_of_processes(x):
    """The mean of a tensor over all processes, in place; x itself without torchrun."""
    if dist.is_initialized():
        dist.all_reduce(x.div_(dist.get_world_size()))
    return x


def make_adam(parameters, rate, beta1, beta2=0.999):
    """Adam, fused; on CUDA as a graph needs it: all that changes, the rate too, are tensors there."""
    parameters = list(parameters)
    device = parameters[0].device
    rate = torch.tensor(rate, device=device) if device.type == "cuda" else rate
    return torch.optim.Adam(parameters, rate, (beta1, beta2), fused=True, capturable=device.type == "cuda")


def set_rate(optimizer, rate):
    """The learning rate of an optimizer's next step; outside of the step, which may be a graph."""
    for group in optimizer.param_groups:
        if torch.is_tensor(group["lr"]):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def seed_step(seed, step):
    """From here on random numbers depend on seed and step alone, on every device and every rank.

    They are mixed, since a CPU's generator reads 32 bits of a seed and no more.
    """
    torch.manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0]))


def replayed(step, device):
    """A training step as CUDA graphs, one for each set of shapes and flags; on other devices the step itself.

    step(*tensors, **flags) is a function of tensors, which may change networks and optimizers, and returns a dict of
    scalars. Thrice it is run as it is, kernel by kernel (cuDNN chooses, optimizers make their state), then captured,
    and from then on replayed: a small network's GPU otherwise waits for launches most of the time. Where it cannot be
    captured it goes on as it is, which is said.
    """
    if device.type != "cuda":
        return step
    seen, graphs, stream, pool = Counter(), {}, torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def capture(key, tensors, flags):
        inputs, graph = [tensor.clone() for tensor in tensors], torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
                graphs[key] = graph, inputs, step(*inputs, **flags)
        except RuntimeError as error:
            print(f"the step goes on without a CUDA graph: {str(error).splitlines()[0]}")
            graphs[key] = None

    def call(*tensors, **flags):
        key = (*(tensor.shape for tensor in tensors), *sorted(flags.items()))
        seen[key] += 1
        if seen[key] > 3 and key not in graphs:
            capture(key, tensors, flags)
        if graphs.get(key):
            graph, inputs, outputs = graphs[key]
            for mine, theirs in zip(inputs, tensors, strict=True):
                mine.copy_(theirs)
            graph.replay()
            return outputs
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            outputs = step(*tensors, **flags)
        torch.cuda.current_stream().wait_stream(stream)
        return outputs

    return call


def make_ema(network):
    """A copy of a network for `update_ema`; what the network calls its constants() is shared with it, not copied."""
    constants = getattr(network, "constants", list)()
    return copy.deepcopy(network, {id(constant): constant for constant in constants}).requires_grad_(False)


@torch.no_grad()
def update_ema(ema, network, step, decay=0.999):
    """Move the running mean of the weights on: ema = decay * ema + (1 - decay) * weights; quicker at first.

    step: a 0-dim tensor on the device, from 1 on. Buffers (batch norm's statistics) are copied: see `settle`.
    """
    weight = (9 / (10 + step)).clamp(min=1 - decay)
    mine, theirs = list(ema.parameters()), list(network.parameters())
    moves = torch._foreach_sub(theirs, mine)
    torch._foreach_mul_(moves, weight)
    torch._foreach_add_(mine, moves)
    pairs = [pair for pair in zip(ema.buffers(), network.buffers(), strict=True) if pair[0] is not pair[1]]
    if pairs:
        torch._foreach_copy_(*map(list, zip(*pairs, strict=True)))


@torch.no_grad()
def settle(emas, run, rows, size, count=16):
    """Measure batch norm's statistics of running means of weights anew, before they are shown or kept.

    Those that `update_ema` copies fit other weights, the learning ones, and cost as much as many steps gain (as arXiv
    1803.05407, section 3.2, says of averaged weights). run(chosen): shows the emas what a training step would, on
    pictures in these rows of the training part; size: how many; count: batches that the statistics are the mean of.
    """
    norms = [part for ema in emas for part in ema.modules() if hasattr(part, "running_mean")]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
    for ema in emas:
        ema.train()
    for chosen in np.resize(subset(rows, count * size), (count, size)):
        run(chosen)
    for ema in emas:
        ema.eval()


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints and model files


def place(args, kind, name):
    """Where the things of a run called `name` lie: its "checkpoint", "model" (the best so far) or "samples"."""
    if kind == "checkpoint":
        return Path(args.checkpoint_dir) / name / "last.pt"
    if kind == "model":
        path = Path(args.model_path)
        return path if path.suffix == ".pt" else path / f"{name}.pt"
    return Path(args.sample_dir) / name


def save_checkpoint(path, flags, parts, **state):
    """Write everything stateful into one file, atomically; the file before it stays beside it, as NAME.previous.pt.

    parts: name -> module or optimizer; flags, state: numbers, texts, lists and tensors. InputError: the disk refuses.
    """
    content = {"format": FORMAT, "project": PROJECT.name, "args": flags, "state": state}
    write_content(path, content | {name: part.state_dict() for name, part in parts.items()})


def write_content(path, content):
    """Write a file atomically, and keep the one before it."""
    temporary, copy = path.with_name(path.name + ".tmp"), path.with_suffix(".previous.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():  # a copy, so that there is a file at path at every moment
            shutil.copyfile(path, copy)
            os.replace(copy, path.with_suffix(PREVIOUS))
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        for unfinished in (temporary, copy):
            unfinished.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written: {error}") from None


def read_checkpoint(path, mmap=False):
    """Everything that save_checkpoint wrote, on the CPU; mmap: tensors are read once they are looked at.

    InputError: the file is none of this project, or damaged.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        number, project = content["format"], content.get("project", PROJECT.name)
        content["args"], content["state"]  # are in all of them
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception:  # there is no end to what the unpickler raises at a file that is none
        raise InputError(f"{path} is no checkpoint of this program, or damaged") from None
    if number not in (1, FORMAT):
        raise InputError(f"{path} has format {number}; this program reads 1 and {FORMAT}")
    if project != PROJECT.name:
        raise InputError(f"{path} is no model of this project but of {project}")
    if "about" in content and not mmap:
        for name in set(content) - {"args", "state"}:
            if isinstance(content[name], dict):
                content[name] = {key: unpacked(x) for key, x in content[name].items()}
    return content


def write_shipped(path, content, networks, about, **state):
    """Write a small model file, which can come with the program, from the content of a large one.

    networks: name -> weights, there in 8 bits, each row with a scale of its own. about: what it was trained on. state:
    tensors, numbers and texts that verbs need beside them, no pictures. InputError: it would be larger than such files
    may be.
    """
    flags = content["args"] | dict(dataset_name=SHIPPED, name=path.stem)
    small = {"format": FORMAT, "project": PROJECT.name, "about": about, "args": flags}
    small["state"] = dict(step=content["state"].get("step", 0), **state)
    for name, weights in networks.items():
        small[name] = {key: packed(x) for key, x in weights.items()}
    size = bytes_of(small)
    if size > MOST_SHIPPED:
        most = f"{MOST_SHIPPED / 1e6:.0f} at most: train a narrower one"
        raise InputError(f"{path} would have {size / 1e6:.1f} MB, {most}")
    write_content(path, small)
    path.with_suffix(PREVIOUS).unlink(missing_ok=True)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, {about}")


def bytes_of(content):
    """How many bytes the tensors in a dict of such, at any depth, have."""
    if torch.is_tensor(content):
        return content.numel() * content.element_size()
    return sum(map(bytes_of, content.values())) if isinstance(content, dict) else 0


def packed(x):
    """A tensor as `write_shipped` writes it; what is no matrix, such as batch norm's statistics, stays as it is."""
    if not x.is_floating_point() or x.dim() < 2:
        return x
    scale = x.float().abs().flatten(1).amax(1).clamp(min=1e-12) / 127
    return {"int8": (x.float() / scale.view(-1, *[1] * (x.dim() - 1))).round().char(), "scale": scale}


def unpacked(x):
    """That tensor again, in single precision."""
    if isinstance(x, dict):
        return x["int8"].float() * x["scale"].view(-1, *[1] * (x["int8"].dim() - 1))
    return x.float() if x.is_floating_point() else x


def trained_on(args, content):
    """What a model, with this content of its file, says of its training. InputError: --dataset_dir was not given."""
    need_data(args, "it says what the model was trained on, and gives the numbers that verbs need of it")
    dataset = CelebA(args.dataset_dir)
    width, height = sorted(dataset.sizes)[len(dataset.sizes) // 2]
    count = len(subset(np.flatnonzero(dataset.partition == 0), content["args"].get("train_size")))
    return f"trained on {count:,} faces of {width} x {height} pixels"


def need_data(args, why):
    """InputError: a verb needs the data set and --dataset_dir was not given."""
    if args.dataset_dir is None:
        raise InputError(f"--run {args.run} needs --dataset_dir, the folder (or zip) with the pictures: {why}")


def find_model(args, name):
    """The best model of a run so far, else its last checkpoint: path and content.

    InputError: none of them is there, or not the file that --model_path names.
    """
    candidates = [place(args, "model", name), place(args, "checkpoint", name)]
    if candidates[0] == Path(args.model_path):  # that one and no other
        candidates = candidates[:1]
    path = next((path for path in candidates if path.exists()), None)
    if path is None and len(candidates) == 1:
        raise InputError(f"--model_path {candidates[0]}: no such file")
    if path is None:
        raise InputError(f"no model: no {' nor '.join(map(str, candidates))} is there{args.others}; {args.train_first}")
    return path, read_checkpoint(path)


def check_shape(args, path, content, *names, always=()):
    """InputError: a model, with this content of its file, has another value of one of these flags than was given.

    always: those whose value counts where they were not given, too.
    """
    for name in (*always, *names):
        values = content["args"].get(name), getattr(args, name)
        theirs, mine = (",".join(x) if isinstance(x, list) else x for x in values)
        if name in (*always, *args.given) and name in content["args"] and theirs != mine:
            raise InputError(f"{path} has {name} {theirs}, not {mine}: give --{name} {theirs}, or another model")


def fill(network, content, name, path):
    """Weights from a file's content into a network: those called `name`. InputError: there are none, or others'."""
    try:
        network.load_state_dict(content[name])
    except (KeyError, RuntimeError, TypeError, AttributeError):
        raise InputError(f"{path} is no model of this project, or has another shape: no {name} that fits") from None
    return network


def shown_part(content, name, mean=None):
    """What the weights of a network that are shown are called in a file's content.

    mean: what its running mean is called (default: ema_NAME), which a checkpoint has beside them.
    """
    mean = mean or f"ema_{name}"
    return mean if content["args"].get("show_ema") and mean in content else name


def load_checkpoint(path, flags, parts, facts=()):
    """Resume: fill parts from path, or from the one before; returns the saved state, None without a file.

    facts: which of flags are none that a person gives. None also where it was trained for a generator that has changed
    since: that begins anew. InputError: no file is readable, or it was made with other flags that shape network, data
    or loss.
    """
    candidates = [file for file in (path, path.with_suffix(PREVIOUS)) if file.exists()]
    if not candidates:
        return None
    for file in candidates:
        try:
            content = read_checkpoint(file)
            break
        except InputError as error:
            print(f"{error}{': taking the one before' if file != candidates[-1] else ''}")
    else:
        raise InputError(f"no checkpoint in {path.parent} can be read: begin anew with --restart")
    if content["format"] != FORMAT:
        raise InputError(f"{file} is of an older program, which this one cannot resume: begin anew with --restart")
    saved = content["args"]
    if saved.get("inverts") != flags.get("inverts"):
        print(f"{file.parent} was trained for a generator that has changed since: it begins anew")
        return None
    # A flag that came with a later program was not chosen then, so that it cannot differ; a fact that is missing does.
    before = {name: saved.get(name, None if name in facts else value) for name, value in flags.items()}
    differ = {name: was for name, was in before.items() if was != flags[name]}
    if differ:
        was = "; ".join(f"{name} was {value}, now {flags[name]}" for name, value in differ.items())
        texts = {name: ",".join(value) if isinstance(value, list) else value for name, value in differ.items()}
        again = " ".join(f"--{name}={shlex.quote(str(text))}" for name, text in texts.items())
        advice = "" if set(differ) & set(facts) or None in texts.values() else f"go on with {again}, or "
        raise InputError(f"{file} was made with other flags ({was}): {advice}begin anew with --restart")
    try:
        for name, part in parts.items():
            if isinstance(part, torch.optim.Optimizer):
                for mine, theirs in zip(part.param_groups, content[name]["param_groups"], strict=True):
                    theirs |= dict(lr=mine["lr"], capturable=mine["capturable"])  # as this device needs them
            part.load_state_dict(content[name])
    except (KeyError, RuntimeError, ValueError):
        raise InputError(f"{file} has networks of another shape: begin anew with --restart") from None
    print(f"resuming from {file}, step {content['state']['step']}")
    return content["state"]


# ---------------------------------------------------------------------------------------------------------------------
# Pictures and folders


def in_chunks(rows, rank=0, world=1, size=64):
    """Slices of 64 rows, those of this process."""
    return [slice(start, start + size) for start in range(rank * size, len(rows), world * size)]


def psnr(mse):
    """Decibels of a mean squared error of pictures in [-1, 1]."""
    return 10 * math.log10(4 / mse) if mse else math.inf


def save_sheet(path, rows, columns=16):
    """Write a sheet of pictures: rows maps a label to (N, 3, H, W) in [-1, 1]. See `photos.save_sheet`."""
    return photos.save_sheet(path, {label: to_uint8(pictures) for label, pictures in rows.items()}, columns)


def next_folder(args, samples):
    """Where a verb writes: --out_dir, else the first of VERB_001, VERB_002 ... in samples that is not there yet.

    So a second run writes beside the first and not over it.
    """
    numbered = (samples / f"{args.run}_{i:03d}" for i in range(1, 10**6))
    return Path(args.out_dir or next(path for path in numbered if not path.exists()))


def output_folder(args, samples):
    """That folder, made. InputError: --out_dir is not empty and --overwrite was not given."""
    folder = new_folder(next_folder(args, samples), args.overwrite)
    if not args.out_dir:
        add_to_index(args, samples, folder.name)
    return folder


def add_to_index(args, samples, what):
    """A line in a run's index.tsv: what lies in its sample folder, since when, and the command that wrote it."""
    samples.mkdir(parents=True, exist_ok=True)
    with open(samples / "index.tsv", "a", encoding="utf-8", errors="surrogateescape") as file:
        print(what, time.strftime("%Y-%m-%d %H:%M"), args.command, sep="\t", file=file)


# ---------------------------------------------------------------------------------------------------------------------
# The logbook of a training


class Journal:
    """The logbook of a training: what it resumes from, how far it is, what it has lost, what is due.

    It is asked and told, and calls nothing back:

        journal = Journal(args, name, parts, pictures, about, facts, device, rank, **state)
        for step in journal.steps():
            ...                            # the updates
            journal.add(d=d_loss, g=g_loss)
            if journal.sheet_due: ...      # journal.scalar(), journal.sheet(), journal.keep_if_best()
            journal.save({"generator": shown})
        journal.close()

    name: of the run (see `place`); parts: everything stateful, by name; pictures: how many an epoch shows; about: what
    is trained on what, for the first line; facts: what shapes the run beside the flags. state: what else is kept with
    the checkpoint, as it is at first; later it is in journal.state, as are step, best (the lowest score), best_step.
    """

    def __init__(self, args, name, parts, pictures, about, facts, device, rank, **state):
        self.args, self.parts, self.about, self.device, self.rank = args, parts, about, device, rank
        self.checkpoint, self.model, self.samples = (
            place(args, kind, name) for kind in ("checkpoint", "model", "samples")
        )
        self.epoch_steps = max(1, pictures // args.batch_size)
        self.planned = args.epoch * self.epoch_steps or args.steps
        self.last = min(self.planned, args.steps or self.planned)
        # Every epoch, or every so many that a run looks at itself, and is saved, at most fifty times.
        self.period = self.epoch_steps * max(1, -(-self.planned // (50 * self.epoch_steps)))
        facts |= dict(run=args.run, name=name, dataset_name=args.dataset_name)
        self.flags = {name: getattr(args, name) for name in args.shaping} | facts
        if rank == 0:
            check_writable("--checkpoint_dir", self.checkpoint)
            check_writable("--model_path", self.model)
            check_writable("--sample_dir", self.samples / "sheet.png")
        found = None if args.restart else load_checkpoint(self.checkpoint, self.flags, parts, facts)
        self.fresh = found is None
        if not self.fresh and getattr(args, "start_from", None) and rank == 0:
            print("--start_from is where a training begins; this one goes on from its own checkpoint")
        self.anew = args.restart or self.fresh and self.checkpoint.exists()
        if self.fresh and self.model.exists() and not self.anew and rank == 0:
            advice = "move it away, give another --model_path, or begin anew with --restart"
            raise InputError(f"{self.model} is there, but no checkpoint of its run: {advice}")
        self.state = dict(step=0, best=math.inf, best_step=0) | state | (found or {})
        if found and not state.keys() <= found.keys():  # of an older program, whose scores do not compare
            self.state["best"] = math.inf
        self.step, self.losses, self.asked, self.stopping, self.better = self.state["step"], [], False, False, False
        self.now = torch.zeros((), device=device)  # the step, where a captured one can read it
        self.writer = self.bar = self.curve = None  # curve: the name of the losses' line where others share its chart
        self.stack = contextlib.ExitStack()

    def steps(self):
        """The numbers of the steps that are still to be done, until the last or until somebody asks to stop."""
        if self.step >= self.last:
            print(f"trained {self.step} steps already, of {self.planned}: raise --epoch or --steps to go on")
            return
        self.open()
        while self.step < self.last and not self.stopping:
            self.step += 1
            self.now.fill_(self.step)
            seed_step(self.args.seed, self.step)
            yield self.step

    def number(self, name):
        """A number of the state as a tensor on the device, (): a step may change it in place, a checkpoint keeps it."""
        self.state[name] = torch.tensor(float(self.state[name]), device=self.device)
        return self.state[name]

    def open(self):
        """Say what begins, and begin to log it."""
        from tqdm import tqdm

        self.stop_requested = listen_for_stop()
        if self.rank == 0:
            from torch.utils.tensorboard import SummaryWriter  # takes seconds, which only a training has to wait for

            if self.anew:
                self.move_aside()
            networks = [p for name, p in self.parts.items() if hasattr(p, "parameters") and not name.startswith("ema")]
            count = sum(parameter.numel() for network in networks for parameter in network.parameters())
            print(f"{self.about}, {count:,} parameters, {self.planned} steps of {self.args.batch_size}, {self.device}")
            logs = self.samples / "logs"
            print(f"watch it: tensorboard --logdir {shlex.quote(str(logs))}")
            logs.mkdir(parents=True, exist_ok=True)
            add_to_index(self.args, self.samples, f"sheets from {self.step + 1:07d}.png on, logs")
            self.writer = SummaryWriter(self.stack.enter_context(plain_path(logs)), purge_step=self.step + 1)
        total, done = (steps * self.args.batch_size for steps in (self.last, self.step))
        how = dict(unit="img", unit_scale=True, mininterval=1 if sys.stderr.isatty() else 30)
        self.bar = tqdm(total=total, initial=done, disable=self.rank > 0, **how)

    def move_aside(self):
        """Checkpoint, model and samples of a run that begins anew get a number: nothing is deleted."""
        places = self.checkpoint.parent, self.samples, self.model, self.model.with_suffix(PREVIOUS)
        for number in range(1, 10**6):
            names = [f"{place.name}.{number:03d}" for place in places[:2]]
            names += [f"{self.model.stem}.{number:03d}{suffix}" for suffix in (".pt", PREVIOUS)]
            targets = [place.with_name(name) for place, name in zip(places, names, strict=True)]
            if not any(map(os.path.lexists, targets)):
                break
        for place, target in zip(places, targets, strict=True):
            if place.exists():
                place.rename(target)
                print(f"{place} is now {target}")

    def add(self, **losses):
        """What this step lost, scalars on the device; from here on the step counts, and what is due is known.

        Exits, with the last good checkpoint kept, if a loss is not finite.
        """
        self.bar.update(self.args.batch_size)
        if self.step % 10 == 0 or not dist.is_initialized():  # asking the other processes takes time
            self.asked = self.stop_requested()
        self.stopping = self.asked
        self.losses.append(torch.stack([loss.detach().float() for loss in losses.values()]))
        end = self.step == self.last
        self.epoch_end = end or self.step % self.period == 0
        # A stop is due a sheet as an end is, so that what was learnt since the last one counts for the model kept.
        self.sheet_due = end or self.stopping or self.step % (self.args.sample_every or self.period) == 0
        self.save_due = end or self.step % (self.args.save_every or self.period) == 0
        self.looked_at = self.save_due or self.sheet_due or self.epoch_end  # nothing unseen is saved
        self.log_due = self.looked_at or self.step % self.args.log_every == 0
        self.better = False
        if self.log_due:
            self.log(list(losses))

    def log(self, names):
        """The means since the last time, over all processes, to the bar and TensorBoard."""
        table = mean_of_processes(torch.stack(self.losses)).cpu()
        finite, first = table.isfinite().all(1), self.step - len(table) + 1
        if not finite.all():
            bad = first + int(finite.int().argmin())
            kept = f"; the last good state is {self.checkpoint}" if self.checkpoint.exists() else ""
            advice = "begin anew with --restart and, say, a smaller --learning_rate"
            sys.exit(fail(f"the loss is not finite at step {bad}{kept}: {advice}", code=1))
        self.means, self.losses = dict(zip(names, table.mean(0).tolist(), strict=True)), []
        self.bar.set_postfix({name: f"{mean:.4g}" for name, mean in self.means.items() if mean and "/" not in name})
        for name, mean in self.means.items():
            self.scalar(name if "/" in name else f"loss/{name}", mean, None if "/" in name else self.curve)

    def scalar(self, tag, value, curve=None):
        """A number to TensorBoard; curve: the name of its line, where several share a chart."""
        if self.writer and curve:
            self.writer.add_scalars(tag, {curve: value}, self.step)
        elif self.writer:
            self.writer.add_scalar(tag, value, self.step)

    def sheet(self, rows, columns=16, tag="images/samples"):
        """A sheet of pictures (see `save_sheet`), the step in its name, also to TensorBoard."""
        sheet = save_sheet(self.samples / f"{self.step:07d}.png", rows, columns)
        self.writer.add_image(tag, sheet, self.step, dataformats="HWC")

    def keep_if_best(self, score):
        """Whether the networks are the best so far, by a score of which less is better: then `save` keeps them.

        Of equal ones the newest is: what a score cannot tell apart has had more training.
        """
        self.better = score <= self.state["best"] and score < math.inf
        if self.better:
            self.state |= dict(best=score, best_step=self.step)
        return self.better

    def stop(self, why):
        """End the training after this step."""
        self.bar.write(why)
        self.stopping = True

    def save(self, model, **state):
        """Write what is due: the checkpoint, and the best model, its networks by name and what they come with."""
        if self.rank or not (self.save_due or self.stopping or self.better):
            return
        # A checkpoint knows of no model that is not there: the model is written first, but for the very first time,
        # since a model without a checkpoint is not this run's.
        writes = [partial(save_checkpoint, self.checkpoint, self.flags, self.parts, **self.state | {"step": self.step})]
        if self.better:
            keep = partial(save_checkpoint, self.model, self.flags, model, step=self.step, **state)
            writes.insert(0 if self.checkpoint.exists() else 1, keep)
        for write in writes:
            write()

    def close(self, score="score {:.4f}".format):
        """Say how it ended; score: how the best one reads."""
        if self.bar is None:  # there was nothing to do
            return
        self.bar.close()
        if self.writer:
            self.writer.close()
            self.stack.close()
            early = ": under-trained; the same command goes on" if self.step < self.last else ""
            print(f"trained {self.step} of {self.planned} steps{early}")
            if self.state["best_step"]:
                print(f"best at step {self.state['best_step']} ({score(self.state['best'])}): model {self.model}")
            peak = torch.cuda.max_memory_allocated() / 2**20 if self.device.type == "cuda" else 0
            print(f"sheets {self.samples}" + (f"; at most {peak:,.0f} MB of GPU memory" if peak else ""))


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
        told = asked.clone()  # while it travels, `asked` stays what this process alone was told
        if dist.is_initialized():
            dist.all_reduce(told)
        return told.item() > 0

    return stop_requested


# ---------------------------------------------------------------------------------------------------------------------
# The script


def run(parse_args, verbs, argv=None):
    """Read the flags and do what they ask; a person's mistake ends in one line and exit code 2."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # main.py's first lines had silenced it
    tolerate_names()
    try:
        args = parse_args(argv)
        check_places(args)
        if args.shipped:
            print(args.shipped)
        verbs[args.run](args)
    except InputError as error:
        sys.exit(fail(str(error)))
    except KeyboardInterrupt:
        sys.exit(fail("stopped", code=130))
    except BrokenPipeError:  # who read the output, head for instance, has gone: nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a disk that is full, a folder that has been taken away
        sys.exit(fail(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": ")))
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        cpu = "can't allocate memory" in str(error) or isinstance(error, MemoryError)
        if not cpu and not isinstance(error, torch.OutOfMemoryError):
            raise
        size = args.batch_size if args.run.startswith("train") else 1  # what else takes memory is no batch
        sys.exit(fail("out of memory" + f" with --batch_size {size}: try --batch_size {size // 2}" * (size > 1)))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
