"""Faces from attributes, by six conditional GANs, and faces refined request by request, the person staying the same.

After the DeepLearning_FaceGen document and DCGAN (arXiv 1511.06434); what obeys uses a projection discriminator
(arXiv 1802.05637), an auxiliary classifier (arXiv 1610.09585), conditional batch norm (arXiv 1707.00683).

One GPU:      python facegen_attr/main.py --dataset_dir=data/celeba --model dcgan2 --recipe best
Several:      torchrun --nproc_per_node=8 facegen_attr/main.py --dataset_dir=data/celeba --model dcgan2 --recipe best
CPU, minutes: python facegen_attr/main.py --dataset_dir=data/celeba --model dcgan1 --train_size 2000
Then:         python facegen_attr/main.py --model dcgan2 --run generate --request "Male=1,Smiling=1,Eyeglasses=0"
Own photo:    python facegen_attr/main.py --model dcgan5 --run refine --images me.jpg --web
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports below ends without a traceback
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository root
from common.celeba import batches, parse_condition, subset, to_tensor
from common.photos import InputError
from facegen_attr import plumbing
from facegen_attr.attributes import attribute_list, exclusions, flipped, mismatched, resampled
from facegen_attr.chart import analyse, draw_history
from facegen_attr.gan import (
    R1_EVERY,
    adapt,
    augmentation,
    by_heart,
    diff_augment,
    discriminator_loss,
    generator_loss,
    r1_penalty,
)
from facegen_attr.generate import generate
from facegen_attr.loading import (
    Model,
    ask,
    attributes_of,
    is_editor,
    load_records,
    make_discriminator,
    make_generator,
    make_optimizer,
    picture_size,
    run_name,
    split,
)
from facegen_attr.model import MODELS, REFINERS, attribute_loss, mismatch_loss, reconstruction_loss, start_shape
from facegen_attr.plumbing import SWITCH, Journal, descend, make_ema, path, replayed, setup, update_ema, weight
from facegen_attr.predictor import train_predictor
from facegen_attr.refine import refine
from facegen_attr.ship import ship
from facegen_attr.tune import tune
from facegen_attr.validation import fixed_starts, validate

# ---------------------------------------------------------------------------------------------------------------------
# Flags

PRESETS = {  # the document's table for each model; a flag that is given wins
    #          image_size  attributes  epoch  optimizer  learning_rate  train_size
    "fcgan":  (218,        "23",       100,   "adam",    2e-4,          "40000"),
    "dcgan1": (32,         "1",        10,    "rmsprop", 1e-4,          "50000"),
    "dcgan2": (32,         "8",        50,    "adam",    2e-4,          None),
    "64":     (64,         "5",        10,    "rmsprop", 2e-4,          "50000"),  # dcgan2 at 64 x 64
    "dcgan3": (32,         "5",        20,    "rmsprop", 8e-5,          "15000"),
    "dcgan4": (32,         "5",        20,    "rmsprop", 8e-5,          "20000"),
    "dcgan5": (32,         "5",        20,    "rmsprop", 8e-5,          "20000"),
}  # fmt: skip
DCGAN2_EPOCHS = {2: 300, 8: 50, 23: 44}  # by the number of attributes
PREDICTOR = dict(epoch=12, optimizer="adam", learning_rate=1e-3, beta1=0.9, train_size=None)

RECIPES = {  # what --recipe sets; each is a flag of its own, and a flag that is given wins
    "document": dict(network="document", lambda_mismatch=1.0, lambda_attributes=0.0, lambda_rec=0.5, balance=0.0,
                     lambda_r1=0.0, beta1=0.5, flip=False, diff_augment=False, show_ema=False),
    "best": dict(network="conditional", lambda_mismatch=1.0, lambda_attributes=0.5, lambda_rec=1.5, balance=0.2,
                 lambda_r1=0.2, beta1=0.5, flip=True, diff_augment=True, show_ema=True,
                 image_size=64, attributes="8", optimizer="adam", learning_rate=5e-4, train_size=None, epoch=40),
}  # fmt: skip


def parse_args(argv=None):
    """Read the command line. InputError: flags that do not go together."""
    parser = plumbing.make_parser(__doc__, "facegen_attr")

    add = parser.add_argument_group("What to do").add_argument
    add("--run", choices=VERBS, default="train", help="train, analyse, generate, refine, train_predictor, tune, ship")

    add = parser.add_argument_group("Model").add_argument
    add("--model", choices=MODELS, help="one of the document's six (default: dcgan2; with --images: dcgan5)")
    add("--network", choices=("document", "conditional"), help="conditional obeys (dcgan2, dcgan5 only)")
    add("--image_size", type=int, help="height of the pictures: 16 to 128 (fcgan: of the whole, 218)")
    add("--width", type=plumbing.up_to(512, least=2), default=32, help="conditional: channels at half the size (32)")
    add("--attributes", help="1, 2, 5, 8, 23 or a list such as Male,Smiling (default: the model's)")

    half = plumbing.number(float, "a share from 0 to 0.5", lambda x: 0 <= x <= 0.5)
    add = plumbing.add_training_flags(parser, RECIPES, epoch=50, batch_size=32).add_argument
    add("--optimizer", choices=("adam", "rmsprop"), help="of both networks (default: the model's)")
    add("--lambda_mismatch", type=weight, help="weight of D's loss on real faces, wrong attributes")
    add("--lambda_attributes", type=weight, help="weight of reading them (document: 0, best: 0.5)")
    add("--lambda_rec", type=weight, help="weight of the distance to the picture fed in (dcgan4, 5)")
    add("--lambda_r1", type=weight, help="weight of the gradient penalty, every 16 steps (0: none)")
    add("--balance", type=half, help="repeat faces until each attribute is in this share of them")
    add("--flip", **SWITCH, help="mirror half of the pictures (document: False, best: True)")
    add("--diff_augment", **SWITCH, help="augmented pictures for a D that knows its own by heart (best: True)")
    add("--show_ema", **SWITCH, help="show and keep the running mean of the weights (best: True)")

    plumbing.add_machine_flags(parser)
    port = plumbing.number(int, "0 to 65535 (0: any that is free)", lambda n: 0 <= n <= 65535)
    add = plumbing.add_file_flags(parser).add_argument
    add("--request", help="generate, refine: what is asked for, such as Male=1,Smiling=0")
    add("--count", type=plumbing.up_to(100_000), help="generate: how many pictures (default: 16; one of each own face)")
    add("--images", type=path, nargs="+", help="generate, refine: own pictures: files, folders, GIFs, videos (dcgan5)")
    add("--shows", help="generate, refine: what --images show, where it is misread, such as Male=0")
    add("--all_faces", **SWITCH, default=False, help="generate: every face of a photo, not only the largest")
    add("--first_model", type=path, help="refine: model file that makes the first guess from noise (dcgan5)")
    add("--predictor_path", type=path, help="model file of the predictor (default: beside the model)")
    add("--out_dir", type=path, help="analyse, generate, refine, ship: folder for what is written (VERB_001 ...)")
    add("--overwrite", **SWITCH, default=False, help="write into an --out_dir that is not empty")
    add("--web", **SWITCH, default=False, help="refine: in the browser, on this machine only")
    add("--port", type=port, default=7860, help="refine: where the page of --web is served (default: 7860)")

    named = dict(model=["model", "images"], image_size=["image_size"], recipe=["recipe"])
    uses = dict(generate="train", refine="train", tune="train", ship="train")
    args = plumbing.read_flags(parser, argv, presets, named, lambda first: uses.get(first.run))
    args.attributes = attribute_list(args.attributes)
    sizes = range(16, 513) if args.model == "fcgan" else (16, 32, 64, 128)
    if args.image_size not in sizes:
        possible = "16 to 512" if args.model == "fcgan" else "16, 32, 64 and 128"
        raise InputError(f"--image_size {args.image_size}: {args.model} makes {possible}")
    if args.network == "conditional" and args.model not in ("dcgan2", "dcgan5"):
        raise InputError(f"{args.model} is the document's alone; --network conditional (--recipe best): dcgan2, dcgan5")
    if args.width != 32 and args.network != "conditional":
        raise InputError("--width is of --network conditional (--recipe best); the document's networks have their own")
    if args.lambda_attributes and args.network != "conditional":
        raise InputError("--lambda_attributes needs --network conditional, whose discriminator reads them")
    if args.shows and not (args.images or args.web):
        raise InputError("--shows says what --images show")
    for condition in (args.request, args.shows):
        parse_condition(condition or "")
    return args


def presets(first):
    """What the model, the recipe and the verb that were asked for set."""
    first.model = first.model or ("dcgan5" if first.images or first.web else "dcgan2")  # one's own face is changed
    plain = first.recipe == "document" and first.model == "dcgan2"
    names = ("image_size", "attributes", "epoch", "optimizer", "learning_rate", "train_size")
    values = PRESETS["64" if plain and first.image_size == 64 else first.model]
    defaults = dict(zip(names, values, strict=True), model=first.model) | RECIPES[first.recipe]
    if plain and first.image_size != 64:
        count = len(attribute_list(first.attributes or defaults["attributes"]))
        defaults["epoch"] = DCGAN2_EPOCHS.get(count, defaults["epoch"])
    return defaults | (PREDICTOR if first.run == "train_predictor" else {})


# ---------------------------------------------------------------------------------------------------------------------
# Training


class Players(NamedTuple):
    """What a step changes: both networks, the running mean of the generator's weights, the optimizers."""

    generator: torch.nn.Module
    discriminator: torch.nn.Module
    ema: torch.nn.Module
    g_optimizer: torch.optim.Optimizer
    d_optimizer: torch.optim.Optimizer


