"""`banger doctor`: what this host can do for banger, why not more, and what to do about it.

Looks only; changes nothing, and is quick enough to be asked for without thinking.
"""

from banger.daemon.doctor.report import Doctor

__all__ = ["Doctor"]
