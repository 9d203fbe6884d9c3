"""facegen_attr/: the networks by numbers, and every verb through the command line on drawn faces."""

import argparse
import contextlib
import functools
import io
import math
import os
import shutil
import sys
import time

import numpy as np
import pytest
import torch
from calls import caller, logged, mistake, places, same, table
from PIL import Image
from processes import finish, start, train, wait_for

from common.celeba import ATTRIBUTES, CelebA, attribute_indices
from common.photos import InputError
from facegen_attr import main as script
from facegen_attr.asking import draw_requests, wanted
from facegen_attr.attributes import SETS, contradictions, exclusions, flipped, mismatched, resampled
from facegen_attr.gan import discriminator_loss, generator_loss, score
from facegen_attr.loading import (
    Model,
    ask,
    load_records,
    make_discriminator,
    make_generator,
    make_optimizer,
    picture_size,
)
from facegen_attr.model import (
    MODELS,
    ConditionalDiscriminator,
    ConditionalGenerator,
    ConditionalNorm,
    Discriminator,
    Editor,
    FullDiscriminator,
    FullGenerator,
    Generator,
    Predictor,
    attribute_loss,
    attribute_planes,
    fitted,
    initialise,
    mismatch_loss,
    reconstruction_loss,
    smooth,
    start_shape,
    tuned,
)
from facegen_attr.plumbing import read_checkpoint
from facegen_attr.predictor import balanced_accuracy, shifted
from facegen_attr.refine import Session, parse_changes, talk
from facegen_attr.tune import fit_requests
from facegen_attr.validation import OBEYED, obeyed

SMALL = ("--image_size", 16, "--batch_size", 8, "--device", "cpu", "--precision", "fp32", "--workers", 0)
EIGHT = SETS["8"]
call = caller(script)


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    """Small models trained through the command line: (folder, what the first training printed)."""
    folder = tmp_path_factory.mktemp("trained")
    flags = ["--dataset_dir", faces, "--log_every", 4, *SMALL, *places(folder)]
    printed = train(folder, "facegen_attr", *flags, "--model=dcgan2", "--attributes=2", "--epoch=2")
    best = ["--recipe", "best", "--attributes", "2", "--steps", 3]
    assert call(*flags, *best, "--model", "dcgan5") == 0
    assert call(*flags, "--model", "dcgan4", "--steps", 2) == 0
    assert call(*flags, "--run", "train_predictor", "--steps", 9) == 0
    return folder, printed


# The networks


def test_dcgan2_has_the_documents_layers():
    """By hand: fc to 4 x 4 x 128, transposed 64, 32, 3; convolutions 32, 64, 128 on a cube of 3 + A planes."""
    generator, discriminator = Generator("dcgan2", 8), Discriminator("dcgan2", 8)
    fc, bn = 108 * 2048 + 2048, 2 * (128 + 64 + 32)
    assert count(generator) == fc + bn + (128 * 64 + 64 * 32 + 32 * 3) * 16 + 64 + 32 + 3
    assert count(discriminator) == (11 * 32 + 32 * 64 + 64 * 128) * 16 + 224 + 2 * (64 + 128) + 2048 + 1
    shapes = [tuple(layer.weight.shape) for layer in discriminator.layers if isinstance(layer, torch.nn.Conv2d)]
    assert shapes == [(32, 11, 4, 4), (64, 32, 4, 4), (128, 64, 4, 4)]
    norms = [type(layer).__name__ for layer in discriminator.layers]
    assert norms[:3] == ["Conv2d", "LeakyReLU", "Conv2d"] and norms[3] == "BatchNorm2d", "batch norm from the second"


def test_the_other_models_inputs():
    """fc inputs: noise + A; 32 * 32 * 3 + 10 A of a cube; dcgan1's attributes at D's last layer; 4 layers with 23."""
    assert Generator("dcgan1", 1).fc.in_features == 101
    assert Discriminator("dcgan1", 1).fc.in_features == 4 * 4 * 128 + 1
    assert Discriminator("dcgan1", 1).layers[0].in_channels == 3
    for model in ("dcgan3", "dcgan4", "dcgan5"):
        assert Generator(model, 5).fc.in_features == 3 * 32 * 32 + 10 * 5
        assert Discriminator(model, 5).layers[0].in_channels == 3 + 5
    wide = Discriminator("dcgan2", 23)
    assert [layer.out_channels for layer in wide.layers if isinstance(layer, torch.nn.Conv2d)] == [32, 64, 128, 256]
    assert wide.fc.in_features == 2 * 2 * 256
    assert Generator("dcgan2", 5, 64).fc.out_features == 8 * 8 * 128, "64 x 64: the same layers from an 8 x 8 map"
    pixels = 218 * 178 * 3
    assert count(FullGenerator(23)) == 123 * 128 + 128 + 128 * pixels + pixels
    assert count(FullDiscriminator(23)) == (pixels + 23) * 128 + 128 + 129


def test_a_cube_repeats_each_attribute_ten_times():
    generator = Generator("dcgan3", 2, 16).eval()
    seen = []
    generator.fc.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    generator(torch.zeros(1, 3, 16, 16), torch.tensor([[1.0, 0.0]]))
    assert seen[0].shape == (1, 3 * 16 * 16 + 20)
    assert (seen[0][0, 768:778] == 1).all() and (seen[0][0, 778:] == 0).all()
    assert attribute_planes(torch.tensor([[1.0, 0.0]]), 2, 3).tolist() == [[[[1] * 3] * 2, [[0] * 3] * 2]]


def networks(model, network, attributes=3):
    names = EIGHT[:attributes]
    args = argparse.Namespace(
        model=model, network=network, attributes=names, image_size=32, width=32, diff_augment=False
    )
    return args, make_generator(args), make_discriminator(args)


NETWORKS = [*((model, "document") for model in MODELS), ("dcgan2", "conditional"), ("dcgan5", "conditional")]


@pytest.mark.parametrize(("model", "network"), NETWORKS)
def test_gradient_reaches_every_parameter(model, network):
    torch.manual_seed(0)
    args, generator, discriminator = networks(model, network)
    height, width = picture_size(args)
    c = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
    x_fake = ask(args, generator, torch.randn(4, *start_shape(model, height, width)), 1 - c, c)
    assert x_fake.shape == (4, 3, height, width)
    assert model == "dcgan5" and network == "conditional" or x_fake.abs().max() <= 1
    logits, reading = discriminator(x_fake, c, 1 - c)
    assert [part.shape for part in logits] == [(4,)] * 2 and (logits[0] != logits[1]).any(), "the request counts"
    total = logits[0].square().sum() + (0 if reading is None else reading.square().sum())
    total.backward()
    for name, parameter in [*generator.named_parameters(), *discriminator.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_conditional_generator_is_small_enough():
    """5 MB of weights for a 64 x 64 picture of eight attributes, and of 23."""
    for attributes in (8, 23):
        generator = ConditionalGenerator(attributes, 64)
        assert sum(value.numel() * value.element_size() for value in generator.state_dict().values()) < 5e6


def test_conditional_norm_is_linear_in_the_attributes():
    norm = ConditionalNorm(2, 4).eval()
    h = torch.randn(1, 4, 3, 3)
    results = [norm(h, torch.tensor([[degree, 0.0]])) for degree in (0.0, 1.0, 2.0)]
    assert torch.allclose(results[2] - results[1], results[1] - results[0], atol=1e-5)
    assert not torch.allclose(results[1], results[0])


def test_the_editor_keeps_what_its_mask_does_not_show():
    torch.manual_seed(0)
    editor = Editor(2).eval()
    initialise(editor, "he")
    x, change = torch.rand(2, 3, 16, 16) * 2 - 1, torch.tensor([[1.0, 0], [0, -1]])
    paint, mask = editor.paint(x, change)
    assert torch.allclose(editor(x, change), x * (1 - mask) + paint * mask, atol=1e-6)
    editor.up1.bias.data[3] = -100  # a mask of zeros
    assert torch.equal(editor(x, change), x)


def test_smoothing_takes_the_grid_and_leaves_the_rest():
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    x = torch.stack([board, torch.ones(8, 8)])[None]
    assert smooth(x)[0, 0, 1:-1, 1:-1].abs().max() == 0 and torch.equal(smooth(x)[0, 1], x[0, 1])
    spot = torch.zeros(1, 1, 5, 5)
    spot[0, 0, 2, 2] = 16
    assert smooth(spot)[0, 0, 1:4, 1:4].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]


