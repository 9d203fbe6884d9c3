"""DAPGAN: InfoGAN and BEGAN whose latent can be read back, so that a few faces can be varied into many.

After the DAPGAN document, InfoGAN (arXiv 1606.03657) and BEGAN (arXiv 1703.10717).

One GPU:      python dapgan/main.py --dataset_dir=data/celeba --run train
Several:      torchrun --nproc_per_node=8 dapgan/main.py --dataset_dir=data/celeba
CPU:          python dapgan/main.py --dataset_dir=data/celeba --run train --recipe best --hidden 16
Digits:       python dapgan/main.py --data digits --model infogan --run train --recipe best
Then:         python dapgan/main.py --dataset_dir=data/celeba --run train_predictor
Own photos:   python dapgan/main.py --dataset_dir=data/celeba --run augment --images me/ --count 20
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports below ends without a traceback
import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository root
from common.celeba import attribute_indices, batches, to_tensor
from common.photos import InputError
from dapgan import plumbing
from dapgan.augmentation import augment
from dapgan.digits import deform, find_clusters
from dapgan.evaluation import evaluate
from dapgan.gan import R1_EVERY, score
from dapgan.infogan import infogan_step
from dapgan.loading import draw, load_records, make_gan, rate_at, reads_noise, run_name, say_outdated, split
from dapgan.losses import RECONSTRUCTIONS, prior_distance, reconstruction_loss
from dapgan.model import MODELS, SIZES
from dapgan.plumbing import SWITCH, Journal, make_adam, natural, path, rate, replayed, set_rate, share, up_to, weight
from dapgan.predictor import train_predictor
from dapgan.purity import check_digits
from dapgan.recover import LOSSES, METHODS, recover
from dapgan.ship import ship
from dapgan.vary import draw_sheet, sample, vary

# ---------------------------------------------------------------------------------------------------------------------
# Flags

# What --recipe sets, for each model; each is a flag of its own but for FACTS, and a flag that is given wins.
INFOGAN = dict(
    hidden=64, batch_size=64, learning_rate=0.0002, beta1=0.5, decay_every=0, reconstruction="msssim", gamma=0.5,
    lambda_k=0.001, lambda_code=1.0, lambda_noise=1.0, lambda_rec=0.0, lambda_digit=0.0, flip=False, deform=False,
    diff_augment=False, show_ema=False, d_batch_norm=True, d_rate=1.0, beta2=0.999, lambda_r1=0.0, taper=False, depth=2,
    reward_noise=True,
)  # fmt: skip
BEGAN = INFOGAN | dict(hidden=128, batch_size=16, learning_rate=0.0001, lambda_code=0.1, lambda_noise=0.0)
BEGAN |= dict(reward_noise=False)
# Why beta2, reward_noise, and infogan's d_rate and penalty: README, Results, and face_math's.
BEST = dict(reconstruction="msssim_l1", learning_rate=0.0005, beta2=0.99, flip=True, show_ema=True)
BEST_INFOGAN = INFOGAN | BEST | dict(batch_size=32, lambda_rec=0.5, diff_augment=True)
BEST_INFOGAN |= dict(d_batch_norm=False, lambda_r1=0.1, reward_noise=False)
BEST_BEGAN = BEGAN | BEST | dict(hidden=32, taper=True, depth=1, gamma=1.0, lambda_k=0.02, decay_every=8000)
BEST_BEGAN |= dict(reconstruction="detail")
BEST_INFO_BEGAN = BEST_BEGAN | dict(lambda_noise=0.2, lambda_rec=0.5)
RECIPES = {
    "document": dict(infogan=INFOGAN, began=BEGAN, info_began=BEGAN),
    "best": dict(infogan=BEST_INFOGAN, began=BEST_BEGAN, info_began=BEST_INFO_BEGAN),
}
FACTS = ("d_batch_norm", "d_rate", "beta2", "lambda_r1", "taper", "depth", "reward_noise")  # of a recipe and a model
# The best for digits, which are neither mirrored nor recoloured, but slanted and stretched.
DIGITS = dict(hidden=32, batch_size=64, learning_rate=0.0005, lambda_noise=0.1, lambda_rec=0.0)
DIGITS |= dict(flip=False, deform=True, diff_augment=False, show_ema=True)
DIGIT_READER = dict(lambda_digit=1.0, d_rate=2.0, beta2=0.999, reward_noise=True)  # infogan
TRAIN_SIZE = dict(document="0.5", best="1.0")
PREDICTOR = dict(lambda_code=0.0, lambda_noise=0.0)  # of --run train_predictor
PREDICTORS = dict(
    document=PREDICTOR | dict(learning_rate=0.002),
    best=PREDICTOR | dict(learning_rate=0.0005, beta2=0.99, reconstruction="l2", corrections=3, shift=0.06),
)


def classes(text):
    """Flag type: how many classes each one-hot component has, "10" or "10,10"; "none"."""
    numbers = [n.strip() for n in text.split(",")] if text != "none" else []
    if not all(n.isdecimal() and int(n) > 1 for n in numbers) or sum(map(int, numbers)) > 1024:
        raise argparse.ArgumentTypeError(f"{text}: expected numbers such as 10 or 10,10 (1024 in all), or none")
    return ",".join(str(int(n)) for n in numbers) or "none"


def numbers(text):
    """Flag type: a list of whole numbers, more than 0."""
    found = [n.strip() for n in text.split(",")]
    if not all(n.isdecimal() and int(n) > 0 for n in found):
        raise argparse.ArgumentTypeError(f"{text}: expected numbers such as 5,10,20")
    return [int(n) for n in found]


def parse_args(argv=None):
    """Read the command line. InputError: flags that do not go together."""
    parser = plumbing.make_parser(__doc__, "dapgan")
    several = plumbing.number(int, "2 or more", lambda n: n > 1)

    add = parser.add_argument_group("What to do").add_argument
    add("--run", choices=VERBS, default="train", help="what to do (default: train)")
    add("--count", type=up_to(100_000), default=64, help="faces to take or draw; augment: varied pictures in all")
    add("--method", choices=METHODS, help="recover, vary: how a latent is found (all three; both)")
    add("--recovery_loss", choices=LOSSES, default="mse", help="of the optimisation (default: mse)")
    add("--n_iter", type=natural, default=100, help="its steps (default: 100)")
    add("--points", type=up_to(1000, least=2), default=10, help="vary: values of each part of the code (default: 10)")
    add("--strength", type=rate, default=0.35, help="augment: how far from a picture to go (default: 0.35)")
    add("--face_strength", type=share, default=0.2, help="augment: what is taken of that on the face (default: 0.2)")
    add("--min_identity", type=share, default=0.95, help="augment: least share of strangers less alike; 0: all")
    add("--min_quality", type=share, default=0.01, help="augment: least share of faces that are odder; 0: all")
    add("--attributes", default="Smiling,Male,Eyeglasses", help="evaluate: what to classify by")
    add("--few", type=numbers, default="5,10,20", help="evaluate: real pictures per class (default: 5,10,20)")
    add("--seeds", type=several, default=20, help="evaluate: choices of the few to average over (default: 20)")
    add("--part", choices=("validation", "test"), default="test", help="evaluate: on whom (default: test)")
    add("--download", **SWITCH, default=False, help="fetch what is missing: MNIST, or VGG16's weights")

    add = parser.add_argument_group("Model").add_argument
    add("--model", choices=MODELS, default="info_began", help="which GAN (default: info_began)")
    add("--data", choices=("celeba", "mnist", "digits"), default="celeba", help="faces or digits")
    add("--image_size", type=int, choices=SIZES, help="side of the pictures (default: 64; digits: 32)")
    add("--noise_size", type=up_to(1024), default=64, help="numbers of noise in the latent (default: 64)")
    add("--categorical", type=classes, help="classes of its one-hot components: 10 or 10,10; none (infogan: 10)")
    add("--continuous", type=up_to(1024, least=0), help="its continuous code numbers (default: 2; began: 0)")
    add("--hidden", type=up_to(1024), help="channels of the largest maps (128, infogan 64; best: 32, 64)")
    add("--corrections", type=up_to(16, least=0), help="train_predictor: looks after the first (best: 3)")

    add = plumbing.add_training_flags(parser, RECIPES, epoch=50, batch_size=16).add_argument
    add("--decay_every", type=natural, help="halve the rate every so many steps; 0: never (BEGAN's best: 8000)")
    add("--reconstruction", choices=RECONSTRUCTIONS, help="loss of pictures repeated (document: msssim)")
    add("--gamma", type=rate, help="BEGAN's balance: low smooth, 1 as busy as faces are (document: 0.5, best: 1)")
    add("--lambda_k", type=rate, help="step of BEGAN's k (document: 0.001, best: 0.02)")
    add("--lambda_code", type=weight, help="weight of reading the code (document: 0.1, infogan 1)")
    add("--lambda_noise", type=weight, help="weight of reading the noise (document: 0, infogan 1)")
    add("--lambda_rec", type=weight, help="weight of real pictures, read and made anew (document: 0)")
    add("--lambda_digit", type=weight, help="digits: weight of reading real ones (best: 1)")
    add("--flip", **SWITCH, help="mirror half of the pictures (document: False, best: True)")
    add("--shift", type=weight, help="train_predictor: rotate, scale, shift by up to this share (best: 0.06)")
    add("--deform", **SWITCH, help="slant and stretch real digits at random (best: True)")
    add("--diff_augment", **SWITCH, help="infogan: augmented pictures for a D that knows its own by heart (best)")
    add("--show_ema", **SWITCH, help="test and keep the running mean of the weights (best: True)")

    plumbing.add_machine_flags(parser)
    add = plumbing.add_file_flags(parser).add_argument
    add("--images", type=path, nargs="+", help="recover, vary, augment: own pictures: files, folders, GIFs, videos")
    add("--start_from", type=path, help="train_predictor: model file or checkpoint of another to start from")
    add("--out_dir", type=path, help="folder for what a verb writes (default: a new one, VERB_001 ...)")
    add("--overwrite", **SWITCH, default=False, help="write into an --out_dir that is not empty")

    named = {name: [name] for name in ("model", "image_size", "recipe")} | dict(data=["data", "images"])  # of faces
    args = plumbing.read_flags(parser, argv, defaults, named, lambda first: "train" if first.run != "train" else None)
    check(args)
    return args


def defaults(first):
    """What the chosen model, recipe, data and verb set; first: the flags at a first reading."""
    chosen = RECIPES[first.recipe][first.model] | dict(train_size=TRAIN_SIZE[first.recipe], image_size=64)
    chosen |= dict(categorical="10" if first.model == "infogan" else "none", continuous=2 * (first.model != "began"))
    if first.recipe == "best":  # the rate that D can stand falls with its width; BEGAN's two networks are alike
        hidden = first.hidden or chosen["hidden"]
        if first.model == "infogan":
            chosen["d_rate"] = min(1.0, 32 / hidden)
        else:
            chosen["learning_rate"] *= min(1.0, 16 / hidden)
    if first.data != "celeba":
        chosen |= dict(image_size=32, dataset_name=first.data)
        if first.recipe == "best":
            chosen |= DIGITS | (DIGIT_READER if first.model == "infogan" else {})
    if first.run == "train_predictor":
        chosen |= PREDICTORS[first.recipe] | dict(deform=False, lambda_digit=0.0)
    return dict(corrections=0, shift=0.0) | chosen


def check(args):
    """Refuse what does not go together before anything is read or written: InputError."""
    args.attributes = ",".join(name.strip() for name in args.attributes.split(","))
    attribute_indices(args.attributes)
    code = args.categorical != "none" or args.continuous > 0
    if args.model == "began" and code:
        raise InputError("--model began has no code: leave --categorical and --continuous away, or take info_began")
    if args.model != "began" and not code:
        raise InputError(f"--model {args.model} needs a code: --categorical or --continuous")
    if args.deform and args.data == "celeba":
        raise InputError("--deform is for digits: --data digits or --data mnist")
    if args.deform and args.run == "train_predictor":
        raise InputError("--deform is for --run train: the predictor reads digits as they are")
    if args.diff_augment and args.model != "infogan":
        raise InputError(f"--diff_augment is for --model infogan: {args.model}'s discriminator repeats what it sees")
    if args.lambda_digit and not (args.deform and args.model == "infogan"):
        raise InputError("--lambda_digit reads deformed digits: --model infogan and --deform")
    if args.run in ("augment", "evaluate") and args.data != "celeba":
        raise InputError(f"--run {args.run} is for faces: --data celeba")
    if args.images and args.data != "celeba":
        raise InputError("--images are photos of faces; with digits the test part is taken")


# ---------------------------------------------------------------------------------------------------------------------
# Training


def began_step(args, gan, g_optimizer, d_optimizer, mine, k, x):
    """BEGAN: D repeats real pictures well and G's badly, G makes what D repeats well; D also reads the code.

    x: real pictures; k (): changes in place. Both networks are updated at once, as BEGAN has it. Returns the losses by
    name.
    """
    z, moves, _, directions = draw(args, gan, mine)
    x = deform(x, moves[0]) if args.deform else x
    generator, discriminator = gan.generator, gan.discriminator
    for optimizer in (g_optimizer, d_optimizer):
        optimizer.zero_grad()

    # 1. Generated pictures, judged once: they are a leaf, so that what the generator wants of them (a small loss) is
    #    kept while what the discriminator does with them is turned round (-k)
    with gan.autocast():
        x_fake = generator(z)
    seen = x_fake.detach().requires_grad_()
    with gan.autocast():
        fake_hat, raw = discriminator(seen)
    fake = reconstruction_loss(fake_hat, seen, args.reconstruction).mean()
    fake.backward(retain_graph=True)
    torch._foreach_mul_([p.grad for p in discriminator.parameters() if p.grad is not None], -k)

    # 2. Real pictures repeated, and made anew by the generator from the latent read in them
    with gan.autocast():
        x_hat, real_raw = discriminator(x)
    if args.lambda_rec:
        z_hat = gan.latent.squash(real_raw.float())
        with gan.autocast():
            x_hat = torch.cat([x_hat, generator(z_hat)])
    again = reconstruction_loss(x_hat, torch.cat([x] * (len(x_hat) // len(x))), args.reconstruction)
    real, *rec = again.view(-1, len(x)).mean(1)
    losses, loss = dict(d=real.detach() - k * fake.detach(), g=fake, real=real, fake=fake), real
    if args.lambda_rec:
        losses["rec"] = rec[0]
        loss = loss + args.lambda_rec * rec[0]
        loss = loss + prior_distance(plumbing.whole(z_hat), plumbing.whole(z), directions)

    # 3. The latent of generated pictures read in them; then both networks are moved. The noise is D's to read, since
    #    faces look less real where G is rewarded for it: its loss comes last, when G has its gradient
    code_loss, noise_loss = gan.latent.losses(raw.float(), z)
    if gan.latent.code_size:
        losses["code"] = code_loss
        loss = loss + args.lambda_code * code_loss
    loss.backward(retain_graph=True)
    x_fake.backward(seen.grad)
    if reads_noise(args):
        losses["noise"] = noise_loss
        (args.lambda_noise * noise_loss).backward()
    for optimizer in (g_optimizer, d_optimizer):
        plumbing.average_gradients(optimizer)
        optimizer.step()

    # 4. k: what generated pictures count, so that their loss is gamma times that of real ones
    real, fake = plumbing.mean_of_processes(torch.stack([real, fake]).detach())
    balance = args.gamma * real - fake
    k.add_(args.lambda_k * balance).clamp_(0, 1)
    return losses | {"began/convergence": real + balance.abs(), "began/k": k}


def train(args):
    """Train generator and discriminator of the chosen model."""
    device, autocast, rank, world = plumbing.setup(args)

    # Data
    records = load_records(args, device, rank)
    rows, x_real = split(args, records, device)
    mine = plumbing.slice_of(args.batch_size, rank, world)

    # Networks
    torch.manual_seed(args.seed)  # here, so that the first weights are the same whatever was packed before
    gan = make_gan(args, device, autocast)
    ema = replace(gan, generator=plumbing.make_ema(gan.generator), discriminator=plumbing.make_ema(gan.discriminator))
    shown = ema if args.show_ema else gan
    g_optimizer = make_adam(gan.generator.parameters(), args.learning_rate, args.beta1, args.beta2)
    d_rate = args.learning_rate * args.d_rate
    d_optimizer = make_adam(gan.discriminator.parameters(), d_rate, args.beta1, args.beta2)

    # Logbook
    about = f"{len(rows)} training and {len(x_real)} validation pictures"
    facts = dict(pictures=records.describe()) | {name: getattr(args, name) for name in FACTS}
    parts = dict(generator=gan.generator, discriminator=gan.discriminator)
    parts |= dict(ema_generator=ema.generator, ema_discriminator=ema.discriminator)
    parts |= dict(g_optimizer=g_optimizer, d_optimizer=d_optimizer)
    journal = Journal(args, run_name(args), parts, len(rows), about, facts, device, rank, k=0.0, augmented=0.0)
    k = journal.number("k")
    share = journal.number("augmented")
    stream = batches(records, rows, args.batch_size, device, args.seed, journal.step, rank, world, args.flip)
    fixed = gan.latent.draw(len(x_real), torch.Generator().manual_seed(args.seed)).to(device)
    clusters = find_clusters(records, rows, gan.latent, device) if args.lambda_digit else None
    learning = args, gan, g_optimizer, d_optimizer, mine
    update = partial(infogan_step, *learning, share, x_real)
    if args.model != "infogan":
        update = partial(began_step, *learning, k)

    def step(*seen, **flags):
        """Generator and discriminator, and the running means of their weights, one step on."""
        gan.train()
        losses = update(*seen, **flags)
        plumbing.update_ema(ema.generator, gan.generator, journal.now)
        plumbing.update_ema(ema.discriminator, gan.discriminator, journal.now)
        return {name: loss.detach() for name, loss in losses.items()}

    def look_on(chosen):
        """What a step makes, by the running means."""
        x, z = to_tensor(records.images[chosen], device), gan.latent.draw(len(chosen), device=device)
        with autocast():
            z_hat = gan.latent.squash(ema.discriminator.read(x).float())
            ema.generator(z)
            if args.lambda_rec:
                ema.generator(z_hat)

    step = replayed(step, device)
    for number in journal.steps():
        x, chosen = next(stream)
        set_rate(g_optimizer, rate_at(args, number))
        set_rate(d_optimizer, rate_at(args, number) * args.d_rate)
        flags = dict(penalty=number % R1_EVERY == 0) if args.lambda_r1 else {}
        losses = step(x, *([clusters[chosen]] if args.lambda_digit else []), **flags)

        # What is due: numbers, validation, a sheet, a checkpoint
        journal.add(**losses)
        if journal.log_due:
            journal.scalar("learning_rate", rate_at(args, number))
        found = {}
        if rank == 0 and args.show_ema and journal.looked_at:
            plumbing.settle([ema.generator, ema.discriminator], look_on, rows, args.batch_size)
        if rank == 0 and journal.sheet_due:
            found["distance"] = draw_sheet(journal, shown, fixed, x_real, args.data == "celeba")
            journal.keep_if_best(score(found["distance"]) if args.data == "celeba" else found["distance"])
        journal.save(dict(generator=shown.generator, discriminator=shown.discriminator), **found)
    journal.close("score {:.4g}".format if args.data == "celeba" else lambda _: "the newest that has not collapsed")
    if rank == 0:
        say_outdated(args)


VERBS = dict(train=train, train_predictor=train_predictor, sample=sample, recover=recover, vary=vary)
VERBS |= dict(augment=augment, evaluate=evaluate, purity=check_digits, ship=ship)


def main(argv=None):
    """What the command line asks for."""
    plumbing.run(parse_args, VERBS, argv)


if __name__ == "__main__":
    main()
