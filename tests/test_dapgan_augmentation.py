"""dapgan's varied pictures and the measure of whether they help: on drawn faces, with generators that are known."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from common.celeba import ATTRIBUTES, SQUARE, CelebA, pack, to_tensor
from dapgan import evaluation, summary
from dapgan.augmentation import Unlabelled, augment_person
from dapgan.counterfactuals import ClassAxis, Pool, counterfactuals, likely
from dapgan.faces import (
    AttributeReader,
    FaceMiddle,
    LinearFaces,
    SeenMiddle,
    balanced,
    changed,
    principal_components,
    resized,
    share_below,
)
from dapgan.model import AutoEncoder, InfoDiscriminator, Latent


@pytest.fixture(scope="module")
def drawn(faces, tmp_path_factory):
    """The drawn faces at 32 x 32: pictures (96, 3, 32, 32), attributes (96, 40), identity (96,)."""
    torch.set_num_threads(1)
    records = pack(CelebA(faces), tmp_path_factory.mktemp("records"), SQUARE, (32, 32), progress=False)
    return to_tensor(records.images).contiguous(), records.attributes, records.identity


@pytest.fixture(scope="module")
def linear(drawn):
    return LinearFaces(drawn[0], 40)


def same(z):
    return z


def pixels(x):
    """What a network that sees pixels alone would see."""
    return [resized(x, 8)]


def test_principal_components_by_hand():
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 3, 1, 1, 1, 1]) + 2
    mean, axes, variance, rest = principal_components(x, 2)
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(variance, values.flip(0)[:2], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close((axes * vectors.flip(1)[:, :2]).sum(0).abs(), torch.ones(2), rtol=1e-3, atol=1e-3)
    assert rest.item() == pytest.approx(values[:4].mean().item(), rel=1e-3)
    before = torch.random.get_rng_state()
    principal_components(x, 2)
    assert torch.equal(before, torch.random.get_rng_state())  # nobody else's random numbers are touched


def test_features_ignore_mirror_light_and_hair(drawn):
    x = drawn[0]
    middle = FaceMiddle(x, 20)
    features = middle.features(x)
    assert features.shape == (96, 20)
    torch.testing.assert_close(features.std(0, correction=0), torch.ones(20), rtol=0.02, atol=0.02)
    torch.testing.assert_close(middle.features(x.flip(3)), features, rtol=1e-3, atol=1e-3)
    lit = 0.5 * x + torch.tensor([0.1, -0.05, 0.2])[:, None, None]  # contrast, brightness and tint
    torch.testing.assert_close(middle.features(lit), features, rtol=1e-3, atol=1e-2)
    border, mouth = x.clone(), x.clone()
    border[:, :, :3] = 0
    mouth[:, :, 20:23, 12:20] = 0
    moved = [(middle.features(y) - features).norm(dim=1).mean().item() for y in (border, mouth)]
    assert moved[1] > 10 * moved[0]


def test_what_a_discriminator_sees_in_the_middle(drawn):
    """The last two sizes of its maps, none finer than 8 x 8: what is not there hardly counts, nor does mirroring."""
    x = drawn[0]
    latent = Latent(4, (2,), 1)
    torch.manual_seed(0)
    for network, shapes in ((InfoDiscriminator(latent, 64, 4), [(16, 8, 8), (32, 4, 4)]),
                            (AutoEncoder(latent, 64, 4), [(12, 16, 16), (12, 8, 8)])):  # fmt: skip
        big = resized(x, 64)
        with torch.no_grad():
            maps = network.eval().maps(big)
        assert [tuple(part.shape[1:]) for part in maps] == shapes
        middle = SeenMiddle(big, torch.no_grad()(network.maps), 20)
        features = middle.features(big)
        assert features.shape == (96, 20)
        torch.testing.assert_close(features.std(0, correction=0), torch.ones(20), rtol=0.05, atol=0.05)
        torch.testing.assert_close(middle.features(big.flip(3)), features, rtol=1e-2, atol=1e-2)
        border, mouth = big.clone(), big.clone()
        border[:, :, :6] = 0
        mouth[:, :, 40:46, 24:40] = 0
        moved = [(middle.features(y) - features).norm(dim=1).mean().item() for y in (border, mouth)]
        assert moved[1] > 3 * moved[0]


def test_linear_faces_encode_generate_and_oddness(drawn, linear):
    x = drawn[0]
    z = linear.encode(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(40), rtol=0, atol=1e-3)
    torch.testing.assert_close(linear.encode(linear.generate(z)), z, rtol=1e-3, atol=1e-3)
    assert (linear.generate(z) - x).square().mean() < 0.2 * (x - x.mean(0)).square().mean()
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert linear.oddness(noise).min() > linear.oddness(x).max()
    assert linear.oddness(linear.mean.view(1, 3, 32, 32)).item() == pytest.approx(0, abs=1e-3)


def test_small_functions_by_hand():
    torch.testing.assert_close(share_below(torch.tensor([0.5, 2.5, 9.0]), torch.tensor([3.0, 1.0, 2.0, 4.0])),
                               torch.tensor([0.0, 0.5, 1.0]))  # fmt: skip
    x = torch.tensor([0.9, 0.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    made = changed(x, torch.zeros(2, 3, 2, 2), torch.tensor([0.5, -0.25]).view(2, 1, 1, 1).expand(2, 3, 2, 2))
    torch.testing.assert_close(made[:, 0, 0, 0], torch.tensor([1.0, -0.25]))  # clamped, and of the photo's size
    assert made.shape == x.shape


def test_the_likely_are_as_many_as_their_scores_tell():
    common = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    high, low = likely(common)
    assert len(high) == len(low) == 2000
    # Of a normal distribution, tilted by exp(+-score): moved by one deviation, and as wide as before.
    for rows, mean in ((high, 1), (low, -1)):
        assert common[rows].mean().item() == pytest.approx(mean, abs=0.15)
        assert common[rows].std().item() == pytest.approx(1, abs=0.2)
        assert len(rows.unique()) > 1000
    rare = torch.cat([torch.full((100,), 5.0), common[:4900]])  # 2% that stand far out
    high, low = likely(10 * rare + 3)
    assert (high < 100).float().mean() > 0.4 and (low < 100).float().mean() < 0.01
    assert torch.equal(likely(rare)[0], likely(rare)[0])


def test_class_axis_is_the_discriminant(drawn):
    middle = FaceMiddle(drawn[0], 8)
    with_it, without = torch.zeros(3, 8), torch.zeros(2, 8)
    with_it[:, 1], without[:, 1] = 3.0, -1.0
    axis = ClassAxis(middle, with_it, without)
    expected = torch.zeros(8)
    expected[1] = 1
    torch.testing.assert_close(axis.axis, expected)
    torch.testing.assert_close(axis.score(with_it), torch.full((3,), 2.0))
    torch.testing.assert_close(axis.score(without), torch.full((2,), -2.0))


def test_counterfactuals_change_the_class_alone(drawn, linear):
    x, attributes, _ = drawn
    middle = FaceMiddle(x)
    pool = Pool(x, middle, linear.encode, linear.generate, count=30)
    smiling = torch.as_tensor(attributes[:, ATTRIBUTES.index("Smiling")] > 0)
    features = middle.features(x)
    axis = ClassAxis(middle, features[smiling], features[~smiling])
    moved = []

    def seen(z):
        moved.append(z)
        return z

    made, labels = counterfactuals(pool, axis, seen, seed=3)
    assert len(made) == len(labels) and labels.any() and not labels.all()
    assert 45 < len(made) <= 60, "of two for each few are on the wrong side"
    score = axis.score(pool.middle.features(made))
    assert (score[labels] >= 0.25).all() and (score[~labels] <= -0.25).all()
    # Far from the mouth's axis a face stays what it was; and it differs from any other face by much more.
    rows = torch.cdist(made.flatten(1), pool.x.flatten(1)).argmin(1)
    assert all(len(rows[side].unique()) == side.sum() for side in (labels, ~labels)), "each face once on either side"
    sources = pool.x[rows]
    assert (made - sources).square().mean() < 0.1 * (sources - sources.roll(7, 0)).square().mean()
    assert not torch.equal(made, sources)
    again, other = (counterfactuals(pool, axis, same, seed=seed)[0] for seed in (3, 4))
    assert torch.equal(again, made)
    assert other.shape != made.shape or not torch.equal(other, made)
    direction = pool.direction(axis)
    for z in moved:
        steps = z - pool.z[: len(z)]
        along = steps @ direction / direction.square().sum()
        torch.testing.assert_close(steps, along[:, None] * direction, rtol=1e-3, atol=1e-4)


def test_constrain_is_obeyed(drawn, linear):
    x = drawn[0]
    middle = FaceMiddle(x)
    pool = Pool(x, middle, linear.encode, linear.generate, count=20)
    features = middle.features(x)
    axis = ClassAxis(middle, features[:20], features[20:])
    generated = []
    pool.generate = lambda z: generated.append(z) or linear.generate(z)
    counterfactuals(pool, axis, lambda z: z.clamp(-0.5, 0.5))
    assert torch.cat(generated).abs().max() == 0.5
    faces = Unlabelled(x, linear.encode)
    person = augment_person(x[:3], faces, linear.encode, linear.generate, lambda z: z.clamp(-0.5, 0.5), 4,
                            min_identity=0)  # fmt: skip
    assert max(row["latent"].abs().max().item() for row in person.rows) <= 0.5


def test_person_is_varied_and_gated(drawn, linear):
    x, _, identity = drawn
    mine = x[torch.as_tensor(identity == identity[0])][:4]
    call = (mine, Unlabelled(x, linear.encode), linear.encode, linear.generate, same)
    open_gates = dict(min_identity=0, min_quality=0)
    free = augment_person(*call, 20, strength=0.5, face_strength=1, **open_gates)
    assert free.pictures.shape == (20, 3, 32, 32) and free.pictures.abs().max() <= 1 and not free.rejected
    assert [row["source"] for row in free.rows] == [i % 4 for i in range(20)]
    assert [row["mirrored"] for row in free.rows] == [i // 4 % 2 == 1 for i in range(20)]
    for row, picture in zip(free.rows, free.pictures, strict=True):
        source = mine[row["source"]].flip(2) if row["mirrored"] else mine[row["source"]]
        z = linear.encode(source[None])[0]
        torch.testing.assert_close(row["latent"], z + row["step"], rtol=1e-3, atol=1e-3)
        expected = changed(source[None], *(linear.generate(latent[None]) for latent in (z, row["latent"])))[0]
        torch.testing.assert_close(picture, expected, rtol=1e-3, atol=1e-3)
        assert 0 <= row["identity"] <= 1 and 0 <= row["quality"] <= 1
    known = augment_person(*call, 20, strength=0.5, face_strength=1, **open_gates)
    assert torch.equal(known.pictures, free.pictures)
    # The face itself may be held back, hair and background not; what is clamped says nothing.
    held = augment_person(*call, 20, strength=0.5, face_strength=0.25, **open_gates)
    sources = torch.cat([mine, mine.flip(3)])[torch.arange(20) % 8]
    drawn, taken = ((made.pictures - sources) * (free.pictures.abs() < 1) for made in (free, held))
    torch.testing.assert_close(taken[:, :, :4], drawn[:, :, :4], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(taken[:, :, 16:22, 13:19], drawn[:, :, 16:22, 13:19] / 4, rtol=1e-3, atol=1e-3)
    assert drawn[:, :, 16:22, 13:19].abs().max() > 0.1
    # Twice the strength moves twice as far; strong changes fail the gates, which count what they refuse.
    far = augment_person(*call, 20, strength=1.0, **open_gates)
    torch.testing.assert_close(far.rows[0]["step"], 2 * free.rows[0]["step"], rtol=1e-3, atol=1e-3)
    gated = augment_person(*call, 20, strength=1.5, face_strength=1, min_identity=0.9, min_quality=0.2)
    assert set(gated.rejected) == {"another person", "not like a face"}
    assert all(row["identity"] >= 0.9 and row["quality"] >= 0.2 for row in gated.rows)
    assert gated.rejected.total() + len(gated.rows) >= 20
    none = augment_person(*call, 3, min_identity=1.1)
    assert len(none.pictures) == len(none.rows) == 0 and none.rejected["another person"] >= 30


def test_attribute_reader_reads_and_tells_what_varied(drawn):
    x, attributes, _ = drawn
    reader = AttributeReader(x, attributes, FaceMiddle(x), LinearFaces(x), ["Smiling", "Male"])
    found = reader.accuracy(x, attributes)
    assert min(found.values()) > 0.9  # the faces it was fitted on
    kept = reader.varied(x[:10], x[:10])
    assert kept == {"Smiling": (0.0, 0.0), "Male": (0.0, 0.0)}
    smiling = torch.as_tensor(attributes[:, ATTRIBUTES.index("Smiling")] > 0)
    count = min(int(smiling.sum()), int((~smiling).sum()))
    swapped = reader.varied(x[smiling][:count], x[~smiling][:count])
    assert swapped["Smiling"][0] > 0.8 and swapped["Smiling"][1] > 0.5


def test_classical_augmentation():
    random = torch.Generator().manual_seed(0)
    x = torch.rand(64, 3, 24, 24, generator=random) - 0.5
    plain = evaluation.classical(x, 0.0, random)
    mirrored, kept = ((plain - y).flatten(1).abs().max(1).values < 1e-5 for y in (x.flip(3), x))
    assert (mirrored | kept).all() and 16 < mirrored.sum() < 48
    strong = evaluation.classical(x, 0.9, random)
    assert strong.abs().max() <= 1
    assert (strong.mean((2, 3)) - x.mean((2, 3))).abs().mean() > 0.2


def test_classifier_learns_repeats_itself_and_takes_made_pictures():
    random = torch.Generator().manual_seed(0)
    x = torch.rand(120, 3, 24, 24, generator=random) - 0.5
    y = torch.arange(120) < 60
    x[:60, :, 14:18, 8:16] += 0.5  # a bright mouth
    net = evaluation.fit_classifier(x[40:80], y[40:80], 0, colour=0.1, steps=60)
    assert sum(p.numel() for p in net.parameters()) == 24273
    assert balanced(evaluation.look(net, x), y) > 0.9
    before = torch.random.get_rng_state()
    again = evaluation.fit_classifier(x[40:80], y[40:80], 0, colour=0.1, steps=60)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
    # Labels of the real pictures that say nothing, made pictures that say it: learned from those.
    blind = torch.arange(40) % 2 == 0
    taught = evaluation.fit_classifier(x[40:80], blind, 0, colour=0.1, steps=60, made=(x, y), share=0.75)
    untaught = evaluation.fit_classifier(x[40:80], blind, 0, colour=0.1, steps=60)
    assert balanced(evaluation.look(taught, x), y) > 0.85
    assert balanced(evaluation.look(untaught, x), y) < 0.75


def test_numbers_by_hand():
    assert balanced(torch.tensor([1.0, -1, -1, -1]), torch.tensor([True, True, False, False])) == 0.75
    assert summary.student_quantile(19) == pytest.approx(2.0930, abs=1e-3)
    assert summary.student_quantile(4) == pytest.approx(2.7764, abs=1e-3)
    mean, half = summary.interval([1.0, 2, 3, 4, 5])
    assert mean == 3 and half == pytest.approx(2.7764 * math.sqrt(2.5) / math.sqrt(5), abs=1e-3)
    few = evaluation.pick_few(torch.arange(50) % 3 == 0, 4, seed=1)
    assert len(set(few.tolist())) == 8
    assert (few[:4] % 3 == 0).all() and (few[4:] % 3 != 0).all()
    assert not torch.equal(few, evaluation.pick_few(torch.arange(50) % 3 == 0, 4, seed=2))


def test_summary_and_verdicts():
    results = [dict(attribute="Smiling", count=10, seed=seed, arm=arm, accuracy=value, pairs=int(value > 0.66))
               for arm, values in {"none": [0.5, 0.51, 0.49], "classical": [0.6, 0.62, 0.61],
                                   "generator": [0.66, 0.67, 0.67], "axis alone": [0.5, 0.8, 0.6]}.items()
               for seed, value in enumerate(values)]  # fmt: skip
    rows = {row["arm"]: row for row in summary.summarise(results)}
    assert {arm: row["helps"] for arm, row in rows.items()} == {"none": "no", "classical": "", "generator": "yes",
                                                                "axis alone": "open"}  # fmt: skip
    assert rows["generator"]["gain"] == pytest.approx((0.06 + 0.05 + 0.06) / 3)
    half = 4.3027 * np.std([0.06, 0.05, 0.06], ddof=1) / math.sqrt(3)
    assert rows["generator"]["gain_half"] == pytest.approx(half, rel=1e-3)
    text = summary.as_text(list(rows.values()))
    assert len(text) == 5 and "+5.7" in text[3] and text[3].split()[-2:] == ["yes", "67%"]


def test_every_arm_is_measured_and_drawn(drawn, linear, tmp_path):
    x, attributes, _ = drawn
    call = (x[:64], attributes[:64]), (x[64:], attributes[64:]), (linear.encode, linear.generate, same, pixels)
    results = evaluation.measure(*call, names=("Smiling", "Male"), counts=(3, 6), seeds=2, steps=8)
    assert len(results) == 2 * 2 * 2 * len(summary.ARMS)
    assert all(0 <= row["accuracy"] <= 1 for row in results)
    again = evaluation.measure(*call, names=("Smiling",), counts=(3,), seeds=2, steps=8)
    assert again == [row for row in results if row["attribute"] == "Smiling" and row["count"] == 3]
    rows = summary.summarise(results)
    assert len(rows) == 4 * len(summary.ARMS) and {row["seeds"] for row in rows} == {2}
    summary.draw_chart(tmp_path / "chart.png", rows)
    chart = np.asarray(Image.open(tmp_path / "chart.png").convert("RGB"))
    summary.draw_chart(tmp_path / "wide.png", [row | dict(count=count) for row in rows for count in range(8)])
    with Image.open(tmp_path / "wide.png") as wide:
        assert wide.width > chart.shape[1] + 2 * 250, "a panel has room for all of its counts"
    summary.draw_chart(tmp_path / "one.png", [row for row in rows if row["attribute"] == "Male"])
    assert (np.asarray(Image.open(tmp_path / "one.png").convert("RGB"))[-20:, -4:] == 255).all(), "the legend is whole"
    for name in summary.COLOURS:  # a line of every arm is there
        assert (chart == [int(name[i : i + 2], 16) for i in (1, 3, 5)]).all(2).sum() > 50


def test_pairs_are_taken_where_the_few_say_that_they_help(drawn, linear, monkeypatch):
    """Pairs of right labels are, those of wrong ones are not; without any that could be left out nothing is known, nor
    where both rank alike.
    """
    x, attributes, _ = drawn
    faces, networks = (x[:64], attributes[:64]), (linear.encode, linear.generate, same, pixels)
    smiling = torch.as_tensor(attributes[:, ATTRIBUTES.index("Smiling")] > 0)
    arms = dict(names=("Smiling",), seeds=3, arms=("classical", "generator", "chosen"), steps=60)

    def pairs(pool, right):
        """The pool's faces themselves, with the labels that they have in the annotation, or with the others."""
        rows = torch.cdist(pool.x.flatten(1), x.flatten(1)).argmin(1)
        return pool.x, smiling[rows] == right

    for right, count in ((True, 8), (False, 8), (True, 1)):
        monkeypatch.setattr(evaluation, "counterfactuals", lambda pool, *_, right=right, **__: pairs(pool, right))
        results = evaluation.measure(faces, (x[64:], attributes[64:]), networks, counts=(count,), **arms)
        found = {arm: [row for row in results if row["arm"] == arm] for arm in arms["arms"]}
        helps = right and count > 1
        assert [row["pairs"] for row in found["chosen"]] == [int(helps)] * 3
        accuracies = {arm: [row["accuracy"] for row in rows] for arm, rows in found.items()}
        assert accuracies["chosen"] == accuracies["generator" if helps else "classical"]
    monkeypatch.setattr(evaluation, "ranked", lambda *_: 0.75)
    results = evaluation.measure(faces, (x[64:], attributes[64:]), networks, counts=(8,), **arms)
    assert not any(row["pairs"] for row in results if row["arm"] == "chosen")


