"""A further training: what fills holes. All three networks of the GAN go on, for the sake of holes alone."""

import torch
import torch.nn.functional as F

from common.celeba import batches
from face_math.coders import tell_apart
from face_math.gan import R1_EVERY
from face_math.holes import PULL, make_hole, poisson, random_holes
from face_math.loading import beside, load_records, make_encoder, repeat, split, training_faces
from face_math.model import Guess
from face_math.plumbing import Journal, descend, make_adam, make_ema, setup, slice_of, update_ema
from face_math.sheets import show_filled
from face_math.trained import load_model, take_shape


def train_filler(args):
    """Train encoder and generator to fill the hole of a face, in which they see a linear guess.

    What they fill it with is to be near the truth, and such that the discriminator takes the completed face for real.
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
    networks = dict(encoder=make_encoder(args), generator=gan.generator)
    if gan.encoder:
        networks["encoder"].start_as(gan.encoder.state_dict())
    for network in networks.values():
        network.requires_grad_(True).to(device, memory_format=torch.channels_last)
    encoder, generator = networks.values()
    discriminator = gan.discriminator.requires_grad_(True).train()
    guess = Guess(args.image_size, min(170, len(rows) - 1)).to(device)
    emas = {name: make_ema(network) for name, network in networks.items()}
    shown = emas if args.show_ema else networks
    parameters = [*encoder.parameters(), *generator.parameters()]
    g_optimizer = make_adam(parameters, args.learning_rate, args.beta1, args.beta2)
    d_optimizer = make_adam(discriminator.parameters(), args.learning_rate * args.d_rate, args.beta1, args.beta2)

    # Logbook
    parts = networks | {f"ema_{name}": ema for name, ema in emas.items()}
    parts |= dict(discriminator=discriminator, guess=guess, optimizer=g_optimizer, d_optimizer=d_optimizer)
    about = f"{len(rows)} training and {len(x_real)} validation faces"
    facts = dict(data=records.describe(), inverts=gan.version)
    flags, name = beside(args, "_filler")
    journal = Journal(flags, name, parts, len(rows), about, facts, device, rank)
    if journal.fresh:
        guess.fit(training_faces(records, rows))
    center = make_hole("center", args.image_size).to(device)
    stream = batches(records, rows, args.batch_size, device, args.seed, journal.step, rank, world, args.flip)

    # Not replayed: each hole is of another size, and with it the systems that guess and blending solve.
    def step(x, centered, penalised):
        # Every process draws the whole batch's numbers and takes its slice.
        hole = random_holes(1, args.image_size, device=device)[0, 0] == 0  # one for all of the step's faces
        hole = center if centered or not hole.any() else hole
        numbers = torch.rand(2, 7, args.batch_size, device=device)[:, :, mine]
        numbers[:, 5:] = 2  # diff_augment's own hole lies outside the picture: this is about what fills the other
        encoder.train()
        generator.eval()  # keeps the batch norm that it was trained with
        guessed = guess(x, hole)
        with autocast():
            face = generator(encoder(guessed)).float()
        completed = poisson(face, x, hole, guessed, PULL)

        # The discriminator tells real from completed, and the others pass for real, near what the hole hides, and as a
        # face of its surround.
        d_loss, g_loss = tell_apart(args, discriminator, d_optimizer, autocast, x, completed, numbers, penalised)
        rec_loss = F.mse_loss(completed[..., hole], x[..., hole])
        descend(g_loss + args.lambda_rec * (rec_loss + 0.2 * F.mse_loss(face, x)), g_optimizer)
        for name, ema in emas.items():
            update_ema(ema, networks[name], journal.now)
        return dict(rec=rec_loss, g=g_loss, d=d_loss)

    for number in journal.steps():
        x, _ = next(stream)
        losses = step(x, centered=number % 2 == 0, penalised=args.lambda_r1 > 0 and number % R1_EVERY == 0)

        # What is due: numbers, a sheet, a checkpoint
        journal.add(**losses)
        found = {}
        if rank == 0 and journal.sheet_due:
            guessed = guess(x_real, center)
            face = repeat(shown["generator"], shown["encoder"], guessed, autocast)
            found = show_filled(
                journal, x_real, guessed, poisson(face, x_real, center, guessed, PULL).clamp(-1, 1), center
            )
        journal.save(shown | {"guess": guess}, **found)
    journal.close("lowest distance {:.4f}".format)
