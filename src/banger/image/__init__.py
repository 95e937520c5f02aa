"""Images and kernels: building them from a recipe, where they are kept, how they are verified.

Imports host and api.
"""
