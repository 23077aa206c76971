"""The rules of the house: who imports whom, how large things get, what every method has. Kept here, not by memory."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from napari_histoseg import methods

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src" / "napari_histoseg"
PACKAGE = "napari_histoseg"
WINDOW = {"napari", "qtpy", "magicgui", "superqt", "PyQt5", "PyQt6", "PySide2", "PySide6", "vispy"}

#: The rooms that a room may import from, besides itself. Imports of types only are free.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "slide": {"errors"},
    "tiling": {"errors", "slide"},
    "objects": {"errors", "slide"},
    "metrics": {"errors", "slide"},
    "results": {"errors", "slide", "tiling", "objects"},
    "annotations": {"errors", "slide", "results", "objects"},
    "nn": {"errors"},
    "methods": {"errors", "slide", "tiling", "objects", "nn"},
    "predict": {"errors", "slide", "tiling", "methods", "nn", "results"},
    "train": {"errors", "nn"},
}
#: Single modules that may reach further, and why.
ALSO: dict[str, set[str]] = {
    # It takes results as well as arrays, and opens them only when it meets one.
    "metrics.score": {"results"},
    # Training runs on the same device and precision as prediction, and reads the settings that all trainings share.
    "train.loop": {"predict.device", "methods.settings"},
    "train.card": {"methods.settings"},
    "train.task": {"methods.settings"},
    # Objects come from results and from GeoJSON as well as from label images.
    "methods.cells.sources": {"results"},
    "methods.cells.polygons": {"annotations"},
    "methods.cells.carry": {"results"},
    "methods.tissue.carry": {"results"},
    # Classes are learned from a result of nuclei too, with features from the device that runs use.
    "methods.cells.train": {"results", "predict.device"},
    # It looks at the pictures of a patch dataset.
    "methods.stain.pictures": {"annotations"},
    # Slides are learned from with outlines in a patch dataset, or in GeoJSON and masks beside them; results there are no slides.
    "methods.tumour.outlines": {"annotations"},
    "methods.tumour.slides": {"annotations", "results.record"},
    # Kinds of tissue are found, and heatmaps scored, on the device that runs use; finding them says how far it is, as a training does.
    "methods.tumour.guide": {"predict.device", "train.loop"},
    "methods.tumour.refinetask": {"predict.device"},
    # The heatmaps that the refiner learns from are made by runs, as a person would make them.
    "methods.tumour.train": {"predict"},
    # Coarse labels of blocks, and what was painted in them, come from a patch dataset.
    "methods.lsr.table": {"annotations"},
    "methods.lsr.measure": {"annotations"},
    "methods.lsr.pictures": {"annotations"},
    # The training can be called: ``napari_histoseg.train(...)``.
    "train": {"api"},
}
#: What a method's own training may use, besides what every method may.
TRAINING = {"train", "annotations", "metrics"}
TRAINING_MODULES = {"train", "task", "gantask", "gantrain", "deeptask", "patchtask", "refinetask"}


@dataclass(frozen=True)
class Module:
    """A source file, parsed."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """Dotted name inside the package; empty for the package itself."""
        parts = self.path.relative_to(SRC).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def room(self) -> str:
        """First part of the name."""
        return self.name.split(".")[0]

    @property
    def above(self) -> bool:
        """Whether it stands above the rooms (the calls, the command line, samples) and uses all of them but the window."""
        return self.path.parent == SRC and self.name != "errors"

    @property
    def package(self) -> list[str]:
        """What a relative import of one dot starts from."""
        inside = list(self.path.relative_to(SRC).parts[:-1])
        return [PACKAGE, *inside]


def _parse(path: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    return Module(path, text, ast.parse(text))


MODULES = [_parse(path) for path in sorted(SRC.rglob("*.py"))]
per_module = pytest.mark.parametrize("module", MODULES, ids=lambda m: m.name or PACKAGE)


def _types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _nodes(tree: ast.AST, types: bool) -> Iterator[ast.AST]:
    """All nodes; with ``types`` also those that only a type checker sees."""
    for child in ast.iter_child_nodes(tree):
        if types or not _types_only(child):
            yield child
            yield from _nodes(child, types)


def imported(module: Module, types: bool) -> set[str]:
    """Dotted names that a module imports, at its head or inside functions."""
    names: set[str] = set()
    for node in _nodes(module.tree, types):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(_from(module, node))
    return names


def _from(module: Module, node: ast.ImportFrom) -> Iterator[str]:
    base = node.module or ""
    if node.level:
        start = module.package[: len(module.package) - node.level + 1]
        base = ".".join([*start, base] if base else start)
    # ``from package import room`` imports the room; ``from package.room import name`` may import a module.
    for alias in node.names:
        whole = f"{base}.{alias.name}"
        yield whole if _is_module(whole) else base


def _is_module(name: str) -> bool:
    place = SRC.parent.joinpath(*name.split("."))
    return name.startswith(PACKAGE) and (place.is_dir() or place.with_suffix(".py").is_file())


def own_imports(module: Module) -> set[str]:
    """What a module imports of this package at run time, without the package's name."""
    found = {n.partition(".")[2] for n in imported(module, types=False) if n.split(".")[0] == PACKAGE}
    return found - {""}