def test_projection_is_one_pass_for_two_requests():
    discriminator = ConditionalDiscriminator(2, 16)
    x, c = torch.rand(3, 3, 16, 16), torch.tensor([[1.0, 0], [1, 1], [0, 0]])
    (right, wrong), reading = discriminator(x, c, 1 - c)
    (alone,), _ = discriminator(x, 1 - c)
    real = discriminator.fc(discriminator.layers(x))[:, 0]
    assert torch.allclose(wrong, alone, atol=1e-6) and reading.shape == (3, 2)
    assert torch.allclose(right - real, real - wrong, atol=1e-5), "the opposite request is the opposite projection"


def test_initialisers():
    generator = Generator("dcgan2", 8)
    initialise(generator, "document")
    assert generator.fc.weight.std().item() == pytest.approx(0.02, rel=0.05) and generator.fc.bias.abs().sum() == 0
    initialise(generator, "he")
    assert generator.fc.weight.std().item() == pytest.approx(math.sqrt(2 / 108), rel=0.05)


# Attributes


def test_wrong_attributes_are_never_the_right_ones():
    torch.manual_seed(0)
    c = (torch.rand(500, 2) < 0.5).float()
    pool = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    wrong = mismatched(c, pool, torch.rand(2, 500))
    assert (wrong != c).any(1).all() and set(wrong.unique().tolist()) == {0, 1}
    assert (mismatched(c[:, :1], c[:, :1], torch.rand(2, 500)) == 1 - c[:, :1]).all(), "of one attribute, the other"
    kept = mismatched(torch.tensor([[0.0, 0]]), pool, torch.tensor([[0.8], [0.0]]))
    assert kept.tolist() == [[1, 1]], "another face's, where it differs"


def test_turning_one_attribute_round():
    names = ["Male", "Black_Hair", "Blond_Hair"]
    c = torch.tensor([[1.0, 1, 0]]).repeat(3, 1)
    turned = flipped(c, torch.tensor([0.1, 0.5, 0.9]), exclusions(names))
    assert turned.tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 1]], "blond hair takes the place of black hair"
    assert contradictions(["Bald", "Male", "Bangs"]) == ["Bald and Bangs"] and contradictions([]) == []
    assert not exclusions(EIGHT)[EIGHT.index("Male")].any()


def test_resampling_makes_rare_attributes_frequent():
    rng = torch.Generator().manual_seed(0)
    a = (torch.rand(2000, 3, generator=rng) < torch.tensor([0.04, 0.5, 0.93])).float()
    a = torch.cat([a, torch.zeros(2000, 1)], 1)  # and one that nobody has
    shares = a[resampled(a, 0.25, 4000)].mean(0)
    assert shares[[0, 2]].tolist() == pytest.approx([0.25, 0.75], abs=0.01)
    assert shares[1].item() == pytest.approx(a[:, 1].mean().item(), abs=0.02) and shares[3] == 0
    assert torch.equal(resampled(a, 0, 2000).unique(), torch.arange(2000)), "no floor: every row as often"


def test_presets_are_the_documents_table():
    def preset(*flags):
        args = script.parse_args(["--dataset_name", "x", *flags])
        return args.epoch, args.optimizer, args.learning_rate, args.batch_size, args.train_size, len(args.attributes)

    assert preset("--model=fcgan") == (100, "adam", 2e-4, 32, "40000", 23)
    assert preset("--model=dcgan1") == (10, "rmsprop", 1e-4, 32, "50000", 1)
    assert preset("--model=dcgan2") == (50, "adam", 2e-4, 32, None, 8)
    assert preset("--model=dcgan2", "--attributes=2") == (300, "adam", 2e-4, 32, None, 2)
    assert preset("--model=dcgan2", "--attributes=23") == (44, "adam", 2e-4, 32, None, 23)
    assert preset("--model=dcgan2", "--image_size=64") == (10, "rmsprop", 2e-4, 32, "50000", 5)
    assert preset("--model=dcgan3") == (20, "rmsprop", 8e-5, 32, "15000", 5)
    assert preset("--model=dcgan4") == preset("--model=dcgan5") == (20, "rmsprop", 8e-5, 32, "20000", 5)
    assert preset("--model=dcgan2", "--epoch=7", "--attributes=Bald,Male")[::5] == (7, 2)
    args = script.parse_args(["--dataset_name", "x", "--model=fcgan"])
    assert picture_size(args) == (218, 178) and args.recipe == "document" and args.lambda_rec == 0.5
    assert make_optimizer(args, torch.nn.Linear(1, 1)).param_groups[0]["lr"] == 2e-4
    best = script.parse_args(["--dataset_name", "x", "--recipe=best", "--flip=False"])
    assert best.network == "conditional" and best.image_size == 64 and best.show_ema and not best.flip
    assert all(set(names) <= set(ATTRIBUTES) and len(names) == int(key) for key, names in SETS.items())


# Losses


def test_losses_by_hand():
    zero, two = torch.zeros(2), torch.full((2,), 2.0)
    no = math.log(1 + math.exp(-2))  # cross entropy of a logit of 2 that should be 1
    yes = math.log(1 + math.exp(2))
    assert mismatch_loss(two).item() == pytest.approx(yes, rel=1e-5)
    assert discriminator_loss(two, zero).item() == pytest.approx(no + math.log(2), rel=1e-5)
    assert generator_loss(two).item() == pytest.approx(no, rel=1e-5)
    x, fed = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)
    assert reconstruction_loss(x, fed, "document").item() == 0.25
    assert reconstruction_loss(x, fed, "conditional").item() == 0.5
    reading = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
    loss = attribute_loss(reading, torch.tensor([[1.0, 1], [1, 0]]))
    assert loss.item() == pytest.approx((no + yes) / 2 + math.log(2), rel=1e-5), "summed over the attributes"


def test_what_each_model_is_fed():
    """dcgan4: from noise, then its own picture; dcgan5: from a face asked for others' attributes, then its own."""
    torch.manual_seed(0)
    x, c = torch.rand(4, 3, 32, 32), torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
    for model, network in [("dcgan2", "document"), ("dcgan4", "document"), *NETWORKS[5:6], *NETWORKS[-1:]]:
        args, generator, _ = networks(model, network)
        args.batch_size = 4
        _, asked, start, _ = script.draw(args, c, c, exclusions(args.attributes), slice(0, 4), torch.tensor(0.0))
        rounds = script.imagine(args, generator, x, c, asked, start)
        if model == "dcgan2":
            ((_, asked, fed),) = rounds
            assert torch.equal(asked, c) and fed is None
        elif model == "dcgan4":
            (first, asked, fed), (_, other, fed_back) = rounds
            assert fed is None and fed_back is first and torch.equal(asked, c) and (other != c).any(1).all()
        elif network == "document":
            (first, asked, fed), (_, back, fed_back) = rounds
            assert fed is x and fed_back is first and (asked != c).any(1).all() and torch.equal(back, c)
        else:
            ((_, asked, fed),) = rounds
            assert fed is x


