"""face_math/: networks, losses and search by numbers, and every verb through the command line on drawn faces."""

import math
import os
import shutil
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
from calls import caller, logged, mistake, places, same, table
from conftest import ROOT
from pictures import photos
from PIL import Image
from processes import finish, start, train

from benchmarks import holes
from common.celeba import ATTRIBUTES, CelebA, to_tensor, to_uint8
from common.photos import InputError
from face_math import arithmetic, coders, compare, filler
from face_math import main as script
from face_math.arithmetic import fit_vectors, yaw
from face_math.complete import read_hole
from face_math.gan import discriminator_loss, generator_loss, r1_penalty
from face_math.holes import PULL, blend, make_hole, poisson, random_holes
from face_math.loading import load_records, training_faces
from face_math.model import Discriminator, Encoder, Generator, Guess, components, draw_z, kl_divergence, prior_distance
from face_math.plumbing import read_checkpoint, unpacked, update_ema
from face_math.projection import contextual_loss, perceptual_loss, search
from face_math.trained import Model, find_part, prepare, version_of

SMALL = ("--image_size", 32, "--width", 4, "--z_size", 8, "--batch_size", 8, "--device", "cpu", "--precision", "fp32",
         "--workers", 0)  # fmt: skip
VERB = (*SMALL[:2], *SMALL[4:6], "--device", "cpu", "--workers", 0, "--n_iter", 12, "--count", 5)
call = caller(script)


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    """A small GAN, encoder, filler and VAE, trained through the command line: (folder, what the GAN's run printed)."""
    folder = tmp_path_factory.mktemp("trained")
    flags = ["--dataset_dir", faces, *SMALL, *places(folder), "--log_every=5"]
    printed = train(folder, "face_math", *flags, "--recipe=best", "--lambda_rec=20", "--epoch=4")
    assert call(*flags, "--run=train_encoder", "--epoch=3") == 0
    assert call(*flags, "--run=train_filler", "--epoch=2") == 0
    assert call(*flags, "--run=train_vae", "--recipe=best", "--epoch=3") == 0
    return folder, printed


# The networks


def test_networks_have_the_documents_sizes():
    """Counted by hand: fc, transposed convolutions and batch norms of 512, 256, 128, 64; their mirror image."""
    generator, discriminator = Generator(), Discriminator()
    assert sum(p.numel() for p in generator.parameters()) == 827392 + 3277056 + 819328 + 204864 + 4803 + 1920
    assert sum(p.numel() for p in discriminator.parameters()) == 4864 + 204928 + 819456 + 3277312 + 8193 + 1792
    shapes = []
    for layer in generator.layers:
        if isinstance(layer, torch.nn.ConvTranspose2d):
            layer.register_forward_hook(lambda _, inputs, output: shapes.append(tuple(output.shape[1:])))
    x = generator(draw_z(2, 100))
    assert shapes == [(256, 8, 8), (128, 16, 16), (64, 32, 32), (3, 64, 64)] and x.abs().max() <= 1
    assert discriminator(x).shape == (2, 1) and Encoder()(x).shape == (2, 100)
    assert generator.fc.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("kernel", [4, 5])
@pytest.mark.parametrize("norm", [True, False])
def test_gradient_reaches_every_parameter(size, kernel, norm):
    torch.manual_seed(0)
    generator = Generator(7, size, 2, kernel)
    discriminator, encoder = Discriminator(size, 2, kernel, norm), Encoder(7, size, 2, kernel, norm)
    x = generator(draw_z(4, 7))
    assert x.shape == (4, 3, size, size)
    (generator_loss(discriminator(x)) + encoder(x).square().sum()).backward()
    for network in (generator, discriminator, encoder):
        for name, parameter in network.named_parameters():
            before_norm = name.endswith("bias") and norm  # what the norm behind it takes away
            assert parameter.grad is not None and (parameter.grad.abs().sum() > 0 or before_norm), name


def test_a_kernel_of_four_builds_in_no_checkerboard():
    """Equal weights everywhere: all inner pixels are made of equally many with 4, not with 5."""
    for kernel, even in ((4, True), (5, False)):
        up = Generator(width=1, kernel=kernel).layers[-1]
        torch.nn.init.ones_(up.weight)
        inner = up(torch.ones(1, 1, 32, 32))[0, 0, 8:-8, 8:-8]
        assert (inner.std() < 1e-6) == even


def test_losses_by_hand():
    real, fake = torch.tensor([[2.0], [0.0]]), torch.tensor([[-1.0], [1000.0]])
    expected = (math.log(1 + math.exp(-2)) + math.log(2)) / 2 + (math.log(1 + math.exp(-1)) + 1000) / 2
    assert discriminator_loss(real, fake).item() == pytest.approx(expected)
    assert generator_loss(fake).item() == pytest.approx(math.log(1 + math.exp(1)) / 2)
    weight = torch.arange(12.0).view(3, 2, 2)
    penalty = r1_penalty(lambda x: (x * weight).sum((1, 2, 3)), torch.rand(5, 3, 2, 2))
    assert penalty.item() == pytest.approx(sum(i * i for i in range(12)))
    assert kl_divergence(torch.ones(2, 6), torch.zeros(2, 6)).tolist() == [3, 3]
    assert kl_divergence(torch.zeros(1, 1), torch.tensor([[math.log(4)]])).item() == pytest.approx(
        (4 - math.log(4) - 1) / 2)  # fmt: skip


def test_prior_distance_is_that_of_the_sorted_projections():
    z_hat, z = torch.tensor([[0.0, 5], [1, 5], [2, 5]]), torch.tensor([[2.5, 0], [0.5, 0], [1.5, 0]])
    assert prior_distance(z_hat, z, torch.tensor([[3.0], [0.0]])).item() == pytest.approx(0.25)
    z = draw_z(500, 4)
    axes = torch.randn(4, 32)
    assert prior_distance(z[torch.randperm(500)], z, axes) < 1e-6 < prior_distance(0.5 * z, z, axes)


def test_z_is_uniform():
    z = draw_z(20000, 3)
    assert z.abs().max() <= 1 and z.mean().item() == pytest.approx(0, abs=0.02)
    assert z.var().item() == pytest.approx(1 / 3, rel=0.02)


# The search


def test_losses_of_the_search_by_hand():
    x, x_hat, known = torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5), torch.tensor([[1.0, 1], [1, 0]])
    assert contextual_loss(x_hat, x, known, "l1").tolist() == [9 * 0.5], "summed over pixels and colours"
    assert contextual_loss(x_hat, x, known, "l2").tolist() == [9 * 0.25]
    logits = torch.tensor([[0.0], [500.0], [-500.0]])
    assert perceptual_loss(logits).tolist() == pytest.approx([-math.log(2), -500, 0]), "log(1 - D), stable far out"


class Picture(torch.nn.Module):
    """A generator that shows its twelve numbers as a picture."""

    def forward(self, z):
        return z.view(-1, 3, 2, 2)


def judge(x):
    return x.flatten(1).mean(1, keepdim=True)


def test_search_takes_nesterovs_steps_and_keeps_the_clipped_z():
    """Two steps of v' = m v - r g, z' = clip(z - m v + (1 + m) v') by hand, on a squared error."""
    x, z = torch.full((1, 3, 2, 2), 0.9), torch.zeros(1, 12)
    found, losses = search(Picture(), judge, x, z, torch.ones(2, 2), n_iter=2, learning_rate=0.1, momentum=0.5, lam=0,
                           contextual="l2")  # fmt: skip
    v1 = -0.1 * 2 * (0 - 0.9)
    z1 = 1.5 * v1
    v2 = 0.5 * v1 - 0.1 * 2 * (z1 - 0.9)
    z2 = z1 - 0.5 * v1 + 1.5 * v2
    assert found.flatten().tolist() == pytest.approx([z2] * 12)
    assert losses[:, 0].tolist() == pytest.approx([12 * (z - 0.9) ** 2 for z in (0, z1, z2)])
    beyond = torch.full((1, 3, 2, 2), 3.0)
    for optimizer, rate in (("nesterov", 0.5), ("adam", 0.5)):
        found, _ = search(Picture(), judge, beyond, z, torch.ones(2, 2), 20, rate, optimizer=optimizer)
        assert (found == 1).all(), "z stays in the cube that it is drawn from"


