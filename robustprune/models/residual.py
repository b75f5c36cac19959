"""Pre-activation residual networks for small images: PreActResNet-18 and Wide ResNet.

He et al., Identity Mappings in Deep Residual Networks, ECCV 2016, arXiv 1603.05027;
Zagoruyko & Komodakis, Wide Residual Networks, BMVC 2016, arXiv 1605.07146.
"""

from torch import Tensor, nn

from robustprune.models.blocks import GlobalAveragePool


class PreActBlock(nn.Module):
    """Compute x + conv(relu(norm(conv(relu(norm(x)))))), with nothing in the identity path.

    Where the shape changes, a 1x1 convolution of relu(norm(x)) replaces x, as in the code of He et
    al.

    Shapes: (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, affine_norm: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels, affine=affine_norm)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels, affine=affine_norm)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        same_shape = stride == 1 and in_channels == out_channels
        self.projection = (
            None if same_shape else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.norm1(x))
        shortcut = x if self.projection is None else self.projection(active)
        residual: Tensor = self.conv2(self.relu2(self.norm2(self.conv1(active))))
        return residual + shortcut


class PreActNet(nn.Module):
    """A 3x3 convolution, stages of `PreActBlock`s, batch norm, ReLU, global mean and linear layer.

    Args:
        in_channels: C, the number of channels of an image.
        num_classes: the number of logits per image.
        stem: the number of channels after the first convolution.
        widths: the number of channels of each stage; each stage after the first halves height and
            width.
        depth: the number of blocks per stage.
        affine_norm: whether batch norm learns a scale and a shift; use False for scratch tickets.

    Shapes: (N, C, H, W) -> (N, num_classes).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        stem: int,
        widths: tuple[int, ...],
        depth: int,
        affine_norm: bool,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        self.stages = nn.Sequential()
        before = stem
        for number, width in enumerate(widths):
            stage = nn.Sequential()
            for index in range(depth):
                stride = 2 if index == 0 and number > 0 else 1
                block = PreActBlock(before, width, stride=stride, affine_norm=affine_norm)
                stage.append(block)
                before = width
            self.stages.append(stage)
        self.norm = nn.BatchNorm2d(before, affine=affine_norm)
        self.relu = nn.ReLU()
        self.pool = GlobalAveragePool()
        self.classifier = nn.Linear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.relu(self.norm(self.stages(self.stem(x))))
        logits: Tensor = self.classifier(self.pool(features))
        return logits


def preact_resnet18(
    in_channels: int, num_classes: int, *, width: int = 64, affine_norm: bool = True
) -> PreActNet:
    """ResNet-18 of pre-activation blocks for images of the size of CIFAR: w, 2w, 4w, 8w channels.

    It has 11.17 million parameters at width w = 64 with 10 classes (He et al. 2016). A width below
    1 is refused with a ValueError.
    """
    if width < 1:
        raise ValueError(f"width {width} must be at least 1")
    widths = (width, 2 * width, 4 * width, 8 * width)
    return PreActNet(
        in_channels, num_classes, stem=width, widths=widths, depth=2, affine_norm=affine_norm
    )


def wide_resnet(
    in_channels: int,
    num_classes: int,
    *,
    depth: int = 34,
    widen: int = 10,
    affine_norm: bool = True,
) -> PreActNet:
    """WRN-depth-widen without dropout: stages of 16k, 32k, 64k channels, (depth - 4) / 6 blocks
    each.

    k is `widen`. WRN-34-10 with 10 classes has 46.16 million parameters (Zagoruyko & Komodakis
    2016).

    Raises:
        ValueError: `depth` is not of the form 6n + 4, or `widen` is below 1.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth {depth} must be 6n + 4: 10, 16, 22, 28, 34, ...")
    if widen < 1:
        raise ValueError(f"widen {widen} must be at least 1")
    return PreActNet(
        in_channels,
        num_classes,
        stem=16,
        widths=(16 * widen, 32 * widen, 64 * widen),
        depth=(depth - 4) // 6,
        affine_norm=affine_norm,
    )
