"""deep_makeover/: the networks by numbers, and every verb through the command line on drawn faces."""

import argparse
import json
import math
import shutil
import signal
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from calls import caller, logged, mistake, places, same, table
from PIL import Image
from processes import finish, start, train

from benchmarks import makeover
from common.celeba import CelebA, face_weights, matches, pack, parse_condition
from common.synthetic import draw, parameters
from deep_makeover import loading, photo
from deep_makeover import main as script
from deep_makeover.gan import discriminator_loss, generator_loss, r1_penalty, score
from deep_makeover.loading import read_box
from deep_makeover.measure import READ, fit_reader, validate
from deep_makeover.model import (
    CompactDiscriminator,
    CompactGenerator,
    Discriminator,
    Generator,
    ResidualBlock,
    critic_loss,
    initialise,
    make_networks,
    pixel_loss,
    please_critic,
    temperature,
    truncated_noise,
)
from deep_makeover.photo import plausible
from deep_makeover.plumbing import read_checkpoint, save_checkpoint

SIDES = ("--source", "Smiling=0", "--target", "Smiling=1")
SIZES = "--min_faces 8 --batch_size 8 --device cpu --precision fp32 --workers 0".split()
SMALL = (*SIDES, *SIZES)
NAME = "faces_Smiling0-to-Smiling1_80x100_best"
call = caller(script)


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    """A compact model after a few steps through the command line in its own process: (folder, what it printed)."""
    folder = tmp_path_factory.mktemp("trained")
    flags = "--run train --recipe=best --steps=16 --sample_every=8 --log_every=4 --lambda_r1=1 --learning_rate=0.005"
    printed = train(folder, "deep_makeover", f"--dataset_dir={faces}", *flags.split(), *SMALL, *places(folder))
    return folder, printed


@pytest.fixture(scope="module")
def scene():
    """A photo (600, 900, 3) of two drawn people, the larger one on the left."""
    photo = np.full((600, 900, 3), (96, 128, 112), np.uint8)
    photo[:, :, 0] += np.arange(900, dtype=np.uint16).astype(np.uint8)[None] // 8
    for identity, top, left, height in ((3, 40, 60, 480), (5, 180, 560, 300)):
        face = draw(parameters(0, identity, 0))[0]
        face = cv2.resize(face, (round(height * 178 / 218), height), interpolation=cv2.INTER_CUBIC)
        photo[top : top + height, left : left + face.shape[1]] = face
    return photo


@pytest.fixture(scope="module")
def changer(tmp_path_factory):
    """A model file of a compact generator that turns every picture redder by 40 of 255, and leaves the rest."""
    generator = CompactGenerator()
    generator.draw.bias.data[0] = 40 / 127.5
    folder = tmp_path_factory.mktemp("changer")
    tight = ["--box", "49,90,80,100", "--scale", "1"]
    args = script.parse_args(["--dataset_dir", "faces", "--recipe", "best", *map(str, SMALL), *tight, *places(folder)])
    save_checkpoint(folder / "redder.pt", vars(args), {"generator": generator}, step=1)
    return folder / "redder.pt"


def infer(changer, *flags):
    as_drawn = ["--strength", 1, "--face_strength", 1, "--device", "cpu", "--precision", "fp32"]
    return call("--run", "inference", "--model_path", changer, *as_drawn, *flags)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


# The networks


def test_the_documents_networks_have_its_parameters():
    assert sum(p.numel() for p in Generator().parameters()) == 594_579
    assert sum(p.numel() for p in Discriminator().parameters()) == 836_305
    assert sum(p.numel() for p in CompactGenerator().parameters()) <= 600_000


@pytest.mark.parametrize("size", [(100, 80), (218, 178), (64, 64), (71, 53)])
def test_networks_take_pictures_of_any_size(size):
    x = torch.rand(2, 3, *size) * 2 - 1
    for net in (Generator(), Generator(3), Generator(4), CompactGenerator()):
        assert net(x).shape == x.shape
    assert Discriminator(2)(x).shape == CompactDiscriminator(2)(x).shape == (2, 2)


def test_the_documents_block_has_a_bypass_around_every_convolution():
    block = ResidualBlock(2, 2).eval()
    first, second = block.residual
    x = torch.rand(1, 2, 4, 4) - 0.5
    h = block.norm(x)
    h = h + first(h.relu())
    assert torch.allclose(block(x), h + second(h.relu()))
    assert isinstance(block.project, torch.nn.Identity) and ResidualBlock(2, 3).project.kernel_size == (1, 1)


def test_the_untrained_generator_repeats_its_input():
    """The document's within a blur and its squeezing sigmoid; not so with ordinary weights; the compact one exactly."""
    x = torch.stack([torch.from_numpy(draw(parameters(0, i, 0))[0][90:190, 49:129].copy()) for i in range(8)])
    x = torch.nn.functional.avg_pool2d(x.permute(0, 3, 1, 2) / 127.5 - 1, 2)  # drawn strokes are sharper than photos
    x = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")

    def correlation(net):
        return torch.corrcoef(torch.stack([x.flatten(), net.eval()(x).flatten()]))[0, 1].item()

    torch.manual_seed(0)
    residual, _ = make_networks("document", 2, "residual", 1)
    ordinary, _ = make_networks("document", 2, "default", 1)
    assert correlation(residual) >= 0.95 and (residual(x) - x).abs().mean() / 2 < 0.15
    assert abs(correlation(ordinary)) < 0.8
    assert torch.equal(CompactGenerator()(x), x)


