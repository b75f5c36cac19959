"""The network of InceptionTime, for series (N, C, L).

Fawaz et al., InceptionTime: Finding AlexNet for time series classification, Data Mining and
Knowledge Discovery 2020, arXiv 1909.04939. The paper's classifier averages five of these networks.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from robustprune.models.blocks import GlobalAveragePool
from robustprune.models.timeseries import same_conv


class InceptionModule(nn.Module):
    """Run convolutions of three lengths and a pooled branch side by side, as in Fig. 2 of the
    paper.

    A bottleneck of 1x1 convolutions comes before the three, unless the input has only one channel.
    The fourth branch takes the maximum over three neighbours and applies a 1x1 convolution. Batch
    norm and ReLU follow the four branches.

    Shapes: (N, in_channels, L) -> (N, 4 width, L).
    """

    def __init__(
        self,
        in_channels: int,
        *,
        width: int,
        bottleneck: int,
        kernels: tuple[int, ...],
        affine_norm: bool,
    ) -> None:
        super().__init__()
        narrow = bottleneck if in_channels > 1 else 1
        self.bottleneck = (
            nn.Conv1d(in_channels, narrow, 1, bias=False) if in_channels > 1 else nn.Identity()
        )
        self.branches = nn.ModuleList(
            nn.Sequential(OrderedDict(same_conv(narrow, width, kernel))) for kernel in kernels
        )
        self.pooled = nn.Sequential(
            OrderedDict(
                pool=nn.MaxPool1d(3, stride=1, padding=1),
                conv=nn.Conv1d(in_channels, width, 1, bias=False),
            )
        )
        self.norm = nn.BatchNorm1d((len(kernels) + 1) * width, affine=affine_norm)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.bottleneck(x)
        parts = [*(branch(narrow) for branch in self.branches), self.pooled(x)]
        out: Tensor = self.relu(self.norm(torch.cat(parts, dim=1)))
        return out


class InceptionNet(nn.Module):
    """One network of InceptionTime: modules in a row, with a shortcut around every three (Fig. 1).

    The shortcut applies a 1x1 convolution and batch norm to the input of the three modules. Its
    result is added to their output before a ReLU. The mean over time and a linear layer come last.

    Args:
        in_channels: C, the number of channels of a series.
        num_classes: the number of logits per series.
        depth: the number of modules, a multiple of 3.
        width: the number of channels of each of the four branches of a module.
        bottleneck: the number of channels after the bottleneck of a module.
        kernels: the kernel lengths of the convolutions of a module, in time steps.
        affine_norm: whether batch norm learns a scale and a shift; use False for scratch tickets.

    Shapes: (N, C, L) -> (N, num_classes), for any L.

    Raises:
        ValueError: `depth` is no multiple of 3, or a number is below 1.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        depth: int = 6,
        width: int = 32,
        bottleneck: int = 32,
        kernels: tuple[int, ...] = (40, 20, 10),
        affine_norm: bool = True,
    ) -> None:
        super().__init__()
        if depth < 3 or depth % 3:
            raise ValueError(f"depth {depth} must be a multiple of 3: 3, 6, 9, ...")
        if not kernels or min(width, bottleneck, *kernels) < 1:
            raise ValueError(
                f"width {width}, bottleneck {bottleneck} and kernels {kernels} must be at least 1"
            )
        wide = (len(kernels) + 1) * width
        self.stages, self.shortcuts = nn.ModuleList(), nn.ModuleList()
        for stage in range(depth // 3):
            inputs = [in_channels if stage == 0 else wide, wide, wide]
            modules = [
                InceptionModule(
                    channels,
                    width=width,
                    bottleneck=bottleneck,
                    kernels=kernels,
                    affine_norm=affine_norm,
                )
                for channels in inputs
            ]
            self.stages.append(nn.Sequential(*modules))
            self.shortcuts.append(
                nn.Sequential(
                    OrderedDict(
                        conv=nn.Conv1d(inputs[0], wide, 1, bias=False),
                        norm=nn.BatchNorm1d(wide, affine=affine_norm),
                    )
                )
            )
        self.relu = nn.ReLU()
        self.pool = GlobalAveragePool()
        self.classifier = nn.Linear(wide, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for stage, shortcut in zip(self.stages, self.shortcuts, strict=True):
            x = self.relu(stage(x) + shortcut(x))
        logits: Tensor = self.classifier(self.pool(x))
        return logits
