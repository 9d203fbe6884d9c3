"""hyperencoder/: the networks by numbers, and every verb through the command line on drawn faces."""

import contextlib
import csv
import itertools
import json
import math
import os
import re
import shutil
import time
from functools import partial

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from calls import caller, logged, mistake, places, same
from pictures import write_video
from PIL import Image
from processes import finish, start

from common.celeba import augment, to_tensor, to_uint8
from common.crop import main as crop
from common.mtcnn import MTCNN, square_around
from common.photos import InputError
from hyperencoder import main as script
from hyperencoder import plumbing
from hyperencoder.anomaly import ANOMALIES, occluded_eyes, roc_auc, shuffled_blocks
from hyperencoder.loading import load_records, make_model
from hyperencoder.model import AutoEncoder, Decoder, Encoder, fit_pca, initialise, map_sizes, resize
from hyperencoder.plumbing import load_checkpoint, read_checkpoint, save_checkpoint
from hyperencoder.swap import put_in, swap_faces

SMALL = ("--width_multiplier", 0.0625, "--embed_size", 12, "--batch_size", 8, "--device", "cpu", "--precision", "fp32",
         "--workers", 0)  # fmt: skip
call = caller(script)


@pytest.fixture(scope="module")
def trained(faces, run, tmp_path_factory):
    """A small model trained through the command line in its own process: (folder, what it printed)."""
    folder = tmp_path_factory.mktemp("trained")
    flags = "--train=True --epoch=6 --log_every=5 --init=he --batch_norm --learning_rate=0.002 --show_ema=False".split()
    process = run("hyperencoder/main.py", f"--dataset_dir={faces}", *flags, *SMALL, *places(folder))
    assert process.returncode == 0, process.stderr
    return folder, process.stdout


# The networks


def test_encoder_has_the_papers_layers():
    """The map sizes of HyperFace's table; 46.4 million parameters with the decoder."""
    assert sum(p.numel() for p in AutoEncoder(100).parameters()) == pytest.approx(46.4e6, rel=0.002)
    encoder = Encoder(100)
    shapes = {}
    for name, layer in encoder.named_children():
        layer.register_forward_hook(lambda _, __, output, name=name: shapes.update({name: tuple(output.shape[1:])}))
    assert encoder(torch.zeros(1, 3, 227, 227)).shape == (1, 100)
    assert {name: shapes[name] for name in ("conv1", "conv1a", "conv2", "conv3", "conv3a", "conv4", "conv5")} == {
        "conv1": (96, 55, 55), "conv1a": (256, 6, 6), "conv2": (256, 27, 27), "conv3": (384, 13, 13),
        "conv3a": (256, 6, 6), "conv4": (384, 13, 13), "conv5": (256, 13, 13)}  # fmt: skip
    assert shapes["conv_all"] == (192, 6, 6) and shapes["fc_full"] == (3072,) and shapes["fc_full2"] == (512,)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (128, 128), (64, 32), (32, 64)])
def test_decoder_doubles_to_its_size(height, width):
    decoder = Decoder(7, height, width, multiplier=1 / 64)
    x = decoder(torch.randn(2, 7))
    assert x.shape == (2, 3, height, width) and x.abs().max() <= 1
    kernels = [layer.kernel_size for layer in decoder.layers if isinstance(layer, torch.nn.ConvTranspose2d)]
    assert kernels == [(5, 5)] * int(math.log2(min(height, width) / 4)), "one 5x5 layer a doubling, from 4"


@pytest.mark.parametrize(("height", "width"), [(4, 4), (65, 65), (96, 96), (64, 256), (0, 64), (1024, 1024)])
def test_sizes_that_no_doubling_reaches_are_refused(height, width):
    with pytest.raises(ValueError, match="32, 64, 128"):
        map_sizes(height, width)


@pytest.mark.parametrize("options", [{}, {"batch_norm": True, "pca_path": True}, {"people": 2}])
def test_gradient_reaches_every_parameter(options):
    torch.manual_seed(0)
    model = AutoEncoder(8, 32, 32, multiplier=1 / 16, **options)
    initialise(model, "he")
    model.components.normal_()
    x_hat, embedding = model(torch.rand(4, 3, 128, 128) * 2 - 1)
    assert x_hat.shape == (4, 3, 32, 32) and embedding.shape == (4, 8)
    x_hat.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_initialisers():
    model = AutoEncoder(100, multiplier=0.25)
    initialise(model, "document")
    assert model.encoder.conv2[0].weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert model.decoders[0].layers[1].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert all(p.abs().sum() == 0 for name, p in model.named_parameters() if name.endswith("bias"))
    x = torch.rand(8, 3, 227, 227) * 2 - 1
    assert model.eval().encode(x).std(0).mean() < 1e-3, "the document's first embeddings hardly differ"
    initialise(model, "he")
    assert 0.05 < model.encode(x).std() < 20, "ordinary initialisation keeps the signal's size"


