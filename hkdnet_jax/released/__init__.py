"""The network that the paper's authors released, and their weights."""
