"""Common corruptions of images, without an adversary, with the constants of CIFAR-10-C.

Hendrycks & Dietterich 2019, arXiv 1903.12261: noise of the sensor, light, and lossy files. Images
that are made here are not the data set CIFAR-10-C, whose arrays were drawn once by its authors.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def gaussian_noise(x: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Add N(0, σ²) to each value of images (N, C, H, W) in [0, 1], and clip."""
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return (x + sigma * noise).clamp(0, 1)


def shot_noise(x: Tensor, photons: float, generator: torch.Generator) -> Tensor:
    """Count photons: x' = Poisson(λx)/λ, clipped, with λ photons for a value of 1."""
    return (torch.poisson(photons * x, generator=generator) / photons).clamp(0, 1)


def impulse_noise(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Set a share of the values to 0 or to 1, each with the same probability (salt and pepper)."""
    draw = torch.rand(x.shape, generator=generator, device=x.device)
    return torch.where(draw < share / 2, 0.0, torch.where(draw < share, 1.0, x))


def contrast(x: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    """Shrink each channel towards its mean m: x' = m + c (x − m), clipped."""
    mean = x.mean((2, 3), keepdim=True)
    return (mean + factor * (x - mean)).clamp(0, 1)


def brightness(x: Tensor, more: float, generator: torch.Generator) -> Tensor:
    """Add c to the value V = max over channels of each pixel in HSV, at most 1: x' = x V'/V."""
    value = x.amax(1, keepdim=True)
    brighter = (value + more).clamp(max=1)
    # a black pixel has no hue: it becomes grey
    return torch.where(value > 0, x * brighter / value.clamp(min=1e-12), brighter).clamp(0, 1)


def pixelate(x: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """Scale down to a share of the side by a box filter, and up again."""

    def smaller(image: Image.Image) -> Image.Image:
        wide, high = image.size
        small = max(1, int(wide * size)), max(1, int(high * size))
        box = Image.Resampling.BOX
        return image.resize(small, box).resize((wide, high), box)

    return _by_pictures(x, smaller)


def jpeg(x: Tensor, quality: float, generator: torch.Generator) -> Tensor:
    """Save and load as JPEG of a quality in percent."""

    def saved(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(quality))
        return Image.open(file)

    return _by_pictures(x, saved)


#: each corruption of images in [0, 1], and its constants at the severities 1 to 5
IMAGES: dict[str, tuple[Callable[[Tensor, float, torch.Generator], Tensor], tuple[float, ...]]] = {
    "gaussian noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot noise": (shot_noise, (500, 250, 100, 75, 50)),
    "impulse noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg": (jpeg, (80, 65, 58, 50, 40)),
}


def _by_pictures(x: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Change each picture in 8 bits: with 3 channels in colour, else each channel in grey."""
    bits = (x * 255).round().clamp(0, 255).to(torch.uint8).cpu()
    coloured = x.shape[1] == 3
    planes = bits.permute(0, 2, 3, 1) if coloured else bits.flatten(0, 1)
    changed = [np.asarray(change(Image.fromarray(plane.numpy()))) for plane in planes]
    found = torch.from_numpy(np.stack(changed))
    found = found.permute(0, 3, 1, 2) if coloured else found.view(x.shape)
    return (found.to(x.dtype) / 255).to(x.device)
