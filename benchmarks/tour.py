"""One's own face in all five projects: every project's main verb on one photo, on one sheet and one page.

    make tour PHOTO=me.jpg
    python benchmarks/tour.py --photo me.jpg --out_dir out_tour
Without a photo it takes astronaut.jpg beside this file: Eileen Collins, photographed by NASA, in the public domain
(Great Images in NASA, flic.kr/p/r9qvLn, as scikit-image ships it; cut to the head and shoulders). The models are those
that come with the program, or, where one is missing, one's own. A page (index.html) shows before and after side by
side with the command for each; tour.png is all of it in one picture. Everything the verbs wrote lies beside them.
"""

import argparse
import contextlib
import html
import importlib
import io
import itertools
import os
import shlex
import sys
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

ROOT = MODELS = Path(__file__).resolve().parents[1]  # MODELS: where <project>/<name>.pt lie
sys.path.insert(0, str(ROOT))
from common.mtcnn import MTCNN, pick, square_around
from common.photos import InputError, new_folder, read_image, run_script, save_sheet
from hyperencoder.plumbing import fail, path

SIDE = 160  # pixels of a picture on the sheet
OTHERS = {"infogan": ["info_began"]}  # which may be shipped in its place


class Stop(NamedTuple):
    """A verb on the photo. file: of its model; pairs(folder, photo): (caption, picture) of what is to be shown."""

    title: str
    text: str
    file: str
    line: str
    pairs: object


def manifest(out):
    """The rows of a folder's manifest."""
    return [line.split("\t") for line in (out / "manifest.tsv").read_text(encoding="utf-8").splitlines()[1:]]


def repeated(out, photo):
    made, source = manifest(out)[0]
    yield "the face, as it is cut", out / source
    yield "from its 100 numbers", out / made


def completed(out, photo):
    yield "what is known", next(out.glob("photos/*_masked.png"))
    yield "filled", next(file for file in out.glob("photos/*.png") if not file.stem.endswith("_masked"))


def added(out, photo):
    yield "the photo", photo
    for file in sorted(out.glob("photos/*/*.png")):
        yield f"{file.parent.name} {file.stem.rpartition('_')[2]}", file


def refined(out, photo):
    yield "the photo", photo
    requests = [request for _, request, *_ in manifest(out)]
    files = sorted(out.glob("photos/*.png"), key=lambda file: (len(file.stem), file.stem))
    yield from zip(requests, files, strict=False)


def made_over(out, photo):
    yield "the photo", photo
    yield "made over", next(out.glob("*.png"))


def varied(out, photo):
    yield "the face, as it is cut", next(out.glob("originals/*.png"))
    for number, file in enumerate(sorted(out.glob("pictures/*.png")), 1):
        yield f"varied {number}", file


STOPS = [
    Stop("hyperencoder: a face as 100 numbers, and back", "The encoder reads 100 numbers in the face; from them alone "
         "the decoder draws it.", "hyperencoder/best", "--train=False", repeated),
    Stop("face_math: a hole, filled", "What the hole hides is made up from what surrounds it.",
         "face_math/gan", "--run complete --search best", completed),
    Stop("face_math: a smile, added or taken away", "A direction in the numbers that the GAN draws faces from.",
         "face_math/gan", "--run arithmetic --search best --attributes Smiling,Eyeglasses --strengths=-2,2", added),
    Stop("facegen_attr: changed as asked for", "One attribute after the other is turned round; no label was given: a "
         "small network reads what the photo shows.", "facegen_attr/dcgan5", "--run generate --count 8", refined),
    Stop("deep_makeover: men to women", "Trained on men as the source, on women as the target.",
         "deep_makeover/mtf", "--run inference --keep_all", made_over),
    Stop("deep_makeover: women to men", "The same networks, trained the other way.",
         "deep_makeover/ftm", "--run inference --train_mode ftm --keep_all", made_over),
    Stop("dapgan: one picture, varied into many", "What a step in the latent changes in the drawn face is done to the "
         "photo; what has become another person is refused.", "dapgan/infogan", "--run augment --count 8", varied),
]  # fmt: skip


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: sys.exit(fail(message))
    parser.add_argument("--photo", type=path, default=str(Path(__file__).with_name("astronaut.jpg")), help="a face")
    parser.add_argument("--out_dir", type=path, help="default: out_tour, else out_tour_2 and so on, here")
    parser.add_argument("--overwrite", action="store_true", help="write into an --out_dir that is not empty")
    return parser.parse_args(argv)


def face_window(image, photo):
    """What of the photo is shown, (left, top, right, bottom): the largest face and what surrounds it, a square."""
    (boxes,), _, _ = MTCNN().detect([image])
    if not len(boxes):
        raise InputError(f"no face found in {photo}: take another, or a larger one (20 pixels at least)")
    left, top, side = square_around(boxes[pick(boxes, image.shape, "largest")], 1.7)
    height, width = image.shape[:2]
    side = min(side, height, width)
    left, top = max(0, min(left, width - side)), max(0, min(top, height - side))
    return left, top, left + side, top + side


