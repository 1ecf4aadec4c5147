"""Measures speed, memory and operations; compiles for machines that are absent."""