def test_the_editor_is_asked_for_nothing_for_one_change_and_for_many():
    torch.manual_seed(0)
    args, _, _ = networks("dcgan5", "conditional")
    args.batch_size = 400
    c = torch.rand(400, 3).round()
    _, asked, _, _ = script.draw(
        args, c, torch.ones(1, 3), exclusions(args.attributes), slice(0, 400), torch.tensor(0.0)
    )
    changes = (asked != c).sum(1)
    assert 0.2 < (changes == 0).float().mean() < 0.3
    others = (asked == 1).all(1) & (changes > 0)  # what the only other face has
    assert 0.3 < others.float().mean() < 0.6 and 0.1 < (changes > 1).float().mean() < 0.5
    assert (changes[~others] <= 2).all()


# Training


def test_training_leaves_what_it_says(trained):
    folder, output = trained
    samples = folder / "samples/faces_dcgan2_16"
    assert [path.name for path in sorted(samples.glob("0*.png"))] == ["0000009.png", "0000018.png"], "a sheet an epoch"
    assert f"tensorboard --logdir {samples / 'logs'}" in output and "trained 18 of 18 steps" in output
    for name in ("loss.png", "probability.png"):
        chart = np.asarray(Image.open(samples / name))
        assert {(31, 119, 180), (214, 39, 40)} <= set(map(tuple, chart.reshape(-1, 3))), "two lines at least"
    content = torch.load(folder / "models/faces_dcgan2_16.pt", weights_only=True)
    assert content["args"]["attributes"] == ["Male", "Smiling"] and content["state"]["known"].shape == (72, 2)
    state = torch.load(folder / "checkpoint/faces_dcgan2_16/last.pt", weights_only=True)["state"]
    assert state["history"][:, 0].tolist() == [4, 8, 9, 12, 16, 18]
    probability = state["history"][:, 3:]
    assert probability.min() > 0 and probability.max() < 1, "D's mean probability on real, fake and mismatched"


def test_tensorboard_charts(trained):
    charts = logged(trained[0] / "samples/faces_dcgan2_16/logs")
    probabilities = {f"probability/{name}" for name in ("real", "fake", "mismatch")}
    assert set(charts.Tags()["scalars"]) == {"loss/d", "loss/g", *probabilities, "diversity", "face_distance"}
    assert charts.Tags()["images"] == ["images/samples"]
    for run, losses in (("dcgan4_16", {"loss/rec"}), ("dcgan5_16_best", {"loss/rec", "loss/attributes"})):
        assert losses <= set(logged(trained[0] / f"samples/faces_{run}/logs").Tags()["scalars"]), run
    assert len(charts.Scalars("face_distance")) == 2


def test_the_best_model_is_the_one_nearest_to_validation_faces(trained):
    charts = logged(trained[0] / "samples/faces_dcgan2_16/logs")
    best = min(charts.Scalars("face_distance"), key=lambda point: point.value)
    content = read_checkpoint(trained[0] / "models/faces_dcgan2_16.pt")
    assert content["state"]["step"] == best.step


def test_obeyed_is_the_mean_rate_of_what_the_discriminator_reads():
    asked = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]]).float()
    read = torch.tensor([[5, 5, 5], [-5, -5, 5], [-5, 5, 5], [-5, -5, 5]]).float()

    def discriminator(x, c):
        return None, read[x[:, 0, 0, 0].long()]

    x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    rate = obeyed(discriminator, x, asked, "cpu", contextlib.nullcontext)
    assert rate == pytest.approx(((1 / 2 + 1) / 2 + (2 / 3 + 1) / 2) / 2)
    assert obeyed(discriminator, x, asked * 0, "cpu", contextlib.nullcontext) == 1


def test_of_models_that_look_real_and_obey_the_newest_is_kept():
    rated = functools.partial(score, enough=OBEYED)
    assert rated(0.1, 0.996) == rated(0.4, 0.951), "no difference that is one: the newer wins"
    assert rated(1.0, 0.95) < rated(0.4, 0.6), "real-looking faces that show something else are no good"
    assert rated(1.0, 0.95) == 1.0 and rated(0.4, 0.95) == 0.5


def test_running_again_does_nothing_and_longer_goes_on(copied, faces, capsys):
    flags = ["--dataset_dir", faces, "--log_every", 4, "--attributes=2", *SMALL, *places(copied)]
    before = (copied / "checkpoint/faces_dcgan2_16/last.pt").read_bytes()
    assert call(*flags, "--epoch=2") == 0 and "already" in capsys.readouterr().out
    assert (copied / "checkpoint/faces_dcgan2_16/last.pt").read_bytes() == before
    assert call(*flags, "--epoch=3") == 0 and "trained 27 of 27" in capsys.readouterr().out
    assert call(*flags, "--epoch=3", "--attributes=Male,Young") == 2
    assert "attributes was ['Male', 'Smiling']" in capsys.readouterr().err


@pytest.mark.parametrize("flags", ["dcgan4", "dcgan2 --recipe=best --diff_augment", "dcgan5 --recipe=best"])
def test_resume_is_exact(flags, faces, home):
    """8 steps are 5 steps, a new start and 3 more, bit for bit: weights, EMA, optimizers, curves."""
    results = []
    for name, stops in (("once", [8]), ("twice", [5, 8])):
        for stop in stops:
            paths = [*places(home), "--checkpoint_dir", home / name, "--model_path", home / f"{name}_models"]
            often = ["--log_every=1", "--sample_every=5", "--steps", stop]
            assert call("--dataset_dir", faces, "--model", *flags.split(), *SMALL, *paths, *often) == 0
        results.append(torch.load(next((home / name).glob("*/last.pt")), weights_only=True))
    for part in ("generator", "discriminator", "ema", "g_optimizer", "d_optimizer"):
        assert same(results[0][part], results[1][part]), part
    assert results[0]["state"]["step"] == 8
    assert same(results[0]["state"]["history"], results[1]["state"]["history"])


def test_the_penalty_and_the_readings_change_the_weights(faces, home, monkeypatch):
    """Each of the best recipe's ingredients is a flag that does something."""
    ends = {}
    monkeypatch.setattr(script, "R1_EVERY", 2)
    monkeypatch.setattr(script, "by_heart", lambda *logits: torch.ones(()))  # at once, and then all is augmented
    monkeypatch.setattr("facegen_attr.gan.RAMP", 1)
    zeros = {name: [f"--{name}=0"] for name in ("lambda_r1", "lambda_attributes", "lambda_mismatch", "balance")}
    for name, extra in ({"all": [], "flip": ["--flip=False"], "augment": ["--diff_augment=False"]} | zeros).items():
        paths = [*places(home), "--checkpoint_dir", home / name, "--model_path", home / f"{name}_models"]
        flags = ["--dataset_dir", faces, "--recipe=best", "--steps=2", *SMALL, "--attributes=5", *paths, *extra]
        assert call(*flags) == 0
        ends[name] = read_checkpoint(home / name / "faces_dcgan2_16_best/last.pt")["discriminator"]["fc.weight"]
    assert all(not torch.equal(ends["all"], end) for name, end in ends.items() if name != "all")


