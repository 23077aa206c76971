"""The command line: arguments only. What a command does is in the Python calls, which take the same names."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from napari_histoseg.arguments import how_to_resume, parse_settings, polygons, weights_file
from napari_histoseg.cli_files import ANY_PATH, already_json, bring, export, json_option, score, weights
from napari_histoseg.console import Progress, help_without_command, print_json, watch_run, watch_training
from napari_histoseg.errors import HistosegError, SettingsError

if TYPE_CHECKING:
    from types import FrameType

set_option = click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting; may be repeated. 'histoseg methods NAME' lists them.",
)
device_option = click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), help="Where the network runs.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0 done, 1 the run failed, 2 wrong arguments or input, 130 interrupted. The reason is one line on stderr;
    ``HISTOSEG_DEBUG=1`` adds the traceback.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None and not sys.warnoptions:
        warnings.simplefilter("ignore")  # they speak to programmers
    before = _interrupt_on_kill()
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
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _interrupt_on_kill() -> Any:
    """``kill`` ends a command as Ctrl-C does; returns what it did before."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    return signal.signal(signal.SIGTERM, interrupt) if in_main else None


def _fail(reason: str, code: int) -> int:
    if os.environ.get("HISTOSEG_DEBUG") == "1":
        traceback.print_exc()
    click.echo(f"histoseg: {' '.join(reason.split())}", err=True)
    return code


def _version() -> str:
    try:
        return version("napari-histoseg")
    except PackageNotFoundError:
        return "unknown"


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(_version(), prog_name="histoseg")
@click.pass_context
def cli(context: click.Context) -> None:
    """Interactive and automatic analysis of H&E whole-slide images: nuclei, stain, your own tissue classes.

    The same from napari (napari slide.svs) and from Python (import napari_histoseg).
    """
    help_without_command(context)


for command in (bring, export, score, weights):
    cli.add_command(command)


@cli.command()
@click.option("--out", type=ANY_PATH, default=Path("histoseg-demo"), show_default=True, help="Folder to write to.")
@click.option("--no-download", is_flag=True, help="Use an image that is on this machine.")
@json_option
def demo(out: Path, no_download: bool, as_json: bool) -> None:
    """Find the nuclei of a sample slide, print a summary and write a picture."""
    from napari_histoseg.demo import run_demo

    with closing(Progress()) as progress:
        found = run_demo(out, progress, download=not no_download)
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['objects']} nuclei in {found['slide']}")
    if found["density_per_mm2"] is not None:
        tissue = f"{found['area_mm2']:.3f} mm² of tissue"
        click.echo(f"  density    {found['density_per_mm2']:.0f} per mm², on {tissue}")
    if found["sd_area_um2"] is not None:
        click.echo(f"  mean area  {found['mean_area_um2']:.1f} ± {found['sd_area_um2']:.1f} µm² (mean ± SD)")
    click.echo(f"  time       {found['seconds']:.1f} s on {found['device']}")
    for kind, path in found["files"].items():
        click.echo(f"  {kind:<9}  {path}")


@cli.command()
@click.argument("slide", type=ANY_PATH)
@already_json
def info(slide: Path) -> None:
    """Print what a slide is, as JSON: size, levels, µm/px and its source, vendor, format."""
    import napari_histoseg as hs

    with hs.open_slide(slide) as opened:
        print_json(opened.describe())


@cli.command("methods")
@click.argument("name", required=False)
@json_option
def list_methods(name: str | None, as_json: bool) -> None:
    """List the methods; with NAME, the settings of one."""
    from napari_histoseg import methods

    if name is None:
        specs = [methods.get(known).spec for known in methods.names()]
        rows: Any = [{"name": s.name, "title": s.title, "summary": s.summary, "outputs": s.outputs} for s in specs]
        lines = [f"{spec.name:<10} {spec.summary}" for spec in specs]
    else:
        rows = methods.get(name).spec.settings.model_json_schema()
        fields = rows["properties"].items()
        lines = [f"{key:<20} {json.dumps(field['default']):<10} {field['description']}" for key, field in fields]
    if as_json:
        print_json(rows)
    else:
        click.echo("\n".join(lines))


