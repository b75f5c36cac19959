"""Corruptions of series and images: their moments, where they apply, what is refused."""

import colorsys

import pytest
import torch
from torch import Tensor, nn

from robustprune.measure import SEVERITIES, corrupt, corruption_names, shifted
from robustprune.measure.corruptions import (
    add_drift,
    add_noise,
    drop_out,
    scale_amplitude,
    warp_time,
)
from robustprune.measure.image_corruptions import IMAGES


def test_each_channel_gets_one_gain_within_the_spread() -> None:
    x = torch.randn(200, 3, 5, generator=torch.Generator().manual_seed(0)).double() + 10
    out = scale_amplitude(x, 0.25, torch.Generator().manual_seed(1))
    gain = out / x
    torch.testing.assert_close(gain, gain[..., :1].expand_as(gain))
    assert gain.min() >= 0.75
    assert gain.max() <= 1.25
    assert len(gain[..., 0].unique()) > 500
    # uniform on ±0.25: standard deviation 0.25/√3, of 600 draws
    assert abs(gain[..., 0].std().item() - 0.25 / 3**0.5) < 0.01
    assert abs(gain[..., 0].mean().item() - 1) < 0.03


def test_noise_is_white_and_of_the_given_size() -> None:
    x = torch.zeros(50, 2, 100, dtype=torch.float64)
    noise = add_noise(x, 0.3, torch.Generator().manual_seed(0))
    assert abs(noise.std().item() - 0.3) < 0.01
    assert abs(noise.mean().item()) < 0.015
    power = torch.fft.rfft(noise).abs().square().mean((0, 1))
    assert power.min() > 0.5 * power.mean()


def test_nothing_changes_at_zero() -> None:
    x = torch.randn(2, 1, 4)
    assert torch.equal(scale_amplitude(x, 0.0), x)
    assert torch.equal(add_noise(x, 0.0), x)


def test_refusals() -> None:
    x = torch.zeros(2, 1, 4)
    with pytest.raises(ValueError, match=r"spread=-1 must be finite and at least 0"):
        scale_amplitude(x, -1)
    with pytest.raises(ValueError, match=r"sigma=inf must be finite"):
        add_noise(x, float("inf"))
    with pytest.raises(ValueError, match=r"of shape \(2, 4\); give series"):
        add_noise(x[:, 0], 0.1)


def test_drift_is_a_line_of_the_given_size_and_of_either_sign() -> None:
    x = torch.randn(40, 2, 9, dtype=torch.float64)
    apart = add_drift(x, 0.7, torch.Generator().manual_seed(0)) - x
    torch.testing.assert_close(apart[..., 0], torch.zeros(40, 2, dtype=torch.float64))
    torch.testing.assert_close(apart[..., -1].abs(), torch.full((40, 2), 0.7, dtype=torch.float64))
    assert apart.diff(n=2, dim=2).abs().max() < 1e-12
    assert 20 < (apart[..., -1] > 0).sum() < 60


