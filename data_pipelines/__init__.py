"""Host-side data: pairs on disk, procedural scenes, batches.  Imports no jax."""
