"""The order of the files in the flow of data, read from their import statements."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("data_pipelines", "configs", "hkdnet_jax")

# A module imports modules of earlier layers, or of its own as long as no circle
# results.  A new module needs a place here.
LAYERS = (
    ("data_pipelines",),
    (
        "hkdnet_jax.command_line",
        "hkdnet_jax.compile_cache",
        "hkdnet_jax.flops",
        "hkdnet_jax.hlo",
        "hkdnet_jax.memory",
        "hkdnet_jax.tiles",
    ),
    ("hkdnet_jax.images", "hkdnet_jax.sharding"),
    ("hkdnet_jax.ops",),
    ("hkdnet_jax.models",),
    ("configs",),
    ("hkdnet_jax.vgg", "hkdnet_jax.losses", "hkdnet_jax.metrics"),
    ("hkdnet_jax.schedules", "hkdnet_jax.state"),
    ("hkdnet_jax.weights", "hkdnet_jax.trained", "hkdnet_jax.pretrained"),
    ("hkdnet_jax.released_weights",),
    ("hkdnet_jax.config_check",),
    ("hkdnet_jax.steps",),
    ("hkdnet_jax.processes", "hkdnet_jax.validation"),
    ("hkdnet_jax.train_loop",),
    ("hkdnet_jax.checkpoint", "hkdnet_jax.writers"),
    ("hkdnet_jax.programs",),
    ("hkdnet_jax.inference",),
    ("hkdnet_jax.fuse",),
    ("hkdnet_jax.scoring", "hkdnet_jax.tables", "hkdnet_jax.benchmarks"),
    (
        "hkdnet_jax.convert",
        "hkdnet_jax.evaluate",
        "hkdnet_jax.results",
        "hkdnet_jax.report",
        "hkdnet_jax.export",
        "hkdnet_jax.benchmark",
        "hkdnet_jax.compile_check",
        "hkdnet_jax.demo",
    ),
    ("hkdnet_jax.main",),
    ("hkdnet_jax.quickstart",),
)
USES_JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "dm_pix", "chex", "clu"}
TENSORFLOW = {"tensorflow", "tensorflow_datasets", "clu", "keras"}
AXIS_NAMES = {"PartitionSpec", "P", "make_mesh", "AxisType", "shard_map"}


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    _module(path): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def _imported(name: str, node: ast.AST) -> list[str]:
    """Full names of the modules that an import statement of module `name` loads."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
        parents = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*parents, base]).rstrip(".")
    # `from package import module` loads the module too.
    inner = [f"{base}.{alias.name}" for alias in node.names]
    return [base, *(module for module in inner if module in FILES)]


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: all but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from _at_import(child)


def _imports(name: str, nodes: Iterator[ast.AST]) -> set[str]:
    return {module for node in nodes for module in _imported(name, node)}


def _all_imports(name: str) -> set[str]:
    return _imports(name, ast.walk(TREES[name]))


def _roots(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def _layer(name: str) -> int | None:
    for number, layer in enumerate(LAYERS):
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in layer):
            return number
    return None


def _own(modules: set[str], name: str) -> set[str]:
    """The project's modules among some; packages that hold nothing are left out."""
    return {m for m in modules if m in FILES and m != name and _layer(m) is not None}


def test_the_tree_was_read():
    assert {"data_pipelines.pairs", "hkdnet_jax.main", "configs.base"} <= FILES.keys()
    steps = _own(_all_imports("hkdnet_jax.steps"), "hkdnet_jax.steps")
    assert {"hkdnet_jax.losses", "hkdnet_jax.state"} <= steps


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_imports_only_earlier_ones(name):
    if name == "hkdnet_jax":
        # The package itself imports nothing; `load` does when it is called.
        assert not _own(_imports(name, _at_import(TREES[name])), name)
        assert _own(_all_imports(name), name) == {"hkdnet_jax.pretrained"}
        return
    layer = _layer(name)
    assert layer is not None, f"give {name} a place in LAYERS"
    later = {m for m in _own(_all_imports(name), name) if _layer(m) > layer}
    assert not later


def test_no_imports_in_a_circle():
    graph = {name: _own(_all_imports(name), name) for name in FILES}
    # `from package import module` in a package's own module is no circle.
    for name, modules in graph.items():
        graph[name] = {m for m in modules if not name.startswith(f"{m}.")}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    "name", sorted(n for n in FILES if n.startswith("data_pipelines"))
)
def test_the_host_side_imports_no_jax(name):
    assert not _roots(_all_imports(name)) & (USES_JAX | {"hkdnet_jax", "configs"})


def test_one_file_imports_orbax():
    users = {name for name in FILES if "orbax" in _roots(_all_imports(name))}
    assert users == {"hkdnet_jax.checkpoint"}


def test_one_file_imports_clu_and_tensorflow_and_lazily():
    program = [name for name in FILES if name.startswith("hkdnet_jax")]
    users = {name for name in program if _roots(_all_imports(name)) & TENSORFLOW}
    assert users == {"hkdnet_jax.writers"}
    for name in FILES:
        eager = _roots(_imports(name, _at_import(TREES[name])))
        assert not eager & {"tensorflow", "clu", "keras"}, name


def test_one_file_names_mesh_axes():
    users = {name for name, tree in TREES.items() if _names_axes(tree)}
    assert users == {"hkdnet_jax.sharding"}


def _names_axes(tree: ast.Module) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in ("axis_name", "axis_names"):
            return True
        if isinstance(node, ast.alias) and node.name in AXIS_NAMES:
            return True
        # `sharding.make_mesh(...)` is our own function, not jax's.
        if (
            isinstance(node, ast.Attribute)
            and node.attr in AXIS_NAMES
            and getattr(node.value, "id", None) != "sharding"
        ):
            return True
    return False


def _eager_closure(start: str) -> tuple[set[str], set[str]]:
    """Modules loaded with `start`: those of the project, and the roots of others."""
    own, outside, waiting = set(), set(), [start]
    while waiting:
        name = waiting.pop()
        if name in own:
            continue
        own.add(name)
        modules = _imports(name, _at_import(TREES[name]))
        waiting += [module for module in modules if module in FILES]
        outside |= _roots(modules)
    return own, outside


def test_fuse_loads_neither_tensorflow_nor_the_training():
    own, outside = _eager_closure("hkdnet_jax.fuse")
    assert not outside & (TENSORFLOW | {"orbax", "grain", "optax"})
    assert not own & {"hkdnet_jax.train_loop", "hkdnet_jax.steps", "hkdnet_jax.state"}


def test_main_loads_tensorflow_only_when_it_writes_for_tensorboard():
    own, outside = _eager_closure("hkdnet_jax.main")
    assert "hkdnet_jax.writers" in own
    assert not outside & TENSORFLOW