# -- who imports whom ---------------------------------------------------------------------------------------------------


@per_module
def test_only_the_window_imports_qt_or_napari(module: Module) -> None:
    if module.room != "gui":
        assert not {n for n in imported(module, types=True) if n.split(".")[0] in WINDOW}


@per_module
def test_only_the_window_imports_the_window(module: Module) -> None:
    if module.room != "gui":
        assert not {n for n in imported(module, types=True) if n.startswith(f"{PACKAGE}.gui")}


@per_module
def test_imports_go_with_the_data(module: Module) -> None:
    if module.room == "gui" or module.above:
        return
    allowed = {module.room, *MAY_IMPORT[module.room], *ALSO.get(module.name, set())}
    if module.room == "methods" and module.name.split(".")[-1] in TRAINING_MODULES:
        allowed |= TRAINING
    wrong = {n for n in own_imports(module) if not any(n == a or n.startswith(f"{a}.") for a in allowed)}
    assert not wrong, f"{module.name} may import only {sorted(allowed)}"


@per_module
def test_methods_do_not_know_each_other(module: Module) -> None:
    parts = module.name.split(".")
    if module.room == "methods" and len(parts) > 1 and parts[1] in methods.names():
        others = [f"methods.{name}" for name in methods.names() if name != parts[1]]
        assert not {n for n in own_imports(module) if any(n.startswith(o) for o in others)}


@pytest.mark.parametrize(
    "statement",
    [
        "import napari_histoseg",
        "import napari_histoseg; dir(napari_histoseg)",
        "from napari_histoseg import methods; assert methods.names()",
        "from napari_histoseg import methods; [methods.get(n).spec for n in methods.names()]",
        "from napari_histoseg import methods; methods.get('nuclei').spec.settings()",
        "from napari_histoseg import open_slide, open_result, export, score, tissue_mask",
    ],
)
def test_these_load_neither_torch_nor_a_window(statement: str) -> None:
    heavy = sorted(WINDOW | {"torch"})
    check = f"{statement}\nimport sys\nprint(*[n for n in {heavy!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


# -- size and words -----------------------------------------------------------------------------------------------------


@per_module
def test_modules_have_at_most_500_lines(module: Module) -> None:
    assert module.text.count("\n") <= 500


