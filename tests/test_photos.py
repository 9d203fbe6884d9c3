"""common/photos.py: the reader and the writer of photos, GIFs and videos."""

import io
import os
import re
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

from common.celeba import whole_pictures
from common.mtcnn import TEMPLATE, align, crop
from common.photos import (
    InputError,
    Writer,
    named_files,
    numbered_frames,
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
    assert [number for number, _ in numbered_frames(tmp_path / name)] == [None]


def test_frames_of_video_and_gif(tmp_path):
    frames = [flat(48, 64, colour) for colour in (RED, (20, 230, 30), RED, (10, 20, 240), RED)]
    write_video(tmp_path / "clip.mp4", frames)
    first, *others = map(Image.fromarray, frames)
    first.save(tmp_path / "clip.gif", save_all=True, append_images=others)
    for name in ("clip.mp4", "clip.gif"):
        read = dict(numbered_frames(tmp_path / name))
        assert list(read) == [0, 1, 2, 3, 4]
        assert is_red(read[4]) and read[1][..., 1].min() > 150
        assert read[3][..., 2].min() > 150 and is_red(read_image(tmp_path / "clip.gif"))
        assert [number for number, _ in numbered_frames(tmp_path / name, every=2)] == [0, 2, 4]


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
            list(numbered_frames(path))
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "missing.jpg", tmp_path / "missing.gif", tmp_path / "missing.mp4", tmp_path / "pipe.jpg"):
        with pytest.raises(InputError, match=path.name):
            list(numbered_frames(path))
    (tmp_path / "whole.jpg").write_bytes(good)
    assert abs(read_image(tmp_path / "whole.jpg").astype(int) - sketch()).mean() < 3


def test_named_files(tmp_path):
    for name in ("b.JPG", "a.png", "sub/c.mp4", ".hidden/d.jpg", ".e.jpg", "notes.txt", "sub/odd.dat"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    names = [path.relative_to(tmp_path).as_posix() for path in named_files([tmp_path])[0]]
    assert names == ["a.png", "b.JPG", "sub/c.mp4"]
    odd = tmp_path / "sub/odd.dat"
    assert named_files([odd, tmp_path / "sub"])[0] == [odd, tmp_path / "sub/c.mp4"]
    for bad in (tmp_path / "nowhere", tmp_path / ".hidden/none"):
        with pytest.raises(InputError, match=bad.name):
            named_files([bad])
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match="bare"):
        named_files(tmp_path / "bare")


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "P", "I;16"])
def test_an_uncompressed_tiff_that_lies_on_its_side_is_read_upright(tmp_path, mode):
    image = Image.fromarray(sketch()[:, :200])
    image = image.quantize(200, dither=0) if mode == "P" else image.convert("L" if mode == "I;16" else mode)
    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image
    image.save(tmp_path / "upright.png" if mode != "CMYK" else tmp_path / "upright.tif")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "scan.tif", exif=exif)
    (upright,) = (read_image(path) for path in tmp_path.glob("upright.*"))
    assert (read_image(tmp_path / "scan.tif") == upright).all() and upright.shape == (320, 200, 3)


def test_names_in_no_encoding_and_names_that_are_addresses(tmp_path):
    """OpenCV crashes on the first and asks a server for the second."""
    place = tmp_path / os.fsdecode(b"caf\xe9")
    place.mkdir()
    write_video(tmp_path / "a.mp4", FRAMES)
    for name in (os.fsdecode(b"caf\xe9.mp4"), "12:30.mp4", "\u6f22\u5b57.mp4", "50%d.mp4"):
        (place / name).write_bytes((tmp_path / "a.mp4").read_bytes())
        assert len(list(numbered_frames(place / name))) == 3, ascii(name)
        write(place / f"out:{name}", FRAMES, like=place / name)
        assert len(list(numbered_frames(place / f"out:{name}"))) == 3, ascii(name)
    assert len(list(place.iterdir())) == 8
    code = "import os; from common.photos import *; print(len(list(numbered_frames('12:30.mp4')))); "
    code += "w = Writer('made:1/a.mp4'); os.mkdir('made:1'); w.add(read_image('a.png')); w.keep(); "
    code += "print(os.listdir('made:1'))"
    Image.fromarray(FRAMES[0]).save(place / "a.png")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=place, env=environment)
    assert done.stdout == "3\n['a.mp4']\n", done.stderr


