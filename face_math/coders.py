"""Further trainings: an encoder that inverts the GAN's generator, and the VAE that both are compared with."""

import math
from functools import partial

import torch
import torch.nn.functional as F

from common.celeba import augment, batches, to_tensor
from face_math.gan import R1_EVERY, augmentation, diff_augment, discriminator_loss, generator_loss, r1_penalty
from face_math.holes import make_hole, random_holes
from face_math.loading import beside, generate, load_records, make_encoder, make_vae, repeat, saved_encoder, split
from face_math.model import kl_divergence
from face_math.plumbing import (
    Journal,
    descend,
    make_adam,
    make_ema,
    psnr,
    replayed,
    set_rate,
    settle,
    setup,
    slice_of,
    update_ema,
)
from face_math.sheets import show_repeated
from face_math.trained import load_model, take_shape

AUGMENTED = 0.5  # train_encoder: the share of pictures that its discriminator sees augmented
HOLES = 0.25  # train_encoder: the share of faces that are shown with a hole
LAMBDA_KL = 0.1  # train_vae: weight of the divergence of all numbers, by the squared error of all


def tell_apart(args, discriminator, optimizer, autocast, x, x_hat, numbers, penalised):
    """A discriminator's step: tell real x from made x_hat, (N, 3, S, S) both. Its loss, and that of what made x_hat.

    numbers (2, 7, N): by which both are augmented, with --diff_augment; penalised: whether the gradient penalty is due.
    """

    def judge(x, numbers):
        return discriminator(diff_augment(x, numbers) if args.diff_augment else x).float()

    discriminator.requires_grad_(True)
    with autocast():
        d_real, d_hat = judge(x, numbers[0]), judge(x_hat.detach(), numbers[1])
    d_loss = discriminator_loss(d_real, d_hat)
    penalty = r1_penalty(partial(judge, numbers=numbers[0]), x) * R1_EVERY if penalised else 0
    descend(d_loss + args.lambda_r1 / 2 * penalty, optimizer)
    discriminator.requires_grad_(False)
    with autocast():
        d_hat = judge(x_hat, numbers[1])
    return d_loss, generator_loss(d_hat)


def train_encoder(args):
    """Train an encoder to invert the GAN's generator; with --lambda_rec, a generator of its own goes on from there.

    It learns from real faces, which the generator has to repeat, some of them with a hole, so that it can also start
    the search that fills one. Its first weights are those of --start_from, else those of the encoder that the GAN has
    learned with, if it has. Without --lambda_rec the generator is the GAN's, left as it is. With it a copy of it learns
    as well, by its own loss and --lambda_rec times the squared error, and a copy of the discriminator to tell real from
    repeated faces, so that these stay crisp. What the GAN draws stays what it is.
    """
    device, autocast, rank, world = setup(args)
    gan = load_model(args, device, autocast)
    take_shape(args, gan)

    # Data
    records = load_records(args, device, rank)
    rows, x_real = split(args, records, device)
    mine = slice_of(args.batch_size, rank, world)

    # Networks
    torch.manual_seed(args.seed)  # here, so that the first weights are the same whatever was packed before
    generator, discriminator, encoder = gan.generator, gan.discriminator, make_encoder(args, args.corrections)
    learners = dict(encoder=encoder.to(device, memory_format=torch.channels_last))
    if args.lambda_rec:
        learners["generator"] = generator.requires_grad_(True)
    emas = {name: make_ema(network) for name, network in learners.items()}
    shown = emas if args.show_ema else learners
    drawer = shown.get("generator", generator)
    parameters = [parameter for network in learners.values() for parameter in network.parameters()]
    optimizer = make_adam(parameters, args.learning_rate, args.beta1, args.beta2)

    # Logbook
    parts = learners | {f"ema_{name}": ema for name, ema in emas.items()} | dict(optimizer=optimizer)
    if args.lambda_rec:
        d_optimizer = make_adam(discriminator.parameters(), args.learning_rate * args.d_rate, args.beta1, args.beta2)
        parts |= dict(discriminator=discriminator, d_optimizer=d_optimizer)
    about = f"{len(rows)} training and {len(x_real)} validation faces"
    facts = dict(data=records.describe(), inverts=gan.version)
    journal = Journal(*beside(args, "_encoder"), parts, len(rows), about, facts, device, rank)
    share = torch.tensor(AUGMENTED, device=device)
    if journal.fresh:
        first, own = saved_encoder(args, args.start_from) if args.start_from else (gan.encoder, None)
        for network in (encoder, emas["encoder"]) if first else ():
            network.start_as(first.state_dict())
        for network in (generator, emas["generator"]) if own and args.lambda_rec else ():
            network.load_state_dict(own.state_dict())
    stream = batches(records, rows, args.batch_size, device, args.seed, journal.step, rank, world, args.flip)

    def step(x, penalised):
        """Encoder: a z that gives the real face, hole or not; with --lambda_rec generator and discriminator too."""
        # Every process draws the whole batch's numbers and takes its slice.
        known = random_holes(args.batch_size, args.image_size, device=device)[mine]
        whole = torch.rand(args.batch_size, 1, 1, 1, device=device)[mine] >= HOLES
        if args.shift:
            x = augment(x, torch.rand(4, args.batch_size, device=device)[:, mine], args.shift)
        encoder.train()
        with autocast():
            x_hat = generator(encoder(x, generator, (known + whole).clamp(max=1))).float()
        total = rec_loss = F.mse_loss(x_hat, x)
        losses = dict(rec=rec_loss)
        if args.lambda_rec:
            numbers = augmentation(share, 2, args.batch_size)[:, :, mine]
            d_loss, g_loss = tell_apart(args, discriminator, d_optimizer, autocast, x, x_hat, numbers, penalised)
            total = g_loss + args.lambda_rec * rec_loss
            losses |= dict(d=d_loss, g=g_loss)
        descend(total, optimizer)
        for name, ema in emas.items():
            update_ema(ema, learners[name], journal.now)
        return losses

    def look_on(chosen):
        """What a step reads, by the running mean."""
        with autocast():
            emas["encoder"](to_tensor(records.images[chosen], device), drawer)

    step = replayed(step, device)
    around = ~make_hole("center", args.image_size).to(device)
    for number in journal.steps():
        set_rate(optimizer, args.learning_rate * (1 + math.cos(math.pi * number / journal.planned)) / 2)
        penalised = min(args.lambda_rec, args.lambda_r1) > 0 and number % R1_EVERY == 0
        losses = step(next(stream)[0], penalised=penalised)

        # What is due: numbers, a sheet, a checkpoint
        journal.add(**losses)
        found = {}
        if rank == 0 and args.show_ema and journal.looked_at:
            settle([emas["encoder"]], look_on, rows, args.batch_size)
        if rank == 0 and journal.sheet_due:
            x_hat = repeat(drawer, shown["encoder"], x_real, autocast, drawer)
            filled = repeat(drawer, shown["encoder"], x_real[:32], autocast, drawer, around)
            rows_below = {"With a hole": x_real[:32] * around, "Filled": filled}
            found = show_repeated(journal, x_real, x_hat, rows_below)
        journal.save(shown, **found)
    journal.close(said)