@per_module
def test_function_bodies_have_at_most_60_lines(module: Module) -> None:
    long = {
        node.name: lines
        for node in ast.walk(module.tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (lines := (node.end_lineno or 0) - node.body[0].lineno + 1) > 60
    }
    assert not long


@per_module
def test_every_module_says_what_it_is(module: Module) -> None:
    assert ast.get_docstring(module.tree)


@per_module
def test_public_functions_and_classes_have_docstrings(module: Module) -> None:
    definitions = [n for n in module.tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    bare = [n.name for n in definitions if not n.name.startswith("_") and not ast.get_docstring(n)]
    assert not bare


@per_module
def test_every_argument_has_a_type(module: Module) -> None:
    untyped = []
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            given = node.args
            every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            untyped += [f"{node.name}({a.arg})" for a in every if a is not None and a.annotation is None and a.arg not in ("self", "cls")]
    assert not untyped


# Written in two parts, so that this file does not hold them itself.
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b|NotImplemented" r"Error|place" r"holder|for n" r"ow\b")


def _written() -> list[Path]:
    folders = [SRC, *(ROOT / name for name in ("tests", "docs", "benchmarks", "training", "tools"))]
    kinds = {".py", ".md", ".yaml", ".toml", ".sh"}
    files = [f for folder in folders if folder.is_dir() for f in folder.rglob("*") if f.suffix in kinds]
    return [*files, *ROOT.glob("*.md")]


def test_nothing_is_left_unfinished() -> None:
    marks = [
        f"{path.relative_to(ROOT)}:{number} {line.strip()}"
        for path in _written()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert not marks


def _drops_errors(handler: ast.ExceptHandler) -> bool:
    broad = handler.type is None or (isinstance(handler.type, ast.Name) and handler.type.id in ("Exception", "BaseException"))
    silent = (ast.Pass, ast.Continue)
    return broad and all(isinstance(s, silent) or (isinstance(s, ast.Return) and s.value is None) for s in handler.body)


@per_module
def test_no_error_is_caught_broadly_and_dropped(module: Module) -> None:
    handlers = [n for n in ast.walk(module.tree) if isinstance(n, ast.ExceptHandler)]
    assert not [f"line {h.lineno}" for h in handlers if _drops_errors(h)]


# -- methods ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", methods.names())
class TestEveryMethod:
    """What a method brings along."""

    def test_has_a_docs_page(self, name: str) -> None:
        assert (ROOT / "docs" / f"{name}.md").is_file()

    def test_is_in_the_conformance_suite(self, name: str) -> None:
        text = (ROOT / "tests" / "methods" / f"test_{name}.py").read_text(encoding="utf-8")
        assert re.search(r"class \w+\(.*Conformance\)", text)
        assert f'"{name}"' in text

    def test_has_a_dock_widget(self, name: str) -> None:
        assert (SRC / "gui" / f"{name}.py").is_file()

    def test_has_a_benchmark(self, name: str) -> None:
        assert list((ROOT / "benchmarks").glob(f"*{name}*.py"))

    def test_has_a_spec_with_its_own_name(self, name: str) -> None:
        spec = methods.get(name).spec
        assert spec.name == name
        assert spec.title and spec.summary.endswith(".") and spec.outputs

    def test_settings_say_what_they_are(self, name: str) -> None:
        spec = methods.get(name).spec
        for model in filter(None, (spec.settings, spec.training)):
            assert not [key for key, field in model.model_fields.items() if not (field.title and field.description)]


def test_every_folder_that_declares_a_method_is_listed() -> None:
    declared = {p.parent.name for p in (SRC / "methods").glob("*/__init__.py") if "\nMETHOD = " in p.read_text(encoding="utf-8")}
    assert declared == set(methods.names())


# -- the manifest -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifest() -> dict[str, object]:
    """The contributions of ``napari.yaml``."""
    import yaml

    text = (SRC / "napari.yaml").read_text(encoding="utf-8")
    contributions: dict[str, object] = yaml.safe_load(text)["contributions"]
    return contributions


def test_menu_ids_exist_in_napari(manifest: dict[str, dict[str, object]]) -> None:
    from napari._app_model.constants import MenuId

    assert set(manifest["menus"]) <= {str(getattr(m, "value", m)) for m in MenuId.contributables()}


def test_commands_of_the_manifest_can_be_imported(manifest: dict[str, list[dict[str, str]]]) -> None:
    for command in manifest["commands"]:
        module, _, name = command["python_name"].partition(":")
        assert callable(getattr(importlib.import_module(module), name)), command["id"]


def test_every_contribution_names_a_command(manifest: dict[str, list[dict[str, str]]]) -> None:
    known = {c["id"] for c in manifest["commands"]}
    used = {entry["command"] for kind in ("readers", "sample_data", "widgets") for entry in manifest[kind]}
    menus: dict[str, list[dict[str, str]]] = manifest["menus"]  # type: ignore[assignment]
    used |= {item["command"] for items in menus.values() for item in items if "command" in item}
    assert used <= known
    assert known <= used