def test_dropout_takes_a_share_and_leaves_the_mean() -> None:
    x = torch.randn(50, 2, 200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    out = drop_out(x, 0.2, torch.Generator().manual_seed(0))
    lost = out != x
    assert abs(lost.double().mean().item() - 0.2) < 0.01
    torch.testing.assert_close(out[lost], x.mean(2, keepdim=True).expand_as(x)[lost])


def test_a_warp_keeps_the_ends_and_the_order_of_time() -> None:
    x = torch.linspace(0, 1, 101, dtype=torch.float64).expand(30, 2, 101)
    out = warp_time(x, 0.6, torch.Generator().manual_seed(0))  # of x(t) = t it is w(t) itself
    torch.testing.assert_close(out[..., [0, -1]], x[..., [0, -1]])
    assert out.diff(dim=2).min() > 0
    assert torch.equal(out[:, 0], out[:, 1])
    slopes = out.diff(dim=2) * 100
    assert 0.39 < slopes.min() < 0.45
    assert 1.55 < slopes.max() < 1.61


def test_noise_shot_and_impulse_have_their_moments() -> None:
    x = torch.full((4, 3, 64, 64), 0.4)
    noisy = corrupt(x, "gaussian noise", 5)
    assert abs(noisy.std().item() - 0.1) < 0.002
    assert abs(noisy.mean().item() - 0.4) < 0.002
    counted = corrupt(x, "shot noise", 5)
    assert abs(counted.mean().item() - 0.4) < 0.002
    # the variance of a Poisson variable is its mean
    assert abs(counted.var().item() - 0.4 / 50) < 0.0003
    torch.testing.assert_close(counted * 50, (counted * 50).round())
    salted = corrupt(x, "impulse noise", 5)
    assert abs((salted == 0).double().mean().item() - 0.035) < 0.003
    assert abs((salted == 1).double().mean().item() - 0.035) < 0.003
    assert set(salted.unique().tolist()) == {0.0, x[0, 0, 0, 0].item(), 1.0}


def test_contrast_shrinks_and_brightness_adds_in_hsv() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 3, 8, 8, generator=generator)
    grey = corrupt(x, "contrast", 2)
    centre = x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(grey - centre, 0.5 * (x - centre))
    x[0, :, 0, 0] = 0.0  # black
    bright = corrupt(x, "brightness", 4)
    for pixel, after in zip(
        x[0].flatten(1).T.tolist(), bright[0].flatten(1).T.tolist(), strict=True
    ):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        assert after == pytest.approx(colorsys.hsv_to_rgb(h, s, min(v + 0.2, 1.0)), abs=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_pixelate_is_a_mean_of_boxes_and_jpeg_loses_more_at_lower_quality(channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, channels, 16, 24, generator=generator)
    blocks = torch.nn.functional.avg_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert (IMAGES["pixelate"][0](x, 0.5, generator) - blocks).abs().max() < 1.6 / 255
    lost = [(corrupt(x, "jpeg", s) - x).abs().mean().item() for s in SEVERITIES]
    assert lost == sorted(lost)
    assert lost[0] > 0.02
    flat = torch.full((1, channels, 16, 16), 51 / 255)
    for name in ("pixelate", "jpeg"):
        assert (corrupt(flat, name, 5) - flat).abs().max() < 1.1 / 255


@pytest.mark.parametrize("shape", [(6, 3, 16, 16), (6, 1, 9, 7), (6, 2, 30)])
def test_more_severe_is_further_away_repeatable_and_valid(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    for name in corruption_names(x):
        out = [corrupt(x, name, s) for s in SEVERITIES]
        away = [(one - x).square().mean().item() for one in out]
        assert 0 < away[0] < away[-1], name
        assert torch.equal(out[2], corrupt(x, name, 3))
        assert out[0].shape == x.shape
        assert out[0].dtype == x.dtype
        if x.dim() == 4:
            assert 0 <= min(one.min() for one in out) <= max(one.max() for one in out) <= 1


def test_accuracy_falls_where_the_corruption_removes_what_the_network_reads() -> None:
    """The class is the sign of the mean, which gain and noise keep and large drift does not."""

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = x.mean((1, 2))
            return torch.stack((-mean, mean), dim=1)

    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 2
    x = torch.randn(60, 1, 50, generator=generator) + (2.0 * y[:, None, None] - 1) * 0.3
    found = shifted(Mean(), x, y, batch_size=17)
    assert found.accuracy("amplitude", 5).value == 1.0
    assert found.accuracy("dropout", 1).value > 0.9
    assert found.accuracy("drift", 5).value < 0.7
    assert found.clean.all()
    rest = [found.corrupted[name].double().mean().item() for name in corruption_names(x)]
    assert found.mean == pytest.approx(sum(rest) / 5)
    assert "worst drift=" in repr(found)


def test_refusals_of_shapes_and_names() -> None:
    with pytest.raises(ValueError, match=r"no corruption 'fog' for .* gaussian noise, shot noise"):
        corrupt(torch.rand(1, 1, 4, 4), "fog", 1)
    with pytest.raises(ValueError, match="severity=6 must be"):
        corrupt(torch.rand(1, 1, 4), "noise", 6)
    with pytest.raises(ValueError, match=r"must lie within \[0, 1\]"):
        corrupt(torch.rand(1, 1, 4, 4) + 1, "contrast", 1)
    with pytest.raises(ValueError, match="only for images"):
        shifted(nn.Linear(3, 2), torch.rand(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="size=1 must be below 1"):
        warp_time(torch.rand(1, 1, 4), 1)
    with pytest.raises(ValueError, match=r"share=1.5 must be at most 1"):
        drop_out(torch.rand(1, 1, 4), 1.5)
