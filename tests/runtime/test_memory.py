"""What is known of memory."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hkdnet_jax.runtime import memory


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4e9), ("0.5 GB", 5e8), ("800mb", 8e8), (" 1MB ", 1e6)]
)
def test_amounts(text, size):
    assert memory.parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "4", "GB", "-1GB", "0MB", "4GiB", "4KB", "x4GB"])
def test_no_amounts(text):
    with pytest.raises(ValueError, match="not an amount of memory such as 4GB"):
        memory.parse_bytes(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(5_540_000_000, "5.5 GB"), (10**9, "1.0 GB"), (80_400_000, "80 MB")],
)
def test_amounts_in_words(size, text):
    assert memory.format_bytes(size) == text


def test_resident_memory_follows_an_array():
    memory.restart_peak()
    before = memory.rss()
    array = np.ones(50_000_000, np.uint8)
    held = memory.rss() - before
    del array
    assert 45e6 < held < 60e6
    assert memory.peak_rss() - before >= held - 1e6
    assert memory.free(jax.devices()[0]) > 0


def test_the_smaller_of_machine_and_container_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    machine = types.SimpleNamespace(available=10**9)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: machine)
    device = jax.devices()[0]
    assert memory.free(device) == 10**9
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("3000\n")
    assert memory.free(device) == 10**9
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 100\n")
    assert memory.free(device) == 2000
    # The page cache gives way to programs.
    cache = "anon 100\ninactive_file 700\nactive_file 50\n"
    (tmp_path / "memory.stat").write_text(cache)
    assert memory.free(device) == 2700
    (tmp_path / "memory.current").write_text("6000\n")
    assert memory.free(device) == 0


def test_the_peak_is_none_where_the_system_does_not_tell(monkeypatch):
    def missing(self, *args, **kwargs):
        raise FileNotFoundError(str(self))

    monkeypatch.setattr(memory.Path, "read_text", missing)
    monkeypatch.setattr(memory.Path, "write_text", missing)
    memory.restart_peak()
    assert memory.peak_rss() is None


def test_an_accelerator_is_asked_for_its_own():
    class Accelerator:
        def memory_stats(self):
            return {"bytes_limit": 100, "bytes_in_use": 30}

    assert memory.free(Accelerator()) == 70


def test_what_a_program_needs_with_its_arguments():
    x = jnp.ones(250_000)
    program = jax.jit(lambda x: x + 1).lower(x).compile()
    cpu = jax.devices()[0]
    gpu = types.SimpleNamespace(platform="gpu")
    # A megabyte in, a megabyte out; CPU devices share one memory.
    for device, devices, size in ((cpu, 1, 2.3e6), (cpu, 4, 9.2e6), (gpu, 4, 2.3e6)):
        needed = memory.needed_bytes(program, device, devices)
        assert needed == pytest.approx(size, rel=0.01)
        beyond = memory.needed_bytes(program, device, devices, arguments=False)
        assert beyond == pytest.approx(size / 2, rel=0.01)


@pytest.mark.parametrize(
    ("error", "exhausted"),
    [
        (MemoryError(), True),
        (RuntimeError("RESOURCE_EXHAUSTED: 5 GB"), True),
        (RuntimeError("INTERNAL: Out of memory allocating"), True),
        (RuntimeError("INVALID_ARGUMENT"), False),
    ],
)
def test_which_errors_say_that_memory_ran_out(error, exhausted):
    assert memory.is_exhausted(error) is exhausted


def test_program_bytes_are_temporaries_and_outputs():
    compiled = jax.jit(lambda x: jnp.sort(x)[None] + 1).lower(jnp.ones(1000)).compile()
    assert 4000 <= memory.program_bytes(compiled) <= 3 * 4000 + 100
