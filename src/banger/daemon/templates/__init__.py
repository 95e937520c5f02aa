"""Templates: guests that have booted and that nobody has used, from which new VMs start at once."""
