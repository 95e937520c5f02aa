"""The network seam: how a guest is reached and what it may reach.

`base` is the contract, `usermode` the embedded path's implementation. Imports host and api.
"""
