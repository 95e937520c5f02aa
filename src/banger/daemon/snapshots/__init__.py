"""VMs at one moment: checkpoints, the snapshots users keep of them, and the VMs made of them."""
