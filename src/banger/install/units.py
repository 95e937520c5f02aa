"""The services as systemd sees them: systemd.service(5), systemd.exec(5).

What is taken away here is inherited by what the services start. The root helper starts the VMMs, so
its system calls and address families are an upper bound of theirs; each VMM leaves its control
group for a scope of its own (`privileged/scope.py`), so devices and limits are not.
"""

from __future__ import annotations

from banger.install import layout
from banger.install.owner import Owner

# docs/privileges.md says what each is for.
_CAPABILITIES = "CHOWN DAC_OVERRIDE FOWNER KILL MKNOD NET_ADMIN SETGID SETUID SYS_ADMIN"

# loop and device-mapper make the disks, tun the taps, the jailer the rest in every jail.
_DEVICES = (
    "/dev/kvm",
    "/dev/net/tun",
    "/dev/userfaultfd",
    "/dev/loop-control",
    "/dev/mapper/control",
    "block-loop",
    "block-device-mapper",
)

# For Firecracker's own filters, and to see which guest memory is there; in none of systemd's sets.
_OF_VMM = "seccomp mincore"

_OF_BUILD = "CAP_SETUID CAP_SETGID"

_ALL = """\
UMask=0077
NoNewPrivileges=yes
ProtectSystem=strict
PrivateTmp=yes
PrivateMounts=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
KeyringMode=private
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
"""

_BOTH = f"""\
Type=notify
NotifyAccess=main
Restart=on-failure
RestartSec=1s
TimeoutStartSec=3min
WatchdogSec=3min
LimitNOFILE=65536
TasksMax=8192
{_ALL}"""


def daemon_unit(owner: Owner, kvm_group: str | None) -> str:
    """`bangerd.service`, which runs as `owner`; members of `kvm_group` may open /dev/kvm.

    Its children end with it: none of them is a VM. ip(8) gives up capabilities (capset) before it
    does anything, also those that it does not have.
    """
    group = f"SupplementaryGroups={kvm_group}\n" if kvm_group else ""
    return f"""\
[Unit]
Description=banger daemon
Wants={layout.HELPER_UNIT}
After={layout.HELPER_UNIT} network.target systemd-resolved.service nftables.service docker.service

[Service]
User={owner.name}
{group}ExecStart={layout.PROGRAM}/bin/bangerd --system
KillMode=mixed
TimeoutStopSec=30s
{_BOTH}\
ReadWritePaths={layout.STATE} {layout.CACHE} {layout.RUN}
ProtectHome=read-only
ProtectKernelTunables=yes
ProtectProc=invisible
PrivateDevices=yes
BindPaths=-/dev/kvm
DeviceAllow=/dev/kvm rw
CapabilityBoundingSet=
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallFilter=capset

[Install]
WantedBy=multi-user.target
"""


def helper_unit() -> str:
    """`bangerd-root.service`. When it is stopped, operations under way go on to their end."""
    capabilities = " ".join(f"CAP_{name}" for name in _CAPABILITIES.split())
    devices = "\n".join(f"DeviceAllow={device} rwm" for device in _DEVICES)
    writable = (layout.STATE, layout.CACHE, layout.RUN, layout.ROOT_STATE, layout.ROOT_RUN)
    return f"""\
[Unit]
Description=banger root helper
After=network.target systemd-resolved.service nftables.service docker.service

[Service]
ExecStart={layout.PROGRAM}/bin/bangerd --root-helper
KillMode=process
{_BOTH}\
ReadWritePaths={" ".join(map(str, writable))}
ProtectHome=yes
DevicePolicy=closed
{devices}
CapabilityBoundingSet={capabilities}
RestrictNamespaces=mnt pid
RestrictAddressFamilies=AF_UNIX AF_INET AF_NETLINK
IPAddressDeny=any
SystemCallFilter=@system-service @mount @privileged {_OF_VMM}
SystemCallFilter=~@clock @cpu-emulation @debug @module @obsolete @raw-io @reboot @swap

[Install]
WantedBy=multi-user.target
"""


def build_listener(owner: Owner) -> str:
    """`banger-build.socket`: a connection of `owner`'s starts a build.

    In a directory of root's, because systemd gives the socket to its user by name.
    """
    return f"""\
[Unit]
Description=banger image builds

[Socket]
ListenStream={layout.BUILD_SOCKET}
SocketUser={owner.name}
SocketMode=0600
DirectoryMode=0711
Accept=yes
MaxConnections=8

[Install]
WantedBy=sockets.target
"""


def build_unit(owner: Owner) -> str:
    """`banger-build@.service`: one build, as root of a user namespace that is `owner` outside.

    The two capabilities are newuidmap(1)'s, which may not get them by its mode bits; the program
    itself begins inside and has none of the host's. What would cover a part of /proc is left out,
    or none could be mounted in the build's own namespaces (mount_namespaces(7)).
    """
    program = f"{layout.PROGRAM}/bin/bangerd --image-builder"
    return f"""\
[Unit]
Description=banger image build
CollectMode=inactive-or-failed

[Service]
User={owner.name}
ExecStart=/usr/bin/unshare --map-auto --map-root-user {program}
StandardInput=socket
StandardOutput=socket
StandardError=socket
Slice=system.slice
RuntimeMaxSec=3h
TimeoutStopSec=1min
UMask=0077
CPUWeight=30
IOWeight=30
MemoryMax=75%
TasksMax=4096
OOMScoreAdjust=500
AmbientCapabilities={_OF_BUILD}
CapabilityBoundingSet={_OF_BUILD}
NoNewPrivileges=yes
ProtectSystem=strict
TemporaryFileSystem={layout.STATE}:ro
BindPaths={layout.STATE}/images {layout.STATE}/kernels
ReadWritePaths={layout.STATE}/images {layout.STATE}/kernels {layout.CACHE}
InaccessiblePaths={layout.RUN} {layout.ROOT_RUN} -{layout.ROOT_STATE}
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
PrivateIPC=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelModules=yes
RestrictRealtime=yes
LockPersonality=yes
KeyringMode=private
RestrictNamespaces=user mnt pid uts ipc
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service @mount @privileged
SystemCallFilter=~@clock @cpu-emulation @debug @module @obsolete @raw-io @reboot @swap
"""


def guests_unit(owner: Owner) -> str:
    """`banger-guests.service`: nothing runs in it. To stop it, as a host that ends does, ends VMs.

    The daemon, the helper and the network stop after it, and VMMs' scopes too, where what has not
    ended by then is killed. It takes longer than the daemon gives guests to power off.
    """
    return f"""\
[Unit]
Description=banger guests, ended when the host is
After={layout.DAEMON_UNIT} {layout.HELPER_UNIT} network.target local-fs.target

[Service]
Type=oneshot
RemainAfterExit=yes
User={owner.name}
ExecStop={layout.PROGRAM}/bin/banger system stop-guests
TimeoutStopSec=2min
{_ALL}\
ProtectHome=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
PrivateDevices=yes
PrivateNetwork=yes
CapabilityBoundingSet=
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources

[Install]
WantedBy=multi-user.target
"""
