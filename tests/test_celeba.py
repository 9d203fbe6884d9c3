"""common/celeba.py: real files in every layout and state of disrepair, packed records, batches, the command line."""

import gc
import io
import os
import shutil
import subprocess
import sys
import threading
import time
import types
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common import celeba
from common.celeba import ATTRIBUTES, FULL, MAKEOVER, SQUARE, CelebA, batches, pack, subset
from common.mtcnn import TEMPLATE
from common.photos import InputError

ROOT = Path(__file__).resolve().parents[1]
COUNT = 12
PAGE = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>"


# Data sets, written to disk


def picture(index, width=178, height=218):
    """A smooth picture that differs from index to index."""
    y, x = np.mgrid[:height, :width] / [[[height]], [[width]]]
    return np.stack([255 * x, 255 * y, np.full_like(x, 20 * index)], 2).astype(np.uint8)


def name(index, suffix=".jpg"):
    return f"{index + 1:06d}{suffix}"


def table(count=COUNT):
    """Attributes (count, 40) of 1 and -1, identities (three people), partition, landmarks (count, 10)."""
    rng = np.random.default_rng(7)
    identity = np.arange(count) % 3 + 100
    return rng.choice([-1, 1], (count, 40)), identity, np.arange(count) % 3, rng.integers(0, 178, (count, 10))


def write_pictures(folder, count=COUNT, suffix=".jpg", size=(178, 218)):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.fromarray(picture(index, *size)).save(folder / name(index, suffix), quality=95)
    return folder


def write_annotations(folder, count=COUNT, csv=False, anno="", evaluation=""):
    """The annotation files, as CelebA's own or as Kaggle's."""
    attributes, identity, partition, landmarks = table(count)
    titles = [f"point_{index}" for index in range(10)]
    for sub, stem, values, heads in (
        (anno, "list_attr_celeba", attributes, ATTRIBUTES),
        (anno, "list_landmarks_align_celeba", landmarks, titles),
        (anno, "identity_CelebA", identity[:, None], None),
        (evaluation, "list_eval_partition", partition[:, None], None),
    ):
        (folder / sub).mkdir(parents=True, exist_ok=True)
        rows = [[name(index), *map(str, row)] for index, row in enumerate(values)]
        if csv:
            lines = [",".join(["image_id", *(heads or ["value"])])] + [",".join(row) for row in rows]
        else:
            lines = ([str(count), " ".join(heads) + " "] if heads else []) + [" ".join(row) for row in rows]
            lines = [line.replace(" 1", "  1") for line in lines] if stem == "list_attr_celeba" else lines
        (folder / sub / (stem + (".csv" if csv else ".txt"))).write_text("\n".join(lines) + "\n")


def flat(folder, **options):
    write_pictures(folder / "img_align_celeba", **options)
    write_annotations(folder)
    return folder


def zip_folder(archive, folder, prefix=""):
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                file.write(path, prefix + path.relative_to(folder).as_posix())
    return archive


def official(folder):
    write_pictures(folder / "Img" / "img_align_celeba")
    write_annotations(folder, anno="Anno", evaluation="Eval")
    return folder


def official_zip(folder):
    write_annotations(folder, anno="Anno", evaluation="Eval")
    loose = write_pictures(folder.parent / "loose")
    zip_folder(folder / "Img" / "img_align_celeba.zip", loose, "img_align_celeba/")
    return folder


def torchvisions(folder):
    flat(folder / "celeba")
    return folder


def kaggle(folder):
    write_pictures(folder / "img_align_celeba" / "img_align_celeba")
    write_annotations(folder, csv=True)
    shutil.copy(folder / "list_landmarks_align_celeba.csv", folder / "list_bbox_celeba.csv")
    return folder


def kaggle_zip(folder):
    return zip_folder(folder / "archive.zip", kaggle(folder.parent / "loose"))


def kaggle_zip_inside(folder):
    kaggle_zip(folder)
    return folder


def zip_beside_annotations(folder):
    write_annotations(folder)
    return zip_folder(folder / "img_align_celeba.zip", write_pictures(folder.parent / "loose"), "img_align_celeba/")


def picture_folder_itself(folder):
    return official(folder) / "Img" / "img_align_celeba"


def png_copies(folder):
    return flat(folder, suffix=".PNG")


def beside_annotations(folder):
    write_annotations(write_pictures(folder))
    return folder


def doubly_nested(folder):
    flat(folder / "download" / "download")
    return folder


LAYOUTS = [
    flat,
    official,
    official_zip,
    torchvisions,
    kaggle,
    kaggle_zip,
    kaggle_zip_inside,
    zip_beside_annotations,
    picture_folder_itself,
    png_copies,
    beside_annotations,
    doubly_nested,
]


@pytest.fixture
def data(tmp_path):
    return flat(tmp_path / "data")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Records of 12 lossless pictures, and the pictures."""
    folder = tmp_path_factory.mktemp("packed")
    write_pictures(folder / "data", suffix=".png")
    write_annotations(folder / "data")
    return pack(CelebA(folder / "data"), folder / "records", FULL, (218, 178), progress=False)


def check(monkeypatch, capsys, *arguments):
    """Run the command in this process; (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["celeba.py", *map(str, arguments)])
    try:
        celeba.main()
        code = 0
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


# Layouts


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_gives_the_same(layout, tmp_path):
    attributes, identity, partition, landmarks = table()
    path = layout(tmp_path / "data")
    for _ in range(2):  # the second time, a zip has been unpacked
        dataset = CelebA(path)
        assert [os.path.splitext(file)[0] for file in dataset.files] == [name(index, "") for index in range(COUNT)]
        assert (dataset.attributes == (attributes == 1)).all() and dataset.attributes.dtype == np.uint8
        assert (dataset.identity == identity).all()
        assert (dataset.partition == partition).all() and dataset.partition_source.startswith("list_eval_partition")
        assert (dataset.landmarks == landmarks.reshape(COUNT, 5, 2)).all()
        assert dataset.aligned and dataset.sizes[0] == (178, 218)
        assert all((dataset.image_dir / file).is_file() for file in dataset.files)
    assert bool(dataset.problems) == (layout is doubly_nested)
    assert not list(tmp_path.rglob("*.celeba-tmp"))