def test_ranks_by_hand():
    assert evaluation.ranked(torch.tensor([3.0, 1, 2, 1]), torch.tensor([True, True, False, False])) == 2.5 / 4


def test_everything_is_where_the_pictures_are(drawn, linear):
    """A GPU, say: tensors that are made without naming a device are on another here, and would not fit the rest."""
    x, attributes, _ = drawn
    with torch.device("meta"):
        call = (x[:64], attributes[:64]), (x[64:], attributes[64:]), (linear.encode, linear.generate, same, pixels)
        results = evaluation.measure(*call, names=("Smiling",), counts=(3,), seeds=1, steps=4)
        made = augment_person(x[:3], Unlabelled(x, linear.encode), *call[2][:3], 4, min_identity=0, min_quality=0)
        reader = AttributeReader(x, attributes, FaceMiddle(x), LinearFaces(x), ["Smiling"])
        assert reader.accuracy(x, attributes)["Smiling"] > 0.9
    assert len(results) == len(summary.ARMS) and len(made.rows) == 4


def test_the_discriminator_teaches(drawn, linear):
    """Where its maps tell the classes apart, three of each are enough for the axis; where they are noise, they are not
    enough.
    """
    x, attributes, _ = drawn
    smiling = torch.as_tensor(attributes[:, ATTRIBUTES.index("Smiling")] > 0).float()
    known = torch.cat([x, x.flip(3)]).flatten(1)

    def telling(p):
        nearest = torch.cdist(p.flatten(1), known).argmin(1) % len(x)
        return [smiling[nearest][:, None, None, None].expand(-1, 2, 4, 4) + 0.01 * p[:, :2, :4, :4]]

    networks = linear.encode, linear.generate, same
    found = [
        evaluation.measure((x[:64], attributes[:64]), (x[64:], attributes[64:]), (*networks, maps), names=("Smiling",),
                           counts=(3,), seeds=3, steps=8, arms=("axis alone",))
        for maps in (telling, lambda p: [p[:, :2, :4, :4]])
    ]  # fmt: skip
    told, untold = ([row["accuracy"] for row in rows if row["arm"] == "axis alone"] for rows in found)
    assert min(told) > 0.95 and sum(untold) / 3 < 0.8


def test_few_labels_alone_matter(drawn, linear):
    """No label but those of the few reaches any arm: all others may be turned round, and nothing changes."""
    x, attributes, _ = drawn
    column = ATTRIBUTES.index("Smiling")
    few = evaluation.pick_few(torch.as_tensor(attributes[:64, column] > 0), 5, 0).tolist()
    hidden = attributes.copy()
    seen = np.zeros(len(hidden), bool)
    seen[few], seen[64:] = True, True
    hidden[~seen] = 1 - hidden[~seen]
    for picked in (attributes, hidden):
        picked.flags.writeable = False
    settings = dict(names=("Smiling",), counts=(5,), seeds=1, steps=8)
    original = evaluation.pick_few
    evaluation.pick_few = lambda y, count, seed: torch.tensor(few)
    try:
        networks = linear.encode, linear.generate, same, pixels
        first, second = (
            evaluation.measure((x[:64], table[:64]), (x[64:], table[64:]), networks, **settings)
            for table in (attributes, hidden)
        )
    finally:
        evaluation.pick_few = original
    assert first == second
