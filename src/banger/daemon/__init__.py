"""`bangerd`: the API, the services behind it, the store, and reconciliation with reality.

The only place that joins the seams (hypervisor, network, storage, image, guest), so it imports
them all.
"""