def draw(args, c, pool, exclusive, mine, share):
    """All that is random in a step; every process draws for the whole batch and takes its slice `mine`.

    c: (N, A), the attributes of this process's real faces; pool: (M, A), those of all; exclusive: see flipped().
    share (): of the pictures that the discriminator sees augmented. Returns wrong attributes for these faces, what else
    is asked for, the noise to begin from, and numbers (views, 7, N) for diff_augment. The editor is asked to leave one
    face in four as it is, to turn one attribute round of one or two, and to give the others the attributes of another
    face: many changes at once, and the rare ones often.
    """
    rounds = 2 if args.model in REFINERS and not is_editor(args) else 1
    views = 2 + 2 * rounds if args.diff_augment else 0  # real faces, others, and what is made, twice
    numbers = torch.rand(5, args.batch_size, device=c.device)[:, mine]
    wrong, asked, start = mismatched(c, pool, numbers[:2]), mismatched(c, pool, numbers[2:4]), None
    if is_editor(args):
        kind = numbers[4, :, None]
        asked = torch.where(kind < 0.25, c, torch.where(kind < 0.6, flipped(c, numbers[2], exclusive), asked))
    if args.model != "dcgan5":
        shape = start_shape(args.model, *picture_size(args))
        start = torch.randn(args.batch_size, *shape, device=c.device)[mine]
    return wrong, asked, start, augmentation(share, views, args.batch_size)[:, :, mine]


