"""Training: configuration, state, steps, the loop, validation, checkpoints, logs."""
