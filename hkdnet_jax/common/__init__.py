"""Helpers for every folder: errors, paths, image files and arrays, keys, trees."""
