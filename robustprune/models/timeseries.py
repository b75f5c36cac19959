"""Convolutional networks for series (N, C, L): FCN, ResNet, and a tiny one for sensors."""

from collections import OrderedDict

from torch import Tensor, nn

from robustprune.models.blocks import GlobalAveragePool


class FCN(nn.Module):
    """Fully convolutional network of Wang et al., IJCNN 2017, arXiv 1611.06455.

    Three blocks of convolution, batch norm and ReLU keep the length; the mean over time and a
    linear layer follow. Convolutions have no bias, because batch norm follows them.

    Args:
        in_channels: C, the number of channels of a series.
        num_classes: the number of logits per series.
        widths: the number of output channels of each block.
        kernels: the kernel length of each block, in time steps.
        affine_norm: whether batch norm learns a scale and a shift; use False for scratch tickets.

    Shapes: (N, C, L) -> (N, num_classes), for any L.

    Raises:
        ValueError: `widths` and `kernels` have different lengths, or a number is below 1.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        widths: tuple[int, ...] = (128, 256, 128),
        kernels: tuple[int, ...] = (8, 5, 3),
        affine_norm: bool = True,
    ) -> None:
        super().__init__()
        if not widths or len(widths) != len(kernels):
            raise ValueError(
                f"widths {widths} and kernels {kernels} must have the same length, at least 1"
            )
        if min(*widths, *kernels) < 1:
            raise ValueError(f"widths {widths} and kernels {kernels} must be at least 1")
        inputs = (in_channels, *widths[:-1])
        self.blocks = nn.Sequential(
            *(
                _block(before, after, kernel, affine_norm)
                for before, after, kernel in zip(inputs, widths, kernels, strict=True)
            )
        )
        self.pool = GlobalAveragePool()
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(self.blocks(x)))
        return logits


class ResidualBlock(nn.Module):
    """Compute relu(F(x) + shortcut(x)).

    F has three convolutions with kernels of length 8, 5 and 3. Batch norm follows each of them, and
    ReLU follows the first two. The shortcut is batch norm, with a 1x1 convolution before it where
    the number of channels changes.

    Shapes: (N, in_channels, L) -> (N, out_channels, L).
    """

    def __init__(self, in_channels: int, out_channels: int, *, affine_norm: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _block(in_channels, out_channels, 8, affine_norm),
            _block(out_channels, out_channels, 5, affine_norm),
            _block(out_channels, out_channels, 3, affine_norm, relu=False),
        )
        if in_channels == out_channels:
            self.shortcut = nn.Sequential(nn.BatchNorm1d(out_channels, affine=affine_norm))
        else:
            self.shortcut = _block(in_channels, out_channels, 1, affine_norm, relu=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.layers(x) + self.shortcut(x))
        return out


class ResNet(nn.Sequential):
    """Residual network for series of Wang et al., IJCNN 2017, arXiv 1611.06455.

    It has a `ResidualBlock` for each width, the mean over time, and a linear layer.

    Args:
        in_channels: C, the number of channels of a series.
        num_classes: the number of logits per series.
        widths: the number of output channels of each block.
        affine_norm: whether batch norm learns a scale and a shift; use False for scratch tickets.

    Shapes: (N, C, L) -> (N, num_classes), for any L.

    Raises:
        ValueError: `widths` is empty, or a width is below 1.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        widths: tuple[int, ...] = (64, 128, 128),
        affine_norm: bool = True,
    ) -> None:
        super().__init__()
        _check_widths(widths)
        before = in_channels
        self.blocks = nn.Sequential()
        for after in widths:
            self.blocks.append(ResidualBlock(before, after, affine_norm=affine_norm))
            before = after
        self.pool = GlobalAveragePool()
        self.classifier = nn.Linear(before, num_classes)


class TinyCNN(nn.Sequential):
    """A small network for microcontrollers: 6,050 parameters for one channel and two classes.

    It has a convolution with stride 2, batch norm and ReLU for each width, then the mean over time
    and a linear layer. Batch norm can be folded into the convolutions, and every other layer has an
    int8 kernel.

    Args:
        in_channels: C, the number of channels of a series.
        num_classes: the number of logits per series.
        widths: the number of output channels of each block; each block halves the length.
        kernel: the length of the kernels, odd, in time steps.
        affine_norm: whether batch norm learns a scale and a shift; use False for scratch tickets.

    Shapes: (N, C, L) -> (N, num_classes), for any L.

    Raises:
        ValueError: `widths` is empty, a width is below 1, or `kernel` is even.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        widths: tuple[int, ...] = (16, 24, 32),
        kernel: int = 5,
        affine_norm: bool = True,
    ) -> None:
        super().__init__()
        _check_widths(widths)
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel {kernel} must be odd and at least 1")
        before = in_channels
        self.blocks = nn.Sequential()
        for after in widths:
            self.blocks.append(_block(before, after, kernel, affine_norm, stride=2))
            before = after
        self.pool = GlobalAveragePool()
        self.classifier = nn.Linear(before, num_classes)


def same_conv(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1
) -> list[tuple[str, nn.Module]]:
    """Return a named convolution without bias that keeps the length (divided by the stride)."""
    if kernel % 2:
        padding = kernel // 2
        conv = nn.Conv1d(
            in_channels, out_channels, kernel, stride=stride, padding=padding, bias=False
        )
        return [("conv", conv)]
    # An even kernel needs one more zero on the right, as in the reference implementation.
    pad = nn.ZeroPad1d(((kernel - 1) // 2, kernel // 2))
    return [
        ("pad", pad),
        ("conv", nn.Conv1d(in_channels, out_channels, kernel, stride=stride, bias=False)),
    ]


def _check_widths(widths: tuple[int, ...]) -> None:
    if not widths or min(widths) < 1:
        raise ValueError(f"widths {widths} must be at least 1, and there must be one or more")


def _block(
    in_channels: int,
    out_channels: int,
    kernel: int,
    affine_norm: bool,
    *,
    stride: int = 1,
    relu: bool = True,
) -> nn.Sequential:
    layers = same_conv(in_channels, out_channels, kernel, stride=stride)
    layers.append(("norm", nn.BatchNorm1d(out_channels, affine=affine_norm)))
    if relu:
        layers.append(("relu", nn.ReLU()))
    return nn.Sequential(OrderedDict(layers))
