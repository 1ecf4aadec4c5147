"""Memory: held by this process, free, and needed by a compiled program."""

import re
from pathlib import Path

import jax
import psutil

_UNITS = {"MB": 10**6, "GB": 10**9}
_CGROUP = Path("/sys/fs/cgroup")


def parse_bytes(text: str) -> int:
    """Parses an amount of memory, such as `4GB` or `800MB`, to bytes.

    Raises:
      ValueError: the text is not a positive number with one of these units.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|GB)", text.strip(), re.IGNORECASE)
    size = round(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if size < 1:
        raise ValueError(f"{text!r} is not an amount of memory such as 4GB or 800MB")
    return size


def format_bytes(size: int) -> str:
    """Formats a number of bytes, such as `5.5 GB` or `80 MB`."""
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"


def restart_peak() -> None:
    """Resets the peak of resident memory to the current value, if Linux allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_rss() -> int | None:
    """Returns the peak of resident memory since `restart_peak`, in bytes.

    It is None if the system does not report it.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def rss() -> int:
    """Returns the resident memory of this process in bytes."""
    return psutil.Process().memory_info().rss


def program_bytes(program: jax.stages.Compiled) -> int:
    """Returns the bytes per device that the compiler plans beyond the arguments."""
    memory = program.memory_analysis()
    return (
        memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )


# What a process needs, divided by what the compiler plans (measured: 0.99 to 1.14).
_BEYOND_PLAN = 1.15


def needed_bytes(
    program: jax.stages.Compiled,
    device: jax.Device,
    devices: int,
    arguments: bool = True,
) -> int:
    """Returns the bytes that a program needs.

    They are bytes of each accelerator, or of the memory that all CPU devices share.

    Args:
      program: the compiled program.
      device: one of the devices that share the work.
      devices: the number of these devices.
      arguments: whether to include the bytes of its arguments.
    """
    planned = program_bytes(program)
    if arguments:
        planned += program.memory_analysis().argument_size_in_bytes
    return int(_BEYOND_PLAN * planned * (devices if device.platform == "cpu" else 1))


def is_exhausted(error: Exception) -> bool:
    """Returns whether a JaxRuntimeError or a MemoryError says that memory ran out."""
    # If a CPU runs out during the run of a program, jax says INTERNAL: Out of memory.
    found = re.search("RESOURCE_EXHAUSTED|out of memory", str(error), re.IGNORECASE)
    return isinstance(error, MemoryError) or bool(found)


def free(device: jax.Device) -> int:
    """Returns the free memory of an accelerator, or else of the machine, in bytes.

    The machine's free memory is also limited by that of its container (cgroup v2).
    """
    stats = device.memory_stats()
    if stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    limits = (psutil.virtual_memory().available, _container_free())
    return min(size for size in limits if size is not None)


def _container_free() -> int | None:
    try:
        limit, used = (
            int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current")
        )
        stat = (_CGROUP / "memory.stat").read_text()
    except (OSError, ValueError):  # no such container, or its limit is `max`
        return None
    # The used memory includes cached files, which the kernel can drop.
    cached = re.search(r"^inactive_file (\d+)$", stat, re.MULTILINE)
    return max(0, limit - used + (int(cached[1]) if cached else 0))