def test_relu_embedding_is_never_negative():
    model = Encoder(50, multiplier=1 / 16, activation="relu")
    embedding = model(torch.randn(4, 3, 227, 227))
    assert embedding.min() == 0 and embedding.max() > 0


def test_pca_is_the_linear_optimum():
    """Against numpy's full SVD, on pictures of known rank; too few pictures leave components empty."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 12)) @ rng.normal(size=(12, 3 * 8 * 8)) + 1
    mean, components, spread = fit_pca(torch.tensor(x, dtype=torch.float32), 5)
    _, s, v = np.linalg.svd(x - x.mean(0), full_matrices=False)
    assert np.allclose(mean, x.mean(0), atol=1e-4) and np.allclose(spread, s[:5] / math.sqrt(60), rtol=1e-3)
    assert np.allclose(np.abs(components.numpy() @ v[:5].T), np.eye(5), atol=1e-2)
    _, components, spread = fit_pca(torch.rand(3, 192), 10)
    assert components.shape == (10, 192) and (components[3:] == 0).all() and (spread > 0).all()


def test_pca_path_starts_at_the_pca():
    torch.manual_seed(0)
    x = torch.rand(40, 3, 64, 64) * 2 - 1
    model = AutoEncoder(6, 32, 32, multiplier=1 / 16, batch_norm=True, pca_path=True)
    initialise(model, "he")
    target = model.target(x)
    model.set_pca(*fit_pca(target.flatten(1), len(model.spread)))
    with torch.no_grad():
        x_hat, embedding = model.eval()(x)
        assert torch.allclose(x_hat, model.pca(target), atol=1e-5)
    assert embedding.std(0, correction=0) == pytest.approx(torch.ones(6), rel=1e-3)


def test_augment_moves_by_what_the_numbers_say():
    x = torch.rand(3, 3, 32, 32)
    assert torch.allclose(augment(x, torch.full((4, 3), 0.5)), x, atol=1e-5), "the middle moves nothing"
    shifted = augment(x, torch.tensor([[0.5], [0.5], [1.0], [0.5]]).expand(4, 3), most=2 / 32)
    assert torch.allclose(shifted[..., :-1], x[..., 1:], atol=1e-4), "one pixel: 2 / 32 of half the picture"


def test_roc_auc_by_hand():
    assert roc_auc(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0])) == pytest.approx((1.5 + 3) / 6)
    assert roc_auc(torch.arange(4.0), torch.arange(4.0) + 9) == 1


def test_anomalies_do_what_their_names_say():
    x = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for kind, change in ANOMALIES.items():
        odd = change(x, torch.Generator().manual_seed(0))
        assert odd.shape == x.shape and odd.abs().max() <= 1.001 and not torch.equal(odd, x), kind
    shuffled = shuffled_blocks(x, torch.Generator().manual_seed(0))
    assert torch.allclose(shuffled.flatten().sort().values, x.flatten().sort().values, atol=1e-6)
    occluded = occluded_eyes(x, None)
    assert (occluded[:, :, 14, 20] == -1).all() and torch.equal(occluded[:, :, 30:], x[:, :, 30:])


# Training


def test_training_leaves_what_it_says(trained):
    folder, output = trained
    steps = read_checkpoint(folder / "models/faces.pt")["state"]["step"]
    sheets = sorted(path.name for path in (folder / "samples/faces").glob("0*.png"))
    assert steps > 0 and len(sheets) == 6, "a sheet an epoch, the step in its name"
    assert (folder / "samples/faces/filmstrip.png").exists()
    assert f"tensorboard --logdir {folder / 'samples/faces/logs'}" in output
    content = torch.load(folder / "checkpoint/faces/last.pt", weights_only=True)
    assert not [key for key in content["model"] if "module." in key or "_orig_mod." in key]
    width = np.asarray(Image.open(folder / "samples/faces/filmstrip.png")).shape[1]
    assert width == 2 * (6 * 66 + 2), "the filmstrip has a column an epoch, and is enlarged while it is narrow"


def test_tensorboard_charts(trained):
    logs = trained[0] / "samples/faces/logs"
    main = logged(logs)
    assert {"embedding/max", "embedding/min", "embedding/std", "learning_rate"} <= set(main.Tags()["scalars"])
    assert main.Tags()["images"] == ["images/real_vs_predicted"]
    curves = {part: logged(logs / f"loss_mse_{part}") for part in ("train", "validation")}
    assert all(curve.Tags()["scalars"] == ["loss/mse"] for curve in curves.values()), "two lines in one chart"
    assert len(curves["validation"].Scalars("loss/mse")) == 6
    assert (logs / "projector_config.pbtxt").exists() and list(logs.glob("*/embedding/tensors.tsv"))


def test_training_learns(trained):
    folder, _ = trained
    curve = logged(folder / "samples/faces/logs/loss_mse_train").Scalars("loss/mse")
    assert curve[-1].value < 0.6 * curve[0].value


def test_running_again_does_nothing_and_longer_goes_on(copied, faces, capsys):
    flags = ["--dataset_dir", faces, "--init=he", "--batch_norm", "--learning_rate=0.002", *SMALL, *places(copied)]
    before = (copied / "checkpoint/faces/last.pt").read_bytes()
    assert call(*flags, "--epoch=6") == 0
    assert "already" in capsys.readouterr().out
    assert call(*flags, "--epoch=9", "--steps=1") == 0, "more steps than that are there already"
    assert (copied / "checkpoint/faces/last.pt").read_bytes() == before
    assert call(*flags, "--epoch=7") == 0
    assert "resuming" in capsys.readouterr().out
    assert len(list((copied / "samples/faces").glob("0*.png"))) == 7


@pytest.mark.parametrize("recipe", ["document", "best"])
def test_resume_is_exact(recipe, faces, home):
    """12 steps, an epoch and more, are 6 steps, a new start and 6 more, bit for bit: weights, EMA, Adam."""
    flags = ["--dataset_dir", faces, "--recipe", recipe, "--epoch=5", *SMALL]
    results = []
    for name, stops in (("once", [12]), ("twice", [6, 12])):
        for stop in stops:
            paths = [*places(home), "--checkpoint_dir", home / name, "--model_path", home / f"{name}_models"]
            assert call(*flags, *paths, "--steps", stop) == 0
        (path,) = (home / name).glob("faces*/last.pt")
        results.append(torch.load(path, weights_only=True))
    for part in ("model", "ema", "optimizer"):
        assert same(results[0][part], results[1][part]), part
    assert results[0]["state"]["step"] == 12


def save_for_ever(path):
    model = torch.nn.Linear(1000, 3000)
    for step in itertools.count(1):
        save_checkpoint(path, {"seed": 0}, {"model": model}, step=step)


def test_kill_during_a_checkpoint_write_leaves_a_loadable_one(tmp_path):
    """kill -9 at random moments of a process that does nothing but save."""
    for number, pause in enumerate((0.05, 0.31, 0.13)):
        path = tmp_path / f"{number}/last.pt"
        (process,), _ = start(tmp_path, None, prepare=partial(save_for_ever, path))
        while not path.exists() and process.is_alive():
            time.sleep(0.01)
        time.sleep(pause)
        process.kill()
        process.join()
        assert load_checkpoint(path, {"seed": 0}, {})["step"] >= 1


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, capsys):
    path, flags, model = tmp_path / "last.pt", {"seed": 0}, torch.nn.Linear(2, 2)
    for step in (1, 2):
        save_checkpoint(path, flags, {"model": model}, step=step)
    path.write_bytes(path.read_bytes()[:500])
    assert load_checkpoint(path, flags, {"model": model})["step"] == 1
    assert "damaged" in capsys.readouterr().out
    (tmp_path / "last.previous.pt").write_bytes(b"")
    with pytest.raises(InputError, match="--restart"):
        load_checkpoint(path, flags, {"model": model})


def test_two_processes_give_the_curve_of_one(faces, home):
    """Two processes as under torchrun, the same global batch, no batch norm: the same weights within rounding."""
    flags = ["--dataset_dir", faces, "--steps", 6, "--init", "he", "--flip", "--shift", 0.05, *SMALL]
    assert call(*flags, *places(home), "--checkpoint_dir", home / "one") == 0
    paths = [*places(home), "--checkpoint_dir", home / "two", "--model_path", home / "two_models"]
    codes, printed = finish(*start(home, "hyperencoder", *flags, *paths, world=2))
    assert codes == [0, 0], printed
    one, two = (torch.load(home / name / "faces/last.pt", weights_only=True) for name in ("one", "two"))
    for name, weight in one["model"].items():
        assert torch.allclose(weight, two["model"][name], rtol=1e-3, atol=1e-4), name
    assert one["state"]["best"] == pytest.approx(two["state"]["best"], rel=1e-3)


def test_pictures_that_the_cropping_command_has_cut_are_taken_as_they_are(faces, tmp_path):
    pictures = [Image.open(path) for path in sorted((faces / "img_align_celeba").iterdir())[:12]]
    (tmp_path / "clips").mkdir()
    pictures[0].save(tmp_path / "clips/a.gif", save_all=True, append_images=pictures[1:], duration=40)
    crop(["--in_dir", str(tmp_path / "clips"), "--out_dir", str(tmp_path / "cut"), "--size", "227"])
    assert call("--dataset_dir", tmp_path / "cut", "--steps=1", *SMALL, *places(tmp_path)) == 0
    (records,) = (tmp_path / "records").glob("cut-*/*.npy")
    first = cv2.imread(str(sorted((tmp_path / "cut").rglob("*.jpg"))[0]), cv2.IMREAD_COLOR_RGB)
    assert first.shape == (227, 227, 3)
    small = cv2.resize(first, (128, 128), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(np.load(records)[0] - small).mean() < 3, "the whole crop, not a face searched in it again"


def test_two_percent_damaged_files_train_to_the_end_and_are_named(faces, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(faces, broken)
    for name in ("000007.jpg", "000050.jpg"):
        (broken / "img_align_celeba" / name).write_bytes(b"\xff\xd8 no picture")
    assert call("--dataset_dir", broken, "--steps=3", *SMALL, *places(tmp_path)) == 0
    output = capsys.readouterr().out
    assert "of 96 pictures skipped" in output and "trained 3 of" in output
    (listing,) = (tmp_path / "records").glob("*/skipped.tsv")
    assert {"000007.jpg", "000050.jpg"} <= {line.split("\t")[0] for line in listing.read_text().splitlines()}


def test_training_stops_by_itself(faces, home, capsys):
    """A rate that changes nothing: no validation MSE is better than the first by much; patience ends the run."""
    assert call("--dataset_dir", faces, *SMALL, *places(home), "--learning_rate=1e-30", "--patience=2") == 0
    assert "stopped by itself" in capsys.readouterr().out


def test_patience_counts_looks(faces, home, capsys):
    """Above fifty epochs it looks at validation less often than once an epoch: here every fourth."""
    flags = ["--learning_rate=1e-30", "--patience=2", "--epoch=200", "--train_size=16"]
    assert call("--dataset_dir", faces, *SMALL, *places(home), *flags) == 0
    assert "in 2 looks" in capsys.readouterr().out
    assert read_checkpoint(home / "checkpoint/faces/last.pt")["state"]["step"] >= 3 * 4 * 2


def test_relu_embedding_and_other_sizes_train(faces, home):
    for size in ([32, 32], [128, 128], [64, 32]):
        flags = ["--y_height", size[0], "--y_width", size[1], "--embed_activation=relu", "--steps=2", *SMALL]
        paths = [*places(home), "--dataset_name", f"size{size[0]}x{size[1]}"]
        assert call("--dataset_dir", faces, *flags, *paths) == 0
        assert call("--dataset_dir", faces, "--train=False", *flags, *paths) == 0


def test_the_documents_recipe_can_do_with_one_picture_a_step(faces, home):
    flags = ["--dataset_dir", faces, *SMALL, *places(home), "--recipe=document", "--steps=1"]
    assert call(*flags, "--batch_size=1") == 0, "the spread of one embedding is 0, and no reason to end"


def test_of_two_models_the_flags_left_away_mean_the_documents(tmp_path):
    from hyperencoder import plumbing as mine
    from hyperencoder.main import parse_args

    for name, recipe in (("a", "document"), ("a_best", "best")):
        flags = dict(run="train", name=name, dataset_name="a", recipe=recipe, y_height=64, y_width=64, embed_size=100)
        mine.save_checkpoint(tmp_path / f"{name}.pt", flags, {})
    assert parse_args(["--train=False", "--dataset_name=a", "--model_path", tmp_path]).recipe == "document"


def test_train_size_counts_and_shares(faces, home, capsys):
    flags = ["--dataset_dir", faces, "--steps=1", *SMALL, *places(home)]
    assert call(*flags, "--train_size=10", "--dataset_name=ten") == 0
    assert call(*flags, "--train_size=0.5", "--dataset_name=half") == 0
    counts = [int(line.split()[0]) for line in capsys.readouterr().out.splitlines() if "training and" in line]
    assert counts[0] == 10 and 30 <= counts[1] <= 40


# Using the model


def test_testing_writes_metrics_and_embeddings(trained, faces):
    folder, _ = trained
    flags = ["--dataset_dir", faces, "--train=False", "--workers=0", "--precision=fp32"]
    assert call(*flags, *places(folder)) == 0
    samples = folder / "samples/faces/test_001"
    metrics = json.loads((samples / "metrics.json").read_text())
    assert metrics["mse_01"] == pytest.approx(metrics["mse"] / 4)
    assert metrics["psnr"] == pytest.approx(10 * math.log10(1 / metrics["mse_01"]))
    assert 0 < metrics["ssim"] < 1 and metrics["pca_mse"] < metrics["mean_face_mse"] and metrics["dead_numbers"] == 0
    with open(samples / "embeddings.csv", newline="") as file:
        title, *rows = csv.reader(file)
    assert title == ["file", *(f"x{i}" for i in range(12))] and len(rows) == metrics["faces"]
    assert (samples / "test.png").exists()

    # by hand, from the model file: three lines of Python
    content = torch.load(folder / "models/faces.pt", weights_only=True)
    model = make_model(content["args"])
    model.load_state_dict(content["model"])
    records = load_records(script.parse_args(
        ["--dataset_dir", str(faces), "--workers=0", *places(folder)]), torch.device("cpu"), 0)  # fmt: skip
    x = to_tensor(records.images[records.rows("test")])
    with torch.no_grad():
        x_hat, embedding = model.eval()(x)
    assert (x_hat - model.target(x)).square().mean().item() == pytest.approx(metrics["mse"], rel=1e-4)
    assert np.allclose(np.array([row[1:] for row in rows], float), embedding.numpy(), atol=1e-3)
    assert [row[0] for row in rows] == [records.names[row] for row in records.rows("test")]


def test_a_search_improves_on_the_encoder(trained, faces, tmp_path):
    flags = ["--dataset_dir", faces, "--train=False", "--workers=0", "--precision=fp32", *places(trained[0])]
    assert call(*flags, "--n_iter=20", "--out_dir", tmp_path / "out") == 0
    assert call(*flags, "--n_iter=0", "--out_dir", tmp_path / "alone") == 0
    metrics, alone = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("out", "alone"))
    assert metrics["mse"] < 0.95 * metrics["encoder_mse"]
    assert metrics["encoder_mse"] == pytest.approx(alone["mse"], rel=1e-4) and "encoder_mse" not in alone

    content = torch.load(trained[0] / "models/faces.pt", weights_only=True)
    model = make_model(content["args"]).eval()
    model.load_state_dict(content["model"])
    with open(tmp_path / "out/embeddings.csv", newline="") as file:
        embedding = torch.tensor([[float(number) for number in row[1:]] for row in list(csv.reader(file))[1:]])
    with torch.no_grad():
        x_hat = to_uint8(model.decode(embedding))
    drawn = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").glob("[0-9]*.png"))]
    assert len(drawn) == metrics["faces"] and np.abs(np.stack(drawn).astype(int) - x_hat).max() <= 2
    assert len(list((tmp_path / "out/pca").glob("*.png"))) == metrics["faces"]


def test_own_photos_gifs_and_videos(trained, faces, tmp_path, capsys):
    folder, _ = trained
    pictures = [Image.open(path) for path in sorted((faces / "img_align_celeba").iterdir())[:3]]
    photos = tmp_path / "photos"
    photos.mkdir()
    pictures[0].save(photos / "one.png")
    pictures[0].save(photos / "two.gif", save_all=True, append_images=pictures[1:])
    video = cv2.VideoWriter(str(photos / "three.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (178, 218))
    for picture in pictures:
        video.write(np.asarray(picture)[..., ::-1])
    video.release()
    Image.new("RGB", (200, 200), "green").save(photos / "no_face.png")
    out = tmp_path / "out"
    flags = ["--dataset_name=faces", "--train=False", "--images", photos, "--out_dir", out, *places(folder)]
    assert call(*flags) == 0
    assert "skipped no_face.png: no face found" in capsys.readouterr().out
    assert len(list(out.glob("*.png"))) == 8 and len(list((out / "source").iterdir())) == 7
    assert not (out / "no_face.png").exists() and (out / "metrics.json").exists()
    assert call(*flags) == 2, "an output folder that is not empty is left alone"
    capsys.readouterr()
    assert call(*flags, "--overwrite") == 0
    assert "all others stay" in capsys.readouterr().out
    assert call(*flags[:3], photos / "no_face.png", *places(folder)) == 2
    two = Image.new("RGB", (356, 218))
    for left, picture in ((0, pictures[0]), (178, pictures[1])):
        two.paste(picture, (left, 0))
    two.save(tmp_path / "two.png")
    for more, count in ((["--out_dir", tmp_path / "one"], 1), (["--out_dir", tmp_path / "both", "--all_faces"], 2)):
        assert call(*flags[:3], tmp_path / "two.png", *more, *places(folder)) == 0
        assert json.loads((more[1] / "metrics.json").read_text())["faces"] == count


def test_red_stays_red_on_a_sheet(tmp_path):
    x = torch.zeros(1, 3, 8, 8)
    x[:, 0], x[:, 1:] = 1, -1
    sheet = plumbing.save_sheet(tmp_path / "red.png", {"": x})
    for picture in (sheet, np.asarray(Image.open(tmp_path / "red.png"))):
        assert picture[24, 24].tolist() == [255, 0, 0], "in the middle of the picture, which is four times as large"


def test_a_model_with_another_embedding_is_not_taken(trained, capsys):
    assert call("--train=False", "--embed_size=13", *places(trained[0])) == 2
    assert "fits" in capsys.readouterr().err


def test_anomaly_detection_reports_each_kind(trained, faces, capsys):
    folder, _ = trained
    assert call("--dataset_dir", faces, "--run=anomaly", *SMALL, *places(folder)) == 0
    table = json.loads((folder / "samples/faces/anomaly_001/anomaly.json").read_text())
    assert set(table) == set(ANOMALIES) and table["occluded_eyes"]["auc"] > 0.8
    with open(folder / "samples/faces/anomaly_001/anomaly.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows and all(float(row["error"]) > 0 for row in rows)
    assert (folder / "samples/faces/anomaly_001/anomaly.png").exists()
    photo = next((faces / "img_align_celeba").iterdir())
    assert call("--dataset_name=faces", "--run=anomaly", "--images", photo, *places(folder)) == 0
    assert re.search(rf"{photo.name}: (odd: )?error .*, above .*%.*, two-sided above .*%", capsys.readouterr().out)
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    assert call("--dataset_name=faces", "--run=anomaly", "--images", folder / "noise.png", *places(folder)) == 0
    assert "noise.png: no face found, odd: error" in capsys.readouterr().out, "a score all the same"
    with open(folder / "samples/faces/anomaly_003/anomaly.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["face"], row["odd"]) == ("0", "1") and 0 <= float(row["two_sided_below"]) <= 1
    flags = ["--dataset_name=faces", "--run=anomaly", "--images", photo, *places(folder)]
    (folder / "nothing").mkdir()
    assert call(*flags, "--model_path", folder / "nothing") == 2, "a checkpoint alone knows no usual errors"


def test_swap_trains_and_puts_faces_in(faces, home, trained, capsys):
    flags = ["--dataset_dir", faces, *SMALL, *places(home), "--people=1,2"]
    same_shape = ["--init=he", "--batch_norm", "--learning_rate=0.002"]
    start = trained[0] / "models/faces.pt"
    assert call(*flags, *same_shape, "--run=train_swap", "--epoch=2", "--start_from", start) == 0
    content = read_checkpoint(home / "models/faces_swap.pt")
    assert content["state"]["people"] == ["1", "2"]
    assert {key.split(".")[1] for key in content["model"] if key.startswith("decoders")} == {"0", "1"}
    means = content["state"]["means"]
    assert means.shape[0] == 2 and (means[0] - means[1]).abs().max() > 0
    photo = next((faces / "img_align_celeba").iterdir())
    out = home / "out"
    assert call(*flags, "--run=swap", "--images", photo, "--out_dir", out, "--person=2") == 0
    before, after = np.asarray(Image.open(photo)).astype(int), np.asarray(Image.open(next(out.iterdir()))).astype(int)
    changed = np.abs(after - before).max(2)
    assert after.shape == before.shape and changed[90:150, 60:120].mean() > 1, "the face has changed"
    assert changed[:10].max() == 0 and changed[:, :5].max() == 0, "what is far from the face has not"
    frames = [Image.open(photo), Image.new("RGB", (178, 218), "green"), Image.open(photo)]
    frames[0].save(home / "clip.gif", save_all=True, append_images=frames[1:], duration=80)
    write_video(home / "film.mp4", [np.array(frame) for frame in frames])
    clips = [home / "clip.gif", home / "film.mp4"]
    assert call(*flags, "--run=swap", "--images", *clips, "--out_dir", home / "clips") == 0
    assert sorted(path.name for path in (home / "clips").iterdir()) == ["clip.gif", "film.mp4"]
    assert capsys.readouterr().out.count("a face swapped in 2 of 3 frames") == 2
    frames[1].save(home / "green.png")
    assert call(*flags, "--run=swap", "--images", home / "green.png", "--out_dir", home / "none") == 2
    assert "green.png skipped: no face found" in capsys.readouterr().out and not (home / "none").exists()
    assert call(*flags, "--run=swap", "--images", photo, "--out_dir", home / "other", "--person=77") == 2
    assert "the model knows 1, 2" in capsys.readouterr().err


def test_a_swapped_embedding_moves_from_one_mean_to_the_other():
    """Each face from the mean of the person it is nearest to; whoever is that person already stays as he is."""

    class Painter:  # embeds a picture as its first two colours, and draws an embedding as these
        eval = target = staticmethod(lambda *x: x[0] if x else None)
        encode = staticmethod(lambda x: x[:, :2, 0, 0])
        decode = staticmethod(lambda e, person: F.pad(e, (0, 1), value=person)[:, :, None, None].expand(-1, -1, 4, 4))

    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[0], images[1] = (51, 102, 0), (204, 204, 0)  # -0.6, -0.2 and 0.6, 0.6 in [-1, 1]
    means = torch.tensor([[-0.5, -0.5], [0.5, 0.5]])
    made, x = put_in(Painter, images, torch.device("cpu"), contextlib.nullcontext, 1, means)
    torch.testing.assert_close(made[:, :, 0, 0], torch.tensor([[0.4, 0.8, 1], [0.6, 0.6, 1]]))
    torch.testing.assert_close(x[:, :2, 3, 3], torch.tensor([[-0.6, -0.2], [0.6, 0.6]]))


def test_a_swap_is_an_oval_in_the_photos_colours_and_a_clip_stays_one(faces, tmp_path, capsys):
    """A painter of bright red faces swaps them: the photo's colours stay, the corners of the square too."""

    class Painter:
        eval = staticmethod(lambda: None)
        target = staticmethod(
            lambda x: F.interpolate(x, (32, 64), mode="area")
        )  # neither square nor of the crop's size
        encode = staticmethod(lambda x: x[:, :2, 0, 0])

        @staticmethod
        def decode(embedding, person):
            x = torch.full((1, 3, 32, 64), -0.5) + torch.linspace(0, 0.3, 64)
            return x + torch.tensor([1, 0.0, 0])[:, None, None]

    photo = np.asarray(Image.open(next((faces / "img_align_celeba").iterdir())))
    photo = np.asarray(Image.fromarray(photo).resize((534, 654)))
    detector, who = MTCNN(), (Painter, torch.device("cpu"), contextlib.nullcontext, 0, torch.zeros(1, 2))
    made = swap_faces(photo, who, detector, all_faces=False)
    (box, *_), *_ = detector.detect([photo])[0]
    left, top, side = square_around(box, 1.2)
    changed = (made != photo).any(2)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert abs(rows.mean() - top - side / 2) < 4 and abs(columns.mean() - left - side / 2) < 4
    assert 0.7 * side < len(columns) < 0.9 * len(rows) < side, "an oval"
    assert changed.sum() < 0.83 * len(rows) * len(columns)
    middle = np.s_[top + side // 3 : top + 2 * side // 3, left + side // 3 : left + 2 * side // 3]
    assert np.abs(made[middle].mean((0, 1)) - photo[middle].mean((0, 1))).max() < 25, "no red face"
    assert swap_faces(np.zeros((90, 90, 3), np.uint8), who, detector, all_faces=True) is None


def test_swap_between_folders(faces, tmp_path):
    """A sub-folder of pictures for each person, no --people; the model file knows them by name."""
    identity = dict(line.split() for line in (faces / "identity_CelebA.txt").read_text().splitlines())
    for name, person in (("anna", "1"), ("ben", "2")):
        (tmp_path / "two" / name).mkdir(parents=True)
        for file in [file for file, owner in identity.items() if owner == person]:
            shutil.copy(faces / "img_align_celeba" / file, tmp_path / "two" / name)
    flags = ["--dataset_dir", tmp_path / "two", *SMALL, *places(tmp_path)]
    assert call(*flags, "--run=train_swap", "--steps=1") == 0
    photo = next((tmp_path / "two/anna").iterdir())
    for source in ("models/two_swap.pt", "checkpoint/two_swap/last.pt"):
        assert read_checkpoint(tmp_path / source)["state"]["people"] == ["anna", "ben"]
        assert call(*flags, "--run=swap", "--images", photo, "--out_dir", tmp_path / source[:5], "--person=anna") == 0
        (tmp_path / "models/two_swap.pt").unlink(missing_ok=True)  # then the checkpoint serves


# A person's mistakes


@pytest.mark.parametrize(("flags", "says"), [
    (["--train=maybe"], "expected True or False"),
    (["--train=False", "--run=train"], "disagree"),
    (["--y_height=100"], "32, 64, 128"),
    (["--embed_size=0"], "1 to 1024"),
    (["--embed_size=2000"], "1 to 1024"),
    (["--x_height=128"], "227"),
    (["--batch_size=0"], "more than 0"),
    (["--learning_rate=-1"], "more than 0"),
    (["--device=cuda:99"], "cuda:99"),
    (["--dataset_dir=/no/such/folder"], "/no/such/folder"),
    (["--train_size=none"], "none"),
    (["--colour=red"], "--colour"),
    (["--run=ship", "--images=a.jpg"], "--images is for --run test or anomaly or swap"),
    (["--train=False"], "train first"),
    (["--run=swap"], "--images"),
    (["--run=train_swap"], "--people"),
    (["--run=train_swap", "--people=1,999"], "999"),
    (["--run=train_swap", "--pca_path"], "past the decoders"),
    (["--dataset_name=a/b"], "plain name"),
])  # fmt: skip
def test_mistakes_end_in_one_line(flags, says, faces, home, capsys):
    before = sorted(home.rglob("*"))
    base = [] if any("dataset_dir" in flag for flag in flags) else ["--dataset_dir", faces]
    assert call(*base, *SMALL, *places(home), *flags) == 2
    assert says in mistake(capsys)
    assert sorted(home.rglob("*")) == before, "nothing is written"


def test_no_dataset_is_one_line(tmp_path, run):
    process = run("hyperencoder/main.py")
    assert process.returncode == 2 and "Traceback" not in process.stderr
    assert process.stderr.strip() == "error: --dataset_dir is needed: the folder (or zip) with the pictures"


def test_other_flags_than_the_checkpoints_are_named(copied, faces, capsys):
    flags = ["--dataset_dir", faces, "--init=he", "--batch_norm", *SMALL, *places(copied), "--epoch=9"]
    assert call(*flags, "--learning_rate=0.5") == 2
    assert "learning_rate was 0.002, now 0.5" in capsys.readouterr().err
    (copied / "models/faces.pt").write_bytes(b"no model")
    assert call(*flags, "--run=test") == 2
    shutil.rmtree(copied / "checkpoint")
    assert call(*flags) == 2, "a model without its checkpoint is not written over"
    assert (copied / "models/faces.pt").read_bytes() == b"no model"


def measure_memory():
    """From now on update_ema() notes what the process holds; after 30 of them it says how much was added."""
    update_ema, sizes = script.update_ema, []

    def measured(*arguments):
        update_ema(*arguments)
        with open("/proc/self/statm") as file:
            sizes.append(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6)
        if len(sizes) == 30:
            print("growth", max(sizes[10:]) - max(sizes[:10]))

    script.update_ema = measured


def test_memory_stays_flat(faces, home):
    """30 steps: what the process holds does not grow after the tenth."""
    flags = ["--dataset_dir", faces, "--steps=30", "--epoch=50", "--sample_every=1000", "--save_every=1000", *SMALL]
    codes, printed = finish(*start(home, "hyperencoder", *flags, *places(home), prepare=measure_memory))
    assert codes == [0], printed
    assert float(printed.split("growth ")[1].split()[0]) < 20


def test_resize_keeps_means():
    x = torch.rand(1, 3, 128, 128)
    assert torch.allclose(resize(x, (64, 64)).mean(), x.mean(), atol=1e-5) and resize(x, (128, 128)) is x
    assert len(list(itertools.islice(plumbing.in_chunks(range(130)), 9))) == 3
