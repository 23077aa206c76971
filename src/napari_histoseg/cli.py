"""The command line: arguments only. What a command does is in the Python calls, which take the same names."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from napari_histoseg.arguments import how_to_resume, parse_settings, polygons, weights_file
from napari_histoseg.errors import HistosegError, SettingsError

if TYPE_CHECKING:
    from types import FrameType

    from napari_histoseg.results import Result

EXISTING = click.Path(exists=True, path_type=Path)
ANY_PATH = click.Path(path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
set_option = click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting; may be repeated. 'histoseg methods NAME' lists them.",
)
device_option = click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), help="Where the network runs.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what is there.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="napari-histoseg", prog_name="histoseg")
def cli() -> None:
    """Find and measure nuclei in H&E whole-slide images.

    The same from napari (napari slide.svs) and from Python (import napari_histoseg).
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0 done, 1 the run failed, 2 wrong arguments or input, 130 interrupted. The reason is one line on stderr;
    ``HISTOSEG_DEBUG=1`` adds the traceback.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        result = cli.main(given, prog_name="histoseg", standalone_mode=False, obj=given)
        return result if isinstance(result, int) else 0
    except (KeyboardInterrupt, click.Abort) as stop:
        return _fail(str(stop) or "interrupted.", 130)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "histoseg"
        return _fail(f"{error.format_message()} See '{where} --help'.", 2)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except HistosegError as error:
        return _fail(str(error), error.exit_code)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        return _fail(f"{what} (this was not expected; HISTOSEG_DEBUG=1 shows where it happened)", 1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """``kill`` ends a run as Ctrl-C does."""
    raise KeyboardInterrupt


def _fail(reason: str, code: int) -> int:
    if os.environ.get("HISTOSEG_DEBUG") == "1":
        traceback.print_exc()
    click.echo(f"histoseg: {' '.join(reason.split())}", err=True)
    return code


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


@cli.command()
@click.option("--out", type=ANY_PATH, default=Path("histoseg-demo"), show_default=True, help="Folder to write to.")
@json_option
def demo(out: Path, as_json: bool) -> None:
    """Find the nuclei of a sample slide, print a summary and write a picture."""
    from napari_histoseg.console import Progress
    from napari_histoseg.demo import run_demo

    progress = Progress()
    with closing(progress):
        summary = run_demo(out, progress)
    if as_json:
        _print_json(summary)
        return
    click.echo(f"{summary['nuclei']} nuclei in {summary['slide']}, {summary['mpp']:.3g} µm/px")
    click.echo(f"  density    {summary['nuclei_per_mm2']:.0f} per mm² of tissue ({summary['tissue_mm2']:.3f} mm²)")
    click.echo(f"  mean area  {summary['mean_area_um2']:.1f} µm²")
    click.echo(f"  time       {summary['seconds']:.1f} s on {summary['device']}")
    for kind, path in summary["files"].items():
        click.echo(f"  {kind:<9}  {path}")


@cli.command()
@click.argument("slide", type=ANY_PATH)
@click.option("--json", "as_json", is_flag=True, hidden=True)
def info(slide: Path, as_json: bool) -> None:
    """Print what a slide is, as JSON: size, levels, µm/px and its source, vendor, format."""
    import napari_histoseg as hs

    with hs.open_slide(slide) as opened:
        _print_json(opened.describe())


@cli.command("methods")
@click.argument("name", required=False)
@json_option
def list_methods(name: str | None, as_json: bool) -> None:
    """List the methods; with NAME, the settings of one."""
    from napari_histoseg import methods

    if name is not None:
        schema = methods.get(name).spec.settings.model_json_schema()
        if as_json:
            _print_json(schema)
            return
        for key, field in schema["properties"].items():
            click.echo(f"{key:<20} {json.dumps(field['default']):<10} {field['description']}")
        return
    specs = [methods.get(known).spec for known in methods.names()]
    if as_json:
        _print_json([{"name": s.name, "title": s.title, "summary": s.summary, "outputs": s.outputs} for s in specs])
        return
    for spec in specs:
        click.echo(f"{spec.name:<10} {spec.summary}")


@cli.command()
@click.argument("method")
@click.argument("slide", type=ANY_PATH)
@click.option("--out", type=ANY_PATH, required=True, help="Folder of the result.")
@click.option("--region", type=int, nargs=4, metavar="X Y W H", help="A rectangle in level-0 pixels.")
@click.option("--regions", type=EXISTING, help="GeoJSON file with polygons in level-0 pixels, as QuPath writes it.")
@click.option("--mpp", type=float, help="µm per level-0 pixel, when the slide does not say or is wrong.")
@click.option("--weights", help="A .safetensors file, or a name from 'histoseg weights list'.")
@set_option
@device_option
@click.option("--resume", is_flag=True, help="Go on with an interrupted run in --out.")
@overwrite_option
@json_option
@click.pass_obj
def run(
    given: list[str],
    method: str,
    slide: Path,
    out: Path,
    region: tuple[int, int, int, int] | None,
    regions: Path | None,
    mpp: float | None,
    weights: str | None,
    pairs: tuple[str, ...],
    device: str | None,
    resume: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Run METHOD on SLIDE and store the result in a folder."""
    import napari_histoseg as hs
    from napari_histoseg import methods

    settings = parse_settings(pairs, device=device)
    methods.get(method).spec.settings.parse(settings)
    if resume and overwrite:
        raise SettingsError("--resume keeps the result in --out and --overwrite deletes it. Give one of them.")
    if region is not None and regions is not None:
        raise SettingsError("--region and --regions both say where to run. Give one of them.")
    from napari_histoseg.console import Progress, watch_run

    with hs.open_slide(slide, mpp=mpp) as opened, closing(Progress()) as progress:
        events = hs.iter_run(
            method,
            opened,
            out=out,
            region=region if regions is None else polygons(regions),
            weights=None if weights is None else weights_file(weights),
            resume=resume,
            overwrite=overwrite,
            **settings,
        )
        try:
            finished = watch_run(events, progress)
        except KeyboardInterrupt:
            progress.close()
            raise KeyboardInterrupt(how_to_resume(given, out / "run.json")) from None
    _report(finished.result, finished.seconds, as_json)


def _report(result: Result, seconds: float, as_json: bool) -> None:
    record = result.record
    summary: dict[str, Any] = {
        "result": str(result.path),
        "method": record.method,
        "objects": len(result.objects) if result.has_objects else None,
        "tiles": record.n_tiles,
        "failed_tiles": len(record.failed_tiles),
        "mpp": record.mpp,
        "device": record.device,
        "seconds": round(seconds, 3),
    }
    if as_json:
        _print_json(summary)
        return
    found = "" if summary["objects"] is None else f"{summary['objects']} objects, "
    click.echo(f"{result.path}: {found}{record.n_tiles} tiles, {seconds:.1f} s on {record.device}")
    if record.failed_tiles:
        click.echo(f"{len(record.failed_tiles)} tiles could not be read and are left out; run.json lists them.")


@cli.command()
@click.argument("method")
@click.argument("dataset", type=ANY_PATH)
@click.option("--out", type=ANY_PATH, required=True, help="The .safetensors file to write.")
@set_option
@click.option("--seed", type=int, help="Seed of everything random.")
@device_option
@click.option("--resume", is_flag=True, help="Go on from the checkpoint beside --out.")
@json_option
@click.pass_obj
def train(
    given: list[str],
    method: str,
    dataset: Path,
    out: Path,
    pairs: tuple[str, ...],
    seed: int | None,
    device: str | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Train METHOD on a patch DATASET and write its weights."""
    import napari_histoseg as hs
    from napari_histoseg.console import Progress, watch_training

    settings = parse_settings(pairs, seed=seed, device=device)
    with closing(Progress()) as progress:
        try:
            trained = watch_training(hs.iter_train(method, dataset, out=out, resume=resume, **settings), progress)
        except KeyboardInterrupt:
            progress.close()
            raise KeyboardInterrupt(how_to_resume(given, out.with_suffix(".checkpoint.pt"))) from None
    if as_json:
        _print_json({"weights": str(trained.weights), "scores": trained.scores, "seconds": round(trained.seconds, 3)})
        return
    best = ", ".join(f"{name} {value:.4g}" for name, value in trained.scores.items())
    click.echo(f"{trained.weights}: {best}, {trained.seconds:.0f} s")


@cli.command("export")
@click.argument("result", type=ANY_PATH)
@click.argument("out", type=ANY_PATH)
@overwrite_option
def export_result(result: Path, out: Path, overwrite: bool) -> None:
    """Write RESULT as OUT; the extension says how.

    .geojson .geojson.gz .csv .parquet .h5ad .tif .ome.tif .zarr .png
    """
    import napari_histoseg as hs

    click.echo(hs.export(result, out, overwrite=overwrite))


@cli.command()
@click.argument("method")
@click.argument("prediction", type=ANY_PATH)
@click.argument("truth", type=ANY_PATH)
@click.option("--classes", help="Names separated by commas, for methods that have classes.")
@click.option("--json", "as_json", is_flag=True, hidden=True)
def score(method: str, prediction: Path, truth: Path, classes: str | None, as_json: bool) -> None:
    """Score PREDICTION against TRUTH, label images, results or folders of them, as JSON."""
    import napari_histoseg as hs

    names = [name.strip() for name in classes.split(",")] if classes else None
    _print_json(hs.score(method, prediction, truth, classes=names))


@cli.group()
def weights() -> None:
    """The weights that ship with the package, and the model cards of others."""


@weights.command("list")
@json_option
def list_weights(as_json: bool) -> None:
    """List the weights that ship with the package."""
    import napari_histoseg as hs

    rows = hs.list_weights()
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        click.echo(f"{row['name']:<16} {row['method']:<10} {row['card']['mpp']:g} µm/px  {row['card']['summary']}")


@weights.command("show")
@click.argument("name")
@json_option
def show_weights(name: str, as_json: bool) -> None:
    """Print the model card of weights: NAME from the list, or a file."""
    from napari_histoseg.nn.weights import read_card

    card = read_card(weights_file(name)).model_dump()
    if as_json:
        _print_json(card)
        return
    for key, value in card.items():
        click.echo(f"{key:<14} {value if isinstance(value, (str, int, float)) else json.dumps(value, ensure_ascii=False)}")