def test_training_learns_what_is_asked(faces, home):
    """The best recipe on a few faces: after a minute at most, women and men differ, and the reading says which."""
    flags = "--recipe=best --attributes=Male --steps=150 --learning_rate=0.001 --sample_every=150 --save_every=150"
    assert call("--dataset_dir", faces, *flags.split(), *SMALL, *places(home)) == 0
    content = read_checkpoint(home / "checkpoint/faces_dcgan2_16_best/last.pt")
    generator, discriminator = ConditionalGenerator(1, 16), ConditionalDiscriminator(1, 16)
    generator.load_state_dict(content["ema"])
    discriminator.load_state_dict(content["discriminator"])
    c = torch.tensor([[1.0], [0.0]]).repeat(32, 1)
    with torch.no_grad():
        _, reading = discriminator(generator.eval()(torch.randn(64, 100), c), c)
    assert ((reading > 0).float() == c).float().mean() > 0.9


def test_two_processes_give_the_weights_of_one(faces, home):
    """Two processes as under torchrun, the same global batch, a model without batch norm: the same within rounding."""
    flags = ["--dataset_dir", faces, "--steps", 4, "--model", "fcgan", *SMALL, "--flip", "--diff_augment"]
    assert call(*flags, *places(home), "--checkpoint_dir", home / "one") == 0
    paths = [*places(home), "--checkpoint_dir", home / "two", "--model_path", home / "two_models"]
    codes, printed = finish(*start(home, "facegen_attr", *flags, *paths, world=2))
    assert codes == [0, 0], printed
    one, two = (torch.load(home / name / "faces_fcgan_16/last.pt", weights_only=True) for name in ("one", "two"))
    for part in ("generator", "discriminator", "ema"):
        for name, weight in one[part].items():
            assert torch.allclose(weight, two[part][name], rtol=1e-3, atol=1e-4), name
    assert torch.allclose(one["state"]["history"], two["state"]["history"], rtol=1e-3)


def test_a_stop_saves_first(faces, home):
    """SIGTERM in mid-epoch: exit in order; checkpoint, sheet and model are of the step it had come to."""
    flags = ["--dataset_dir", faces, *SMALL, *places(home)]
    rare = ["--epoch", 5000, "--sample_every", 10**6, "--save_every", 10**6]
    (process,), outputs = start(home, "facegen_attr", *flags, *rare)
    wait_for("watch it", [process], outputs)
    time.sleep(2)
    process.terminate()
    codes, output = finish([process], outputs)
    assert codes == [0], output
    step = read_checkpoint(home / "checkpoint/faces_dcgan2_16/last.pt")["state"]["step"]
    assert step > 0 and f"trained {step} of " in output
    assert (home / f"samples/faces_dcgan2_16/{step:07d}.png").exists()
    assert read_checkpoint(home / "models/faces_dcgan2_16.pt")["state"]["step"] == step


def spoil_the_second():
    """The loss of rank 1 is not finite."""
    loss = script.generator_loss
    script.generator_loss = lambda d: loss(d) / (1 - int(os.environ["RANK"]))


def test_a_loss_that_is_not_finite_in_one_process_stops_all(faces, home):
    """Both processes decide by their mean: none is left waiting for the other."""
    flags = ["--dataset_dir", faces, "--steps", 9, "--log_every", 1, *SMALL, *places(home)]
    codes, printed = finish(*start(home, "facegen_attr", *flags, world=2, prepare=spoil_the_second))
    assert codes == [1, 1] and printed.count("not finite at step 1") == 2, printed
    assert not (home / "models").exists() and not (home / "checkpoint").exists()


def test_a_collapse_is_seen(faces, home, capsys):
    flags = ["--dataset_dir", faces, *SMALL, *places(home), "--steps=1", "--learning_rate=1e-30"]
    assert call(*flags) == 0
    printed = capsys.readouterr()
    assert "too much alike" in printed.out + printed.err, "the document's first pictures are all grey"


# Using the model


def test_generate_writes_what_was_asked_for(trained, faces, tmp_path):
    folder, _ = trained
    flags = ["--dataset_name", "faces", "--image_size", 16, *places(folder), "--run", "generate"]
    assert call(*flags, "--request", "Male=1", "--count", 5, "--out_dir", tmp_path / "out") == 0
    rows = table(tmp_path / "out/manifest.tsv")
    assert [row["file"] for row in rows] == [f"{i:05d}.png" for i in range(5)]
    assert all("Male=1" in row["request"] and "Smiling=" in row["request"] for row in rows)
    assert np.asarray(Image.open(tmp_path / "out/00004.png")).shape == (16, 16, 3)
    assert (tmp_path / "out/sheet.png").exists()
    assert call(*flags, "--out_dir", tmp_path / "out") == 2, "nothing is written over"
    assert call(*flags, "--out_dir", tmp_path / "out", "--overwrite", "--count", 2) == 0


def test_a_run_from_before_a_flag_goes_on_and_one_of_another_shape_says_so(faces, home, capsys):
    flags = ["--dataset_dir", faces, "--recipe", "best", "--attributes", 2, *SMALL, *places(home)]
    assert call(*flags, "--steps", 1) == 0
    path = home / "checkpoint/faces_dcgan2_16_best/last.pt"
    content = torch.load(path, weights_only=True)
    del content["args"]["width"]
    torch.save(content, path)
    assert call(*flags, "--steps", 2, "--width", 8) == 2
    assert "of another shape: begin anew with --restart" in capsys.readouterr().err
    assert call(*flags, "--steps", 2) == 0
    assert "resuming from" in capsys.readouterr().out and read_checkpoint(path)["state"]["step"] == 2


@pytest.mark.parametrize("model", ["dcgan2", "dcgan5"])
def test_networks_of_another_width_train_and_answer(model, faces, home):
    flags = ["--dataset_dir", faces, "--recipe", "best", "--model", model, *SMALL, *places(home)]
    assert call(*flags, "--width", 8, "--attributes", 2, "--steps", 2) == 0
    weights = read_checkpoint(home / f"models/faces_{model}_16_best.pt")["generator"]
    largest = weights["ups.0.weight" if model == "dcgan2" else "down1.0.weight"]
    assert len(largest) == (64 if model == "dcgan2" else 8), "eight times the width where a face is 4 x 4"
    assert call(*flags, "--run", "generate", "--count", 2, "--out_dir", home / "out") == 0, "its file knows its width"
    assert (home / "out/sheet.png").exists()


def test_without_a_request_each_attribute_is_asked_for_as_often_as_not(trained, faces, tmp_path):
    folder, _ = trained
    flags = ["--dataset_dir", faces, "--image_size", 16, *places(folder), "--run", "generate", "--count", 40]
    assert call(*flags, "--out_dir", tmp_path / "out") == 0
    rows = table(tmp_path / "out/manifest.tsv")
    asked = [dict(pair.split("=") for pair in row["request"].split(",")) for row in rows]
    assert [row["Smiling"] for row in asked[2::4]] == ["0"] * 10
    assert [row["Smiling"] for row in asked[3::4]] == ["1"] * 10
    data = CelebA(faces)
    test = {tuple(row) for row in data.attributes[data.partition == 2][:, attribute_indices("Male,Smiling")].tolist()}
    assert {(int(row["Male"]), int(row["Smiling"])) for row in asked} <= test, "rows of the test part"


