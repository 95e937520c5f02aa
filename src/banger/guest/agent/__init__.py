"""banger-agent: serves the host from inside a guest, as root, over virtio-serial ports or a vsock.

docs/agent-protocol.md is the contract. `banger.guest.bundle` joins these modules into the one
self-contained file that runs in the guest, so they import only each other and the standard
library of Python 3.9, share one namespace, and name nothing twice.

The agent is on the path to a guest's first answer, so it imports next to nothing: while an
emulated guest boots, `signal`, `socket` and `json` cost 70 to 110 ms each, and Debian's
python3-minimal has no `json` and no `tarfile` at all. The C modules beneath them are always there.
"""