def test_initial_weights_are_near_zero_and_near_the_identity():
    net = torch.nn.Sequential(ResidualBlock(3, 4), torch.nn.Conv2d(4, 2, 3, padding=1))
    initialise(net)
    assert net[0].residual[0].weight.abs().max() <= 0.1 / (3 * 3 * 4 * 4)
    assert torch.allclose(net[0].project.weight[:, :, 0, 0], torch.eye(4, 3), atol=0.1 / 12)
    assert torch.allclose(net[1].weight[:, :, 1, 1], torch.eye(2, 4), atol=0.1 / 72)
    assert all(layer.bias.abs().sum() == 0 for layer in net.modules() if isinstance(layer, torch.nn.Conv2d))


@pytest.mark.parametrize("network", ["document", "compact"])
def test_gradient_reaches_every_parameter(network):
    torch.manual_seed(0)
    generator, discriminator = make_networks(network, 2, "default", 2)
    if network == "compact":  # the layers that start at zero stop the gradient in the first step only
        for layer in generator.modules():
            if isinstance(layer, torch.nn.Conv2d) and layer.weight.abs().sum() == 0:
                torch.nn.init.normal_(layer.weight, std=0.1)
    discriminator(generator(torch.rand(4, 3, 100, 80) * 2 - 1)).square().mean().backward()
    for net in (generator, discriminator):
        for name, parameter in net.named_parameters():
            if network == "document" and net is discriminator and name.endswith("norm.bias"):
                continue  # reached as well; its gradient may cancel
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


# Losses


def test_losses_by_hand():
    real, fake = torch.tensor([0.0, 2.0]), torch.tensor([-1.0, 1.0])
    soft = lambda v: math.log1p(math.exp(v))  # noqa: E731
    assert discriminator_loss(real, fake).item() == pytest.approx((soft(0) + soft(-2)) / 2 + (soft(-1) + soft(1)) / 2)
    assert generator_loss(fake).item() == pytest.approx((soft(1) + soft(-1)) / 2)
    assert critic_loss(real, fake).item() == pytest.approx(0 - 1)
    assert please_critic(real).item() == pytest.approx(-1)
    x = torch.zeros(1, 3, 8, 8)
    y = x.clone()
    y[:, :, :4, :4] = 1  # a quarter of the picture by 0.5 in [0, 1]
    assert pixel_loss(y, x).item() == pytest.approx(0.125)
    checker = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    assert pixel_loss(x + checker, x).item() == 0, "only what is left at a quarter of the size counts"


