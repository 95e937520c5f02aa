"""The life of a VM: its plan, the steps that carry it out or take it back, and reconciliation."""
