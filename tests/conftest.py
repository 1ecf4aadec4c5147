"""Strict flags for every test, set before the first array is made."""

import atexit
import ctypes
import ctypes.util
import gc
import os
import tempfile
import threading
from pathlib import Path

import jax
import pytest
from jax._src import compiler, lru_cache
from jax._src.interpreters import mlir
from jaxtyping import install_import_hook

# The functions of these check their arguments and results against their annotations,
# shapes and dtypes included, while tests run.  Compiled ones do so when traced.
install_import_hook(
    [
        "hkdnet_jax.common.arrays",
        "hkdnet_jax.inference.inputs",
        "hkdnet_jax.inference.matching",
        "hkdnet_jax.losses.quality",
        "hkdnet_jax.losses.student",
        "hkdnet_jax.metrics",
        "hkdnet_jax.models.fusion",
        "hkdnet_jax.ops.harris",
        "hkdnet_jax.ops.position_attention",
        "hkdnet_jax.ops.winograd",
    ],
    "beartype.beartype",
)

# Compiling takes nine tenths of the tests' time.  Without these passes of the compiler
# it takes a third to a ninth as long, and the programs say the same within what the
# tests allow; processes that tests start inherit it.  XLA reads it with the first
# program.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
    ]
)
# What the first, third and fourth of these are for users.
USERS_COMPILE = [
    ("xla_cpu_use_fusion_emitters", True),
    ("xla_backend_optimization_level", 3),
    ("xla_llvm_disable_expensive_passes", False),
]
# Four virtual devices, so that sharded code is tested on any machine.
jax.config.update("jax_num_cpu_devices", 4)
# Every run compiles anew, and leaves nothing in the user's folders.
os.environ["HKDNET_CACHE"] = ""
# No process starts a second time, which only a long run is worth.
os.environ["HKDNET_TUNE"] = "0"
# But pytest's processes compile equal programs once: compiling takes most of the tests'
# time, and many commands, runs and files need the same.  Processes that tests start do
# not share them: one that is killed may leave half a program, which would be a warning.
PROGRAMS = "HKDNET_TESTS_PROGRAMS"  # names the folder, which the first of them makes
if PROGRAMS not in os.environ:
    made = tempfile.TemporaryDirectory(prefix="hkdnet-tests-")
    atexit.register(made.cleanup)
    os.environ[PROGRAMS] = made.name
jax.config.update("jax_compilation_cache_dir", os.environ[PROGRAMS])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _put_whole(cache, key, value):
    """Stores a program so that another process sees it whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=cache.path, delete=False) as file:
        file.write(value)
    os.replace(file.name, cache.path / f"{key}{lru_cache._CACHE_SUFFIX}")


lru_cache.LRUCache.put = _put_whole
# jax makes a context of MLIR for each program, which takes longer than lowering a small
# one: here a thread keeps one for all programs of a file.
_make_context, _contexts = mlir.make_ir_context, {}


def _kept_context():
    thread = threading.get_ident()
    if thread not in _contexts:
        _contexts[thread] = _make_context()
    return _contexts[thread]


mlir.make_ir_context = _kept_context
# Where in Python an operation comes from is of use in a profile only.
jax.config.update("jax_traceback_in_locations_limit", 0)
# A missing axis must be an error, not a silently broadcast result.
jax.config.update("jax_numpy_rank_promotion", "raise")
# float64 that is asked for while it is off is a warning, and warnings are errors.
jax.config.update("jax_enable_x64", False)


# The files that take longest come first, the longest one leading: one that starts late
# would keep a process busy alone.
LONGEST = (
    "training/test_kill_and_resume.py",
    "test_configs.py",
    "runtime/test_processes.py",
    "training/test_loop.py",
    "training/test_going_on.py",
    "test_launch.py",
    "training/test_steps.py",
)


def pytest_collection_modifyitems(items):
    """Puts the longest files first, and leaves the order of all others."""
    rank = {Path(__file__).parent / name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_collection_finish():
    """Searches for garbage seldom, and not in what was imported.

    Traces are millions of small objects that live long, and the end of each file has a
    search of its own: a tenth of the time that tracing and compiling take.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real data sets; tests that want it are skipped without HKDNET_DATA."""
    folder = os.environ.get("HKDNET_DATA")
    if not folder:
        pytest.skip("HKDNET_DATA is not set: no real pairs to test on")
    if not Path(folder).is_dir():
        pytest.fail(f"HKDNET_DATA={folder} is not a folder")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory) -> Path:
    """A model directory of a teacher with random weights, for students' runs."""
    # Only here: the flags above must be set before the project is imported.
    import train_fixtures

    return train_fixtures.save_teacher(tmp_path_factory.mktemp("teacher"), seed=0)


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[int, Path]:
    """Scale -> directory of a model with random weights."""
    import fuse_fixtures

    return fuse_fixtures.save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module", autouse=True)
def dropped_programs():
    """Drops the programs of each file after its tests: they take gigabytes in all.

    Shapes are dropped with them, since a test may have made networks smaller.
    """
    yield
    # Only here: the flags above must be set before the project is imported.
    from hkdnet_jax.model_files.model import param_shapes

    param_shapes.cache_clear()
    _contexts.clear()
    jax.clear_caches()
    gc.collect()
    # Compilers free small pieces, which glibc keeps; other libraries lack the call.
    trim = getattr(ctypes.CDLL(ctypes.util.find_library("c")), "malloc_trim", None)
    if trim:
        trim(0)


@pytest.fixture(scope="module")
def compiled_for_speed():
    """Compiles as users do: for tests that spend their time in running."""
    original = compiler.get_compile_options

    def with_all_passes(*args, **kwargs):
        options = original(*args, **kwargs)
        options.env_option_overrides += USERS_COMPILE
        return options

    with pytest.MonkeyPatch.context() as patch:
        # jax offers these options for one program at a time, or for a whole process.
        patch.setattr(compiler, "get_compile_options", with_all_passes)
        yield
