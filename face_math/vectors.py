"""Directions in z: what an attribute of labelled faces, or the turn of their heads, adds to a face's z."""

import math

import cv2
import torch

from common.celeba import attribute_indices
from common.mtcnn import MTCNN
from common.photos import InputError

MAIN = ["Male", "Smiling", "Black_Hair", "Blond_Hair", "Eyeglasses", "No_Beard", "Wearing_Hat", "Young"]


def fit_vectors(records, rows, z, names, kind):
    """Name -> vector (z_size,), from z (N, z_size) of the labelled faces in these rows of records.

    kind "mean": mean z with the attribute minus mean z without. "regression": least squares of z on all of the names
    and the main attributes at once, so that what usually comes along with one is not part of its vector. The name Turn
    is the head's (`yaw`), a unit being one standard deviation. InputError: no labels, or all faces have the same.
    """
    if records.attributes is None:
        raise InputError("attribute vectors need list_attr_celeba.txt or .csv, which this data set lacks")
    wanted = [name for name in dict.fromkeys(names + (MAIN if kind == "regression" else [])) if name != "Turn"]
    labels = torch.from_numpy(records.attributes[rows][:, attribute_indices(wanted)] > 0).float()
    columns = dict(zip(wanted, labels.T, strict=True))
    for name in names:
        if name != "Turn" and columns[name].std() == 0:
            raise InputError(f"all or none of the training faces have {name}: no vector for it")
    if "Turn" in names:
        turn = yaw(records, rows)
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


def yaw(records, rows, most=3000):
    """How far heads are turned to the picture's right: the nose's distance from the eyes' middle, by that of the eyes.

    From the data set's landmarks, else from those that MTCNN finds in (at most 3,000 of) the crops, twice as large.
    Returns (N,), NaN where none were found.
    """
    turn = torch.full((len(rows),), math.nan)
    if records.landmarks is not None:
        points, found = torch.as_tensor(records.landmarks[rows]).float().view(-1, 5, 2), range(len(rows))
    else:
        detector, points, found = MTCNN("cuda" if torch.cuda.is_available() else "cpu"), [], []
        for start in range(0, min(len(rows), most), 64):
            large = [cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
                     for image in records.images[rows[start : start + 64]]]  # fmt: skip
            for i, marks in enumerate(detector.detect(large)[2]):
                if len(marks):
                    points.append(torch.as_tensor(marks[0]).float())
                    found.append(start + i)
        if not points:
            return turn
        points = torch.stack(points)
    left, right, nose = points[:, 0], points[:, 1], points[:, 2]
    turn[list(found)] = (nose - (left + right) / 2)[:, 0] / (right - left).norm(dim=1).clamp(min=1)
    return turn
