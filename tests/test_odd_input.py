"""Photos, folders and names as people have them, through the command lines of all five projects."""

import argparse
import contextlib
import importlib
import io
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import trainings
from PIL import Image
from test_parallel import PROJECTS

from common.synthetic import draw

ODD = os.fsdecode(b"caf\xe9")  # in no encoding
TRAIN = {
    "hyperencoder": "--train=True --recipe best",
    "dapgan": "--run train --model info_began --recipe best",
    "facegen_attr": "--run train --model dcgan2 --recipe best",
    "deep_makeover": "--run train --recipe best",
    "face_math": "--run train --recipe best",
}
VERB = {
    "hyperencoder": "--run anomaly --recipe best --images ~/nest",
    "dapgan": "--run recover --model info_began --recipe best --n_iter 2 --images ~/nest",
    "facegen_attr": "--run generate --model dcgan2 --recipe best --request Male=1 --count 2",
    "deep_makeover": "--run inference --recipe best --images ~/nest --out_dir ~/made",
    "face_math": "--run project --recipe best --start random --n_iter 2 --images ~/nest",
}
SMALL = trainings.SMALL | {"deep_makeover": "--source Smiling=0 --target Smiling=1 --min_faces 5 --batch_size 2"}
PLACES = "--record_dir ~/records --checkpoint_dir ~/checkpoint --model_path ~/models --sample_dir ~/samples".split()