def test_requests_are_checked(trained, tmp_path, capsys):
    flags = ["--dataset_name", "faces", "--image_size", 16, *places(trained[0]), "--run", "generate"]
    out = ["--out_dir", tmp_path / "out"]
    assert call(*flags, *out, "--request", "Smyling=1") == 2
    assert "nearest: Smiling" in capsys.readouterr().err
    assert call(*flags, *out, "--request", "Bald=1") == 2
    assert "was not trained on Bald, but on Male, Smiling" in capsys.readouterr().err
    assert call(*flags, *out, "--request", "Male=maybe") == 2
    assert not (tmp_path / "out").exists()
    columns, values = wanted("Black_Hair=1,Blond_Hair=1", EIGHT)
    assert columns == [2, 3] and values.tolist() == [1, 1]
    assert "note: Black_Hair and Blond_Hair contradict" in capsys.readouterr().out


def test_a_request_goes_with_what_faces_have_beside_it():
    """Of the rows that the model remembers, those that fit the request best; then made to fit."""
    known = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 1, 0]], dtype=torch.uint8)
    names = ["Male", "No_Beard", "Young"]
    assert draw_requests(known, names, "Male=0", 5, seed=0).tolist() == [[0, 1, 0]] * 5
    assert draw_requests(known, names, "Male=1,No_Beard=1,Young=1", 2, seed=0).tolist() == [[1, 1, 1]] * 2


def test_dcgan5_changes_one_attribute_of_each_test_face(trained, faces, tmp_path):
    flags = ["--dataset_dir", faces, "--model", "dcgan5", *SMALL, *places(trained[0]), "--run", "generate"]
    assert call(*flags, "--count", 6, "--out_dir", tmp_path / "out") == 0
    rows = table(tmp_path / "out/manifest.tsv")
    data = CelebA(faces)
    truth = data.attributes[data.partition == 2][:, attribute_indices("Male,Smiling")]
    others = [f"{name}={1 - truth[i, i % 2]}" for i, name in enumerate(["Male", "Smiling"] * 3)]
    assert [row["request"] for row in rows] == others
    records = load_records(script.parse_args(list(map(str, flags))), (16, 16), torch.device("cpu"))
    source = np.asarray(Image.open(tmp_path / "out" / rows[2]["source"])).astype(int)
    assert np.abs(source - records.images[records.rows("test")[2]].astype(int)).max() <= 1
    assert not np.array_equal(source, np.asarray(Image.open(tmp_path / "out/00002.png")))


def test_own_photos_need_no_labels(trained, faces, tmp_path, capsys):
    photo = next((faces / "img_align_celeba").iterdir())
    flags = ["--dataset_name", "faces", "--model", "dcgan5", *SMALL, *places(trained[0]), "--images", photo]
    assert call(*flags, "--run", "generate", "--request", "Smiling=1", "--out_dir", tmp_path / "out") == 0
    assert f"{photo.name} shows" in capsys.readouterr().out
    (row,) = table(tmp_path / "out/manifest.tsv")
    assert row["request"] == "Smiling=1" and (tmp_path / "out" / row["source"]).exists()
    assert call(*flags, "--run", "generate", "--request", "Male=1", "--shows", "Male=1") == 0
    assert f"{photo.name}: that is what it shows already" in capsys.readouterr().out
    assert call(*flags, "--run", "generate", "--shows", "Male=1,Smiling=0") == 0
    told = capsys.readouterr().out
    assert "shows Male\n" in told and f"turned round: {photo.name} Male=0" in told
    assert call(*flags, "--run", "generate", "--predictor_path", tmp_path / "none.pt") == 2
    assert "--run train_predictor" in capsys.readouterr().err
    Image.new("RGB", (64, 64), "green").save(tmp_path / "green.png")
    assert call(*flags[:-1], tmp_path / "green.png", "--run", "generate", "--out_dir", tmp_path / "none") == 2
    assert "no usable face" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_the_change_goes_back_into_the_photo(trained, faces, tmp_path, monkeypatch, capsys):
    """At full size, on the face alone, of the largest or of all; a clip's in a clip."""
    one, other = (np.asarray(Image.open(path)) // 2 for path in sorted((faces / "img_align_celeba").iterdir())[:2])
    photo = np.full((600, 900, 3), 120, np.uint8)
    photo[60:496, 60:416] = np.asarray(Image.fromarray(one).resize((356, 436), Image.Resampling.BICUBIC))
    photo[100:318, 600:778] = other
    (tmp_path / "in").mkdir()
    Image.fromarray(photo).save(tmp_path / "in/me.png")
    small = [Image.fromarray(np.roll(one, shift, 1)) for shift in (0, 4)]
    small[0].save(tmp_path / "in/clip.gif", save_all=True, append_images=small[1:], duration=90, loop=0)
    monkeypatch.setattr(Model, "answer", lambda self, x, c, asked: (x + asked[:, 1, None, None, None]).clamp(-1, 1))
    flags = ["--dataset_name", "faces", "--model", "dcgan5", *SMALL, *places(trained[0]), "--images", tmp_path / "in"]
    flags += ["--request", "Smiling=0"]
    assert call(*flags, "--run", "generate", "--out_dir", tmp_path / "same") == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "same/photos/me.png")), photo), (
        "no change, and not one pixel"
    )
    flags[-1] = "Smiling=1"
    for name, more, count in (("one", [], 3), ("all", ["--all_faces"], 4)):
        assert call(*flags, *more, "--run", "generate", "--out_dir", tmp_path / name) == 0
        assert len(table(tmp_path / name / "manifest.tsv")) == count
        change = np.asarray(Image.open(tmp_path / name / "photos/me.png")).astype(int) - photo
        assert change[280, 240].min() > 60 and not change[:, :20].any() and not change[560:].any()
        assert (change[:, 600:778].max() > 60) == (name == "all")
        with Image.open(tmp_path / name / "photos/clip.gif") as clip:
            assert clip.n_frames == 2 and clip.info["duration"] == 90 and clip.size == (178, 218)
    assert f"{tmp_path}/all/photos/me.png" in capsys.readouterr().out
    assert call(*flags, "--run", "generate", "--count", 9, "--out_dir", tmp_path / "once") == 0
    assert len(table(tmp_path / "once/manifest.tsv")) == 3, "asked for one thing, a face is changed once"
    assert call(*flags[:-2], "--run", "generate", "--count", 6, "--out_dir", tmp_path / "many") == 0
    assert {path.name for path in (tmp_path / "many/photos").iterdir()} == {
        "me.png",
        "me_2.png",
        "clip.gif",
        "clip_2.gif",
    }
    (tmp_path / "two").mkdir()
    for name in ("a.png", "a_2.png"):
        Image.fromarray(photo).save(tmp_path / "two" / name)
    pair = [*flags[:-2], "--run", "generate", "--count", 4, "--out_dir", tmp_path / "four"]
    pair[pair.index("--images") + 1] = tmp_path / "two"
    assert call(*pair) == 0
    assert len(list((tmp_path / "four/photos").iterdir())) == 4, "none is written over another"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"Smiling=2\nSmiling=-1\nsave {tmp_path / 'saved.png'}\n"))
    flags[flags.index("--images") + 1] = tmp_path / "in/me.png"
    assert call(*flags[:-2], "--run", "refine", "--sample_dir", tmp_path / "s") == 0
    steps = [np.asarray(Image.open(path)) for path in sorted(tmp_path.glob("s/*/refine_001/photos/*.png"))]
    assert len(steps) == 3 and np.array_equal(steps[0], photo) and np.array_equal(steps[2], photo)
    assert steps[1][280, 240].astype(int).min() > photo[280, 240].min() + 60
    assert np.array_equal(np.asarray(Image.open(tmp_path / "saved.png")), steps[2])
    assert call(*flags[:-2], "--run", "refine", "--out_dir", tmp_path / "here") == 0
    assert (tmp_path / "here/photos/step_000.png").exists() and (tmp_path / "here/steps.tsv").exists()
    assert call(*flags[:-2], "--run", "refine", "--out_dir", tmp_path / "in", "--overwrite") == 2
    assert "lie in one another" in capsys.readouterr().err
    flags[flags.index("--images") + 1] = tmp_path / "in"
    assert call(*flags[:-2], "--run", "refine", "--sample_dir", tmp_path / "s") == 0
    assert "of 3 photos and frames the first is refined, clip.gif; generate" in capsys.readouterr().out
    with Image.open(next(tmp_path.glob("s/*/refine_002/photos/step_000.png"))) as whole:
        assert whole.size == (178, 218)


