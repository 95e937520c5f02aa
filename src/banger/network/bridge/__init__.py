"""The system path's network: a bridge, a tap for each VM, and what each guest may reach.

All of this decides and remembers, and needs no privileges; what it decides on is done by the
operations of `banger.privileged`.
"""
