"""common/photos.py: the reader and the writer of photos, GIFs and videos."""

import io
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from conftest import ROOT
from pictures import RED, flat, is_red, sketch, write_video
from PIL import Image

from common.mtcnn import TEMPLATE, align, crop
from common.photos import (
    InputError,
    Writer,
    media_files,
    numbered_frames,
    read_frames,
    read_image,
    save_pictures,
    write_film,
)

# Reading


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp", "a.webp", "a.tiff", "a.ppm"])
def test_red_stays_red(tmp_path, name):
    Image.fromarray(flat(40, 60)).save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.shape == (40, 60, 3) and image.dtype == np.uint8 and is_red(image)
    assert is_red(crop(image, (-5, 5, 30, 30), 32)) and is_red(align(image, TEMPLATE / 4)[0])
    assert [frame for frame, _ in read_frames(tmp_path / name)] == ["a"]


def test_frames_of_video_and_gif(tmp_path):
    frames = [flat(48, 64, colour) for colour in (RED, (20, 230, 30), RED, (10, 20, 240), RED)]
    write_video(tmp_path / "clip.mp4", frames)
    first, *others = map(Image.fromarray, frames)
    first.save(tmp_path / "clip.gif", save_all=True, append_images=others)
    for name in ("clip.mp4", "clip.gif"):
        read = dict(read_frames(tmp_path / name))
        assert list(read) == [f"clip_00000{number}" for number in range(5)]
        assert is_red(read["clip_000004"]) and read["clip_000001"][..., 1].min() > 150
        assert read["clip_000003"][..., 2].min() > 150 and is_red(read_image(tmp_path / "clip.gif"))
        assert [frame for frame, _ in read_frames(tmp_path / name, every=2)] == [f"clip_00000{n}" for n in (0, 2, 4)]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, suffix):
    upright = flat(32, 48, (200, 200, 200))
    upright[:16, :24] = RED  # upper left
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"a.{suffix}", exif=exif, **QUALITY.get(suffix, {}))
    assert abs(read_image(tmp_path / f"a.{suffix}").astype(int) - upright).max() < 30


QUALITY = {"jpg": {"quality": 98, "subsampling": 0}}


def test_modes(tmp_path):
    def read(image, name="a.png", **options):
        image.save(tmp_path / name, **options)
        return read_image(tmp_path / name)

    clear = np.dstack([flat(8, 8), np.zeros((8, 8), np.uint8)])
    clear[:, 4:, 3] = 255
    for name in ("a.png", "a.webp"):
        image = read(Image.fromarray(clear), name, **({"lossless": True} if name == "a.webp" else {}))
        assert (image[:, :4] == 255).all() and is_red(image[:, 4:])
    image = read(Image.fromarray(np.dstack([np.full((8, 8), 90, np.uint8), clear[..., 3]])))  # LA
    assert (image[:, :4] == 255).all() and (image[:, 4:] == 90).all()
    palette = Image.fromarray(np.repeat(np.uint8([[0, 1]]), 8, 0), "P")
    palette.putpalette([0, 255, 0, *RED])
    image = read(palette, transparency=0)
    assert (image[:, 0] == 255).all() and is_red(image[:, 1])
    assert (read(Image.fromarray(np.full((8, 8), 77, np.uint8))) == 77).all()  # L
    assert abs(read(Image.fromarray(np.full((8, 8), 77, np.uint8)), "a.jpg").astype(int) - 77).max() < 2
    assert (read(Image.fromarray(np.full((8, 8), 77 * 257, np.uint16))) == 77).all()  # 16 bit
    assert (read(Image.fromarray(np.full((8, 8), 0.5, np.float32)), "a.tiff") == 128).all()
    assert read(Image.fromarray(np.eye(8) > 0)).shape == (8, 8, 3)  # 1 bit
    cv2.imwrite(str(tmp_path / "b.png"), (flat(8, 8)[..., ::-1].astype(np.uint16) * 257))
    assert is_red(read_image(tmp_path / "b.png"))  # 16 bit RGB
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    image = read(cyan, "a.jpg", quality=98)
    assert image[..., 0].max() < 30 and image[..., 1:].min() > 200


