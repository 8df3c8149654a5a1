"""The other side of Sparkplug B for tests, with the protobuf code that Eclipse's schema generates.

Without arguments: reads lines `topic hex` on stdin and says what each payload holds. With `rebirth`: writes the command
that asks for a birth certificate to stdout.
"""

import sys

from sparkplug_b_pb2 import DataType, Payload

if sys.argv[1:] == ["rebirth"]:
    command = Payload(timestamp=1)
    command.metrics.add(name="Node Control/Rebirth", datatype=DataType.Boolean, boolean_value=True)
    sys.stdout.buffer.write(command.SerializeToString())
    sys.exit()

for line in sys.stdin:
    topic, text = line.split()
    payload = Payload.FromString(bytes.fromhex(text))
    said = [topic.split("/")[2]]
    if payload.HasField("seq"):
        said.append(f"seq={payload.seq}")
    for metric in payload.metrics:
        kind = DataType.Name(metric.datatype)
        said.append(f"{metric.name}:{kind}={getattr(metric, metric.WhichOneof('value'))}")
    print(" ".join(said))
