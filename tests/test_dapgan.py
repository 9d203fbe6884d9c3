"""dapgan/: latents, networks and losses by numbers, every verb through the command line on drawn faces and digits."""

import argparse
import contextlib
import importlib.util
import math
import shutil
import struct
from functools import partial

import numpy as np
import pytest
import pytorch_msssim
import torch
from calls import caller, logged, mistake, places, same, table
from pictures import photos
from PIL import Image
from processes import finish, start, train
from test_steps import Refuse

from common.celeba import batches
from dapgan import evaluation
from dapgan import main as script
from dapgan.digits import deform, load_digits, shape_of
from dapgan.gan import discriminator_loss, generator_loss
from dapgan.infogan import infogan_step
from dapgan.loading import load_records, make_gan, rate_at
from dapgan.losses import ms_ssim, prior_distance, reconstruction_loss
from dapgan.model import AutoEncoder, Decoder, Encoder, InfoDiscriminator, InfoGenerator, Latent, Predictor
from dapgan.plumbing import make_adam, read_checkpoint, seed_step
from dapgan.purity import purity, train_digit_classifier
from dapgan.recover import optimise, recovery_loss
from dapgan.vary import code_grid

SMALL = ("--image_size", 32, "--hidden", 8, "--noise_size", 6, "--batch_size", 8, "--device", "cpu", "--precision",
         "fp32", "--workers", 0)  # fmt: skip
VERB = ("--image_size", 32, "--device", "cpu", "--workers", 0, "--n_iter", 6, "--count", 5)
NAME = "faces_info_began_32_best"
call = caller(script)


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    """A small info_began and its predictor, trained through the command line: (folder, what the GAN's run printed)."""
    folder = tmp_path_factory.mktemp("trained")
    flags = ["--dataset_dir", faces, *SMALL, *places(folder), "--log_every=5", "--recipe=best"]
    printed = train(folder, "dapgan", *flags, "--epoch=4")
    assert call(*flags, "--run=train_predictor", "--epoch=3") == 0
    return folder, printed


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """A folder that torchvision reads as MNIST: 180 and 60 drawn digits, a bar whose place is the label."""
    folder = tmp_path_factory.mktemp("mnist") / "data"
    raw = folder / "MNIST/raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 180), ("t10k", 60)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.zeros((count, 28, 28), np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[4:24, 3 + 2 * label : 6 + 2 * label] = 255
        for name, content, dimensions in (("images-idx3", images, (count, 28, 28)), ("labels-idx1", labels, (count,))):
            header = struct.pack(f">{1 + len(dimensions)}I", 0x800 + len(dimensions), *dimensions)
            (raw / f"{part}-{name}-ubyte").write_bytes(header + content.tobytes())
    return folder


# Latents


def test_latents_are_drawn_as_they_are_said_to_be():
    latent = Latent(3, [10, 4], 2)
    assert (latent.size, latent.code_size) == (19, 16)
    z = latent.draw(20000, torch.Generator().manual_seed(0))
    noise, (first, second), continuous = latent.parts(z)
    assert noise.shape[1] == 3 and first.shape[1] == 10 and second.shape[1] == 4 and continuous.shape[1] == 2
    for uniform in (noise, continuous):
        assert uniform.abs().max() <= 1 and uniform.mean().abs() < 0.02
        assert uniform.var().item() == pytest.approx(1 / 3, rel=0.03)
    for classes in (first, second):
        assert set(classes.unique().tolist()) == {0, 1} and (classes.sum(1) == 1).all()
        assert classes.mean(0) == pytest.approx(1 / classes.shape[1], rel=0.1)
    assert torch.equal(z, latent.draw(20000, torch.Generator().manual_seed(0)))


def test_reading_losses_by_hand():
    latent = Latent(2, [3], 1)
    z = torch.tensor([[0.5, -0.5, 0, 1, 0, 0.25]])
    raw = torch.tensor([[0.0, 0, 1, 2, 3, 0]])
    code, noise = latent.losses(raw, z)
    assert code.item() == pytest.approx(-math.log(math.e**2 / (math.e + math.e**2 + math.e**3)) + 0.0625)
    assert noise.item() == pytest.approx(0.25)
    assert latent.squash(raw).sum().item() == pytest.approx(1)
    assert Latent(2, [], 0).losses(raw[:, :2], z[:, :2])[0] == 0


def test_constraining_gives_what_may_be_drawn():
    latent = Latent(2, [3], 1)
    z = latent.draw(50)
    assert torch.allclose(latent.constrain(z), z, atol=1e-5)
    far = latent.constrain(torch.tensor([[3.0, -3, 2, -1, 1, 9]]))
    assert far.tolist() == [pytest.approx([1, -1, 0.5, 0, 0.5, 1], abs=1e-5)]


# The networks


def test_networks_have_the_documents_sizes():
    """Counted by hand: fc to 128 x 8 x 8, two 3 x 3 a scale; 128, 256, 384, 384 on the way down; 64 numbers."""
    generator, discriminator = Decoder(66), AutoEncoder(Latent(64, [], 2))
    convolution = 128 * 128 * 9 + 128
    assert sum(p.numel() for p in generator.parameters()) == 67 * 8192 + 8 * convolution + 128 * 27 + 3
    wide, wider = 256 * 256 * 9 + 256, 384 * 384 * 9 + 384
    encoder = 128 * 28 + 2 * convolution + (256 * 129 + 2 * wide) + (384 * 257 + 2 * wider) + (384 * 385 + 2 * wider)
    assert sum(p.numel() for p in discriminator.encoder.parameters()) == encoder + 64 * (384 * 64 + 1)
    assert sum(p.numel() for p in discriminator.code.parameters()) == 65 * 2
    z = Latent(64, [], 2).draw(2)
    x = generator(z)
    assert x.shape == (2, 3, 64, 64) and x.abs().max() <= 1
    x_hat, raw = discriminator(x)
    assert x_hat.shape == x.shape and raw.shape == (2, 66) and (raw[:, :64] == 0).all()
    predictor = Predictor("info_began", Latent(64, [], 2))
    heads = [tuple(p.shape) for p in predictor.code.parameters() if p.ndim == 2]
    assert heads == [(128, 64), (256, 128), (2, 256)] and predictor.read(x).shape == (2, 66)


