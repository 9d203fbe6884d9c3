"""--run tune: how an editor has to be asked, so that what is asked for changes, and little else.

An editor takes along what faces have together (who loses a beard gets younger) and finds some changes harder than
others. What has to be asked for beside, and how much more of the thing itself, is learned for each attribute that comes
or goes: numbers, by gradients through the editor, which stays as it is, and through the predictor, which had no part
in its training.
"""

import torch
from tqdm import tqdm

from common.celeba import subset, to_tensor
from common.photos import InputError
from facegen_attr import plumbing
from facegen_attr.attributes import exclusions, flipped
from facegen_attr.loading import (
    attributes_of,
    find_own,
    is_editor,
    load_predictor,
    load_records,
    picture_size,
    read_model,
    run_name,
    split,
)
from facegen_attr.model import scaled, tuned
from facegen_attr.plumbing import place, setup, write_content

FACES, STEPS, BATCH, RATE = 3000, 350, 48, 0.1
OTHERS, BESIDE = 2.0, 1.5  # weights of what else changes, and of what is asked for beside; chosen on validation faces


def class_means(logits, c, names):
    """Mean logits (2, A) of the faces without and with each attribute. InputError: one that all have, or none."""
    count = torch.stack([(1 - c).sum(0), c.sum(0)])
    if (count == 0).any():
        lacking = [name for name, number in zip(names, count.amin(0), strict=True) if number == 0]
        raise InputError(f"faces with and without {', '.join(lacking)} are needed, to tell what changes it")
    return torch.stack([((1 - c) * logits).sum(0), (c * logits).sum(0)]) / count


def fit_requests(edit, read, x, c, names, steps):
    """What is to be asked for beside each attribute that goes, and that comes, (2, A, A): see `tuned`; and class_means.

    edit: faces (N, 3, H, W) and changes (N, A) to faces; read: faces to logits (N, A); x: faces, c: their attributes.
    The loss is the square of what the reading (see `scaled`) of the attribute that is turned round falls short of its
    mean, OTHERS times the squares of what the others move between theirs, and BESIDE times those of what is asked for
    beside.
    """
    device, exclusive = c.device, exclusions(names).to(c.device)
    with torch.no_grad():
        logits = read(x)
    means = class_means(logits, c, names)
    before = scaled(logits, means).clamp(-1, 1)
    requests = torch.zeros(2, len(names), len(names), device=device, requires_grad=True)
    optimizer, random = torch.optim.Adam([requests], RATE, betas=(0.8, 0.99)), torch.Generator().manual_seed(0)
    each = torch.arange(BATCH, device=device)
    turns = (each + 0.5) / BATCH  # each attribute about equally often
    chosen = (turns * len(names)).long()
    for step in tqdm(range(steps), "tuning", unit=" steps", disable=None):
        plumbing.set_rate(optimizer, RATE * (1 - step / steps))
        rows = torch.randint(len(x), (BATCH,), generator=random).to(device)
        asked = flipped(c[rows], turns, exclusive)
        comes = asked[each, chosen]
        after = scaled(read(edit(x[rows], tuned(asked - c[rows], requests))), means)
        short = 1 - (2 * comes - 1) * after[each, chosen]
        moved = (after.clamp(-1, 1) - before[rows]) * (asked == c[rows])
        beside = requests[comes.long(), chosen]
        losses = short.relu().square() + OTHERS * moved.square().sum(1) + BESIDE * beside.square().sum(1)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    return requests.detach(), means


def measure(model, read, x, c):
    """Each face x with one attribute turned round: the shares where it is read so, and others otherwise.

    read: faces to readings, as of `scaled`, above 0 where an attribute is there.
    """
    names, rows = model.flags.attributes, torch.arange(len(x))
    turned = rows % len(names)
    asked = flipped(c, (turned + 0.5) / len(names), exclusions(names))
    with torch.no_grad():
        before, after = (read(y.to(model.device)).cpu() > 0 for y in (x, model.answer(x, c, asked)))
    changed = (after == (asked > 0.5))[rows, turned].float().mean().item()
    return changed, (after != before)[asked == c].float().mean().item()


def tune(args):
    """Learn how the editor of the run that the flags name has to be asked, and write it into its model file."""
    device, autocast, rank, _ = setup(args)
    path, content = find_own(args)
    model = read_model(path, device, autocast, content)
    if not is_editor(model.flags):
        raise InputError(f"--run tune is for an editor, --model dcgan5 --recipe best; {path} is none")
    if path.parent.resolve() == plumbing.PROJECT.resolve():
        raise InputError(f"{path} comes with the program, tuned: name one of your own, or a copy, by --model_path")
    if path != place(args, "model", run_name(args)):
        raise InputError(f"{path} is a checkpoint: there is no model yet; {args.train_first}")
    reader = model._replace(predictor=load_predictor(args, device, "which reads what changes"))
    model.generator.requires_grad_(False)
    names, records = model.flags.attributes, load_records(args, picture_size(model.flags), device, rank)
    if rank:  # one process is enough, and one alone may write
        return
    c = attributes_of(records, names)

    def read(x):
        return torch.cat([reader.logits(part) for part in x.split(64)])

    train_rows, validation_rows = split(args, records, most=500)
    rows = subset(train_rows, FACES, args.seed)
    requests, means = fit_requests(
        model.generator, read, to_tensor(records.images[rows], device), c[rows].to(device), names, STEPS
    )
    x, c = to_tensor(records.images[validation_rows]), c[validation_rows]
    asker = reader._replace(requests=requests, means=means)
    for label, way in (("untuned", model._replace(requests=None)), ("tuned", asker)):
        changed, others = measure(way, asker.read, x, c)
        print(f"{label}: {len(x)} validation faces, {changed:.1%} changed as asked, {others:.1%} of others read anew")
    content["state"] |= dict(requests=requests.cpu(), means=means.cpu())
    if "about" in content:  # a small file, such as come with the program
        content["generator"] = {name: plumbing.packed(x) for name, x in content["generator"].items()}
    write_content(path, content)
    print(f"{path} is asked so from now on; {path.with_suffix(plumbing.PREVIOUS)} is as it was")
