"""Trained models on disk: the file format, and the `Model` that it loads as."""
