"""Fusing with a trained model: one pair of arrays, folders of files, tiles."""
