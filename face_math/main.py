"""Face Math: a DCGAN used as an encoder; arithmetic on faces, holes filled, and how a VAE compares.

After the Face Math document, DCGAN (arXiv 1511.06434) and Semantic Image Inpainting (arXiv 1607.07539).

One GPU:      python face_math/main.py --dataset_dir=data/celeba --run train
Several:      torchrun --nproc_per_node=8 face_math/main.py --dataset_dir=data/celeba
CPU:          python face_math/main.py --dataset_dir=data/celeba --run train --recipe best --width 32 --batch_size 32
Then:         python face_math/main.py --dataset_dir=data/celeba --run train_encoder (and train_filler, train_vae)
Own photos:   python face_math/main.py --run project --images me.jpg --search best
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports below ends without a traceback
import argparse
import math
import sys
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository root
from common.celeba import attribute_indices, batches, to_tensor
from common.photos import InputError
from face_math import plumbing
from face_math.arithmetic import arithmetic
from face_math.coders import train_encoder, train_vae
from face_math.compare import compare
from face_math.complete import complete
from face_math.explore import average, interpolate, project, sample
from face_math.filler import train_filler
from face_math.gan import (
    R1_EVERY,
    adapt,
    augmentation,
    by_heart,
    diff_augment,
    discriminator_loss,
    generator_loss,
    r1_penalty,
)
from face_math.loading import beside, load_records, make_discriminator, make_encoder, make_generator, split, start_from
from face_math.model import SIZES, draw_z, prior_distance
from face_math.plumbing import SWITCH, Journal, descend, make_adam, make_ema, path, replayed, setup, up_to, update_ema
from face_math.projection import COMPLETE, SEARCHES
from face_math.sheets import show_drawn
from face_math.ship import ship
from face_math.trained import say_outdated

# ---------------------------------------------------------------------------------------------------------------------
# Flags

# What --recipe sets; each but g_steps and beta2 is a flag of its own, and a flag that is given wins. A D without batch
# norm explodes where its rate is high for its width, and Adam's long memory (beta2) makes that last (README, Results).
RECIPES = {
    "document": dict(
        kernel=5, d_batch_norm=True, g_steps=2, learning_rate=0.0002, beta1=0.5, beta2=0.999, d_rate=1.0, flip=False,
        diff_augment=False, lambda_r1=0.0, lambda_rec=0.0, show_ema=False,
    ),
    "best": dict(
        kernel=4, d_batch_norm=False, g_steps=1, learning_rate=0.0005, beta1=0.5, beta2=0.99, flip=True,
        diff_augment=True, lambda_r1=0.1, lambda_rec=1.0, show_ema=True,
    ),
}  # fmt: skip
# Further trainings' own: of an encoder or a VAE, and of a filler.
CODERS = dict(learning_rate=0.001, beta1=0.9, flip=True, show_ema=True)
ENCODER = dict(CODERS, beta2=0.99, corrections=3, shift=0.06, lambda_rec=0.0)
PAIR = dict(learning_rate=0.0005, beta1=0.5, shift=0.0, lambda_rec=150.0)  # best: one more generator
FILLER = dict(CODERS, learning_rate=0.0003, beta1=0.5, beta2=0.99, diff_augment=True, lambda_r1=0.1, lambda_rec=10.0)


def names_of(text):
    """Flag type: a list of attributes, or Turn."""
    names = [name.strip() for name in text.split(",")]
    try:
        attribute_indices([name for name in names if name != "Turn"])
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return names


def numbers_of(text):
    """Flag type: a list of numbers."""
    try:
        numbers = [float(part) for part in text.split(",")]
        if all(map(math.isfinite, numbers)) and len({f"{number:.2f}" for number in numbers}) == len(numbers):
            return numbers  # that differ in hundredths, as the files' names do
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text}: expected different numbers such as -2,-1,0,1,2")


def defaults(first):
    """What recipe, search and verb set, by the flags that were given."""
    which = first.search or ("best" if getattr(first, "shipped", "") else "document")
    chosen = SEARCHES[which] | RECIPES[first.recipe]
    if first.recipe == "best":  # the rate that D can stand falls with the channels that a weight sums over
        chosen["d_rate"] = min(1.0, 32 / first.width)
    if first.run == "train_filler":
        chosen |= FILLER
    elif first.run in ("train_encoder", "train_vae"):
        chosen |= ENCODER if first.run == "train_encoder" else CODERS
        if (first.run, first.recipe) == ("train_encoder", "best") and first.lambda_rec != 0:
            chosen |= PAIR
    elif first.run != "train":
        chosen |= SEARCHES[which]  # whose learning_rate is that of the search
    if first.run == "complete":
        chosen |= COMPLETE[which]
        if (first.start or chosen["start"]) == "filler":
            chosen["n_iter"] = 0
    chosen = dict(search=which, strengths=[-2.0, -1.0, 0.0, 1.0, 2.0], corrections=0, shift=0.0) | chosen
    if first.run == "compare":  # the steps are those of the document's search, which stands beside the best
        chosen |= dict(strengths=[1.5], n_iter=SEARCHES["document"]["n_iter"])
    return chosen


def parse_args(argv=None):
    """Read the command line. InputError: flags that do not go together."""
    parser = plumbing.make_parser(__doc__, "face_math")

    add = parser.add_argument_group("What to do").add_argument
    add("--run", choices=VERBS, default="train", help="what to do (default: train)")
    add("--search", choices=SEARCHES, help="how z is found (default: document; with the shipped model: best)")
    add("--start", choices=("random", "encoder", "filler"), help="of a search (best: encoder, complete filler)")
    add("--n_iter", type=plumbing.natural, help="its steps (document: 2000, complete 1000; best: 100, filler 0)")
    add("--restarts", type=plumbing.positive, default=1, help="searches per picture, the best kept (default: 1)")
    add("--contextual", choices=("l1", "l2"), help="its loss on the pixels (document: l1, best: l2)")
    add("--lam", type=plumbing.weight, help="weight of its perceptual loss (document: 0.1, best: 0)")
    add("--optimizer", choices=("nesterov", "adam"), help="of the search (document: nesterov, best: adam)")
    add("--momentum", type=plumbing.decay, help="of the search (document: 0.75, complete 0.9; best: 0.9)")
    add(
        "--mask", type=path, default="center", help="complete: center, left, random, full, or a picture, white the hole"
    )
    add("--frames", type=up_to(10_000, least=2), default=64, help="interpolate: pictures from z to z (default: 64)")
    vectors, adding = "Smiling,Eyeglasses,Male,Blond_Hair,Turn", "arithmetic, compare"
    add("--attributes", type=names_of, default=vectors, help=f"{adding}: vectors; or Turn (default: {vectors})")
    add("--strengths", type=numbers_of, help=f"{adding}: how often (default: -2,-1,0,1,2; compare: 1.5)")
    add("--vectors", choices=("mean", "regression"), help=f"{adding}: difference of means, or of what else is equal")
    add("--count", type=up_to(100_000), default=64, help="test faces to take without --images, or faces to sample")

    add = parser.add_argument_group("Model").add_argument
    add("--image_size", type=int, choices=SIZES, default=64, help="side of the pictures: 32, 64 or 128 (default: 64)")
    add("--z_size", type=up_to(1024), default=100, help="numbers in z (default: 100)")
    add("--width", type=up_to(512), default=64, help="channels of the largest maps (default: 64)")
    add("--kernel", type=int, choices=(4, 5), help="side of the convolutions (document: 5, best: 4)")
    add("--d_batch_norm", **SWITCH, help="in discriminator and encoder (document: True, best: False)")
    add("--corrections", type=up_to(16, least=0), help="train_encoder: looks after the first (default: 3)")

    add = plumbing.add_training_flags(parser, RECIPES, epoch=25, batch_size=64).add_argument
    add("--d_rate", type=plumbing.rate, help="discriminator's rate by the generator's (1; best: 32 / width, 1 at most)")
    add("--flip", **SWITCH, help="mirror half of the pictures (document: False, best: True)")
    add("--shift", type=plumbing.weight, help="train_encoder: rotate, scale, shift by this share (document: 0.06)")
    add("--diff_augment", **SWITCH, help="augmented pictures for a D that knows its own by heart (best: True)")
    add("--lambda_r1", type=plumbing.weight, help="gradient penalty on real pictures (document: 0, best: 0.1)")
    repeated = "weight of real faces repeated: an encoder learns along (0; best: 1), or train_encoder's generator (150)"
    add("--lambda_rec", type=plumbing.weight, help=repeated)
    add("--show_ema", **SWITCH, help="show and keep the running mean of the weights (best: True)")

    plumbing.add_machine_flags(parser)
    add = plumbing.add_file_flags(parser).add_argument
    seen = "project, complete, interpolate, average, arithmetic, compare: own pictures, GIFs, videos; z files (.npy)"
    add("--images", type=path, nargs="+", help=seen)
    add("--start_from", type=path, help="train, train_encoder: model file or checkpoint to start from")
    add("--all_faces", **SWITCH, default=False, help="every face of a photo, not only the largest")
    add("--minus", type=path, nargs="+", help="arithmetic: pictures to take away from --images")
    add("--plus", type=path, nargs="+", help="arithmetic: pictures to add")
    add("--out_dir", type=path, help="folder for what a verb writes (default: a new one, VERB_001 ...)")
    add("--overwrite", **SWITCH, default=False, help="write into an --out_dir that is not empty")

    named, alone = {name: [name] for name in ("image_size", "z_size", "width", "recipe")}, ("train", "train_vae")
    args = plumbing.read_flags(parser, argv, defaults, named, lambda first: None if first.run in alone else "train")
    if args.start == "filler" and args.run != "complete":
        raise InputError("--start filler goes with --run complete: it is trained to fill holes")
    if args.run == "interpolate" and not args.images:
        raise InputError("--run interpolate needs --images: two pictures or z files, or more")
    if (args.minus or args.plus) and not args.images:
        raise InputError("--minus and --plus go with --images, what they change")
    return args


# ---------------------------------------------------------------------------------------------------------------------
# Training


def train(args):
    """Train the DCGAN, and with --lambda_rec an encoder along with it."""
    device, autocast, rank, world = setup(args)

    # Data
    records = load_records(args, device, rank)
    rows, x_real = split(args, records, device)
    mine = plumbing.slice_of(args.batch_size, rank, world)

    # Networks
    torch.manual_seed(args.seed)  # here, so that the first weights are the same whatever was packed before
    generator, discriminator = make_generator(args), make_discriminator(args)
    learners = dict(generator=generator)  # the generator's side
    if args.lambda_rec:
        learners["encoder"] = make_encoder(args)
    encoder = learners.get("encoder")
    for network in (discriminator, *learners.values()):
        network.to(device, memory_format=torch.channels_last)
    emas = {name: make_ema(network) for name, network in learners.items()}
    shown = emas if args.show_ema else learners
    parameters = [parameter for network in learners.values() for parameter in network.parameters()]
    g_optimizer = make_adam(parameters, args.learning_rate, args.beta1, args.beta2)
    d_optimizer = make_adam(discriminator.parameters(), args.learning_rate * args.d_rate, args.beta1, args.beta2)

    # Logbook
    networks = learners | dict(discriminator=discriminator) | {f"ema_{name}": ema for name, ema in emas.items()}
    parts = networks | dict(g_optimizer=g_optimizer, d_optimizer=d_optimizer)
    about = f"{len(rows)} training and {len(x_real)} validation faces"
    facts = dict(data=records.describe())
    journal = Journal(args, beside(args)[1], parts, len(rows), about, facts, device, rank, augmented=0.0)
    share = journal.number("augmented")
    if journal.fresh and args.start_from:
        start_from(args.start_from, networks)
    stream = batches(records, rows, args.batch_size, device, args.seed, journal.step, rank, world, args.flip)
    z_fixed = draw_z(len(x_real), args.z_size, torch.Generator().manual_seed(args.seed)).to(device)

    def judge(x, numbers):
        """The discriminator's logits of pictures, which it sees augmented."""
        return discriminator(diff_augment(x, numbers) if args.diff_augment else x).float()

    def make(x, z, networks=learners):
        """The generated faces and, with an encoder, the real ones' codes and their pictures; one batch for both."""
        z_hat = networks["encoder"](x) if encoder else z[:0]
        x_fake, x_hat = networks["generator"](torch.cat([z, z_hat])).float().split([len(z), len(z_hat)])
        return x_fake, z_hat.float(), x_hat

    def look_on(chosen):
        """What a step makes, by the running means."""
        with autocast():
            make(to_tensor(records.images[chosen], device), draw_z(len(chosen), args.z_size, device=device), emas)

    def step(x, penalised):
        # Every process draws the whole batch's numbers and takes its slice.
        z = draw_z(args.batch_size, args.z_size, device=device)[mine]
        numbers = augmentation(share, 3, args.batch_size)[:, :, mine]
        directions = torch.randn(args.z_size, 128, device=device)
        for network in learners.values():
            network.train()

        # 1. Discriminator: tell real from generated
        discriminator.requires_grad_(True)
        with autocast():
            x_fake, z_hat, x_hat = make(x, z)
            d_real, d_fake = judge(x, numbers[0]), judge(x_fake.detach(), numbers[1])
            if args.diff_augment:
                with torch.no_grad():
                    others = torch.randint(len(x_real), (args.batch_size,), device=device)[mine]
                    d_other = judge(x_real[others], numbers[2])
        d_loss = discriminator_loss(d_real, d_fake)
        penalty = r1_penalty(partial(judge, numbers=numbers[0]), x) * R1_EVERY if penalised else 0
        descend(d_loss + args.lambda_r1 / 2 * penalty, d_optimizer)
        losses = dict(d=d_loss)
        if args.diff_augment:
            adapt(share, plumbing.mean_of_processes(by_heart(d_real, d_other, d_fake)), args.batch_size)
            losses["augmented/share"] = share

        # 2. Generator: pass for real; with an encoder also: repeat the real face, and give the code back
        discriminator.requires_grad_(False)
        for update in range(args.g_steps):
            with autocast():
                if update:
                    x_fake, z_hat, x_hat = make(x, z)
                d_fake = judge(x_fake, numbers[1])
                z_again = encoder(x_fake.detach()).float() if encoder else z
            total = losses["g"] = generator_loss(d_fake)
            if encoder:
                z_loss = F.mse_loss(z_again, z) + prior_distance(plumbing.whole(z_hat), plumbing.whole(z), directions)
                losses |= dict(rec=F.mse_loss(x_hat, x), z=z_loss)
                total = total + args.lambda_rec * losses["rec"] + z_loss
            descend(total, g_optimizer)
        for name, ema in emas.items():
            update_ema(ema, learners[name], journal.now)
        return losses

    step = replayed(step, device)
    for number in journal.steps():
        x, _ = next(stream)
        losses = step(x, penalised=args.lambda_r1 > 0 and number % R1_EVERY == 0)

        # What is due: numbers, a sheet, a checkpoint
        journal.add(**losses)
        found = {}
        if rank == 0 and args.show_ema and journal.looked_at:
            plumbing.settle(emas.values(), look_on, rows, args.batch_size)
        if rank == 0 and journal.sheet_due:
            found = show_drawn(journal, shown, x_real, z_fixed, autocast)
        journal.save(shown | {"discriminator": discriminator}, **found)
    journal.close("score {:.4g}".format)
    if rank == 0:
        say_outdated(args)


VERBS = dict(
    train=train,
    train_encoder=train_encoder,
    train_vae=train_vae,
    train_filler=train_filler,
    sample=sample,
    project=project,
    complete=complete,
    interpolate=interpolate,
    average=average,
    arithmetic=arithmetic,
    compare=compare,
    ship=ship,
)


def main(argv=None):
    """What the command line asks for."""
    plumbing.run(parse_args, VERBS, argv)


if __name__ == "__main__":
    main()
