"""The models that come with the program: each verb on a photo of one's own, in an empty folder, without a data set.

Here they are tiny ones, trained for a step on drawn faces and written by the same `--run ship`.
"""

import importlib
import io
import re
import shutil

import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_parallel import PROJECTS
from trainings import TRAININGS, base_flags, call

from benchmarks import models, quality, results, tour
from common.photos import InputError, read_image
from common.synthetic import draw, parameters, write

TRAINED = ["hyperencoder best", "face_math best", "facegen_attr dcgan2 best", "facegen_attr dcgan5 best",
           "facegen_attr predictor", "deep_makeover best", "dapgan info_began best"]  # fmt: skip
BESIDE = ["--run train_encoder", "--run train_filler", "--run train_vae"]  # of face_math
FILES = {
    "hyperencoder": {"best"}, "dapgan": {"info_began"}, "facegen_attr": {"dcgan2", "dcgan5", "predictor"},
    "deep_makeover": {"mtf"}, "face_math": {"gan", "gan_encoder", "gan_filler", "gan_vae", "gan_vectors"},
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the shipped files of all projects as they lie in the repository, me.jpg, and the faces, drawn."""
    home, own = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("own")
    quick = ["--steps", "1", "--epoch", "1"]
    write(home / "drawn", count=120, seed=0, identities=60)

    def flags(project):
        small = ["--y_height", "32"] if project == "hyperencoder" else []
        return [*base_flags(project, home / "drawn", own / project), "--recipe", "best", "--seed", "1", *small]

    for name in TRAINED:
        call(name, [*flags(name.split()[0]), *TRAININGS[name][0].split(), *quick])
    for line in BESIDE:
        call("face_math", [*flags("face_math"), *line.split(), *quick])
    for name in [*TRAINED[:4], *TRAINED[5:]]:
        project, model = name.split()[0], name.split()[1]
        more = ["--model", model] if project in ("facegen_attr", "dapgan") else []
        call(name, [*flags(project), *more, "--run", "ship", "--out_dir", str(home / project), "--overwrite"])
    Image.fromarray(draw(parameters(0, 3, 0))[0]).save(home / "me.jpg")
    return home


def test_files_are_small_and_hold_numbers_alone(home):
    for project, names in FILES.items():
        assert {path.stem for path in (home / project).iterdir()} == names
        for path in (home / project).iterdir():
            content = torch.load(path, weights_only=True)
            assert path.stat().st_size < 16e6
            assert content["about"].startswith("trained on ")


@pytest.fixture
def ask(home, tmp_path, monkeypatch, capfd):
    """ask(project, line): the verb in an empty folder, the files as home has them: exit code, what it says, errors."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(home / "me.jpg", tmp_path)

    def ask(project, line, place=home):
        script = importlib.import_module(f"{project}.main")
        monkeypatch.setattr(script.plumbing, "PROJECT", place / project)
        try:
            script.main([*line.split(), "--sample_dir", str(tmp_path / "samples"), "--workers", "0"])
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, *capfd.readouterr()

    return ask


VERBS = [
    ("hyperencoder", "--train=False --images me.jpg", "best.pt", "samples/shipped_32x32_best/test_001/me.png"),
    ("hyperencoder", "--run anomaly --images me.jpg", "best.pt", "samples/shipped_32x32_best/anomaly_001/anomaly.csv"),
    ("face_math", "--run complete --images me.jpg", "gan.pt", "samples/shipped_32_best/complete_001/photos/me.png"),
    ("face_math", "--run project --images me.jpg --n_iter 2", "gan.pt",
     "samples/shipped_32_best/project_001/z/me.npy"),
    ("face_math", "--run arithmetic --images me.jpg --n_iter 2", "gan_encoder.pt",
     "samples/shipped_32_best/arithmetic_001/photos/Smiling/me_+1.00.png"),
    ("face_math", "--run arithmetic --images me.jpg --n_iter 2 --search document --start encoder", "gan.pt",
     "samples/shipped_32_best/arithmetic_001/photos/Turn/me_+1.00.png"),
    ("face_math", "--run sample --count 2", "gan.pt", "samples/shipped_32_best/sample_001/sheet.png"),
    ("facegen_attr", "--run generate --images me.jpg --request Smiling=1", "dcgan5.pt",
     "samples/shipped_dcgan5_32_best/generate_001/photos/me.png"),
    ("facegen_attr", "--run generate --request Smiling=1", "dcgan2.pt",
     "samples/shipped_dcgan2_32_best/generate_001/sheet.png"),
    ("facegen_attr", "--run refine --images me.jpg", "dcgan5.pt",
     "samples/shipped_dcgan5_32_best/refine_001/photos/step_001.png"),
    ("facegen_attr", "--run refine --model dcgan5", "dcgan2.pt",
     "samples/shipped_dcgan5_32_best/refine_001/step_001.png"),
    ("facegen_attr", "--run refine", "dcgan2.pt", "samples/shipped_dcgan2_32_best/refine_001/step_001.png"),
    ("deep_makeover", "--run inference --images me.jpg --out_dir out --keep_all", "mtf.pt", "out/me.png"),
    ("deep_makeover", "--run inference --infile me.jpg --outfile you.png --keep_all", "mtf.pt", "you.png"),
    ("dapgan", "--run augment --images me.jpg --out_dir more --min_identity 0 --min_quality 0 --count 3",
     "info_began.pt", "more/pictures/0002_me.png"),
    ("dapgan", "--run recover --images me.jpg --n_iter 2", "info_began.pt",
     "samples/shipped_info_began_32_best/recover_001/both/me.png"),
    ("dapgan", "--run vary --images me.jpg --n_iter 2", "info_began.pt",
     "samples/shipped_info_began_32_best/vary_001/code_1.png"),
]  # fmt: skip


@pytest.mark.parametrize(("project", "line", "file", "made"), VERBS)
def test_every_verb_works_on_ones_own_photo(project, line, file, made, ask, home, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("+Smiling\n"))
    code, said, error = ask(project, line)
    assert code == 0, error
    assert "no model of your own" in said and str(home / project / file) in said
    assert "trained on 96 faces of 178 x 218 pixels" in said
    assert (tmp_path / made).exists()
    assert not [path for path in (home / project).iterdir() if path.suffix != ".pt"], "nothing is written beside them"


@pytest.mark.parametrize(("project", "line", "says"), [
    ("hyperencoder", "--train=False", "its test faces are taken where no --images are named"),
    ("hyperencoder", "--run swap --images me.jpg", "train first: python hyperencoder/main.py"),
    ("face_math", "--run project", "its test faces are taken"),
    ("face_math", "--run compare", "principal components are those of its training faces"),
    ("face_math", "--run arithmetic --images me.jpg --attributes Bald --n_iter 0", "does not hold these vectors, but"),
    ("face_math", "--run sample --image_size 64", "gan.pt, gan_encoder.pt, gan_filler.pt, gan_vae.pt, gan_vectors.pt"),
    ("face_math", "--run sample --recipe document", "none fits; train first: python face_math/main.py"),
    ("face_math", "--run sample --dataset_name mine", "no model"),
    ("facegen_attr", "--run generate --model dcgan5", "its test faces are taken"),
    ("facegen_attr", "--run generate --model dcgan1", "train first"),
    ("facegen_attr", "--run generate --images me.jpg --request Bald=1", "the model was not trained on Bald"),
    ("facegen_attr", "--run ship", "train first"),
    ("deep_makeover", "--run test", "dataset"),
    ("deep_makeover", "--run inference --train_mode ftm --images me.jpg", "train first"),
    ("dapgan", "--run evaluate", "without labels, are what is known of faces"),
    ("dapgan", "--run recover", "its test faces are taken"),
    ("dapgan", "--run train_predictor", "train first"),
    *((project, line, "no usable face: grey.png") for project, line in (
        ("hyperencoder", "--train=False --images grey.png"), ("face_math", "--run complete --images grey.png"),
        ("facegen_attr", "--run generate --images grey.png"), ("dapgan", "--run augment --images grey.png"))),
    ("deep_makeover", "--run inference --images grey.png", "no face found"),
    ("deep_makeover", "--run inference --images tiny.png", "no face found"),
    ("hyperencoder", "--train=False --images tiny.png", "no usable face"),
])  # fmt: skip
def test_what_is_missing_is_said_in_one_line(project, line, says, ask, tmp_path):
    Image.new("RGB", (90, 80), (90, 90, 90)).save(tmp_path / "grey.png")
    Image.fromarray(read_image(tmp_path / "me.jpg")).resize((14, 17)).save(tmp_path / "tiny.png")
    code, _, error = ask(project, line)
    assert code == 2 and says in error and error.count("\n") == 1, error
    assert not [path for path in (tmp_path / "samples").rglob("*") if path.is_file()], "nothing is written"


@pytest.mark.parametrize("project", PROJECTS)
def test_without_shipped_files_it_says_how_to_train(project, ask, tmp_path):
    lines = dict(hyperencoder="--train=False", facegen_attr="--run generate")
    lines["deep_makeover"] = "--run inference --infile me.jpg"
    code, _, error = ask(project, lines.get(project, "--run sample"), tmp_path)
    assert code == 2 and f"train first: python {project}/main.py" in error and error.count("\n") == 1


@pytest.mark.parametrize(("spoil", "says"), [
    (lambda folder, home: shutil.copy(home / "dapgan/info_began.pt", folder / "gan.pt"), "but of dapgan"),
    (lambda folder, home: (folder / "gan.pt").write_bytes(b"none"), "no checkpoint of this program, or damaged"),
    (lambda folder, home: change(folder / "gan.pt", format=99), "has format 99; this program reads"),
    (lambda folder, home: change(folder / "gan.pt", generator={}), "no generator that fits"),
    (lambda folder, home: change(folder / "gan_filler.pt", args=dict(inverts="0")), "is no model of this project"),
    (lambda folder, home: (folder / "gan_filler.pt").unlink(), "no filler to fill a hole"),
])  # fmt: skip
def test_a_wrong_file_ends_in_one_line(spoil, says, home, ask, tmp_path):
    shutil.copytree(home / "face_math", tmp_path / "face_math")
    spoil(tmp_path / "face_math", home)
    code, _, error = ask("face_math", "--run complete --images me.jpg", tmp_path)
    assert code == 2 and says in error and error.count("\n") == 1, error


def test_the_page_takes_the_editor(home, monkeypatch):
    """Which one's own photo can be given to there; and without a word about models any that is there is found."""
    from facegen_attr import main as script

    monkeypatch.setattr(script.plumbing, "PROJECT", home / "facegen_attr")
    for line, model in (("--run refine --web", "dcgan5"), ("--run refine", "dcgan2"), ("--run generate", "dcgan2")):
        args = script.parse_args(line.split())
        assert args.model_path.endswith(f"{model}.pt") and args.model == model and args.recipe == "best"


def change(path, **content):
    """Write a model file anew with other content."""
    torch.save(torch.load(path, weights_only=True) | content, path)


def test_ones_own_model_comes_first(home, ask, tmp_path):
    """A run of one's own is used once it is there; a file that is named, in any case."""
    shutil.copytree(home / "face_math", tmp_path / "face_math")
    code, said, _ = ask("face_math", f"--run sample --count 1 --model_path {home / 'face_math/gan.pt'}", tmp_path)
    assert code == 0 and "no model of your own" not in said
    path = tmp_path / "face_math/models/mine_32_best.pt"
    path.parent.mkdir()
    change(shutil.copy(tmp_path / "face_math/gan.pt", path), args=None)
    content = torch.load(tmp_path / "face_math/gan.pt", weights_only=True)
    change(path, args=content["args"] | dict(name="mine_32_best", dataset_name="mine"))
    code, said, _ = ask("face_math", "--run sample --count 1", tmp_path)
    assert code == 0 and "no model of your own" not in said and "mine_32_best.pt" in said


def test_vectors_join_those_that_are_there_and_leave_the_shipped_alone(ask, home, tmp_path):
    shutil.copytree(home / "face_math", tmp_path / "face_math")
    shipped = (tmp_path / "face_math/gan_vectors.pt").read_bytes()
    line = f"--run arithmetic --n_iter 0 --count 1 --dataset_dir {home / 'drawn'}"
    for name, file in (("Bald", tmp_path / "face_math/gan.pt"), ("Bangs", "face_math/gan.pt")):  # from where one stands
        code, _, error = ask("face_math", f"{line} --model_path {file} --attributes {name}", tmp_path)
        assert code == 0, error
    assert (tmp_path / "face_math/gan_vectors.pt").read_bytes() == shipped
    (mine,) = (tmp_path / "face_math/models").glob("*_vectors.pt")
    assert torch.load(mine, weights_only=True)["state"]["mean"]["names"] == ["Bald", "Bangs"]


def test_weights_survive_in_eight_bits():
    """Matrices within half a step of their row's largest number; what is no matrix exactly."""
    from hyperencoder.plumbing import packed, unpacked

    x = torch.randn(5, 3, 4, 4) * torch.tensor([1e-3, 1, 100, 1, 0]).view(5, 1, 1, 1)
    assert torch.equal(unpacked(packed(x[0, 0, 0])), x[0, 0, 0])
    small = packed(x)
    assert small["int8"].dtype == torch.int8 and unpacked(small).dtype == torch.float32
    steps = x.flatten(1).abs().amax(1) / 127
    assert ((unpacked(small) - x).flatten(1).abs().amax(1) <= steps * 0.501 + 1e-12).all()


def test_the_tour_shows_every_project_on_one_photo(home, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tour, "MODELS", home)
    stops = [stop for stop in tour.STOPS if stop.file != "deep_makeover/ftm"]  # there is none here
    monkeypatch.setattr(tour, "STOPS", [s._replace(line=quickly(s.line)) for s in stops])
    with Image.open(home / "me.jpg") as photo:  # of a GIF the first picture
        photo.save(tmp_path / "me.gif", save_all=True, append_images=[photo.rotate(9)])
    page = tour.main(["--photo", str(tmp_path / "me.gif")])
    assert capfd.readouterr().out.strip().endswith("out_tour/index.html") and page.exists()
    text = page.read_text()
    assert text.count("<h2>") == len(stops) and "left out" not in text
    for place in re.findall('(?:src|href)="([^"]*)"', text):
        assert (tmp_path / "out_tour" / place).exists(), place
    assert read_image(tmp_path / "out_tour/tour.png").shape[1] > 600
    with pytest.raises(InputError, match="not an empty folder"):
        tour.main(["--photo", str(home / "me.jpg"), "--out_dir", "out_tour"])


def quickly(line):
    """A stop's command with what tiny models need, which draw no faces."""
    line = line.replace("--count 8", "--count 2").replace("--search best", "--search best --n_iter 0")
    return line + " --min_identity 0 --min_quality 0" * ("augment" in line)


def test_a_tour_without_a_face_or_a_model_ends_in_one_line(tmp_path, home, monkeypatch):
    Image.new("RGB", (90, 80), (90, 90, 90)).save(tmp_path / "grey.png")
    with pytest.raises(InputError, match="no face found in .*grey.png"):
        tour.main(["--photo", str(tmp_path / "grey.png"), "--out_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(tour, "MODELS", tmp_path)
    monkeypatch.setattr(tour, "STOPS", tour.STOPS[:1])
    monkeypatch.setattr(importlib.import_module("hyperencoder.main").plumbing, "PROJECT", tmp_path / "hyperencoder")
    with pytest.raises(InputError, match="no project has a model to show: no model.*train first"):
        tour.main(["--photo", str(home / "me.jpg"), "--out_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


SLEEPER = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("watch it: here")
time.sleep(60)
sys.exit(1)
"""


def test_a_training_is_asked_to_stop_when_its_minutes_are_over():
    """They count from where it says that it begins."""
    code, minutes = models.run(["python", "-c", SLEEPER], 0.01)
    assert code == 0 and 0.01 <= minutes < 0.5


def test_models_are_trained_and_shipped_with_a_card(home, tmp_path, monkeypatch):
    """One of them, in this process."""

    def run(command, minutes=None):
        call(command[1].split("/")[0], [str(word) for word in command[2:]])
        return 0, 1.5

    monkeypatch.setattr(models, "run", run)
    flags = "--steps 1 --batch_size 2 --min_faces 5 --workers 0 --source Male=1 --target Male=0"
    out = tmp_path / "made"
    made = models.main(["--dataset_dir", str(home / "drawn"), "--out_dir", str(out), "--only", "deep_makeover/mtf",
                        "--minutes", "1", "--flags", flags])  # fmt: skip
    assert made == [out / "shipped/deep_makeover/mtf.pt"]
    card = made[0].with_suffix(".md").read_text()
    assert "| steps | 1 of 2 |" in card and "non-commercial research only" in card and "96 faces of 178 x 218" in card
    assert (
        "--annealing_half_life 4000 --diff_augment True --steps 1" in card
        and "--run train --train_time 0 --recipe best --width 24 --batch_size 16 " in card
        and "| minutes | 1.5 |" in card
        and re.search(r"\| size \| \d\.\d\d MB \|", card)
    )
    with pytest.raises(InputError, match="--only nothing: there are dapgan"):
        models.main(["--dataset_dir", str(home / "drawn"), "--only", "nothing"])


def test_an_editor_is_tuned_between_its_training_and_shipping(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(models, "run", lambda command, minutes=None: (commands.append(command), (0, 1))[1])
    assert (
        models.main(["--dataset_dir", str(tmp_path), "--out_dir", str(tmp_path), "--only", "facegen_attr/dcgan5"]) == []
    )
    assert [command[command.index("--run") + 1] for command in commands] == ["train", "tune", "ship"]
    for command in commands:
        assert command[1] == "facegen_attr/main.py" and "--model dcgan5 --recipe best" in " ".join(command)
        assert command[command.index("--model_path") + 1] == str(tmp_path / "facegen_attr/models")
    assert torch.load(ROOT / "facegen_attr/dcgan5.pt", weights_only=True)["state"]["requests"].shape == (2, 8, 8)


def test_results_quick_writes_its_tables(home, tmp_path, monkeypatch):
    """On drawn faces, as one has it who has not installed what the judges need."""
    monkeypatch.setattr(results, "MODELS", home)
    monkeypatch.setattr(quality, "need", lambda name: None)
    flags = ["--dataset_dir", str(home / "drawn"), "--out_dir", str(tmp_path / "out"), "--cache_dir",
             str(tmp_path / "cache"), "--quick", "--only", "files", "hyperencoder", "face_math", "deep_makeover",
             "dapgan_digits", "dapgan_person"]  # fmt: skip
    tables = results.main(flags)
    told = {name: str(table) for name, table in tables.items() if isinstance(table, InputError)}
    assert set(told) == {"deep_makeover_ftm", "dapgan_digits", "dapgan_person"} and "not there" in told["dapgan_digits"]
    text = (tmp_path / "out/tables.md").read_text()
    assert "| `face_math/gan_filler.pt` |" in text and "| all |" in text
    assert re.search(r"\| PCA of equal size \| 0\.\d{5} \| \d\d\.\d\d \|", text)
    assert "| linear prediction |" in text and "| made over |" in text and "dapgan person: not measured" in text
    page = tmp_path / "page.md"
    page.write_text("no marks")
    with pytest.raises(InputError, match="expected the marks"):
        results.parse_args([*flags[:4], "--write", str(page)])
    with pytest.raises(InputError, match="--quick says whether it runs"):
        results.parse_args([*flags, "--write", str(page)])


def test_results_are_written_between_the_marks(tmp_path, monkeypatch):
    """What stands around them stays, and what was there is replaced."""
    table = results.Table("A title", "python x.py", ["a", "b"], [["1", "2"]])
    monkeypatch.setattr(results, "MODELS", tmp_path / "models")
    monkeypatch.setattr(results, "TABLES", dict(one=lambda bench: table, two=lambda bench: 1 / 0))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    flags = ["--dataset_dir", tmp_path, "--out_dir", tmp_path / "out", "--cache_dir", tmp_path / "cache"]
    results.main([*map(str, flags), "--only", "one", "--write", str(page)])
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith(f"{results.END}\nafter\n") and "old" not in text
    assert "**A title** (`python x.py`)\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n" in text

    # What was measured before stays beside what is measured now, until a model is another.
    monkeypatch.setattr(results, "TABLES", dict(one=lambda bench: 1 / 0, two=lambda bench: table._replace(title="Two")))
    results.main([*map(str, flags), "--only", "two", "--write", str(page)])
    assert "**A title**" in page.read_text() and "**Two**" in page.read_text()
    (tmp_path / "models/face_math").mkdir(parents=True)
    (tmp_path / "models/face_math/gan.pt").write_bytes(b"another")
    results.main([*map(str, flags), "--only", "two", "--write", str(page)])
    assert "**A title**" not in page.read_text() and "**Two**" in page.read_text()


def test_what_dapgans_gates_know_is_the_same_from_numbers():
    """Of faces and their latents: half precision moves no picture over a gate."""
    from dapgan.augmentation import Unlabelled, augment_person
    from dapgan.faces import LinearFaces
    from dapgan.ship import smaller

    random = torch.Generator().manual_seed(0)
    x = torch.rand(90, 3, 4, 4, generator=random)
    x = torch.nn.functional.interpolate(x, (32, 32), mode="bicubic").clamp(0, 1) * 2 - 1
    linear = LinearFaces(x, 16)
    known = Unlabelled(x, linear.encode)
    again = Unlabelled.restore(smaller(known.numbers()), x.device)
    made = [
        augment_person(x[:2], faces, linear.encode, linear.generate, lambda z: z, 20, strength=0.35)
        for faces in (known, again)
    ]
    assert [row["source"] for row in made[0].rows] == [row["source"] for row in made[1].rows]
    for name in ("identity", "quality"):
        first, second = ([row[name] for row in varied.rows] for varied in made)
        assert first == pytest.approx(second, abs=0.03)
