"""common/synthetic.py: drawn faces whose annotations are true, through the functions and through the command line."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from common.celeba import ATTRIBUTES, CelebA
from common.mtcnn import MTCNN, pick
from common.photos import InputError
from common.synthetic import FILES, HAIR, MEANING, draw, parameters, visible, write

COUNT, IDENTITIES = 120, 15


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small drawn data set."""
    out_dir = tmp_path_factory.mktemp("drawn") / "faces"
    assert write(out_dir, COUNT, seed=5, identities=IDENTITIES) == COUNT
    return out_dir


def run(*arguments):
    """The command line; returns the finished process."""
    command = [sys.executable, str(ROOT / "common" / "synthetic.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd="/")


def contents(folder):
    """Relative name -> bytes of every file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def plain(seed=0, **changes):
    """Parameters of an undisguised frontal face, changed as asked."""
    p = parameters(seed)
    p.update(yaw=0, pitch=0, roll=0, lighting=0, brightness=1, length="short", strands="smooth", Male=1)
    p.update({name: 0 for name in MEANING if name in p and name != "Male"}, Young=1)
    return {**p, **changes}


def difference(p, q, box):
    """Mean absolute difference of two drawings inside box (x0, y0, x1, y1) and outside it."""
    apart = np.abs(draw(p)[0].astype(int) - draw(q)[0]).mean(axis=2)
    x0, y0, x1, y1 = box
    inside = np.zeros(apart.shape, bool)
    inside[y0:y1, x0:x1] = True
    return apart[inside].mean(), apart[~inside].mean()


def test_the_same_seed_gives_the_same_bytes_with_worker_processes(folder, tmp_path):
    done = run(
        "--out_dir", tmp_path / "again", "--count", COUNT, "--seed", 5, "--identities", IDENTITIES, "--workers", 2
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "again") in done.stdout and str(COUNT) in done.stdout and done.stdout.count("\n") == 1
    assert contents(tmp_path / "again") == contents(folder)


def test_another_seed_gives_other_faces():
    assert np.abs(draw(1)[0].astype(int) - draw(2)[0]).mean() > 10
    assert (draw(1)[0] == draw(1)[0]).all()


def test_the_folder_reads_as_celeba(folder):
    dataset = CelebA(folder)
    assert len(dataset.files) == COUNT and dataset.aligned and not dataset.problems
    assert dataset.attributes.shape == (COUNT, 40) and dataset.landmarks.shape == (COUNT, 5, 2)
    assert cv2.imread(str(folder / "img_align_celeba" / "000001.jpg")).shape == (218, 178, 3)
    people, counts = np.unique(dataset.identity, return_counts=True)
    assert len(people) == IDENTITIES and counts.min() == counts.max() == COUNT // IDENTITIES
    for person in people:  # nobody is on two sides of the partition
        assert len(set(dataset.partition[dataset.identity == person])) == 1
    assert set(dataset.partition) == {0, 1, 2} and (dataset.partition == 0).mean() > 0.6
    poses = [line.split("\t") for line in (folder / "poses.tsv").read_text().splitlines()]
    assert poses[0] == ["file", "yaw", "pitch", "roll", "lighting", "scale"] and len(poses) == COUNT + 1
    assert all(-30 <= float(pose[1]) <= 30 for pose in poses[1:])


def test_every_column_has_a_meaning_and_varies():
    assert list(MEANING) == list(ATTRIBUTES)
    share = np.mean([list(visible(parameters(0, k // 4, k % 4)).values()) for k in range(2400)], axis=0)
    assert ((share > 0.02) & (share < 0.66)).all(), dict(zip(MEANING, share, strict=True))
    rare = {name for name, value in zip(MEANING, share, strict=True) if value < 0.08}
    assert rare <= {"Bald", "Blurry", "Pale_Skin", "5_o_Clock_Shadow", "Double_Chin", "Receding_Hairline"}


def test_attributes_exclude_one_another_where_they_must():
    for k in range(1500):
        p = parameters(11, k)
        a = visible(p)
        colours = sum(a[name] for name in HAIR if name in a)
        assert colours <= 1 and a["Straight_Hair"] + a["Wavy_Hair"] <= 1
        beard = a["5_o_Clock_Shadow"] or a["Goatee"] or a["Mustache"] or a["Sideburns"]
        assert a["No_Beard"] == (not beard) and not (beard and not a["Male"])
        if a["Bald"]:
            assert not (colours or a["Bangs"] or a["Wavy_Hair"] or a["Straight_Hair"] or a["Wearing_Hat"])
        if a["Wearing_Hat"]:
            assert not (a["Bangs"] or a["Receding_Hairline"])
        assert a["Wearing_Lipstick"] or not a["Heavy_Makeup"]
        assert not (a["Attractive"] and a["Bald"])
    assert visible(plain(Male=0, Goatee=1))["No_Beard"] == 1


@pytest.mark.parametrize("name", [name for name in HAIR])
def test_hair_has_its_colour(name):
    image, attributes, _ = draw(plain(hair=name))
    found = image[42:52, 80:98].reshape(-1, 3).mean(axis=0)  # the crown of the head
    nearest = min(HAIR, key=lambda other: np.abs(found - HAIR[other]).sum())
    assert nearest == name and [attributes[other] for other in HAIR if other in MEANING] == [
        int(other == name) for other in HAIR if other in MEANING
    ]


@pytest.mark.parametrize(
    "name,change,box,least",
    [
        ("Eyeglasses", {"Eyeglasses": 1}, (40, 90, 138, 132), 5),
        ("Wearing_Hat", {"Wearing_Hat": 1}, (0, 0, 178, 100), 8),
        ("Bangs", {"Bangs": 1}, (40, 50, 138, 112), 5),
        ("Bald", {"Bald": 1}, (30, 20, 148, 120), 8),
        ("Goatee", {"Goatee": 1}, (60, 145, 118, 200), 6),
        ("Mustache", {"Mustache": 1}, (55, 132, 123, 165), 3),
        ("Smiling", {"Smiling": 1}, (40, 110, 138, 205), 4),
        ("Mouth_Slightly_Open", {"Mouth_Slightly_Open": 1}, (55, 135, 123, 185), 3),
        ("Narrow_Eyes", {"Narrow_Eyes": 1}, (45, 95, 133, 125), 3),
        ("Rosy_Cheeks", {"Rosy_Cheeks": 1}, (40, 115, 138, 155), 2),
        ("Wearing_Lipstick", {"Wearing_Lipstick": 1}, (60, 140, 118, 165), 0.8),
    ],
)
def test_an_attribute_changes_its_part_of_the_picture_and_its_column(name, change, box, least):
    before, after = plain(seed=3), plain(seed=3, **change)
    inside, outside = difference(before, after, box)
    assert inside > least and outside < 0.4 * inside, (inside, outside)
    a, b = visible(before), visible(after)
    assert (a[name], b[name]) == (0, 1)


def test_glasses_have_a_frame_around_the_eyes():
    with_glasses, _, landmarks = draw(plain(seed=3, Eyeglasses=1))
    without = draw(plain(seed=3))[0]
    x, y = landmarks[:2].mean(axis=0)
    bridge = slice(int(y) - 6, int(y) + 4), slice(int(x) - 3, int(x) + 4)
    assert with_glasses[bridge].min() < 120 and with_glasses[bridge].min() < without[bridge].min() - 40


def test_the_smile_moves_the_corners_of_the_mouth_and_nothing_moves_the_eyes():
    sad, glad = draw(plain(seed=4))[2], draw(plain(seed=4, Smiling=1))[2]
    assert (sad[3:, 1] - glad[3:, 1] > 2).all() and glad[4, 0] - glad[3, 0] > sad[4, 0] - sad[3, 0] + 6
    assert np.abs(sad[:2] - glad[:2]).max() < 3


def test_turning_the_head_moves_the_nose_to_that_side():
    left, right = (draw(plain(yaw=yaw))[2] for yaw in (-25, 25))
    offset = [marks[2, 0] - marks[:2, 0].mean() for marks in (left, right)]
    assert offset[0] < -4 and offset[1] > 4


def test_mtcnn_finds_the_faces_where_they_are():
    drawn = [draw(parameters(21, k)) for k in range(200)]
    boxes, _, landmarks = MTCNN().detect([image for image, _, _ in drawn])
    errors = [
        np.hypot(*(marks[pick(box, image.shape, "centre")] - truth).T).mean()
        for box, marks, (image, _, truth) in zip(boxes, landmarks, drawn, strict=True)
        if len(box)
    ]
    assert len(errors) >= 0.95 * len(drawn) and np.mean(errors) < 3, (len(errors), np.mean(errors))


def test_one_person_stays_the_same(folder):
    first, second = parameters(9, 4, 0), parameters(9, 4, 1)
    for key in ("Male", "shape", "skin", "eyes", "hair", "strands", "length", "Bald", "Big_Nose"):
        assert first[key] == second[key]
    assert first["yaw"] != second["yaw"] and first["details"] != second["details"]
    attributes, identity = CelebA(folder).attributes, CelebA(folder).identity
    male = attributes[:, ATTRIBUTES.index("Male")]
    assert all(len(set(male[identity == person])) == 1 for person in set(identity)) and len(set(male)) == 2


def test_a_second_run_reuses_and_an_interrupted_one_is_completed(folder, tmp_path):
    out_dir = tmp_path / "faces"
    assert write(out_dir, 12, seed=1) == 12
    whole = contents(out_dir)
    assert write(out_dir, 12, seed=1) == 0
    (out_dir / "list_attr_celeba.txt").unlink()  # what a killed run leaves: some pictures, no attributes
    (out_dir / "img_align_celeba" / "000003.jpg").write_bytes(b"half")
    assert write(out_dir, 12, seed=1) == 12
    assert contents(out_dir) == whole
    (out_dir / "img_align_celeba" / "000007.jpg").unlink()
    assert write(out_dir, 12, seed=1) == 12 and contents(out_dir) == whole


def test_annotations_come_last(tmp_path, monkeypatch):
    import common.synthetic as synthetic

    monkeypatch.setattr(synthetic, "draw_file", lambda job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "faces", 12)
    assert not any((tmp_path / "faces" / name).exists() for name in FILES)
    assert json.loads((tmp_path / "faces" / "synthetic.json").read_text())["count"] == 12


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    done = run("--out_dir", tmp_path, "--count", 12)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert str(tmp_path) in done.stderr and contents(tmp_path) == {"note.txt": b"mine"}


def test_another_drawn_set_is_not_overwritten(folder):
    before = contents(folder)
    with pytest.raises(InputError, match="seed 5"):
        write(folder, COUNT, seed=6, identities=IDENTITIES)
    assert contents(folder) == before


@pytest.mark.parametrize(
    "numbers", [{"count": 0}, {"count": 5, "identities": 6}, {"identities": 0}, {"seed": -1}, {"workers": -1}]
)
def test_numbers_that_make_no_sense_are_refused(tmp_path, numbers):
    with pytest.raises(InputError, match="expected"):
        write(tmp_path / "faces", **numbers)
    assert not (tmp_path / "faces").exists()