@cli.command()
@click.argument("method")
@click.argument("slide", type=ANY_PATH)
@click.option("--out", type=ANY_PATH, required=True, help="Folder of the result.")
@click.option("--region", type=int, nargs=4, metavar="X Y W H", help="A rectangle in level-0 pixels.")
@click.option("--regions", type=ANY_PATH, help="GeoJSON file with areas in level-0 pixels, as QuPath writes it.")
@click.option("--mpp", type=float, help="µm per level-0 pixel, when the slide does not say or is wrong.")
@click.option("--stain", help="Read the slide in these colors: a built-in profile, a profile's file, a picture, a slide, or a trained style.")
@click.option("--stain-method", help="macenko (default), vahadane, reinhard or neural.")
@click.option("--weights", help="A .safetensors file, a name from 'histoseg weights list', or for tumour a .json of ONNX networks.")
@set_option
@device_option
@click.option("--resume", is_flag=True, help="Go on with an interrupted run in --out.")
@click.option("--overwrite", is_flag=True, help="Replace the result in --out.")
@json_option
@click.pass_obj
def run(
    given: list[str],
    /,
    method: str,
    slide: Path,
    out: Path,
    region: Any,
    regions: Path | None,
    mpp: float | None,
    stain: str | None,
    stain_method: str | None,
    weights: str | None,
    pairs: tuple[str, ...],
    device: str | None,
    as_json: bool,
    **how: bool,
) -> None:
    """Run METHOD on SLIDE and store the result in a folder."""
    import napari_histoseg as hs

    settings = parse_settings(pairs, device=device)
    hs.methods.get(method).spec.settings.parse(settings)
    if how["resume"] and how["overwrite"]:
        raise SettingsError("--resume keeps the result in --out and --overwrite deletes it. Give one of them.")
    if region is not None and regions is not None:
        raise SettingsError("--region and --regions both say where to run. Give one of them.")
    area = region if regions is None else polygons(regions)
    file = None if weights is None else weights_file(weights)
    from napari_histoseg.summary import summarize

    with hs.open_slide(slide, mpp=mpp, stain=stain, stain_method=stain_method) as opened:
        try:
            with closing(Progress()) as progress:
                events = hs.iter_run(method, opened, out=out, region=area, weights=file, **how, **settings)
                finished = watch_run(events, progress)
        except KeyboardInterrupt:
            raise click.Abort(how_to_resume(given, out / "run.json")) from None
        found = summarize(opened, finished.result, finished.seconds)
    if as_json:
        print_json(found)
    else:
        click.echo(_one_line(found))


def _one_line(found: dict[str, Any]) -> str:
    parts = [] if found["objects"] is None else [f"{found['objects']} objects"]
    parts.append(f"{found['area_mm2']:.4g} mm²")
    if found["density_per_mm2"] is not None:
        parts.append(f"{found['density_per_mm2']:.0f} per mm²")
    for name, row in found.get("classes", {}).items():
        parts.append(f"{name} {row['area_mm2']:.4g} mm²" if "area_mm2" in row else f"{name} {row['objects']}")
    if found["failed_tiles"]:
        parts.append(f"{len(found['failed_tiles'])} of {found['tiles']} tiles could not be read")
    return f"{', '.join(parts)}, {found['seconds']:.1f} s on {found['device']}: {found['result']}"


@cli.command()
@click.argument("method")
@click.argument("dataset", type=ANY_PATH)
@click.option("--out", type=ANY_PATH, required=True, help="The .safetensors file to write.")
@set_option
@click.option("--stain", help="Read the pictures in these colors, as for 'histoseg run'.")
@click.option("--stain-method", help="macenko (default), vahadane, reinhard or neural.")
@click.option("--seed", type=int, help="Seed of everything random.")
@device_option
@click.option("--resume", is_flag=True, help="Go on from the checkpoint beside --out.")
@json_option
@click.pass_obj
def train(
    given: list[str],
    /,
    method: str,
    dataset: Path,
    out: Path,
    pairs: tuple[str, ...],
    resume: bool,
    stain: str | None,
    stain_method: str | None,
    as_json: bool,
    **more: Any,
) -> None:
    """Train METHOD on a patch DATASET and write its weights."""
    import napari_histoseg as hs

    settings = parse_settings(pairs, **more)
    model = hs.methods.get(method).spec.training
    if model is not None:
        model.parse(settings)

    try:
        with closing(Progress()) as progress:
            events = hs.iter_train(method, dataset, out=out, resume=resume, stain=stain, stain_method=stain_method, **settings)
            trained = watch_training(events, progress)
    except KeyboardInterrupt:
        raise click.Abort(how_to_resume(given, out.with_suffix(".checkpoint.pt"))) from None
    from napari_histoseg.nn.weights import read_card

    notices = read_card(trained.weights).notices
    if as_json:
        print_json({"weights": str(trained.weights), "scores": trained.scores, "seconds": trained.seconds, "notices": notices})
        return
    for sentence in notices:
        click.echo(f"note: {sentence}", err=True)
    best = ", ".join(f"{name} {value:.4g}" for name, value in trained.scores.items())
    click.echo(f"{best}, {trained.seconds:.0f} s: {trained.weights}")
