"""Face detection with MTCNN (https://arxiv.org/abs/1604.02878), and what is cut out of a photo and put back into it.

Three small networks, batched, on the CPU or a GPU. Their weights are those that the `mtcnn` package ships; the package
itself, which needs TensorFlow, is never imported. All pictures are RGB, (H, W, 3), uint8.

The faces of a whole folder, with the command that common/crop.py describes:
    python common/mtcnn.py --in_dir photos --out_dir faces --size 227
"""

import functools
import itertools
import math
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository root
from common.photos import VIDEO_TYPES, InputError, Writer, name_outputs, numbered_frames

# CelebA's aligned geometry: the mean of the landmarks that the mtcnn package finds in 200 of its 178 x 218 pictures;
# left eye, right eye, nose, left and right corner of the mouth, as seen in the picture
TEMPLATE = np.float32([[69.1, 111.4], [108.1, 111.3], [87.8, 135.5], [70.9, 152.5], [106.1, 152.3]])


# Networks


def block(inputs, outputs, kernel, pool=0):
    """Convolution without padding, PReLU with one slope per channel, max pooling with stride two.

    pool: kernel of the pooling, 0 for none; ceil_mode as the networks were trained.
    """
    layers = [nn.Conv2d(inputs, outputs, kernel), nn.PReLU(outputs)]
    return [*layers, nn.MaxPool2d(pool, 2, ceil_mode=True)] if pool else layers


def halve(x):
    """Max pooling of 2 x 2 with stride two; the last of an odd number of rows or columns by itself.

    As maxima of slices it takes a third of the time of PyTorch's, which notes where each maximum was.
    """
    if x.shape[2] % 2 or x.shape[3] % 2:
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2), mode="replicate")
    x = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
    return torch.maximum(x[..., ::2], x[..., 1::2])


class Flatten(nn.Module):
    """Flatten (N, C, H, W) in the order width, height, channels, in which the dense weights are stored."""

    def forward(self, x):
        return x.permute(0, 3, 2, 1).flatten(1)


class PNet(nn.Module):
    """Proposal network: slides a 12 x 12 window with stride 2 over a picture of any size, or over several in one.

    The first layer has 10 channels; 6 that stay zero make it 16, which vector units take in half the time.
    """

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(*block(3, 16, 3), *block(16, 16, 3), *block(16, 32, 3))
        self.box = nn.Conv2d(32, 4, 1)
        self.face = nn.Conv2d(32, 2, 1)

    def forward(self, x, places=()):
        """x: (N, 3, H, W); places: (top, left, height, width) of the pictures in it, where they are several.

        What the windows find that lie across two of them means nothing.
        """
        x = self.body[1](self.body[0](x))  # (N, 16, H - 2, W - 2)
        for top, left, height, width in places:  # pooling shall see none of the next picture where a length is odd
            bottom, right = top + height - 2, left + width - 2
            if width % 2:
                x[:, :, max(0, top) : max(0, bottom), right] = x[:, :, max(0, top) : max(0, bottom), right - 1]
            if height % 2 and 0 < bottom < x.shape[2]:
                x[:, :, bottom, left : right + 1] = x[:, :, bottom - 1, left : right + 1]
        x = self.body[2:](halve(x))  # (N, 32, H / 2 - 5, W / 2 - 5)
        # Both heads in one pass, and as 16 outputs, which take half the time of six.
        weight, bias = map(torch.cat, zip(self.box.parameters(), self.face.parameters(), strict=True))
        x = F.linear(x.permute(0, 2, 3, 1), F.pad(weight.view(6, 32), (0, 0, 0, 10)), F.pad(bias, (0, 10)))
        return x[..., :4].permute(0, 3, 1, 2), (x[..., 5] - x[..., 4]).sigmoid()