def test_infogans_networks_have_dcgans_sizes():
    latent = Latent(64, [10], 2)
    generator, discriminator = InfoGenerator(latent.size), InfoDiscriminator(latent)
    assert sum(p.numel() for p in generator.parameters()) == (
        77 * 8192 + 2 * (512 + 256 + 128 + 64) + 16 * (512 * 256 + 256 * 128 + 128 * 64 + 64 * 3) + 256 + 128 + 64 + 3
    )
    d_real, raw = discriminator(generator(latent.draw(3)))
    assert d_real.shape == (3,) and raw.shape == (3, 76) and generator.fc.weight.std().item() < 0.021
    grey = InfoGenerator(latent.size, 32, 8, colours=1)(latent.draw(3))
    assert grey.shape == (3, 3, 32, 32) and torch.equal(grey[:, 0], grey[:, 2])


@pytest.mark.parametrize("linear", [True, False])
def test_a_predictor_corrects_what_it_reads_by_what_is_drawn_of_it(linear):
    """By hand; what is drawn exactly as the picture needs no correction, and without a generator there is none."""
    torch.manual_seed(0)
    latent, x, drawn = Latent(5, [3], 2), torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32)
    predictor = Predictor("infogan", latent, 32, 4, batch_norm=False, linear=linear, corrections=2)
    first = predictor.read(x)
    assert torch.equal(predictor.read(x, lambda raw: drawn), first), "a correction that has learned nothing"
    torch.nn.init.normal_(predictor.correct.weight, std=0.1)
    by_one = predictor.correct(predictor.encoder(x) - predictor.encoder(drawn))
    assert (
        torch.allclose(predictor.read(x, lambda raw: drawn), first + 2 * by_one, atol=1e-5) and by_one.abs().max() > 0
    )
    assert torch.equal(predictor.read(x, lambda raw: x), first) and torch.equal(predictor.read(x), first)
    seen = []
    predictor.read(x, lambda raw: seen.append(raw) or drawn)
    assert torch.allclose(seen[1], first + by_one, atol=1e-5) and len(seen) == 2

    # It may start as one that corrects nothing, and as one that does
    once = Predictor("infogan", latent, 32, 4, batch_norm=False, linear=linear)
    again = Predictor("infogan", latent, 32, 4, batch_norm=False, linear=linear, corrections=1)
    again.start_as(once.state_dict())
    assert torch.equal(again.read(x), once.read(x))
    change = again.read(x, lambda raw: drawn) - again.read(x)
    expected = 0.3 * (once.read(x) - once.read(drawn)) if linear else torch.zeros(4, 10)
    assert torch.allclose(change, expected, atol=1e-5)
    again.start_as(predictor.state_dict())
    assert torch.equal(again.correct.weight, predictor.correct.weight)


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("taper", [True, False])
def test_gradient_reaches_every_parameter(size, taper):
    torch.manual_seed(0)
    latent = Latent(5, [3], 2)
    for generator, discriminator in (
        (Decoder(latent.size, size, 4, taper, 1), AutoEncoder(latent, size, 4, taper, 1, read_noise=True)),
        (InfoGenerator(latent.size, size, 4), InfoDiscriminator(latent, size, 4, batch_norm=not taper)),
    ):
        z = latent.draw(4)
        x = generator(z)
        assert x.shape == (4, 3, size, size)
        first, raw = discriminator(x)
        predictor = Predictor("infogan" if first.ndim == 1 else "info_began", latent, size, 4, taper)
        (first.square().mean() + sum(latent.losses(raw, z)) + sum(latent.losses(predictor.read(x), z))).backward()
        for network in (generator, discriminator, predictor):
            for name, parameter in network.named_parameters():
                before_norm = name.endswith("bias")  # what a batch norm behind it takes away
                assert parameter.grad is not None and (parameter.grad.abs().sum() > 0 or before_norm), name


def test_pooling_before_the_1x1_gives_the_same():
    encoder, x = Encoder(3, 32, 4), torch.rand(2, 3, 32, 32)
    expected = x
    for layer, behind in zip(encoder.layers, [*encoder.layers][1:] + [None], strict=True):
        if isinstance(layer, torch.nn.AvgPool2d):
            expected = torch.nn.functional.avg_pool2d(behind(expected), 2)
        elif not (isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (1, 1)):
            expected = layer(expected)
    assert torch.allclose(encoder.fc(expected.flatten(1)), encoder(x), atol=1e-4)


# Losses


def test_ms_ssim_against_the_package_where_that_can():
    """Its ms_ssim takes 128 x 128 with a window of 7; the weights given to it are ours."""
    torch.manual_seed(0)
    x = torch.nn.functional.interpolate(torch.rand(3, 3, 16, 16), 128, mode="bicubic").clamp(0, 1) * 2 - 1
    y = (x + 0.3 * torch.randn(x.shape)).clamp(-1, 1)
    weights = torch.tensor([0.0448, 0.2856, 0.3001])
    theirs = pytorch_msssim.ms_ssim(x / 2 + 0.5, y / 2 + 0.5, data_range=1, size_average=False, win_size=7,
                                    weights=(weights / weights.sum()).tolist())  # fmt: skip
    assert ms_ssim(x, y).tolist() == pytest.approx(theirs.tolist(), abs=1e-5)
    one = pytorch_msssim.ssim(x / 2 + 0.5, y / 2 + 0.5, data_range=1, size_average=False, win_size=7)
    assert ms_ssim(x, y, scales=1).tolist() == pytest.approx(one.tolist(), abs=1e-3)
    assert theirs.max() < 0.95, "a data_range of 255 would say that all is well"


def test_ms_ssim_at_64_is_one_for_equal_pictures_and_has_its_gradient():
    torch.manual_seed(0)
    x = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8), 64, mode="bilinear").double() * 2 - 1
    assert ms_ssim(x, x).tolist() == pytest.approx([1, 1], abs=1e-5)
    y = (x.float() + 0.2 * torch.randn(x.shape)).requires_grad_()
    loss = reconstruction_loss(y, x.float(), "msssim").sum()
    (gradient,) = torch.autograd.grad(loss, y)
    step = 0.01 * gradient / gradient.norm()
    with torch.no_grad():
        up, down = (reconstruction_loss(y + way * step, x.float(), "msssim").sum() for way in (1, -1))
    assert ((up - down) / 0.02).item() == pytest.approx(gradient.norm().item(), rel=0.05), "finite differences"


