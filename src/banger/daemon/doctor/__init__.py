"""`banger doctor`: what this host can do for banger, why not more, and what to do about it.

Looks only; changes nothing, and is quick enough to be asked for without thinking.
"""
