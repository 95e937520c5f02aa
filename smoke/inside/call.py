"""One request to the root helper: call.py OPERATION JSON; prints the reply as it came."""

import json
import socket
import sys

body = {"version": 1, "operation": "smoke", "op": sys.argv[1], "args": json.loads(sys.argv[2])}
with socket.socket(socket.AF_UNIX) as client:
    client.connect("/run/banger-root/helper.sock")
    client.sendall(json.dumps(body).encode() + b"\n")
    print(client.makefile().readline().strip())
