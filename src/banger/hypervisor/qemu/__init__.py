"""The QEMU microvm hypervisor: command line, QMP, and the process behind a VM."""