def test_damaged(tmp_path):
    good = io.BytesIO()
    Image.fromarray(sketch()).save(good, "JPEG")
    good = good.getvalue()
    png = io.BytesIO()
    Image.fromarray(sketch()).save(png, "PNG")
    gif = io.BytesIO()
    frames = [Image.fromarray(np.roll(sketch(), shift, 0)) for shift in (0, 9, 33)]
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IEND", b"")
    files = {
        "empty.jpg": b"",
        "text.jpg": b"no picture",
        "cut.jpg": good[: -len(good) // 3],
        "end.jpg": good[:-2000],
        "cut.png": png.getvalue()[:-2000],
        "cut.gif": gif.getvalue()[:400],
        "bomb.png": bomb,
        "text.gif": b"GIF",
        "head.jpg": good[:10],
        "text.mp4": b"no video",
        "empty.mp4": b"",
        "empty.gif": b"",
    }
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(InputError) as error:
            list(read_frames(path))
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    for path in (tmp_path / "missing.jpg", tmp_path / "missing.gif", tmp_path / "missing.mp4", tmp_path):
        with pytest.raises(InputError, match=path.name):
            list(read_frames(path))
    (tmp_path / "whole.jpg").write_bytes(good)
    assert abs(read_image(tmp_path / "whole.jpg").astype(int) - sketch()).mean() < 3


def test_media_files(tmp_path):
    for name in ("b.JPG", "a.png", "sub/c.mp4", ".hidden/d.jpg", ".e.jpg", "notes.txt", "sub/odd.dat"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    names = [path.relative_to(tmp_path).as_posix() for path in media_files([tmp_path])]
    assert names == ["a.png", "b.JPG", "sub/c.mp4"]
    odd = tmp_path / "sub/odd.dat"
    assert media_files([odd, tmp_path / "sub"]) == [odd, tmp_path / "sub/c.mp4"]
    for bad in (tmp_path / "nowhere", tmp_path / ".hidden/none"):
        with pytest.raises(InputError, match=bad.name):
            media_files([bad])
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match="bare"):
        media_files(tmp_path / "bare")


# Writing

FRAMES = [flat(48, 64, colour) for colour in (RED, (20, 230, 30), (10, 20, 240))]


def write(path, pictures, **options):
    with Writer(path, **options) as writer:
        for picture in pictures:
            writer.add(picture)
        writer.keep()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.mp4", "a.avi"])
def test_what_is_written_is_read_again(tmp_path, name):
    pictures = FRAMES if name.endswith(("gif", "mp4", "avi")) else FRAMES[:1]
    write(tmp_path / name, pictures)
    read = [image for _, image in numbered_frames(tmp_path / name)]
    assert len(read) == len(pictures) and [path.name for path in tmp_path.iterdir()] == [name]
    for image, picture in zip(read, pictures, strict=True):
        assert image.shape == picture.shape and abs(image.astype(int) - picture).mean() < 8


def test_pauses_and_frame_rate_are_those_asked_for_or_of_the_source(tmp_path):
    stills = [Image.fromarray(frame) for frame in FRAMES]
    stills[0].save(tmp_path / "source.gif", save_all=True, append_images=stills[1:], duration=[70, 120, 0])
    write(tmp_path / "copy.gif", FRAMES, like=tmp_path / "source.gif")
    write(tmp_path / "longer.gif", FRAMES + FRAMES[:2], like=tmp_path / "source.gif")
    write(tmp_path / "own.gif", FRAMES, rate=5)
    for name, wanted in {"copy": [70, 120, 100], "longer": [70, 120, 100, 100, 100], "own": [200] * 3}.items():
        with Image.open(tmp_path / f"{name}.gif") as gif:
            assert gif.info["loop"] == 0
            assert [gif.seek(number) or gif.info["duration"] for number in range(gif.n_frames)] == wanted
    write(tmp_path / "own.mp4", FRAMES, rate=12)
    write(tmp_path / "copy.avi", FRAMES, like=tmp_path / "own.mp4")
    for name in ("own.mp4", "copy.avi"):
        video = cv2.VideoCapture(str(tmp_path / name))
        assert video.get(cv2.CAP_PROP_FPS) == 12
        video.release()


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.mp4"])
def test_what_is_not_kept_leaves_the_old_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"old")
    with Writer(tmp_path / name) as writer:
        writer.add(FRAMES[0])
    with pytest.raises(ZeroDivisionError), Writer(tmp_path / name) as writer:
        writer.add(1 / 0)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_what_cannot_be_written_is_one_line(tmp_path):
    for path, pictures, words in (
        (tmp_path / "a.png", FRAMES, "animated"),
        (tmp_path / "none/a.png", FRAMES[:1], "cannot be written"),
        (tmp_path / "none/a.mp4", FRAMES, "cannot write this kind of video here"),
        (tmp_path / "none/a.gif", FRAMES, "cannot be written"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            write(path, pictures)
        assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_film(tmp_path):
    pictures = np.stack([frame[:48, :48] for frame in FRAMES])
    write_film(tmp_path / "film", pictures)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.gif", "film.mp4"]
    assert [image.shape for _, image in numbered_frames(tmp_path / "film.gif")] == [(48, 48, 3)] * 3
    film = [image for _, image in numbered_frames(tmp_path / "film.mp4")]
    assert [image.shape for image in film] == [(256, 256, 3)] * 3 and is_red(film[0])


def test_pictures_of_a_folder(tmp_path):
    save_pictures(tmp_path, ["a", "sub/b"], np.stack(FRAMES[:2]))
    assert (read_image(tmp_path / "a.png") == FRAMES[0]).all() and (
        read_image(tmp_path / "sub/b.png") == FRAMES[1]
    ).all()


# Imports


@pytest.mark.parametrize(
    "module, others",
    [
        ("photos", ["torch", "joblib", "common.mtcnn", "common.celeba", "common.crop"]),
        ("mtcnn", ["torchvision", "joblib", "common.celeba", "common.crop"]),
        ("celeba", ["torchvision", "torch.utils.tensorboard", "joblib", "common.crop", "common.synthetic"]),
        ("synthetic", ["torchvision", "common.celeba", "common.crop"]),
    ],
)
def test_imports_go_one_way_and_nothing_heavy_comes_with_them(module, others):
    code = f"import sys, common.{module}; print(set({others}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "set()\n", done.stdout + done.stderr
