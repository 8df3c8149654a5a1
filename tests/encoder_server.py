"""A belt with its encoder and its PLC, for tests and benches: pymodbus on the port of the first argument, as the JSON file of
the second one says. The belt runs by a profile, the encoder counts its way in input registers, and whatever is written is told
with the place at which the belt truly was.

    {
      "start": 1764400000.5,        unix time at which the profile begins; left out: when it serves
      "speed": [[0, 0], [1, 500]],  [seconds, mm/s], straight between; the last speed stays. Below 0: backwards
      "counts_per_mm": 10,          below 0: counts fall while the belt runs forwards
      "bits": 32,                   16: one register; 32: two, the high word first
      "first": 0,                   the count at the start
      "resets": [13.0],             seconds at which the count becomes 0; the PLC forgets its commands then
      "silent": [[15, 20]],         from, to: in between the count is not answered (all else is)
      "count": 40,                  the count's first input register
      "speed_at": 50,               input register with the speed in mm/s, signed, silent with the count; left out: none
      "delay": 0.0,                 seconds from a write or firing to the moment at which the gate hits
      "coils": {"0": "out"},        gates by coil: a kick when it is raised
      "registers": {"7": "out"},    gates by holding register: a kick when it is written
      "commands": {"out": {"registers": 200, "done": 60, "lead": 0.0}},
                                    gates that fire by themselves; lead: seconds by which the PLC fires early
      "scan": 0.002                 seconds of the PLC's cycle
    }

Beyond the encoder's, coils, discrete inputs, holding and input registers 0 to 255 exist. On stdout: "serving", then a line of
JSON for each kick ("what": "kick" for a coil or a register, "fired" for a command, "refused" for a command whose place had
passed or that found no room, "forgotten" for one at a reset, "taken" for one that was taken) with "unix" (time), "t" (seconds
since the start), "mm" (where the belt was), "hit_mm" (where it is when the gate hits), "gate", "number", and for commands
"target" (the count). Every other write is told as {"what": "coil" | "register", "unix", "address", "value"}.
"""

import asyncio
import json
import logging
import sys
import time

from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

logging.disable(logging.CRITICAL)  # pymodbus tells of every closed connection
plan = {"counts_per_mm": 10, "bits": 32, "first": 0, "resets": [], "silent": [], "count": 40, "delay": 0.0, "coils": {},
        "registers": {}, "commands": {}, "scan": 0.002} | json.load(open(sys.argv[2]))
start = plan.get("start") or time.time()
RANGE = 1 << plan["bits"]


def way(t):
    """Millimetres that the belt has gone t seconds after the start."""
    mm, at, speed = 0.0, 0.0, plan["speed"][0][1]
    for until, following in plan["speed"]:
        end = min(until, t)
        if end > at:
            reached = speed + (following - speed) * (end - at) / (until - at)
            mm += (speed + reached) / 2 * (end - at)
        if t <= until:
            return mm
        at, speed = until, following
    return mm + speed * (t - at)


def count(t):
    """What the encoder shows then."""
    since = max((reset for reset in plan["resets"] if reset <= t), default=None)
    first, origin = (plan["first"], 0.0) if since is None else (0, way(since))
    return int(first + (way(t) - origin) * plan["counts_per_mm"]) % RANGE


def now():
    return time.time() - start


def say(what, t, **more):
    print(json.dumps({"what": what, "unix": start + t, "t": t} | more), flush=True)


def kick(what, t, gate, number, **more):
    say(what, t, mm=way(t), hit_mm=way(t + plan["delay"]), gate=gate, number=number, **more)


class Commands:
    """What the PLC does with the commands of one gate: the program of docs/guide/acting.md."""

    def __init__(self, gate, settings):
        self.gate, self.settings = gate, {"lead": 0.0} | settings
        self.written = [0, 0, 0]  # target high, target low, number
        self.taken, self.done, self.pending = 0, [0, 0, 0], []
        self.resets = sum(reset <= now() for reset in plan["resets"])

    def answer(self):
        return [self.taken, *self.done]

    def scan(self, t):
        at = count(t)
        resets = sum(reset <= t for reset in plan["resets"])
        if resets != self.resets:
            self.resets = resets
            for number, target in self.pending:
                kick("forgotten", t, self.gate, number, target=target)
            self.pending = []
        high, low, number = self.written
        if number != self.taken:
            self.taken, target = number, high << 16 | low
            if self.ahead(target, at) <= 0 or len(self.pending) >= 32:
                kick("refused", t, self.gate, number, target=target)
            else:
                kick("taken", t, self.gate, number, target=target)
                self.pending.append((number, target))
        lead = (way(t + self.settings["lead"]) - way(t)) * abs(plan["counts_per_mm"])
        for number, target in list(self.pending):
            if self.ahead(target, at) <= lead:
                self.pending.remove((number, target))
                kick("fired", t, self.gate, number, target=target)
                self.done = [number, *self.done[:2]]

    def ahead(self, target, at):
        """Counts from here to there in the belt's direction; below 0 behind."""
        ahead = (target - at + RANGE // 2) % RANGE - RANGE // 2
        return ahead if plan["counts_per_mm"] > 0 else -ahead


commands = {gate: Commands(gate, settings) for gate, settings in plan["commands"].items()}


def wrote(function, address, values):
    t = now()
    for i, value in enumerate(values):
        at, value = address + i, int(value)
        gate = (plan["coils"] if function in (5, 15) else plan["registers"]).get(str(at))
        if gate is not None:
            if function not in (5, 15) or value:
                kick("kick", t, gate, value)
            continue
        for command in commands.values():
            place = at - command.settings["registers"]
            if function not in (5, 15) and 0 <= place < 3:
                command.written[place] = value
                break
        else:
            say("coil" if function in (5, 15) else "register", t, address=at, value=value)


async def action(function, first, address, amount, registers, values):
    if values is not None:
        wrote(function, address, values)
        return None
    if function != 4:
        return None
    words = plan["bits"] // 16
    if address < plan["count"] + words and plan["count"] < address + amount:
        while any(begin <= now() < end for begin, end in plan["silent"]):
            await asyncio.sleep(0.01)
        at = count(now())
        for i in range(words):
            registers[plan["count"] + i - first] = at >> 16 * (words - 1 - i) & 0xFFFF
    speed_at = plan.get("speed_at")
    if speed_at is not None and address <= speed_at < address + amount:
        while any(begin <= now() < end for begin, end in plan["silent"]):
            await asyncio.sleep(0.01)
        t = now()
        registers[speed_at - first] = round((way(t) - way(t - 0.01)) / 0.01) & 0xFFFF
    for command in commands.values():
        for i, value in enumerate(command.answer()):
            if address <= command.settings["done"] + i < address + amount:
                registers[command.settings["done"] + i - first] = value
    return None


async def scan():
    while True:
        for command in commands.values():
            command.scan(now())
        await asyncio.sleep(plan["scan"])


async def main():
    bits = lambda: [SimData(0, values=[False] * 256, datatype=DataType.BITS)]
    words = lambda: [SimData(0, count=256, values=0, datatype=DataType.REGISTERS)]
    device = SimDevice(id=1, simdata=(bits(), bits(), words(), words()), action=action)
    server = ModbusTcpServer(device, address=("127.0.0.1", int(sys.argv[1])))
    await server.listen()
    print("serving", flush=True)
    scanning = asyncio.create_task(scan()) if commands else None
    await server.serving
    del scanning


asyncio.run(main())