def call(project, *parts):
    """main() of a project in this process, with flags in texts or lists; returns its exit code."""
    line = [str(word) for part in parts for word in (part.split() if isinstance(part, str) else part)]
    try:
        importlib.import_module(f"{project}.main").main([*SMALL[project].split(), "--workers", "0", *line])
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture(scope="module")
def home(faces, tmp_path_factory):
    """A home folder with a data set whose name and one of whose pictures are in no encoding, and nested photos."""
    home = tmp_path_factory.mktemp("home")
    data = shutil.copytree(faces, home / f"{ODD} 漢")
    os.rename(data / "img_align_celeba/000005.jpg", data / f"img_align_celeba/{ODD}.jpg")
    for table in data.glob("*.txt"):
        table.write_bytes(table.read_bytes().replace(b"000005.jpg", b"caf\xe9.jpg"))
    (home / "set").symlink_to(data)
    for name in ("nest/a/2.jpg", "nest/b/2.jpg", f"nest/{ODD}.jpg", "nest/" + "漢" * 83 + ".jpg"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(5)[0]).save(home / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        yield home


def places_in(folder, faces):
    """The flags that keep what a run writes below a folder; packed pictures lie beside the data set, for all tests."""
    return [word.replace("~", str(folder)) for word in PLACES] + ["--record_dir", str(faces.parent / "records")]


def on_a_western_terminal(project, *parts):
    """Exit code, and what is printed on a terminal that can show neither such names nor kanji."""
    with io.TextIOWrapper(io.BytesIO(), encoding="cp1252") as stream, contextlib.redirect_stdout(stream):
        code = call(project, *parts)
        stream.flush()
        return code, stream.buffer.getvalue().decode("cp1252")


@pytest.mark.parametrize("project", PROJECTS)
def test_names_in_no_encoding_through_training_and_a_verb(project, home, capfd):
    """Rows 1, 3, 5, 12 and 14: nothing stops, tables have every name as it is, ~ is a folder's name nowhere."""
    data = ["--dataset_dir", f"~/{ODD} 漢", *PLACES]
    code, printed = on_a_western_terminal(project, data, TRAIN[project], "--steps 2")
    assert code == 0, capfd.readouterr().err
    assert re.search(r"^watch it: tensorboard --logdir '.*caf\? \?.*/logs'$", printed, re.M), "quoted"
    assert on_a_western_terminal(project, data, VERB[project])[0] == 0, capfd.readouterr().err
    if "~/nest" in VERB[project] and project != "deep_makeover":
        tables = [path.read_bytes() for path in (home / "samples").rglob("*.[ct]sv")]
        tables = [table for table in tables if re.search(rb"\ba[/_]2", table)]
        assert tables and all(re.search(rb"\bb[/_]2", table) and b"caf\xe9" in table for table in tables)
    elif project == "deep_makeover":
        made = {os.fsencode(path.name) for path in (home / "made").iterdir()}
        assert made >= {b"2.png", b"2_2.png", b"caf\xe9.png", ("漢" * 80 + ".png").encode()}
        of = dict(line.split(b"\t") for line in (home / "made/manifest.tsv").read_bytes().splitlines())
        assert of[b"2.png"].endswith(b"/nest/a/2.jpg") and of[b"2_2.png"].endswith(b"/nest/b/2.jpg")
    assert not list(Path.cwd().glob("~*"))
    for place in ("checkpoint", "models", "samples", "made"):  # the next project begins with none
        shutil.rmtree(home / place, ignore_errors=True)


def test_a_data_set_that_is_a_link_has_one_name(home, capsys):
    """Row 4: what training names, the printed next command finds."""
    assert call("face_math", "--dataset_dir ~/set", PLACES, TRAIN["face_math"], "--steps 2") == 0
    assert (home / "models/set_32_best.pt").is_file() and list((home / "records").glob("set-*"))
    assert call("face_math", "--dataset_name set --run sample --recipe best --count 2", PLACES) == 0
    assert "models/set_32_best.pt" in capsys.readouterr().out


@pytest.mark.parametrize("project", PROJECTS)
def test_every_flag_that_is_a_place_knows_the_home_folder(project, home, monkeypatch):
    """Row 5, whole: of all flags of a project, by their names and their help."""
    found = {}

    class Seen(Exception):
        pass

    def look(parser, *_, **__):
        found.update({a.option_strings[0]: a for a in parser._actions if a.option_strings})
        raise Seen

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", look)
    with pytest.raises(Seen):
        importlib.import_module(f"{project}.main").parse_args([])
    words = r"_dir$|_path$|_file$|file$|_model$|_from$|images$|minus$|plus$|mask$|dataset$"
    places = [name for name, action in found.items() if re.search(words, name) and action.nargs != "?"]
    assert len(places) >= 7
    for name in places:
        if found[name].choices is None:
            assert found[name].type and found[name].type("~/a") == f"{home}/a", name
            with pytest.raises(argparse.ArgumentTypeError):
                found[name].type(" ")


@pytest.mark.parametrize("project", PROJECTS)
def test_a_place_that_cannot_be_written_is_refused_before_any_work(project, home, faces, tmp_path, capsys):
    """Row 6: below a plain file, a file itself, a name that is too long; nothing is made on the way."""
    (tmp_path / "file").write_text("mine")
    data = f"--dataset_dir {faces} --record_dir {tmp_path}/new/records"
    good = {f"--{name}": f"{tmp_path}/new/{name}" for name in ("checkpoint_dir", "model_path", "sample_dir")}
    for bad in (f"{tmp_path}/file/deep/er", f"{tmp_path}/file", f"{tmp_path}/{'x' * 256}", "/proc/none"):
        for flag in good:
            places = [part for pair in (good | {flag: bad}).items() for part in pair]
            assert call(project, data, places, TRAIN[project], "--steps 2") == 2, (flag, bad)
            error = capsys.readouterr().err
            assert error.startswith(f"error: {flag}: ") and error.count("\n") == 1, error
        verb = [word for word in VERB[project].replace("~", str(home)).split() if not word.endswith("/made")]
        verb = " ".join(word for word in verb if word != "--out_dir")
        out = {"--sample_dir": good["--sample_dir"], "--out_dir": bad}
        assert call(project, data, verb, [part for pair in out.items() for part in pair]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: --out_dir") and error.count("\n") == 1, error
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("script", ["celeba", "crop", "synthetic"])
def test_common_commands_below_a_plain_file(script, faces, tmp_path, monkeypatch, capsys):
    """Row 6, the commands of common/."""
    (tmp_path / "file").write_text("mine")
    where = f"{tmp_path}/file/deeper"
    line = {"celeba": f"--dataset_dir {faces} --record_dir {where} --size 16 --crop square",
            "crop": f"--in_dir {faces}/img_align_celeba/000001.jpg --out_dir {where}",
            "synthetic": f"--out_dir {where} --count 3"}[script]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [script, *line.split()])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"common.{script}").main()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and re.fullmatch(r"error: .*\n", error), error
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(("flags", "world"), [("--batch_size 1", 1), ("--batch_size 2", 2)])
def test_a_batch_of_one_with_batch_norm_is_refused_by_the_flags(flags, world, monkeypatch, capsys):
    """Row 7: before the data set is looked for."""
    from hyperencoder.main import main

    monkeypatch.setenv("WORLD_SIZE", str(world))
    with pytest.raises(SystemExit) as stop:
        main(["--dataset_dir", "/nowhere", "--recipe", "best", *flags.split()])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and f"batch norm needs {2 * world} at least" in error and error.count("\n") == 1


