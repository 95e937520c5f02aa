"""The way into a guest that needs no network: streams to banger-agent, and what goes over them.

Used by the daemon and, because the streams of a command need nobody in between, by the client and
the command line. docs/agent-protocol.md is the contract. Everything that comes out of a guest is
taken for hostile: it is bounded in size and in time, and checked before it is believed.

    base      GuestChannel: how a stream is had; serial is the one over virtio-serial ports, vsock
              the one over Firecracker's vsock, ways which of them a VM has
    frames    the bytes of frames
    session   one request on one stream, without any input or output; journal: what it may have to
              send again
    exchange  what all who drive a session share; link: a session that outlives its stream
    requests  what can be asked, what is answered, and how a failure of the agent is told
    calls     blocking calls; aio: the same for an event loop; terminal: programs on our streams
    tar       archives, written and read piece by piece; trees: files and directories as archives

Imports host and api.
"""
