"""A PLC for tests: pymodbus on the port of the first argument. Says on stdout, one line each, when it serves and what is
written: "serving", "coil 3 1", "register 100 7". Reads on stdin what its discrete inputs and input registers shall
be: "input 2 1", "speed 5 1250"; and "slow 4 200": answers to function 4 take 200 ms from now on.

Coils, discrete inputs, holding registers and input registers 0 to 127 exist.
"""

import asyncio
import sys

from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

wanted = {}  # (function code, address) -> value
slow = {}  # function code -> seconds


async def action(function, start, address, count, registers, values):
    if values is not None:
        name = "coil" if function in (5, 15) else "register"
        for i, value in enumerate(values):
            print(name, address + i, int(value), flush=True)
        return None
    await asyncio.sleep(slow.get(function, 0))
    for (code, at), value in wanted.items():
        if code != function:
            continue
        if code == 2:  # 16 inputs to a register
            index, bit = at // 16 - start, 1 << at % 16
            registers[index] = registers[index] | bit if value else registers[index] & ~bit
        else:
            registers[at - start] = value
    return None


def told():
    for line in sys.stdin:
        name, at, value = line.split()
        if name == "slow":
            slow[int(at)] = int(value) / 1000
            continue
        wanted[(2 if name == "input" else 4, int(at))] = int(value)


async def main():
    bits = lambda: [SimData(0, values=[False] * 128, datatype=DataType.BITS)]
    words = lambda: [SimData(0, count=128, values=0, datatype=DataType.REGISTERS)]
    device = SimDevice(id=1, simdata=(bits(), bits(), words(), words()), action=action)
    server = ModbusTcpServer(device, address=("127.0.0.1", int(sys.argv[1])))
    await server.listen()
    print("serving", flush=True)
    asyncio.get_running_loop().run_in_executor(None, told)
    await server.serving


asyncio.run(main())
