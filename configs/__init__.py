"""Run configurations: one file is one reproducible run."""
