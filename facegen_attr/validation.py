"""What facegen_attr looks at while it trains: faces for fixed requests, whether they look real, differ, and obey."""

import torch

from facegen_attr.attributes import exclusions, flipped, mismatched
from facegen_attr.gan import diversity, face_distance, score
from facegen_attr.loading import crop_of, is_editor, noise
from facegen_attr.model import REFINERS
from facegen_attr.predictor import balanced_accuracy

OBEYED = 0.95  # share read as asked for from which on all count as equal: what real faces show is read no better


def fixed_starts(args, x, c):
    """What the sheets and the score begin from, and what is asked for: always the same for faces x of attributes c.

    Noise, and the faces' own attributes; or for dcgan5 the faces themselves, and other attributes.
    """
    if args.model != "dcgan5":
        return noise(args, len(c), args.seed), c
    numbers = torch.rand(2 - is_editor(args), len(c), generator=torch.Generator().manual_seed(args.seed))
    if is_editor(args):
        return x, flipped(c, numbers[0], exclusions(args.attributes))
    return x, mismatched(c, c, numbers)


@torch.no_grad()
def obeyed(discriminator, x, asked, device, autocast):
    """How far the discriminator's own reading finds in pictures x (N, 3, H, W) what was asked for (N, A).

    For each attribute the mean of "yes" where it was asked for and of "no" where it was not, then the mean of those; a
    half is chance, 1 is all. Attributes that were asked of all or of none do not count.
    """
    with autocast():
        pieces = zip(x.split(64), asked.split(64), strict=True)
        read = torch.cat([discriminator(part.to(device), c.to(device))[1].float().cpu() for part, c in pieces])
    rate = balanced_accuracy((read > 0).float(), (asked > 0.5).float()).nanmean()
    return rate.nan_to_num(1.0).item()  # nothing to tell apart: nothing is disobeyed


def setting_rows(model, start, c, count=4):
    """The rows of a sheet: `count` starts, each as asked first, then with each attribute turned round."""
    names, rows = model.flags.attributes, {}
    total = len(names)
    for i, (begin, own) in enumerate(zip(start[:count, None], c[:count, None], strict=True)):
        first = begin if model.flags.model == "dcgan5" else model.answer(begin, own, own)
        begin = first if model.flags.model in REFINERS else begin
        own = own.repeat(total, 1)
        each = flipped(own, (torch.arange(total) + 0.5) / total, exclusions(names))
        others = model.answer(begin.expand(total, *begin.shape[1:]), own, each)
        label = f"face {i + 1}" if i else f"as asked, then turned round: {', '.join(names)}"
        rows[label] = torch.cat([first, others])
    return rows


def validate(model, discriminator, start, asked, x, c, journal):
    """A sheet, and how good the faces are: a score of which less is better, beside real faces x of attributes c."""
    x_fake = model.answer(start, c, asked)
    spread, distance = diversity(x_fake, x), face_distance(x_fake, x, crop_of(x.shape[2:]))
    journal.scalar("diversity", spread)
    journal.scalar("face_distance", distance)
    if spread < 0.5:
        journal.bar.write(f"step {journal.step}: the faces are too much alike (diversity {spread:.2f} of real faces')")
    rows = {"refined" if model.flags.model == "dcgan5" else "fixed noise": x_fake[:32]}
    columns = max(16, len(model.flags.attributes) + 1)
    journal.sheet(rows | setting_rows(model, start, c), columns)
    found = score(distance)
    if model.flags.lambda_attributes:  # real-looking faces that show something else are no good
        read = obeyed(discriminator, x_fake, asked, model.device, model.autocast)
        journal.scalar("attributes/read", read)
        found = score(distance, read, OBEYED)
    if is_editor(model.flags):  # doing nothing comes nearest to real faces: the newest that has not collapsed
        return -journal.step if spread >= 0.5 else float("inf")
    return found