def make_session(folder, render=lambda before, c: before + 0.1, **more):
    return Session(["Male", "Bald", "Bangs"], torch.zeros(3, 8, 8), torch.tensor([1.0, 0, 0]), render, folder, **more)


def test_a_session_keeps_every_step(tmp_path):
    asked = []
    session = make_session(tmp_path / "s", lambda before, c: asked.append(c.tolist()) or before + 0.1)
    assert session.degrees == {"Male": 1, "Bald": -1, "Bangs": -1}
    session.change({"Male": -1.0})
    session.more(0.5)
    assert session.degrees["Male"] == -1.5 and asked == [[0, 0, 0], [-0.25, 0, 0]]
    session.undo()
    assert session.degrees["Male"] == -1 and torch.allclose(session.steps[-1][0], torch.full((3, 8, 8), 0.1))
    note = "note: Bald and Bangs contradict each other; asked for all the same"
    assert session.change({"Bald": 1.0, "Bangs": 2.0}) == [note]
    session.more(9)
    assert session.degrees["Bald"] == 2, "not beyond 2"
    asked_first = make_session(tmp_path / "asked", asked={"Male": 0.0})
    asked_first.more(0.5)
    assert asked_first.degrees["Male"] == 0.5
    names = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert names == [*(f"step_{i:03d}.png" for i in range(5)), "steps.tsv"], "what was undone stays"
    asked = [row["asked"] for row in table(tmp_path / "s/steps.tsv")]
    assert asked == ["", "Male=-1", "Male=-1.5", "Bald=1,Bangs=2", "Bald=2,Bangs=2"]
    for _ in range(3):
        session.undo()
    with pytest.raises(InputError, match="nothing to undo"):
        session.undo()
    with pytest.raises(InputError, match="not trained on Young"):
        session.change({"Young": 1.0})


def test_talk_goes_on_after_a_mistake(tmp_path, capsys):
    session = make_session(tmp_path / "s")
    wrong = ["more", "+Mael", "what", "Male=x", "Male=3", "save face.xyz", "save", ""]
    saves = [f"save {tmp_path / name}" for name in ("face.png", "face.png", "my face.png")]
    right = ["-Male Bangs=0.5", "more 0.25", "undo", "show", *saves, "help"]
    talk(session, io.StringIO("\n".join([*wrong, *right, "quit", "+Bald"])))
    output = capsys.readouterr().out
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    says = ("nothing was asked", "nearest: Male", "not understood", "expected a number", "from -2 to 2", ".png",
            "where", "exists")  # fmt: skip
    assert all(text in error for text, error in zip(says, errors, strict=True)), errors
    assert "undo " in output and (tmp_path / "face.png").exists() and (tmp_path / "my face.png").exists()
    assert session.degrees == {"Male": -1, "Bald": -1, "Bangs": 0.5}, "nothing after quit"
    assert parse_changes(["+Male", "-Bald", "Bangs=0.5"]) == {"Male": 1, "Bald": -1, "Bangs": 0.5}


BEGINNINGS = [("dcgan2", []), ("dcgan4", ["--attributes=5"]), ("dcgan5", ["--images"]), ("dcgan5", ["--first_model"])]


@pytest.mark.parametrize(("model", "extra"), BEGINNINGS)
def test_refine_in_the_terminal(model, extra, trained, faces, tmp_path, monkeypatch, capsys):
    """Piped commands; from noise, from a photo, from another model's first guess."""
    folder, _ = trained
    flags = ["--dataset_name", "faces", "--model", model, *SMALL, *places(folder), "--sample_dir", tmp_path / "s"]
    if extra == ["--images"]:
        extra = ["--images", next((faces / "img_align_celeba").iterdir())]
    if extra == ["--first_model"]:
        extra = ["--first_model", folder / "models/faces_dcgan2_16.pt", "--request", "Smiling=0"]
    monkeypatch.setattr("sys.stdin", io.StringIO("+Smiling\nmore 0.5\nundo\n"))
    assert call(*flags, *extra, "--run", "refine") == 0
    (session,) = tmp_path.glob("s/*/refine_001")
    steps = [np.asarray(Image.open(path)) for path in sorted(session.glob("step_*.png"))]
    assert len(steps) == 3 and steps[0].shape == (16, 16, 3)
    assert table(session / "steps.tsv")[2]["Smiling"] == "1.5" and "back at" in capsys.readouterr().out


def test_the_editor_changes_the_first_picture_each_time(trained, faces, tmp_path, monkeypatch):
    """Asking for the face's own attributes again gives what was there, however many steps lie between."""
    flags = ["--dataset_dir", faces, "--model", "dcgan5", *SMALL, *places(trained[0]), "--sample_dir", tmp_path]
    text = "".join(f"Smiling={degree}\nMale={degree}\n" for degree in (1, -1, 1, -1))
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert call(*flags, "--run", "refine") == 0
    (session,) = tmp_path.glob("*/refine_001")
    rows = table(session / "steps.tsv")
    pictures = {}
    for row in rows[1:]:
        pixels = np.asarray(Image.open(session / row["file"]))
        before = pictures.setdefault((row["Male"], row["Smiling"]), pixels)
        assert np.array_equal(pixels, before)
    assert len(pictures) < len(rows) - 1


def test_analyse_counts_and_names_the_sparse(faces, tmp_path, capsys):
    flags = ["--dataset_dir", faces, "--run", "analyse", *places(tmp_path), "--attributes", "Male,Gray_Hair,Bald"]
    assert call(*flags) == 0
    output = capsys.readouterr().out
    data = CelebA(faces)
    for name in ("Male", "Gray_Hair"):
        share = data.attributes[:, attribute_indices(name)[0]].mean()
        assert f"* {name:20} {share:6.1%}" in output
    chosen = ("Male", "Gray_Hair", "Bald")
    sparse = [name for name in chosen if data.attributes[:, attribute_indices(name)].mean() < 0.1]
    assert f"sparse among the chosen: {', '.join(sparse) or 'none'}" in output
    charts = [tmp_path / f"samples/faces_analysis/analyse_001/{name}_attributes.png" for name in ("all", "chosen")]
    assert [len(np.asarray(Image.open(path))) for path in charts] == [30 + 16 * 40, 30 + 16 * 3]