def visit(stop, photo, folder):
    """Run a stop's verb; returns its seconds, and what went wrong, if anything did."""
    project, name = stop.file.split("/")
    files = [MODELS / project / f"{model}.pt" for model in (name, *OTHERS.get(name, ()))]
    shipped = next((file for file in files if file.exists()), None)
    own = ["--model_path", str(shipped)] if shipped else []
    words = [*stop.line.split(), "--images", str(photo), "--out_dir", str(folder), *own, "--overwrite"]
    began, said = time.monotonic(), io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            importlib.import_module(f"{project}.main").main(words)
    except SystemExit as stopped:
        if stopped.code == 130:
            raise KeyboardInterrupt from None
        if stopped.code:
            return time.monotonic() - began, said.getvalue().strip().splitlines()[-1].removeprefix("error: ")
    return time.monotonic() - began, ""


def close(file, image, window):
    """A picture as it is shown: of one that has the photo's size the window, else the whole, SIDE pixels large."""
    picture = read_image(file)
    if picture.shape == image.shape:
        left, top, right, bottom = window
        picture = picture[top:bottom, left:right]
    larger = picture.shape[0] < SIDE
    return cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC if larger else cv2.INTER_AREA)


def main(argv=None):
    """Visit every stop, write sheet and page; returns the page."""
    args = parse_args(argv)
    began, photo = time.monotonic(), Path(args.photo).absolute()
    image = read_image(photo)
    window = face_window(image, photo)
    names = itertools.chain(["out_tour"], (f"out_tour_{i}" for i in range(2, 10**6)))
    out = Path(args.out_dir or next(name for name in names if not os.path.exists(name)))
    new_folder(out, args.overwrite)
    # Of a GIF the first picture, of which the verbs would make a GIF; in a folder of its own, whatever its name.
    still = out.absolute() / "photo" / f"{photo.stem}.png"
    still.parent.mkdir(exist_ok=True)
    Image.fromarray(image).save(still)

    rows, sections = {}, []
    for number, stop in enumerate(STOPS, 1):
        folder = out / f"{number}_{stop.file.replace('/', '_')}"
        project, words = stop.file.split("/")[0], shlex.join(["--images", photo.name])
        command = f"python {project}/main.py {stop.line} {words}"
        print(f"\n{number} of {len(STOPS)}: {command}", flush=True)
        seconds, wrong = visit(stop, still, folder.absolute())
        shown = []
        if wrong:
            print(f"left out: {wrong}")
        else:
            for i, (caption, file) in enumerate(stop.pairs(folder, still)):
                small = out / "shown" / f"{number}_{i}.png"
                small.parent.mkdir(exist_ok=True)
                Image.fromarray(close(file, image, window)).save(small)
                shown.append((caption, small, file))
            told = ", ".join(caption for caption, *_ in shown)
            rows[f"{stop.title} ({seconds:.0f} s): {told}"] = np.stack([read_image(small) for _, small, _ in shown])
        sections.append(section(stop, command, seconds, wrong, shown, out))
    if not rows:
        still.unlink()
        with contextlib.suppress(OSError):
            still.parent.rmdir()
            out.rmdir()
        raise InputError(f"no project has a model to show: {wrong}")
    save_sheet(out / "tour.png", rows, columns=9)
    seconds = time.monotonic() - began
    page = out / "index.html"
    page.write_text(PAGE.format(sections="\n".join(sections), seconds=seconds), encoding="utf-8")
    print(f"\n{len(rows)} of {len(STOPS)} stops in {seconds:.0f} seconds; all in one picture: {out / 'tour.png'}")
    print(page)
    return page


def section(stop, command, seconds, wrong, shown, out):
    """A stop on the page: what it does, its command, before and after side by side, each a link to the whole."""
    figures = []
    for caption, small, file in shown:
        whole = os.path.relpath(file, out) if out.absolute() in file.absolute().parents else small.relative_to(out)
        names = html.escape(str(whole)), html.escape(str(small.relative_to(out))), html.escape(caption)
        figures.append('<figure><a href="{0}"><img src="{1}" alt="{2}"></a><figcaption>{2}</figcaption></figure>'
                       .format(*names))  # fmt: skip
    said = html.escape(f"left out: {wrong}" if wrong else f"{seconds:.0f} seconds")
    title, text = html.escape(stop.title), html.escape(stop.text)
    body = "\n".join(figures)
    return f"<h2>{title}</h2>\n<p>{text}</p>\n<pre>{html.escape(command)}</pre>\n<p>{said}</p>\n<div>{body}</div>"


PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>One face in five projects</title>
<style>
body {{ font-family: sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; }}
figure {{ display: inline-block; margin: 0 1em 1em 0; text-align: center; }}
figcaption {{ font-size: 0.8em; }}
pre {{ background: #eee; padding: 0.5em; overflow-x: auto; }}
</style></head><body>
<h1>One face in five projects</h1>
<p>Made by small networks that were trained on half-size faces: what they draw is 64 to 100 pixels large, and soft.
A picture leads to the whole. {seconds:.0f} seconds in all.</p>
{sections}
</body></html>
"""

if __name__ == "__main__":
    run_script(main)
