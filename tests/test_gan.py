"""What the GAN projects share (tests/test_parallel.py proves the copies equal): diversity, distance, augmentation."""

import pytest
import torch
import torch.nn.functional as F

from common.celeba import FULL, MAKEOVER, SQUARE, CelebA, pack, to_tensor
from face_math.gan import adapt, augmentation, by_heart, diff_augment, diversity, face_distance, score


def pictures(count=64, size=64):
    """Soft random pictures (count, 3, size, size) in [-1, 1]."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return F.interpolate(coarse, (size, size), mode="bilinear")


def test_diversity_is_one_for_real_pictures_and_near_zero_for_one_picture():
    x = pictures()
    assert diversity(x, x) == pytest.approx(1)
    assert diversity(x * 0.5, x) == pytest.approx(0.5)
    assert diversity(x[:1].expand(64, -1, -1, -1) + 0.001 * torch.randn(64, 3, 64, 64), x) < 0.01


def test_face_distance_tells_faces_from_what_is_less_of_a_face(crowd, tmp_path):
    """About 0 for two sets of faces; blurred, noisy, coloured ones, the same one always, upside down: farther."""
    records = pack(CelebA(crowd), tmp_path, SQUARE, (64, 64), 0, progress=False)
    x = to_tensor(records.images)
    x, other = x[::2], x[1::2]
    same = face_distance(other, x)
    assert abs(same) < 0.5
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    worse = {
        "blurred": F.avg_pool2d(other, 5, 1, 2),
        "noisy": other + 0.2 * noise,
        "coloured": other + torch.tensor([0.9, 0, 0]).view(3, 1, 1),
        "one face, again and again": other[:1] + 0.01 * noise,
        "upside down": other.flip(2),
    }
    for name, x_fake in worse.items():
        assert face_distance(x_fake, x) > same + 1, name
    assert face_distance(worse["upside down"], x) > 100 * face_distance(worse["noisy"], x)


def test_face_distance_finds_the_face_in_every_crop(crowd, tmp_path):
    """The same faces in other crops of CelebA's pictures: nobody is farther than half a face would be."""
    for crop, size in ((FULL, (109, 89)), (MAKEOVER, (100, 80))):
        x = to_tensor(pack(CelebA(crowd), tmp_path, crop, size, 0, progress=False).images)
        near = face_distance(x[1::2], x[::2], crop)
        assert abs(near) < 0.5 and face_distance(x[1::2].roll(size[1] // 3, 3), x[::2], crop) > near + 10


def numbers(**values):
    """The (7, 1) random numbers of one picture: those that change nothing, but for the values given."""
    names = ("brightness", "saturation", "contrast", "right", "down", "hole_x", "hole_y")
    still = dict.fromkeys(names, 0.5) | dict(hole_x=-9.0, hole_y=-9.0) | values
    return torch.tensor([[still[name]] for name in names])


def test_diff_augment_changes_colour_place_and_a_hole_as_the_numbers_say():
    x = pictures(1)
    assert torch.allclose(diff_augment(x, numbers()), x, atol=1e-6)
    assert torch.allclose(diff_augment(x, numbers(brightness=0.75)), x + 0.25, atol=1e-6)
    grey = x.mean(1, keepdim=True).expand_as(x)
    assert torch.allclose(diff_augment(x, numbers(saturation=0.0)), grey, atol=1e-6)
    assert torch.allclose(diff_augment(x, numbers(contrast=1.0)), (x - x.mean()) * 1.5 + x.mean(), atol=1e-5)

    moved = diff_augment(x, numbers(right=1.0, down=0.0))  # 8 pixels to the right, 8 up
    assert torch.allclose(moved[:, :, :-8, 8:], x[:, :, 8:, :-8], atol=1e-6)
    assert moved[:, :, -8:].abs().max() == 0 and moved[:, :, :, :8].abs().max() == 0

    holed = diff_augment(x, numbers(hole_x=0.5, hole_y=0.5))
    changed = (holed != diff_augment(x, numbers())).any(1)[0]
    assert changed[17:48, 17:48].all() and changed.sum() == 31 * 31


def test_diff_augment_lets_the_gradient_through():
    x = pictures(4).requires_grad_()
    diff_augment(x, torch.rand(7, 4, generator=torch.Generator().manual_seed(1))).square().sum().backward()
    assert all(x.grad[i].abs().sum() > 0 for i in range(4))


def test_no_picture_one_in_so_many_or_every_one_is_augmented():
    x = pictures(256, 16)
    for share in (0.0, 0.3, 1.0):
        torch.manual_seed(0)
        drawn = augmentation(torch.tensor(share), 2, 256)
        assert drawn.shape == (2, 7, 256)
        changed = (diff_augment(x, drawn[0]) - x).abs().amax((1, 2, 3)) > 1e-5
        assert changed.float().mean().item() == pytest.approx(share, abs=0.1)


def test_more_is_augmented_only_while_training_pictures_seem_more_real_than_validation_ones():
    share = torch.zeros(())
    heart, not_heart = torch.tensor([[2.0, -1.0, -2.0], [2.0, 2.1, -2.0]])  # training, validation, generated
    for _ in range(100):
        adapt(share, by_heart(*heart), 500)
    assert share.item() == pytest.approx(0.5, abs=1e-4)
    for _ in range(300):
        adapt(share, by_heart(*not_heart), 500)
    assert share.item() == 0
    fixed = torch.tensor([1.0, 0.75, 0.0])  # a quarter of what is told apart: not yet by heart
    assert by_heart(torch.zeros(1), torch.zeros(1), torch.ones(1)) < 0, "one that loses"
    assert by_heart(*fixed.split(1)) < 0 < by_heart(*torch.tensor([1.0, 0.6, 0.0]).split(1))


def test_a_distance_that_tells_nothing_does_not_rank():
    assert score(0.01) == score(-0.2) == score(0.4) < score(0.6) < score(3.0)