@pytest.mark.parametrize("optimizer", ["nesterov", "adam"])
def test_search_keeps_the_best_of_each_picture(optimizer):
    """A rate far too large: the loss jumps about, the one kept never rises, and z is the one of that loss."""
    torch.manual_seed(0)
    x, z = torch.rand(5, 3, 2, 2) - 0.5, draw_z(5, 12)
    found, losses = search(Picture(), judge, x, z, torch.ones(2, 2), 30, 0.4, 0.9, 0.1, optimizer=optimizer)
    assert losses.shape == (31, 5) and (losses.diff(dim=0) <= 0).all() and (losses[-1] < losses[0]).all()
    now = contextual_loss(found.view(-1, 3, 2, 2), x, 1, "l1") + 0.1 * perceptual_loss(judge(found.view(-1, 3, 2, 2)))
    assert now.tolist() == pytest.approx(losses[-1].tolist(), rel=1e-5)
    alone, _ = search(Picture(), judge, x[:1], z[:1], torch.ones(2, 2), 30, 0.4, 0.9, 0.1, optimizer=optimizer)
    assert torch.allclose(alone, found[:1], atol=1e-5), "a picture's search does not depend on its neighbours"


def test_search_weighs_realism():
    """lam moves z to where the discriminator is fooled; the hole is not looked at."""
    x, z, known = torch.zeros(1, 3, 2, 2), torch.zeros(1, 12), torch.tensor([[1.0, 1], [1, 0]])
    found, _ = search(Picture(), judge, x, z, known, 200, 0.05, 0.5, lam=5.0, contextual="l2")
    assert found.view(3, 4)[:, 3].min() > 0.9 and 0 < found.view(3, 4)[:, :3].max() < 0.9


def test_holes():
    assert int(make_hole("center", 64).sum()) == 32 * 32 and make_hole("center", 64)[16:48, 16:48].all()
    assert make_hole("left", 32)[:, :16].all() and not make_hole("left", 32)[:, 16:].any()
    assert 0.15 < make_hole("random", 128, torch.Generator().manual_seed(0)).float().mean() < 0.25
    assert make_hole("full", 32).all()
    torch.manual_seed(0)
    known = random_holes(300, 32)
    shares = known.mean((1, 2, 3))
    assert known.shape == (300, 1, 32, 32) and set(known.unique().tolist()) == {0, 1}
    assert shares.min() > 0.1 and shares.max() <= 1 and (shares < 0.99).float().mean() > 0.9


@pytest.mark.parametrize("kind", ["center", "left", "random"])
def test_blending_fits_the_colours_and_leaves_the_rest(kind):
    """A face that differs from the picture by a constant, or by a slope, is the picture after blending."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(60, 180, (3, 32, 32, 3)).astype(np.uint8)
    hole = make_hole(kind, 32, torch.Generator().manual_seed(1)).numpy()
    faces = pictures + np.uint8([[[[40]]], [[[0]]], [[[9]]]]) - np.arange(32, dtype=np.uint8)[:, None] // 16
    hidden = np.where(hole[..., None], rng.integers(0, 255, pictures.shape), pictures).astype(np.uint8)
    blended = blend(faces, hidden, hole)
    assert (blended[:, ~hole] == pictures[:, ~hole]).all()
    assert np.abs(blended.astype(int) - pictures)[:, hole].max() <= 2, "whatever the hole hides"


def test_blending_by_laplaces_equation():
    """One pixel: the face's plus the mean of what its four neighbours differ by; a corner has two."""
    picture, face, hole = np.zeros((1, 3, 3, 3), np.uint8), np.full((1, 3, 3, 3), 100, np.uint8), np.zeros((3, 3), bool)
    picture[0, 0, 1], picture[0, 1, 0] = 200, 40
    hole[1, 1] = True
    assert blend(face, picture, hole)[0, 1, 1].tolist() == [100 + (100 - 60 - 100 - 100) / 4] * 3
    hole[1, 1], hole[0, 0] = False, True
    assert blend(face, picture, hole)[0, 0, 0].tolist() == [100 + (100 - 60) / 2] * 3


def test_a_guess_pulls_the_colours_of_the_hole():
    """One pixel: (4 + pull) added = sum of the neighbours' differences + pull (guess - face); much pull: the guess."""
    face, picture, hole = torch.zeros(1, 3, 3, 3, requires_grad=True), torch.zeros(1, 3, 3, 3), torch.zeros(3, 3) > 0
    picture[:, :, 0, 1], hole[1, 1] = 0.6, True
    guess = torch.full_like(picture, 0.9)
    made = poisson(face, picture, hole, guess, 2.0)
    assert made[0, :, 1, 1].tolist() == pytest.approx([(0.6 + 2 * 0.9) / 6] * 3)
    assert (made[..., ~hole] == picture[..., ~hole]).all()
    made[..., hole].sum().backward()
    assert face.grad[0, 0].flatten().tolist() == pytest.approx([0, -1 / 6, 0, -1 / 6, 4 / 6, -1 / 6, 0, -1 / 6, 0])
    random = torch.Generator().manual_seed(0)
    face, picture, guess = torch.rand(3, 4, 3, 32, 32, generator=random)
    hole = make_hole("center", 32)
    assert torch.allclose(poisson(face, picture, hole, guess, 1e5)[..., hole], guess[..., hole], atol=1e-3)
    assert torch.equal(poisson(face, picture, hole, guess, 0.0), poisson(face, picture, hole))
    # What pull leaves of the face is its detail: its mean is the guess's, its pixels' differences the face's.
    made = poisson(face, guess, hole, guess, 0.1)
    assert (made - guess)[..., hole].mean().abs() < 0.3 * (face - guess)[..., hole].mean().abs() + 0.01
    detail = torch.stack([part[..., 8:24, 8:24].diff().flatten() for part in (made, face)])
    assert torch.corrcoef(detail)[0, 1] > 0.9


# Vectors and baselines


def labelled(count=4000):
    """Faces half of whom smile, mostly women; z = smile * (1, 0, 0) + male * (0, 2, 0) + noise; yaw moves z's third."""
    rng = np.random.default_rng(0)
    attributes = np.zeros((count, 40), np.uint8)
    male = rng.random(count) < 0.5
    smile = rng.random(count) < np.where(male, 0.2, 0.8)
    for name, values in (("Male", male), ("Smiling", smile), ("Young", rng.random(count) < 0.5)):
        attributes[:, ATTRIBUTES.index(name)] = values
    turn = rng.normal(size=count) * 0.1
    landmarks = np.float32([[[60, 100], [100, 100], [80, 130], [65, 150], [95, 150]]]).repeat(count, 0)
    landmarks[:, 2, 0] += 40 * turn
    z = np.stack([smile, 2 * male, 5 * turn], 1) + rng.normal(size=(count, 3)) * 0.05
    return SimpleNamespace(attributes=attributes, landmarks=landmarks), torch.from_numpy(z).float()


def test_vectors_by_means_and_by_regression():
    records, z = labelled()
    rows = np.arange(len(z))
    means = fit_vectors(records, rows, z, ["Smiling", "Turn"], "mean")
    assert means["Smiling"].tolist() == pytest.approx([1, -1.2, 0], abs=0.1), "women come along with the smile"
    apart = fit_vectors(records, rows, z, ["Smiling", "Turn"], "regression")
    assert list(apart) == ["Smiling", "Turn"] and apart["Smiling"].tolist() == pytest.approx([1, 0, 0], abs=0.1)
    for vectors in (means, apart):
        assert vectors["Turn"].tolist() == pytest.approx([0, 0, 0.5], abs=0.1), "a unit is one standard deviation"
    with pytest.raises(InputError, match="Bald"):
        fit_vectors(records, rows, z, ["Bald"], "mean")
    with pytest.raises(InputError, match="list_attr"):
        fit_vectors(SimpleNamespace(attributes=None), rows, z, ["Smiling"], "mean")


