"""The order of the files in the flow of data, read from their import statements."""

import ast
import functools
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("data_pipelines", "configs", "hkdnet_jax")

# In the order in which data flows: a folder imports itself and earlier ones, without a
# circle.  A new folder needs a place here.
FLOW = (
    "hkdnet_jax.common",
    "data_pipelines",
    "hkdnet_jax.runtime",
    "hkdnet_jax.ops",
    "hkdnet_jax.models",
    "hkdnet_jax.released",
    "hkdnet_jax.losses",
    "hkdnet_jax.metrics",
    "hkdnet_jax.model_files",
    "hkdnet_jax.pretrained",
    "hkdnet_jax.exported",
    "hkdnet_jax.training",
    "configs",
    "hkdnet_jax.inference",
    "hkdnet_jax.evaluation",
    "hkdnet_jax.baselines",
    "hkdnet_jax.measuring",
    "hkdnet_jax.web",
    "hkdnet_jax",  # the commands
)
# What the order alone does not forbid.
FORBIDDEN = {
    "hkdnet_jax.inference": ("hkdnet_jax.training", "data_pipelines", "configs"),
    "hkdnet_jax.measuring": ("configs",),
    "hkdnet_jax.baselines": ("configs",),
    "hkdnet_jax.web": ("hkdnet_jax.training", "configs"),
    "hkdnet_jax.evaluation": ("hkdnet_jax.training", "configs"),
    "hkdnet_jax": ("configs",),  # they are not installed
}
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


@functools.cache
def trees() -> dict[str, ast.Module]:
    """Parsed when a test asks: every process of the suite collects all tests."""
    return {name: ast.parse(path.read_text()) for name, path in FILES.items()}


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
    """The nodes that run when a module is imported.

    All but the bodies of functions, and what only type checkers look at.
    """
    for child in ast.iter_child_nodes(node):
        function = isinstance(
            child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        )
        typing = isinstance(child, ast.If) and (
            getattr(child.test, "id", None) == "TYPE_CHECKING"
        )
        if not (function or typing):
            yield child
            yield from _at_import(child)


def _imports(name: str, nodes: Iterator[ast.AST]) -> set[str]:
    return {module for node in nodes for module in _imported(name, node)}


def _all_imports(name: str) -> set[str]:
    return _imports(name, ast.walk(trees()[name]))