def test_layout_is_named(tmp_path):
    for number, (layout, text) in enumerate(
        {flat: "flat", official: "official", torchvisions: "torchvision's", kaggle: "Kaggle's"}.items()
    ):
        assert CelebA(layout(tmp_path / f"{number}")).layout == f"{text} layout"


def test_plain_folder(tmp_path):
    write_pictures(tmp_path / "photos" / "a", 5, ".JPeG", (120, 90))
    write_pictures(tmp_path / "photos" / "b" / "c", 5, ".png", (120, 90))
    (tmp_path / "photos" / "notes.txt").write_text("not a picture")
    (tmp_path / "photos" / ".hidden.png").write_bytes(b"")
    dataset = CelebA(tmp_path / "photos")
    assert dataset.files == [f"a/{name(i, '.JPeG')}" for i in range(5)] + [f"b/c/{name(i, '.png')}" for i in range(5)]
    assert dataset.attributes is dataset.identity is dataset.landmarks is None
    assert not dataset.aligned and dataset.layout == "folder of pictures"
    assert (np.bincount(dataset.partition) == [8, 1, 1]).all() and "80/10/10" in dataset.partition_source
    with pytest.raises(InputError, match="list_attr_celeba"):
        celeba.matches(dataset.attributes, "Male=1")


def test_a_folder_called_like_a_picture_is_none(tmp_path):
    (tmp_path / "img_align_celeba/000001.jpg").mkdir(parents=True)
    (tmp_path / "list_attr_celeba.txt").write_text(f"1\n{' '.join(ATTRIBUTES)}\n000001.jpg{' 1' * 40}\n")
    with pytest.raises(InputError, match="no pictures in this folder"):
        CelebA(tmp_path)


def test_half_size_copy_is_aligned_and_square_crops_are_not(tmp_path):
    assert CelebA(write_pictures(tmp_path / "half", 3, size=(89, 109))).aligned
    assert not CelebA(write_pictures(tmp_path / "square", 3, size=(109, 109))).aligned


# Attributes and partition


def test_conditions(data):
    dataset = CelebA(data)
    male, smiling = (table()[0][:, ATTRIBUTES.index(text)] == 1 for text in ("Male", "Smiling"))
    assert 0 < (male & ~smiling).sum() < COUNT
    chosen = partial(celeba.matches, dataset.attributes)
    assert (chosen("Male=1, Smiling=0") == (male & ~smiling)).all()
    assert (chosen("Male=-1") == ~male).all() and chosen("").all()
    assert celeba.parse_condition("Male=1,Eyeglasses=-1") == {"Male": 1, "Eyeglasses": 0}
    assert celeba.attribute_indices("Male,Young") == [20, 39] == celeba.attribute_indices(["Male", "Young"])


@pytest.mark.parametrize(
    "text, message",
    [
        ("Eyeglass=1", "nearest: Eyeglasses"),
        ("male=1", "nearest: Male"),
        ("Lipstick=1", "Wearing_Lipstick"),
        ("Male=2", "expected Attribute=1"),
        ("Male", "expected Attribute=1"),
        ("Male=1,Male=0", "twice"),
        ("Male=1,Male=1", "twice"),
        ("Male=1,", "expected Attribute=1"),
        ("qqqq=1", "there are: 5_o_Clock"),
    ],
)
def test_bad_conditions_name_what_would_be_right(data, text, message):
    with pytest.raises(InputError, match=message) as caught:
        celeba.matches(CelebA(data).attributes, text)
    assert "\n" not in str(caught.value)


def test_drawn_partition_keeps_people_together():
    identity = np.random.default_rng(0).integers(0, 300, 3000)
    part, source = celeba.split(3000, identity)
    assert all(len(set(part[identity == person])) == 1 for person in range(300)) and "by identity" in source
    shares = np.bincount(part) / 3000
    assert np.allclose(shares, [0.8, 0.1, 0.1], atol=0.02)
    assert (part == celeba.split(3000, identity)[0]).all()
    for count in range(3, 30):
        assert len(set(celeba.split(count, None)[0])) == 3
        assert len(set(celeba.split(count, np.arange(count) % 3)[0])) == 3
    assert list(celeba.split(1, None)[0]) == [0]


def test_partition_that_leaves_a_part_empty_is_not_used(data):
    (data / "list_eval_partition.txt").write_text("".join(f"{name(index)} 0\n" for index in range(COUNT)))
    dataset = CelebA(data)
    assert len(set(dataset.partition)) == 3 and "drawn by identity" in dataset.partition_source
    assert "list_eval_partition.txt" in dataset.problems[0]


# What can be wrong, as the check says it


def test_check_says_what_is_there(data, monkeypatch, capsys):
    code, out, err = check(monkeypatch, capsys, "--dataset_dir", data)
    assert code == 0 and not err
    for text in (
        "flat layout",
        "12 in",
        "178 x 218",
        "aligned",
        "list_attr_celeba.txt",
        "3 people",
        "4 train / 4 validation / 4 test, list_eval_partition.txt",
        "list_landmarks_align_celeba.txt",
    ):
        assert text in out


def break_line(path, line, new):
    lines = path.read_text().split("\n")
    lines[line - 1] = new if isinstance(new, str) else new(lines[line - 1])
    path.write_text("\n".join(lines))


def truncated(path):
    path.write_bytes(path.read_bytes()[:-200])


def flip_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def evil_zip(path):
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("../evil.jpg", b"x")


