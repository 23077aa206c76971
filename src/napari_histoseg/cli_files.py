"""Commands over what is there already: exports, scores, weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from napari_histoseg.arguments import weights_file
from napari_histoseg.console import Progress, help_without_command, print_json
from napari_histoseg.errors import SettingsError

ANY_PATH = click.Path(path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
# These print JSON in any case; the option is taken so that a program may always pass it.
already_json = click.option("--json", is_flag=True, expose_value=False, hidden=True)


@click.command()
@click.argument("result", type=ANY_PATH)
@click.argument("out", type=ANY_PATH)
@click.option("--overwrite", is_flag=True, help="Replace the file that is there.")
def export(result: Path, out: Path, overwrite: bool) -> None:
    """Write RESULT as OUT; the extension says how.

    .geojson .geojson.gz .csv .parquet .h5ad .tif .ome.tif .zarr .png
    """
    import napari_histoseg as hs

    progress = Progress()
    try:
        written = hs.export(result, out, overwrite=overwrite, step=lambda done, total: progress.update(done, total, f"{done:,} of {total:,}"))
    finally:
        progress.close()
    click.echo(written)


COARSE = ("block_um", "bins", "edges", "class_name", "area", "slide_mpp")
"""Options of an import that only blocks have; below, those that they have not."""
PAINTED = ("kind", "outside")


@click.command("import")
@click.argument("source", type=ANY_PATH)
@click.argument("dataset", type=ANY_PATH)
@click.option("--mpp", type=float, help="µm per pixel of the dataset; needed when it is new.")
@click.option("--slide", type=ANY_PATH, help="The slide that a GeoJSON was drawn on, or that blocks lie on.")
@click.option("--kind", type=click.Choice(["masks", "classes"]), help="What a folder of pictures has; found out when not given.")
@click.option("--outside", type=click.Choice(["unlabeled", "background"]), default="unlabeled", show_default=True, help="What no area of a GeoJSON covers.")
@click.option("--coarse", is_flag=True, help="Give square blocks of the slide coarse labels, for lsr.")
@click.option("--block-um", type=float, default=100.0, show_default=True, help="With --coarse: side of a block in µm.")
@click.option("--bins", type=int, default=10, show_default=True, help="With --coarse: bins of equal width.")
@click.option("--edges", metavar="0,…,1", help="With --coarse: the edges of the bins instead.")
@click.option("--class", "class_name", help="With --coarse: the class of a GeoJSON that counts.")
@click.option("--area", type=int, nargs=4, metavar="X Y W H", help="With --coarse: a rectangle in level-0 pixels that gets blocks; a picture shows just this.")
@click.option("--slide-mpp", type=float, help="With --coarse: µm per pixel of the slide, where its file does not say it.")
@json_option
@click.pass_context
def bring(
    context: click.Context, /, source: Path, dataset: Path, mpp: float | None, slide: Path | None, coarse: bool, as_json: bool, **how: Any
) -> None:
    """Bring annotations in SOURCE into the patch DATASET, which is made when there is none.

    SOURCE is GeoJSON as QuPath writes it, a folder with images and masks, or a folder with a folder of pictures for each class.

    With --coarse, blocks of a slide get labels for lsr. SOURCE is then a result with a heatmap, a gray picture of the slide, a table (CSV)
    with x, y and probability, or GeoJSON; without a slide DATASET itself, whose classification patches become blocks, or a folder with a
    folder of pictures for each class.
    """
    foreign = PAINTED if coarse else COARSE
    given = [name for name in foreign if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given:
        option = "--class" if given[0] == "class_name" else f"--{given[0].replace('_', '-')}"
        rule = "has no meaning with --coarse. Leave one of them out." if coarse else "has a meaning only with --coarse. Give --coarse, or leave it out."
        raise SettingsError(f"{option} {rule}")
    if coarse:
        if how["edges"] is not None and context.get_parameter_source("bins") is ParameterSource.COMMANDLINE:
            raise SettingsError("--bins and --edges both say what the bins are. Give one of them.")
        own = {name: how[name] for name in COARSE} | {"edges": _numbers("--edges", how["edges"])}
        _bring_blocks(source, dataset, as_json, mpp=mpp, slide=slide, **own)
    else:
        _bring_patches(source, dataset, as_json, mpp=mpp, slide=slide, **{name: how[name] for name in PAINTED})


def _bring_patches(source: Path, dataset: Path, as_json: bool, **how: Any) -> None:
    from napari_histoseg.annotations.bring import import_annotations

    report = import_annotations(source, dataset, **how)
    if as_json:
        print_json({"dataset": str(dataset), "added": len(report.added), "notices": list(report.notices)})
        return
    for notice in report.notices:
        click.echo(notice, err=True)
    click.echo(f"{len(report.added)} patches: {dataset}")


def _bring_blocks(source: Path, dataset: Path, as_json: bool, **how: Any) -> None:
    import napari_histoseg as hs

    report = hs.import_blocks(source, dataset, **how)
    if as_json:
        print_json({"dataset": str(dataset), **asdict(report)})
        return
    for notice in report.notices:
        click.echo(notice, err=True)
    for name, count in report.blocks.items():
        click.echo(f"{count:6,}  {name}")
    of = f" of {report.rows} × {report.columns}" if report.id else ""
    click.echo(f"{sum(report.blocks.values()):,}{of} blocks: {dataset}")


def _numbers(option: str, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise SettingsError(f"{option} {text}: give numbers from 0 to 1 with commas between them, such as 0,0.2,0.5,1.") from None


@click.command()
@click.argument("method")
@click.argument("prediction", type=ANY_PATH)
@click.argument("truth", type=ANY_PATH)
@click.option("--classes", help="Names separated by commas, for methods that have classes.")
@click.option("--source", type=ANY_PATH, help="For stain: what PREDICTION was made from, to score what was kept of it.")
@click.option("--mpp", type=float, help="For lsr: µm per pixel of TRUTH, for scores near the boundary; a result brings its own.")
@click.option("--within-um", type=float, help="For lsr: how far from the true boundary these scores reach; 1000 when not given.")
@already_json
def score(
    method: str, prediction: Path, truth: Path, classes: str | None, source: Path | None, mpp: float | None, within_um: float | None
) -> None:
    """Score PREDICTION against TRUTH as JSON: label images, results or folders of them.

    For stain, PREDICTION is a normalized picture and TRUTH one in the style that it should have.
    """
    import napari_histoseg as hs

    names = [name.strip() for name in classes.split(",")] if classes else None
    print_json(hs.score(method, prediction, truth, classes=names, source=source, mpp=mpp, within_um=within_um))


@click.group(invoke_without_command=True)
@click.pass_context
def weights(context: click.Context) -> None:
    """The weights that ship with the package, and the model cards of others."""
    help_without_command(context)


@weights.command("list")
@json_option
def list_weights(as_json: bool) -> None:
    """List the weights that ship with the package."""
    import napari_histoseg as hs

    rows = hs.list_weights()
    if as_json:
        print_json(rows)
        return
    for row in rows:
        click.echo(f"{row['name']:<16} {row['method']:<10} {row['card']['mpp']:g} µm/px  {row['card']['summary']}")


@weights.command("carry")
@click.argument("result", type=ANY_PATH)
@click.argument("out", type=ANY_PATH)
def carry_weights(result: Path, out: Path) -> None:
    """Write the classes of RESULT (of cells), with their names, colors and corrections, as weights OUT for the next slide."""
    import napari_histoseg as hs

    click.echo(hs.carry(result, out))


@weights.command("onnx")
@click.argument("name")
@click.argument("out", type=ANY_PATH)
@click.option("--tile", type=ANY_PATH, help="A picture of tissue to compare torch and ONNX Runtime on; random pixels when not given.")
@click.option("--overwrite", is_flag=True, help="Replace another export in OUT.")
@json_option
def write_onnx(name: str, out: Path, tile: Path | None, overwrite: bool, as_json: bool) -> None:
    """Write the networks of NAME (weights of tumour) as ONNX into the folder OUT, with a pipeline for FastPathology."""
    import napari_histoseg as hs

    described = hs.export_onnx(weights_file(name), out, tile=tile, overwrite=overwrite)
    if as_json:
        print_json({"folder": str(out), **described})
        return
    for file, difference in described["largest_difference"].items():
        click.echo(f"{file:<18} differs from torch by at most {difference:.1e}")
    if not described["largest_difference"]:
        click.echo("Not compared with torch: that needs the package onnxruntime.", err=True)
    click.echo(out)


@weights.command("show")
@click.argument("name")
@json_option
def show_weights(name: str, as_json: bool) -> None:
    """Print the model card of weights: NAME from the list, or a file."""
    from napari_histoseg.nn.weights import read_card

    card = read_card(weights_file(name)).model_dump()
    if as_json:
        print_json(card)
        return
    for key, value in card.items():
        text = value if isinstance(value, (str, int, float)) else json.dumps(value, ensure_ascii=False)
        click.echo(f"{key:<14} {text}")