def test_yaw_from_landmarks_and_from_the_detector(faces):
    records, _ = labelled(10)
    assert yaw(records, np.arange(10)) == pytest.approx((records.landmarks[:, 2, 0] - 80) / 40, abs=1e-5)
    pictures = [cv2.resize(np.asarray(Image.open(path))[20:198], (96, 96), interpolation=cv2.INTER_AREA)
                for path in sorted((faces / "img_align_celeba").iterdir())[:40]]  # fmt: skip
    data = CelebA(faces)
    drawn = SimpleNamespace(landmarks=data.landmarks)
    seen = SimpleNamespace(landmarks=None, images=np.stack(pictures))
    true, found = yaw(drawn, np.arange(40)), yaw(seen, np.arange(40))
    there = found.isfinite()
    assert there.float().mean() > 0.7
    assert np.corrcoef(true[there], found[there])[0, 1] > 0.7


def test_vectors_are_found_on_the_device_that_was_chosen(monkeypatch):
    """Landmarks that the data set lacks are looked for where --device says, whatever else is there."""
    devices = []

    class Detector:
        def __init__(self, device):
            devices.append(str(device))

        def detect(self, images):
            return [], [], [np.zeros((0, 5, 2))] * len(images)

    monkeypatch.setattr(arithmetic, "MTCNN", Detector)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    attributes = np.zeros((6, 40), np.uint8)
    images, rows = np.zeros((6, 8, 8, 3), np.uint8), {"train": np.arange(6)}
    records = SimpleNamespace(attributes=attributes, landmarks=None, images=images, rows=rows.get)
    model = SimpleNamespace(device=torch.device("cpu"), encode=lambda x: torch.zeros(len(x), 3))
    args = SimpleNamespace(train_size=None, seed=0, attributes=["Turn"], vectors="mean")
    with pytest.raises(InputError, match="no landmarks"):
        arithmetic.labelled_vectors(args, model, records)
    assert devices == ["cpu"]


def test_baselines_against_numpy():
    rng = np.random.default_rng(0)
    images = (rng.normal(size=(80, 6)) @ rng.normal(size=(6, 3 * 16 * 16)) * 12 + 128).clip(0, 255).astype(np.uint8)
    records = SimpleNamespace(images=images.reshape(80, 16, 16, 3))
    x = to_tensor(records.images)
    flat = x.flatten(1).numpy()
    mean, axes = components(x.flatten(1), 4)
    _, _, v = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    assert np.allclose(np.abs(axes.numpy() @ v[:4].T), np.eye(4), atol=2e-2)
    assert np.allclose(mean, flat.mean(0), atol=1e-5)
    made = compare.linear_reconstructions(training_faces(records, np.arange(80)), x, (2, 6))
    errors = [(pictures - x).square().mean().item() for pictures in made.values()]
    assert list(made) == ["mean face", "PCA, 2 numbers", "PCA, 6 numbers"] and errors == sorted(errors)[::-1]
    assert errors[2] < 0.01 * errors[0]
    hole = make_hole("center", 16)
    filled = holes.fill_linearly(training_faces(records, np.arange(80)), x, hole, 30)
    for name, limit in (("mean face", math.inf), ("linear prediction", 0.15)):
        assert (filled[name][:, :, ~hole] == x[:, :, ~hole]).all(), name
        assert (filled[name] - x)[:, :, hole].square().mean() < limit * x[:, :, hole].var(0).mean(), name


def test_a_guess_is_what_a_linear_model_knows():
    """Faces of five numbers: the surround tells all of them, at any shape of the hole; what it hides is not read."""
    rng = np.random.default_rng(0)
    images = (rng.normal(size=(200, 5)) @ rng.normal(size=(5, 3 * 16 * 16)) * 12 + 128).clip(0, 255).astype(np.uint8)
    x = to_tensor(images.reshape(200, 16, 16, 3))
    guess = Guess(16, 5)
    guess.fit(x[:150].flatten(1))
    for kind in ("center", "left", "random"):
        hole = make_hole(kind, 16, torch.Generator().manual_seed(0))
        hidden = torch.where(hole, torch.rand(x.shape), x)
        filled = guess(hidden[150:], hole)
        assert (filled[..., ~hole] == x[150:][..., ~hole]).all() and filled.abs().max() <= 1
        error, spread = (filled - x[150:])[..., hole].square().mean(), x[..., hole].var(0).mean()
        assert error < 0.05 * spread, kind
    assert torch.allclose(guess(x, torch.ones(16, 16) > 0), x[:150].mean(0).clamp(-1, 1).expand_as(x), atol=1e-5)
    again = Guess(16, 5)
    again.load_state_dict(guess.state_dict())
    assert torch.equal(again(x, hole), guess(x, hole)), "all of it is kept"


# Training


def test_training_leaves_what_it_says(trained):
    folder, output = trained
    samples = folder / "samples/faces_32_best"
    assert len(list(samples.glob("0*.png"))) == 4 and f"tensorboard --logdir {samples / 'logs'}" in output
    for name in ("faces_32_best", "faces_32_best_encoder", "faces_32_best_filler", "faces_32_best_vae"):
        content = torch.load(folder / f"models/{name}.pt", weights_only=True)
        assert content["state"]["step"] > 0 and (folder / f"checkpoint/{name}/last.pt").exists()
        assert not [key for key in content["encoder"] if "module." in key or "_orig_mod." in key]
    assert list((folder / "samples/faces_32_best_encoder").glob("0*.png"))


def test_tensorboard_charts(trained):
    folder = trained[0] / "samples"
    tags = {name: logged(folder / name / "logs") for name in
            ("faces_32_best", "faces_32_best_encoder", "faces_32_best_filler", "faces_32_best_vae")}  # fmt: skip
    assert set(tags["faces_32_best"].Tags()["scalars"]) == {"loss/d", "loss/g", "loss/rec", "loss/z", "diversity",
                                                "augmented/share", "face_distance", "validation/rec"}  # fmt: skip
    assert set(tags["faces_32_best_encoder"].Tags()["scalars"]) == {"loss/d", "loss/g", "loss/rec", "validation/rec"}
    assert set(tags["faces_32_best_filler"].Tags()["scalars"]) == {"loss/d", "loss/g", "loss/rec", "face_distance",
                                                              "validation/rec"}  # fmt: skip
    assert set(tags["faces_32_best_vae"].Tags()["scalars"]) == {"loss/rec", "loss/kl", "validation/rec"}
    assert all(part.Tags()["images"] == ["images/samples"] for part in tags.values())
    for name in ("faces_32_best", "faces_32_best_vae"):
        curve = tags[name].Scalars("loss/rec")
        assert curve[-1].value < curve[0].value, "it learns"
    best = read_checkpoint(trained[0] / "models/faces_32_best.pt")["state"]
    curve = tags["faces_32_best"].Scalars("face_distance")
    assert best["distance"] == pytest.approx(min(point.value for point in curve), rel=1e-4)


@pytest.mark.parametrize(("verb", "recipe"), [("train", "document"), ("train", "best"), ("train_encoder", "best"),
                                              ("train_filler", "best"), ("train_vae", "best")])  # fmt: skip
def test_resume_is_exact(verb, recipe, faces, trained, home):
    """18 steps are 7 steps, a new start and 11 more, bit for bit: weights, EMA, Adam."""
    name = "faces_32" + "_best" * (recipe == "best") + verb.removeprefix("train")
    flags = ["--dataset_dir", faces, "--run", verb, "--recipe", recipe, "--epoch=9", *SMALL, *places(home)]
    results = []
    for place, stops in (("once", [18]), ("twice", [7, 18])):
        if verb in ("train_encoder", "train_filler"):
            (home / place).mkdir()
            shutil.copy(trained[0] / "models/faces_32_best.pt", home / place)
        for stop in stops:
            where = ["--checkpoint_dir", home / place, "--model_path", home / place, "--steps", stop]
            assert call(*flags, *where, "--sample_every=18") == 0
        results.append(torch.load(home / place / name / "last.pt", weights_only=True))
    for part in set(results[0]) - {"args", "state"}:
        assert same(results[0][part], results[1][part]), part
    assert results[0]["state"]["step"] == 18


