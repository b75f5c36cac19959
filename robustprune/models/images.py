"""Small networks for images (N, C, H, W) and for flat features (N, F)."""

import math

from torch import Tensor, nn


class LeNet(nn.Module):
    """The MNIST network of width w in Ye et al., ICCV 2019, arXiv 1903.12561, Table 1.

    The layers are a convolution to 2w channels, 2x2 max pooling, a convolution to 4w channels, 2x2
    max pooling, a hidden layer of 64w units and a linear layer. The 5x5 kernels keep height and
    width, and ReLU is the activation. w = 16 gives the network of Madry et al. 2018 (32, 64, 1024).

    Args:
        input_shape: (C, H, W) of one image; H and W are at least 4.
        num_classes: the number of logits per image.
        width: w, at least 1.
        units: where it is given, the first layer is a 1x1 convolution with this number of output
            channels instead of the 5x5 convolution. Such a unit can apply a threshold to single
            pixels, which a large ε needs and which a 5x5 filter with random weights can't do.
        batch_norm: whether batch norm comes before each ReLU; then the layers before it have no
            bias.
        affine_norm: whether batch norm learns a scale and a shift; it has an effect only with
            `batch_norm`.

    Shapes: (N, C, H, W) -> (N, num_classes).

    Raises:
        ValueError: `width` or `units` is below 1, or the images are smaller than 4 x 4.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        *,
        width: int = 16,
        units: int | None = None,
        batch_norm: bool = False,
        affine_norm: bool = True,
    ) -> None:
        super().__init__()
        channels, height, columns = input_shape
        if min(height, columns) < 4:
            raise ValueError(f"LeNet needs images of at least 4 x 4, got {height} x {columns}")
        if width < 1:
            raise ValueError(f"width {width} must be at least 1")
        if units is not None and units < 1:
            raise ValueError(f"units {units} must be at least 1")
        first, second, hidden = units or 2 * width, 4 * width, 64 * width
        kernel = 1 if units else 5
        flat = second * (height // 4) * (columns // 4)
        bias = not batch_norm
        self.conv1 = nn.Conv2d(channels, first, kernel, padding=kernel // 2, bias=bias)
        self.norm1 = nn.BatchNorm2d(first, affine=affine_norm) if batch_norm else nn.Identity()
        self.conv2 = nn.Conv2d(first, second, 5, padding=2, bias=bias)
        self.norm2 = nn.BatchNorm2d(second, affine=affine_norm) if batch_norm else nn.Identity()
        self.hidden = nn.Linear(flat, hidden, bias=bias)
        self.norm3 = nn.BatchNorm1d(hidden, affine=affine_norm) if batch_norm else nn.Identity()
        self.classifier = nn.Linear(hidden, num_classes)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        # Pooling before the ReLU gives the same values, and the ReLU has a quarter of the work.
        x = self.relu(self.pool(self.norm1(self.conv1(x))))
        x = self.relu(self.pool(self.norm2(self.conv2(x))))
        x = self.relu(self.norm3(self.hidden(self.flatten(x))))
        logits: Tensor = self.classifier(x)
        return logits


class MLP(nn.Sequential):
    """A fully connected ReLU network on the flattened input.

    Args:
        input_shape: the shape of one example, with any number of dimensions.
        num_classes: the number of logits per example.
        hidden: the widths of the hidden layers; () gives a linear classifier.
        batch_norm: whether batch norm comes before each ReLU; then the layers before it have no
            bias.
        affine_norm: whether batch norm learns a scale and a shift; it has an effect only with
            `batch_norm`.

    Shapes: (N, *input_shape) -> (N, num_classes).

    Raises:
        ValueError: a hidden width is below 1.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        hidden: tuple[int, ...] = (256, 256),
        batch_norm: bool = False,
        affine_norm: bool = True,
    ) -> None:
        super().__init__()
        if any(width < 1 for width in hidden):
            raise ValueError(f"hidden widths {hidden} must be at least 1")
        self.add_module("flatten", nn.Flatten())
        before = math.prod(input_shape)
        for number, after in enumerate(hidden, start=1):
            self.add_module(f"linear{number}", nn.Linear(before, after, bias=not batch_norm))
            if batch_norm:
                self.add_module(f"norm{number}", nn.BatchNorm1d(after, affine=affine_norm))
            self.add_module(f"relu{number}", nn.ReLU())
            before = after
        self.add_module("classifier", nn.Linear(before, num_classes))
