"""benchmarks/quality.py: its measures on cases worked out by hand, and the whole command on drawn faces."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from calls import mistake
from PIL import Image

from benchmarks import person, quality
from common.celeba import ATTRIBUTES, CelebA, cut_box
from common.photos import read_image, run_script


def read(**present):
    """One row of what a judge reads: the attributes given are present, all others are not."""
    row = torch.zeros(len(ATTRIBUTES), dtype=torch.bool)
    for name, value in present.items():
        row[ATTRIBUTES.index(name)] = value
    return row


def test_rates_weigh_asked_and_not_asked_equally():
    rows = torch.stack([read(Smiling=1), read(Smiling=0), read(Smiling=0), read(Smiling=1)])
    asked = [{"Smiling": 1}, {"Smiling": 0}, {"Smiling": 0}, {"Smiling": 0}]
    (row,) = quality.judge_requests(rows, asked, ["Smiling"]).values()
    assert row["asked"] == 1 and row["not_asked"] == 3
    assert row["rate"] == pytest.approx((1 + 2 / 3) / 2)


def test_edits_count_only_faces_that_were_not_so_before():
    before = torch.stack([read(Smiling=0), read(Smiling=0, Male=1), read(Smiling=1)])
    after = torch.stack([read(Smiling=1, Male=1), read(Smiling=0, Male=1), read(Smiling=1)])
    table = quality.judge_edits(before, after, [{"Smiling": 1}] * 3, ["Smiling", "Male", "Young"])
    assert table == {"Smiling=1": dict(n=2, changed=0.5, others_changed=pytest.approx(0.25))}


def test_kid_is_zero_for_the_same_distribution_and_grows_with_the_distance():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 400, 16, generator=generator)
    near, spread = quality.kid(x, y, 200)
    assert abs(near) < 3 * spread
    assert quality.kid(x, y + 0.5, 200)[0] > quality.kid(x, y + 0.2, 200)[0] > 3 * spread


def test_pictures_are_not_compared_with_what_they_were_made_of():
    """Real faces beside themselves are nearer than any two sets of real faces can be."""
    x = torch.randn(400, 32, generator=torch.Generator().manual_seed(0))
    assert quality.kid(x, x, 200)[0] < quality.kid(x[:200], x[200:], 200)[0] - 5
    rows = [dict(file="edits/b.png", source="originals/000002.png"), dict(file="c.png")]
    assert quality.compared_with(rows, ["000001.jpg", "000002.jpg"]) == ("validation", "test")
    assert quality.compared_with(rows, ["000001.jpg"]) == quality.compared_with(rows[1:], ["000002.jpg"])
    assert quality.compared_with(rows[1:], ["000002.jpg"]) == ("test", "validation")


def test_threshold_is_the_one_with_the_best_balance():
    scores, truth = torch.tensor([-3.0, -2.0, -1.5, -1.0, 4.0]), torch.tensor([0, 0, 0, 1, 1], dtype=torch.bool)
    assert -1.5 < quality.best_threshold(scores, truth) < -1.0
    assert math.isnan(quality.balanced(truth, torch.ones(5, dtype=torch.bool)))


def test_flips_and_crops_are_windows_enlarged():
    ramp = torch.linspace(-1, 1, 33)[None, None, None].expand(2, 3, 33, 33)  # from -1 at the left to 1 at the right
    made = person.flipped_and_cropped(ramp, 40, 0.4, seed=1)
    across = made[:, 0, 16].clone()
    across[2::4], across[3::4] = -across[2::4], -across[3::4]  # the mirrored ones
    side = (across[:, 20] - across[:, 12]) * 2
    assert 0.6 <= side.min() < 0.7 and 0.9 < side.max() <= 1.001
    middle = across[:, 16] * 16 / 33  # of the window, in shares of the side from the middle
    assert (middle.abs() <= (1 - side) / 2 + 0.001).all() and middle.min() < -0.05 and middle.max() > 0.05
    torch.testing.assert_close(person.flipped_and_cropped(ramp, 3, 0)[2], ramp[0].flip(2), rtol=0, atol=1e-5)


def test_a_straight_path_has_length_one():
    straight = torch.arange(5.0)[:, None] * torch.ones(1, 3)
    row = quality.judge_paths(torch.cat([straight, straight[[0, 2, 1, 3, 4]]]), ["a"] * 5 + ["b"] * 5)
    assert row["paths"] == 2
    assert row["length_over_distance"] == pytest.approx((1 + (2 + 1 + 2 + 1) / 4) / 2)


def test_drifted_colours_a_grid_and_copies_are_seen():
    random = np.random.default_rng(0)

    def smooth(count):
        """Pictures of one soft gradient each, with some noise."""
        corners = random.uniform(40, 215, (count, 2, 2, 3)).astype(np.float32)
        wide = F.interpolate(torch.from_numpy(corners).permute(0, 3, 1, 2), (32, 32), mode="bilinear").permute(
            0, 2, 3, 1
        )
        return (wide.numpy() + random.normal(0, 4, (count, 32, 32, 3))).clip(0, 255).astype(np.uint8)

    train, test, others = smooth(400), smooth(100), smooth(100)
    same = quality.judge_colours(others, test)
    assert same["shift"] < 12 and 0.8 < same["spread"] < 1.25
    drifted = quality.judge_colours((others * 0.5 + [60, 0, 0]).astype(np.uint8), test)
    assert drifted["shift"] > 50 and 0.4 < drifted["spread"] < 0.6

    assert abs(quality.judge_grid(others, test)) < 3
    gridded = others.astype(int)
    gridded[:, ::2, ::2] += 8  # what a transposed convolution with an odd kernel does
    assert quality.judge_grid(gridded.clip(0, 255).astype(np.uint8), test) > 10

    known, fresh = smooth(200), smooth(200)
    assert quality.judge_copies(fresh, train, test, others) < 0.08
    copies = train[:200].astype(int) + random.integers(-2, 3, (200, 32, 32, 3))
    half = np.concatenate([copies.clip(0, 255).astype(np.uint8), known])
    assert 0.5 <= quality.judge_copies(half, train, test, others) < 0.58


def test_the_command_reads_attributes_of_pictures_and_says_so(faces, run, tmp_path, capsys):
    """Real crops, requested to be what they are, with themselves as sources: nothing has changed."""
    dataset, folder = CelebA(faces), tmp_path / "images"
    folder.mkdir()
    lines = ["file\tsource\trequest"]
    for name, row in list(zip(dataset.files, dataset.attributes, strict=True))[:24]:
        picture = cut_box(read_image(dataset.image_dir / name), quality.CROPS["square"], (32, 32))
        Image.fromarray(picture).save(folder / f"{name}.png")
        lines.append(f"{name}.png\t{name}.png\tMale={int(row[ATTRIBUTES.index('Male')] > 0)}")
    (tmp_path / "m.tsv").write_text("\n".join(lines) + "\n")
    flags = ["--dataset_dir", faces, "--images", folder, "--manifest", tmp_path / "m.tsv", "--epoch", 1,
             "--cache_dir", tmp_path / "cache", "--json", tmp_path / "out.json"]  # fmt: skip
    process = run("benchmarks/quality.py", *flags)
    assert process.returncode == 0, process.stderr
    numbers = json.loads((tmp_path / "out.json").read_text())
    row = numbers["requests"]["Male"]
    assert row["asked"] + row["not_asked"] == 24
    assert np.isfinite(row["rate"]) and "trained on" in process.stdout
    assert all(edit["changed"] == 0 and edit["others_changed"] == 0 for edit in numbers["edits"].values())

    flags = ["--dataset_dir", faces, "--size", 32, "--epoch", 1, "--cache_dir", tmp_path / "cache"]
    quality.main(list(map(str, [*flags, "--json", tmp_path / "judge.json"])))  # without pictures
    assert "training the judge" not in capsys.readouterr().err, "the judge of this crop and size is there already"
    assert json.loads((tmp_path / "judge.json").read_text())["judge"] == numbers["judge"]


@pytest.mark.parametrize("content, complaint", [
    ("name\trequest\nx.png\tMale=1\n", "title line"), ("file\nmissing.png\n", "missing.png"),
    ("file\trequest\nx.png\tMall=1\n", "Male")])  # fmt: skip
def test_a_wrong_manifest_ends_in_one_line(content, complaint, faces, tmp_path, capsys):
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    (tmp_path / "m.tsv").write_text(content)
    flags = ["--dataset_dir", faces, "--images", tmp_path, "--manifest", tmp_path / "m.tsv"]
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: quality.main(list(map(str, [*flags, "--cache_dir", tmp_path / "cache"]))))
    assert stop.value.code == 2 and complaint in mistake(capsys)
    assert not (tmp_path / "cache").exists()