def _roots(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def _folder(name: str) -> str:
    """The entry of FLOW that a module lies in."""
    fitting = [f for f in FLOW if name == f or name.startswith(f"{f}.")]
    return max(fitting, key=len)


def folder_imports(folder: str) -> list[str]:
    """The other folders that the files of a folder import, in the order of FLOW."""
    files = [name for name in FILES if _folder(name) == folder]
    modules = set().union(*(_own(_all_imports(name), name) for name in files))
    return [f for f in FLOW if f in {_folder(m) for m in modules} - {folder}]


def _own(modules: set[str], name: str) -> set[str]:
    """The project's modules among some, without the module itself."""
    return {m for m in modules if m in FILES and m not in (name, "hkdnet_jax")}


def test_the_tree_was_read():
    assert {"data_pipelines.pairs", "hkdnet_jax.main", "configs.base"} <= FILES.keys()
    steps = _all_imports("hkdnet_jax.training.steps")
    assert {"hkdnet_jax.common.arrays", "hkdnet_jax.training.state"} <= steps


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_imports_only_earlier_folders(name):
    if name == "hkdnet_jax":
        # The package itself imports nothing; its attributes are loaded when asked for.
        assert not _own(_imports(name, _at_import(trees()[name])), name)
        return
    here, modules = _folder(name), _own(_all_imports(name), name)
    later = {m for m in modules if FLOW.index(_folder(m)) > FLOW.index(here)}
    assert not later
    unwanted = {m for m in modules if _folder(m) in FORBIDDEN.get(here, ())}
    assert not unwanted


def test_every_folder_has_its_place():
    folders = {".".join(name.split(".")[:2]) for name in FILES if name.count(".") > 1}
    assert folders - {"data_pipelines.tfds_ir_vis"} <= set(FLOW)


def test_a_command_is_thin():
    commands = [name for name in FILES if _folder(name) == "hkdnet_jax"]
    assert "hkdnet_jax.fuse" in commands
    for name in commands:
        assert len(FILES[name].read_text().splitlines()) <= 120, name


def test_no_imports_in_a_circle():
    graph = {name: _own(_all_imports(name), name) for name in FILES}
    # `from package import module` in a package's own module is no circle.
    for name, modules in graph.items():
        graph[name] = {m for m in modules if not name.startswith(f"{m}.")}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("name", sorted(FILES))
def test_private_names_stay_in_their_file(name):
    imports = [n for n in ast.walk(trees()[name]) if isinstance(n, ast.ImportFrom)]
    own = [n for n in imports if n.level or (n.module or "").startswith(PACKAGES)]
    names = [alias.name for node in own for alias in node.names]
    assert not [taken for taken in names if taken.startswith("_")]


HOST_SIDE = (
    "archives",
    "errors",
    "image_files",
    "image_formats",
    "levels",
    "streams",
    "pair_files",
    "atomic_files",
    "paths",
)


@pytest.mark.parametrize(
    "name", sorted(n for n in FILES if n.startswith("data_pipelines"))
)
def test_the_host_side_imports_no_jax(name):
    allowed = {f"hkdnet_jax.common.{module}" for module in HOST_SIDE}
    assert not _roots(_all_imports(name)) & USES_JAX
    own = {m for m in _own(_all_imports(name), name) if m.startswith("hkdnet_jax")}
    assert own <= allowed | {"hkdnet_jax.common"}


@pytest.mark.parametrize("module", HOST_SIDE)
def test_what_the_host_side_shares_imports_no_jax(module):
    own, outside = _eager_closure(f"hkdnet_jax.common.{module}")
    assert not outside & USES_JAX
    assert all(name.startswith("hkdnet_jax.common") for name in own)


def test_one_file_imports_orbax():
    users = {name for name in FILES if "orbax" in _roots(_all_imports(name))}
    assert users == {"hkdnet_jax.training.checkpoint"}


def test_one_file_imports_clu_and_tensorflow_and_lazily():
    program = [name for name in FILES if name.startswith("hkdnet_jax")]
    users = {name for name in program if _roots(_all_imports(name)) & TENSORFLOW}
    assert users == {"hkdnet_jax.training.writers"}
    for name in FILES:
        eager = _roots(_imports(name, _at_import(trees()[name])))
        assert not eager & {"tensorflow", "clu", "keras"}, name


def test_one_folder_imports_gradio_and_its_command_does_so_late():
    server = {"gradio", "fastapi", "uvicorn"}
    users = {_folder(name) for name in FILES if _roots(_all_imports(name)) & server}
    assert users == {"hkdnet_jax.web"}
    assert not _eager_closure("hkdnet_jax.demo")[1] & server


def test_one_file_names_mesh_axes():
    users = {name for name, tree in trees().items() if _names_axes(tree)}
    assert users == {"hkdnet_jax.runtime.sharding"}


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
        modules = _imports(name, _at_import(trees()[name]))
        waiting += [module for module in modules if module in FILES]
        outside |= _roots(modules)
    return own, outside


def test_fuse_loads_neither_tensorflow_nor_the_training():
    own, outside = _eager_closure("hkdnet_jax.fuse")
    assert not outside & (TENSORFLOW | {"orbax", "grain", "optax"})
    assert not [name for name in own if name.startswith("hkdnet_jax.training")]


def test_comparing_does_not_load_the_training():
    """Only `baselines.training` may, which is no part of a method."""
    own, outside = _eager_closure("hkdnet_jax.compare")
    assert "hkdnet_jax.baselines.edsr" in own
    assert not [name for name in own if name.startswith("hkdnet_jax.training")]
    assert not outside & {"orbax", "grain", "optax", "ml_collections"}


@pytest.mark.parametrize("command", ["main", "compile_check"])
def test_a_command_of_the_extra_train_loads_it_late(command):
    own, outside = _eager_closure(f"hkdnet_jax.{command}")
    assert not outside & (TENSORFLOW | {"orbax", "grain", "optax", "ml_collections"})
    assert "hkdnet_jax.training.command_line" not in own
    # Inside `needs_extra`, which says what to install.
    assert "hkdnet_jax.training.command_line" in _all_imports(f"hkdnet_jax.{command}")


def test_training_loads_tensorflow_only_when_it_writes_for_tensorboard():
    own, outside = _eager_closure("hkdnet_jax.training.workdir")
    assert "hkdnet_jax.training.writers" in own
    assert not outside & TENSORFLOW
