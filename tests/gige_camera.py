#!/usr/bin/python3
"""A GigE Vision camera on 127.0.0.1, Aravis's own, until it is killed: SERIAL [share of packets lost]."""

import sys
import time

import gi

gi.require_version("Aravis", "0.8")
from gi.repository import Aravis  # noqa: E402

camera = Aravis.GvFakeCamera.new("127.0.0.1", sys.argv[1])
camera.set_property("gvsp-lost-ratio", float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)
if not camera.is_running():
    sys.exit("the camera did not start; is another one on port 3956?")
print("ready", flush=True)
while True:
    time.sleep(3600)
