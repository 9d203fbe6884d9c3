"""common/mtcnn.py and common/crop.py: the detector, the crops, and the folder command."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import joblib
import numpy as np
import pytest
import torch
from calls import mistake
from conftest import ROOT
from pictures import flat, is_red, sketch, write_video
from PIL import Image

from common import mtcnn
from common.crop import main, replace_file
from common.mtcnn import MTCNN, TEMPLATE, align, crop, paste, pick
from common.photos import InputError, read_image
from common.synthetic import draw


@pytest.fixture(scope="module")
def detector():
    torch.set_num_threads(1)
    return MTCNN()


# The networks


def numpy_net(x, arrays, plan):
    """A network computed from the package's arrays by definition: x (H, W, 3), plan of "conv", ("pool", k), "dense"."""
    arrays = iter(arrays)
    for step in plan:
        if step == "dense" and x.ndim == 3:
            x = x.transpose(1, 0, 2).ravel()
        if step == "conv":
            w, b, slope = next(arrays), next(arrays), next(arrays)
            windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[:2], (0, 1))  # (h, w, in, kh, kw)
            x = np.einsum("hwikl,klio->hwo", windows, w) + b
            x = np.where(x > 0, x, slope * x)
        elif step == "dense":
            w, b, slope = next(arrays), next(arrays), next(arrays)
            x = x @ w + b
            x = np.where(x > 0, x, slope * x)
        else:
            k = step[1]
            size = [-(-(length - k) // 2) + 1 for length in x.shape[:2]]
            x = np.array(
                [[x[2 * i : 2 * i + k, 2 * j : 2 * j + k].max((0, 1)) for j in range(size[1])] for i in range(size[0])]
            )
    heads = [x @ w.reshape(w.shape[-2:]) + b for w, b in zip(arrays, arrays, strict=True)]
    face = np.exp(heads[-1])
    return heads[0], face[..., 1] / face.sum(-1), *heads[1:-1]


@pytest.mark.parametrize(
    "net, name, shape, plan",
    [
        (mtcnn.PNet, "pnet", (23, 30), ["conv", ("pool", 2), "conv", "conv"]),
        (mtcnn.RNet, "rnet", (24, 24), ["conv", ("pool", 3), "conv", ("pool", 3), "conv", "dense"]),
        (
            mtcnn.ONet,
            "onet",
            (48, 48),
            ["conv", ("pool", 3), "conv", ("pool", 3), "conv", ("pool", 2), "conv", "dense"],
        ),
    ],
)
def test_networks_by_definition(net, name, shape, plan):
    place = next(Path(path, "mtcnn/assets/weights") for path in sys.path if Path(path, "mtcnn/assets/weights").is_dir())
    x = np.random.default_rng(0).uniform(-1, 1, (*shape, 3)).astype(np.float32)
    expected = numpy_net(x.astype(np.float64), joblib.load(place / f"{name}.lz4"), plan)
    made = mtcnn.load_weights(net(), name)(torch.from_numpy(x).permute(2, 0, 1)[None])
    assert len(made) == len(expected)
    for ours, theirs in zip(made, expected, strict=True):
        ours = ours[0].movedim(0, -1) if ours.ndim == 4 else ours[0]
        assert np.allclose(ours.numpy(), theirs, atol=1e-4)


def test_shrink_averages_areas():
    x, made = torch.randn(10, 2, 7, 3), torch.zeros(2, 8, 6, 3)  # (H, N, W, 3), and a place in a canvas
    mtcnn.shrink(x, made[:, 2:7, 1:4])
    # 7 columns onto 3: each takes two whole ones and a third of another
    thirds = x.permute(1, 3, 0, 2).repeat_interleave(3, 3).unflatten(3, (3, 7)).mean(4)
    assert torch.allclose(made[:, 2:7, 1:4].permute(0, 3, 1, 2), thirds.unflatten(2, (5, 2)).mean(3), atol=1e-6)
    made[:, 2:7, 1:4] = 0
    assert not made.any()


@pytest.mark.parametrize("height, width", [(218, 178), (61, 97), (90, 31), (20, 20), (19, 40)])
def test_one_canvas_is_every_picture_by_itself(detector, height, width):
    scales, places, shape, which = mtcnn.lay_out(height, width, 0.6, 0.709)
    assert len(scales) == len(places) == sum(min(height, width) * 0.6 * 0.709**k >= 12 for k in range(20))
    taken, canvas = np.zeros(shape, int), torch.randn(2, 3, *shape)
    for top, left, *size in places:
        taken[top : top + size[0], left : left + size[1]] += 1
    assert taken.max(initial=1) == 1
    for band in (10**6, 1):  # whole, and in as small parts as there are
        detector.band = band
        made = detector.slide(canvas.contiguous(memory_format=torch.channels_last), places) if places else None
        for index, (top, left, *size) in enumerate(places):
            alone = detector.pnet(canvas[:, :, top : top + size[0], left : left + size[1]])
            rows, columns = (slice(x // 2, x // 2 + n) for x, n in zip((top, left), alone[1].shape[1:], strict=True))
            assert all(torch.allclose(a[..., rows, columns], b, atol=1e-5) for a, b in zip(made, alone, strict=True))
            assert (which[rows, columns] == index).all() and (which == index).sum() == alone[1][0].numel()
    del detector.band


def test_boxes():
    moved = mtcnn.move(np.array([[10.0, 20, 29, 59]]), np.array([[0.1, -0.1, 0.5, 0.25]]))
    assert np.allclose(moved, [[12, 16, 39, 69]])  # 20 wide and 40 high, both ends in
    assert np.allclose(mtcnn.square(np.array([[0.0, 0, 10, 20], [5, 5, 9, 7]])), [[-5, 0, 15, 20], [5, 4, 9, 8]])


def test_suppression():
    boxes = np.array([[0.0, 0, 10, 10], [0, 3, 10, 13], [0, 6, 10, 16], [50, 50, 60, 60], [2, 2, 6, 6]])
    scores = np.array([0.9, 0.8, 0.7, 0.95, 0.6])
    # 1 overlaps 0 by 7 / 13, 2 overlaps 1 by as much but 0 by 4 / 16; 4 lies within 0 and has a sixth of it
    assert mtcnn.suppress(boxes, scores, 0.5).tolist() == [3, 0, 4]
    assert mtcnn.suppress(boxes, scores, 0.6).tolist() == [3, 0, 1, 2, 4]
    assert mtcnn.suppress(boxes, scores, 0.72, of_smaller=True).tolist() == [3, 0, 1, 2]
    owner = np.array([0, 1, 0, 1, 1])
    assert mtcnn.suppress_each(boxes, scores, owner, 0.5).tolist() == [0, 2, 3, 1, 4]
    rng = np.random.default_rng(0)  # more than one part of the matrix
    corner = rng.uniform(0, 100, (700, 2))
    boxes = np.hstack([corner, corner + 30])
    scores = rng.permutation(700).astype(float)
    shared = np.clip(30 - abs(corner[:, None] - corner), 0, None).prod(2)
    worse = (shared / (1800 - shared) > 0.5) & (scores[:, None] < scores)
    kept = np.flatnonzero(~worse.any(1))
    assert sorted(mtcnn.suppress(boxes, scores, 0.5)) == kept.tolist()


# Detection


def test_golden_face(detector):
    """The numbers are those of the mtcnn package with TensorFlow on the same picture."""
    boxes, scores, landmarks = detector.detect([sketch()])
    assert boxes[0].shape == (1, 4) and scores[0].shape == (1,) and landmarks[0].shape == (1, 5, 2)
    assert all(array[0].dtype == np.float32 for array in (boxes, scores, landmarks))
    assert np.allclose(boxes[0][0], [70.665, 62.008, 214.217, 263.666], atol=0.05)
    assert scores[0][0] == pytest.approx(0.949, abs=2e-3)
    expected = [[107.947, 142.584], [170.741, 142.011], [141.33, 188.247], [115.589, 219.947], [166.523, 218.841]]
    assert np.allclose(landmarks[0][0], expected, atol=0.05)


def test_finds_drawn_faces(detector):
    drawn = [draw(seed) for seed in range(20)]
    found = detector.detect([image for image, _, _ in drawn])[2]
    errors = [
        np.linalg.norm(landmarks[0] - true, axis=1).mean()
        for landmarks, (_, _, true) in zip(found, drawn, strict=True)
        if len(landmarks)
    ]
    assert len(errors) >= 18 and np.mean(errors) < 4


def test_batched_equals_single(detector):
    face = sketch()
    noise = np.random.default_rng(0).integers(0, 256, (218, 178, 3), np.uint8)
    images = [
        draw(1)[0],
        noise,
        face,
        flat(218, 178),
        draw(2)[0],
        np.hstack([face, face]),
        flat(5, 300),
        flat(40, 40),
        cv2.resize(face, (1400, 1600)),
        draw(3)[0],
        flat(1, 1),
    ]
    together, again = detector.detect(images), detector.detect(images[::-1])
    counts = [len(boxes) for boxes in together[0]]
    assert counts[2] == counts[8] == 1 and counts[5] == 2 and not any(counts[index] for index in (3, 6, 7, 10))
    for index, image in enumerate(images):
        for part, single in enumerate(detector.detect([image])):
            assert np.allclose(single[0], together[part][index], atol=0.02)
            assert np.allclose(single[0], again[part][-1 - index], atol=0.02)
    assert together[0][3].shape == (0, 4) and together[1][3].shape == (0,) and together[2][3].shape == (0, 5, 2)
    assert detector.detect([]) == ([], [], [])
    assert all((np.diff(scores) <= 0).all() for scores in together[1])


def test_large_and_small_pictures(detector):
    face = sketch()
    landmarks = detector.detect([face])[2][0][0]
    large = cv2.resize(face, (280 * 12, 320 * 12), interpolation=cv2.INTER_CUBIC)  # above max_side
    found = detector.detect([large])[2][0]
    assert len(found) == 1 and np.linalg.norm(found[0] / 12 - landmarks, axis=1).mean() < 3
    small = cv2.resize(face, (40, 46), interpolation=cv2.INTER_AREA)
    assert len(detector.detect([small])[0][0]) == 1
    assert len(MTCNN(min_face=160).detect([cv2.resize(face, (140, 160))])[0][0]) == 0


def test_leaves_the_random_state_alone():
    """So that a run that packs its records first is the same training as one that finds them there."""
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    MTCNN().detect([sketch()])
    assert torch.equal(torch.rand(4), wanted)


def test_light_and_without_tensorflow():
    code = (
        "import sys; import common.mtcnn as m; m.MTCNN().detect([]); "
        "assert not any(name.split('.')[0] in ('tensorflow', 'keras', 'mtcnn') for name in sys.modules); "
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )  # the peak, in kB
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) < 1_300_000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_equals_cpu(detector):
    images = [draw(seed)[0] for seed in range(8)] + [sketch(), flat(100, 90)]
    for ours, theirs in zip(detector.detect(images), MTCNN("cuda").detect(images), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.shape == other.shape and np.allclose(one, other, atol=0.5)


# Crops


def test_pick():
    boxes = np.float32([[0, 0, 40, 40], [45, 45, 60, 60]])
    assert pick(boxes, (100, 100, 3), "centre") == 1 and pick(boxes, (100, 100, 3), "largest") == 0
    assert pick(boxes[:0], (100, 100, 3), "centre") is None


def test_crop_repeats_the_edges():
    image = np.arange(60 * 50, dtype=np.uint8).reshape(60, 50, 1).repeat(3, 2)
    made = crop(image, (-10, 20, 10, 30), 24)  # 1.2 * 20 around (0, 25): columns -12 to 11
    assert made.shape == (24, 24, 3) and (made[:, 12:] == image[13:37, :12]).all()
    assert (made[:, :12] == image[13:37, :1]).all()
    checks = np.indices((80, 80)).sum(0)[..., None].repeat(3, 2) % 2 * 255
    assert abs(crop(checks.astype(np.uint8), (0, 0, 80, 80), 20, 1).astype(int) - 127).max() <= 1  # no aliasing
    assert crop(image, (10, 10, 11, 11), 64).shape == (64, 64, 3)


def test_align_and_paste():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]
    turn = 2.6 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    for scale, size in ((1, 1200), (0.15, 200)):
        photo = np.full((size, size, 3), 128, np.uint8)
        landmarks = TEMPLATE @ (turn * scale).T + np.array([520, 150]) * scale
        for (x, y), colour in zip(landmarks, colours, strict=True):
            photo = cv2.circle(photo, (round(x), round(y)), round(16 * scale), colour, -1)
        made, matrix = align(photo, landmarks)
        assert made.shape == (218, 178, 3) and made.dtype == np.uint8 and matrix.shape == (2, 3)
        assert np.allclose(landmarks @ matrix[:, :2].T + matrix[:, 2], TEMPLATE, atol=1e-3)
        there = np.array([made[round(y), round(x)] for x, y in TEMPLATE.astype(float)], int)
        assert abs(there - colours).max() < 70
        assert abs(paste(photo, made, matrix).astype(int) - photo).mean() < 3
        changed = paste(photo, flat(218, 178), matrix)
        x, y = landmarks[2].round().astype(int)
        assert is_red(changed[y, x]) and (changed[0, -1] == photo[0, -1]).all()
    with pytest.raises(InputError):
        align(photo, np.zeros((5, 2)))
    grey = np.random.default_rng(0).integers(0, 256, (60, 50, 1), np.uint8).repeat(3, 2)
    made = paste(grey, flat(218, 178), np.eye(2, 3) * 3)
    assert (made == made[..., :1]).all() and (made != grey).any(), "a grey photo stays grey"


def test_only_what_has_changed_is_added():
    """At any size and turn: in full in the middle, nothing beyond the face's box, no step anywhere, the detail kept."""
    photo = np.random.default_rng(0).integers(60, 160, (900, 1200, 3), np.uint8)
    turn = 0.12 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])  # 64 pixels for 530 of the photo
    matrix = np.column_stack([turn, [32, 32] - turn @ [700, 400]])
    before = np.random.default_rng(1).integers(0, 200, (64, 64, 3), np.uint8)
    change = paste(photo, before + np.uint8([40, 0, 20]), matrix, before).astype(int) - photo
    assert (change[400, 700] == [40, 0, 20]).all() and not change[..., 1].any()
    y, x = np.indices(photo.shape[:2])
    there = np.stack([x, y], 2) @ turn.T + matrix[:, 2]
    assert not change[((there < -1) | (there > 64)).any(2)].any() and change[abs(there - 31.5).max(2) < 15].min() == 0
    assert (change[abs(there - 31.5).max(2) < 18][:, 0] == 40).all()
    assert abs(np.diff(change[..., 0], axis=0)).max() <= 2 and abs(np.diff(change[..., 0], axis=1)).max() <= 2
    assert np.array_equal(paste(photo, before, matrix, before), photo)
    assert np.array_equal(paste(photo, before, matrix, weight=np.zeros((64, 64))), photo)
    far = np.column_stack([turn, [-500, 0]])
    assert np.array_equal(paste(photo, before, far), photo), "a face that lies outside"


def test_colours_are_matched_where_the_weight_is():
    rng = np.random.default_rng(0)
    face, like, weight = rng.normal(100, 20, (40, 40, 3)), rng.normal([60, 90, 120], [15, 20, 80], (40, 40, 3)), None
    face[:, :10], weight = 255, np.zeros((40, 40))
    weight[5:35, 12:35] = 1
    made, inside = mtcnn.match_colours(face, like, weight), weight > 0
    assert np.allclose(made[inside].mean(0), like[inside].mean(0), atol=0.1)
    assert np.allclose(made[inside].std(0)[:2], like[inside].std(0)[:2], rtol=0.01)
    assert np.allclose(made[inside].std(0)[2], 2 * face[inside].std(0)[2], rtol=0.01), "not more than twice"


def test_a_face_keeps_its_place_through_boxes_and_sizes():
    """The matrix to a box of CelebA's geometry, at another size, shows in the photo what the crop shows."""
    photo = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (500, 460, 3), np.uint8), (0, 0), 9)
    aligned, matrix = align(photo, TEMPLATE * 1.7 + [60, 40])
    part = cv2.resize(aligned[20:198], (64, 64), interpolation=cv2.INTER_AREA)
    direct = mtcnn.warp(photo, mtcnn.rescale(matrix, (0, 20, 178, 178), (64, 64)), (64, 64))
    assert abs(direct.astype(int) - part).max() < 8


