"""The READMEs' commands, as they are printed, in their order, on small drawn data, in a folder of their own.

`make test`: of each project the first training, the first use and what is printed under "In Python"; every command's
flags are read. `make readme`: all of them, twice, in the same folder.
"""

import importlib
import io
import os
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from test_parallel import PROJECTS

from common.synthetic import write

WHOLE = os.environ.get("README") == "whole"
QUICK = {  # what makes a training of two steps short; sizes of pictures and networks stay as they are printed
    "hyperencoder": "--batch_size 4", "dapgan": "--batch_size 4", "facegen_attr": "--batch_size 4",
    "deep_makeover": "--batch_size 2 --min_faces 2", "face_math": "--batch_size 4",
}  # fmt: skip
# What is printed and cannot run here, and why.
ELSEWHERE = {
    "torchrun": "8 GPUs, or two machines; tests of each project run two processes",
    "--data mnist": "MNIST is fetched",
    "--data digits": "scikit-learn is an extra",
    "--recovery_loss vgg16": "VGG16's weights are fetched",
    "--web": "a page that stays until it is closed: make test-web",
    "python benchmarks/": "packages of their own, and judges that take minutes; tests/test_quality.py",
    "--download": "gdown, and Google Drive",
}


def commands(text):
    """The commands of indented blocks: each a list of words. Comments and continued lines are understood."""
    lines = re.sub(r"\\\n\s*", "", text)
    found = re.findall(r"^    ((?:python|torchrun) .*)$", lines, re.M)
    return [shlex.split(line, comments=True) for line in found]


def readme(project):
    """Its "Run it": the commands, and what is printed under "In Python"."""
    text = (ROOT / project / "README.md").read_text(encoding="utf-8")
    text = text[text.index("## Run it") : text.index("## How it works")]
    before, _, code = text.partition("In Python:\n")
    return commands(before), re.sub(r"^    ", "", code, flags=re.M)


