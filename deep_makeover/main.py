"""Deep Makeover: a face in, the same face made over; two small resnets, a GAN that is first held to repeat its input.

After the Deep Makeover document. Four modes (men to women, women to men, each to its attractive ones), or any pair of
conditions on CelebA's attributes; a made-over face goes back into its photo, of which the rest stays as it is.

One GPU:      python deep_makeover/main.py --dataset_dir=data/celeba --run train
Several:      torchrun --nproc_per_node=8 deep_makeover/main.py --dataset_dir=data/celeba
CPU, 2 hours: python deep_makeover/main.py --dataset_dir=data/celeba --run train --recipe best
A photo:      python deep_makeover/main.py --run inference --infile me.jpg --outfile you.png
Any filter:   python deep_makeover/main.py --dataset_dir=data/celeba --run train --source Smiling=0 --target Smiling=1
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports below ends without a traceback
import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository root
from common.celeba import batches, face_weights, subset, to_tensor
from common.photos import InputError
from deep_makeover import loading, plumbing
from deep_makeover.gan import (
    R1_EVERY,
    adapt,
    augmentation,
    by_heart,
    diff_augment,
    discriminator_loss,
    generator_loss,
    r1_penalty,
    score,
)
from deep_makeover.loading import load_records, make_over, networks_of, read_box, run_name, sides
from deep_makeover.measure import READ, fit_reader, test, validate
from deep_makeover.model import critic_loss, pixel_loss, please_critic, temperature, truncated_noise
from deep_makeover.photo import inference
from deep_makeover.plumbing import SWITCH, Journal, descend, make_adam, make_ema, path, replayed, set_rate, update_ema
from deep_makeover.ship import ship

# ---------------------------------------------------------------------------------------------------------------------
# Flags

RECIPES = {  # what --recipe sets; each is a flag of its own, and a flag that is given wins
    "document": dict(
        network="document", batch_size=16, learning_rate=0.0002, learning_rate_end=0.000001, beta1=0.5,
        annealing_half_life=5000, pixel_loss_max=0.95, pixel_loss_min=0.7, pixel_loss_outside=1.0,
        instance_noise=0.2, lambda_class=0.0, lambda_keep=0.0, lambda_r1=0.0, flip=False, diff_augment=False,
        show_ema=False, sample_every=20,
    ),
    "best": dict(
        network="compact", batch_size=8, learning_rate=0.0005, learning_rate_end=0.00005, beta1=0.5,
        annealing_half_life=3000, pixel_loss_max=0.9, pixel_loss_min=0.8, pixel_loss_outside=0.2,
        instance_noise=0.0, lambda_class=0.1, lambda_keep=10.0, lambda_r1=1.0, flip=True, diff_augment=False,
        show_ema=True, sample_every=200, box="9,18,160,200", scale=0.5,
    ),
}  # fmt: skip
WGAN = dict(  # what --loss wgan sets on top of the document's recipe: the last state of its program
    learning_rate=0.0001, annealing_half_life=10000, instance_noise=0.5, pixel_loss_max=0.0, pixel_loss_min=0.0,
    train_time=180.0, disc_loss_threshold=0.1, disc_weights_threshold=0.01,
)  # fmt: skip
LOSSES = {"gan": (discriminator_loss, generator_loss), "wgan": (critic_loss, please_critic)}


def parse_args(argv=None):
    """Read the command line. InputError: flags that do not go together."""
    parser = plumbing.make_parser(__doc__, "deep_makeover")
    positive, share, weight = plumbing.positive, plumbing.share, plumbing.weight
    strength = plumbing.number(float, "from 0 to 2", lambda value: 0 <= value <= 2)
    same = dict(default=argparse.SUPPRESS)  # the document's name of a flag that all projects have

    add = parser.add_argument_group("What to do").add_argument
    add("--run", choices=VERBS, default="train", help="train, test, inference or ship (default: train)")
    add("--min_faces", type=positive, default=200, help="fewest training faces of a side (default: 200)")
    add("--strength", type=strength, help="of the change: 0 the photo, 1 as drawn, to 2 (1; men and women: 1.2)")
    add("--face_strength", type=share, help="times that on the face: the person stays (1; men and women: 0.62)")
    add("--all_faces", **SWITCH, default=False, help="inference: every face, not only the largest")
    add("--keep_all", **SWITCH, default=False, help="inference: also makeovers that the discriminator scores low")
    add("--side_by_side", **SWITCH, default=False, help="inference: the photo beside the result")

    poolings = plumbing.number(int, "1 to 4", lambda n: 1 <= n <= 4)
    add = parser.add_argument_group("Model").add_argument
    add("--network", choices=("document", "compact"), help="pair of networks (best: compact)")
    add("--width", type=plumbing.up_to(512, least=2), default=16, help="compact: channels at half the size (16)")
    add("--poolings", type=poolings, default=2, help="of the document's generator, 1 to 4 (default: 2)")
    add("--init", choices=("residual", "default"), default="residual", help="first weights (residual)")
    add("--box", help="x,y,width,height in CelebA's 178 x 218 (49,90,80,100; best: 9,18,160,200)")
    add("--scale", type=plumbing.rate, help="pixels of a picture for one of CelebA's (1; best: 0.5)")

    add = plumbing.add_training_flags(parser, RECIPES, epoch=0, batch_size=None, steps=45000, seed=10).add_argument
    add("--learning_rate_start", dest="learning_rate", type=plumbing.rate, **same, help="the same as --learning_rate")
    add("--random_seed", dest="seed", type=plumbing.up_to(2**63 - 1, least=0), **same, help="the same as --seed")
    add("--train_mode", choices=loading.MODES, default="mtf", help="who becomes who: m male, f female (mtf)")
    add("--source", help="other faces to make over, as Male=1,Eyeglasses=0 (default: the mode's)")
    add("--target", help="what they are to look like, likewise; replaces the mode's filters")
    add("--attribute_file", type=path, help="list_attr_celeba.txt or .csv (default: the data set's own)")
    add("--train_time", type=weight, default=120.0, help="minutes that a run trains; 0: no limit (120, wgan 180)")
    add("--learning_rate_end", type=weight, help="it is halved down to this (document: 0.000001)")
    add("--annealing_half_life", type=positive, help="steps that halve it, and the weight's excess (5000)")
    add("--loss", choices=LOSSES, default="gan", help="adversarial loss (default: gan)")
    add("--pixel_loss_max", type=share, help="share of the pixel loss at first (document: 0.95)")
    add("--pixel_loss_min", type=share, help="share of the pixel loss at last (document: 0.7)")
    add("--pixel_loss_outside", type=share, help="what counts of it off the face (document: 1, best: 0.2)")
    add("--instance_noise", type=weight, help="on what the discriminator sees (document: 0.2)")
    add("--disc_loss_threshold", type=weight, default=0.0, help="its loss above which it learns alone; 0: none")
    add("--disc_weights_threshold", type=weight, default=0.0, help="clips its weights; 0: not (wgan: 0.01)")
    add("--lambda_class", type=weight, help="a second logit tells the sides apart (best: 0.1)")
    add("--lambda_keep", type=weight, help="target faces stay as they are (document: 0, best: 10)")
    add("--lambda_r1", type=weight, help="gradient penalty on real pictures (document: 0, best: 1)")
    add("--flip", **SWITCH, help="mirror half of the pictures (document: False, best: True)")
    add("--diff_augment", **SWITCH, help="augmented pictures for a D that knows its own by heart")
    add("--show_ema", **SWITCH, help="test and keep the running mean of the weights (best: True)")

    plumbing.add_machine_flags(parser)
    add = plumbing.add_file_flags(parser, sample_every="document: 20, best: 200").add_argument
    add("--dataset", dest="dataset_dir", type=path, **same, help="the same as --dataset_dir (default: dataset here)")
    add("--train_dir", dest="sample_dir", type=path, **same, help="the same as --sample_dir")
    add("--summary_period", dest="sample_every", type=plumbing.natural, **same, help="the same as --sample_every")
    add("--test_vectors", type=positive, default=16, help="test faces on a sheet (default: 16)")
    add("--infile", type=path, help="inference: a photo, GIF or video, or a crop of the box's own size")
    add("--outfile", type=path, help="inference: where it goes (default: inference_out.png, .gif or .mp4)")
    add("--images", type=path, nargs="+", help="inference: several, or folders of them; they go to --out_dir")
    add("--out_dir", type=path, help="folder for the results (default: a new one, VERB_001 ...)")
    add("--overwrite", **SWITCH, default=False, help="replace --outfile, write into a full --out_dir")

    parser.set_defaults(dataset_dir=str(plumbing.PROJECT / "dataset"))
    named = dict(mode=["train_mode", "source", "target"], recipe=["recipe"], box=["box"], scale=["scale"])
    args = plumbing.read_flags(parser, argv, defaults, named, lambda first: "train" if first.run != "train" else None)
    if not args.epoch and not args.steps:
        raise InputError("--epoch 0 --steps 0: expected one of them to say how long to train")
    if args.width != 16 and args.network != "compact":
        raise InputError("--width is of --network compact (--recipe best); the document's networks have their own")
    if (args.poolings, args.init) != (2, "residual") and args.network != "document":
        raise InputError("--poolings and --init are of --network document; the compact networks have their own")
    read_box(args.box, args.scale)
    loading.read_conditions(args)
    return args


def defaults(first):
    """What recipe and loss set, and what the run is named for, by the flags that were given."""
    on_top = WGAN if (first.recipe, first.loss) == ("document", "wgan") else {}
    return RECIPES[first.recipe] | on_top | dict(mode=loading.mode_of(first))


# ---------------------------------------------------------------------------------------------------------------------
# Training


def train(args):
    """Train generator and discriminator on the two sides."""
    device, autocast, rank, world = plumbing.setup(args)

    # Data: source and target faces, each in an order of its own
    records = load_records(args, device, rank)
    if rank == 0:
        loading.report_sides(args, records)
    mine = plumbing.slice_of(args.batch_size, rank, world)
    rows = [subset(side, args.train_size, args.seed) for side in sides(args, records, "train")]
    validation = [records.images[side[:500]] for side in sides(args, records, "validation")]
    crop, _ = read_box(args.box, args.scale)
    reader = fit_reader([records.images[side[:2000]] for side in rows], crop, device) if rank == 0 else None
    shown_rows = np.concatenate([sides(args, records, part)[0] for part in ("test", "validation")])[: args.test_vectors]

    # Networks
    torch.manual_seed(args.seed)  # here, so that the first weights are the same whatever was packed before
    networks = networks_of(args)
    generator, discriminator = (network.to(device, memory_format=torch.channels_last) for network in networks)
    ema = make_ema(generator)
    shown = ema if args.show_ema else generator
    parts = dict(generator=generator, discriminator=discriminator, ema=ema)
    parts |= make_optimizers(args, generator, discriminator)

    # Logbook
    about = f"{len(rows[0])} faces to become as {len(rows[1])} others"
    facts = dict(data=records.describe(), mode=args.mode)
    journal = Journal(args, run_name(args), parts, len(rows[0]), about, facts, device, rank, d_last=0.0, augmented=0.0)
    state, started = journal.state, None
    share = journal.number("augmented")
    streams = [
        batches(records, side, args.batch_size, device, args.seed + number, journal.step, rank, world, args.flip)
        for number, side in enumerate(rows)
    ]
    others = to_tensor(validation[1], device) if args.diff_augment else None
    step = make_step(args, **parts, now=journal.now, share=share, others=others, mine=mine, autocast=autocast)
    if not args.disc_loss_threshold:  # with it the host decides, by the loss of a step, what the next one does
        step = replayed(step, device)

    def look_on(chosen):
        """What a step makes over, by the running mean: source faces, and some of the target's that are to stay."""
        x, y = (to_tensor(records.images[side[chosen % len(side)]], device) for side in rows)
        with autocast():
            ema(torch.cat([x, y[::4] if args.lambda_keep else y[:0]]))

    for number in journal.steps():
        started = started or time.monotonic()
        x, y = (next(stream)[0] for stream in streams)
        heat = temperature(number, args.annealing_half_life)
        for name in ("g_optimizer", "d_optimizer"):
            set_rate(parts[name], max(args.learning_rate * heat, args.learning_rate_end))
        penalised = bool(args.lambda_r1) and number % R1_EVERY == 0
        alone = bool(args.disc_loss_threshold) and state["d_last"] > args.disc_loss_threshold
        losses = step(x, y, penalised=penalised, alone=alone)
        if args.disc_loss_threshold:
            state["d_last"] = plumbing.mean_of_processes(losses["d"].clone()).item()

        # What is due: numbers, validation, a sheet, a checkpoint
        if rank == 0 and args.train_time and time.monotonic() - started > 60 * args.train_time:
            signal.raise_signal(signal.SIGTERM)  # the clock asks for a stop as a person would
            started = float("inf")  # once: several processes hear it some steps later, and twice means at once
        journal.add(**losses)
        if journal.log_due:
            journal.scalar("annealing/temperature", heat)
            journal.scalar("annealing/pixel_share", pixel_share(args, heat))
            journal.scalar("learning_rate", float(parts["g_optimizer"].param_groups[0]["lr"]))
        found = {}
        if rank == 0 and args.show_ema and journal.looked_at:
            plumbing.settle([ema], look_on, np.arange(len(rows[0])), args.batch_size)
        if rank == 0 and (journal.epoch_end or journal.stopping):
            found = validate(shown, discriminator, validation, reader, crop, device, autocast)
            for name, value in found.items():
                journal.scalar(name if name == "diversity" else f"validation/{name}", value)
            if found["diversity"] < 0.5:
                told = f"diversity {found['diversity']:.2f}: the faces made are nearly all the same"
                journal.bar.write(f"step {number}: {told}")
            # What hardly changes a face looks real, so what a reader that is not asked in training says counts as well.
            journal.keep_if_best(score(found["distance"], found["read"], READ))
        if rank == 0 and journal.sheet_due:
            x_shown, x_made = make_over(shown, records.images[shown_rows], device, autocast)
            journal.sheet({"Source": x_shown, f"Output, step {number}": x_made})
        journal.save({"generator": shown, "discriminator": discriminator}, **found)
    journal.close()