class RNet(nn.Module):
    """Refinement network: judges and moves 24 x 24 candidates."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            *block(3, 28, 3, pool=3),  # (28, 11, 11)
            *block(28, 48, 3, pool=3),  # (48, 4, 4)
            *block(48, 64, 2),  # (64, 3, 3)
            Flatten(),
            nn.Linear(576, 128),
            nn.PReLU(128),
        )
        self.box = nn.Linear(128, 4)
        self.face = nn.Linear(128, 2)

    def forward(self, x):  # (N, 3, 24, 24)
        x = self.body(x)  # (N, 128)
        return self.box(x), self.face(x).softmax(1)[:, 1]


class ONet(nn.Module):
    """Output network: judges and moves 48 x 48 candidates, and finds five landmarks in them."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            *block(3, 32, 3, pool=3),  # (32, 23, 23)
            *block(32, 64, 3, pool=3),  # (64, 10, 10)
            *block(64, 64, 3, pool=2),  # (64, 4, 4)
            *block(64, 128, 2),  # (128, 3, 3)
            Flatten(),
            nn.Linear(1152, 256),
            nn.PReLU(256),
        )
        self.box = nn.Linear(256, 4)
        self.landmarks = nn.Linear(256, 10)
        self.face = nn.Linear(256, 2)

    def forward(self, x):  # (N, 3, 48, 48)
        x = self.body(x)  # (N, 256)
        return self.box(x), self.face(x).softmax(1)[:, 1], self.landmarks(x)


def load_weights(net, name):
    """Fill a network with the arrays of the mtcnn package's assets/weights/NAME.lz4, without importing the package.

    They lie in layer order: convolutions (height, width, in, out), dense layers (in, out), PReLU slopes (1, 1, C).
    """
    import joblib  # here: it takes longer to import than all else in common/

    here = Path(__file__).resolve().parent  # on the path when this file is run, and its name is the package's
    spec = PathFinder.find_spec("mtcnn", [place for place in sys.path if Path(place).resolve() != here])
    places = spec.submodule_search_locations if spec else []
    file = next((file for place in places if (file := Path(place, "assets", "weights", f"{name}.lz4")).is_file()), None)
    if file is None:
        raise InputError("the mtcnn package, which brings the detector's weights, is missing: pip install mtcnn lz4")
    for parameter, array in zip(net.parameters(), joblib.load(file), strict=True):
        array = torch.from_numpy(array)
        if array.ndim == 4:
            array = array.permute(3, 2, 0, 1)
        elif array.ndim == 2:
            array = array.T
        elif array.ndim == 3:
            array = array.flatten()
        parameter.data.zero_()
        parameter.data[tuple(slice(length) for length in array.shape)] = array
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)


# Detection


@functools.lru_cache(maxsize=64)
def area_matrix(length, new_length, device):
    """Sparse (new_length, length) weights that average a line over equal spans, with shares of the pixels at the ends.

    P-Net's proposals change with the way in which the pyramid is made; this is the way it is used with (TensorFlow's
    "area"), to which PyTorch has no equal: its "area" takes whole pixels only.
    """
    edges = np.linspace(0, length, new_length + 1)
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return torch.from_numpy((np.maximum(overlap, 0) * new_length / length).astype(np.float32)).to_sparse().to(device)


def shrink(lines, target):
    """Shrink pictures given as (H, N, W, 3) into a target (N, height, width, 3) by averaging areas."""
    (old_height, count, old_width, _), (_, height, width, _) = lines.shape, target.shape
    lines = torch.sparse.mm(area_matrix(old_height, height, lines.device), lines.view(old_height, -1))
    lines = lines.view(height, count, old_width, 3)
    if lines.is_cuda:
        columns = area_matrix(old_width, width, lines.device)
        lines = torch.sparse.mm(columns, lines.permute(2, 1, 0, 3).reshape(old_width, -1))
        target.copy_(lines.view(width, count, height, 3).permute(1, 2, 0, 3))
    else:  # OpenCV averages the same areas, along a row several times as fast
        for picture, place in zip(lines.transpose(0, 1).numpy(), target.numpy(), strict=True):
            cv2.resize(picture, (width, height), dst=place, interpolation=cv2.INTER_AREA)


