"""The machine: devices, meshes, processes, memory, precision and compiled programs."""
