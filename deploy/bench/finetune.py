"""Fine-tunes the whole ImageNet EfficientNet-Lite0 in PyTorch on a folder of classes: accuracy over seconds, to hold
against `beltsight train supervised`, whose trunk is frozen.

A fifth of every class is held out. Weak views (mirrored, shifted by up to an eighth), SGD with Nesterov's momentum, the
rate falls along half a cosine to zero; every number of epochs is a training of its own.

    python deploy/bench/finetune.py --data neu_det --weights .vendor/weights/efficientnet_lite0.safetensors --epochs 1,2,4
"""

import argparse
import json
import math
import pathlib
import random
import time

import torch
from nets import network
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

options = argparse.ArgumentParser()
options.add_argument("--data", type=pathlib.Path, required=True)
options.add_argument("--weights", required=True)
options.add_argument("--input", type=int, default=128)
options.add_argument("--batch", type=int, default=32)
options.add_argument("--lr", type=float, default=0.01)
options.add_argument("--epochs", default="1,2,4")
options.add_argument("--seeds", type=int, default=1)
options = options.parse_args()

SHIFT = options.input // 8
classes = sorted(folder.name for folder in options.data.iterdir() if folder.is_dir())
files = [(file, label) for label, name in enumerate(classes) for file in sorted((options.data / name).iterdir())]


def read(file):
    picture = Image.open(file).convert("RGB").resize((options.input, options.input), Image.Resampling.BILINEAR)
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(options.input, options.input, 3).permute(2, 0, 1)


def values(pictures):
    return ((pictures.float() - 127) / 128).contiguous(memory_format=torch.channels_last)


def view(picture):
    """Mirrored or not, shifted; the border is reflected."""
    if random.random() < 0.5:
        picture = picture.flip(2)
    x, y = random.randint(0, 2 * SHIFT), random.randint(0, 2 * SHIFT)
    padded = F.pad(picture[None].float(), (SHIFT,) * 4, mode="reflect")[0]
    return padded[:, y : y + options.input, x : x + options.input]


def pretrained():
    """The network with ImageNet's trunk: its file holds the same tensors in the same order."""
    net = network("efficientnet_lite0", len(classes))
    ours = [tensor for name, tensor in net[0].state_dict().items() if not name.endswith("num_batches_tracked")]
    tensors = load_file(options.weights)  # sorted by name; the header knows the places
    with open(options.weights, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    order = sorted(tensors, key=lambda name: header[name]["data_offsets"])
    published = [tensors[name] for name in order if not name.startswith("head.")]
    assert len(ours) == len(published), "another network"
    for mine, theirs in zip(ours, published):
        mine.copy_(theirs.view_as(mine))
    return net.to(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(net, pictures, labels):
    net.eval()
    right = sum((net(values(p)).argmax(1) == l).sum().item() for p, l in zip(pictures.split(64), labels.split(64)))
    return right / len(labels)


def train(epochs, seed, pictures, labels, held_out):
    random.seed(seed)
    torch.manual_seed(seed)
    began = time.perf_counter()
    net = pretrained()
    sgd = torch.optim.SGD(net.parameters(), lr=options.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * (len(labels) // options.batch)
    net.train()
    for step in range(steps):
        if step % (len(labels) // options.batch) == 0:
            order = torch.randperm(len(labels))
        place = step % (len(labels) // options.batch) * options.batch
        chosen = order[place : place + options.batch]
        for group in sgd.param_groups:
            group["lr"] = options.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = F.cross_entropy(net(values(torch.stack([view(p) for p in pictures[chosen]]))), labels[chosen])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    seconds = time.perf_counter() - began
    return seconds, accuracy(net, *held_out)


everything = torch.stack([read(file) for file, _ in files])
truth = torch.tensor([label for _, label in files])
for seed in range(1, options.seeds + 1):
    rng = random.Random(seed)
    held = set()
    for label in range(len(classes)):
        of_class = [i for i, (_, l) in enumerate(files) if l == label]
        held.update(rng.sample(of_class, len(of_class) // 5))
    test = torch.tensor(sorted(held))
    rest = torch.tensor([i for i in range(len(files)) if i not in held])
    for epochs in map(int, options.epochs.split(",")):
        seconds, share = train(epochs, seed, everything[rest], truth[rest], (everything[test], truth[test]))
        print(json.dumps({
            "torch": torch.__version__, "threads": torch.get_num_threads(), "seed": seed, "epochs": epochs,
            "pictures": len(rest), "held_out": len(test), "seconds": round(seconds, 1), "accuracy": round(share, 4),
        }), flush=True)