def test_an_encoder_corrects_what_it_reads_by_what_is_drawn_of_it():
    """By hand; what lies in a hole is neither read nor compared; without a generator there is no correction."""
    torch.manual_seed(0)
    x, drawn, known = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32), make_hole("center", 32).logical_not()
    encoder, once = (Encoder(7, 32, 4, 4, False, corrections) for corrections in (2, 0))
    assert torch.equal(encoder(x, lambda z: drawn), encoder(x)), "a correction that has learned nothing"
    encoder.start_as(once.state_dict())
    assert torch.equal(encoder(x), once(x))
    by_one = 0.3 * (once(x).atanh() - once(drawn).atanh())
    assert torch.allclose(encoder(x, lambda z: drawn), (once(x).atanh() + 2 * by_one).tanh(), atol=1e-4)
    assert torch.equal(encoder(x, lambda z: x), once(x)) and not torch.equal(encoder(x, lambda z: drawn), once(x))
    hidden = [torch.where(known, picture, torch.rand(4, 3, 32, 32)) for picture in (x, drawn)]
    assert torch.equal(encoder(hidden[0], lambda z: hidden[1], known), encoder(x, lambda z: drawn, known))
    other = Encoder(7, 32, 4, 4, False, 1)
    torch.nn.init.normal_(encoder.correct.weight)
    other.start_as(encoder.state_dict())
    assert torch.equal(other.correct.weight, encoder.correct.weight)


def test_an_encoder_starts_from_another_and_is_used_as_it_was_trained(copied, faces, capsys):
    """One without corrections, such as were saved before there were any, then one that goes on from it."""
    flags = ["--dataset_dir", faces, *SMALL, *places(copied), "--recipe=best", "--run=train_encoder", "--restart"]
    path, first = copied / "models/faces_32_best_encoder.pt", copied / "first.pt"
    assert call(*flags, "--corrections=0", "--steps=2") == 0
    content = read_checkpoint(path)
    assert not [name for name in content["encoder"] if "correct" in name]
    del content["args"]["corrections"]
    torch.save(content, first)
    shutil.copy(first, path)
    verb = ["--dataset_dir", faces, *VERB, *places(copied), "--run=project", "--start=encoder", "--n_iter=0"]
    assert call(*verb, "--out_dir", copied / "once") == 0
    more = ["--learning_rate=1e-30", "--steps=1", "--start_from"]
    assert call(*flags, *more, first) == 0
    known, found = content["encoder"], read_checkpoint(path)
    assert all(torch.allclose(found["encoder"][name], known[name], atol=1e-6) for name in known)
    own, gan = content["generator"], read_checkpoint(copied / "models/faces_32_best.pt")["generator"]
    assert all(torch.allclose(found["generator"][name], own[name], atol=1e-6) for name in own) and not same(own, gan)
    assert found["args"]["corrections"] == 3 and found["encoder"]["correct.weight"].abs().max() > 0
    assert call(*verb, "--out_dir", copied / "corrected") == 0
    once, corrected = (np.load(next((copied / name / "z").glob("*.npy"))) for name in ("once", "corrected"))
    assert np.abs(once - corrected).max() > 1e-4, "three looks more"
    first.unlink()
    assert call(*[flag for flag in flags if flag != "--restart"], "--learning_rate=1e-30", "--steps=2", "--start_from",
                first) == 0, "it goes on from its checkpoint"  # fmt: skip
    for wrong in (copied / "none.pt", copied / "models/faces_32_best_vae.pt"):
        assert call(*flags, *more, wrong) == 2
        assert str(wrong) in capsys.readouterr().err
    assert read_checkpoint(path)["state"]["step"] == 2, "nothing was lost to it"


def test_an_encoder_has_a_generator_of_its_own_or_the_gan_s(copied, faces, capsys):
    """The GAN stays as it is, and is what --run sample draws with; photos go through the encoder's, shipped as well."""
    gan, pair = (copied / "models" / f"faces_32_best{part}.pt" for part in ("", "_encoder"))
    before, after = read_checkpoint(gan), read_checkpoint(pair)
    assert set(after) >= {"encoder", "generator"} and "discriminator" not in after
    assert after["args"]["lambda_rec"] == 150
    assert not same(dict(before["generator"]), dict(after["generator"]))
    norms = [key for key in before["generator"] if "running" in key]
    assert norms and all(torch.equal(before["generator"][key], after["generator"][key]) for key in norms), "kept"
    checkpoint = read_checkpoint(copied / "checkpoint/faces_32_best_encoder/last.pt")
    assert not same(dict(before["discriminator"]), dict(checkpoint["discriminator"]))

    def files_of(verb, *more):
        out = copied / f"out_{verb}"
        assert call("--dataset_dir", faces, f"--run={verb}", *VERB, *places(copied), *more, "--out_dir", out) == 0
        return out

    def decoded(weights, z):
        generator = Generator(8, 32, 4, 4).eval()
        generator.load_state_dict({key: unpacked(x) for key, x in weights.items()})
        with torch.no_grad():
            return to_uint8(generator(torch.from_numpy(z)))

    verbs = {"sample": (before, "faces", ["--count=4"]),
             "project": (after, "projections", ["--start=encoder", "--n_iter=0"])}  # fmt: skip
    for verb, (content, folder, more) in verbs.items():
        out = files_of(verb, *more)
        pictures = np.stack([np.array(Image.open(path)) for path in sorted((out / folder).iterdir())[:4]])
        expected = decoded(content["generator"], np.load(out / "z.npy")[:4])
        assert np.abs(pictures.astype(int) - expected).max() <= 1, verb
    out = files_of("ship")
    shipped = {part: read_checkpoint(out / f"gan{part}.pt") for part in ("", "_encoder")}
    for part, content in {"": before, "_encoder": after}.items():
        z = draw_z(4, 8, torch.Generator().manual_seed(0)).numpy()
        near = decoded(shipped[part]["generator"], z).astype(int) - decoded(content["generator"], z)
        assert np.abs(near).mean() < 1, "but for the 8 bits"
    assert shipped["_encoder"]["args"]["inverts"] == version_of(
        {"fc.weight": unpacked(shipped[""]["generator"]["fc.weight"])}
    )
    flags = ["--dataset_dir", faces, *SMALL, *places(copied), "--recipe=best", "--run=train_encoder", "--restart"]
    assert call(*flags, "--lambda_rec=0", "--steps=2") == 0
    assert "generator" not in read_checkpoint(pair), "the GAN's, left as it is"
    assert same(dict(read_checkpoint(gan)["generator"]), dict(before["generator"]))


def watch(monkeypatch, module, look):
    """From now on each step of module's training goes through look(step, parts, *tensors, **flags)."""
    seen = {}

    class Watched(module.Journal):
        def __init__(self, args, name, parts, *rest, **state):
            seen.update(parts)
            super().__init__(args, name, parts, *rest, **state)

    monkeypatch.setattr(module, "Journal", Watched)
    monkeypatch.setattr(module, "replayed", lambda step, device: partial(look, step, seen))


def test_the_encoder_goes_on_learning_after_a_sheet(faces, home, monkeypatch):
    """With batch norm and without an EMA to show, a sheet leaves the encoder in eval mode: the next step must not."""
    modes = []

    def look(step, parts, x, **flags):
        losses = step(x, **flags)
        modes.append([parts[name].training for name in ("generator", "discriminator", "encoder")])
        return losses

    watch(monkeypatch, script, look)
    flags = ["--dataset_dir", faces, *SMALL, *places(home), "--lambda_rec=1", "--steps=3", "--sample_every=1"]
    assert call(*flags) == 0
    assert modes == [[True] * 3] * 3


@pytest.mark.parametrize(("verb", "modules"), [("train", [script]), ("train_encoder", [coders]),
                                               ("train_filler", [coders, filler])])  # fmt: skip
def test_losses_and_penalties_are_of_fp32(verb, modules, faces, trained, home, monkeypatch):
    seen = set()

    def check(name, loss, *tensors):
        assert not torch.is_autocast_enabled("cpu"), name
        assert all(t.dtype == torch.float32 for t in tensors if isinstance(t, torch.Tensor)), name
        seen.add(name)
        return loss(*tensors)

    names = {"discriminator_loss", "generator_loss", "r1_penalty"} | ({"prior_distance"} if verb == "train" else set())
    for name in names:
        monkeypatch.setattr(modules[0], name, partial(check, name, getattr(modules[0], name)))
    for module in modules:
        monkeypatch.setattr(module, "R1_EVERY", 1)
    if verb != "train":
        (home / "models").mkdir()
        shutil.copy(trained[0] / "models/faces_32_best.pt", home / "models")
    flags = ["--dataset_dir", faces, "--run", verb, "--recipe=best", *SMALL, *places(home), "--steps=2"]
    assert call(*flags, "--precision=bf16") == 0
    assert seen == names


