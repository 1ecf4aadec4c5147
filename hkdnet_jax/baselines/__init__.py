"""The systems that the paper compares with in Table I, one file each.

`registry.find` gives any of them as a function (ir, vis, scale) -> image.
"""
