"""The systems that the paper compares with in Table I.

`registry.find` gives any of them as a function (ir, vis, scale) -> image.
"""
