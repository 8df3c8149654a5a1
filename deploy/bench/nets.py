"""The networks of src/network/architectures.rs in PyTorch."""

from torch import nn
from torch.nn import functional as F


class Same(nn.Module):
    """TensorFlow's padding: the odd pixel goes to the bottom and right."""

    def __init__(self, kernel, stride):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x):
        side = x.shape[-1]
        total = max((-(-side // self.stride) - 1) * self.stride + self.kernel - side, 0)
        return F.pad(x, (total // 2, total - total // 2) * 2)


def conv(inputs, outputs, kernel, stride=1, groups=1):
    if stride == 1:
        return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(Same(kernel, stride), nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False))


class Skip(nn.Module):
    def __init__(self, branch, shortcut=None, before=None):
        super().__init__()
        self.branch, self.shortcut, self.before = branch, shortcut or nn.Identity(), before or nn.Identity()

    def forward(self, x):
        x = self.before(x)
        return self.branch(x) + self.shortcut(x)


def mobile(stem, stages, top, momentum):
    def unit(*args, act=True):
        return [conv(*args), nn.BatchNorm2d(args[1], 1e-3, momentum)] + ([nn.ReLU6()] if act else [])

    layers, channels = unit(3, stem, 3, 2), stem
    for expansion, width, repeats, stride, kernel in stages:
        for repeat in range(repeats):
            step, wide = stride if repeat == 0 else 1, channels * expansion
            branch = unit(channels, wide, 1) if expansion != 1 else []
            branch += unit(wide, wide, kernel, step, wide) + unit(wide, width, 1, act=False)
            branch = nn.Sequential(*branch)
            layers.append(Skip(branch) if step == 1 and channels == width else branch)
            channels = width
    return nn.Sequential(*layers, *unit(channels, top, 1)), top


def wrn_28_2():
    def enter(channels):
        return nn.Sequential(nn.BatchNorm2d(channels, 1e-3, 0.001), nn.LeakyReLU(0.1))

    layers, channels = [conv(3, 16, 3), enter(16)], 16
    for scale, width in enumerate((32, 64, 128)):
        for repeat in range(4):
            stride, first = (2 if scale and repeat == 0 else 1), scale == repeat == 0
            branch = [] if first else [enter(channels)]
            branch += [conv(channels, width, 3, stride), enter(width), conv(width, width, 3)]
            shortcut = nn.Conv2d(channels, width, 1, stride, bias=False) if channels != width else None
            layers.append(Skip(nn.Sequential(*branch), shortcut))
            channels = width
    return nn.Sequential(*layers, enter(channels)), channels


NETS = {
    "efficientnet_lite0": (224, lambda: mobile(32, [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
                                                    (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)], 1280, 0.1)),
    "small": (64, lambda: mobile(16, [(2, 16, 1, 1, 3), (4, 24, 2, 2, 3), (4, 40, 2, 2, 3), (4, 56, 1, 1, 3),
                                      (4, 64, 1, 2, 3)], 128, 0.1)),
    "wrn_28_2": (32, wrn_28_2),
}


def network(name, classes):
    """The network with a head of `classes`."""
    trunk, features = NETS[name][1]()
    return nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes))
