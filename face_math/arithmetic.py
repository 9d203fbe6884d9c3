"""--run arithmetic: a - b + c of faces, and directions in z: what an attribute, or the turn of a head, adds to it."""

import argparse
import math
from pathlib import Path

import numpy as np
import torch

from common.celeba import attribute_indices, to_tensor, to_uint8
from common.mtcnn import MTCNN, put_back, soft_box, soft_oval
from common.photos import InputError, save_pictures, write_table
from face_math import plumbing
from face_math.loading import beside, load_records, results_folder, training_rows
from face_math.model import as_long, as_long_as_fits
from face_math.plumbing import in_chunks, place, read_checkpoint, save_checkpoint, save_sheet
from face_math.projection import embed
from face_math.trained import prepare

MAIN = ["Male", "Smiling", "Black_Hair", "Blond_Hair", "Eyeglasses", "No_Beard", "Wearing_Hat", "Young"]


def arithmetic(args):
    """a - b + c with --images, --minus and --plus; else attribute vectors added to --images or test faces."""
    model = prepare(args)
    if args.minus or args.plus:
        given = {name: getattr(args, name) for name in ("images", "minus", "plus") if getattr(args, name)}
        add_up(args, model, {name: embed(args, model, paths) for name, paths in given.items()})
        return
    vectors = attribute_vectors(args, model)
    z, names, places = embed(args, model, args.images)
    out, before = results_folder(args), to_uint8(model.decode(z))
    save_pictures(out / "projections", names, before)
    rows, sheet, variants = [], {}, {}
    shown = max(1, 16 // len(args.strengths))  # faces in a line of the sheet
    for attribute, vector in vectors.items():
        edited = torch.stack([(z + strength * vector).clamp(-1, 1) for strength in args.strengths], 1)
        pictures = model.decode(edited.flatten(0, 1)).unflatten(0, edited.shape[:2])  # (N, strengths, 3, S, S)
        for i, strength in enumerate(args.strengths):
            files, made = [f"{attribute}/{name}_{strength:+.2f}" for name in names], to_uint8(pictures[:, i])
            save_pictures(out, files, made)
            variants |= {f"{attribute}/{{}}_{strength:+.2f}": made} if strength else {}
            request = f"{attribute}={int(strength > 0)}" if strength and attribute != "Turn" else ""
            sources = [f"projections/{name}.png" for name in names]
            rows += [[f"{file}.png", source, request] for file, source in zip(files, sources, strict=True)]
        label = f"{attribute}, {', '.join(f'{strength:+g}' for strength in args.strengths)}"
        sheet[label] = pictures[: 4 * shown].flatten(0, 1)
    write_table(out / "manifest.tsv", ["file", "source", "request"], rows)
    save_sheet(out / "sheet.png", sheet, columns=len(args.strengths) * shown)
    put_back(out / "photos", places, variants, before, head(args.image_size))
    print(f"{len(rows)} pictures and sheet.png in {out}")


def add_up(args, model, sets):
    """The face of the mean z of "images", less that of "minus", and that of "plus"; each of the photos so changed.

    What comes out is not longer than the z of "images" are. sets: name -> z (N, z_size), names and places, as embed()
    returns them.
    """
    places, sets = sets["images"][2], {name: found[0] for name, found in sets.items()}
    means = {name: z.mean(0, keepdim=True) for name, z in sets.items()}
    added = means.get("plus", 0) - means.get("minus", 0)
    lengths = sets["images"].norm(dim=1, keepdim=True)
    result = as_long_as_fits(means["images"] + added, lengths.mean())
    out, picture = results_folder(args), model.decode(result)
    save_pictures(out, ["result"], to_uint8(picture))
    np.save(out / "result.npy", result.cpu().numpy())
    rows = {name.capitalize(): model.decode(z[:16]) for name, z in sets.items()}
    save_sheet(out / "sheet.png", rows | {"Result": picture})
    changed = as_long(sets["images"] + added, lengths)
    before, after = (to_uint8(model.decode(z)) for z in (sets["images"], changed))
    put_back(out / "photos", places, {"{}": after}, before, head(args.image_size))
    print(f"result.png, result.npy and sheet.png in {out}")


def head(size):
    """(size, size) weights of what goes back into a photo: the head, and not the background, which z changes too."""
    return soft_oval((size, size), width=0.74, height=1.1) * soft_box((size, size), 0.12)


# ---------------------------------------------------------------------------------------------------------------------
# Vectors


def attribute_vectors(args, model):
    """Attribute name -> vector (z_size,), as `fit_vectors` finds them, kept beside the model for later.

    InputError: no labels, or no encoder.
    """
    flags, name = beside(args, "_vectors")
    files = [place(flags, "model", name)]
    # What comes with the program stays as it is: others are kept with one's own models.
    if files[0].parent.resolve() == plumbing.PROJECT.resolve():
        files.insert(0, Path(plumbing.PROJECT, "models", f"{name}.pt"))
    kept = [kept_vectors(file, model) for file in files]
    there = [part[args.vectors] for part in kept if args.vectors in part]
    found = next((one for one in there if set(args.attributes) <= set(one["names"])), None)
    if not found:
        if args.dataset_dir is None:
            known = f", but {', '.join(there[-1]['names'])}" if there else ""
            raise InputError(f"{files[-1]} does not hold these vectors{known}: give --dataset_dir, with labels, once")
        if model.encoder is None:
            raise InputError("attribute vectors need the training faces' z: --run train_encoder first")
        names = dict.fromkeys([*kept[0].get(args.vectors, {}).get("names", []), *args.attributes])
        wider = argparse.Namespace(**vars(args) | dict(attributes=list(names)))
        vectors = labelled_vectors(wider, model, load_records(args, model.device))
        found = dict(names=[*vectors], vectors=torch.stack([*vectors.values()]))
        known = kept[0] | {args.vectors: found}
        save_checkpoint(files[0], {}, {}, inverts=model.version, reader=model.reader, **known)
    vectors = torch.as_tensor(found["vectors"], device=model.device)
    return {name: vectors[found["names"].index(name)] for name in args.attributes}


def kept_vectors(file, model):
    """What a file holds for this model's networks: "mean" or "regression" -> names and vectors; {} if nothing."""
    state = read_checkpoint(file)["state"] if file.exists() else {}
    fits = (state.get("inverts"), state.get("reader")) == (model.version, model.reader)
    return {kind: state[kind] for kind in ("mean", "regression") if fits and kind in state}


def labelled_vectors(args, model, records):
    """The vectors of --attributes from the z that a model's encoder gives the training faces."""
    rows = training_rows(args, records)
    z = [model.encode(to_tensor(records.images[rows[part]], model.device)) for part in in_chunks(rows)]
    return fit_vectors(records, rows, torch.cat(z).cpu(), args.attributes, args.vectors, model.device)


def fit_vectors(records, rows, z, names, kind, device="cpu"):
    """Name -> vector (z_size,), from z (N, z_size) of the labelled faces in these rows of records.

    kind "mean": mean z with the attribute minus mean z without. "regression": least squares of z on all of the names
    and the main attributes at once, so that what usually comes along with one is not part of its vector. The name Turn
    is the head's (`yaw`), a unit being one standard deviation. InputError: no labels, or all faces have the same.
    """
    wanted = names + (MAIN if kind == "regression" else [])
    columns = known_columns(records, rows, [name for name in dict.fromkeys(wanted) if name != "Turn"], names)
    if "Turn" in names:
        turn = yaw(records, rows, device)
        seen = turn.isfinite()
        if seen.sum() < 2:
            raise InputError("no landmarks in the training faces: no vector for Turn")
        turn = (turn - turn[seen].mean()) / turn[seen].std()
        columns["Turn"] = turn.where(seen, torch.zeros(()))  # those not measured are looked upon as frontal
    if kind == "mean":
        vectors = {name: z[columns[name] > 0].mean(0) - z[columns[name] <= 0].mean(0) for name in names}
        if "Turn" in names:  # right minus left, brought to the unit of one standard deviation
            right = columns["Turn"] > 0
            vectors["Turn"] /= columns["Turn"][right].mean() - columns["Turn"][~right].mean()
        return vectors
    design = torch.stack([*columns.values()], 1)
    design, z = (design - design.mean(0)).double(), (z - z.mean(0)).double()
    penalty = 1e-3 * len(z) * torch.eye(design.shape[1], dtype=torch.float64)
    solved = dict(zip(columns, torch.linalg.solve(design.T @ design + penalty, design.T @ z).float(), strict=True))
    return {name: solved[name] for name in names}


def known_columns(records, rows, wanted, needed):
    """Attribute name -> (N,) 0 or 1. InputError: no labels, or one that is needed and is the same for all faces."""
    if records.attributes is None:
        raise InputError("attribute vectors need list_attr_celeba.txt or .csv, which this data set lacks")
    labels = torch.from_numpy(records.attributes[rows][:, attribute_indices(wanted)] > 0).float()
    columns = dict(zip(wanted, labels.T, strict=True))
    for name in needed:
        if name != "Turn" and columns[name].std() == 0:
            raise InputError(f"all or none of the training faces have {name}: no vector for it")
    return columns


def yaw(records, rows, device="cpu", most=3000):
    """How far heads are turned to the picture's right: the nose's distance from the eyes' middle, by that of the eyes.

    From the data set's landmarks, else from those that MTCNN finds in (at most 3,000 of) the crops, twice as large.
    Returns (N,), NaN where none were found.
    """
    turn = torch.full((len(rows),), math.nan)
    if records.landmarks is not None:
        points, found = torch.as_tensor(records.landmarks[rows]).float().view(-1, 5, 2), list(range(len(rows)))
    else:
        points, found = detected_landmarks(records, rows[:most], device)
    if len(found):
        left, right, nose = points[:, 0], points[:, 1], points[:, 2]
        turn[found] = (nose - (left + right) / 2)[:, 0] / (right - left).norm(dim=1).clamp(min=1)
    return turn


def detected_landmarks(records, rows, device):
    """MTCNN's landmarks (n, 5, 2) of the first face in each picture where it finds one, and which those are."""
    import cv2

    detector, points, found = MTCNN(device), [], []
    for part in in_chunks(rows):
        images = records.images[rows[part]]
        large = [cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) for image in images]
        for i, marks in enumerate(detector.detect(large)[2]):
            if len(marks):
                points.append(torch.as_tensor(marks[0]).float())
                found.append(part.start + i)
    return torch.stack(points) if points else torch.zeros(0, 5, 2), found