def test_a_pictures_opposite_needs_the_l1():
    """Negative structure has no gradient in MS-SSIM alone; msssim_l1 has one everywhere."""
    x = torch.nn.functional.interpolate(torch.randn(1, 3, 32, 32), 64).clamp(-1, 1)
    gradients = {}
    for kind in ("msssim", "msssim_l1"):
        y = (-x).requires_grad_()
        (gradients[kind],) = torch.autograd.grad(reconstruction_loss(y, x, kind).sum(), y)
        assert gradients[kind].isfinite().all()
    assert gradients["msssim"].abs().max() < 1e-3 * gradients["msssim_l1"].abs().max()
    assert (gradients["msssim_l1"].sign() == -x.sign())[x != 0].float().mean() > 0.99


def test_losses_by_hand():
    x, x_hat = torch.zeros(1, 3, 32, 32), torch.full((1, 3, 32, 32), 0.5)
    assert reconstruction_loss(x_hat, x, "l1").tolist() == [0.25], "of pictures in [0, 1]"
    assert reconstruction_loss(x_hat, x, "l2").tolist() == [0.0625]
    flat = 1 - ((2 * 0.5 * 0.75 + 1e-4) / (0.25 + 0.5625 + 1e-4)) ** (0.3001 / (0.0448 + 0.2856 + 0.3001))
    assert reconstruction_loss(x_hat, x, "msssim").item() == pytest.approx(flat, abs=5e-4)
    mixed = reconstruction_loss(x_hat, x, "msssim_l1").item()
    assert mixed == pytest.approx(flat / 4 + 0.25, abs=5e-4)
    assert reconstruction_loss(x_hat, x, "detail").item() == pytest.approx(mixed), "what is flat has no detail"
    x_hat = x_hat * (1 - 2 * (torch.arange(32)[:, None] + torch.arange(32)).remainder(2))
    found = reconstruction_loss(x_hat, x, "detail") - reconstruction_loss(x_hat, x, "msssim_l1")
    assert found.item() == pytest.approx(2 * 0.25), "a chessboard is nothing else"
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 1000.0])
    expected = (math.log(1 + math.exp(-2)) + math.log(2)) / 2 + (math.log(1 + math.exp(-1)) + 1000) / 2
    assert discriminator_loss(real, fake).item() == pytest.approx(expected)
    assert generator_loss(fake).item() == pytest.approx(math.log(1 + math.exp(1)) / 2)
    z_hat, z = torch.tensor([[0.0, 5], [1, 5], [2, 5]]), torch.tensor([[2.5, 0], [0.5, 0], [1.5, 0]])
    assert prior_distance(z_hat, z, torch.tensor([[3.0], [0.0]])).item() == pytest.approx(0.25)


def test_code_grid_varies_one_part_at_a_time():
    latent = Latent(2, [3], 2)
    start = latent.draw(2)
    grid, titles = code_grid(latent, start, 5)
    assert titles == [("category_1", 3), ("code_1", 5), ("code_2", 5)] and grid.shape == (2 * 13, 7)
    first = grid[:13]
    assert (first[:, :2] == start[0, :2]).all() and torch.equal(first[:3, 2:5], torch.eye(3))
    assert first[3:8, 5].tolist() == pytest.approx([-1, -0.5, 0, 0.5, 1]) and (first[3:8, 6] == start[0, 6]).all()
    assert (first[8:, 5] == start[0, 5]).all() and (first[3:, 2:5] == start[0, 2:5]).all()


# Digits


def test_deforming_slants_and_stretches():
    bar = torch.full((3, 3, 32, 32), -1.0)
    bar[:, :, 4:28, 13:19] = 1
    moved = deform(bar, torch.tensor([[0.0, 1, 0], [0, 0, 1]]))
    assert torch.allclose(moved[0], bar[0], atol=1e-4)
    shape = shape_of(moved)
    assert shape["slant"].abs()[0] < 0.01 and shape["slant"].abs()[1] == pytest.approx(0.3, abs=0.03)
    assert shape["width"][2] / shape["width"][0] == pytest.approx(1.25, abs=0.06)
    assert shape["width"][1] == pytest.approx(shape["width"][0].item(), rel=0.15), "slanted is not broad"
    assert shape["slant"][2].abs() < 0.01


def test_purity_by_hand():
    share, majority = purity(torch.tensor([7, 7, 1, 2, 2]), torch.tensor([0, 0, 0, 1, 1]), 3)
    assert share == pytest.approx(4 / 5) and majority[:2] == [7, 2]


def test_mnist_is_read_and_never_replaced(mnist, tmp_path, capsys):
    records = load_digits("mnist", 32, mnist, False)
    assert records.images.shape == (240, 32, 32, 3) and len(records.rows("test")) == 60
    assert len(records.rows("train")) == 150 and len(records.rows("validation")) == 30
    assert (records.labels[:12] == np.arange(12) % 10).all() and records.images[0, 10, 5].tolist() == [255] * 3
    assert call("--data=mnist", "--model=infogan", "--dataset_dir", tmp_path, *places(tmp_path)) == 2
    assert "--download" in capsys.readouterr().err
    assert call("--data=mnist", "--model=infogan", *places(tmp_path)) == 2
    assert "--dataset_dir" in capsys.readouterr().err
    raw = tmp_path / "damaged/MNIST/raw"
    shutil.copytree(mnist / "MNIST/raw", raw)
    (raw / "train-images-idx3-ubyte").write_bytes(b"no digits")
    assert call("--data=mnist", "--model=infogan", "--dataset_dir", tmp_path / "damaged", *places(tmp_path)) == 2
    assert "no MNIST in" in capsys.readouterr().err


def test_the_judge_of_digits_reads_pictures_of_any_size(mnist):
    records = load_digits("mnist", 64, mnist, False)
    assert train_digit_classifier(records, torch.device("cpu"))[1] > 0.9


