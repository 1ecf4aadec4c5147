"""The machine: devices and meshes, processes, memory, the cache of programs."""
