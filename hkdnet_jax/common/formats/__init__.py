"""File formats: one module for each reads its header and decodes its pixels."""