def imagine(args, generator, x, c, asked, start):
    """What a step's losses look at: for each round (x_fake, what was asked for, the picture fed in or None).

    dcgan4 begins from noise and is fed what it made, asked for other attributes; dcgan5 begins from a real face, asked
    for others, and is fed what it made, asked for the face's own.
    """
    if is_editor(args):
        return [(ask(args, generator, x, c, asked), asked, x)]
    if args.model == "dcgan5":
        first = generator(x, asked)
        return [(first, asked, x), (generator(first, c), c, first)]
    first = generator(start, c)
    if args.model == "dcgan4":
        return [(first, c, None), (generator(first, asked), asked, first)]
    return [(first, c, None)]


def see(x, numbers):
    """What the discriminator sees of pictures: them, or with numbers (rounds, 7, N) diff_augment's."""
    if not len(numbers):
        return x
    return diff_augment(x, numbers.transpose(0, 1).flatten(1)).contiguous(memory_format=torch.channels_last)


def update(args, players, autocast, pool, exclusive, mine, now, share, unseen, x, c, penalty):
    """Step `now` on real faces x of attributes c; penalty: whether R1's is due. Returns what is to be logged.

    share (): of the pictures that the discriminator sees augmented, changes in place; unseen: validation faces, and
    their attributes.
    """
    generator, discriminator, ema, g_optimizer, d_optimizer = players
    wrong, asked, start, numbers = draw(args, c, pool, exclusive, mine, share)
    generator.train()
    discriminator.train()
    with autocast():
        rounds = imagine(args, generator, x, c, asked, start)
    x_fake, c_fake = (torch.cat([made[i] for made in rounds]).float() for i in (0, 1))
    aside, numbers, again = numbers.split([1, 1 + len(rounds), len(rounds)]) if len(numbers) else [numbers] * 3
    losses = {}

    # 1. Discriminator: tell real from generated, right attributes from wrong ones, and read the attributes
    x_seen = see(x, numbers[:1])
    with autocast():
        d_real, reading = discriminator(x_seen, c, *([wrong] if args.lambda_mismatch else []))
        (d_fake,), _ = discriminator(see(x_fake.detach(), numbers[1:]), c_fake)
        if args.diff_augment:
            with torch.no_grad():
                chosen = torch.randint(len(unseen[0]), (args.batch_size,), device=x.device)[mine]
                d_other = discriminator.judge(see(unseen[0][chosen], aside), unseen[1][chosen]).float()
    d_real, d_fake = [d.float() for d in d_real], d_fake.float()
    d_loss = discriminator_loss(d_real[0], d_fake)
    if args.lambda_mismatch:
        d_loss = d_loss + args.lambda_mismatch * mismatch_loss(d_real[1])
    total = d_loss
    if args.lambda_attributes:
        total = total + args.lambda_attributes * attribute_loss(reading.float(), c)
    if penalty:
        total = total + R1_EVERY * args.lambda_r1 / 2 * r1_penalty(partial(discriminator.judge, c=c), x_seen)
    descend(total, d_optimizer)
    if args.diff_augment:
        adapt(share, plumbing.mean_of_processes(by_heart(d_real[0], d_other, d_fake)), args.batch_size)
        losses["augmented/share"] = share

    # 2. Generator: pass for real, show the attributes asked for, and stay near the picture fed in
    discriminator.requires_grad_(False)
    with autocast():
        (d_judged,), reading = discriminator(see(x_fake, again), c_fake)
    total = g_loss = generator_loss(d_judged.float())
    if args.lambda_attributes:
        losses["attributes"] = attribute_loss(reading.float(), c_fake)
        total = total + args.lambda_attributes * losses["attributes"]
    if args.model in REFINERS:
        pairs = [(made.float(), fed.float()) for made, _, fed in rounds if fed is not None]
        losses["rec"] = sum(reconstruction_loss(*pair, args.network) for pair in pairs)
        total = total + args.lambda_rec * losses["rec"]
    descend(total, g_optimizer)
    discriminator.requires_grad_(True)
    update_ema(ema, generator, now)

    chances = dict(real=d_real[0], fake=d_fake, mismatch=d_real[1] if args.lambda_mismatch else None)
    means = {name: d_loss.new_zeros(()) if d is None else d.sigmoid().mean() for name, d in chances.items()}
    return dict(d=d_loss, g=g_loss) | {f"probability/{name}": mean for name, mean in means.items()} | losses


