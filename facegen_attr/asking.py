"""What generate and refine begin from, and what they ask for: requests, test faces, one's own photos."""

import numpy as np
import torch
import torch.nn.functional as F

from common.celeba import SQUARE, CelebA, attribute_indices, find_faces, parse_condition, to_tensor, to_uint8
from common.mtcnn import MTCNN, rescale
from common.photos import InputError
from facegen_attr.attributes import contradictions
from facegen_attr.loading import attributes_of, load_predictor, load_records, picture_size
from facegen_attr.model import READ_SIZE
from facegen_attr.plumbing import need_data
from facegen_attr.predictor import predict


def wanted(request, attributes):
    """A request as columns of the model's attributes and values. InputError: one that it was not trained on."""
    request = parse_condition(request or "")
    strange = [name for name in request if name not in attributes]
    if strange:
        raise InputError(f"the model was not trained on {', '.join(strange)}, but on {', '.join(attributes)}")
    for pair in contradictions([name for name, value in request.items() if value]):
        print(f"note: {pair} contradict each other; asked for all the same")
    return [attributes.index(name) for name in request], torch.tensor(list(request.values()), dtype=torch.float32)


def as_request(attributes, row):
    """The text of a request from a row of 1 and 0."""
    return ",".join(f"{name}={int(value)}" for name, value in zip(attributes, row.tolist(), strict=True))


def seen_together(args, model):
    """(M, A), attributes as faces have them together: the test part's; without a data set, what the model remembers."""
    dataset = CelebA(args.dataset_dir) if args.dataset_dir else None
    if dataset is None or dataset.attributes is None or not (dataset.partition == 2).any():
        return model.known
    rows = dataset.attributes[dataset.partition == 2]
    return torch.from_numpy(rows[:, attribute_indices(model.flags.attributes)])


def draw_requests(pool, attributes, request, count, seed):
    """count rows (N, A) of attributes to ask for, as the rows of a pool (M, A) have them together.

    With a request, rows that have it (or most of it, and then made to have all); without, for each attribute in turn a
    row that has it and one that lacks it.
    """
    columns, values = wanted(request, attributes)
    rng, pool, rows = np.random.default_rng(seed), pool.float(), []
    for i in range(count):
        if columns:
            misses = (pool[:, columns] != values).sum(1)
            candidates = (misses == misses.min()).nonzero()
        else:
            candidates = (pool[:, i // 2 % pool.shape[1]] == i % 2).nonzero()
        rows.append(pool[candidates[rng.integers(len(candidates)), 0]] if len(candidates) else pool[i % len(pool)])
    rows = torch.stack(rows)
    rows[:, columns] = values
    return rows


def test_faces(args, model):
    """The data set's test faces (N, 3, H, W) in [-1, 1] and their attributes (N, A)."""
    need_data(args, "its test faces are taken where no --images are named")
    records = load_records(args, picture_size(model.flags), model.device)
    rows = records.rows("test")
    if len(rows) == 0:
        raise InputError(f"{args.dataset_dir} has no test pictures: name pictures with --images")
    return to_tensor(records.images[rows]), attributes_of(records, model.flags.attributes)[rows]


def own_faces(args, model, paths):
    """Photos as face crops at the model's size, with the attributes (N, A) that the predictor reads in them, but for
    those that --shows names, and the Place of each in its photo. A clip's face has those of most of its frames.
    """
    predictor = model.predictor or load_predictor(args, model.device, "so that nobody has to label a photo by hand")
    size, names = model.flags.image_size, model.flags.attributes
    side, which = max(READ_SIZE, size), "all" if args.all_faces else "largest"
    images, files, skipped, places = find_faces(paths, SQUARE, (side, side), MTCNN(model.device), which)
    for file, reason in skipped:
        print(f"skipped {file}: {reason}")
    x = to_tensor(images)
    read = predict(predictor, to_uint8(F.interpolate(x, (READ_SIZE, READ_SIZE), mode="area")))
    c = read[:, attribute_indices(names)]
    for file in set() if args.all_faces else {place.file for place in places}:
        frames = [row for row, place in enumerate(places) if place.file == file]
        c[frames] = (c[frames].mean(0) > 0.5).float()
    columns, values = wanted(args.shows, names)
    c[:, columns] = values
    for file, row in zip(files, c.tolist(), strict=True):
        there = [name for name, value in zip(names, row, strict=True) if value]
        print(f"{file} shows {', '.join(there) or 'none'}")
    places = [place._replace(matrix=rescale(place.matrix, (0, 0, side, side), (size, size))) for place in places]
    return F.interpolate(x, (size, size), mode="area"), c, places
