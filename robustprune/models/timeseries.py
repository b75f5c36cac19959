"""Networks for series (N, C, L)."""

from torch import Tensor, nn

from robustprune.models.blocks import GlobalAveragePool


class FCN(nn.Module):
    """Fully convolutional network of Wang et al., IJCNN 2017, arXiv 1611.06455.

    Three blocks of convolution, batch norm and ReLU that keep the length, the mean over time, and
    a linear layer. Convolutions have no bias: batch norm follows.

    Args:
        in_channels: C.
        num_classes: logits per series.
        widths: output channels of the blocks.
        kernels: their kernel lengths, one per width.
        affine_norm: whether batch norm learns scale and shift (False for scratch tickets).

    Shapes: (N, C, L) -> (N, num_classes), for any L.

    Raises:
        ValueError: widths and kernels of different lengths, or one below 1.
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


def _block(in_channels: int, out_channels: int, kernel: int, affine_norm: bool) -> nn.Sequential:
    block = nn.Sequential()
    if kernel % 2 == 0:
        # An even kernel needs one more zero on the right; as in the reference implementation.
        block.add_module("pad", nn.ZeroPad1d(((kernel - 1) // 2, kernel // 2)))
    padding = kernel // 2 if kernel % 2 else 0
    block.add_module(
        "conv", nn.Conv1d(in_channels, out_channels, kernel, padding=padding, bias=False)
    )
    block.add_module("norm", nn.BatchNorm1d(out_channels, affine=affine_norm))
    block.add_module("relu", nn.ReLU())
    return block