def train(args):
    """Train a generator and its discriminator."""
    device, autocast, rank, world = setup(args)

    # Data
    mine = plumbing.slice_of(args.batch_size, rank, world)
    records = load_records(args, picture_size(args), device, rank)
    train_rows, validation_rows = split(args, records, most=500)
    attributes = attributes_of(records, args.attributes)
    known = attributes[subset(train_rows, 2000)].byte()  # whose other attributes a request of a few goes with
    shown_rows = train_rows
    if args.balance:  # a row that is there several times is shown so often
        shown_rows = train_rows[resampled(attributes[train_rows], args.balance, 4 * len(train_rows)).numpy()]
    x_validation, c_validation = to_tensor(records.images[validation_rows]), attributes[validation_rows]
    start, asked = fixed_starts(args, x_validation, c_validation)

    # Networks
    torch.manual_seed(args.seed)  # here, so that the first weights are the same whatever was packed before
    generator = make_generator(args).to(device, memory_format=torch.channels_last)
    discriminator = make_discriminator(args).to(device, memory_format=torch.channels_last)
    ema = make_ema(generator)
    shown = Model(ema if args.show_ema else generator, args, device, autocast)
    g_optimizer = make_optimizer(args, generator)
    d_optimizer = make_optimizer(args, discriminator, min(1, 32 / args.width))  # the wider, the less it can stand
    players = Players(generator, discriminator, ema, g_optimizer, d_optimizer)

    # Logbook
    about = f"{len(train_rows)} training and {len(validation_rows)} validation faces, {len(args.attributes)} attributes"
    state = dict(history=torch.zeros(0, 6), known=known, augmented=0.0)
    parts, facts = players._asdict(), dict(data=records.describe())
    journal = Journal(args, run_name(args), parts, len(train_rows), about, facts, device, rank, **state)
    state, share = journal.state, journal.number("augmented")
    unseen = (x_validation.to(device), c_validation.to(device)) if args.diff_augment else None
    stream = batches(records, shown_rows, args.batch_size, device, args.seed, journal.step, rank, world, args.flip)
    attributes, pool = attributes.to(device), attributes[shown_rows].to(device)
    exclusive = exclusions(args.attributes).to(device)

    def look_on(chosen):
        """What a step makes, by the running mean."""
        x, c = to_tensor(records.images[chosen], device), attributes[chosen]
        _, others, begin, _ = draw(args, c, pool, exclusive, slice(None), share)
        with autocast():
            imagine(args, ema, x, c, others, begin)

    step = replayed(partial(update, args, players, autocast, pool, exclusive, mine, journal.now, share, unseen), device)
    for number in journal.steps():
        x, chosen = next(stream)
        losses = step(x, attributes[chosen], penalty=args.lambda_r1 > 0 and number % R1_EVERY == 0)

        # 3. What is due: numbers, a sheet and the score, a checkpoint
        journal.add(**losses)
        if journal.log_due:
            line = [number, *list(journal.means.values())[:5]]
            state["history"] = torch.cat([state["history"], torch.tensor([line])])
        if rank == 0 and args.show_ema and journal.looked_at:
            plumbing.settle([ema], look_on, shown_rows, args.batch_size)
        if rank == 0 and journal.sheet_due:
            journal.keep_if_best(validate(shown, discriminator, start, asked, x_validation, c_validation, journal))
        journal.save({"generator": shown.generator}, known=state["known"])
    if journal.writer:
        draw_history(journal.samples, state["history"])
    journal.close(lambda score: "the newest that has not collapsed" if is_editor(args) else f"score {score:.4f}")


VERBS = dict(train=train, analyse=analyse, generate=generate, refine=refine)
VERBS |= dict(train_predictor=train_predictor, tune=tune, ship=ship)


def main(argv=None):
    """What the command line asks for."""
    plumbing.run(parse_args, VERBS, argv)


if __name__ == "__main__":
    main()
