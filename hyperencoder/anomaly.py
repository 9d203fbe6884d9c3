"""--run anomaly: pictures that are no normal faces, found by their reconstruction error, and how well it finds them.

Each kind of anomaly takes and gives (N, 3, H, W) in [-1, 1]; all randomness comes from the generator.
"""

import csv
import json
import math

import numpy as np
import torch
import torch.nn.functional as F

from common.celeba import to_tensor, to_uint8
from common.photos import InputError
from hyperencoder.loading import load_model, load_photos, load_pictures, reconstruct, run_name
from hyperencoder.model import resize
from hyperencoder.plumbing import in_chunks, output_folder, place, save_sheet


def upside_down(x, generator):
    """Turned by half a turn's mirror: top and bottom change places."""
    return x.flip(2)


def shuffled_blocks(x, generator):
    """A 4 x 4 grid of blocks in another order for each picture."""
    n, c, h, w = x.shape
    x = resize(x, (h // 4 * 4, w // 4 * 4))
    blocks = F.unfold(x, (h // 4, w // 4), stride=(h // 4, w // 4))
    order = torch.stack([torch.randperm(16, generator=generator) for _ in range(n)]).to(x.device)
    blocks = blocks.gather(2, order[:, None].expand_as(blocks))
    return F.fold(blocks, x.shape[2:], (h // 4, w // 4), stride=(h // 4, w // 4))


def occluded_eyes(x, generator):
    """A black bar over the eyes: the band from 0.3 to 0.45 of a face crop's height."""
    x = x.clone()
    h, w = x.shape[2:]
    x[:, :, round(0.3 * h) : round(0.45 * h), round(0.1 * w) : round(0.9 * w)] = -1
    return x


def blur(x, generator):
    """Gaussian blur with a spread of 4% of the height."""
    sigma = 0.04 * x.shape[2]
    t = torch.arange(-math.ceil(3 * sigma), math.ceil(3 * sigma) + 1, device=x.device)
    kernel = torch.exp(-((t / sigma) ** 2) / 2).expand(3, 1, 1, -1)
    kernel = kernel / kernel.sum(3, keepdim=True)
    r = len(t) // 2
    x = F.conv2d(F.pad(x, (r, r, 0, 0), mode="reflect"), kernel, groups=3)
    return F.conv2d(F.pad(x, (0, 0, r, r), mode="reflect"), kernel.transpose(2, 3), groups=3)


def other_pictures(x, generator):
    """No faces: a random window of a quarter of the side from each picture, enlarged (hair, cheek, background)."""
    h, w = x.shape[2] // 4, x.shape[3] // 4
    windows = []
    for picture in x:
        top = torch.randint(x.shape[2] - h + 1, (), generator=generator)
        left = torch.randint(x.shape[3] - w + 1, (), generator=generator)
        windows.append(picture[:, top : top + h, left : left + w])
    return resize(torch.stack(windows), x.shape[2:])


ANOMALIES = {kind.__name__: kind for kind in (upside_down, shuffled_blocks, occluded_eyes, blur, other_pictures)}


def roc_auc(normal, anomalous):
    """Area under the ROC curve of two 1-d tensors of scores: the chance that an anomalous one scores higher.

    Ties count half (Mann & Whitney 1947). 0.5 is guessing, 1 always right.
    """
    difference = anomalous[:, None] - normal[None]
    return ((difference > 0).double().mean() + (difference == 0).double().mean() / 2).item()


def errors_of(model, images, device, autocast):
    """Mean squared reconstruction error (N,) of pictures (N, h, w, 3) uint8, on the CPU."""
    pieces = [reconstruct(model, images[part], device, autocast)[:2] for part in in_chunks(images)]
    return torch.cat([(x_hat - x).square().mean((1, 2, 3)).cpu() for x, x_hat in pieces])


def unusual(errors, known):
    """How far errors (N,) are from the median of the known ones (M,), either way, by the factor between them.

    The second score: a blurred face is reconstructed too well, not too badly.
    """
    return (errors.log() - known.log().median()).abs()


def share_below(scores, known):
    """(N,): the share of the known scores (M,) that each score is above."""
    return torch.searchsorted(known.sort().values, scores).double() / len(known)


def anomaly(args):
    """Score pictures by reconstruction error: --images one by one, or the test faces against five kinds of others."""
    model, device, autocast, state = load_model(args)
    if "validation_errors" not in state:
        raise InputError("anomaly scores need the best model, which training writes at the end of its first epoch")
    if args.images:
        images, names, faces = load_photos(args, model, device, faceless=True)
    else:
        images, names = load_pictures(args, model, device)
        faces = [True] * len(names)
    out = output_folder(args, place(args, "samples", run_name(args)))

    normal, known = errors_of(model, images, device, autocast), state["validation_errors"]
    below, two_sided = share_below(normal, known), share_below(unusual(normal, known), unusual(known, known))
    odd = [not face or max(shares) > 0.99 for face, *shares in zip(faces, below, two_sided, strict=True)]
    rows = list(zip(names, normal.tolist(), below.tolist(), two_sided.tolist(), faces, odd, strict=True))
    with open(out / "anomaly.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file)
        table.writerow(["file", "error", "validation_faces_below", "two_sided_below", "face", "odd"])
        table.writerows([name, f"{error:.6g}", f"{one:.4f}", f"{two:.4f}", int(face), int(strange)]
                        for name, error, one, two, face, strange in rows)  # fmt: skip
    limit = f"99% of {len(known)} validation faces' ({known.quantile(0.99):.4f})"
    print(f"anomaly.csv in {out}: odd is an error above {limit},")
    print("or one that is further than 99% of theirs from what is usual, above or below; or no face in the picture")
    if args.images:
        for name, error, one, two, face, strange in rows:
            told = "no face found, odd: " * (not face) or "odd: " * strange
            print(
                f"{name}: {told}error {error:.4f}, above {one:.0%} of the validation faces, two-sided above {two:.0%}"
            )
        return

    generator = torch.Generator().manual_seed(args.seed)
    sheet, table = {}, {}
    for kind, change in ANOMALIES.items():
        odd = np.concatenate([to_uint8(change(to_tensor(images[part]), generator)) for part in in_chunks(images)])
        scores = errors_of(model, odd, device, autocast)
        two_sided = roc_auc(unusual(normal, known), unusual(scores, known))
        table[kind] = {"auc": roc_auc(normal, scores), "auc_two_sided": two_sided}
        sheet[kind] = to_tensor(odd[:8])
        sheet[f"{kind}, reconstructed"] = reconstruct(model, odd[:8], device, autocast)[1].cpu()
        print(f"{kind:16} ROC-AUC {table[kind]['auc']:.3f}, two-sided {table[kind]['auc_two_sided']:.3f}")
    (out / "anomaly.json").write_text(json.dumps(table, indent=1) + "\n")
    sheet = {kind: F.interpolate(x, model.size) for kind, x in sheet.items()}
    save_sheet(out / "anomaly.png", sheet, columns=8)