def make_optimizers(args, generator, discriminator):
    """Adam for both; for a critic, whose weights are clipped, RMSprop as in arXiv 1701.07875."""
    g_optimizer = make_adam(generator.parameters(), args.learning_rate, args.beta1)
    d_optimizer = make_adam(discriminator.parameters(), args.learning_rate, args.beta1)
    if args.loss == "wgan":
        how = {name: d_optimizer.defaults[name] for name in ("lr", "capturable")}
        d_optimizer = torch.optim.RMSprop(discriminator.parameters(), **how)
    return dict(g_optimizer=g_optimizer, d_optimizer=d_optimizer)


def pixel_share(args, heat):
    """How much of the generator's loss is the pixels', at this temperature."""
    return args.pixel_loss_min + (args.pixel_loss_max - args.pixel_loss_min) * heat


def make_step(args, generator, discriminator, ema, g_optimizer, d_optimizer, now, share, others, mine, autocast):
    """The training step of these networks.

    now: its number, on the device; share (): of the pictures that the discriminator sees augmented, changes in place;
    others: validation faces of the target; mine: this process's slice of a batch.
    """
    d_adversarial, g_adversarial = LOSSES[args.loss]
    zero, weights = torch.zeros_like(now), list(discriminator.parameters())
    box, size = read_box(args.box, args.scale)
    counts = face_weights(size, box, 1, args.pixel_loss_outside, shrink=4, device=now.device)

    def logits(x, numbers, noise=None):
        x = diff_augment(x, numbers) if args.diff_augment else x
        return discriminator(x if noise is None else x + noise).float()

    def judge(*what):
        with autocast():
            return logits(*what)

    def step(x, y, penalised=False, alone=False):
        """x: source, y: target faces; penalised: with the gradient penalty; alone: only the discriminator learns."""
        # Every process draws the whole batch's numbers and takes its slice. Noise is on the scale of [0, 1].
        heat = temperature(now, args.annealing_half_life)
        numbers, noises = [None] * 4, [None] * 3
        if args.diff_augment:
            numbers = augmentation(share, 4, args.batch_size)[:, :, mine]
        if args.instance_noise:
            noises = truncated_noise((3, args.batch_size, *x.shape[1:]), x.device)[:, mine]
            noises = noises * (2 * args.instance_noise * heat)
        generator.train()
        discriminator.train().requires_grad_(True)
        with autocast(), torch.set_grad_enabled(not alone):
            some = y[::4] if args.lambda_keep else y[:0]
            x_fake, y_kept = generator(torch.cat([x, some])).float().split([len(x), len(some)])

        # 1. Discriminator: tell target faces from made-over ones, and with a second logit from source faces
        real, fake = judge(y, numbers[0], noises[0]), judge(x_fake.detach(), numbers[1], noises[1])
        if args.diff_augment:
            with torch.no_grad():
                chosen = torch.randint(len(others), (args.batch_size,), device=x.device)[mine]
                other = judge(others[chosen], numbers[3], noises[0])
            known = by_heart(real[:, 0], other[:, 0], fake[:, 0])
            adapt(share, plumbing.mean_of_processes(known), args.batch_size)
        d_loss, side_loss, penalty = d_adversarial(real[:, 0], fake[:, 0]), zero, zero
        if args.lambda_class:
            side_loss = discriminator_loss(real[:, 1], judge(x, numbers[2], noises[2])[:, 1])
        if penalised:
            penalty = args.lambda_r1 / 2 * R1_EVERY * r1_penalty(lambda y: logits(y, numbers[0])[:, 0], y)
        descend(d_loss + side_loss + penalty, d_optimizer)
        if args.disc_weights_threshold:
            with torch.no_grad():
                torch._foreach_clamp_min_(weights, -args.disc_weights_threshold)
                torch._foreach_clamp_max_(weights, args.disc_weights_threshold)

        # 2. Generator: pass for a target face, and stay near the input; target faces stay as they are
        g_loss, near_loss, keep_loss = zero, zero, zero
        if not alone:
            discriminator.requires_grad_(False)
            fake = judge(x_fake, numbers[1], noises[1])
            g_loss, near_loss = g_adversarial(fake[:, 0]), pixel_loss(x_fake, x, counts)
            total = (1 - pixel_share(args, heat)) * g_loss + pixel_share(args, heat) * near_loss
            if args.lambda_class:
                total = total + args.lambda_class * generator_loss(fake[:, 1])
            if args.lambda_keep:
                keep_loss = (y_kept - some).square().mean() / 4  # in [0, 1]
                total = total + args.lambda_keep * keep_loss
            descend(total, g_optimizer)
            update_ema(ema, generator, now)
        losses = {"d": d_loss, "g": g_loss, "pixel": near_loss, "class": side_loss, "keep": keep_loss}
        losses |= {"augmented/share": share} if args.diff_augment else {}
        return {name: loss.detach() for name, loss in losses.items()}

    return step


VERBS = dict(train=train, test=test, inference=inference, ship=ship)


def main(argv=None):
    """What the command line asks for."""
    plumbing.run(parse_args, VERBS, argv)


if __name__ == "__main__":
    main()
