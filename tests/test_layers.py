"""Who may import whom, read from the source. Nothing is imported, so nothing can hide."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
APPS = ("agent", "people", "devices", "experiments", "sync", "labsite")
#: What both sides of the wire share; the server imports the first, which passes the second on,
#: and the third.
WIRE = ("agent/wire.py", "agent/codec.py", "agent/code/manifest.py")
#: How a service is installed, the same for both programs.
INSTALLER = {"agent.service.managers", "agent.service.unitfiles", "agent.errors"}
LEAVES = {"labsite.errors", "labsite.api", "labsite.wake", "labsite.clock", "agent.wire"}
#: What a snapshot of code is, the same for whoever makes, keeps and restores it.
LEAVES |= {"agent.code.manifest"}

#: Package -> the packages or modules of ours that it may import, besides itself.
MAY_IMPORT: dict[str, set[str]] = {
    "agent": set(),
    "people": LEAVES,
    "devices": LEAVES | {"people"},
    "experiments": LEAVES | {"people", "devices"},
    "sync": LEAVES | {"people", "devices", "experiments"},
    "labsite": {"agent.wire", "agent.code.manifest", "people", "devices", "experiments", "sync"}
    | INSTALLER,
}
#: What an agent may need on a GPU host, besides the standard library.
AGENT_NEEDS = {"pynvml", "requests", "urllib3", "yaml"}
#: What the people's command has besides, where it is installed: in one module, which asks first.
SHOWN_BY = {"agent/cli/show.py": {"rich"}}
#: What the people's command may use of the agent: nothing that runs on a GPU host.
OF_BOTH = {"agent.cli", "agent.wire", "agent.codec", "agent.errors", "agent.reach"}
OF_BOTH |= {"agent.files.globs", "agent.code.manifest"}  # what a snapshot of code is
VIEWS = {"views", "agent_views"}
#: Loading one of these on the server costs memory or lets a file run code.
NEVER_ON_SERVER = {"torch", "torchvision", "pickle", "dill", "cloudpickle", "joblib", "marshal"}
#: The one place where YAML is read, and it only composes nodes.
YAML_READERS = {"experiments/yamltree.py", "experiments/values.py", "experiments/options.py"}
YAML_READERS |= {"experiments/config.py", "experiments/grid.py", "experiments/yamledit.py"}
YAML_READERS |= {"experiments/discreet.py"}


def modules(*packages: str) -> list[str]:
    return [
        str(path.relative_to(ROOT))
        for package in packages
        for path in sorted((ROOT / package).rglob("*.py"))
        if "migrations" not in path.parts
    ]


@cache
def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), path)


def imports(node: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Each import statement below `node` with a name it imports: module, or module.name."""
    for statement in ast.walk(node):
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                yield statement, alias.name
        elif isinstance(statement, ast.ImportFrom) and not statement.level:
            for alias in statement.names:
                yield statement, f"{statement.module}.{alias.name}"


def is_within(name: str, allowed: set[str]) -> bool:
    """Whether `name` is one of `allowed` or lies in it."""
    return any(name == one or name.startswith(f"{one}.") for one in allowed)


def package_of(path: str) -> str:
    return path.split("/")[0]


@pytest.mark.parametrize("path", modules(*APPS))
def test_packages_import_only_downwards(path):
    package = package_of(path)

    for _, name in imports(tree(path)):
        if name.split(".")[0] in set(APPS) - {package}:
            assert is_within(name, MAY_IMPORT[package]), f"{path} imports {name}"


@pytest.mark.parametrize("path", [f"{leaf.replace('.', '/')}.py" for leaf in sorted(LEAVES)])
def test_a_leaf_imports_nothing_of_ours_but_leaves(path):
    for _, name in imports(tree(path)):
        if name.split(".")[0] in APPS:
            assert is_within(name, LEAVES | {"agent.codec"}), f"{path} imports {name}"


@pytest.mark.parametrize("path", modules("agent"))
def test_the_agent_needs_only_what_its_host_has(path):
    for _, name in imports(tree(path)):
        top = name.split(".")[0]
        needs = AGENT_NEEDS | SHOWN_BY.get(path, set())
        known = top == "agent" or top in sys.stdlib_module_names or top in needs
        assert known, f"{path} imports {name}"


@pytest.mark.parametrize("path", modules("agent/cli"))
def test_the_peoples_command_imports_nothing_of_the_daemon(path):
    for _, name in imports(tree(path)):
        if name.split(".")[0] == "agent":
            assert is_within(name, OF_BOTH), f"{path} imports {name}"


def test_the_wire_needs_the_standard_library_only():
    names = [name for path in WIRE for _, name in imports(tree(path))]

    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"agent"}
    assert all(is_within(name, {"agent.codec"}) for name in names if name.startswith("agent"))


def test_the_installer_needs_the_standard_library_only():
    allowed = INSTALLER | {"agent.host"}
    paths = [f"{name.replace('.', '/')}.py" for name in sorted(allowed)]

    for name in (name for path in paths for _, name in imports(tree(path))):
        assert name.split(".")[0] in sys.stdlib_module_names or is_within(name, allowed), name


def is_python_3_10(code: str) -> bool:
    try:
        ast.parse(code, feature_version=(3, 10))
    except SyntaxError:
        return False
    return True


@pytest.mark.parametrize("path", modules("agent"))
def test_the_agent_is_python_3_10(path):
    assert is_python_3_10((ROOT / path).read_text())


def test_what_came_with_3_11_is_not_python_3_10():
    assert not is_python_3_10("try: pass\nexcept* OSError: pass")


@pytest.mark.parametrize("path", modules("people", "devices", "experiments", "sync", "labsite"))
def test_the_server_loads_neither_torch_nor_what_runs_code_from_a_file(path):
    for _, name in imports(tree(path)):
        assert name.split(".")[0] not in NEVER_ON_SERVER, f"{path} imports {name}"
        if name.split(".")[0] == "yaml":
            assert path in YAML_READERS, f"{path} imports {name}"


@pytest.mark.parametrize("path", modules(*APPS))
def test_yaml_is_never_constructed_into_objects(path):
    unsafe = {"load", "load_all", "full_load", "unsafe_load", "FullLoader", "UnsafeLoader"}

    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id != "yaml" or node.attr not in unsafe, f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", modules(*APPS))
def test_imports_are_absolute(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}"


def is_view(path):
    return Path(path).stem in VIEWS or path.startswith("experiments/api/")


@pytest.mark.parametrize("path", modules("people", "devices", "experiments", "sync", "labsite"))
def test_only_urls_and_other_views_import_views(path):
    if is_view(path):
        pytest.skip("a view may stand on a base class of a lower app")
    for statement, name in imports(tree(path)):
        top, *rest = name.split(".")
        if top in APPS and (VIEWS & set(rest) or (top, *rest[:1]) == ("experiments", "api")):
            assert path.endswith("urls.py"), f"{path}:{statement.lineno} imports {name}"


@pytest.mark.parametrize("path", modules(*APPS))
def test_no_function_imports_what_is_ours(path):
    if path.endswith("apps.py") or path.startswith(("labsite/run/", "labsite/management/")):
        pytest.skip(
            "Django wants it in ready(); a process of runlab's imports what it alone needs"
        )
    for function in ast.walk(tree(path)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for statement, name in imports(function):
                assert name.split(".")[0] not in APPS, f"{path}:{statement.lineno}"


def test_no_module_is_a_drawer_for_everything():
    drawers = {"utils.py", "util.py", "helpers.py", "services.py", "common.py", "misc.py"}

    assert [path for path in modules(*APPS) if Path(path).name in drawers] == []