def test_the_pixel_loss_holds_the_face_more_than_the_hair_about_it():
    weights = face_weights((100, 80), (9, 18, 160, 200), 1, 0.2, shrink=4)
    assert weights.shape == (25, 20) and weights.min() == pytest.approx(0.2) and weights.max() == 1
    assert weights[(112 - 18) // 8, (89 - 9) // 8] == 1, "between CelebA's eyes"
    assert weights[(40 - 18) // 8, (89 - 9) // 8] == pytest.approx(0.2), "hair"
    assert (face_weights((100, 80), (9, 18, 160, 200), 1, 1.0, shrink=4) == 1).all(), "1 is the document's loss"
    x = torch.zeros(1, 3, 100, 80)
    hair, face = x.clone(), x.clone()
    hair[:, :, :20], face[:, :, 44:64] = 1, 1
    assert pixel_loss(hair, x, weights) < 0.5 * pixel_loss(face, x, weights)


def test_temperature_halves_by_steps():
    assert [temperature(step, 5000) for step in (1, 5001, 10001)] == [1, 0.5, 0.25]


def test_r1_penalty_of_a_linear_judge():
    weight = torch.randn(12)
    judge = lambda x: (x.flatten(1) @ weight)[:, None]  # noqa: E731
    assert r1_penalty(judge, torch.randn(5, 3, 2, 2)).item() == pytest.approx(weight.square().sum().item())


def test_noise_has_its_spread_and_is_cut_off():
    noise = 0.4 * truncated_noise((100000,))
    assert noise.abs().max() <= 0.8 and noise.std().item() == pytest.approx(0.4 * 0.8796, rel=0.02)


# Flags


def test_the_documents_defaults():
    args = script.parse_args(["--run", "train"])
    assert (args.train_mode, args.batch_size, args.steps, args.train_time) == ("mtf", 16, 45000, 120)
    assert (args.learning_rate, args.learning_rate_end, args.annealing_half_life) == (2e-4, 1e-6, 5000)
    assert (args.pixel_loss_max, args.pixel_loss_min, args.instance_noise) == (0.95, 0.7, 0.2)
    assert (args.sample_every, args.test_vectors, args.seed) == (20, 16, 10)
    assert args.dataset_dir.endswith("deep_makeover/dataset") and args.network == "document"
    wgan = script.parse_args(["--run", "train", "--loss", "wgan"])
    assert (wgan.learning_rate, wgan.annealing_half_life, wgan.instance_noise) == (1e-4, 10000, 0.5)
    assert (wgan.pixel_loss_max, wgan.disc_weights_threshold, wgan.train_time) == (0, 0.01, 180)
    flags = "--learning_rate_start 0.1 --random_seed 3 --summary_period 7 --train_dir t --dataset d"
    names = script.parse_args(flags.split())
    assert (names.learning_rate, names.seed, names.sample_every, names.sample_dir) == (0.1, 3, 7, "t")
    assert names.dataset_dir == "d"


@pytest.mark.parametrize(
    ("flags", "source", "target"),
    [
        ("", "Male=1 Eyeglasses=0", "Male=0 Attractive=1 Eyeglasses=0"),
        ("--train_mode ftm", "Male=0 Eyeglasses=0", "Male=1 Attractive=1 Eyeglasses=0 No_Beard=1 Goatee=0 Mustache=0"),
        ("--train_mode mtm", "Male=1 Eyeglasses=0", "Male=1 Attractive=1 Eyeglasses=0"),
        ("--train_mode ftf", "Male=0 Eyeglasses=0", "Male=0 Attractive=1 Eyeglasses=0"),
        ("--source Eyeglasses=1 --target Eyeglasses=0,Blurry=1", "Eyeglasses=1", "Eyeglasses=0 Blurry=1"),
    ],
)
def test_modes_filter_as_the_document_says(flags, source, target):
    """And never blurred pictures, unless they are asked for."""
    args = script.parse_args(flags.split())
    for condition, expected in ((args.source, source), (args.target, target)):
        pairs = (pair.split("=") for pair in expected.split())
        assert parse_condition(condition) == {"Blurry": 0} | {name: int(value) for name, value in pairs}


# Training


def test_training_leaves_what_it_says(trained, faces):
    folder, printed = trained
    records, data = CelebA(faces), {}
    for side in ("Smiling=0,Blurry=0", "Smiling=1,Blurry=0"):
        data[side] = [(matches(records.attributes, side) & (records.partition == part)).sum() for part in range(3)]
        counts = "{} training, {} validation, {} test faces".format(*data[side])
        assert f"{counts} ({side})" in printed
    assert "trained 16 of 16 steps" in printed and "under-trained" not in printed
    for name in ("checkpoint/{}/last.pt", "models/{}.pt", "samples/{}/0000008.png", "samples/{}/0000016.png"):
        assert (folder / name.format(NAME)).exists(), name
    content = torch.load(folder / f"models/{NAME}.pt", weights_only=True)
    assert content["state"]["distance"] > 0 and "read" in content["state"]


def test_tensorboard_charts(trained):
    charts = logged(trained[0] / f"samples/{NAME}/logs")
    named = "loss/d loss/g loss/pixel loss/class loss/keep diversity learning_rate annealing/temperature"
    named += " annealing/pixel_share validation/distance validation/before validation/kept"
    named += " validation/read validation/read_before"
    assert set(named.split()) <= set(charts.Tags()["scalars"])
    assert charts.Tags()["images"] == ["images/samples"]
    heat = {event.step: event.value for event in charts.Scalars("annealing/temperature")}
    assert heat[16] == pytest.approx(0.5 ** (15 / 3000))


def test_a_reader_that_learns_by_itself_tells_the_sides_apart(crowd, tmp_path):
    """Of faces it was not fitted to; a generator that does nothing changes nothing for it."""
    box, size = read_box("9,18,160,200", 0.5)
    records = pack(CelebA(crowd), tmp_path, box, size, 0, progress=False)
    sides = [records.images[matches(records.attributes, f"Male={male}")] for male in (1, 0)]
    reader = fit_reader([side[::2] for side in sides], box, "cpu")
    others = [side[1::2] for side in sides]
    _, discriminator = make_networks("compact", 2, "residual", 2)
    found = validate(torch.nn.Identity(), discriminator, others, reader, box, torch.device("cpu"), nullcontext)
    assert found["read"] == found["read_before"] < 0.35
    swapped = validate(torch.nn.Identity(), discriminator, others[::-1], reader, box, torch.device("cpu"), nullcontext)
    assert swapped["read_before"] > 0.65


def test_of_models_that_are_read_as_the_target_the_newest_is_kept():
    """They are all rated alike, which keeps the newest; one that changes nothing, and so looks real, loses."""
    rated = partial(score, enough=READ)
    assert rated(0.1, 0.81) == rated(0.4, 0.93) < rated(0.6, 0.93)
    assert rated(0.1, 0.15) > rated(4, 0.8)


def test_test_faces_are_never_trained_on(home, faces, monkeypatch):
    seen, draw_batches = [], script.batches

    def spy(records, rows, *rest):
        seen.append((records, rows))
        return draw_batches(records, rows, *rest)

    monkeypatch.setattr(script, "batches", spy)
    assert call("--dataset_dir", faces, "--recipe=best", "--steps=1", *SMALL, *places(home)) == 0
    assert len(seen) == 2
    for (records, rows), smiling in zip(seen, (0, 1), strict=True):
        side = matches(records.attributes, f"Smiling={smiling},Blurry=0")
        assert (records.partition[rows] == 0).all() and side[rows].all()


@pytest.mark.parametrize(
    "extra", [("--recipe=best", "--diff_augment"), ("--loss=wgan", "--batch_size=2", "--test_vectors=2")]
)
def test_resume_is_exact(extra, faces, home):
    """4 steps are 2 steps, a new start and 2 more, bit for bit: weights, EMA, optimizers."""
    results = []
    for name, stops in (("once", [4]), ("twice", [2, 4])):
        for stop in stops:
            paths = [*places(home), "--checkpoint_dir", home / name, "--model_path", home / f"{name}_models"]
            assert call("--dataset_dir", faces, *SMALL, *extra, *paths, "--steps", stop) == 0
        results.append(torch.load(next((home / name).glob("*/last.pt")), weights_only=True))
    for part in ("generator", "discriminator", "ema", "g_optimizer", "d_optimizer"):
        assert same(results[0][part], results[1][part]), part
    assert results[0]["state"]["step"] == 4
    if "--loss=wgan" in extra:
        weights = [value for name, value in results[0]["discriminator"].items() if name.endswith(("weight", "bias"))]
        assert max(weight.abs().max() for weight in weights) <= 0.01, "the critic's weights are clipped"


def test_above_its_threshold_the_discriminator_learns_alone(faces, home):
    """A threshold that any loss is above: after the first step only the discriminator moves."""
    flags = ["--dataset_dir", faces, "--recipe=best", "--disc_loss_threshold=0.001", *SMALL, *places(home)]
    for steps in (1, 3):
        assert call(*flags, "--steps", steps) == 0
    folder = home / "checkpoint" / NAME
    now, before = (torch.load(folder / name, weights_only=True) for name in ("last.pt", "last.previous.pt"))
    assert same(now["generator"], before["generator"]) and not same(now["discriminator"], before["discriminator"])


def test_the_clock_ends_a_run_early_and_says_so(faces, home, capsys):
    flags = ["--dataset_dir", faces, "--recipe=best", *SMALL, *places(home)]
    before = signal.getsignal(signal.SIGTERM)
    assert call(*flags, "--train_time=0.02") == 0
    printed = capsys.readouterr().out
    step = torch.load(home / "checkpoint" / NAME / "last.pt", weights_only=True)["state"]["step"]
    assert 1 <= step < 45000 and f"trained {step} of 45000 steps: under-trained" in printed
    assert call(*flags, "--steps", step + 1) == 0, "the same command goes on"
    assert "resuming" in capsys.readouterr().out
    signal.signal(signal.SIGTERM, before)


def test_the_clock_ends_several_processes_and_all_is_saved(faces, home):
    """They hear of it some steps later: asked once, each of them saves."""
    flags = ["--dataset_dir", faces, "--recipe=best", "--train_time=0.005", *SMALL, *places(home)]
    codes, printed = finish(*start(home, "deep_makeover", *flags, world=2))
    assert codes == [0, 0] and "of 45000 steps" in printed, printed
    assert torch.load(home / "checkpoint" / NAME / "last.pt", weights_only=True)["state"]["step"] >= 1


def test_packing_takes_no_training_time_and_no_random_numbers(faces, home, monkeypatch):
    """--train_time counts from the first step, and the first weights are those of the seed."""
    clock, load, results = [0.0], script.load_records, []

    def pack_first(*rest):
        clock[0] += 1000
        torch.rand(7)
        return load(*rest)

    monkeypatch.setattr(script, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    flags = ["--dataset_dir", faces, "--recipe=best", "--train_time=1", "--steps=2", *SMALL, *places(home)]
    for name, how in (("packed", load), ("packs", pack_first)):
        monkeypatch.setattr(script, "load_records", how)
        assert call(*flags, "--checkpoint_dir", home / name, "--model_path", home / f"{name}_models") == 0
        results.append(torch.load(home / name / NAME / "last.pt", weights_only=True))
    assert [result["state"]["step"] for result in results] == [2, 2]
    assert same(results[0]["generator"], results[1]["generator"])


def test_a_run_that_steps_have_ended_does_not_ask_for_more(faces, home, capsys):
    flags = ["--dataset_dir", faces, "--recipe=best", "--epoch=2", "--steps=1", *SMALL, *places(home)]
    assert call(*flags) == 0
    printed = capsys.readouterr().out
    assert "trained 1 of " in printed and "trained 1 of 1 " not in printed and "goes on" not in printed


def test_two_processes_give_the_weights_of_one(faces, home):
    """Two processes as under torchrun, the same global batch, no batch norm: the same weights within rounding."""
    flags = ["--dataset_dir", faces, "--steps", 3, "--recipe=best", "--diff_augment", "--instance_noise=0.1", *SMALL]
    assert call(*flags, *places(home), "--checkpoint_dir", home / "one") == 0
    paths = [*places(home), "--checkpoint_dir", home / "two", "--model_path", home / "two_models"]
    codes, printed = finish(*start(home, "deep_makeover", *flags, *paths, world=2))
    assert codes == [0, 0], printed
    one, two = (torch.load(home / name / NAME / "last.pt", weights_only=True) for name in ("one", "two"))
    for part in ("generator", "discriminator", "ema"):
        for name, weight in one[part].items():
            assert torch.allclose(weight, two[part][name], rtol=1e-3, atol=2e-4), f"{part} {name}"


def test_another_box_and_scale_train(faces, home):
    box = ["--box", "40,60,100,120", "--scale", 0.5]
    assert call("--dataset_dir", faces, "--recipe=best", "--steps=1", *box, *SMALL, *places(home)) == 0
    assert (home / "models/faces_Smiling0-to-Smiling1_50x60_best.pt").exists()


def test_networks_of_another_width_train_and_are_taken_for_the_test(faces, home):
    flags = ["--dataset_dir", faces, "--recipe=best", *SMALL, *places(home)]
    assert call(*flags, "--steps=1", "--width=8") == 0
    (path,) = (home / "models").glob("*.pt")
    content = torch.load(path, weights_only=True)
    assert len(content["generator"]["stem.weight"]) == 8 and len(content["discriminator"]["layers.0.weight"]) == 12
    assert call(*flags, "--run=test", "--out_dir", home / "out") == 0, "the file knows its width"
    assert any((home / "out/made").iterdir())


def test_the_attributes_may_lie_elsewhere(faces, home, capsys):
    """With every attribute turned round in another file, the sides change places."""
    lines = (faces / "list_attr_celeba.txt").read_text().splitlines()
    turned = lines[:2] + [line.replace(" -1", " 0").replace(" 1", " -1").replace(" 0", " 1") for line in lines[2:]]
    turned = [" ".join(line.split()) for line in turned]
    (home / "turned.txt").write_text("\n".join(turned) + "\n")
    turned_sides = ["--source", "Smiling=0,Blurry=1", "--target", "Smiling=1,Blurry=1"]
    flags = ["--dataset_dir", faces, "--attribute_file", home / "turned.txt", "--recipe=best", "--steps=1"]
    flags += [*turned_sides, *SIZES, *places(home)]
    assert call(*flags) == 0
    smiling = (matches(CelebA(faces).attributes, "Smiling=1,Blurry=0") & (CelebA(faces).partition == 0)).sum()
    assert f"source: {smiling} training" in capsys.readouterr().out
    (home / "turned.txt").write_text("\n".join(["95", *turned[1:-1]]) + "\n")
    assert call(*flags) == 2
    assert "has no row for 1 of the pictures" in capsys.readouterr().err


# Test faces


def test_testing_writes_pictures_manifest_and_numbers(trained, faces):
    folder, _ = trained
    assert call("--run", "test", "--dataset_dir", faces, *SMALL, *places(folder)) == 0
    out = folder / f"samples/{NAME}/test_001"
    rows = table(out / "manifest.tsv")
    count = int((matches(CelebA(faces).attributes, "Smiling=0,Blurry=0") & (CelebA(faces).partition == 2)).sum())
    assert len(rows) == count and all(row["request"] == "Smiling=1" for row in rows)
    metrics = json.loads((out / "metrics.json").read_text())
    before, after = (np.stack([pixels(out / row[kind]) for row in rows]) for kind in ("source", "file"))
    assert before.shape == (count, 100, 80, 3)
    assert metrics["faces"] == count and metrics["faces_per_second"] > 0
    assert np.abs(before - after).mean() / 255 == pytest.approx(metrics["change"], abs=0.002)
    assert metrics["psnr_of_target_faces"] > 10
    assert (out / "test.png").exists()
    flags = ["--run", "test", "--dataset_dir", faces, *SMALL, *places(folder), "--strength", 0]
    assert call(*flags, "--out_dir", folder / "out") == call(*flags) == 0
    for again in (folder / "out", out.with_name("test_002")):
        assert (again / "manifest.tsv").exists() and (again / "test.png").exists()
        numbers = json.loads((again / "metrics.json").read_text(), parse_constant=pytest.fail)
        assert numbers["change"] == 0 and numbers["psnr_to_source"] is None, "strength 0"
    assert json.loads((out / "metrics.json").read_text()) == metrics, "each test has numbers of its own"


def test_the_benchmark_leaves_other_pictures_alone(trained, faces, tmp_path):
    mine = tmp_path / "out/pictures/made/me.png"
    mine.parent.mkdir(parents=True)
    for name in ("me.png", "99999.png"):  # the second is of a test of more faces
        Image.new("RGB", (9, 9)).save(mine.with_name(name))
    flags = ["--dataset_dir", str(faces), "--model_path", str(next((trained[0] / "models").glob("*.pt")))]
    flags += ["--source=Smiling=0", "--target=Smiling=1", "--out_dir", str(tmp_path / "out")]
    _, request, metrics = makeover.run_test(makeover.parse([*flags, "--cache_dir", str(tmp_path / "cache")]))
    assert request == {"Smiling": 1} and mine.exists() and not mine.with_name("99999.png").exists()
    assert len(list(mine.parent.glob("[0-9]*.png"))) == metrics["faces"] > 0


# Photos


def test_the_face_changes_and_not_one_other_pixel(changer, scene, tmp_path, capsys):
    Image.fromarray(scene).save(tmp_path / "photo.png")
    assert infer(changer, "--infile", tmp_path / "photo.png", "--outfile", tmp_path / "out.png") == 0
    assert "the largest of 2 faces made over (--all_faces takes all)" in capsys.readouterr().out
    change = pixels(tmp_path / "out.png") - scene
    assert change.shape == scene.shape
    changed = np.argwhere(np.abs(change).max(2) > 0)
    (top, left), (bottom, right) = changed.min(0), changed.max(0)
    scale = 480 / 218  # of the larger face: its box is that of the aligned geometry, 80 x 100 of 178 x 218
    assert 60 + 30 * scale < left < right < 60 + 150 * scale, "only the larger face, only its box"
    assert 40 + 75 * scale < top < bottom < 40 + 205 * scale
    assert 0.5 < (right - left + 1) / (80 * scale) < 1.1
    middle = change[(top + bottom) // 2, (left + right) // 2]
    assert middle.tolist() == pytest.approx([40, 0, 0], abs=1), "red, in full, in the middle, and it is red that it is"
    steps = np.abs(np.diff(change[(top + bottom) // 2, :, 0]))
    assert steps.max() <= 4, "no seam"


def test_strength_scales_the_change_and_zero_is_the_photo(changer, scene, tmp_path):
    scene = (scene // 2 + 60).astype(np.uint8)  # far from black and white, where values would be cut off
    Image.fromarray(scene).save(tmp_path / "photo.png")
    results = {}
    for strength in (0, 0.5, 1):
        out = tmp_path / f"{strength}.png"
        assert infer(changer, "--infile", tmp_path / "photo.png", "--outfile", out, "--strength", strength) == 0
        results[strength] = pixels(out) - scene
    assert np.abs(results[0]).max() == 0
    assert np.abs(results[0.5] - results[1] / 2).max() <= 1 and results[0.5].max() == pytest.approx(20, abs=2)


def test_face_strength_weakens_the_change_on_the_face_alone(changer, tmp_path):
    """In both networks' boxes; hair changes as --strength says, beyond what was drawn if it is more than 1."""
    for box, size in (("49,90,80,100", (100, 80)), ("9,18,160,200", (200, 160))):
        crop = np.full((*size, 3), (100, 100, 101), np.uint8)  # what is grey would stay grey
        Image.fromarray(crop).save(tmp_path / "crop.png")
        flags = ["--infile", tmp_path / "crop.png", "--outfile", tmp_path / "out.png", "--overwrite", "--box", box]
        assert infer(changer, *flags, "--scale", 1, "--strength", 1.5, "--face_strength", 0.5) == 0
        red = pixels(tmp_path / "out.png")[:, :, 0] - 100
        left, top, *_ = map(int, box.split(","))
        assert red[112 - top, 89 - left] == pytest.approx(30, abs=1), "between the eyes: 40 x 1.5 x 0.5"
        if top < 30:
            assert red[30 - top, 89 - left] == pytest.approx(60, abs=1), "hair: 40 x 1.5"


def test_what_is_taken_by_default():
    """All of the change, but between men and women where hair is in the picture; what is given wins."""
    x, made = torch.zeros(1, 3, 100, 80), torch.full((1, 3, 100, 80), 0.5)
    sexes, smile = dict(source="Male=1", target="Male=0,Attractive=1"), dict(source="Smiling=0", target="Smiling=1")
    wide, tight = dict(box="9,18,160,200", scale=0.5), dict(box=None, scale=None)
    for conditions, box, given, hair, face in (
        (sexes, wide, (None, None), 0.6, 0.372),
        (sexes, wide, (1, None), 0.5, 0.31),
        (sexes, wide, (None, 1), 0.6, 0.6),
        (sexes, tight, (None, None), 0.5, 0.5),
        (smile, wide, (None, None), 0.5, 0.5),
        (smile, wide, (2, 0), 1, 0),
        (dict(source="Male=1", target="Blond_Hair=1"), wide, (None, None), 0.5, 0.5),
    ):
        args = argparse.Namespace(strength=given[0], face_strength=given[1])
        taken = loading.take(x, made, args, argparse.Namespace(**conditions, **box))
        assert taken[0, 0, 0, 0].item() == pytest.approx(hair)
        assert taken[0, 0, 47, 40].item() == pytest.approx(face)


def test_all_faces_and_side_by_side(changer, scene, tmp_path):
    Image.fromarray(scene).save(tmp_path / "photo.png")
    flags = ["--infile", tmp_path / "photo.png", "--outfile", tmp_path / "out.png"]
    assert infer(changer, *flags, "--all_faces", "--side_by_side") == 0
    both = pixels(tmp_path / "out.png")
    assert both.shape == (600, 1800, 3) and np.array_equal(both[:, :900], scene)
    change = both[:, 900:] - scene
    assert change[:, :480].max() in range(38, 45) and change[:, 560:].max() in range(38, 45)
    assert change[:, 480:560].max() == 0


def test_a_crop_of_the_boxs_size_is_taken_as_it_is(changer, tmp_path, monkeypatch):
    crop = draw(parameters(0, 3, 0))[0][90:190, 49:129]
    Image.fromarray(crop).save(tmp_path / "crop.png")
    monkeypatch.chdir(tmp_path)
    assert infer(changer, "--infile", "crop.png") == 0
    made = pixels("inference_out.png")  # the document's name for it
    assert np.abs(made - np.clip(crop + np.array([40, 0, 0]), 0, 255)).max() <= 1
    assert infer(changer, "--infile", "crop.png", "--outfile", "half.png", "--strength", 0.5) == 0
    assert np.abs(pixels("half.png") - (crop + made) / 2).max() <= 1
    assert infer(changer, "--infile", "crop.png", "--outfile", "none.png", "--strength", 0) == 0
    assert np.array_equal(pixels("none.png"), crop)


def test_another_box_at_inference(changer, scene, tmp_path):
    """The whole aligned face at twice the size, with the same network: a larger part of the photo changes."""
    Image.fromarray(scene).save(tmp_path / "photo.png")
    flags = ["--infile", tmp_path / "photo.png", "--outfile", tmp_path / "out.png"]
    assert infer(changer, *flags, "--box", "0,0,178,218", "--scale", 2) == 0
    changed = (pixels(tmp_path / "out.png") != scene).any(2)
    assert changed.any(0).sum() > 150 * 480 / 218 * 0.9


def test_folders_gifs_and_videos(changer, scene, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    small = cv2.resize(scene, (450, 300), interpolation=cv2.INTER_AREA)
    empty = np.full_like(small, 90)
    Image.fromarray(small).save(photos / "a.png")
    Image.fromarray(empty).save(photos / "nobody.png")
    frames = [Image.fromarray(picture) for picture in (small, empty, small)]
    frames[0].save(photos / "b.gif", save_all=True, append_images=frames[1:], duration=[70, 120, 70], loop=0)
    video = cv2.VideoWriter(str(photos / "c.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 12, (450, 300))
    for picture in (small, empty, small):
        video.write(picture[..., ::-1].copy())
    video.release()
    (photos / "d.mp4").write_bytes(b"no video")
    assert infer(changer, "--images", photos, "--out_dir", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.gif", "c.mp4", "manifest.tsv"]
    assert "nobody.png: no face found" in printed and "d.mp4: no video" in printed
    assert printed.count("in 2 of 3 frames") == 2
    assert (pixels(tmp_path / "out/a.png") - small).max() in range(38, 45)
    with Image.open(tmp_path / "out/b.gif") as gif:
        assert gif.n_frames == 3 and gif.info["duration"] == 70
    film = cv2.VideoCapture(str(tmp_path / "out/c.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 3 and film.get(cv2.CAP_PROP_FPS) == 12
    film.release()
    assert infer(changer, "--infile", photos / "c.avi", "--outfile", tmp_path / "e.avi", "--side_by_side") == 0
    film = cv2.VideoCapture(str(tmp_path / "e.avi"))
    assert film.get(cv2.CAP_PROP_FRAME_WIDTH) == 900
    film.release()
    assert infer(changer, "--images", photos / "a.png", "--out_dir", tmp_path / "out", "--overwrite") == 0
    assert "all others stay" in capsys.readouterr().out and (tmp_path / "out/c.mp4").exists()


@pytest.fixture(scope="module")
def judged(changer, tmp_path_factory):
    """The changer with a discriminator that scores every picture 1, and a level that 99% of makeovers reach."""
    discriminator = CompactDiscriminator(2)
    for parameter in discriminator.parameters():
        parameter.data.zero_()
    discriminator.layers[-1].bias.data[0] = 1
    content = read_checkpoint(changer)
    generator = CompactGenerator()
    generator.load_state_dict(content["generator"])
    parts, folder = dict(generator=generator, discriminator=discriminator), tmp_path_factory.mktemp("judged")
    for name, least in (("passes", 0.9), ("fails", 1.1)):
        save_checkpoint(folder / f"{name}.pt", content["args"], parts, step=1, least=least)
    return folder


def test_what_the_discriminator_scores_low_is_left_out(judged, scene, tmp_path, capsys):
    small = Image.fromarray(cv2.resize(scene, (450, 300), interpolation=cv2.INTER_AREA))
    small.save(tmp_path / "photo.png")
    small.save(tmp_path / "clip.gif", save_all=True, append_images=[small.point(lambda value: value // 2)])
    flags = ["--images", tmp_path / "photo.png", tmp_path / "clip.gif", "--out_dir"]
    assert infer(judged / "passes.pt", *flags, tmp_path / "a", "--all_faces") == 0
    assert "left out" not in capsys.readouterr().out and len(list((tmp_path / "a").glob("*.*g*"))) == 2
    assert infer(judged / "fails.pt", *flags, tmp_path / "b", "--all_faces") == 2
    printed = capsys.readouterr()
    assert "photo.png: 2 makeovers are left out: the discriminator" in printed.out and "--keep_all" in printed.err
    assert not (tmp_path / "b").exists()
    assert infer(judged / "fails.pt", *flags, tmp_path / "c", "--all_faces", "--keep_all") == 0
    for file in ("photo.png", "clip.gif"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "c" / file).read_bytes()


def test_the_faces_of_a_clip_are_judged_together():
    judge, scores = (lambda made: made[:, :1, 0, 0], 0.5), []
    kept = [plausible(judge, torch.full((1, 3, 2, 2), score), nullcontext, scores) for score in (1.0, 0.25, 0.0)]
    assert kept == [True, True, False], "means of 1, 0.625 and 0.417"
    assert not plausible(judge, torch.full((1, 3, 2, 2), 0.25), nullcontext, [])


def test_of_all_faces_of_a_clip_each_is_judged_alone(judged, scene, tmp_path, monkeypatch):
    known = []
    monkeypatch.setattr(photo, "plausible", lambda *rest: known.append(len(rest[-1])) or rest[-1].append(1.0) or True)
    small = Image.fromarray(cv2.resize(scene, (450, 300), interpolation=cv2.INTER_AREA))
    small.save(tmp_path / "clip.gif", save_all=True, append_images=[small.point(lambda value: value // 2)])
    flags = ["--infile", tmp_path / "clip.gif", "--overwrite", "--outfile", tmp_path / "out.gif"]
    assert infer(judged / "passes.pt", *flags) == 0
    assert infer(judged / "passes.pt", *flags, "--all_faces") == 0
    assert known[:2] == [0, 1] and len(known) > 4 and not any(known[2:]), "the largest of two frames, then all"


def test_the_model_file_knows_how_its_makeovers_were_scored(trained, faces):
    folder, _ = trained
    flags = ["--run", "inference", "--dataset_dir", faces, "--recipe=best", *SMALL, *places(folder)]
    args = script.parse_args(list(map(str, flags)))
    generator, device, autocast, _, (discriminator, least) = loading.load_model(args)
    records = loading.load_records(args, device)
    source = records.images[loading.sides(args, records, "validation")[0]]
    with torch.no_grad():
        scores = discriminator(loading.make_over(generator, source, device, autocast)[1])[:, 0]
    assert scores.quantile(0.01).item() == pytest.approx(least, abs=1e-4)


# Mistakes


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--infile nobody.png", "no face found"),
        ("--infile nobody.gif", "no face found"),
        ("--infile nobody.avi --outfile o.mp4", "no face found in 2 frames"),
        ("--infile broken.mp4", "convert it to H.264"),
        ("--infile missing.png", "no such file"),
        ("--infile nobody.png --outfile there.png", "there already"),
        ("--infile nobody.png --outfile nobody.png --overwrite", "the photo itself"),
        ("--infile nobody.png --outfile nowhere/o.png", "is not there, or cannot be written to"),
        ("--infile nobody.png --outfile o.xyz", "expected a name that ends in"),
        ("--infile nobody.avi --outfile o.png", "expected a name that ends in"),
        ("--infile nobody.png --strength 2.5", "--strength"),
        ("", "needs --infile"),
        ("--images nobody.png --outfile o.png", "--out_dir"),
        ("--images . --out_dir full", "not an empty folder"),
        ("--images nobody.png --out_dir . --overwrite", "lie in one another"),
        ("--images nobody.png --infile nobody.png", "not both"),
        ("--images nobody.png nobody.gif --out_dir new", "none of 2 files"),
    ],
)
def test_inference_mistakes_end_in_one_line_and_leave_nothing(flags, says, changer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    empty = np.full((80, 90, 3), 90, np.uint8)
    for name in ("nobody.png", "there.png"):
        Image.fromarray(empty).save(name)
    Image.fromarray(empty).save("nobody.gif", save_all=True, append_images=[Image.fromarray(empty + 1)])
    video = cv2.VideoWriter("nobody.avi", cv2.VideoWriter_fourcc(*"MJPG"), 12, (90, 80))
    for _ in range(2):
        video.write(empty)
    video.release()
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert infer(changer, *flags.split()) == 2
    assert says in mistake(capsys)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--source Smiling=1", "are the same"),
        ("--source Smiling=2", "expected Attribute=1"),
        ("--source Smile=0", "Smiling"),
        ("--source Smiling=0,Smiling=1", "twice"),
        ("--min_faces 200", "200 are needed"),
        ("--box 100,100,100,100", "leaves CelebA's"),
        ("--box 1,2", "expected x,y,width,height"),
        ("--scale 0.1", "expected sides"),
        ("--scale nan", "more than 0"),
        ("--poolings 5", "1 to 4"),
        ("--network document --width 8", "--network compact"),
        ("--poolings 3", "--network document"),
        ("--train_mode mtx", "mtx"),
        ("--pixel_loss_max 2", "0 to 1"),
        ("--attribute_file none.txt", "is no file"),
        ("--batch_size 0", "more than 0"),
        ("--dataset_dir nowhere", "nowhere"),
        ("--run test", "train first"),
        ("--run test --infile a.jpg", "for --run inference"),
        ("--images a.jpg", "for --run inference"),
        ("--epoch=0 --steps=0", "how long"),
        ("--target Smiling=1,Male=1,Bald=1,Wearing_Hat=1", "too few"),
    ],
)
def test_mistakes_end_in_one_line(flags, says, faces, home, capsys):
    start = ["--dataset_dir", faces, "--recipe=best", "--steps=1"]
    assert call(*start, *SMALL, *places(home), *flags.split()) == 2
    assert says in mistake(capsys)
    assert not (home / "checkpoint").exists() and not (home / "models").exists()


def test_that_attributes_are_lacking_is_said_before_any_packing(faces, home, capsys):
    shutil.copytree(faces / "img_align_celeba", home / "holiday")
    flags = ["--dataset_dir", home / "holiday", "--recipe=best", "--steps=1"]
    assert call(*flags, *SMALL, *places(home)) == 2
    assert "list_attr_celeba" in mistake(capsys) and not list((home / "records").glob("holiday*"))


def test_other_flags_than_the_checkpoints_are_named(trained, faces, home, capsys):
    flags = ["--dataset_dir", faces, "--recipe=best", "--learning_rate=0.005", *SMALL, *places(home)]
    flags += ["--checkpoint_dir", trained[0] / "checkpoint"]
    assert call(*flags, "--lambda_class=0.5", "--steps=17") == 2
    assert "lambda_class was 0.1, now 0.5" in capsys.readouterr().err
