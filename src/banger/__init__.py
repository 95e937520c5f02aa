"""banger: one-command development sandboxes on microVMs.

Each folder below is one idea; its docstring says what lives there and what it may import.
docs/architecture.md walks one `vm run` through all of them.
"""

__version__ = "0.1.0"
