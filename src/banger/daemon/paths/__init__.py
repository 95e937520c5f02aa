"""The host paths: what stands behind the seams, and what starting a VM consists of."""