def elsewhere(words):
    """Why a command cannot run here; None if it can."""
    return next((why for sign, why in ELSEWHERE.items() if sign in " ".join(words)), None)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with all that the commands name."""
    home = tmp_path_factory.mktemp("readme")
    write(home / "data/celeba", count=240, seed=0, identities=60)
    table = home / "data/celeba/list_attr_celeba.txt"  # all are what deep_makeover's modes ask for, Male aside
    lines = [line.split() for line in table.read_text().splitlines()]
    for name, value in dict(Attractive="1", Eyeglasses="-1", No_Beard="1", Goatee="-1", Mustache="-1").items():
        for number, line in enumerate(lines[2:]):
            line[lines[1].index(name) + 1] = value if number % 8 else "-1" if name == "No_Beard" else "1"
    table.write_text("\n".join(map(" ".join, lines)) + "\n")
    photos = [Image.open(path) for path in sorted((home / "data/celeba/img_align_celeba").iterdir())[:30]]
    people = [f"two_people/{who}/{number}.jpg" for who in ("anna", "ben") for number in range(10, 22)]
    files = "me.jpg friend.jpg a.jpg b.jpg holiday/1.jpg holiday/2.jpg c/1.jpg me/1.jpg me/2.jpg"
    for name in [*files.split(), *people]:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        photos.append(photos.pop(0))
        photos[-1].save(home / name)
    for name in ("anna.mp4", "clip.mp4"):
        video = cv2.VideoWriter(str(home / name), cv2.VideoWriter_fourcc(*"mp4v"), 5, (178, 218))
        for photo in photos[:2]:
            video.write(np.asarray(photo)[..., ::-1])
        video.release()
    return home


@pytest.fixture
def call(home, monkeypatch):
    """call(words): the command in this process, as if the projects stood in that folder; trainings have 2 steps."""

    def call(words):
        project = Path(words[1]).parts[0]
        script = importlib.import_module(f"{project}.main")
        flags = words[2:] + ["--workers", "0"]
        monkeypatch.setattr(script.plumbing, "PROJECT", home / project)
        verb = script.parse_args(flags).run
        if verb.startswith("train"):
            flags += ["--steps", "2", "--epoch", "1", *QUICK[project].split()]
        elif "--count" in flags and int(flags[flags.index("--count") + 1]) > 20 or verb in ("sample", "compare"):
            flags += ["--count", "4"]
        if verb == "augment":  # nothing that was trained for two steps passes
            flags += ["--min_identity", "0", "--min_quality", "0"]
        if verb == "inference":  # likewise
            flags += ["--keep_all"]
        if verb == "tune":
            monkeypatch.setattr("facegen_attr.tune.STEPS", 2)
        if verb == "evaluate":
            flags += ["--seeds", "2", "--few", "2"]
        if "n_iter" in vars(script.parse_args(flags)) and (project != "hyperencoder" or verb == "test"):
            flags += ["--n_iter", "2"]
        try:
            script.main(flags)
        except SystemExit as stop:
            assert not stop.code, " ".join(words)

    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "stdin", io.StringIO("+Smiling\nundo\nquit\n"))
    return call


@pytest.mark.parametrize("project", PROJECTS)
def test_every_flag_that_is_printed_is_there(project, home, monkeypatch):
    monkeypatch.chdir(home)
    script = importlib.import_module(f"{project}.main")
    monkeypatch.setattr(script.plumbing, "PROJECT", home / "nothing" / project)
    lines, _ = readme(project)
    assert len(lines) > 8 and "--recipe" in lines[0], "the laptop's command comes first"
    for words in lines:
        words = words[next(i for i, word in enumerate(words) if word.endswith(".py")) :]
        if words[0] == f"{project}/main.py":
            flags = words[1:] if any("--dataset" in word for word in words) else [*words[1:], "--dataset_name=celeba"]
            assert script.parse_args(flags).run


@pytest.mark.parametrize("project", PROJECTS)
def test_run_it_from_top_to_bottom_and_again(project, home, call, capsys):
    lines, code = readme(project)
    lines = [words for words in lines if not elsewhere(words)]
    if not WHOLE:  # the first training, and the first use of what it has trained
        own = [words for words in lines if "--images" in words and "swap" not in words and "dcgan5" not in words]
        lines = lines[:1] + [words for words in lines if {"sample", "generate"} & set(words)][:1] or own[:1]
    for _ in range(2 if WHOLE else 1):
        for words in lines:
            call(words)
            sys.stdin.seek(0)
        exec(compile(code, f"{project}/README.md", "exec"), {})
    capsys.readouterr()


@pytest.mark.parametrize("file", ["README.md", *(f"{project}/README.md" for project in PROJECTS)])
def test_what_a_readme_shows_is_there(file):
    """Pictures and links lead somewhere."""
    text = (ROOT / file).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / file).parent / target).exists(), f"{file}: {target}"


@pytest.mark.skipif(not WHOLE, reason="make readme")
def test_the_root_readme(home, call, monkeypatch):
    """Its blocks, and the commands of its table that stand there in full, real names in place of the letters."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    letters = {"D": "data/celeba", "O": "cut", "M": "dcgan2", "DIR": "holiday", "4000": "4"}
    rows = [shlex.split(line) for line in re.findall(r"^\| `(python [^`]*)`", text, re.M)]
    listed = [[letters.get(word, word) for word in words] for words in rows if not elsewhere(words)]
    for words in listed:
        if words[1].startswith("dapgan"):  # its --model M is another's
            words[words.index("dcgan2")] = "info_began"
    assert len(listed) > 6
    for _ in range(2):
        for words in [*commands(text), *listed]:
            if words[1].startswith("common/"):
                words = [word.replace("data/celeba", "drawn") if "synthetic" in words[1] else word for word in words]
                shutil.rmtree(home / "drawn", ignore_errors=True)
                monkeypatch.setattr(sys, "argv", words[1:])
                try:
                    runpy.run_path(str(ROOT / words[1]), run_name="__main__")
                except SystemExit as stop:
                    assert not stop.code, " ".join(words)
            elif not elsewhere(words):
                call(words)


def test_folders_that_the_commands_make_are_ignored_by_git():
    text = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"/data/", "/*.jpg", "records/", "samples/", "checkpoint/", "*/models/"} <= set(text)