def test_square_matrix_is_that_of_crop():
    photo = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (300, 260, 3), np.uint8), (0, 0), 8)
    for box in ((60, 50, 200, 210), (-20, 100, 50, 180)):
        matrix = mtcnn.square_matrix(box, (96, 96, 3))
        warped = cv2.warpAffine(photo, matrix, (96, 96), borderMode=cv2.BORDER_REPLICATE)
        assert abs(warped.astype(int) - crop(photo, box, 96)).max() < 6


# The folder command


@pytest.fixture
def photos(tmp_path):
    """A folder of photos: a face, two faces, none, in a sub-folder, of the same name, a damaged file, a video."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    face = sketch()
    Image.fromarray(face).save(folder / "one.png")
    Image.fromarray(draw(5)[0]).save(folder / "one.jpg")
    Image.fromarray(np.hstack([face, cv2.resize(face, (140, 160))[np.arange(320) % 160]])).save(folder / "sub/two.png")
    Image.fromarray(flat(90, 80)).save(folder / "none.png")
    (folder / "bad.jpg").write_bytes(b"text")
    write_video(folder / "clip.mp4", [np.roll(face, shift, 1) for shift in (0, 8, 16)])
    return folder


def read_table(out_dir):
    _, columns, *lines = (out_dir / "faces.tsv").read_text().splitlines()
    return [dict(zip(columns.split("\t"), line.split("\t"), strict=True)) for line in lines]


def crop_folder(*flags):
    """The command in this process; returns its exit code."""
    try:
        main(list(map(str, flags)))
    except SystemExit as stop:
        return stop.code
    return 0


def crops(out_dir):
    """Times of the files in a folder by name, faces.tsv left out."""
    return {path.relative_to(out_dir).as_posix(): path.stat().st_mtime_ns for path in out_dir.rglob("*.*g")}


def test_folder(run, photos, tmp_path, capsys):
    out_dir = tmp_path / "out"
    before = {path: path.stat().st_mtime_ns for path in photos.rglob("*")}
    flags = ["--in_dir", photos, "--out_dir", out_dir, "--size", 64]
    done = run("common/mtcnn.py", *flags)
    assert done.returncode == 0, done.stderr
    made = crops(out_dir)
    assert set(made) == {"one.jpg", "one_2.jpg", "sub/two.jpg", "clip/000000.jpg", "clip/000001.jpg", "clip/000002.jpg"}
    assert "6 faces" in done.stdout and "2 pictures skipped" in done.stdout
    assert "2 more faces in 1 picture were left: --which all takes them" in done.stdout
    rows = {row["output"] or Path(row["source"]).name: row for row in read_table(out_dir)}
    assert rows["none.png"]["skipped"] == "no face found" and "not a picture" in rows["bad.jpg"]["skipped"]
    assert rows["clip/000002.jpg"]["frame"] == "2" and rows["one_2.jpg"]["source"].endswith("one.png")
    assert float(rows["one_2.jpg"]["left_eye_x"]) == pytest.approx(107.9, abs=0.2)
    assert all(read_image(out_dir / name).shape == (64, 64, 3) for name in made)
    assert {path: path.stat().st_mtime_ns for path in photos.rglob("*")} == before

    # Again: nothing is made twice. One crop gone, one photo changed to one without a face, one photo gone, half a last
    # line: only that is done.
    assert crop_folder(*flags) == 0 and crops(out_dir) == made
    (out_dir / "clip/000001.jpg").unlink()
    Image.fromarray(flat(70, 70)).save(photos / "one.png")
    (photos / "sub/two.png").unlink()
    with open(out_dir / "faces.tsv", "a") as file:
        file.write("half\tof")
    capsys.readouterr()
    assert crop_folder(*flags) == 0 and "4 faces" in capsys.readouterr().out
    now = crops(out_dir)
    assert set(now) == {"one.jpg", "clip/000000.jpg", "clip/000001.jpg", "clip/000002.jpg"}
    assert {name for name in now if now[name] != made[name]} == {"clip/000001.jpg"}

    # Other settings are refused, or begin anew where that is wished for.
    flags = ["--in_dir", photos, "--out_dir", out_dir, "--align", "--format", "png", "--every", 2]
    assert crop_folder(*flags) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and "--overwrite" in error[0] and crops(out_dir) == now
    assert crop_folder(*flags, "--overwrite") == 0
    assert set(crops(out_dir)) == {"one.png", "clip/000000.png", "clip/000002.png"}
    assert read_image(out_dir / "one.png").shape == (218, 178, 3)


def test_red_through_the_command(tmp_path, monkeypatch):
    """A red picture in which a face is said to be comes out red, from a picture and from a video."""
    face = [np.float32([[10, 10, 60, 60]])], [np.float32([1])], [TEMPLATE[None] / 3]
    monkeypatch.setattr(MTCNN, "detect", lambda self, images: tuple(part * len(images) for part in face))
    (tmp_path / "in").mkdir()
    Image.fromarray(flat(80, 96)).save(tmp_path / "in/a.jpg")
    write_video(tmp_path / "in/clip.mp4", [flat(80, 96)] * 2)
    for flags in ([], ["--format", "png", "--align"]):
        out_dir = tmp_path / f"out{len(flags)}"
        assert crop_folder("--in_dir", tmp_path / "in", "--out_dir", out_dir, *flags) == 0
        assert len(crops(out_dir)) == 3 and all(is_red(read_image(out_dir / name)) for name in crops(out_dir))


def test_all_faces_of_several_inputs(photos, tmp_path):
    out_dir = tmp_path / "out"
    inputs, flags = [photos / "sub", photos / "one.png", photos / "one.jpg"], ["--size", 32, "--margin", 1]
    inputs.append(photos / "one.png")  # twice is once
    assert crop_folder("--in_dir", *inputs, "--out_dir", out_dir, "--which", "all", *flags) == 0
    assert set(crops(out_dir)) >= {"two.jpg", "two_face2.jpg", "one.jpg", "one_2.jpg"}


def test_killed_in_the_middle(photos, tmp_path, capsys):
    """A stop at any time leaves no half picture, and the next run completes the work."""
    face, out_dir = draw(5)[0], tmp_path / "out"
    for number in range(70):  # more than a batch
        Image.fromarray(face).save(photos / f"more{number}.jpg")
    flags = ["--in_dir", photos, "--out_dir", out_dir]
    process = subprocess.Popen([sys.executable, ROOT / "common/mtcnn.py", *flags], stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.glob("out/*.jpg")):
        time.sleep(0.001)
    process.kill()
    process.wait()
    before = crops(out_dir)
    assert 0 < len(before) < 76 and all(read_image(out_dir / name).shape == (227, 227, 3) for name in before)
    assert crop_folder(*flags) == 0 and "76 faces" in capsys.readouterr().out
    assert len(crops(out_dir)) == 76 and len(read_table(out_dir)) == 78


def test_annotations_are_carried_over(faces, tmp_path):
    from common.celeba import CelebA

    out_dir = tmp_path / "out"
    assert crop_folder("--in_dir", faces, "--out_dir", out_dir, "--size", 48, "--format", "png") == 0
    before, after = CelebA(faces), CelebA(out_dir)
    rows = [before.files.index(name.replace(".png", ".jpg")) for name in after.files]
    assert len(rows) > 85 and not after.aligned
    assert (after.attributes == before.attributes[rows]).all() and (after.identity == before.identity[rows]).all()
    assert (after.partition == before.partition[rows]).all()


def test_long_and_odd_names_do_not_stop_a_folder(tmp_path, monkeypatch, capsys):
    """A name that leaves no room for .jpg is cut, one that cannot be written is named and skipped, the rest is done."""
    (tmp_path / "in").mkdir()
    face = Image.fromarray(draw(5)[0])
    long, odd, kanji = "x" * 249 + ".jpeg", os.fsdecode(b"caf\xe9.png"), "\u6f22" * 83 + ".png"
    for name in (long, odd, kanji, "y" * 252 + ".im"):
        face.save(tmp_path / "in" / name, "PNG")
    monkeypatch.setenv("HOME", str(tmp_path))
    inputs = ["--in_dir", tmp_path / "in", tmp_path / "in" / ("y" * 252 + ".im")]
    assert crop_folder(*inputs, "--out_dir=~/out", "--size", 32) == 0
    made = {path.name for path in (tmp_path / "out").iterdir()} - {"faces.tsv"}
    assert made == {f"{name}.jpg" for name in ("x" * 240, os.fsdecode(b"caf\xe9"), "\u6f22" * 80, "y" * 240)}
    assert "4 faces" in capsys.readouterr().out and os.fsencode(odd) in (tmp_path / "out/faces.tsv").read_bytes()

    def refuse(path, data, whole=replace_file):
        if path.suffix == ".jpg" and path.name[0] in bad:
            raise OSError(number, os.strerror(number))
        whole(path, data)

    monkeypatch.setattr("common.crop.replace_file", refuse)
    for number, bad, code in ((errno.ENAMETOOLONG, "x", 0), (errno.ENOSPC, "x", 2)):  # noqa: B007 (refuse reads it)
        assert crop_folder("--in_dir", tmp_path / "in", "--out_dir", tmp_path / f"out{number}") == code
    assert b"cannot be written under this name" in (tmp_path / f"out{errno.ENAMETOOLONG}/faces.tsv").read_bytes()


def test_annotations_of_names_with_blanks_and_in_no_encoding(tmp_path):
    from common.celeba import CelebA

    (tmp_path / "in").mkdir()
    names = ["my face.jpg", os.fsdecode(b"caf\xe9.jpg")]
    for name in names:
        Image.fromarray(draw(5)[0]).save(tmp_path / "in" / name)
    rows = ["image_id,identity", *(f"{name},{7 + i}" for i, name in enumerate(names))]
    (tmp_path / "in/identity_CelebA.csv").write_bytes("\n".join(rows).encode(errors="surrogateescape"))
    assert crop_folder("--in_dir", tmp_path / "in", "--out_dir", tmp_path / "out", "--size", 32) == 0
    after = CelebA(tmp_path / "out")
    assert sorted(zip(after.files, after.identity.tolist(), strict=True)) == [(names[1], 8), ("my_face.jpg", 7)]


def test_mistakes(photos, tmp_path, capfd):
    (tmp_path / "used").mkdir()
    (tmp_path / "used/mine.txt").write_text("x")
    (tmp_path / "bare").mkdir()
    out_dir = tmp_path / "out"
    red = photos / "none.png"
    for flags, words in (
        (["--in_dir", tmp_path / "nowhere", "--out_dir", out_dir], "nowhere"),
        (["--in_dir", tmp_path / "bare", "--out_dir", out_dir], "bare"),
        (["--in_dir", photos, "--out_dir", photos / "faces"], "--out_dir"),
        (["--in_dir", photos, "--out_dir", photos], "--out_dir"),
        (["--in_dir", photos, "--out_dir", tmp_path], "--out_dir"),
        (["--in_dir", photos, "--out_dir", tmp_path / "used"], "other things"),
        (["--in_dir", photos, "--out_dir", tmp_path / "used/mine.txt"], "other things"),
        (["--in_dir", red, photos / "bad.jpg", "--out_dir", out_dir], "no face"),
        (["--in_dir", photos, "--out_dir", out_dir, "--size", 0], "--size"),
        (["--in_dir", photos, "--out_dir", out_dir, "--every", 0], "--every"),
        (["--in_dir", photos, "--out_dir", out_dir, "--device", "cuda:99"], "--device"),
    ):
        assert crop_folder(*flags) == 2
        assert words in mistake(capfd)
    (photos / "bad.mp4").write_text("no video")
    assert crop_folder("--in_dir", red, photos / "bad.jpg", photos / "bad.mp4", "--out_dir", out_dir) == 2
    assert "no face" in mistake(capfd), "FFmpeg has nothing to say"
    assert not out_dir.exists() and not (photos / "faces").exists() and os.listdir(tmp_path / "used") == ["mine.txt"]