def test_analyse_the_rare(tmp_path, capsys):
    """A data set in which next to nobody has a hat, in another of CelebA's layouts."""
    folder = tmp_path / "plain"
    folder.mkdir()
    lines = [f"{20}", " ".join(ATTRIBUTES)]
    for i in range(20):
        Image.new("RGB", (178, 218), (i, 0, 0)).save(folder / f"{i:06d}.jpg")
        lines.append(f"{i:06d}.jpg " + " ".join("1" if i == 0 or k == 20 else "-1" for k in range(40)))
    (folder / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    assert call("--dataset_dir", folder, "--run", "analyse", *places(tmp_path), "--attributes=Wearing_Hat,Male") == 0
    output = capsys.readouterr().out
    assert "sparse among the chosen: Wearing_Hat\n" in output and f"  {'Bald':20}   5.0% sparse" in output


def test_predictor(trained, faces):
    content = read_checkpoint(trained[0] / "models/faces_predictor.pt")
    predictor = Predictor()
    predictor.load_state_dict(content["predictor"])
    assert predictor(torch.zeros(2, 3, 64, 64)).shape == (2, 40)
    assert (trained[0] / "samples/faces_predictor/logs").exists()
    truth = torch.tensor([[1.0, 1], [1, 1], [0, 1], [0, 1]])
    said = torch.tensor([[1.0, 1], [0, 1], [0, 1], [0, 0]])
    accuracy = balanced_accuracy(said, truth)
    assert accuracy[0].item() == 0.75 and accuracy[1].isnan()
    x = torch.arange(64.0).view(1, 1, 8, 8).repeat(2, 3, 1, 1)
    moved = shifted(x, torch.tensor([[0.5, 0.0], [0.5, 0.99]]), most=1)
    assert torch.equal(moved[0], x[0]) and torch.equal(moved[1, :, 1:, :-1], x[1, :, :-1, 1:])


def test_predictor_resumes(faces, home):
    results = []
    for name, stops in (("once", [6]), ("twice", [3, 6])):
        for stop in stops:
            paths = [*places(home), "--checkpoint_dir", home / name, "--model_path", home / f"{name}_models"]
            flags = ["--dataset_dir", faces, "--run=train_predictor", *SMALL, *paths, "--steps", stop]
            assert call(*flags) == 0
        results.append(read_checkpoint(home / name / "faces_predictor/last.pt"))
    assert all(same(results[0][part], results[1][part]) for part in ("predictor", "optimizer"))


def test_predictor_validates_and_saves_as_often_as_asked(faces, home):
    flags = ["--dataset_dir", faces, "--run=train_predictor", *SMALL, *places(home), "--learning_rate=1e-30"]
    assert call(*flags, "--steps=7", "--sample_every=3", "--save_every=5") == 0
    charts = logged(home / "samples/faces_predictor/logs")
    assert [point.step for point in charts.Scalars("loss/validation")] == [3, 6, 7]
    saved = home / "checkpoint/faces_predictor"
    steps = [read_checkpoint(saved / name)["state"]["step"] for name in ("last.previous.pt", "last.pt")]
    assert steps[1] == 7 and steps[0] in (5, 6), "6 where it was better than 3"


# How an editor is asked


def test_a_change_is_asked_for_with_what_goes_beside_it():
    requests = torch.zeros(2, 3, 3)
    requests[1, 0], requests[0, 2] = torch.tensor([0.5, 0.0, -1.0]), torch.tensor([0.0, 0.25, 0.0])
    change = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0], [0, 0, -2.0], [1.0, 0, -1.0], [0, 0, 0]])
    asked = [[1.5, 0, -1], [-1, 0, 0], [0, 0.5, -2], [1.5, 0.25, -2], [0, 0, 0]]
    assert torch.equal(tuned(change, requests), torch.tensor(asked))
    wanted = torch.tensor([[1.0, 0, 1.0], [0, -1.0, -1.0], [-1.0, 0, 0]])
    requests[0, 0, 0] = 0.5
    asked = [[1.5, 0, 1], [0, -1, -1], [-1, 0, 0]]
    assert torch.equal(tuned(wanted, requests), torch.tensor(asked)), "what is wanted is never asked for less"
    assert tuned(change, None) is change


def test_an_editor_treats_a_face_and_its_mirror_image_alike():
    flags = argparse.Namespace(model="dcgan5", network="conditional", attributes=EIGHT, image_size=32, width=32)
    torch.manual_seed(0)
    model = Model(make_generator(flags).eval(), flags, torch.device("cpu"), contextlib.nullcontext)
    x, c = torch.rand(5, 3, 32, 32) * 2 - 1, torch.randint(2, (5, 8)).float()
    made = model.answer(x, c, 1 - c)
    assert (model.answer(x.flip(3), c, 1 - c) - made.flip(3)).abs().max() < 1e-5
    assert (model.generator(x, 1 - 2 * c) - made).abs().max() > 1e-3, "which one pass does not"


def test_tuning_takes_away_what_goes_along_and_asks_more_for_what_is_hard():
    """Of an editor whose smile takes glasses along and that makes half of the hat asked for."""
    names, patterns = ["Smiling", "Eyeglasses", "Wearing_Hat"], torch.eye(3).view(3, 3, 1, 1)
    makes = torch.tensor([[1.0, 0.6, 0], [0, 1.0, 0], [0, 0, 0.5]])
    c = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).repeat(8, 1)
    x = torch.einsum("na,achw->nchw", 2 * c - 1, patterns)
    requests, means = fit_requests(
        lambda x, change: x + 2 * torch.einsum("na,achw->nchw", change @ makes, patterns),
        lambda x: 3 * x[:, :, 0, 0] + 1, x, c, names, 100,
    )  # fmt: skip
    for value, sign in ((1, 1), (0, -1)):
        asked = tuned(sign * torch.eye(3), requests) @ makes * sign
        assert abs(asked[0, 1]) < 0.35, "0.6 as it was"
        assert asked[2, 2] > 0.58 and asked[[0, 1], [0, 1]].min() > 0.9, value
    assert torch.equal(means, torch.tensor([[-2.0] * 3, [4.0] * 3]))
    with pytest.raises(InputError, match="with and without Eyeglasses"):
        fit_requests(None, lambda x: x[:, :, 0, 0], x[:, :, :1, :1], c * torch.tensor([1.0, 0, 1]), names, 1)


def test_each_face_is_asked_as_it_takes():
    """Of an editor that makes less than half of a smile on every second face, and takes glasses along there."""
    patterns, c = torch.eye(3).view(3, 3, 1, 1), torch.tensor([[0.0, 0, 1], [0, 0, 1]])
    makes = torch.stack([torch.eye(3), torch.tensor([[0.4, 0.2, 0], [0, 1.0, 0], [0, 0, 1.0]])])
    x = torch.einsum("na,achw->nchw", 2 * c - 1, patterns)

    def edit(x, request):
        return x + 2 * torch.einsum("na,nab,bchw->nchw", request, makes, patterns)

    def read(x):
        return x[:, :, 0, 0]

    def readings(degree):
        """Of what is asked for alone, and of the request that was fitted."""
        asked = c.clone()
        asked[:, 0] = (degree + 1) / 2
        return [read(edit(x, way)) for way in (asked - c, fitted(edit, read, x, c, asked, asked - c))]

    (easy, hard), (easy_fit, hard_fit) = readings(1.0)
    assert torch.allclose(easy_fit, easy, atol=0.02), "what comes anyway is not asked for more"
    assert hard_fit[0] > hard[0] + 0.15 and hard_fit[1] < hard[1] - 0.1, "more of a smile, and less of glasses"
    assert hard_fit[2] > 0.98
    assert readings(2.0)[1][1, 0] > hard_fit[0] + 0.3, "more where more is asked for"
    assert torch.equal(readings(-1.0)[1], read(x)), "nothing where nothing is"


