"""HyperEncoder: a face as 100 numbers and back; a HyperFace encoder and a DCGAN decoder trained on squared error.

After the HyperEncoder document, HyperFace (arXiv 1603.01249) and DCGAN (arXiv 1511.06434).

One GPU:      python hyperencoder/main.py --dataset_dir=data/celeba --train=True
Several:      torchrun --nproc_per_node=8 hyperencoder/main.py --dataset_dir=data/celeba --train=True
CPU, minutes: make demo
Then:         python hyperencoder/main.py --dataset_dir=data/celeba --train=False
Own photos:   python hyperencoder/main.py --train=False --images holiday/ me.jpg
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports below ends without a traceback
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository root
from common.celeba import augment, batches, to_tensor, to_uint8
from common.photos import InputError
from hyperencoder import plumbing
from hyperencoder.anomaly import anomaly
from hyperencoder.loading import load_records, make_model, run_name, split, start_at_pca, start_from
from hyperencoder.model import X_SIZE, map_sizes
from hyperencoder.plumbing import SWITCH, Journal, descend, make_adam, make_ema, path, replayed, set_rate, update_ema
from hyperencoder.reconstruct import test
from hyperencoder.ship import ship
from hyperencoder.swap import swap
from hyperencoder.validation import compare, embed_validation, extend_film, mean_embeddings, validate

# ---------------------------------------------------------------------------------------------------------------------
# Flags

RECIPES = {  # what --recipe sets; each is a flag of its own, and a flag that is given wins
    "document": dict(
        embed_activation="linear", width_multiplier=1.0, batch_norm=False, init="document", pca_path=False,
        learning_rate=0.0002, beta1=0.5, schedule="constant", flip=False, shift=0.0, show_ema=False, patience=5,
        n_iter=0,
    ),
    "best": dict(
        embed_activation="linear", width_multiplier=0.25, batch_norm=True, init="he", pca_path=True,
        learning_rate=0.001, beta1=0.9, schedule="cosine", flip=True, shift=0.03, show_ema=True, patience=0,
        n_iter=30,
    ),
}  # fmt: skip


def parse_args(argv=None):
    """Read the command line. InputError: flags that do not go together."""
    parser = plumbing.make_parser(__doc__, "hyperencoder")

    add = parser.add_argument_group("What to do").add_argument
    add("--run", choices=VERBS, help="train, test, anomaly, train_swap, swap, ship; wins over --train")
    add("--train", **SWITCH, help="True: train; False: test (default: True)")
    add("--no-train", dest="train", action="store_false", default=None, help="the same as --train=False")
    add("--n_iter", type=plumbing.natural, help="test: steps of a search from the encoder's numbers (best: 30)")

    size = plumbing.number(int, "1 to 1024", lambda n: 1 <= n <= 1024)
    add = parser.add_argument_group("Model").add_argument
    add("--embed_size", type=size, default=100, help="numbers in an embedding (default: 100)")
    add("--x_height", type=int, default=X_SIZE, help="height of the encoder's input: 227")
    add("--x_width", type=int, help="its width: 227 (default: x_height)")
    add("--y_height", type=int, default=64, help="height of the pictures made (default: 64)")
    add("--y_width", type=int, help="their width (default: y_height)")
    add("--embed_activation", choices=("linear", "relu"), help="of the embedding (default: linear)")
    width = plumbing.number(float, "more than 0, at most 8", lambda x: 0 < x <= 8)
    add("--width_multiplier", type=width, help="scales all channel counts (document: 1, best: 0.25)")
    add("--batch_norm", **SWITCH, help="normalise each layer (document: False, best: True)")
    add("--init", choices=("document", "he"), help="first weights (document: document, best: he)")
    add("--pca_path", **SWITCH, help="start at PCA and learn what it misses (best: True)")

    add = plumbing.add_training_flags(parser, RECIPES, epoch=25, batch_size=64).add_argument
    add("--schedule", choices=("constant", "cosine"), help="of the rate (document: constant)")
    add("--flip", **SWITCH, help="mirror half of the pictures (document: False, best: True)")
    add("--shift", type=plumbing.weight, help="rotate, scale, shift by up to this share (document: 0)")
    add("--show_ema", **SWITCH, help="test and keep the running mean of the weights (best: True)")
    add("--patience", type=plumbing.natural, help="epochs without a better validation MSE to stop after; 0: never")
    add("--people", help="train_swap: identities such as 12,57, or sub-folders (default: all of these)")

    plumbing.add_machine_flags(parser)
    add = plumbing.add_file_flags(parser, "--tf_record_path", records="tf_record_path").add_argument
    add("--images", type=path, nargs="+", help="test, anomaly, swap: own pictures: files, folders, GIFs, videos")
    add("--out_dir", type=path, help="folder for the results (default: a new one, VERB_001 ...)")
    add("--overwrite", **SWITCH, default=False, help="write into an --out_dir that is not empty")
    add("--start_from", type=path, help="train_swap: model file of an auto-encoder to start from")
    add("--person", help="swap: whose face to put in (default: the last that was trained)")
    add("--all_faces", **SWITCH, default=False, help="test, anomaly, swap: every face, not only the largest")

    named = {name: [name] for name in ("recipe", "y_height", "y_width", "embed_size")}
    args = plumbing.read_flags(parser, argv, defaults, named, model_of)
    chosen = args.run or ("train" if args.train in (None, True) else "test")
    if args.train is not None and args.train != chosen.startswith("train"):
        raise InputError(f"--train={args.train} and --run {args.run} disagree: give one of the two")
    args.run, args.train = chosen, chosen.startswith("train")
    if (args.x_height, args.x_width) != (X_SIZE, X_SIZE):
        raise InputError(f"the encoder reads {X_SIZE} x {X_SIZE}, not {args.x_width} x {args.x_height}: leave x_height")
    try:
        map_sizes(args.y_height, args.y_width)
    except ValueError as error:
        raise InputError(str(error)) from None
    least = 2 * int(os.environ.get("WORLD_SIZE", 1))
    if args.train and args.batch_norm and args.batch_size < least:
        raise InputError(f"--batch_size {args.batch_size}: batch norm needs {least} at least, or --batch_norm=False")
    if args.run == "train_swap" and args.pca_path:
        raise InputError("--pca_path carries a person's looks past the decoders: not with --run train_swap")
    return args


def defaults(first):
    """What recipe and verb set, by the flags that were given."""
    # The path would carry the first person's looks past the second's decoder.
    chosen = RECIPES[first.recipe] | dict(x_width=first.x_height, y_width=first.y_height)
    return chosen | (dict(pca_path=False) if first.run == "train_swap" else {})


def model_of(first):
    """The training whose model a verb uses, None if it uses none; by the flags that were given."""
    verb = first.run or ("test" if first.train is False else "train")
    return dict(test="train", anomaly="train", ship="train", swap="train_swap").get(verb)


# ---------------------------------------------------------------------------------------------------------------------
# Training


def train(args):
    """Train the auto-encoder; for `train_swap` one shared encoder and a decoder for each person."""
    device, autocast, rank, world = plumbing.setup(args)

    # Data
    records = load_records(args, device, rank)
    people, train_rows, validation_rows = split(args, records)
    mine = plumbing.slice_of(args.batch_size, rank, world, len(people), 1 + args.batch_norm)  # of each one's share
    share, pictures = args.batch_size // len(people), len(np.concatenate(train_rows))

    # Networks
    torch.manual_seed(args.seed)  # here, so that the first weights are the same whatever was packed before
    model = make_model(args, len(people)).to(device, memory_format=torch.channels_last)
    ema = make_ema(model)
    shown = ema if args.show_ema else model
    optimizer = make_adam(model.parameters(), args.learning_rate, args.beta1)

    # Logbook
    about = f"{pictures} training and {len(np.concatenate(validation_rows))} validation faces"
    parts = dict(model=model, ema=ema, optimizer=optimizer)
    film = torch.zeros(0, 8, *model.size, 3, dtype=torch.uint8)
    state = dict(people=people, film=film)
    journal = Journal(
        args, run_name(args), parts, pictures, about, dict(data=records.describe()), device, rank, **state
    )
    journal.curve = "train"
    state = journal.state
    state.setdefault("waited", 0)  # not above: a checkpoint from before it was kept still knows its best model
    if journal.fresh:
        if args.start_from:
            start_from(model, args.start_from)
        else:
            start_at_pca(model, records, np.concatenate(train_rows), device)
        ema.load_state_dict(model.state_dict())
    if args.patience and state["waited"] >= args.patience:
        print(f"stopped by itself at step {journal.step} already: raise --patience, or set it to 0, to go on")
        return
    streams = [
        batches(records, rows, share, device, args.seed + person, journal.step, rank, world, args.flip)
        for person, rows in enumerate(train_rows)
    ]

    def step(x):
        """Encoder and decoder: repeat the face."""
        model.train()
        if args.shift:  # every process draws the whole batch's numbers and takes its slice
            numbers = torch.rand(4, len(people), share, device=device)[:, :, mine].flatten(1)
            x = augment(x, numbers, args.shift)
        with autocast():
            x_hat, embedding = model(x)
        loss = F.mse_loss(x_hat.float(), model.target(x))
        descend(loss, optimizer)
        update_ema(ema, model, journal.now)
        spread = {"max": embedding.max(), "min": embedding.min(), "std": embedding.float().std(0, correction=0).mean()}
        return {"mse": loss} | {f"embedding/{name}": value for name, value in spread.items()}

    def look_on(chosen):
        """What a step repeats, by the running mean: each person's share of pictures in a batch."""
        some = [rows[chosen[:share] % len(rows)] for rows in train_rows]
        with autocast():
            ema(to_tensor(records.images[np.concatenate(some)], device))

    step = replayed(step, device)
    for number in journal.steps():
        if args.schedule == "cosine":  # over all epochs, whatever --steps says, so that a run can be continued
            warm = min(1.0, number / min(200, journal.planned / 10))
            set_rate(optimizer, args.learning_rate * warm * (1 + math.cos(math.pi * number / journal.planned)) / 2)
        losses = step(torch.cat([next(stream)[0] for stream in streams]))

        # What is due: numbers, validation, a sheet, a checkpoint
        journal.add(**losses)
        if journal.log_due:
            journal.scalar("learning_rate", float(optimizer.param_groups[0]["lr"]))
        found = {}
        if args.show_ema and journal.looked_at:  # in each process, since all of them validate
            plumbing.settle([ema], look_on, np.arange(pictures), args.batch_size)
        if journal.epoch_end:
            errors = validate(shown, records, validation_rows, device, autocast, rank, world)
            error = errors.mean().item()
            journal.scalar("loss/mse", error, "validation")
            found = dict(people=people, means=None, validation_errors=errors.sort().values)
            state["waited"] = 0 if error < state["best"] else state["waited"] + 1  # looks, where the best one is 0
            if journal.keep_if_best(error) and rank == 0 and len(people) > 1:
                state["means"] = found["means"] = mean_embeddings(shown, records, train_rows, device, autocast)
            if args.patience and state["waited"] >= args.patience:
                journal.stop(f"stopped by itself: no better validation MSE in {args.patience} looks")
        if rank == 0 and journal.sheet_due:
            rows = compare(shown, records, validation_rows, people, device, autocast)
            journal.sheet(rows, tag="images/real_vs_predicted")
            picture = to_uint8(list(rows.values())[1][:8])
            state["film"] = extend_film(state["film"], picture, journal.samples / "filmstrip.png", number)
        journal.save({"model": shown}, **found)
    if journal.writer and not journal.asked:
        embed_validation(shown, records, validation_rows, device, autocast, journal)
    journal.close(lambda mse: f"validation MSE {mse:.4f} in [-1, 1], {mse / 4:.5f} in [0, 1]")


VERBS = dict(train=train, test=test, anomaly=anomaly, train_swap=train, swap=swap, ship=ship)


def main(argv=None):
    """What the command line asks for."""
    plumbing.run(parse_args, VERBS, argv)


if __name__ == "__main__":
    main()