def test_a_link_is_followed_once_and_a_loop_never(tmp_path, capsys):
    for name in ("set/a/1.png", "set/2.png", "elsewhere/deep/3.png", "elsewhere/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(FRAMES[0]).save(tmp_path / name)
    for link, target in dict(b="../elsewhere", c="a", loop=".", up="..", myself="myself", gone="nowhere").items():
        (tmp_path / "set" / link).symlink_to(target)
    (tmp_path / "set/5.png").symlink_to(tmp_path / "elsewhere/4.png")
    (tmp_path / "set/6.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "elsewhere/back").symlink_to("../set")
    (tmp_path / "link").symlink_to("set")
    for folder in ("set", "link"):
        names = ["2.png", "5.png", "6.png", "a/1.png", "b/4.png", "b/deep/3.png"]
        assert named_files(tmp_path / folder)[1] == names
    found = {name: why for (name, *_), _, why in whole_pictures(tmp_path / "set")}
    assert [name for name, why in found.items() if why] == ["6.png"] and "No such file" in found["6.png"]


def test_pictures_of_other_kinds_are_counted_and_named(tmp_path, capsys):
    for name in ("a.jfif", "b.JPE", "c.apng", "d.avif", "e.png"):
        kind = {"a": "JPEG", "b": "JPEG", "d": "AVIF"}.get(name[0], "PNG")
        Image.fromarray(FRAMES[0]).save(tmp_path / name, kind)
    for name in ("f.heic", "g.HEIC", "h.psd", "IMG_1", "notes.txt", ".hidden.heic"):
        (tmp_path / name).write_bytes(b"x")
    files, names = named_files(tmp_path)
    assert names == ["a.jfif", "b.JPE", "c.apng", "d.avif", "e.png"] and all(is_red(read_image(file)) for file in files)
    note = capsys.readouterr().err
    assert note.count("\n") == 1 and "4 files" in note and "2 .heic" in note and "1 .psd" in note and "txt" not in note
    for file in files:
        file.unlink()
    with pytest.raises(InputError, match="no pictures or videos.*2 .heic"):
        named_files(tmp_path)


def test_equal_names_are_told_apart(tmp_path):
    for name in ("nest/a/2.jpg", "nest/b/2.jpg", "nest/1.jpg", "other/a/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert named_files(tmp_path / "nest")[1] == ["1.jpg", "a/2.jpg", "b/2.jpg"]
    files = [tmp_path / name for name in ("nest/a/2.jpg", "nest/b/2.jpg", "other/a/2.jpg", "nest/1.jpg")]
    assert named_files(files)[1] == ["nest/a/2.jpg", "b/2.jpg", "other/a/2.jpg", "1.jpg"]


def test_an_animation_is_one_by_what_it_is(tmp_path):
    """Animated PNGs and AVIFs have frames too; a JPEG called .gif and a GIF called .jpg are read."""
    first, *others = map(Image.fromarray, FRAMES)
    for name in ("a.png", "a.apng", "a.webp", "a.avif"):
        first.save(tmp_path / name, "PNG" if "png" in name else None, save_all=True, append_images=others)
        assert [number for number, _ in numbered_frames(tmp_path / name)] == [0, 1, 2], name
    first.save(tmp_path / "b.gif", "JPEG", quality=98)
    first.save(tmp_path / "c.jpg", "GIF", save_all=True, append_images=others)
    first.save(tmp_path / "d.tif", save_all=True, append_images=others)
    for name in ("b.gif", "c.jpg", "d.tif"):
        ((number, image),) = numbered_frames(tmp_path / name)
        assert number is None and is_red(image), name


def test_a_frame_that_is_larger_than_its_gif_is_refused(tmp_path):
    """Pillow makes the picture as large as such a frame: 13 GB."""
    first, *others = map(Image.fromarray, FRAMES)
    first.save(tmp_path / "a.gif", save_all=True, append_images=others)
    data = (tmp_path / "a.gif").read_bytes()
    second = data.index(b"\x2c", data.index(b"\x2c") + 10)  # its descriptor: left, top, width, height
    while data[second - 8 : second - 5] != b"\x21\xf9\x04":
        second = data.index(b"\x2c", second + 1)
    (tmp_path / "a.gif").write_bytes(data[: second + 1] + b"\xff" * 8 + data[second + 9 :])
    with pytest.raises(InputError, match="exceeds limit"):
        list(numbered_frames(tmp_path / "a.gif"))


def test_a_png_with_a_profile_of_megabytes_is_read(tmp_path):
    Image.fromarray(FRAMES[0]).save(tmp_path / "a.png", icc_profile=profile(b"RGB ") + os.urandom(3_000_000))
    assert is_red(read_image(tmp_path / "a.png"))


# Writing

FRAMES = [flat(48, 64, colour) for colour in (RED, (20, 230, 30), (10, 20, 240))]


def write(path, pictures, **options):
    with Writer(path, **options) as writer:
        for picture in pictures:
            writer.add(picture)
        writer.keep()
    return writer


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
            assert [gif.seek(number) or gif.info["duration"] for number in range(gif.n_frames)] == wanted
    write(tmp_path / "own.mp4", FRAMES, rate=12)
    write(tmp_path / "copy.avi", FRAMES, like=tmp_path / "own.mp4")
    for name in ("own.mp4", "copy.avi"):
        video = cv2.VideoCapture(str(tmp_path / name))
        assert video.get(cv2.CAP_PROP_FPS) == 12
        video.release()


def profile(space):
    """A colour profile that says no more than what it is for."""
    return bytes(16) + space + bytes(108)


def photo(path, image, orientation=6, **more):
    """A photo as a camera writes it: EXIF with its place, on its side, a colour profile, a resolution."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Maker"
    exif[0x8769], exif[0x8825] = {0x829A: 0.01}, {1: "N"}
    image.save(path, exif=exif.tobytes(), dpi=(300, 300), icc_profile=profile(b"RGB "), **more)


@pytest.mark.parametrize("source", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_a_photo_keeps_profile_exif_and_resolution(tmp_path, source, suffix):
    photo(tmp_path / f"p.{source}", Image.fromarray(FRAMES[0]))
    pixels = read_image(tmp_path / f"p.{source}")
    assert pixels.shape == (64, 48, 3)
    lost = write(tmp_path / f"q.{suffix}", [pixels], like=tmp_path / f"p.{source}").lost
    with Image.open(tmp_path / f"q.{suffix}") as image:
        exif = image.getexif()
        assert image.info["icc_profile"] == profile(b"RGB ") and lost == []
        assert exif.get(0x0112, 1) == 1 and exif[0x010F] == "Maker" and exif.get_ifd(0x8825)[1] == "N"
        assert float(exif.get_ifd(0x8769)[0x829A]) == 0.01
        if source != "webp":  # which has no place for it
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert read_image(tmp_path / f"q.{suffix}").shape == (64, 48, 3)


def test_what_a_photo_cannot_keep_is_said(tmp_path):
    big = Image.Exif()
    big[0x010F] = "x" * 70_000  # JPEG has room for 64 kB
    Image.fromarray(FRAMES[0]).save(tmp_path / "a.png", exif=big, dpi=(72, 72))
    Image.fromarray(FRAMES[0]).convert("CMYK").save(tmp_path / "b.jpg", icc_profile=profile(b"CMYK"))
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(tmp_path / "c.png")
    cv2.imwrite(str(tmp_path / "d.png"), np.zeros((48, 64, 3), np.uint16))
    names = ("a.png", "b.jpg", "c.png", "d.png")
    lost = [write(tmp_path / f"{n}.out.jpg", FRAMES[:1], like=tmp_path / n).lost for n in names]
    assert lost[0] == ["exif"] and "profile" in lost[1][0] and "CMYK" in lost[1][1] and "16 bits" in lost[2][0]
    assert lost[3] == ["16 bits: now RGB, 8 bits"], "in colour too"
    with Image.open(tmp_path / "a.png.out.jpg") as image:
        assert image.info["dpi"] == (72, 72)
    with Image.open(tmp_path / "b.jpg.out.jpg") as image:
        assert "icc_profile" not in image.info and image.mode == "RGB"


def test_a_picture_too_wide_for_its_format_is_a_mistake_that_is_named(tmp_path):
    wide = np.zeros((4, 17_000, 3), np.uint8)  # WebP ends at 16383
    Image.fromarray(wide).save(tmp_path / "a.png", dpi=(72, 72))
    for like in (None, tmp_path / "a.png"):
        with pytest.raises(InputError, match="b.webp cannot be written: .*16383"):
            write(tmp_path / "b.webp", [wide], like=like)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_transparency_is_kept_or_said(tmp_path):
    clear = np.dstack([flat(32, 48), np.zeros((32, 48), np.uint8)])
    clear[8:, :, 3], clear[16:, :, 3] = 128, 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(clear).save(tmp_path / "a.png", exif=exif)
    pixels = read_image(tmp_path / "a.png")
    assert write(tmp_path / "same.png", [pixels], like=tmp_path / "a.png").lost == []
    upright = np.rot90(clear, -1)
    with Image.open(tmp_path / "same.png") as image:
        assert (np.asarray(image) == upright).all(), "what did not change is exact"
    pixels[:10] = np.where(upright[:10, :, 3:] == 128, (128, 255, 128), (0, 255, 0))  # green, as white shines through
    write(tmp_path / "green.png", [pixels], like=tmp_path / "a.png")
    with Image.open(tmp_path / "green.png") as image:
        green = np.asarray(image)[:10][upright[:10, :, 3] > 0]
        assert (abs(green[:, :3].astype(int) - (0, 255, 0)) < 3).all() and set(green[:, 3]) == {128, 255}
    for name, picture in (("a.jpg", pixels), ("wide.png", np.concatenate([pixels, pixels], 1))):
        assert write(tmp_path / name, [picture], like=tmp_path / "a.png").lost == ["transparency: now white"]


@pytest.mark.parametrize("loop", [None, 0, 3])
def test_a_gif_goes_round_as_often_as_its_source(tmp_path, loop):
    first, *others = map(Image.fromarray, FRAMES)
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, **({} if loop is None else dict(loop=loop)))
    write(tmp_path / "b.gif", FRAMES, like=tmp_path / "a.gif")
    for name in ("a.gif", "b.gif"):
        with Image.open(tmp_path / name) as gif:
            assert gif.info.get("loop") == loop and gif.n_frames == 3


@pytest.mark.parametrize("suffix", ["mp4", "avi"])
def test_a_video_of_an_odd_size_loses_no_row_and_says_so(tmp_path, suffix):
    pictures = [np.full((361, 301, 3), 60 * i, np.uint8) for i in range(3)]
    lost = write(tmp_path / f"a.{suffix}", pictures).lost
    read = [image for _, image in numbered_frames(tmp_path / f"a.{suffix}")]
    assert [image.shape for image in read] == [(362, 302, 3)] * 3 and "302 x 362" in lost[0]
    assert abs(read[2][-1, -1].astype(int) - 120).max() < 12


def test_a_varying_frame_rate_keeps_its_rhythm(tmp_path):
    """OpenCV writes Matroska with a steady rate; the times of its frames are moved here."""
    pictures = [np.full((48, 64, 3), 60 * i, np.uint8) for i in range(4)]
    write(tmp_path / "a.mkv", pictures, rate=10)
    data, times = (tmp_path / "a.mkv").read_bytes(), {0: 0, 100: 100, 200: 400, 300: 500}
    for old in (300, 200):
        pattern = b"\x81" + re.escape(struct.pack(">h", old)) + rb"(?=[\x00\x80])"
        data, count = re.subn(pattern, lambda m, old=old: b"\x81" + struct.pack(">h", times[old]), data, flags=re.S)
        assert count == 1
    (tmp_path / "b.mkv").write_bytes(data)
    lost = write(tmp_path / "c.mp4", pictures, like=tmp_path / "b.mkv").lost
    shown = [round(image.mean() / 60) for _, image in numbered_frames(tmp_path / "c.mp4")]
    assert shown == [0, 1, 1, 1, 2, 3] and "frame rate" in lost[0]
    assert write(tmp_path / "d.mp4", pictures, like=tmp_path / "a.mkv").lost == ["sound, if it had any"]
    assert len(list(numbered_frames(tmp_path / "d.mp4"))) == 4


@pytest.mark.parametrize("suffix", ["png", "gif", "mp4"])
def test_a_name_as_long_as_names_can_be_is_written(tmp_path, suffix):
    for name in ("x" * (255 - len(suffix) - 1) + f".{suffix}", "\u6f22" * 83 + f".{suffix}"):
        write(tmp_path / name, FRAMES if suffix != "png" else FRAMES[:1])
        assert len(list(numbered_frames(tmp_path / name))) == (3 if suffix != "png" else 1)
    with pytest.raises(InputError, match="too long"):
        write(tmp_path / ("x" * 252 + ".png"), FRAMES[:1])
    assert len(list(tmp_path.iterdir())) == 2


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


def test_nothing_heavy_comes_with_an_import():
    """One after the other in one process: what a module may not bring is not there once it is imported."""
    steps = (
        ("photos", ["torch", "joblib", "common.mtcnn", "common.celeba", "common.crop"]),
        ("mtcnn", ["torchvision", "joblib", "common.celeba", "common.crop"]),
        ("celeba", ["torchvision", "torch.utils.tensorboard", "joblib", "common.crop", "common.synthetic"]),
        ("synthetic", ["torchvision", "common.crop"]),
    )
    code = "".join(f"import common.{module}; print(set({others}) & set(sys.modules))\n" for module, others in steps)
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}"], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "set()\n" * 4, done.stdout + done.stderr