def test_tune_writes_into_the_model_and_generate_asks_so(copied, faces, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("facegen_attr.tune.STEPS", 3)
    flags = ["--dataset_dir", faces, *SMALL, *places(copied), "--model", "dcgan5"]
    path = copied / "models/faces_dcgan5_16_best.pt"
    before = read_checkpoint(path)
    made = []
    for name in ("before", "after"):
        assert call(*flags, "--run", "generate", "--count", 4, "--out_dir", tmp_path / name) == 0
        made.append(np.asarray(Image.open(tmp_path / name / "sheet.png")).astype(int))
        if name == "before":
            assert call(*flags, "--run", "tune") == 0
            assert "changed as asked" in capsys.readouterr().out
    assert np.abs(made[0] - made[1]).max() > 0
    after = read_checkpoint(path)
    assert after["state"]["requests"].shape == (2, 2, 2) and after["state"]["requests"].abs().max() > 0
    assert all(torch.equal(x, after["generator"][key]) for key, x in before["generator"].items())
    assert (
        "requests" not in before["state"]
        and "requests" not in read_checkpoint(path.with_suffix(".previous.pt"))["state"]
    )
    assert call(*flags, "--run", "ship", "--out_dir", tmp_path / "facegen_attr") == 0
    shipped = read_checkpoint(tmp_path / "facegen_attr/dcgan5.pt")
    for name in ("requests", "means"):
        assert torch.equal(shipped["state"][name], after["state"][name])
    alone = ["--out_dir", tmp_path / "alone", "--predictor_path", tmp_path / "none.pt"]
    assert call(*flags, "--run", "ship", *alone) == 0, "an editor is shipped without a predictor too"
    assert "so none is written" in capsys.readouterr().out

    # A photo's face is asked by itself; the frames of a clip are asked alike
    first, second = (Image.open(path) for path in sorted((faces / "img_align_celeba").iterdir())[:2])
    first.save(tmp_path / "me.png")
    first.save(tmp_path / "clip.gif", save_all=True, append_images=[second], duration=90)
    counts = []
    monkeypatch.setattr("facegen_attr.loading.fitted", lambda *given: counts.append(len(given[2])) or given[-1])
    for name in ("me.png", "clip.gif"):
        request = ["--images", tmp_path / name, "--request", "Smiling=1", "--shows", "Smiling=0"]
        assert call(*flags, "--run", "generate", *request, "--out_dir", tmp_path / f"made_{name}") == 0
    assert counts == [1]
    monkeypatch.setattr(script.plumbing, "PROJECT", tmp_path / "facegen_attr")
    assert call(*flags, "--run", "tune", "--model_path", tmp_path / "facegen_attr/dcgan5.pt") == 2
    assert "comes with the program" in capsys.readouterr().err
    assert call(*flags[:-1], "dcgan2", "--run", "tune") == 2
    assert "is for an editor" in capsys.readouterr().err
    (copied / "models/faces_predictor.pt").unlink()
    assert call(*flags, "--run", "tune", "--predictor_path", copied / "models/faces_predictor.pt") == 2
    assert "train_predictor makes it" in capsys.readouterr().err


# A person's mistakes


MISTAKES = [
    (["--model=dcgan9"], "dcgan9"),
    (["--image_size=100"], "16, 32, 64 and 128"),
    (["--image_size=1000", "--model=fcgan"], "16 to 512"),
    (["--attributes=Mael"], "nearest: Male"),
    (["--attributes=Male,Male"], "given twice"),
    (["--recipe=best", "--model=dcgan3"], "the document's alone"),
    (["--lambda_attributes=1"], "--network conditional"),
    (["--width=64"], "--network conditional"),
    (["--balance=0.7"], "0 to 0.5"),
    (["--batch_size=0"], "more than 0"),
    (["--count=0"], "at most 100000"),
    (["--lambda_r1=-1"], "0 or more"),
    (["--dataset_dir=/no/such/folder"], "/no/such/folder"),
    (["--train_size=none"], "none"),
    (["--run=generate"], "train first"),
    (["--run=refine", "--port=99999"], "65535"),
    (["--web=maybe"], "expected True or False"),
    (["--colour=red"], "--colour"),
    (["--run=analyse", "--images=a.jpg"], "--images is for --run generate or refine"),
    (["--dataset_name=a/b"], "plain name"),
]


@pytest.mark.parametrize(("flags", "says"), MISTAKES)
def test_mistakes_end_in_one_line(flags, says, faces, home, capsys):
    before = sorted(home.rglob("*"))
    base = [] if any("dataset_dir" in flag for flag in flags) else ["--dataset_dir", faces]
    assert call(*base, *SMALL, *places(home), *flags) == 2
    assert says in mistake(capsys)
    assert sorted(home.rglob("*")) == before, "nothing is written"


def test_mistakes_with_models(trained, faces, tmp_path, capsys):
    folder, _ = trained
    photo = next((faces / "img_align_celeba").iterdir())
    flags = ["--dataset_name", "faces", *SMALL, *places(folder)]
    assert call(*flags, "--run=generate", "--model=dcgan2", "--images", photo) == 2
    assert "begins from noise" in capsys.readouterr().err
    assert call(*flags, "--run=generate", "--model=dcgan2", "--attributes=Male") == 2
    assert "has attributes Male,Smiling, not Male: give --attributes Male,Smiling" in capsys.readouterr().err
    assert call(*flags, "--run=refine", "--model=dcgan5") == 2
    assert "--first_model" in capsys.readouterr().err
    first = folder / "models/faces_dcgan4_16.pt"
    assert call(*flags, "--run=refine", "--model=dcgan5", "--first_model", first) == 2
    assert "other attributes" in capsys.readouterr().err
    assert call(*flags, "--run=generate", "--model_path", folder / "models/faces_predictor.pt") == 2
    assert "no generator of this project" in capsys.readouterr().err
    plain = tmp_path / "plain"
    shutil.copytree(faces / "img_align_celeba", plain)
    assert call("--dataset_dir", plain, *SMALL, *places(tmp_path)) == 2
    assert "no attributes" in capsys.readouterr().err and not (tmp_path / "records").exists()


STRANGERS = [
    b"junk",
    b"",
    {"format": 2, "project": "dapgan", "args": {}, "state": {}},
    {"format": 1, "args": {}, "state": {}, "generator": {}, "predictor": {}},
]


@pytest.mark.parametrize("content", STRANGERS)
def test_files_that_are_none_of_this_project(content, trained, faces, tmp_path, capsys):
    path = tmp_path / "other.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    photo = next((faces / "img_align_celeba").iterdir())
    flags = ["--dataset_name", "faces", *SMALL, *places(trained[0]), "--run=refine", "--model=dcgan5"]
    for extra in (["--first_model"], ["--images", photo, "--predictor_path"]):  # --model_path: tests/test_plumbing.py
        assert call(*flags, *extra, path) == 2, extra
        error = mistake(capsys)
        assert str(path) in error and " no " in error


def test_the_page_needs_gradio(trained, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "facegen_attr.web", raising=False)
    flags = ["--dataset_name", "faces", *SMALL, *places(trained[0]), "--model=dcgan2", "--run=refine", "--web"]
    assert call(*flags) == 2
    assert "pip install -r requirements-web.txt" in capsys.readouterr().err
