"""Training speed of PyTorch on the networks of src/nets.rs: views per second through forward, backward and SGD.

The pictures are drawn once and stay in memory, so that nothing but the network is timed; `beltsight train` draws its
views anew at every step and says in metrics.jsonl how many went through it a second.

    python deploy/bench/train.py --net small --batch 480 --device cpu
"""

import argparse
import json
import time

import torch
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
                                                    (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)], 1280, 0.01)),
    "small": (64, lambda: mobile(16, [(2, 16, 1, 1, 3), (4, 24, 2, 2, 3), (4, 40, 2, 2, 3), (4, 56, 1, 1, 3),
                                      (4, 64, 1, 2, 3)], 128, 0.1)),
    "wrn_28_2": (32, wrn_28_2),
}

options = argparse.ArgumentParser()
options.add_argument("--net", choices=NETS, default="small")
options.add_argument("--input", type=int, help="side of the pictures in pixels [default: the network's own]")
options.add_argument("--batch", type=int, default=480)
options.add_argument("--steps", type=int, default=20)
options.add_argument("--device", default="cpu")
options.add_argument("--classes", type=int, default=10)
options = options.parse_args()

torch.manual_seed(1)
torch.backends.cudnn.benchmark = True
side, build = NETS[options.net]
side = options.input or side
trunk, features = build()
net = nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, options.classes))
net = net.to(options.device, memory_format=torch.channels_last).train()
sgd = torch.optim.SGD(net.parameters(), lr=0.03, momentum=0.9, nesterov=True, weight_decay=5e-4)
pictures = torch.randint(0, 256, (options.batch, 3, side, side), dtype=torch.uint8, device=options.device)
pictures = pictures.to(memory_format=torch.channels_last)
labels = torch.randint(0, options.classes, (options.batch,), device=options.device)
gpu = options.device.startswith("cuda")


def step():
    with torch.autocast("cuda", torch.bfloat16, enabled=gpu):
        loss = F.cross_entropy(net((pictures.float() / 255 - 0.5) / 0.25).float(), labels)
    sgd.zero_grad()
    loss.backward()
    sgd.step()
    return loss.item()


for _ in range(3):
    step()
times = []
for _ in range(options.steps):
    began = time.perf_counter()
    step()
    times.append(time.perf_counter() - began)
times.sort()
print(json.dumps({
    "torch": torch.__version__,
    "device": torch.cuda.get_device_name() if gpu else f"cpu, {torch.get_num_threads()} threads",
    "net": options.net, "input": side, "batch": options.batch, "weights": sum(p.numel() for p in net.parameters()),
    "views_per_second": round(options.batch / times[len(times) // 2], 1),
    "slowest": round(options.batch / times[-1], 1), "fastest": round(options.batch / times[0], 1),
}))