def compare_weights():
    """From now on update_ema() looks whether all processes have the same weights, and says so."""

    def compared(ema, module, *rest):
        update_ema(ema, module, *rest)
        mine = torch.cat([p.detach().flatten() for p in module.parameters()])
        theirs = [torch.empty_like(mine) for _ in range(2)]
        dist.all_gather(theirs, mine)
        assert torch.equal(*theirs), "the processes drift apart"
        print("equal weights")

    script.update_ema = filler.update_ema = compared


def test_two_processes_stay_equal(faces, home):
    """Two processes as under torchrun have the same weights after each update, and rank 0 alone writes."""
    flags = ["--dataset_dir", faces, "--recipe=best", "--steps=3", *SMALL, *places(home)]
    for verb, name in (("train", "faces_32_best"), ("train_filler", "faces_32_best_filler")):
        codes, printed = finish(*start(home, "face_math", *flags, "--run", verb, world=2, prepare=compare_weights))
        assert codes == [0, 0], printed
        assert printed.count("equal weights") == 2 * 2 * 3 and printed.count("trained 3 of") == 1
        assert read_checkpoint(home / f"models/{name}.pt")["state"]["step"] == 3


def test_torchrun(faces, home):
    """A true one, with --, as the README has it: torchrun takes a --run behind the script for a flag of its own."""
    flags = ["--dataset_dir", faces, "--recipe=best", "--steps=2", *SMALL, *places(home), "--run", "train"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29543", "--",
               ROOT / "face_math/main.py", *flags]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=200)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("trained 2 of") == 1
    assert read_checkpoint(home / "models/faces_32_best.pt")["state"]["step"] == 2


def test_collapse_is_warned_about(faces, home, capsys):
    """An untrained generator makes one grey picture; the diversity number says so."""
    assert call("--dataset_dir", faces, *SMALL, *places(home), "--steps=1", "--learning_rate=1e-9") == 0
    captured = capsys.readouterr()
    assert "the generated faces are nearly all the same" in captured.out + captured.err


def test_running_again_does_nothing_and_longer_goes_on(copied, faces, capsys):
    flags = ["--dataset_dir", faces, *SMALL, *places(copied), "--recipe=best", "--lambda_rec=20"]
    assert call(*flags, "--epoch=4") == 0
    assert "already" in capsys.readouterr().out
    assert call(*flags, "--epoch=5") == 0
    assert "resuming" in capsys.readouterr().out
    assert len(list((copied / "samples/faces_32_best").glob("0*.png"))) == 5
    assert call(*flags, "--epoch=6", "--lambda_r1=3") == 2
    assert "lambda_r1 was 0.1, now 3.0" in capsys.readouterr().err


def test_starting_from_a_trained_gan(trained, faces, home, capsys):
    """A rate that changes nothing: after a step the weights are those of the GAN it started from, EMA and all."""
    source = trained[0] / "checkpoint/faces_32_best/last.pt"
    flags = ["--dataset_dir", faces, *SMALL, *places(home), "--recipe=best", "--steps=1", "--start_from", source]
    assert call(*flags, "--lambda_rec=1", "--learning_rate=1e-12") == 0
    before, after = (read_checkpoint(path / "checkpoint/faces_32_best/last.pt") for path in (trained[0], home))
    for part in ("generator", "discriminator", "encoder"):
        for name, value in before[part].items():
            counted = "running" in name or "num_batches" in name  # by batch norm
            assert counted or torch.allclose(value, after[part][name], atol=1e-9), name
    assert call(*flags, "--width=5", "--checkpoint_dir", home / "other", "--model_path", home / "other") == 2
    assert "another shape" in capsys.readouterr().err


def test_the_filler_goes_on_from_the_gan(trained):
    """All three networks learn, in copies: what it began with stays as it was, and it says whose it is."""
    gan = read_checkpoint(trained[0] / "checkpoint/faces_32_best/last.pt")
    encoder = read_checkpoint(trained[0] / "models/faces_32_best_encoder.pt")
    filler = read_checkpoint(trained[0] / "checkpoint/faces_32_best_filler/last.pt")
    assert filler["args"]["inverts"] == encoder["args"]["inverts"]
    for name, before in (("generator", read_checkpoint(trained[0] / "models/faces_32_best.pt")["generator"]),
                         ("discriminator", gan["discriminator"]), ("encoder", encoder["encoder"])):  # fmt: skip
        for key, value in before.items():
            counted = "running" in key or "num_batches" in key  # by batch norm, which it leaves as it is
            if value.is_floating_point() and not counted and key != "correct.weight":  # a filler looks once
                assert not torch.equal(value, filler[name][key]), (name, key)
    for key in ("layers.0.running_mean", "layers.0.running_var"):
        assert torch.equal(filler["generator"][key], filler["ema_generator"][key])


def test_the_filler_is_judged_by_what_is_kept_of_it(trained, faces):
    """The validation error in its file is that of the file's own networks, the running means."""
    flags = ["--dataset_dir", faces, "--run=complete", "--search=best", *SMALL, *places(trained[0])]
    args = script.parse_args(list(map(str, flags)))
    model, hole = prepare(args), make_hole("center", 32)
    records = load_records(args, model.device)
    x = to_tensor(records.images[records.rows("validation")])
    guessed = model.guess(x, hole)
    x_hat = poisson(model.decode(model.encode(guessed)), x, hole, guessed, PULL).clamp(-1, 1)
    error = (x_hat - x)[..., hole].square().mean().item()
    kept = read_checkpoint(trained[0] / "models/faces_32_best_filler.pt")["state"]
    assert kept["mse"] == pytest.approx(error, rel=1e-4)


# Using the model


def test_sampling(trained, tmp_path):
    flags = ["--dataset_name=faces", "--run=sample", *VERB, *places(trained[0]), "--out_dir", tmp_path / "out"]
    assert call(*flags, "--seed=3") == 0
    pictures = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out/faces").glob("*.png"))]
    z = np.load(tmp_path / "out/z.npy")
    assert len(pictures) == len(z) == len(np.unique(pictures, axis=0)) == 5
    assert (tmp_path / "out/sheet.png").exists()
    assert (z == draw_z(5, 8, torch.Generator().manual_seed(3)).numpy()).all(), "the seed's"


def test_a_second_run_writes_beside_the_first(trained, tmp_path):
    """Without --out_dir: sample_001, sample_002, ... in the sample folder, and nothing of the first is touched."""
    flags = ["--dataset_name=faces", "--run=sample", *VERB, *places(trained[0]), "--sample_dir", tmp_path]
    folders = [tmp_path / f"faces_32_best/sample_00{number}" for number in (1, 2)]
    assert call(*flags, "--seed=3") == 0
    first = {path: path.read_bytes() for path in folders[0].rglob("*.*")}
    assert call(*flags, "--seed=4") == 0
    assert sorted(path.name for path in (tmp_path / "faces_32_best").iterdir()) == [
        "index.tsv",
        "sample_001",
        "sample_002",
    ]
    assert len(first) == 7 and first == {path: path.read_bytes() for path in folders[0].rglob("*.*")}
    assert (np.load(folders[1] / "z.npy") != np.load(folders[0] / "z.npy")).any()