def test_infogan_on_digits(mnist, tmp_path, capsys):
    """Trained, its grids drawn, what its code means judged: the drawn bars are told apart by their place."""
    flags = ["--data=mnist", "--model=infogan", "--dataset_dir", mnist, "--hidden=8", "--recipe=best", "--device=cpu",
             *places(tmp_path)]  # fmt: skip
    assert call(*flags, "--epoch=2", "--batch_size=16") == 0
    assert call(*flags, "--run=vary", "--count=3", "--points=4", "--out_dir", tmp_path / "vary") == 0
    with Image.open(tmp_path / "vary/categories_by_code_2.png") as sheet:
        assert sheet.size == (4 * (4 * 34 + 2), 22 + 4 * (10 * 34 + 2)), "categories down, the number across"
    rows = table(tmp_path / "vary/manifest.tsv")
    assert len(rows) == 3 * (10 + 4 + 4) and all((tmp_path / "vary" / row["file"]).exists() for row in rows)
    capsys.readouterr()
    assert call(*flags, "--run=purity", "--out_dir", tmp_path / "purity") == 0
    output = capsys.readouterr().out
    assert "purity" in output and "code 2: width" in output and "category 1 right" in output
    assert float(output.split("judge: ")[1].split("%")[0]) > 90
    counts = table(tmp_path / "purity/purity.tsv")
    assert len(counts) == 10 and sum(int(row[str(d)]) for row in counts for d in range(10)) == 1000


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed")
def test_scikit_learns_digits():
    records = load_digits("digits", 32, None, False)
    assert records.images.shape == (1797, 32, 32, 3) and sorted(set(records.labels.tolist())) == list(range(10))
    assert sum(len(records.rows(part)) for part in ("train", "validation", "test")) == 1797


# Training


def test_training_leaves_what_it_says(trained):
    folder, output = trained
    samples = folder / "samples" / NAME
    assert len(list(samples.glob("0*.png"))) == 4 and f"tensorboard --logdir {samples / 'logs'}" in output
    for name in (NAME, f"{NAME}_predictor"):
        content = torch.load(folder / f"models/{name}.pt", weights_only=True)
        assert content["state"]["step"] > 0 and (folder / f"checkpoint/{name}/last.pt").exists()
    assert 0 <= read_checkpoint(folder / f"checkpoint/{NAME}/last.pt")["state"]["k"] <= 1
    assert list((folder / f"samples/{NAME}_predictor").glob("0*.png"))


def test_tensorboard_charts(trained):
    folder = trained[0] / "samples"
    gan, predictor = (logged(folder / name / "logs") for name in (NAME, f"{NAME}_predictor"))
    assert set(gan.Tags()["scalars"]) == {
        "loss/d", "loss/g", "loss/code", "loss/noise", "loss/rec", "loss/real", "loss/fake", "began/k",
        "began/convergence", "learning_rate", "diversity", "face_distance", "validation/rec"}  # fmt: skip
    assert set(predictor.Tags()["scalars"]) == {"loss/rec", "validation/rec"}
    assert gan.Tags()["images"] == predictor.Tags()["images"] == ["images/samples"]
    for name in ("loss/real", "loss/rec"):
        curve = gan.Scalars(name)
        assert curve[-1].value < curve[0].value, "it learns"
    best = read_checkpoint(trained[0] / f"models/{NAME}.pt")["state"]
    curve = gan.Scalars("face_distance")
    assert best["distance"] == pytest.approx(min(point.value for point in curve), rel=1e-4)


