"""One gate per kind of argument. A gate looks at the thing itself, not at what it is called.

Each raises Fault(refused) for what is not banger's, and where there is a descriptor to have, gives
that: what was looked at is then what is worked on, whatever is renamed or swapped in meanwhile.
"""
