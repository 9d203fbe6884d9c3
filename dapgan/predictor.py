"""--run train_predictor: a network that reads the latents of real pictures, for a generator that is left as it is."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from common.celeba import augment, batches, to_tensor
from dapgan.loading import load_gan, load_records, make_predictor, predictor_run, rate_at, reader_to_start, split
from dapgan.losses import reconstruction_loss
from dapgan.plumbing import (
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


def predictor_step(args, gan, optimizer, mine, x):
    """One update of the predictor on real pictures x, and on the generator's own; returns the losses by name."""
    latent, predictor = gan.latent, gan.predictor
    if args.shift:  # every process draws the whole batch's numbers and takes its slice
        x = augment(x, torch.rand(4, args.batch_size, device=gan.device)[:, mine], args.shift)
    predictor.train()

    # Predictor: the real picture again, and the latent of a generated one
    with gan.autocast():
        x_hat = gan.draw(predictor.read(x, gan.draw))
    losses = dict(rec=reconstruction_loss(x_hat, x, args.reconstruction).mean())
    loss = losses["rec"]
    if args.lambda_code or args.lambda_noise:
        z = latent.draw(args.batch_size, device=gan.device)[mine]
        with torch.no_grad(), gan.autocast():
            x_fake = gan.generator(z).float()
        with gan.autocast():
            raw = predictor.read(x_fake, gan.draw)
        losses["code"], losses["noise"] = latent.losses(raw, z)
        loss = loss + args.lambda_code * losses["code"] + args.lambda_noise * losses["noise"]
    descend(loss, optimizer)
    return losses


def train_predictor(args):
    """Train the predictor: real pictures, read and made anew by the generator, which is left as it is.

    With lambda_code and lambda_noise it also learns from the generator's own pictures, whose latents are known. It
    starts from the predictor that the flags name, else as a copy of a discriminator that reads all of the latent.
    """
    device, autocast, rank, world = setup(args)
    gan = load_gan(args, device, autocast)

    # Data
    records = load_records(args, device, rank)
    rows, x_real = split(args, records, device)
    mine = slice_of(args.batch_size, rank, world)

    # Networks
    torch.manual_seed(args.seed)  # here, so that the first weights are the same whatever was packed before
    predictor = make_predictor(gan.flags, gan.latent, args.corrections)
    gan.predictor = predictor.to(device, memory_format=torch.channels_last)
    ema = make_ema(predictor)
    shown = replace(gan, predictor=ema if args.show_ema else predictor)
    optimizer = make_adam(predictor.parameters(), args.learning_rate, args.beta1, args.beta2)

    # Logbook
    about = f"{len(rows)} training and {len(x_real)} validation pictures"
    facts = dict(pictures=records.describe(), inverts=gan.version)
    parts = dict(predictor=predictor, ema_predictor=ema, optimizer=optimizer)
    journal = Journal(*predictor_run(args), parts, len(rows), about, facts, device, rank)
    if journal.fresh and (first := reader_to_start(args, gan)):
        for network in (predictor, ema):
            network.start_as(first.state_dict())
    stream = batches(records, rows, args.batch_size, device, args.seed, journal.step, rank, world, args.flip)

    def step(x):
        """The predictor, and the running mean of its weights, one step on."""
        losses = predictor_step(args, gan, optimizer, mine, x)
        update_ema(ema, predictor, journal.now)
        return {name: loss.detach() for name, loss in losses.items()}

    def look_on(chosen):
        """What a step reads, by the running mean."""
        with autocast():
            ema.read(to_tensor(records.images[chosen], device), gan.draw)

    step = replayed(step, device)
    for number in journal.steps():
        set_rate(optimizer, rate_at(args, number))
        losses = step(next(stream)[0])

        # What is due: numbers, validation, a sheet, a checkpoint
        journal.add(**losses)
        found = {}
        if rank == 0 and args.show_ema and journal.looked_at:
            settle([ema], look_on, rows, args.batch_size)
        if rank == 0 and journal.sheet_due:
            x_hat = shown.generate(shown.read(x_real))
            found["mse"] = F.mse_loss(x_hat, x_real).item()
            journal.keep_if_best(found["mse"])
            journal.scalar("validation/rec", found["mse"])
            journal.sheet({"Real": x_real[:32], f"Read and made anew, {psnr(found['mse']):.2f} dB": x_hat[:32]})
        journal.save({"predictor": shown.predictor}, **found)
    journal.close(lambda mse: f"validation MSE {mse:.4f} in [-1, 1], {psnr(mse):.2f} dB")