def test_began_balances_as_the_paper_says(faces, home):
    """One step by hand: k is lambda_k (gamma L(real) - L(fake)); both networks move against their own losses."""
    torch.manual_seed(0)
    latent = Latent(6, [], 2)
    flags = ["--dataset_dir", faces, *SMALL, *places(home), "--reconstruction=l1", "--lambda_k=0.5", "--steps=1"]
    assert call(*flags, "--train_size=1.0") == 0
    content = read_checkpoint(home / "checkpoint/faces_info_began_32/last.pt")
    args = script.parse_args([str(flag) for flag in flags])
    torch.manual_seed(0)
    gan = make_gan(args, "cpu", contextlib.nullcontext)
    generator, discriminator = gan.generator, gan.discriminator
    records = load_records(args, torch.device("cpu"))
    x, _ = next(batches(records, records.rows("train"), 8, "cpu", 0, 0, 0, 1, False))
    seed_step(0, 1)
    z = latent.draw(8)
    x_fake = generator(z)
    real, (hat, raw) = (discriminator(x)[0] - x).abs().mean() / 2, discriminator(x_fake)
    fake = (hat - x_fake).abs().mean() / 2
    expected = min(1, max(0, 0.5 * (0.5 * real - fake).item()))
    assert content["state"]["k"].item() == pytest.approx(expected, abs=1e-5)
    g = torch.autograd.grad(fake + 0.1 * latent.losses(raw, z)[0], list(generator.parameters()), retain_graph=True)
    d = torch.autograd.grad(real + 0.1 * latent.losses(raw, z)[0], list(discriminator.parameters()))
    # Adam's first momentum is (1 - beta1) of the gradient; k is 0 in the first step.
    for gradients, name in ((g, "g_optimizer"), (d, "d_optimizer")):
        moments = [state["exp_avg"] for state in content[name]["state"].values()]
        for gradient, moment in zip(gradients, moments, strict=True):
            assert torch.allclose(moment, 0.5 * gradient, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("weight", [0, 0.5])
def test_what_the_discriminator_does_with_generated_pictures_is_turned_round(weight, faces, home):
    """From a checkpoint with a k of its own: the gradient by the discriminator is L(real) - k L(fake)."""
    flags = ["--dataset_dir", faces, *SMALL, *places(home), "--model=began", "--reconstruction=l1", "--train_size=1.0",
             "--learning_rate=1e-12"]  # fmt: skip
    assert call(*flags, "--steps=1") == 0
    path = home / "checkpoint/faces_began_32/last.pt"
    content = torch.load(path, weights_only=True)
    content["state"]["k"] = float(weight)
    torch.save(content, path)
    before = [state["exp_avg"] for state in content["d_optimizer"]["state"].values()]
    args = script.parse_args([str(flag) for flag in flags])
    latent = Latent(6, [], 0)
    gan = make_gan(args, "cpu", contextlib.nullcontext)
    generator, discriminator = gan.generator, gan.discriminator
    generator.load_state_dict(content["generator"])
    discriminator.load_state_dict(content["discriminator"])
    records = load_records(args, torch.device("cpu"))
    x, _ = next(batches(records, records.rows("train"), 8, "cpu", 0, 1, 0, 1, False))
    seed_step(0, 2)
    x_fake = generator(latent.draw(8)).detach()
    loss = (discriminator(x)[0] - x).abs().mean() / 2 - weight * (discriminator(x_fake)[0] - x_fake).abs().mean() / 2
    gradients = torch.autograd.grad(loss, list(discriminator.parameters()))
    assert call(*flags, "--steps=2") == 0
    after = [state["exp_avg"] for state in torch.load(path, weights_only=True)["d_optimizer"]["state"].values()]
    for gradient, moment, old in zip(gradients, after, before, strict=True):
        assert torch.allclose(moment - 0.5 * old, 0.5 * gradient, atol=1e-6, rtol=1e-2)


@pytest.mark.parametrize(("verb", "model", "recipe"), [
    ("train", "info_began", "best"), ("train", "began", "document"), ("train", "infogan", "document"),
    ("train", "infogan", "best"), ("train_predictor", "info_began", "best")])  # fmt: skip
def test_resume_is_exact(verb, model, recipe, faces, trained, home):
    """9 steps are 4 steps, a new start and 5 more, bit for bit: weights, EMA, Adam, k."""
    flags = ["--dataset_dir", faces, "--run", verb, "--model", model, "--recipe", recipe, "--epoch=9", *SMALL,
             *places(home)]  # fmt: skip
    results = []
    for place, stops in (("once", [9]), ("twice", [4, 9])):
        if verb == "train_predictor":
            (home / place).mkdir()
            shutil.copy(trained[0] / f"models/{NAME}.pt", home / place)
        for stop in stops:
            where = ["--checkpoint_dir", home / place, "--model_path", home / place, "--steps", stop]
            assert call(*flags, *where, "--sample_every=9") == 0
        (path,) = (home / place).glob(f"faces_{model}_32*/last.pt")
        results.append(torch.load(path, weights_only=True))
    for part in set(results[0]) - {"args", "state"}:
        assert same(results[0][part], results[1][part]), part
    assert results[0]["state"]["step"] == 9 and results[0]["state"].get("k") == results[1]["state"].get("k")


def test_two_processes_are_one(faces, home):
    """As under torchrun: without batch norm two processes with half a batch each do what one does with all of it."""
    flags = ["--dataset_dir", faces, "--recipe=best", "--steps=3", *SMALL]
    assert call(*flags, *places(home)) == 0
    alone = read_checkpoint(home / f"checkpoint/{NAME}/last.pt")
    other = home / "both"
    codes, printed = finish(*start(home, "dapgan", *flags, *places(other), "--record_dir", home / "records", world=2))
    assert codes == [0, 0] and printed.count("trained 3 of") == 1, printed  # rank 0 alone speaks
    both = read_checkpoint(other / f"checkpoint/{NAME}/last.pt")
    assert both["state"]["k"].item() == pytest.approx(alone["state"]["k"].item(), rel=1e-4)
    for name, value in alone["generator"].items():
        assert torch.allclose(value, both["generator"][name], atol=2e-4), name


def test_a_step_on_digits_asks_no_host():
    """With what they are to be read as; the losses are fp32. All other trainings: tests/test_steps.py."""
    flags = "--dataset_dir=x --model=infogan --recipe=best --data=digits --image_size=32 --hidden=8 --batch_size=4"
    args, x = script.parse_args(flags.split()), torch.rand(4, 3, 32, 32) * 2 - 1
    results = []
    for clusters in ([2, 0, -1, 2],) * 2 + ([2, 1, -1, 2],):
        torch.manual_seed(0)
        gan = make_gan(args, torch.device("cpu"), partial(torch.autocast, "cpu", torch.bfloat16))
        networks = gan.generator, gan.discriminator
        optimizers = [make_adam(network.parameters(), 0.01, 0.5) for network in networks]
        given = partial(infogan_step, args, gan, *optimizers, slice(0, 4), torch.full((), 0.5), x.clone(), x,
                        torch.tensor(clusters), penalty=True)  # fmt: skip
        given()  # optimizers make their state
        seed_step(7, 1)
        with torch.device("meta"), Refuse():
            losses = given()
        assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
        results.append([losses, *(network.state_dict() for network in networks)])
    assert same(*results[:2]) and not same(*results[1:])


@pytest.mark.parametrize(("model", "recipe", "rewarded"), [
    ("infogan", "document", True), ("infogan", "best", False), ("info_began", "best", False)])  # fmt: skip
def test_who_is_moved_by_the_noise_that_is_read(model, recipe, rewarded):
    """The discriminator always; the generator, whose faces suffer from it, by the document's InfoGAN alone."""
    results = []
    for weight in (0.2, 5):
        flags = ["--dataset_dir=x", f"--model={model}", f"--recipe={recipe}", f"--lambda_noise={weight}"]
        args = script.parse_args([*flags, "--image_size=32", "--hidden=8", "--batch_size=4"])
        torch.manual_seed(0)
        gan, x = make_gan(args, torch.device("cpu"), contextlib.nullcontext), torch.rand(4, 3, 32, 32) * 2 - 1
        optimizers = [make_adam(network.parameters(), 0.01, 0.5) for network in (gan.generator, gan.discriminator)]
        if model == "infogan":
            infogan_step(args, gan, *optimizers, slice(0, 4), torch.full((), 0.5), x.clone(), x)
        else:
            script.began_step(args, gan, *optimizers, slice(0, 4), torch.full((), 0.5), x)
        results.append([network.state_dict() for network in (gan.generator, gan.discriminator)])
    (generator, discriminator), others = results
    assert same(generator, others[0]) is not rewarded and not same(discriminator, others[1])


@pytest.mark.parametrize(("recipe", "flags", "rate"), [
    ("document", [], 1), ("best", [], 0.5), ("best", ["--hidden=40"], 0.8), ("best", ["--hidden=16"], 1),
    ("best", ["--data=digits", "--hidden=16"], 2)])  # fmt: skip
def test_a_wide_infogan_has_a_slower_discriminator(recipe, flags, rate):
    assert script.parse_args(["--model=infogan", f"--recipe={recipe}", "--dataset_dir=x", *flags]).d_rate == rate


@pytest.mark.parametrize(("model", "recipe", "flags", "rate"), [
    ("info_began", "document", [], 0.0001), ("info_began", "best", [], 0.00025), ("began", "best", [], 0.00025),
    ("info_began", "best", ["--hidden=8"], 0.0005), ("info_began", "best", ["--learning_rate=0.001"], 0.001),
    ("info_began", "best", ["--run=train_predictor"], 0.0005)])  # fmt: skip
def test_a_wide_began_is_slower(model, recipe, flags, rate):
    args = script.parse_args([f"--model={model}", f"--recipe={recipe}", "--dataset_dir=x", *flags])
    assert args.learning_rate == rate


def test_rates_are_halved_down_to_the_floor():
    args = argparse.Namespace(learning_rate=0.0003, decay_every=100)
    rates = [rate_at(args, step) for step in (1, 99, 100, 200, 300, 9999)]
    assert rates == pytest.approx([0.0003, 0.0003, 0.00015, 0.000075, 0.00005, 0.00005])
    args.decay_every = 0
    assert rate_at(args, 9999) == 0.0003
    args.learning_rate = 0.00001
    assert rate_at(args, 1) == 0.00001, "the floor does not raise what begins below it"


def test_collapse_is_warned_about(faces, home, capsys):
    """An untrained DCGAN makes one grey picture; the diversity number says so."""
    flags = ["--dataset_dir", faces, *SMALL, *places(home), "--model=infogan", "--steps=1", "--learning_rate=1e-9"]
    assert call(*flags) == 0
    captured = capsys.readouterr()
    assert "the generated pictures are nearly all the same" in captured.out + captured.err


def test_running_again_does_nothing_and_longer_goes_on(copied, faces, capsys):
    flags = ["--dataset_dir", faces, *SMALL, *places(copied), "--recipe=best"]
    assert call(*flags, "--epoch=4") == 0
    assert "already" in capsys.readouterr().out
    assert call(*flags, "--epoch=5") == 0
    assert "resuming" in capsys.readouterr().out
    assert len(list((copied / "samples" / NAME).glob("0*.png"))) == 5
    assert call(*flags, "--epoch=6", "--gamma=0.6") == 2
    assert "gamma was 1.0, now 0.6" in capsys.readouterr().err


def test_a_gan_that_begins_anew_says_what_becomes_of_its_predictor(copied, faces, capsys):
    """It was trained for another generator: said, and trained anew without being asked for --restart."""
    flags = ["--dataset_dir", faces, *SMALL, *places(copied), "--recipe=best"]
    assert call(*flags, "--steps=1", "--restart") == 0
    assert (
        f"{NAME}_predictor.pt was trained for the generator as it was: --run train_predictor" in capsys.readouterr().out
    )
    assert call(*flags, "--run=train_predictor", "--steps=1") == 0
    assert "begins anew" in capsys.readouterr().out and (copied / f"models/{NAME}_predictor.001.pt").exists()
    assert call(*flags, "--epoch=0", "--steps=1") == 0
    assert "as it was" not in capsys.readouterr().out


def test_a_predictor_of_another_recipe_than_its_gans_is_another_run(copied, faces, capsys):
    """The GAN named by its file: a predictor of each recipe stands beside it, and the flags say which is used."""
    model = copied / f"models/{NAME}.pt"
    flags = ["--dataset_dir", faces, *SMALL, *places(copied), "--model_path", model]
    before = (copied / f"models/{NAME}_predictor.pt").read_bytes()
    assert call(*flags, "--run=train_predictor", "--recipe=document", "--steps=2") == 0
    assert (copied / f"models/{NAME}_predictor.pt").read_bytes() == before
    saved = read_checkpoint(copied / f"models/{NAME}_predictor_document.pt")["args"]
    assert saved["learning_rate"] == 0.002 and saved["lambda_noise"] == 0, "the document's, not the GAN's"
    verb = ["--dataset_dir", faces, *VERB, *places(copied), "--model_path", model, "--run=recover"]
    for recipe, name in (([], "_predictor.pt"), (["--recipe=document"], "_predictor_document.pt")):
        assert call(*verb, *recipe, "--method=predictor") == 0
        assert f"{NAME}{name}: step" in capsys.readouterr().out
    assert call(*verb[:-3], "--run=sample", "--model_path", copied / f"models/{NAME}_predictor.pt") == 2
    assert "is no GAN of this project" in capsys.readouterr().err


def test_a_predictor_starts_from_another_and_is_read_as_it_was_trained(copied, faces, capsys):
    """One without corrections, such as were saved before there were any, then one that goes on from it."""
    flags = ["--dataset_dir", faces, *SMALL, *places(copied), "--recipe=best", "--run=train_predictor", "--restart"]
    path, first = copied / f"models/{NAME}_predictor.pt", copied / "first.pt"
    assert call(*flags, "--corrections=0", "--steps=2") == 0
    content = read_checkpoint(path)
    assert not [name for name in content["predictor"] if "correct" in name]
    del content["args"]["corrections"]
    torch.save(content, first)
    shutil.copy(first, path)
    verb = [*VERB, *places(copied), "--dataset_dir", faces, "--run=recover", "--method=predictor"]
    assert call(*verb, "--out_dir", copied / "once") == 0
    more = ["--learning_rate=1e-30", "--steps=1", "--start_from"]
    assert call(*flags, *more, first) == 0
    known, found = content["predictor"], read_checkpoint(path)
    assert all(torch.allclose(found["predictor"][name], known[name], atol=1e-6) for name in known)
    assert found["args"]["corrections"] == 3 and found["predictor"]["correct.weight"].abs().max() > 0
    assert call(*verb, "--out_dir", copied / "corrected") == 0
    once, corrected = (np.load(copied / name / "predictor.npy") for name in ("once", "corrected"))
    assert np.abs(once - corrected).max() > 1e-4, "three looks more"
    first.unlink()
    assert call(*[flag for flag in flags if flag != "--restart"], "--learning_rate=1e-30", "--steps=2", "--start_from",
                first) == 0, "it goes on from its checkpoint"  # fmt: skip
    for wrong in (copied / "none.pt", copied / f"models/{NAME}.pt"):
        assert call(*flags, *more, wrong) == 2
        assert str(wrong) in capsys.readouterr().err
    assert read_checkpoint(path)["state"]["step"] == 2, "nothing was lost to it"


# Using the model


class Picture(torch.nn.Module):
    """A generator that shows its twelve numbers as a picture."""

    def forward(self, z):
        return z.view(-1, 3, 2, 2)


def test_optimising_a_latent_keeps_the_best_of_each_picture_within_bounds():
    torch.manual_seed(0)
    latent, x = Latent(12, [], 0), torch.rand(4, 3, 2, 2) * 3 - 1.5
    z, losses = optimise(Picture(), latent, x, torch.zeros(4, 12), recovery_loss("mse", False, "cpu"), 150, 0.05)
    assert torch.allclose(z.view(x.shape), x.clamp(-1, 1), atol=0.02) and z.abs().max() <= 1
    assert losses.tolist() == pytest.approx((x - z.view(x.shape)).square().mean((1, 2, 3)).tolist(), rel=1e-4)
    alone, _ = optimise(Picture(), latent, x[:1], torch.zeros(1, 12), recovery_loss("mse", False, "cpu"), 150)
    assert torch.allclose(alone, z[:1], atol=1e-4), "a picture's search does not depend on its neighbours"
    far, _ = optimise(Picture(), latent, x, x.view(4, 12), recovery_loss("mse", False, "cpu"), 0)
    assert torch.allclose(far, x.view(4, 12).clamp(-1, 1)), "no steps: the start"


def test_sampling(trained, tmp_path):
    flags = ["--dataset_name=faces", "--run=sample", *VERB, *places(trained[0]), "--out_dir", tmp_path / "out"]
    assert call(*flags, "--seed=3") == 0
    pictures = [read(path) for path in sorted((tmp_path / "out/pictures").glob("*.png"))]
    z = np.load(tmp_path / "out/latents.npy")
    assert len(pictures) == len(z) == len(np.unique(pictures, axis=0)) == 5
    assert (z == Latent(6, [], 2).draw(5, torch.Generator().manual_seed(3)).numpy()).all(), "the seed's"
    assert call(*flags) == 2, "an output folder that is not empty is left alone"
    assert call(*flags, "--overwrite") == 0


@pytest.mark.parametrize("loss", ["mse", "ssim", "msssim"])
def test_recovering_by_every_way(loss, trained, faces, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--dataset_dir", faces, "--run=recover", *VERB, *places(trained[0]), "--out_dir", out]
    assert call(*flags, "--recovery_loss", loss, "--n_iter=20") == 0
    rows = {row["method"]: row for row in table(out / "table.tsv")}
    assert list(rows) == ["predictor", "optimisation", "both"]
    assert all(float(row["seconds_per_picture"]) > 0 for row in rows.values())
    if loss == "mse":
        assert float(rows["both"]["mse"]) <= float(rows["predictor"]["mse"])
    for method, row in rows.items():
        listed = table(out / f"{method}.tsv")
        x_hat, x = (np.stack([read(out / line[kind]) for line in listed]) / 255
                    for kind in ("file", "source"))  # fmt: skip
        assert len(listed) == 5 and np.load(out / f"{method}.npy").shape == (5, 8)
        assert float(row["psnr"]) == pytest.approx(-10 * np.log10(((x_hat - x) ** 2).mean()), abs=0.1)
    assert (out / "sheet.png").exists() and len(table(out / "results.tsv")) == 5
    assert "code error" in capsys.readouterr().out


def test_own_photos(trained, faces, tmp_path, capsys):
    """Varied with the photo and its recovery at the head of each line; a photo without a face is skipped and named."""
    folder = photos(faces, tmp_path / "photos")
    flags = ["--dataset_name=faces", *VERB, *places(trained[0])]
    assert call(*flags, "--run=vary", "--points=3", "--images", folder, "--out_dir", tmp_path / "out") == 0
    assert "skipped no_face.png: no face found" in capsys.readouterr().out
    with Image.open(tmp_path / "out/code_1.png") as sheet:
        assert sheet.size == (4 * ((3 + 2) * 34 + 2), 22 + 4 * (2 * 34 + 2))
    assert len(table(tmp_path / "out/manifest.tsv")) == 2 * 2 * 3
    for verb in ("recover", "vary"):
        assert call(*flags, "--run", verb, "--images", folder / "no_face.png") == 2
        assert "no_face.png" in capsys.readouterr().err


def test_augmenting(trained, faces, tmp_path, capsys):
    """Varied pictures with a manifest; too strict gates are said to be; the photos' folder is left alone."""
    folder = photos(faces, tmp_path / "photos", 3)
    before = sorted(folder.iterdir())
    flags = ["--dataset_dir", faces, "--run=augment", *VERB, *places(trained[0]), "--images", folder]
    open_gates = ["--min_identity=0", "--min_quality=0", "--strength=2"]
    assert call(*flags, *open_gates, "--count=7", "--out_dir", tmp_path / "out") == 0
    assert "7 varied pictures of 3; none refused" in capsys.readouterr().out
    rows = table(tmp_path / "out/manifest.tsv")
    assert len(rows) == 7 and len({row["source"] for row in rows}) == 3
    for row in rows:
        made, source = (read(tmp_path / "out" / row[kind]).astype(int) for kind in ("file", "source"))
        assert made.shape == (32, 32, 3) and np.abs(made - source).mean() > 0.2
        assert len(row["latent"].split(",")) == 8 and len(row["code"].split(",")) == 2
        assert 0 <= float(row["quality"]) <= 1
    assert call(*flags, *open_gates, "--face_strength=0", "--count=3", "--out_dir", tmp_path / "held") == 0
    for row in table(tmp_path / "held/manifest.tsv"):
        made, source = (read(tmp_path / "held" / row[kind]).astype(int) for kind in ("file", "source"))
        assert np.array_equal(made[16:22, 13:19], source[16:22, 13:19]) and (made != source).any(), "not on the face"
    capsys.readouterr()
    varied = {row["attribute"]: row for row in table(tmp_path / "out/varied.tsv")}
    assert 0 <= float(varied["Smiling"]["read_otherwise"]) <= 1
    assert sorted(folder.iterdir()) == before
    assert call(*flags, "--min_identity=1", "--min_quality=1", "--out_dir", tmp_path / "none") == 2
    assert "lower --strength" in capsys.readouterr().err and not (tmp_path / "none").exists()
    for inside in (folder, folder / "more", tmp_path):
        assert call(*flags, *open_gates, "--out_dir", inside, "--overwrite") == 2
        assert "name another" in capsys.readouterr().err
    assert call(*flags[:-2]) == 2
    assert "needs --images" in capsys.readouterr().err


def test_evaluating(trained, faces, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "fit_classifier", partial(evaluation.fit_classifier, steps=20))
    flags = ["--dataset_dir", faces, "--run=evaluate", *VERB, *places(trained[0]), "--attributes=Smiling"]
    assert call(*flags, "--few=3", "--seeds=2", "--out_dir", tmp_path / "out") == 0
    output = capsys.readouterr().out
    rows = table(tmp_path / "out/table.tsv")
    assert {"none", "classical", "generator"} <= {row["arm"] for row in rows}
    assert all(0 <= float(row["accuracy"]) <= 1 for row in rows) and "gain over classical" in output
    assert len(table(tmp_path / "out/results.tsv")) == 2 * len(rows) and (tmp_path / "out/chart.png").exists()
    assert call(*flags, "--few=500") == 2
    assert "Smiling" in capsys.readouterr().err


def test_without_a_predictor(faces, home, capsys):
    """The document's discriminator does not read the noise: optimisation alone works until a predictor is trained."""
    flags = ["--dataset_dir", faces, *SMALL, *places(home)]
    assert call(*flags, "--steps=1") == 0
    verb = ["--dataset_dir", faces, *VERB, *places(home), "--run=recover"]
    assert call(*verb) == 2
    assert "train_predictor first" in capsys.readouterr().err
    assert call(*verb, "--method=optimisation", "--out_dir", home / "out") == 0
    assert call(*flags, "--run=train_predictor", "--steps=2") == 0
    assert call(*verb, "--method=predictor", "--out_dir", home / "out2") == 0
    content = torch.load(home / "models/faces_info_began_32.pt", weights_only=True)
    content["generator"]["fc.weight"][0] += 1
    torch.save(content, home / "models/faces_info_began_32.pt")
    assert call(*verb) == 2
    assert "inverts another generator" in capsys.readouterr().out


# A person's mistakes


@pytest.mark.parametrize(("flags", "says"), [
    (["--image_size=48"], "32, 64, 128"),
    (["--hidden=0"], "more than 0"),
    (["--hidden=99999"], "at most 1024"),
    (["--noise_size=999999999"], "at most 1024"),
    (["--categorical=999999999"], "1024 in all"),
    (["--continuous=99999"], "at most 1024"),
    (["--run=vary", "--points=99999999"], "at most 1000"),
    (["--run=sample", "--count=999999999"], "at most 100000"),
    (["--model=vae"], "--model"),
    (["--flip=maybe"], "expected True or False"),
    (["--gamma=nan"], "--gamma"),
    (["--categorical=ten"], "10 or 10,10"),
    (["--model=began", "--continuous=2"], "no code"),
    (["--continuous=0"], "needs a code"),
    (["--run=sample", "--images=a.jpg"], "--images is for --run recover or vary or augment"),
    (["--deform"], "digits"),
    (["--data=digits", "--images", "x.png"], "photos of faces"),
    (["--data=digits", "--run=evaluate"], "for faces"),
    (["--data=digits", "--recipe=best", "--run=train_predictor", "--deform"], "for --run train"),
    (["--model=began", "--diff_augment"], "infogan"),
    (["--dataset_dir=/no/such/folder"], "/no/such/folder"),
    (["--dataset_name=a/b"], "plain name"),
    (["--run=recove"], "--run"),
    (["--run=recover"], "train first"),
    (["--run=train_predictor"], "train first"),
    (["--run=purity"], "digits"),
    (["--points=1"], "more than 1"),
    (["--run=augment"], "--images"),
    (["--seeds=1"], "2 or more"),
    (["--few=ten"], "5,10,20"),
    (["--attributes=Smilling"], "Smiling"),
    (["--min_identity=2"], "0 to 1"),
    (["--lambda_digit=1"], "--deform"),
    (["--batch_size=1.5"], "--batch_size"),
])  # fmt: skip
def test_mistakes_end_in_one_line(flags, says, faces, tmp_path, capsys):
    base = [] if any("dataset_dir" in flag for flag in flags) else ["--dataset_dir", faces]
    assert call(*base, *SMALL, *places(tmp_path), *flags) == 2
    assert says in mistake(capsys)
    assert not [path for path in tmp_path.rglob("*") if "records" not in str(path)], "nothing is written"


def test_what_does_not_fit_is_one_line(trained, faces, tmp_path, capsys, monkeypatch):
    flags = ["--dataset_dir", faces, *VERB, *places(trained[0]), "--out_dir", tmp_path / "out"]
    model = trained[0] / f"models/{NAME}.pt"
    assert call(*flags, "--run=recover", "--model_path", model, "--image_size=64") == 2
    assert "give --image_size 32" in capsys.readouterr().err
    assert call(*flags, "--run=recover", "--model_path", model, "--data=digits") == 2
    assert "give --data celeba" in capsys.readouterr().err
    assert call(*flags, "--run=sample", "--noise_size=7", "--hidden=8") == 2
    assert "has noise_size 6, not 7: give --noise_size 6" in capsys.readouterr().err
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert call(*flags, "--run=recover", "--recovery_loss=vgg16") == 2
    assert "--download" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_dataset_is_one_line(capsys):
    assert call() == 2
    assert capsys.readouterr().err == "error: --dataset_dir is needed: the folder (or zip) with the pictures\n"
