"""What hyperencoder looks at while it trains: validation faces, repeated, and as each person's decoder draws them."""

import numpy as np
import torch
import torch.nn.functional as F

from hyperencoder.loading import embed, reconstruct
from hyperencoder.plumbing import in_chunks, mean_of_processes, save_sheet


def validate(model, records, rows, device, autocast, rank, world):
    """Mean squared error in [-1, 1] of each face of each person's rows, in one (N,) tensor."""
    errors = [torch.zeros(len(mine), device=device) for mine in rows]
    for person, mine in enumerate(rows):
        for part in in_chunks(mine, rank, world):
            x, x_hat, _ = reconstruct(model, records.images[mine[part]], device, autocast, person)
            errors[person][part] = (x_hat - x).square().mean((1, 2, 3))
    return mean_of_processes(torch.cat(errors) * world).cpu()  # each process has seen some of them


def compare(model, records, rows, people, device, autocast, count=16):
    """The rows of a sheet: the first faces of each person, and what the model makes of them, as each person."""
    sheet = {}
    for person, name in enumerate(people):
        images = records.images[rows[person][:count]]
        sheet[f"Real {name}".strip()] = reconstruct(model, images, device, autocast)[0]
        for other, their in enumerate(people):
            label = f"{name} as {their}" if other != person else f"Predicted {name}".strip()
            sheet[label] = reconstruct(model, images, device, autocast, other)[1]
    return sheet


def extend_film(film, frame, path, step):
    """Add a column, (n, h, w, 3) uint8, to the filmstrip of a fixed batch over the epochs, and write it.

    Beyond 40 columns every second one goes, so that the strip stays readable however long the run.
    """
    frame = torch.from_numpy(frame)[None]
    frame = F.pad(frame, (0, 0) * 3 + (0, 8 - frame.shape[1]), value=255)
    film = torch.cat([film[::2] if len(film) >= 40 else film, frame])
    faces = film.transpose(0, 1).flatten(0, 1).permute(0, 3, 1, 2) / 127.5 - 1
    save_sheet(path, {f"to step {step}": faces}, columns=len(film))
    return film


def mean_embeddings(model, records, rows, device, autocast, most=512):
    """The mean embedding of each person's pictures, of at most so many: (people, E), on the CPU."""
    means = []
    for mine in rows:
        mine = mine[:most]
        each = [embed(model, records.images[mine[part]], device, autocast)[1].float() for part in in_chunks(mine)]
        means.append(torch.cat(each).mean(0))
    return torch.stack(means).cpu()


def embed_validation(model, records, rows, device, autocast, journal):
    """TensorBoard's embedding projector for (at most 1,000 of) the validation faces."""
    rows = np.concatenate(rows)[:1000]
    pieces = [reconstruct(model, records.images[rows[part]], device, autocast) for part in in_chunks(rows)]
    faces, _, embeddings = (torch.cat(piece).cpu() for piece in zip(*pieces, strict=True))
    names = [records.names[row].encode(errors="replace").decode() for row in rows]  # TensorBoard takes no others
    icons = F.interpolate(faces, (64, 64)) / 2 + 0.5  # the projector wants squares
    journal.writer.add_embedding(embeddings, names, icons, global_step=journal.step, tag="embedding")
