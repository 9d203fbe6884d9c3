"""The training step of InfoGAN (arXiv 1606.03657), on faces or on digits."""

from functools import partial

import torch

from dapgan.digits import deform, digit_loss
from dapgan.gan import R1_EVERY, adapt, by_heart, diff_augment, discriminator_loss, generator_loss, r1_penalty
from dapgan.loading import draw
from dapgan.losses import prior_distance, reconstruction_loss
from dapgan.plumbing import descend, mean_of_processes, whole


def judge(discriminator, x, numbers):
    """The logits of "real" (N,); numbers (7, N): of the augmentation that the discriminator sees, None for none."""
    return discriminator(x if numbers is None else diff_augment(x, numbers))[0].float()


def infogan_step(args, gan, g_optimizer, d_optimizer, mine, share, others, x, clusters=None, penalty=False):
    """InfoGAN: G against D, D on real and generated, then both so that the latent can be read in what G makes.

    share (): of the pictures that the discriminator sees augmented, changes in place; others: validation
    pictures; x: training pictures; clusters (N,): what digits are to be read as; penalty: whether it is the gradient
    penalty's turn. Returns the losses by name.
    """
    z, moves, numbers, directions = draw(args, gan, mine, share)
    if args.deform:
        x, twin = deform(x, moves[0]), deform(x, moves[1])
    generator, discriminator, losses = gan.generator, gan.discriminator, {}

    # 1. Generator: pass for real
    discriminator.requires_grad_(False)
    with gan.autocast():
        x_fake = generator(z)
        d_fake = judge(discriminator, x_fake.float(), numbers[1])
    losses["g"] = generator_loss(d_fake)
    descend(losses["g"], g_optimizer)

    # 2. Discriminator: tell real from generated
    discriminator.requires_grad_(True)
    with gan.autocast():
        d_real = judge(discriminator, x, numbers[0])
        d_fake = judge(discriminator, x_fake.detach().float(), numbers[1])
        if args.diff_augment:
            with torch.no_grad():
                chosen = torch.randint(len(others), (args.batch_size,), device=x.device)[mine]
                d_other = judge(discriminator, others[chosen], numbers[2])
    d_loss = losses["d"] = discriminator_loss(d_real, d_fake)
    if penalty:
        r1 = r1_penalty(partial(judge, discriminator, numbers=numbers[0]), x)
        d_loss = d_loss + args.lambda_r1 / 2 * R1_EVERY * r1
    descend(d_loss, d_optimizer)
    if args.diff_augment:
        adapt(share, mean_of_processes(by_heart(d_real, d_other, d_fake)), args.batch_size)
        losses["augmented/share"] = share

    # 3. Both: the latent of generated pictures can be read in them, real ones are repeated, real digits are read. G is
    #    rewarded for the noise as well in the document; faces look less real for it (README, Results)
    with gan.autocast():
        x_fake = generator(z)
        raw = discriminator.read(x_fake)
        raw_noise = raw if args.reward_noise else discriminator.read(x_fake.detach())
    losses["code"], losses["noise"] = gan.latent.losses(raw.float(), z)[0], gan.latent.losses(raw_noise.float(), z)[1]
    loss = args.lambda_code * losses["code"] + args.lambda_noise * losses["noise"]
    if args.lambda_rec:
        with gan.autocast():
            raw = discriminator.read(x)
        z_hat = gan.latent.squash(raw.float())
        with gan.autocast():
            x_hat = generator(z_hat)
        losses["rec"] = reconstruction_loss(x_hat, x, args.reconstruction).mean()
        loss = loss + args.lambda_rec * losses["rec"] + prior_distance(whole(z_hat), whole(z), directions)
    if args.lambda_digit:
        with gan.autocast():
            first, second = discriminator.read(torch.cat([x, twin])).float().chunk(2)
        losses["digit"] = digit_loss(gan.latent, first, second, clusters, (moves[0] - moves[1]).T)
        loss = loss + args.lambda_digit * losses["digit"]
    descend(loss, g_optimizer, d_optimizer)
    return losses
