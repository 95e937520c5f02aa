"""Benchmarks: banger beside its alternatives on the same machine in the same minutes.

Each module measures one promise of SPEC.md. Runs of the two sides alternate, so that a busy
machine is busy for both; medians and ratios are reported, never single runs.
"""
