"""Gain and noise: their distribution, where they apply, what is refused."""

import pytest
import torch

from robustprune.measure.corruptions import add_noise, scale_amplitude


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
