"""Documentation that works: every example runs, every link leads somewhere, every table agrees with the code."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import signal
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from napari_histoseg import methods
from napari_histoseg._testing import he_image, he_tissue, write_svs

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MANUALS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
FENCE = re.compile(r"^```(?P<kind>[\w-]*)\n(?P<text>.*?)^```$", re.M | re.S)
NOT_RUN = re.compile(r"<!-- not run: \S[^>]*-->\s*\Z")
#: Links and images, and the targets of HTML images.
LINK = re.compile(r"\]\((?P<md>[^)\s]+)\)|src=\"(?P<html>[^\"]+)\"")

per_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
per_manual = pytest.mark.parametrize("page", MANUALS, ids=lambda p: p.stem)


@dataclass(frozen=True)
class Block:
    """An example: its language, its text, and where it begins."""

    kind: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """The examples of a page that are to be run."""
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        if match["kind"] in ("python", "bash") and not NOT_RUN.search(text[: match.start()]):
            yield Block(match["kind"], match["text"], text.count("\n", 0, match.start()) + 1)


@pytest.fixture(scope="session")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples speak of: ``slide.svs``, ``truth.tif``, ``regions.geojson`` and the folder ``dataset``."""
    import tifffile

    folder = tmp_path_factory.mktemp("docs")
    image, labels = he_tissue(400, 400, seed=1, mpp=0.25)
    write_svs(folder / "slide.svs", image, mpp=0.25)
    Image.fromarray(image[:200, :200]).save(folder / "photo.png")
    tifffile.imwrite(folder / "truth.tif", labels.astype("uint16"))
    ring = [[50, 50], [350, 50], [350, 350], [50, 350], [50, 50]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    collection = {"type": "FeatureCollection", "features": [feature]}
    (folder / "regions.geojson").write_text(json.dumps(collection))
    write_patches(folder / "dataset")
    write_outlined(folder / "slides")
    write_coarse(folder)
    return folder


def write_coarse(folder: Path) -> None:
    """A heatmap of the slide, and a dataset of blocks with coarse labels and their shares."""
    Image.fromarray(he_image(40, 40, seed=3, mpp=4)[..., 0]).save(folder / "heat.png")
    (folder / "coarse").mkdir()
    statistics = [{"coarse": label, "class": 1, "eta": eta, "rho": 0.1} for label, eta in enumerate((0.05, 0.3, 0.7, 0.95))]
    Image.fromarray(he_image(4, 4, seed=4, mpp=4)[..., 0] % 4).save(folder / "coarse" / "blocks.png")
    patches = [{"slide": "../slide.svs", "box": [0, 0, 400, 400], "blocks": "blocks.png"}]
    content = {"mpp": 0.25, "classes": [{"value": 1, "name": "tumour"}], "patches": patches, "statistics": statistics}
    (folder / "coarse" / "dataset.json").write_text(json.dumps(content))


def write_outlined(folder: Path) -> None:
    """Two small slides with tumour in their middle: outlined in GeoJSON, and painted."""
    folder.mkdir()
    for i, name in enumerate("ab"):
        write_svs(folder / f"{name}.svs", he_image(512, 512, seed=20 + i, mpp=0.5, glass=0), mpp=1.0)
    ring = [[128, 128], [384, 128], [384, 384], [128, 384], [128, 128]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    (folder / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    mask = Image.new("L", (64, 64))
    mask.paste(1, (16, 16, 48, 48))
    mask.save(folder / "b-mask.png")


def write_patches(folder: Path) -> None:
    """Four small annotated patches of four patients."""
    patches = []
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for i, name in enumerate("abcd"):
        image, labels = he_tissue(96, 96, seed=10 + i, mpp=0.25)
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        Image.fromarray(labels.astype("uint16")).save(folder / "masks" / f"{name}.png")
        files = {"image": f"images/{name}.png", "mask": f"masks/{name}.png"}
        patches.append({**files, "group": f"patient {i + 1}"})
    (folder / "dataset.json").write_text(json.dumps({"version": 1, "mpp": 0.25, "patches": patches}))


@contextlib.contextmanager
def default_signals() -> Iterator[None]:
    """The command line changes what a signal does; afterwards it is as before."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_bash(block: Block, page: Path) -> None:
    """Run the lines that call ``histoseg``."""
    from napari_histoseg.cli import main

    for line in block.text.replace("\\\n", " ").splitlines():
        if line.startswith("histoseg "):
            with default_signals():
                code = main(shlex.split(line, comments=True)[1:])
            assert code == 0, f"{page.name}:{block.line}: {line}"


@per_page
def test_examples_run(page: Path, things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "work"
    shutil.copytree(things, folder)
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.kind == "bash":
            run_bash(block, page)
        else:
            # Empty lines in front make a traceback name the line of the page.
            exec(compile("\n" * block.line + block.text, str(page), "exec"), names)


@per_manual
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [m["md"] or m["html"] for m in LINK.finditer(FENCE.sub("", text))]
    missing = []
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            missing.append(target)
    assert not missing


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ +(.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@per_manual
def test_fences_say_their_language(page: Path) -> None:
    assert all(match["kind"] for match in FENCE.finditer(page.read_text(encoding="utf-8")))


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert not [page.name for page in PAGES[1:] if page.name != "index.md" and f"({page.name})" not in index]


def first_column(page: Path, heading: str) -> list[list[str]]:
    """The rows of the first table under a heading, without its head."""
    text = page.read_text(encoding="utf-8").split(f"\n{heading}\n", 1)[1]
    rows: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    return rows[2:]


def test_readme_says_what_every_dependency_is_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {re.split(r"[\[<>=!~ ;]", name)[0] for name in project["dependencies"]}
    rows = first_column(ROOT / "README.md", "## Dependencies")
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row[0])} == required
    assert all(row[1] for row in rows)


def test_training_settings_are_those_of_the_model() -> None:
    model = methods.get("nuclei").spec.training
    assert model is not None
    rows = {row[0].strip("`"): row[1] for row in first_column(ROOT / "docs" / "training.md", "## Settings")}
    assert rows == {name: str(field.default) for name, field in model.model_fields.items()}


def test_every_column_of_the_table_is_explained(things: Path, tmp_path: Path) -> None:
    import napari_histoseg as hs

    result = hs.run("nuclei", things / "slide.svs", out=tmp_path / "result", model="log")
    explained = {name for row in first_column(ROOT / "docs" / "results.md", "## The table") for name in re.findall(r"`([^`]+)`", row[0])}
    assert set(result.table(outlines=True).columns) == explained


def test_readme_begins_with_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = next(match["text"] for match in FENCE.finditer(text) if match["kind"] == "bash")
    assert first.split("\n")[:-1] == ["bash tools/demo.sh", "bash tools/test.sh"]
    for command in first.split("\n")[:-1]:
        assert (ROOT / command.split()[1]).is_file()


def test_changelog_has_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