def train_vae(args):
    """Train the VAE: an encoder like the discriminator and the GAN's generator, together, from nothing."""
    device, autocast, rank, world = setup(args)

    # Data
    records = load_records(args, device, rank)
    rows, x_real = split(args, records, device)
    mine = slice_of(args.batch_size, rank, world)

    # Networks
    torch.manual_seed(args.seed)  # here, so that the first weights are the same whatever was packed before
    networks = make_vae(args)
    for network in networks.values():
        network.to(device, memory_format=torch.channels_last)
    emas = {name: make_ema(network) for name, network in networks.items()}
    shown = emas if args.show_ema else networks
    parameters = [*networks["encoder"].parameters(), *networks["generator"].parameters()]
    optimizer = make_adam(parameters, args.learning_rate, args.beta1)

    # Logbook
    parts = networks | {f"ema_{name}": ema for name, ema in emas.items()} | dict(optimizer=optimizer)
    about = f"{len(rows)} training and {len(x_real)} validation faces"
    flags, name = beside(args, "_vae")
    journal = Journal(flags, name, parts, len(rows), about, dict(data=records.describe()), device, rank)
    z_fixed = torch.randn(64, args.z_size, generator=torch.Generator().manual_seed(args.seed)).to(device)
    stream = batches(records, rows, args.batch_size, device, args.seed, journal.step, rank, world, args.flip)

    def make(x, noise, networks=networks):
        """The codes' means and log variances, and the faces anew."""
        mean, log_variance = networks["encoder"](x).float().chunk(2, 1)
        return mean, log_variance, networks["generator"](mean + noise * (log_variance / 2).exp()).float()

    def look_on(chosen):
        """What a step makes, by the running means."""
        with autocast():
            noise = torch.randn(len(chosen), args.z_size, device=device)
            make(to_tensor(records.images[chosen], device), noise, emas)

    def step(x):
        """Encoder and generator: the face again, at little divergence from N(0, 1)."""
        noise = torch.randn(args.batch_size, args.z_size, device=device)[mine]
        for network in networks.values():
            network.train()
        with autocast():
            mean, log_variance, x_hat = make(x, noise)
        rec_loss, kl_loss = F.mse_loss(x_hat, x), kl_divergence(mean, log_variance).mean()
        descend(rec_loss + LAMBDA_KL * kl_loss / x[0].numel(), optimizer)
        for name, ema in emas.items():
            update_ema(ema, networks[name], journal.now)
        return dict(rec=rec_loss, kl=kl_loss)

    step = replayed(step, device)
    for _ in journal.steps():
        losses = step(next(stream)[0])

        # What is due: numbers, a sheet, a checkpoint
        journal.add(**losses)
        found = {}
        if rank == 0 and args.show_ema and journal.looked_at:
            settle(emas.values(), look_on, rows, args.batch_size)
        if rank == 0 and journal.sheet_due:
            x_hat = repeat(shown["generator"], shown["encoder"], x_real, autocast)
            drawn = generate(shown["generator"], z_fixed, autocast)
            found = show_repeated(journal, x_real, x_hat, {"Drawn": drawn})
        journal.save(shown, **found)
    journal.close(said)


def said(error):
    """How the best validation error reads."""
    return f"validation MSE {error:.4f} in [-1, 1], {psnr(error):.2f} dB"
