"""What the GAN projects share (tests/test_parallel.py proves the copies equal): diversity, distance, augmentation."""

import pytest
import torch
import torch.nn.functional as F

from face_math.gan import diff_augment, diversity, sliced_wasserstein


def pictures(count=64, size=64):
    """Soft random pictures (count, 3, size, size) in [-1, 1]."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return F.interpolate(coarse, (size, size), mode="bilinear")


def test_diversity_is_one_for_real_pictures_and_near_zero_for_one_picture():
    x = pictures()
    assert diversity(x, x) == pytest.approx(1)
    assert diversity(x * 0.5, x) == pytest.approx(0.5)
    assert diversity(x[:1].expand(64, -1, -1, -1) + 0.001 * torch.randn(64, 3, 64, 64), x) < 0.01


def test_sliced_wasserstein_grows_with_blur_noise_and_colour():
    x, other = pictures(512)[:256], pictures(512)[256:]
    assert sliced_wasserstein(x, x) == 0
    same = sliced_wasserstein(other, x)
    assert sliced_wasserstein(F.avg_pool2d(other, 9, 1, 4), x) > 1.5 * same
    assert sliced_wasserstein(other + 0.1 * torch.randn(x.shape), x) > 3 * same
    assert sliced_wasserstein(other + torch.tensor([0.5, 0, 0]).view(3, 1, 1), x) > 1.3 * same
    assert sliced_wasserstein(other[:1].expand(256, -1, -1, -1), x) > 3 * same, "one picture, again and again"
    assert sliced_wasserstein(x[:, :, :50, :40], x[:, :, :50, :40]) == 0, "pictures need not be square"


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