@pytest.mark.parametrize("project", PROJECTS)
def test_every_training_can_do_with_few_pictures_or_says_why(project, faces, tmp_path, capsys):
    """Row 7, whole: --batch_size 1 trains, or is refused in one line."""
    places = places_in(tmp_path, faces)
    code = call(project, f"--dataset_dir {faces}", places, TRAIN[project], "--steps 1 --batch_size 1")
    error = capsys.readouterr().err.splitlines()
    assert code == 0 or code == 2 and error[-1].startswith("error: "), error


@pytest.mark.parametrize("project", PROJECTS)
def test_a_run_that_has_diverged_begins_anew(project, faces, tmp_path, capsys):
    """Row 15: the message names the way out, the way out works, and what was there is moved aside, not deleted."""
    places = places_in(tmp_path, faces)
    line = (f"--dataset_dir {faces}", places, TRAIN[project], "--log_every 1")
    assert call(project, line[0], places, TRAIN[project], "--steps 2") == 0
    assert call(project, *line, "--steps 4 --learning_rate 1e-7") == 2
    assert "--restart" in capsys.readouterr().err
    before = {path.name: path.read_bytes() for path in tmp_path.glob("models/*.pt")}
    assert call(project, *line, "--steps 2 --learning_rate 1e-7 --restart") == 0
    assert "is now" in capsys.readouterr().out
    for name, content in before.items():
        assert (tmp_path / "models" / f"{Path(name).stem}.001.pt").read_bytes() == content
    assert {path.name[-4:] for path in tmp_path.glob("checkpoint/*")} >= {".001"}
    assert {path.name[-4:] for path in tmp_path.glob("samples/*")} >= {".001"}
    assert call(project, *line, "--steps 9 --learning_rate 1e30 --restart") == 1
    assert re.search(r"not finite at step \d.*--restart and, say, a smaller --learning_rate\n", capsys.readouterr().err)
    assert list(tmp_path.glob("checkpoint/*.002")), "the run that was replaced by one that diverged"
    kept = [path for place in ("checkpoint/*/last.pt", "models/*.pt") for path in tmp_path.glob(place)]
    assert all(re.search(r"\.00\d", str(path)) for path in kept), "nothing of one that diverged is kept"
    assert call(project, *line, "--steps 2") == 0
    assert call(project, *line, "--run", [VERB[project].split()[1]], "--restart") == 2


@pytest.mark.parametrize("project", PROJECTS)
def test_a_run_that_is_asked_to_stop_saves_first(project, faces, tmp_path, monkeypatch, capsys):
    """Its faces are looked at all the same: checkpoint, sheet and a GAN's model are of the step that it had come to."""
    plumbing = importlib.import_module(f"{project}.plumbing")
    monkeypatch.setattr(plumbing, "listen_for_stop", lambda: lambda: True)
    assert call(project, f"--dataset_dir {faces}", places_in(tmp_path, faces), TRAIN[project]) == 0
    output = capsys.readouterr().out
    judged = project != "hyperencoder"  # which validates at the end of an epoch alone
    assert "trained 1 of" in output and "inf)" not in output and ("best at step 1 " in output) == judged
    kept = [path for place in ("checkpoint/*/last.pt", "models/*.pt") for path in tmp_path.glob(place)]
    assert [plumbing.read_checkpoint(path)["state"]["step"] for path in kept] == [1] * (1 + judged)
    assert list(tmp_path.glob("samples/*/0000001.png"))