def test_projecting_writes_all_that_the_document_lists(trained, faces, tmp_path):
    folder, _ = trained
    out = tmp_path / "out"
    flags = ["--dataset_dir", faces, "--run=project", *VERB, *places(folder), "--out_dir", out, "--restarts=2"]
    assert call(*flags) == 0
    rows = table(out / "manifest.tsv")
    names = [row["file"].removeprefix("projections/").removesuffix(".png") for row in rows]
    assert len(rows) == 5 and all((out / row["file"]).exists() and (out / row["source"]).exists() for row in rows)
    z = np.load(out / "z.npy")
    assert z.shape == (5, 8) and np.abs(z).max() <= 1
    assert all((np.load(out / "z" / f"{name}.npy") == z[i]).all() for i, name in enumerate(names))
    assert_average(np.load(out / "average.npy"), z)
    assert (out / "average.png").exists()
    assert (out / "sheet.png").exists() and len(list((out / "steps").glob("*.png"))) == 13
    for row in table(out / "losses.tsv"):
        kept = [float(value) for step, value in row.items() if step != "file"]
        assert kept == sorted(kept)[::-1] and kept[-1] < kept[0]
    # By hand, a few lines of Python:
    content = torch.load(folder / "models/faces_32_best_encoder.pt", weights_only=True)
    generator = Generator(8, 32, 4, 4)
    generator.load_state_dict(content["generator"])
    with torch.no_grad():
        pictures = to_uint8(generator.eval()(torch.from_numpy(z)))
    x, x_hat = (np.stack([np.asarray(Image.open(out / row[kind])) for row in rows]) for kind in ("source", "file"))
    assert np.abs(pictures.astype(int) - x_hat).max() <= 1
    errors = ((x_hat / 255 - x / 255) ** 2).mean((1, 2, 3))
    assert [float(row["psnr"]) for row in table(out / "results.tsv")] == pytest.approx(
        list(-10 * np.log10(errors)), abs=0.1)  # fmt: skip
    assert call(*flags) == 2, "an output folder that is not empty is left alone"
    assert call(*flags, "--overwrite") == 0


def test_restarts_and_the_encoder_lower_the_loss(trained, faces, tmp_path):
    losses = {}
    for name, more in {"one": [], "three": ["--restarts=3"], "encoder": ["--start=encoder"]}.items():
        out = tmp_path / name
        flags = ["--dataset_dir", faces, "--run=project", *VERB, *places(trained[0]), "--out_dir", out, *more]
        assert call(*flags) == 0
        losses[name] = np.array([[float(row["0"]), float(row["12"])] for row in table(out / "losses.tsv")])
    assert (losses["three"][:, 1] <= losses["one"][:, 1] * 1.0001).all(), "the best is kept for each picture"
    assert losses["encoder"][:, 0].mean() < losses["one"][:, 0].mean(), "the encoder starts nearer"


def test_own_photos(trained, faces, tmp_path, capsys):
    """A photo without a face is skipped and named; if none is left, that is an error."""
    folder = photos(faces, tmp_path / "photos")
    flags = ["--dataset_name=faces", *VERB, *places(trained[0])]
    assert call(*flags, "--run=project", "--images", folder, "--out_dir", tmp_path / "out") == 0
    assert "skipped no_face.png: no face found" in capsys.readouterr().out
    assert len(table(tmp_path / "out/manifest.tsv")) == 2
    for verb in ("project", "complete", "average"):
        assert call(*flags, "--run", verb, "--images", folder / "no_face.png") == 2
        assert "no_face.png" in capsys.readouterr().err


def test_completing_changes_the_hole_alone(trained, faces, tmp_path, capsys):
    own = np.zeros((32, 32), np.uint8)
    own[5:9, 20:30] = 255
    Image.fromarray(own).save(tmp_path / "own.png")
    for kind in ("center", "left", "random", "full", tmp_path / "own.png"):
        out = tmp_path / f"out_{kind}".replace("/", "_")
        flags = ["--dataset_dir", faces, "--run=complete", "--mask", kind, *VERB, *places(trained[0]), "--out_dir", out]
        assert call(*flags, "--search=best") == 0
        hole = own > 0
        if kind != tmp_path / "own.png":
            hole = make_hole(kind, 32, torch.Generator().manual_seed(0)).numpy()
        rows = table(out / "blended.tsv")
        assert len(rows) == len(table(out / "filled.tsv")) == 5
        for row in rows:
            name = row["file"].removeprefix("blended/")
            pictures = {part: np.asarray(Image.open(out / part / name)) for part in
                        ("originals", "masked", "filled", "blended")}  # fmt: skip
            for part in ("masked", "filled", "blended"):
                assert (pictures[part][~hole] == pictures["originals"][~hole]).all(), (kind, part)
            assert (pictures["masked"][hole] == 0).all() and pictures["filled"][hole].std() > 0
            assert (pictures["filled"][hole] != pictures["originals"][hole]).any()
        scores = table(out / "results.tsv")[0]
        assert ("telea_psnr" in scores) == (kind != "full")
        x, filled = (np.asarray(Image.open(out / part / f"{scores['file']}.png")) / 255 for part in
                     ("originals", "filled"))  # fmt: skip
        expected = -10 * np.log10(((filled - x)[hole] ** 2).mean())
        assert float(scores["filled_psnr"]) == pytest.approx(expected, abs=0.01)
    assert "in the hole: filled" in capsys.readouterr().out


def test_the_filler_fills_better_than_encoder_and_search(trained, faces, tmp_path):
    """With a guess to go by, the hole is nearer to the truth; --start and --n_iter say what fills it."""
    errors = {}
    for begin in ("filler", "encoder"):
        flags = ["--dataset_dir", faces, "--run=complete", *VERB[:-4], *places(trained[0]), "--search=best"]
        assert call(*flags, "--start", begin, "--count=20", "--out_dir", tmp_path / begin) == 0
        errors[begin] = np.mean([float(row["blended_psnr"]) for row in table(tmp_path / begin / "results.tsv")])
    assert errors["filler"] > errors["encoder"] + 0.3
    assert script.parse_args(list(map(str, flags))).start == "filler"
    for more, steps in (([], 0), (["--start=encoder"], 100), (["--search=document"], 1000), (["--n_iter=7"], 7)):
        assert script.parse_args(list(map(str, [*flags, *more]))).n_iter == steps, more


