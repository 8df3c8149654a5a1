"""Training speed of PyTorch on the networks of src/network/architectures.rs: views per second through forward, backward and SGD.

The pictures are drawn once and stay in memory, so that nothing but the network is timed; `beltsight train` draws its
views anew at every step and says in metrics.jsonl how many went through it a second.

    python deploy/bench/train.py --net small --batch 480 --device cpu
"""

import argparse
import json
import time

import torch
from torch.nn import functional as F

from nets import NETS, network

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
side = options.input or NETS[options.net][0]
net = network(options.net, options.classes).to(options.device, memory_format=torch.channels_last).train()
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