@functools.lru_cache(maxsize=64)
def lay_out(height, width, scale, factor):
    """Where the pictures of a pyramid lie in one canvas, as wide as the largest, each as high up as there is room.

    Returns scales, places (top, left, height, width), the canvas's height and width, and for each of P-Net's windows
    (rows, columns) which picture of the pyramid it is in, -1 where it is across two. In a dozen small pictures, one
    after the other, most of the time went into starting the layers.
    """
    scales, places = [], []
    while min(height, width) * scale >= 12:
        scales.append(scale)
        scale *= factor
    sizes = [(int(height * scale), int(width * scale)) for scale in scales]
    floor = np.zeros(math.ceil(sizes[0][1] / 2) if sizes else 0, int)  # down to where columns, in pairs, are taken
    for size in sizes:
        pairs = math.ceil(size[1] / 2)
        tops = np.lib.stride_tricks.sliding_window_view(floor, pairs).max(1)
        left = int(tops.argmin())
        floor[left : left + pairs] = tops[left] + size[0] + size[0] % 2
        places.append((int(tops[left]), 2 * left, *size))
    shape = int(floor.max(initial=0)), 2 * len(floor)
    which = np.full((max(0, shape[0] // 2 - 5), max(0, shape[1] // 2 - 5)), -1)
    for index, (top, left, *size) in enumerate(places):
        rows, columns = (math.ceil(length / 2) - 5 for length in size)
        which[top // 2 : top // 2 + rows, left // 2 : left // 2 + columns] = index
    return np.array(scales), places, shape, which


def cut(x, boxes, owner, size):
    """Cut boxes (n, 4) out of pictures x (N, 3, H, W), owner (n,) ascending; (n, 3, size, size) in channels_last.

    One bilinear sample per pixel, the first and the last on the edges of the box, zero outside the picture, as the
    networks are used with; the full width of a picture counts as the way from its first to its last pixel.
    """
    shares = boxes / np.array([x.shape[3], x.shape[2]] * 2)
    points = shares[:, :2, None] + (shares[:, 2:] - shares[:, :2])[:, :, None] * np.linspace(0, 1, size)
    points = np.where((points >= 0) & (points <= 1), points * 2 - 1, 9)  # 9: far outside, where samples are zero
    points = torch.from_numpy(points.astype(np.float32)).to(x.device)  # (n, 2, size)
    grid = torch.stack(torch.broadcast_tensors(points[:, 0, None, :], points[:, 1, :, None]), 3)
    patches = x.new_empty(len(boxes), size, size, 3)
    ends = np.searchsorted(owner, np.arange(len(x) + 1)).tolist()
    for index, (start, end) in enumerate(itertools.pairwise(ends)):
        if end > start:
            made = F.grid_sample(x[index : index + 1], grid[start:end].view(1, -1, size, 2), align_corners=True)
            patches[start:end] = made.view(3, -1, size, size).permute(1, 2, 3, 0)
    return patches.permute(0, 3, 1, 2)


def move(boxes, offsets):
    """Apply a network's offsets, given in box sizes, to boxes (n, 4)."""
    size = boxes[:, 2:] - boxes[:, :2] + 1
    return boxes + offsets * np.hstack([size, size])


def square(boxes):
    """Grow the shorter side of each box (n, 4) to the longer one, around the same centre."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True, initial=0) / 2
    return np.hstack([centre - half, centre + half])


def suppress(boxes, scores, threshold, of_smaller=False):
    """Indices, best first, of the boxes (n, 4) that overlap no better one by more than a share of their union.

    Of_smaller: by more than a share of the smaller one. A box goes even where the better one goes too, as in the mtcnn
    package; the usual greedy way (torchvision's) keeps a tenth more candidates and ends in other boxes.
    """
    order = np.argsort(scores, kind="stable")[::-1]
    if len(order) < 2:
        return order
    boxes = boxes[order]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept = []
    for start in range(0, len(boxes), 256):  # in parts: memory grows with n, not its square
        end = start + 256
        part, better = boxes[start:end, None], boxes[None, :end]
        width = np.minimum(part[..., 2], better[..., 2]) - np.maximum(part[..., 0], better[..., 0])
        height = np.minimum(part[..., 3], better[..., 3]) - np.maximum(part[..., 1], better[..., 1])
        shared = width.clip(0) * height.clip(0)
        ours, theirs = area[start:end, None], area[:end]
        whole = np.minimum(ours, theirs) if of_smaller else ours + theirs - shared
        worse = np.arange(start, start + len(part))[:, None] > np.arange(better.shape[1])
        kept.append(~(worse & (shared > threshold * whole)).any(1))
    return order[np.concatenate(kept)]


def suppress_each(boxes, scores, owner, threshold, of_smaller=False):
    """suppress() within each picture: owner (n,) is the picture of each box. Indices, picture by picture."""
    groups = [np.flatnonzero(owner == index) for index in np.unique(owner)]
    groups = [rows[suppress(boxes[rows], scores[rows], threshold, of_smaller)] for rows in groups]
    return np.concatenate(groups) if groups else np.zeros(0, np.int64)


class MTCNN:
    """The three networks one after another, with the constants of the mtcnn package.

    min_face: side in pixels of the smallest face looked for, in a picture that max_side has shrunk: after that.
    """

    thresholds = (0.6, 0.7, 0.8)  # score above which a candidate goes on, from P-, R- and O-Net
    nms = (0.5, 0.7, 0.7, 0.7)  # overlap at which the worse box goes: in a scale, over scales, after R-Net, after O-Net
    factor = 0.709  # from scale to scale
    band = 100_000  # pixels that P-Net takes at a time on a CPU
    max_side = 1600  # longer pictures are searched shrunk to it

    def __init__(self, device="cpu", min_face=20):
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):  # first weights are drawn: a seeded training must not notice
            self.pnet = load_weights(PNet(), "pnet").to(self.device)
            self.rnet = load_weights(RNet(), "rnet").to(self.device)
            self.onet = load_weights(ONet(), "onet").to(self.device)
        self.min_face = min_face
        # The C library hands large freed blocks back to the system, and taking them again costs more than the
        # arithmetic in them. Having freed one of this size (its limit is 32 MB), it keeps smaller ones.
        np.empty(31 * 2**20, np.uint8)

    @torch.inference_mode()
    def detect(self, images):
        """Find the faces in a list of (H, W, 3) uint8 RGB pictures of any sizes.

        Returns three lists with one float32 array per picture, best face first: boxes (n, 4) as x1 y1 x2 y2 in pixels,
        scores (n,), landmarks (n, 5, 2) as x y of left eye, right eye, nose, left and right corner of the mouth.
        """
        results = [None] * len(images)
        sizes = {}
        for index, image in enumerate(images):
            sizes.setdefault(image.shape[:2], []).append(index)
        for (height, width), members in sizes.items():
            step = max(1, (20_000_000 if self.device.type == "cuda" else 640_000) // (height * width))
            for start in range(0, len(members), step):
                chunk = members[start : start + step]
                for index, result in zip(chunk, self.detect_batch([images[i] for i in chunk]), strict=True):
                    results[index] = result
        return tuple([result[part] for result in results] for part in range(3))

    def detect_batch(self, images):
        """Detect in pictures of one size; returns [(boxes, scores, landmarks), ...]."""
        height, width = images[0].shape[:2]
        zoom = min(1, self.max_side / max(height, width))
        if zoom < 1:
            size = max(1, round(width * zoom)), max(1, round(height * zoom))
            images = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images]
        lines = torch.from_numpy(np.stack(images, 1)).to(self.device).float().sub_(127.5).div_(128)  # (H, N, W, 3)
        x = lines.permute(1, 3, 0, 2)
        boxes, owner = self.propose(lines)
        boxes, owner = self.refine(x, boxes, owner)
        boxes, scores, landmarks, owner = self.finish(x, boxes, owner)

        boxes = boxes.clip(0, [x.shape[3] - 1, x.shape[2] - 1] * 2)
        scale = np.array([width / x.shape[3], height / x.shape[2]])
        boxes, landmarks = boxes * np.tile(scale, 2), landmarks * scale
        rows = [np.flatnonzero(owner == index) for index in range(len(images))]
        return [tuple(part[r].astype(np.float32) for part in (boxes, scores, landmarks)) for r in rows]

    def propose(self, lines):
        """P-Net over a pyramid of pictures (H, N, W, 3); returns square boxes (n, 4) and their pictures (n,)."""
        height, count, width, _ = lines.shape
        scales, places, shape, which = lay_out(height, width, 12 / self.min_face, self.factor)
        if not places:
            return np.zeros((0, 4)), np.zeros(0, np.int64)
        canvas = lines.new_zeros(count, *shape, 3)
        for top, left, *size in places:
            shrink(lines, canvas[:, top : top + size[0], left : left + size[1]])
        offsets, face = self.slide(canvas.permute(0, 3, 1, 2), places)
        owner, row, column = sure = torch.nonzero(face > self.thresholds[0], as_tuple=True)
        found = offsets[owner, :, row, column], face[sure], *sure
        offsets, scores, owner, row, column = (part.cpu().numpy() for part in found)
        level = which[row, column]
        found = offsets, scores, owner, row, column, level
        offsets, scores, owner, row, column, level = (part[level >= 0] for part in found)
        corner = np.stack([column, row], 1) * 2 - np.array(places)[level, 1::-1]
        boxes = np.hstack([corner, corner]) + [1, 1, 12, 12] + offsets * 11.0
        keep = suppress_each(boxes, scores, owner * len(scales) + level, self.nms[0])
        boxes, scores, owner = boxes[keep] / scales[level[keep], None], scores[keep], owner[keep]
        keep = suppress_each(boxes, scores, owner, self.nms[1])
        return square(boxes[keep]), owner[keep]

    def slide(self, x, places):
        """P-Net over canvases (N, 3, H, W); on a CPU in bands of rows that its cache holds: 2 k + 10 rows give k."""
        count, _, height, width = x.shape
        step = height if x.is_cuda else 2 * max(8, self.band // (count * width))
        bands = [
            self.pnet(x[:, :, start : start + step + 10], [(top - start, *place) for top, *place in places])
            for start in range(0, max(1, height - 10), step)
        ]
        return [torch.cat(part, -2) for part in zip(*bands, strict=True)]

    def refine(self, x, boxes, owner):
        """R-Net on the candidates; returns the square boxes (n, 4) that remain and their pictures (n,)."""
        offsets, scores = self.judge(self.rnet, x, boxes, owner, 24)
        sure = scores > self.thresholds[1]
        boxes, scores, owner = move(boxes, offsets)[sure], scores[sure], owner[sure]
        keep = suppress_each(boxes, scores, owner, self.nms[2])
        return square(boxes[keep]), owner[keep]

    def finish(self, x, boxes, owner):
        """O-Net on the candidates; returns boxes (n, 4), scores (n,), landmarks (n, 5, 2) and their pictures (n,)."""
        offsets, scores, landmarks = self.judge(self.onet, x, boxes, owner, 48)
        size = boxes[:, 2:] - boxes[:, :2] + 1
        landmarks = landmarks.reshape(-1, 2, 5).transpose(0, 2, 1) * size[:, None] + boxes[:, None, :2] - 1
        sure = scores > self.thresholds[2]
        boxes, scores, landmarks, owner = move(boxes, offsets)[sure], scores[sure], landmarks[sure], owner[sure]
        keep = suppress_each(boxes, scores, owner, self.nms[3], of_smaller=True)
        return boxes[keep], scores[keep], landmarks[keep], owner[keep]

    def judge(self, net, x, boxes, owner, size):
        """Run a network on candidates cut from the pictures x (N, 3, H, W), in chunks; returns its outputs."""
        chunks = np.array_split(np.arange(len(boxes)), 1 + len(boxes) * size**2 // 300_000)
        outputs = [net(cut(x, boxes[rows], owner[rows], size)) for rows in chunks]
        return [torch.cat(parts).cpu().numpy() for parts in zip(*outputs, strict=True)]


# Crops


def pick(boxes, shape, which):
    """Index of the face to use, or None: "centre", nearest the middle of a picture of that shape, or "largest"."""
    if len(boxes) == 0:
        return None
    if which == "centre":
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2 - np.array([shape[1], shape[0]]) / 2
        return int(np.argmin((middle**2).sum(1)))
    return int(np.argmax((boxes[:, 2:] - boxes[:, :2]).prod(1)))


def square_around(box, margin):
    """Left, top and side, whole pixels, of the square of margin x the longer side of a box around its centre."""
    x1, y1, x2, y2 = (float(value) for value in box)
    side = max(1, round(margin * max(x2 - x1, y2 - y1)))
    return round((x1 + x2 - side) / 2), round((y1 + y2 - side) / 2), side


def crop(image, box, size, margin=1.2):
    """Cut the square of margin x the longer side of a box (x1 y1 x2 y2) around its centre; (size, size, 3) uint8.

    What lies outside the picture repeats its edge. Shrunk by averaging areas, enlarged by bicubic interpolation.
    """
    left, top, side = square_around(box, margin)
    rows = np.arange(top, top + side).clip(0, image.shape[0] - 1)
    columns = np.arange(left, left + side).clip(0, image.shape[1] - 1)
    way = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    return cv2.resize(image[rows[:, None], columns], (size, size), interpolation=way)


def square_matrix(box, shape):
    """The (2, 3) matrix from pixels of a picture to those of the crop() of that shape, as align() returns its own."""
    left, top, side = square_around(box, 1.2)
    scale = shape[0] / side
    return np.array([[scale, 0, (0.5 - left) * scale - 0.5], [0, scale, (0.5 - top) * scale - 0.5]])


def align(image, landmarks):
    """Bring a face into CelebA's aligned geometry: the similarity transform that takes its landmarks nearest TEMPLATE.

    landmarks: (5, 2) in pixels of the image. Returns the (218, 178, 3) uint8 picture, edges repeated, and the (2, 3)
    matrix from pixels of the image to pixels of the picture. InputError: landmarks that all coincide.
    """
    # Points as complex numbers: target = turn * source + shift, least squares.
    source = np.asarray(landmarks, np.float64) @ [1, 1j]
    target = TEMPLATE.astype(np.float64) @ [1, 1j]
    centred = source - source.mean()
    spread = (np.abs(centred) ** 2).sum()
    if spread < 1e-6:
        raise InputError("the five landmarks coincide: no face to align")
    turn = (centred.conj() * (target - target.mean())).sum() / spread
    shift = target.mean() - turn * source.mean()
    matrix = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
    return warp(image, matrix, (178, 218)), matrix


def warp(image, matrix, size):
    """Move a picture by a (2, 3) similarity matrix into one of size (width, height), edges repeated, without aliasing.

    cv2.warpAffine takes one sample per pixel, so what gets smaller is shrunk first by averaging, to the final scale.
    """
    scale = math.hypot(matrix[0, 0], matrix[1, 0])
    if scale < 1:
        small = max(1, math.ceil(image.shape[1] * scale)), max(1, math.ceil(image.shape[0] * scale))
        zoom = np.array([image.shape[1] / small[0], image.shape[0] / small[1]])
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        matrix = np.column_stack([matrix[:, :2] * zoom, matrix[:, :2] @ ((zoom - 1) / 2) + matrix[:, 2]])
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def rescale(matrix, box, size):
    """The (2, 3) matrix to pixels of a picture, made one to those of a box of it, x y width height, at a size.

    size: (height, width) of what the box became.
    """
    zoom = np.array([size[1] / box[2], size[0] / box[3]])
    matrix = matrix * zoom[:, None]
    matrix[:, 2] += (0.5 - np.array(box[:2])) * zoom - 0.5
    return matrix


# Back into the photo


class Place(NamedTuple):
    """Where a face was: in which file, what that is called, in which of its frames, and where in there."""

    file: Path
    name: str
    frame: int
    matrix: np.ndarray  # (2, 3), from pixels of the photo to those of the face that was cut out


def ramp(x):
    """From 0 to 1 as x goes from 0 to 1, with a smooth beginning and end."""
    return ((1 - np.cos(np.pi * np.clip(x, 0, 1))) / 2).astype(np.float32)


def soft_box(size, share=0.2):
    """(height, width) weights of a changed face: 1 inside, falling smoothly to 0 over that share of each side."""
    return np.outer(*(ramp(np.minimum(np.arange(n), np.arange(n)[::-1]) / (n * share)) for n in size))


def soft_oval(size, width=0.78, height=0.96):
    """(height, width) weights of the face in a crop(): 1 in an oval, falling smoothly to 0 at its rim."""
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in size)
    return ramp((1 - np.hypot(x / width, y[:, None] / height)) / 0.3)


def match_colours(face, like, weight):
    """A face (h, w, 3), each colour brought to the mean and spread that it has in `like`, as the weight (h, w) counts.

    Returns float32; the spread changes by a factor of 2 at most.
    """
    pair, weight = np.float32([face, like]), (weight / weight.sum())[..., None]
    means = (weight * pair).sum((1, 2))
    spread, wide = np.sqrt((weight * (pair - means[:, None, None]) ** 2).sum((1, 2)))
    return np.float32((face - means[0]) * (wide / spread.clip(1e-3)).clip(0.5, 2) + means[1])


def paste(photo, face, matrix, before=None, weight=None):
    """Put a changed face (h, w, 3) back where it was cut out; returns a new (H, W, 3) uint8 picture.

    matrix: from pixels of the photo to those of the face. before: the face as it was; then what has changed is added,
    and the photo keeps the detail that the small picture did not have; without it the face replaces what is there.
    weight: (h, w), how much of it is taken, from 0 to 1 (more counts as 1, once it is enlarged); by default it fades
    out towards the sides, without a seam.
    """
    height, width = face.shape[:2]
    inverse, result = cv2.invertAffineTransform(matrix), photo.copy()
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]]) @ inverse.T
    left, top = np.clip(np.floor(corners.min(0)) - 1, 0, photo.shape[1::-1]).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(0)) + 2, 0, photo.shape[1::-1]).astype(int)
    if left >= right or top >= bottom:
        return result
    inverse[:, 2] -= left, top  # to the part of the photo that the face lies in
    size, part = (int(right - left), int(bottom - top)), result[top:bottom, left:right]
    weight = soft_box((height, width)) if weight is None else weight.astype(np.float32)
    weight = cv2.warpAffine(weight, inverse, size, flags=cv2.INTER_LINEAR).clip(0, 1)[..., None]
    face = np.ascontiguousarray(face, np.float32)
    change = warp(face, inverse, size) - part if before is None else warp(face - np.float32(before), inverse, size)
    if (part == part[..., :1]).all():  # what is grey stays grey
        change = change.mean(2, keepdims=True)
    part[:] = (part + weight * change).round().clip(0, 255)
    return result


def kind_of(file):
    """The suffix that what becomes of a photo, GIF or video has by default."""
    suffix = Path(file).suffix.lower()
    return ".mp4" if suffix in VIDEO_TYPES else ".gif" if suffix == ".gif" else ".png"


def rewrite(file, path, work, side_by_side=False):
    """Write a photo, GIF or video anew, frame by frame.

    work: (number of the frame from 0 on, picture) -> the changed picture, or None where it stays. side_by_side: both
    beside each other. Returns how many frames there are, how many were changed, and what of the file could not be kept;
    where none was changed nothing is written. InputError: see numbered_frames and Writer.
    """
    with Writer(path, like=file) as writer:
        count = changed = 0
        for _, photo in numbered_frames(file):
            made = work(count, photo)
            count, changed = count + 1, changed + (made is not None)
            made = photo if made is None else made
            writer.add(np.concatenate([photo, made], 1) if side_by_side else made)
        if changed:
            writer.keep()
    return count, changed, writer.lost


def put_back(folder, places, variants, before=None, weight=None):
    """Write photos, GIFs and videos, whole, with changed faces in them, and say so.

    places: Place of each face, or None for one that was in no photo; variants: name, with {} for that of the photo ->
    the faces (N, h, w, 3) uint8. before, weight: see paste(); before has the shape of the faces. Returns the files.
    """
    files, written = {}, []
    for row, place in enumerate(places):
        if place is not None:
            files.setdefault((place.file, place.name), {}).setdefault(place.frame, []).append(row)
    for ((file, _), rows), stem in zip(files.items(), name_outputs([name for _, name in files]), strict=True):
        told, made = {}, []
        for name, faces in variants.items():

            def work(number, photo, rows=rows, faces=faces):
                for row in rows.get(number, ()):
                    old = None if before is None else before[row]
                    photo = paste(photo, faces[row], places[row].matrix, old, weight)
                return photo if number in rows else None

            path = Path(folder, name.replace("{}", stem) + kind_of(file))
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                count, changed, lost = rewrite(file, path, work)
            except InputError as error:
                told[f"{path} is left out: {error}"] = None
                continue
            made.append(path)
            told |= {f"a face in {changed} of {count} frames": None} if count > 1 else {}
            told |= {f"not kept of {file}: {'; '.join(lost)}": None} if lost else {}
        names = f"{made[0]}" + (f" and {len(made) - 1} more" if made[1:] else "") if made else str(file)
        print("; ".join([names, *told]))
        written += made
    return written


if __name__ == "__main__":
    from common.crop import main

    main()