def test_interpolating_between_photos_and_z_files(trained, faces, tmp_path):
    folder = photos(faces, tmp_path / "photos", 1)
    np.save(tmp_path / "a.npy", np.full(8, -0.5, np.float32))
    np.save(tmp_path / "b.npy", np.float32([[0.5] * 8, [0] * 8]))
    out = tmp_path / "out"
    flags = ["--dataset_name=faces", "--run=interpolate", *VERB, *places(trained[0]), "--frames=5"]
    assert call(*flags, "--images", tmp_path / "a.npy", folder, tmp_path / "b.npy", "--out_dir", out) == 0
    z = np.load(out / "z.npy").reshape(3, 5, 8)
    assert np.allclose(z[0, 0], -0.5) and np.allclose(z[1, 0], z[0, -1])
    assert np.allclose(z[2], np.linspace(0.5, 0, 5)[:, None])
    long, middle = np.linalg.norm(z, axis=2), (z[0, 0] + z[0, -1]) / 2
    assert np.allclose(long[0], np.linspace(long[0, 0], long[0, -1], 5), atol=1e-5), "a short one would be grey"
    assert np.allclose(z[0, 2] / long[0, 2], middle / np.linalg.norm(middle), atol=1e-5)
    rows = table(out / "manifest.tsv")
    assert [row["path"] for row in rows] == list("000001111122222")
    assert all((out / row["file"]).exists() for row in rows)
    with Image.open(out / "interpolation.gif") as film:
        assert film.n_frames >= 10 and film.size == (32, 32)
    video = cv2.VideoCapture(str(out / "interpolation.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 15
    video.release()
    assert call(*flags, "--images", tmp_path / "a.npy") == 2, "one face is no line"


def assert_average(average, z):
    """It points where the mean of z (N, L) does, halfway as long as these are: a short one would be grey."""
    mean, length = z.mean(0), np.linalg.norm(z, axis=1).mean()
    wanted = np.clip(mean / np.linalg.norm(mean) * (np.linalg.norm(mean) + length) / 2, -1, 1)
    assert np.allclose(average, wanted, atol=1e-5) and np.linalg.norm(average) > np.linalg.norm(mean)


def test_averaging(trained, faces, tmp_path):
    flags = ["--dataset_name=faces", "--run=average", *VERB, *places(trained[0]), "--out_dir", tmp_path / "a"]
    assert call(*flags, "--images", photos(faces, tmp_path / "photos")) == 0
    z = np.load(tmp_path / "a/z.npy")
    assert z.shape == (2, 8)
    assert_average(np.load(tmp_path / "a/average.npy"), z)
    assert (tmp_path / "a/average.png").exists() and (tmp_path / "a/sheet.png").exists()


def test_arithmetic_on_sets(trained, tmp_path):
    """a - b + c of the means of z files, not longer than those of a, and clipped to the cube."""
    for name, value in dict(a=[[0.2] * 8, [0.4] * 8], b=[[0.1] * 8], c=[[0.9] * 7 + [-1]]).items():
        np.save(tmp_path / f"{name}.npy", np.float32(value))
    flags = ["--dataset_name=faces", "--run=arithmetic", *VERB, *places(trained[0]), "--images", tmp_path / "a.npy"]
    assert call(*flags, "--minus", tmp_path / "b.npy", "--plus", tmp_path / "c.npy", "--out_dir", tmp_path / "out") == 0
    wanted = np.array([[1.1] * 7 + [-0.8]])
    wanted *= 0.3 * math.sqrt(8) / np.linalg.norm(wanted)
    assert np.load(tmp_path / "out/result.npy") == pytest.approx(wanted, abs=1e-5)
    assert (tmp_path / "out/result.png").exists() and (tmp_path / "out/sheet.png").exists()


def test_arithmetic_with_attributes(copied, faces, tmp_path, capsys):
    flags = [*VERB, *places(copied), "--run=arithmetic", "--start=encoder", "--attributes=Smiling,Turn",
             "--strengths=-1,0,2", "--images", photos(faces, tmp_path / "photos")]  # fmt: skip
    assert call("--dataset_name=faces", *flags) == 2
    assert "give --dataset_dir" in capsys.readouterr().err
    assert call("--dataset_dir", faces, *flags, "--out_dir", tmp_path / "a") == 0
    rows = table(tmp_path / "a/manifest.tsv")
    assert len(rows) == 2 * 3 * 2 and all((tmp_path / "a" / row["file"]).exists() for row in rows)
    assert [row["request"] for row in rows[::2]] == ["Smiling=0", "", "Smiling=1", "", "", ""]
    plain = {row["file"]: np.asarray(Image.open(tmp_path / "a" / row["file"])).astype(int) for row in rows}
    for row in rows:
        source = np.asarray(Image.open(tmp_path / "a" / row["source"]))
        assert (np.abs(plain[row["file"]] - source).max() == 0) == ("+0.00" in row["file"])
    assert call("--dataset_name=faces", *flags, "--out_dir", tmp_path / "b") == 0, "the vectors are kept"
    path = copied / "models/faces_32_best_encoder.pt"
    other = read_checkpoint(path)
    other["encoder"]["fc.weight"] *= 2
    torch.save(other, path)
    assert call("--dataset_name=faces", *flags) == 2, "not for another encoder, which reads other z"
    assert "give --dataset_dir" in capsys.readouterr().err


def portrait(faces, path):
    """A photo (500, 700, 3), darkened, of one person large and another small."""
    one, other = (np.asarray(Image.open(file)) // 2 for file in sorted((faces / "img_align_celeba").iterdir())[:2])
    photo = np.full((500, 700, 3), 60, np.uint8)
    photo[30:466, 30:386] = cv2.resize(one, (356, 436), interpolation=cv2.INTER_CUBIC)
    photo[140:358, 480:658] = other
    Image.fromarray(photo).save(path)
    return photo.astype(int)


def test_changed_faces_go_back_into_the_photo(copied, faces, tmp_path, monkeypatch, capsys):
    """What a vector changes of the projection is added to the photo; a hole is filled, and nothing shines through."""
    photo = portrait(faces, tmp_path / "me.png")
    np.save(tmp_path / "z.npy", np.zeros(8, np.float32))
    monkeypatch.setattr(Model, "decode", lambda self, z: z[:, :1, None, None].expand(-1, 3, 32, 32) * 0.2)
    monkeypatch.setattr(Model, "encode", lambda self, x, known=1: x.new_zeros(len(x), 8))
    monkeypatch.setattr(arithmetic, "attribute_vectors", lambda *_: {"Smiling": torch.ones(8)})
    flags = ["--dataset_name=faces", *VERB, *places(copied), "--start=encoder", "--n_iter=0"]
    flags += ["--images", tmp_path / "me.png"]
    add = ["--run=arithmetic", "--attributes=Smiling", "--strengths=-0.5,0,0.5", tmp_path / "z.npy"]
    for name, more in (("one", []), ("all", ["--all_faces"])):
        assert call(*flags, add[-1], *add[:-1], *more, "--out_dir", tmp_path / name) == 0
        made = {
            path.name: np.asarray(Image.open(path)).astype(int) for path in (tmp_path / name / "photos").rglob("*.*")
        }
        assert set(made) == {"me_+0.50.png", "me_-0.50.png"}, "of what is a photo, and where something changes"
        change = made["me_+0.50.png"] - photo
        assert 5 <= change[250, 208].min() <= change.max() <= 14, "half of 0.2 of 127.5, or what the cube leaves of it"
        assert not change[:, :15].any() and not change[480:].any()
        assert change[140:358, 480:658].any() == (name == "all")
    assert f"{tmp_path}/all/photos/Smiling/me_" in capsys.readouterr().out
    assert call(*flags, "--run=arithmetic", "--plus", tmp_path / "z.npy", "--out_dir", tmp_path / "sum") == 0
    assert (tmp_path / "sum/photos/me.png").exists()
    assert call(*flags, "--run=complete", "--out_dir", tmp_path / "hole") == 0
    filled, masked = (np.asarray(Image.open(tmp_path / "hole/photos" / name)) for name in ("me.png", "me_masked.png"))
    black = (masked == 0).all(2)
    rows, columns = np.flatnonzero(black.any(1)), np.flatnonzero(black.any(0))
    assert 150 < len(rows) < 230 and 150 < len(columns) < 230, "half of 178 pixels, twice as large"
    outside = cv2.dilate(black.astype(np.uint8), np.ones((25, 25))) == 0
    assert np.array_equal(filled[outside], photo[outside]), "a pixel of the crop, 11 of the photo, and no further"
    inside = filled[rows[20] : rows[-20], columns[20] : columns[-20]].astype(float)
    assert np.abs(np.diff(inside, axis=1)).max() < 12, "as smooth as what fills it: no eye, no mouth"


def test_comparing(trained, faces, tmp_path, capsys, monkeypatch):
    flags = ["--dataset_dir", faces, "--run=compare", *VERB, *places(trained[0]), "--attributes=Smiling,Turn"]
    short = {recipe: {**how, "n_iter": 3} for recipe, how in compare.SEARCHES.items()}
    monkeypatch.setattr(compare, "SEARCHES", short)
    assert call(*flags, "--out_dir", tmp_path / "out") == 0
    rows = table(tmp_path / "out/table.tsv")
    methods = ["GAN, projection", "GAN, encoder alone", "GAN, encoder and search", "VAE"]
    assert [row["method"] for row in rows] == ["mean face", "PCA, 32 numbers", "PCA, 64 numbers", "PCA, 100 numbers",
                                               *methods]  # fmt: skip
    assert all(0 < float(row["mse"]) < 1 and float(row["psnr"]) > 0 for row in rows)
    assert all(float(row["seconds_per_face"]) > 0 for row in rows[4:])
    for folder in ("gan_projection", "gan_encoder_alone", "gan_encoder_and_search", "vae"):
        for name, title in (("reconstructions", "source"), ("edits", "request"), ("interpolations", "path")):
            listed = table(tmp_path / f"out/{folder}/{name}.tsv")
            assert listed and all(row[title] for row in listed), (folder, name)
            for row in listed:
                assert (tmp_path / "out" / folder / row["file"]).exists()
                assert (tmp_path / "out" / folder / row.get("source", row["file"])).exists()
    labels = CelebA(faces)
    smiles = dict(zip(labels.files, labels.attributes[:, ATTRIBUTES.index("Smiling")], strict=True))
    for row in table(tmp_path / "out/vae/edits.tsv"):
        name = row["file"].removeprefix("edits/Smiling_").replace(".png", ".jpg")
        assert row["request"] == f"Smiling={1 - smiles[name]}", "towards what the face has not"
    assert "GAN, encoder and search" in capsys.readouterr().out and (tmp_path / "out/sheet.png").exists()


# A person's mistakes


@pytest.mark.parametrize(("flags", "says"), [
    (["--image_size=48"], "32, 64, 128"),
    (["--width=0"], "more than 0"),
    (["--width=99999"], "at most 512"),
    (["--z_size=99999"], "at most 1024"),
    (["--batch_size=999999999"], "at most 65536"),
    (["--run=sample", "--count=999999999"], "at most 100000"),
    (["--run=interpolate", "--frames=99999999"], "at most 10000"),
    (["--kernel=3"], "--kernel"),
    (["--flip=maybe"], "expected True or False"),
    (["--momentum=1"], "less than 1"),
    (["--lam=nan"], "--lam"),
    (["--dataset_dir=/no/such/folder"], "/no/such/folder"),
    (["--dataset_name=a/b"], "plain name"),
    (["--run=projct"], "--run"),
    (["--run=project"], "train first"),
    (["--run=train_encoder"], "train first"),
    (["--run=interpolate"], "--images"),
    (["--run=train_filler"], "train first"),
    (["--run=project", "--start=filler"], "--run complete"),
    (["--run=project", "--minus", "x"], "--minus"),
    (["--run=arithmetic", "--attributes=Smilling"], "Smiling"),
    (["--run=sample", "--images=a.jpg"], "--images is for --run project"),
    (["--strengths=1,much"], "--strengths"),
    (["--strengths", "-2,2"], "--flag=VALUE"),
    (["--run=complete", "--mask=middle"], "center, left, random, full"),
])  # fmt: skip
def test_mistakes_end_in_one_line(flags, says, faces, tmp_path, capsys):
    base = [] if any("dataset_dir" in flag for flag in flags) else ["--dataset_dir", faces]
    assert call(*base, *SMALL, *places(tmp_path), "--batch_size=4", *flags) == 2
    assert says in mistake(capsys)
    assert not [path for path in tmp_path.rglob("*") if "records" not in str(path)], "nothing is written"


def test_files_that_do_not_fit_are_one_line(trained, faces, tmp_path, capsys):
    flags = ["--dataset_name=faces", *VERB, *places(trained[0]), "--out_dir", tmp_path / "out"]
    np.save(tmp_path / "short.npy", np.zeros((2, 7), np.float32))
    np.save(tmp_path / "far.npy", np.full((2, 8), 3, np.float32))
    np.save(tmp_path / "nan.npy", np.full((2, 8), np.nan, np.float32))
    (tmp_path / "none.npy").write_bytes(b"no numbers")
    for name, says in (("short", "(N, 8)"), ("far", "-1 to 1"), ("nan", "-1 to 1"), ("none", "no z file"),
                       ("missing", "no z file")):  # fmt: skip
        assert call(*flags, "--run=average", "--images", tmp_path / f"{name}.npy") == 2
        assert says in capsys.readouterr().err
    Image.new("L", (32, 32)).save(tmp_path / "black.png")
    Image.new("L", (32, 32), 255).save(tmp_path / "white.png")
    Image.new("L", (64, 32)).save(tmp_path / "large.png")
    hole = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    hole.paste("white", (8, 8, 24, 24))
    hole.save(tmp_path / "seen.png")
    args = script.parse_args([*map(str, flags), "--run=complete", "--mask", str(tmp_path / "seen.png")])
    assert read_hole(args).sum() == 256, "what is see-through is no hole"
    for name, says in (("black", "all black"), ("white", "all white"), ("large", "64 x 32")):
        assert call(*flags, "--run=complete", "--mask", tmp_path / f"{name}.png", "--dataset_dir", faces) == 2
        assert says in capsys.readouterr().err
    model = trained[0] / "models/faces_32_best.pt"
    assert call("--dataset_dir", faces, "--run=project", "--model_path", model, "--image_size=64") == 2
    assert "give --image_size 32" in capsys.readouterr().err
    assert call(*flags, "--dataset_dir", faces, "--run=project", "--z_size=9") == 2
    assert "--z_size 8" in capsys.readouterr().err
    shutil.copytree(trained[0] / "models", tmp_path / "models")
    for part, name, value in (("encoder", "width", 3), ("vae", "z_size", 9)):
        path = tmp_path / f"models/faces_32_best_{part}.pt"
        path = path if path.exists() else tmp_path / f"models/faces_32_{part}.pt"
        content = torch.load(path, weights_only=True)
        content["args"][name] = value
        torch.save(content, path)
    beside = script.parse_args([*map(str, SMALL), "--run=project", "--model_path", str(tmp_path / "models")])
    assert find_part(beside, "_encoder")[2].width == 3, "it may be of another width than the GAN"
    with pytest.raises(InputError, match="has z_size 9, not 8"):
        find_part(beside, "_vae")
    others = {
        "dapgan": dict(format=2, project="dapgan", args=dict(image_size=32, z_size=8), state={}),
        "older": dict(format=1, args=dict(image_size=32, z_size=8), state={}),
        "bare": dict(format=2, generator={}),
    }
    for name, content in others.items():
        torch.save(content, tmp_path / f"{name}.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    train = ["--dataset_dir", faces, *SMALL, *places(tmp_path), "--record_dir", trained[0] / "records"]
    for name in (*others, "junk"):
        path = tmp_path / f"{name}.pt"
        assert call(*train, "--start_from", path) == 2, name
        assert str(path) in mistake(capsys)
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_said(copied, faces, capsys):
    """No VAE, no encoder, an encoder or a filler of another generator, no filler."""
    flags = ["--dataset_dir", faces, *VERB, *places(copied)]
    (copied / "models/faces_32_best_vae.pt").unlink()
    shutil.rmtree(copied / "checkpoint/faces_32_best_vae")
    assert call(*flags, "--run=compare") == 2
    assert "train_vae first" in capsys.readouterr().err
    content = torch.load(copied / "models/faces_32_best.pt", weights_only=True)
    del content["encoder"]
    content["generator"]["fc.weight"][0] += 1
    torch.save(content, copied / "models/faces_32_best.pt")
    assert call(*flags, "--run=project", "--search=best") == 2
    captured = capsys.readouterr()
    assert "inverts another generator" in captured.out and "--start random" in captured.err
    assert call(*flags, "--run=complete", "--search=best") == 2
    assert "trained from another generator" in capsys.readouterr().err
    (copied / "models/faces_32_best_filler.pt").unlink()
    shutil.rmtree(copied / "checkpoint/faces_32_best_filler")
    assert call(*flags, "--run=complete", "--search=best") == 2
    assert "--run train_filler first" in capsys.readouterr().err


def test_no_dataset_is_one_line(capsys):
    assert call() == 2
    assert capsys.readouterr().err == "error: --dataset_dir is needed: the folder (or zip) with the pictures\n"
    assert call("--images", "me.jpg") == 2
    assert "is needed: the folder (or zip) with the pictures; --images is for --run project or" in mistake(capsys)


def test_the_benchmark_fills_the_hole_in_every_way(trained, faces, tmp_path, capsys):
    flags = ["--dataset_dir", faces, *VERB, *places(trained[0]), "--out_dir", tmp_path / "out"]
    found = dict(holes.main([str(flag) for flag in flags]))
    folders = ("mean_face", "linear_prediction", "telea", "gan", "gan_blended")
    assert all(len(table(tmp_path / "out" / folder / "manifest.tsv")) == 5 for folder in folders)
    assert list(found) == ["mean face", "linear prediction", "Telea", "GAN", "GAN, blended"]
    hole = make_hole("center", 32).numpy()
    for folder, decibels in zip(folders, found.values(), strict=True):
        pictures, originals = (
            np.stack([np.asarray(Image.open(path)) / 255 for path in sorted((tmp_path / "out" / part).glob("*.png"))])
            for part in (folder, "originals")
        )
        assert (pictures[:, ~hole] == originals[:, ~hole]).all()
        assert decibels == pytest.approx(-10 * np.log10(((pictures - originals)[:, hole] ** 2).mean()), abs=0.01)
    assert "decibels in the hole" in capsys.readouterr().out