ATTR, MARKS, WHO, PART = (
    "list_attr_celeba.txt",
    "list_landmarks_align_celeba.txt",
    "identity_CelebA.txt",
    "list_eval_partition.txt",
)
BROKEN = {
    "missing": (lambda d: shutil.rmtree(d), "data: no such folder"),
    "empty": (lambda d: (shutil.rmtree(d), d.mkdir()), "empty"),
    "no pictures": (lambda d: shutil.rmtree(d / "img_align_celeba"), "no pictures in this folder, which has id"),
    "two data sets": (lambda d: (shutil.copytree(d, d / "x"), shutil.copytree(d / "x", d / "y")), "two data sets"),
    "39 values": (
        lambda d: break_line(d / ATTR, 7, lambda row: row[:-3]),
        "list_attr_celeba.txt:7: expected a file name and 40 values, found 39",
    ),
    "41 values, then 39": (
        lambda d: (break_line(d / ATTR, 5, lambda row: row + " 1"), break_line(d / ATTR, 6, lambda row: row[:-3])),
        "list_attr_celeba.txt:5: expected a file name and 40 values, found 41",
    ),
    "value 2": (
        lambda d: break_line(d / ATTR, 9, lambda row: row[:-1] + "2"),
        "list_attr_celeba.txt:9: expected -1 or 1 for 000007.jpg, found '2'",
    ),
    "value x": (
        lambda d: break_line(d / ATTR, 9, lambda row: row[:-1] + "x"),
        "list_attr_celeba.txt:9: expected -1 or 1 for 000007.jpg, found 'x'",
    ),
    "row without values": (lambda d: break_line(d / ATTR, 3, "000001.jpg"), "celeba.txt:3: expected a file name"),
    "39 titles": (
        lambda d: break_line(d / ATTR, 2, " ".join(ATTRIBUTES[1:])),
        "list_attr_celeba.txt:2: expected 40 titles, found 39",
    ),
    "unknown title": (lambda d: break_line(d / ATTR, 2, " ".join(["Beard"] + ATTRIBUTES[1:])), ":2: expected.*'Beard'"),
    "no count": (lambda d: break_line(d / ATTR, 1, "x"), "list_attr_celeba.txt:1: expected the number of pictures"),
    "wrong count": (lambda d: break_line(d / ATTR, 1, "13"), "announces 13 pictures, but 12 rows"),
    "web page as txt": (lambda d: (d / PART).write_bytes(PAGE), "list_eval_partition.txt is a web page"),
    "empty txt": (lambda d: (d / PART).write_bytes(b""), "list_eval_partition.txt: no rows"),
    "partition 3": (lambda d: break_line(d / PART, 2, "000002.jpg 3"), "partition.txt:2: expected 0 or 1 or 2"),
    "identity text": (lambda d: break_line(d / WHO, 4, "000004.jpg Bob"), "CelebA.txt:4: expected a number .* 'Bob'"),
    "landmark nan": (lambda d: break_line(d / MARKS, 4, "000002.jpg" + 10 * " nan"), "celeba.txt:4: expected a number"),
    "landmark text": (lambda d: break_line(d / MARKS, 4, "000002.jpg" + 10 * " ?"), "celeba.txt:4: expected a number"),
    "leads out": (lambda d: break_line(d / WHO, 2, "../../x.jpg 2"), "refused.* ../../x.jpg"),
    "absolute": (lambda d: break_line(d / WHO, 2, "/etc/x.jpg 2"), "refused.*/etc/x.jpg"),
    "windows path": (lambda d: break_line(d / WHO, 2, "..\\x.jpg 2"), "refused"),
    "row twice": (lambda d: break_line(d / WHO, 2, "000001.jpg 5"), "000001.jpg has two rows"),
    "nothing matches": (
        lambda d: [p.rename(p.with_name("a" + p.name)) for p in (d / "img_align_celeba").iterdir()],
        "none of its 12 rows names one of the 12 pictures",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_check_says_what_is_wrong(case, data, monkeypatch, capsys):
    damage, message = BROKEN[case]
    damage(data)
    code, out, err = check(monkeypatch, capsys, "--dataset_dir", data)
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1
    pytest.raises(InputError, CelebA, data).match(message)


BROKEN_ZIPS = {
    "web page": (lambda p: p.write_bytes(b"\n " + PAGE), "is a web page, not a zip"),
    "truncated": (truncated, "cut short or damaged"),
    "damaged": (flip_byte, "cut short or damaged"),
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "7z": (lambda p: p.write_bytes(b"7z\xbc\xaf\x27\x1c..."), "is a 7z archive"),
    "text": (lambda p: p.write_text("hello"), "is no zip archive"),
    "leads out": (evil_zip, "refused.*../evil.jpg"),
    "in the way": (lambda p: (p.with_suffix("") / "x").mkdir(parents=True), "in the way"),
}


@pytest.mark.parametrize("case", BROKEN_ZIPS)
def test_broken_zips_are_named_and_leave_nothing(case, tmp_path, monkeypatch, capsys):
    pictures = write_pictures(tmp_path / "loose")
    archive = zip_folder(tmp_path / "data" / "img_align_celeba.zip", pictures, "img_align_celeba/")
    damage, message = BROKEN_ZIPS[case]
    damage(archive)
    before = sorted(tmp_path.rglob("*"))
    for path in [archive] + [archive.parent] * (case != "in the way"):  # the zip, and the folder that it lies in
        code, out, err = check(monkeypatch, capsys, "--dataset_dir", path)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
        pytest.raises(InputError, CelebA, path).match(message)
    assert sorted(tmp_path.rglob("*")) == before


def test_zip_that_two_processes_unpack_at_once(tmp_path, monkeypatch):
    archive = zip_folder(tmp_path / "faces.zip", write_pictures(tmp_path / "loose"))

    def quicker(*_):  # the other one is done just before this one
        shutil.copytree(tmp_path / "loose", tmp_path / "faces")

    monkeypatch.setattr(celeba, "check_room", quicker)
    assert len(CelebA(archive).files) == COUNT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces", "faces.zip", "loose"]


def test_zip_without_room_is_not_unpacked(tmp_path, monkeypatch):
    archive = zip_folder(tmp_path / "faces.zip", write_pictures(tmp_path / "loose"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="GB are free"):
        CelebA(archive)
    assert not (tmp_path / "faces").exists()


def test_pictures_and_rows_that_do_not_match_are_counted_and_left_out(data):
    for index in (10, 11):
        (data / "img_align_celeba" / name(index)).unlink()
    shutil.copy(data / "img_align_celeba" / name(0), data / "img_align_celeba" / "extra.jpg")
    dataset = CelebA(data)
    assert dataset.files == [name(index) for index in range(10)]
    assert (dataset.attributes == (table()[0][:10] == 1)).all()
    assert "1 pictures have no row in list_attr_celeba.txt and are left out: extra.jpg" in dataset.problems
    assert "2 rows of identity_CelebA.txt have no picture: 000011.jpg, 000012.jpg" in dataset.problems


def test_titles_in_another_order_and_blank_lines(data):
    path = data / ATTR
    reordered = np.argsort(ATTRIBUTES)[::-1]
    lines = ["12", " ".join(ATTRIBUTES[index] for index in reordered)]
    lines += [f"{name(row)} " + " ".join(map(str, table()[0][row, reordered])) for row in range(COUNT)]
    path.write_bytes("\r\n".join(lines + ["", " "]).encode())
    assert (CelebA(data).attributes == (table()[0] == 1)).all()


@pytest.mark.parametrize("csv", [False, True])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path, csv):
    write_pictures(tmp_path / "img_align_celeba")
    write_annotations(tmp_path, csv=csv)
    paths = [*tmp_path.glob("*.csv" if csv else "*.txt")]
    for path in paths:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    dataset = CelebA(tmp_path)
    assert len(paths) == 4 and len(dataset.files) == COUNT and dataset.problems == []
    assert (dataset.identity == table()[1]).all() and (dataset.attributes == (table()[0] == 1)).all()
    paths[0].write_bytes(paths[0].read_bytes()[3:].decode().encode("utf-16"))
    with pytest.raises(InputError, match="UTF-16"):
        CelebA(tmp_path)


def test_names_in_no_encoding_go_all_the_way(data, tmp_path, monkeypatch, capsys):
    """A name that is not UTF-8 and one that a Mac has taken apart belong to their rows; records, checksum and print."""
    odd, apart, composed = os.fsdecode(b"caf\xe9.jpg"), "caf\u0065\u0301.jpg", "caf\u00e9.jpg"
    for path in data.glob("*.txt"):
        rows = path.read_bytes().replace(b"000005.jpg", os.fsencode(odd)).replace(b"000006.jpg", composed.encode())
        path.write_bytes(rows)
    os.rename(data / "img_align_celeba/000005.jpg", data / "img_align_celeba" / odd)
    os.rename(data / "img_align_celeba/000006.jpg", data / "img_align_celeba" / apart)
    truncated(data / "img_align_celeba" / odd)
    dataset = CelebA(data)
    assert {odd, apart} < set(dataset.files) and len(dataset.files) == COUNT and dataset.problems == []
    for _ in range(2):  # the second time from the file
        records = pack(dataset, tmp_path / "records", SQUARE, (16, 16), progress=False)
        assert [skipped for skipped, _ in records.skipped] == [odd] and "11 pictures" in records.describe()
    assert b"caf\xe9.jpg\t" in (records.path.parent / "skipped.tsv").read_bytes()
    monkeypatch.setattr(sys, "argv", ["celeba.py", "--dataset_dir", str(data), "--full"])
    with io.TextIOWrapper(io.BytesIO(), encoding="cp1252") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        celeba.main()
        terminal.flush()
        assert b"damaged     caf?.jpg" in terminal.buffer.getvalue()


def test_a_data_set_of_links_is_named_as_it_was_given(tmp_path):
    flat(tmp_path / "store")
    write_pictures(tmp_path / "people/anna", 3)
    (tmp_path / "mine").symlink_to("store")
    (tmp_path / "people/bert").symlink_to("../store/img_align_celeba")
    assert CelebA(tmp_path / "mine").root.name == "mine" and len(CelebA(tmp_path / "mine").files) == COUNT
    records = pack(CelebA(tmp_path / "mine"), tmp_path / "records", SQUARE, (16, 16), progress=False)
    assert records.path.parent.name.startswith("mine-")
    people = CelebA(tmp_path / "people").files
    assert len(people) == 3 + COUNT and "bert/000001.jpg" in people
    (tmp_path / "self").mkdir()
    (tmp_path / "self/self").symlink_to(".")
    with pytest.raises(InputError, match="no pictures"):
        CelebA(tmp_path / "self")


def test_pictures_of_other_kinds_are_counted(tmp_path, monkeypatch, capsys):
    write_pictures(tmp_path / "photos", 3)
    for odd in ("a.heic", "b.HEIC", "c.psd"):
        (tmp_path / "photos" / odd).write_bytes(b"x")
    _, out, _ = check(monkeypatch, capsys, "--dataset_dir", tmp_path / "photos")
    assert "3 files that are not read" in out and "2 .heic" in out and "pictures    3 in" in out


def test_a_data_set_with_a_name_as_long_as_names_can_be(tmp_path):
    folder = write_pictures(tmp_path / ("\u6f22" * 85), 3)
    assert len(pack(CelebA(folder), tmp_path / "records", SQUARE, (16, 16), progress=False).names) == 3


def test_home_in_every_path(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = ["--record_dir=~/rec", "--crop", "square", "--size", "16"]
    code, out, err = check(monkeypatch, capsys, "--dataset_dir=~/data", *flags)
    assert code == 0 and (tmp_path / "rec").is_dir(), out + err


def test_full_check_lists_damaged_pictures(data, monkeypatch, capsys):
    truncated(data / "img_align_celeba" / name(4))
    code, out, _ = check(monkeypatch, capsys, "--dataset_dir", data, "--full")
    assert code == 0 and "damaged     000005.jpg" in out and "11 of 12" in out


def test_command_line_from_elsewhere_with_a_worker_process(tmp_path, monkeypatch, capsys):
    write_pictures(tmp_path / "data" / "img_align_celeba", 40, size=(89, 109))
    write_annotations(tmp_path / "data", 40)
    truncated(tmp_path / "data" / "img_align_celeba" / name(5))
    command = [sys.executable, ROOT / "common" / "celeba.py", "--dataset_dir", "data"]
    arguments = ["--record_dir", "records", "--crop", "makeover", "--size", "50", "40", "--workers", "1"]
    good = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert good.returncode == 0 and "packed      39 pictures" in good.stdout, good.stderr
    assert "flat layout" in good.stdout
    here = pack(CelebA(tmp_path / "data"), tmp_path / "here", MAKEOVER, (50, 40), progress=False)
    there = np.load(next(tmp_path.glob("records/*/*.npy")))
    assert there.shape == (39, 50, 40, 3) and (there == here.images).all()

    code, out, error = check(monkeypatch, capsys, "--dataset_dir", "elsewhere")
    assert code == 2 and not out and error.startswith("error: ") and error.count("\n") == 1


def resident():
    """Memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_annotations_of_the_full_set_are_fast_and_small(tmp_path):
    count = 202_599
    rng = np.random.default_rng(0)
    digits = np.array([name(index) for index in range(count)], "S10").view(np.uint8).reshape(count, 10)

    def save(stem, columns, texts, head=b""):
        choices = np.frombuffer(b"".join(texts), np.uint8).reshape(len(texts), -1)
        values = choices[rng.integers(0, len(texts), (count, columns))]
        rows = np.concatenate([digits, values.reshape(count, -1), np.full((count, 1), 10, np.uint8)], 1)
        (tmp_path / f"{stem}.txt").write_bytes(head + rows.tobytes())

    save("list_attr_celeba", 40, [b"  1", b" -1"], f"{count}\n{' '.join(ATTRIBUTES)}\n".encode())
    save(
        "list_landmarks_align_celeba",
        10,
        [b"  %03d" % number for number in range(1, 178)],
        f"{count}\n{' '.join('abcdefghij')}\n".encode(),
    )
    save("identity_CelebA", 1, [b" %05d" % number for number in range(1, 10178)])
    save("list_eval_partition", 1, [b" 0", b" 1", b" 2"])
    files, peak, measuring = [f"{number:06d}.jpg" for number in range(1, count + 1)], [], threading.Event()

    def measure():
        while not measuring.wait(0.005):
            peak.append(resident())

    thread = threading.Thread(target=measure)
    gc.collect()
    before, seconds, plain = resident(), [], []
    thread.start()
    for _ in range(3):  # the quickest counts: other processes share the cores
        start = time.process_time()
        for stem in ("list_attr_celeba", "list_landmarks_align_celeba"):
            for line in (tmp_path / f"{stem}.txt").read_text().splitlines()[2:]:
                [int(word) for word in line.split()[1:]]
        plain.append(time.process_time() - start)
        start = time.process_time()
        _, tables, keep = celeba.read_annotations(tmp_path, tmp_path, files, [])
        seconds.append(time.process_time() - start)
    measuring.set()
    thread.join()
    assert keep.all() and tables["attributes"].shape == (count, 40) and tables["landmarks"].shape == (count, 5, 2)
    print(f"annotations of {count} pictures: {min(seconds):.2f} s, {min(plain):.2f} s, {max(peak) - before:.0f} MB")
    assert min(seconds) < 0.7 * min(plain), "all four files beside two of them, word by word"
    assert max(peak) - before < 300


# The download, with torchvision's downloader replaced (it needs the network)


@pytest.fixture
def downloader(monkeypatch):
    """Install a stand-in for torchvision.datasets.CelebA; returns where to put what it does."""
    does = types.SimpleNamespace(run=None)
    does.CelebA = lambda root, download: does.run(Path(root) / "celeba")
    monkeypatch.setattr(celeba, "find_spec", lambda module: True)
    monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace(datasets=does))  # itself takes seconds
    monkeypatch.setitem(sys.modules, "torchvision.datasets", does)
    return does


def test_download(downloader, tmp_path, monkeypatch, capsys):
    downloader.run = flat
    for target in (tmp_path / "new" / "data", tmp_path / "empty"):
        if target.name == "empty":
            target.mkdir()
        code, out, err = check(monkeypatch, capsys, "--dataset_dir", target, "--download")
        assert code == 0 and "torchvision's layout" in out, err
        assert sorted(path.name for path in target.iterdir()) == ["celeba"]
    code, _, err = check(monkeypatch, capsys, "--dataset_dir", target, "--download")
    assert code == 2 and "not empty" in err


def test_failed_downloads_leave_nothing(downloader, tmp_path, monkeypatch, capsys):
    def quota(folder):
        write_annotations(folder)
        (folder / "img_align_celeba.zip").write_bytes(PAGE)
        raise RuntimeError("File not found or corrupted.")

    def offline(folder):
        folder.mkdir(parents=True)
        raise OSError("Cannot reach drive.google.com\nmore lines")

    for run, message in {quota: "a web page instead of img_align_celeba.zip", offline: "drive.google.com)"}.items():
        downloader.run = run
        code, out, err = check(monkeypatch, capsys, "--dataset_dir", tmp_path / "data", "--download")
        assert code == 2 and not out and message in err and err.count("\n") == 1
        assert not list(tmp_path.iterdir())


def test_download_without_gdown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(celeba, "find_spec", lambda module: None)
    code, _, err = check(monkeypatch, capsys, "--dataset_dir", tmp_path / "data", "--download")
    assert code == 2 and "pip install gdown" in err and not list(tmp_path.iterdir())


# Packing


def test_records_hold_the_pictures_and_their_annotations(packed):
    attributes, identity, partition, landmarks = table()
    assert packed.images.shape == (COUNT, 218, 178, 3) and isinstance(packed.images, np.memmap)
    for index in range(COUNT):
        assert (packed.images[index] == picture(index)).all()
    assert packed.names == [name(index, ".png") for index in range(COUNT)] and packed.skipped == []
    assert (packed.attributes == (attributes == 1)).all() and (packed.identity == identity).all()
    assert (packed.landmarks == landmarks.reshape(-1, 5, 2)).all()
    assert list(packed.rows("validation")) == [1, 4, 7, 10] and packed.rows("test").dtype == np.int64
    assert (celeba.matches(packed.attributes, "Male=1") == (attributes[:, 20] == 1)).all()


@pytest.mark.parametrize("scale", [1, 2, 0.5])
def test_boxes_cut_where_they_say(scale, tmp_path):
    """Red in MAKEOVER's box, blue around; a copy at another scale gives the same, and one with bars at the sides."""
    image = np.zeros((218, 178, 3), np.uint8)
    image[..., 2] = 255
    image[90:190, 49:129] = [255, 0, 0]
    exact = Image.fromarray(image).resize((round(178 * scale), round(218 * scale)), Image.Resampling.BOX)
    wide = Image.new("RGB", (exact.width + 60, exact.height), "white")
    wide.paste(exact, (30, 0))
    for shown in (exact, wide):
        cut = celeba.cut_box(np.array(shown), MAKEOVER, (100, 80))
        edge = 0 if scale == 1 else 2
        assert cut.shape == (100, 80, 3) and (cut[edge : 100 - edge, edge : 80 - edge] == [255, 0, 0]).all()
        assert np.abs(cut.astype(int) - [255, 0, 0]).max() <= (0 if scale == 1 else 160)
        square = celeba.cut_box(np.array(shown), SQUARE, (178, 178)).astype(int)
        assert np.abs(square - image[20:198]).mean() < (1e-9 if scale == 1 else 2)
    for height, width in ((1, 1), (2, 500), (500, 2), (218, 1)):
        assert celeba.cut_box(np.zeros((height, width, 3), np.uint8), MAKEOVER, (64, 48)).shape == (64, 48, 3)


def test_kinds_of_pictures(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    red = Image.new("RGB", (178, 218), (255, 0, 0))
    red.save(folder / "a.png")
    red.save(folder / "b.jpg", quality=100, subsampling=0)
    red.convert("CMYK").save(folder / "c.jpg", quality=100)
    red.convert("RGBA").save(folder / "d.png")
    red.convert("P").save(folder / "e.gif")
    Image.new("L", (178, 218), 128).save(folder / "f.png")
    Image.fromarray(np.full((218, 178), 128 * 257, np.uint16)).save(folder / "g.png")
    Image.new("RGBA", (178, 218), (0, 0, 0, 0)).save(folder / "h.png")
    records = pack(CelebA(folder), tmp_path / "records", SQUARE, (32, 32), progress=False)
    assert len(records.names) == 8
    means = records.images.reshape(8, -1, 3).astype(float)
    for index, expected in enumerate([[255, 0, 0]] * 5 + [[128] * 3] * 2 + [[255] * 3]):
        assert np.abs(means[index] - expected).max() <= 3, records.names[index]
    x, chosen = next(batches(records, np.array([0]), 1, "cpu"))
    assert (x[:, 0] == 1).all() and (x[:, 1:] == -1).all()


def test_records_are_used_again_and_made_anew(tmp_path):
    folder, records = write_pictures(tmp_path / "data", 4, ".png"), tmp_path / "records"

    def files():
        return {path: path.stat().st_mtime_ns for path in records.rglob("*") if path.is_file()}

    first = pack(CelebA(folder), records, SQUARE, (16, 16), progress=False)
    before = files()
    pack(CelebA(folder), records, SQUARE, (16, 16), progress=False)
    assert files() == before and len(before) == 3

    pack(CelebA(folder), records, SQUARE, (20, 16), progress=False)
    pack(CelebA(folder), records, FULL, (16, 16), progress=False)
    assert len(list(records.iterdir())) == 3 and before.items() <= files().items()

    Image.new("RGB", (178, 218), "red").save(folder / name(2, ".png"))  # a picture changes
    again = pack(CelebA(folder), records, SQUARE, (16, 16), progress=False)
    assert (again.images[2] == [255, 0, 0]).all() and (first.images[2] != again.images[2]).any()
    assert not first.path.exists() and (again.images[3] == first.images[3]).all()

    (folder / name(0, ".png")).unlink()  # a picture goes
    assert pack(CelebA(folder), records, SQUARE, (16, 16), progress=False).names == again.names[1:]

    os.utime(folder / name(1, ".png"), (1, 1))  # a time changes
    last = pack(CelebA(folder), records, SQUARE, (16, 16), progress=False)
    last.path.write_bytes(last.path.read_bytes()[:-1])  # the file is cut
    assert pack(CelebA(folder), records, SQUARE, (16, 16), progress=False).images.shape == (3, 16, 16, 3)
    last.path.with_suffix(".json").unlink()  # the sidecar is lost
    assert pack(CelebA(folder), records, SQUARE, (16, 16), progress=False).images.shape == (3, 16, 16, 3)


def test_damaged_pictures_are_skipped_and_listed(tmp_path, capsys):
    folder = write_pictures(tmp_path / "data" / "img_align_celeba", 100)
    write_annotations(tmp_path / "data", 100)
    truncated(folder / name(17))
    (folder / name(60)).write_bytes(b"")
    dataset = CelebA(tmp_path / "data")
    (folder / name(99)).unlink()  # gone after it was listed
    records = pack(dataset, tmp_path / "records", SQUARE, (16, 16), progress=True)
    lost = [name(17), name(60), name(99)]
    assert len(records.images) == len(records.names) == len(records.attributes) == len(records.partition) == 97
    assert [file for file, _ in records.skipped] == lost and not set(lost) & set(records.names)
    assert (records.attributes[17] == (table(100)[0][18] == 1)).all()
    listing = next(tmp_path.glob("records/*/skipped.tsv"))
    assert [line.split("\t")[0] for line in listing.read_text().splitlines()] == lost
    assert f"3 of 100 pictures skipped: see {listing}" in capsys.readouterr().out
    assert "empty" in listing.read_text() and str(folder) not in listing.read_text()
    again = pack(dataset, tmp_path / "records", SQUARE, (16, 16), progress=False)
    assert again.skipped == records.skipped and again.names == records.names


def test_nothing_usable_or_nonsense_asked(tmp_path, packed):
    for index in range(3):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name(index)).write_bytes(b"no picture")
    dataset = CelebA(tmp_path / "data")
    dataset.aligned = True
    with pytest.raises(InputError, match="none of the 3 pictures could be used: 000001.jpg"):
        pack(dataset, tmp_path / "records", FULL, (8, 8), progress=False)
    assert not [path for path in (tmp_path / "records").rglob("*") if path.is_file()]
    for crop, size in (("nose", (8, 8)), ((0, 0, 179, 218), (8, 8)), (FULL, (0, 8)), ("face", (8, 9))):
        with pytest.raises(InputError):
            pack(dataset, tmp_path / "records", crop, size)


def test_full_disk_and_folders_that_cannot_be_written(tmp_path, monkeypatch):
    dataset = CelebA(write_pictures(tmp_path / "data", 3))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        pack(dataset, tmp_path / "file", FULL, (8, 8), progress=False)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left"):
            pack(dataset, tmp_path / "records", FULL, (8, 8), progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=10))
        with pytest.raises(InputError, match="GB are free"):
            pack(dataset, tmp_path / "records", FULL, (8, 8), progress=False)
    assert not [path for path in (tmp_path / "records").rglob("*") if path.is_file()]


SLOWLY = """
import sys, time
from common import celeba
cut_box = celeba.cut_box
celeba.cut_box = lambda *args: (time.sleep(0.5), cut_box(*args))[1]
celeba.pack(celeba.CelebA(sys.argv[1]), sys.argv[2], celeba.FULL, (218, 178))
"""


def test_a_killed_run_leaves_nothing_that_is_taken_for_whole(tmp_path):
    """The run is a process of its own: a forked one shares tqdm's lock, and may be killed while it holds it."""
    folder, records = write_pictures(tmp_path / "data", 4), tmp_path / "records"
    dataset = CelebA(folder)
    process = subprocess.Popen([sys.executable, "-c", SLOWLY, folder, records], cwd=ROOT)
    while not list(records.glob("*/.*.celeba-tmp")) and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    left = list(records.glob("*/.*.celeba-tmp"))
    assert len(left) == 1 and not list(records.rglob("*.npy")) and not list(records.rglob("*.json"))
    assert pack(dataset, records, FULL, (218, 178), progress=False).images.shape[0] == 4
    assert left[0].exists()  # it could have been another process's
    os.utime(left[0], (time.time() - 90_000,) * 2)
    write_pictures(folder, 5)
    pack(CelebA(folder), records, FULL, (218, 178), progress=False)
    assert not left[0].exists() and len(list(records.glob("*/*.npy"))) == 1


def test_two_at_once_do_not_harm_each_other(tmp_path):
    dataset = CelebA(write_pictures(tmp_path / "data", 12, ".png"))
    results = []

    def work():
        results.append(pack(dataset, tmp_path / "records", FULL, (218, 178), progress=False))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for records in results:
        assert all((records.images[index] == picture(index)).all() for index in range(12))
    assert not list(tmp_path.rglob("*.celeba-tmp"))


class Detector:
    """Stands in for MTCNN: a face as large as the red channel's brightest square says, none in black pictures."""

    sizes = []

    def __init__(self, device="cpu"):
        pass

    def detect(self, images):
        self.sizes.append(len(images))
        boxes, landmarks = [], []
        for image in images:
            y, x = np.nonzero(image[..., 0] > 200)
            found = [[x.min(), y.min(), x.max() + 1, y.max() + 1]] if len(x) else []
            boxes.append(np.array(found, np.float32).reshape(-1, 4))
            side = (x.max() + 1 - x.min()) / 178 if len(x) else 1
            found = [TEMPLATE * side + [x.min(), y.min()]] if len(x) else []
            landmarks.append(np.array(found, np.float32).reshape(-1, 5, 2))
        return boxes, [np.ones(len(part), np.float32) for part in boxes], landmarks


def red_box(path, width, height, x, y, side):
    """Black, with a red box of CelebA's shape at x, y."""
    image = np.zeros((height, width, 3), np.uint8)
    if side:
        image[y : y + round(side * 218 / 178), x : x + side] = [255, 0, 0]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def test_faces_are_found_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(celeba, "MTCNN", Detector)
    monkeypatch.setattr(Detector, "sizes", [])
    for index in range(70):
        red_box(tmp_path / "data" / name(index, ".png"), 300, 200, index, 10, 0 if index == 3 else 80)
    (tmp_path / "data" / name(4, ".png")).write_bytes(b"no picture")
    dataset = CelebA(tmp_path / "data")
    assert not dataset.aligned
    records = pack(dataset, tmp_path / "records", "face", (48, 48), progress=False)
    assert records.images.shape == (68, 48, 48, 3) and records.skipped[0] == (name(3, ".png"), "no face found")
    assert Detector.sizes == [63, 6]
    assert records.names[3] == name(5, ".png")
    assert (records.images[:, 20:28, 20:28] == [255, 0, 0]).all() and (records.images[5:, 24, :2] == 0).all()
    boxes = pack(dataset, tmp_path / "records", MAKEOVER, (50, 40), progress=False)  # aligned first
    assert boxes.images.shape == (68, 50, 40, 3) and (boxes.images[..., 0] > 250).mean() > 0.99


def test_worker_processes_give_the_same_records(tmp_path, monkeypatch):
    for index in range(40):
        red_box(tmp_path / "data" / f"{index:02d}.png", 178, 218, index, 90, 50)
    (tmp_path / "data" / "07.png").write_bytes(b"no picture")
    dataset = CelebA(tmp_path / "data")
    alone = pack(dataset, tmp_path / "alone", FULL, (109, 89), progress=False)
    monkeypatch.setattr(celeba, "FEW", 0)
    together = pack(dataset, tmp_path / "together", FULL, (109, 89), workers=2, progress=False)
    assert (alone.images == together.images).all() and alone.names == together.names
    assert alone.skipped == together.skipped and len(alone.skipped) == 1


def test_own_pictures(tmp_path):
    red_box(tmp_path / "photos" / "a.png", 300, 200, 100, 50, 60)
    red_box(tmp_path / "photos" / "b.png", 300, 200, 0, 0, 0)
    (tmp_path / "photos" / "c.jpg").write_bytes(b"")
    stills = [Image.new("RGB", (178, 218), (200 + 20 * index, 0, 0)) for index in range(3)]
    stills[0].save(tmp_path / "clip.gif", save_all=True, append_images=stills[1:], duration=100)
    paths = [tmp_path / "photos", tmp_path / "clip.gif"]
    images, names, skipped, _ = celeba.find_faces(paths, "face", (32, 32), Detector())
    assert images.shape == (3, 32, 32, 3) and images.dtype == np.uint8 and names[0] == "a.png" and len(set(names)) == 3
    assert [file for file, _ in skipped][:2] == ["b.png", "c.jpg"] and dict(skipped)["c.jpg"] == "the file is empty"
    images, _, _, places = celeba.find_faces(tmp_path / "clip.gif", SQUARE, (20, 20), Detector(), faceless=True)
    assert images.shape == (3, 20, 20, 3) and images[2, 10, 5, 0] > images[0, 10, 5, 0] > 150
    assert [place and place.frame for place in places] == [None, 1, 2], "the first is too dark to be a face"
    with pytest.raises(InputError, match=r"no usable face: b.png \(no face found\)"):
        celeba.find_faces(tmp_path / "photos" / "b.png", SQUARE, (8, 8), Detector())
    with pytest.raises(InputError, match="no such"):
        celeba.find_faces(tmp_path / "nowhere", SQUARE, (8, 8), Detector())


# Choosing, and batches


def test_subset_is_nested():
    rows = np.arange(100) * 3
    for small, large in ((5, 50), (0.1, 0.5), ("7", "0.9"), (99, 1000), (0.3, 1.0)):
        few, many = subset(rows, small, 4), subset(rows, large, 4)
        assert set(few) <= set(many) <= set(rows) and len(few) < len(many)
    assert len(subset(rows, 7)) == len(subset(rows, "7")) == 7 and len(subset(rows, "0.07")) == 7
    assert (subset(rows, 5000) == rows).all() and (subset(rows, 1.0) == rows).all() and len(subset(rows, 1)) == 1
    assert len(subset(rows, 1e-9)) == 1 and set(subset(rows, 10, 1)) != set(subset(rows, 10, 2))
    assert (subset(rows, 5, -1) == subset(rows, 5, -1)).all()
    for wrong in (0, -3, 0.0, 1.5, "x", "0", "-1", "1.5", float("nan")):
        with pytest.raises(InputError, match="expected a number of pictures"):
            subset(rows, wrong)


def take(count, *args, **options):
    generator = batches(*args, **options)
    result = [next(generator) for _ in range(count)]
    generator.close()
    return result


def test_batches_show_every_picture_once_per_round(packed):
    rows = np.array([1, 2, 3, 5, 8, 9, 11])
    drawn = np.concatenate([chosen for _, chosen in take(14, packed, rows, 4, "cpu")])
    assert all(sorted(part) == list(rows) for part in drawn.reshape(8, 7))
    assert len({tuple(part) for part in drawn.reshape(8, 7)}) > 4
    large = take(1, packed, rows, 20, "cpu")[0]
    assert large[0].shape == (20, 3, 218, 178) and sorted(large[1][:7]) == list(rows)


def test_batches_hold_the_pictures_in_rgb(packed):
    x, chosen = take(1, packed, packed.rows("train"), 4, "cpu", flip=False)[0]
    assert x.shape == (4, 3, 218, 178) and x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert (celeba.to_uint8(x) == packed.images[chosen]).all()
    assert torch.equal(celeba.to_tensor(packed.images[chosen]), x) and x.min() == -1 and x.max() <= 1
    steps = take(20, packed, np.arange(COUNT), 6, "cpu", seed=1)
    flipped = 0
    for x, chosen in steps:
        for shown, row in zip(celeba.to_uint8(x), chosen, strict=True):
            mirrored = (shown == packed.images[row][:, ::-1]).all()
            assert mirrored or (shown == packed.images[row]).all()
            flipped += mirrored
    assert 30 < flipped < 90


def test_to_uint8_inverts_to_tensor():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    assert (celeba.to_uint8(celeba.to_tensor(images)) == images).all()
    assert list(celeba.to_uint8(torch.tensor([[[[-3.0, 3.0]]]]))[0, 0, :, 0]) == [0, 255]


def test_order_depends_on_seed_and_step_alone(packed):
    rows = np.arange(COUNT)
    whole = take(9, packed, rows, 4, "cpu", seed=5)
    for step, (x, chosen) in enumerate(take(4, packed, rows, 4, "cpu", seed=5, start=5), 5):
        assert torch.equal(x, whole[step][0]) and (chosen == whole[step][1]).all()
    ranks = [take(9, packed, rows, 4, "cpu", seed=5, rank=rank, world=2) for rank in range(2)]
    for (x, chosen), first, second in zip(whole, *ranks, strict=True):
        assert torch.equal(x, torch.cat([first[0], second[0]])) and list(chosen) == [*first[1], *second[1]]
    assert any(
        (chosen != other).any()
        for (_, chosen), (_, other) in zip(whole, take(9, packed, rows, 4, "cpu", seed=6), strict=True)
    )


def test_order_is_that_of_earlier_runs(packed):
    """By its definition, so that a run of an older version can be gone on with and compared with."""
    rows, size = np.array([1, 2, 3, 5, 8, 9, 11]), 4
    for seed, start in ((0, 0), (5, 0), (-1, 300)):
        stops = np.arange(start * size, (start + 9) * size)
        shuffles = [
            np.random.default_rng((seed % 2**64, 0, epoch)).permutation(7) for epoch in range(stops[-1] // 7 + 1)
        ]
        wanted = rows[[shuffles[stop // 7][stop % 7] for stop in stops]].reshape(-1, size)
        for step, (x, chosen) in enumerate(take(9, packed, rows, size, "cpu", seed=seed, start=start)):
            assert chosen.dtype == torch.int64 and chosen.tolist() == wanted[step].tolist()
            flips = np.random.default_rng((seed % 2**64, 1, start + step)).random(size) < 0.5
            pixels = [
                packed.images[row][:, ::-1] if flip else packed.images[row]
                for row, flip in zip(wanted[step], flips, strict=True)
            ]
            assert torch.equal(x, celeba.to_tensor(np.stack(pixels)))


def test_batches_refuse_what_cannot_be(packed):
    with pytest.raises(InputError, match="multiple of the 2 processes"):
        batches(packed, np.arange(4), 3, "cpu", world=2)
    with pytest.raises(InputError, match="expected a positive"):
        batches(packed, np.arange(4), 0, "cpu")
    with pytest.raises(InputError, match="no pictures"):
        batches(packed, np.arange(0), 4, "cpu")


def test_the_thread_ends_with_the_generator_and_hands_on_errors(packed):
    before = threading.active_count()
    for end in (lambda generator: generator.close(), lambda generator: None):
        generator = batches(packed, np.arange(COUNT), 4, "cpu")
        next(generator)
        assert threading.active_count() == before + 1
        end(generator)
        del generator
        gc.collect()
        assert threading.active_count() == before
    broken = batches(packed, np.array([0, 1, 99]), 3, "cpu")
    with pytest.raises(IndexError):
        next(broken)
    assert threading.active_count() == before


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_stays_flat(packed):
    generator = batches(packed, np.arange(COUNT), 4, "cpu")
    for step in range(1500):
        next(generator)
        if step == 300:
            before = resident()
    generator.close()
    assert resident() - before < 10  # a batch alone is 1.9 MB


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("free", [None, 0])
def test_batches_on_a_gpu(packed, free, monkeypatch):
    if free is not None:  # the look-ahead path
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    monkeypatch.setattr(celeba, "DRAWN", 3)
    here, there = (take(7, packed, np.arange(COUNT), 5, device) for device in ("cpu", "cuda"))
    for (x, chosen), (y, others) in zip(here, there, strict=True):
        assert y.is_cuda and others.is_cuda and y.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(x, y.cpu(), atol=1e-6) and torch.equal(chosen, others.cpu())
    generator = batches(packed, np.arange(COUNT), 5, "cuda")
    next(generator)
    torch.cuda.set_sync_debug_mode("error")  # what waits for the GPU raises
    try:
        for _ in range(7):
            next(generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        generator.close()
