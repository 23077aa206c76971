"""Training of tumour: what is drawn and held out, what is left behind, what resumes, what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import napari_histoseg as hs
from napari_histoseg._testing_tumour import SMALL, tumour_dataset, tumour_model, tumour_picture, write_dataset
from napari_histoseg.api import iter_train
from napari_histoseg.errors import DatasetError, HistosegError, RunError, SettingsError, TileError, WeightsError
from napari_histoseg.methods.tumour import patchtask, train
from napari_histoseg.methods.tumour.config import TumourTraining
from napari_histoseg.methods.tumour.fitted import read_fitted
from napari_histoseg.methods.tumour.patchtask import ClassifierTask, Pool, varied
from napari_histoseg.methods.tumour.train import MAPPING, READING, Ready, TumourTask, task_from_dataset
from napari_histoseg.nn.weights import load_tensors, read_card, save_tensors
from napari_histoseg.train.loop import Preparing, StepDone, Trained, Validated

CARD = ("heatmaps", "notices", "train_slides", "held_out_slides")
UNSEEN = "by classifiers that have not seen the slide"
SEEN = "by the classifier itself, of slides that it was trained on"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five outlined slides of five patients and two grades; not to be changed."""
    return tumour_dataset(tmp_path_factory.mktemp("data") / "slides")


@pytest.fixture
def own(data: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    folder = tmp_path / "own"
    folder.mkdir()
    for file in data.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def patches(folder: Path) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads((folder / "dataset.json").read_text())["patches"]
    return listed


def settings(**changes: Any) -> TumourTraining:
    return TumourTraining.parse({**SMALL, **changes})


def trained(data: Path, out: Path, **changes: Any) -> list[Any]:
    """All events of a training."""
    call = {name: changes.pop(name) for name in ("resume", "stop") if name in changes}
    return list(iter_train("tumour", data, out=out, **call, **{**SMALL, **changes}))


def ready(data: Path, **changes: Any) -> tuple[TumourTask, Ready]:
    """The slides as a training sees them."""
    task = task_from_dataset(data, settings(**changes))
    with ExitStack() as stack:
        reading = task.read(stack)
        try:
            while True:
                next(reading)
        except StopIteration as end:
            return task, end.value


def about(out: Path) -> dict[str, Any]:
    """What the model card says of the data."""
    (entry,) = read_card(out, "tumour").data
    return entry


def same_weights(a: Path, b: Path) -> None:
    """All tensors are equal bit for bit, and so is what the cards say, but for the time."""
    first, second = load_tensors(a), load_tensors(b)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    cards = [{k: v for k, v in read_card(each).model_dump().items() if k != "seconds"} for each in (a, b)]
    assert cards[0] == cards[1]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


# -- what a training leaves ---------------------------------------------------------------------------------------------


@contextmanager
def rising() -> Iterator[None]:
    """Every validation is better than the one before, so that the last weights are the ones that are kept."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (ClassifierTask, train.RefinerTask):
            patch.setattr(kind, "validate", _rising(kind.validate))
        yield


def _rising(validate: Any) -> Any:
    def counted(self: Any, network: torch.nn.Module) -> dict[str, float]:
        steps = next(value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked"))
        return {**validate(self, network), "score": int(steps) / 100}

    return counted


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A whole training, with a validation after every step."""
    out = tmp_path_factory.mktemp("done") / "w.safetensors"
    with rising():
        return out, trained(data, out, steps=3, refine_steps=3, validate_every=1)


def test_a_training_tells_its_stages_as_one_row_of_steps(done: tuple[Path, list[Any]]) -> None:
    out, events = done
    steps = [e for e in events if isinstance(e, StepDone)]
    assert [e.step for e in steps] == list(range(1, 13)) and {e.steps for e in steps} == {12}
    assert [next(iter(e.parts)) for e in steps] == ["classifier"] * 3 + ["fold 1"] * 3 + ["fold 2"] * 3 + ["refiner"] * 3
    assert all(e.parts == {name: e.loss} for e in steps for name in e.parts)
    # Of classifiers that only make heatmaps nobody needs to know the score.
    assert [(e.step, e.weights) for e in events if isinstance(e, Validated)] == [(i, out) for i in (1, 2, 3, 10, 11, 12)]
    assert {e.words for e in events if isinstance(e, Preparing)} == {READING, MAPPING}
    assert [(e.done, e.total) for e in events if isinstance(e, Preparing) and e.words == READING] == [(i, 5) for i in range(6)]
    assert [e.seconds for e in steps] == sorted(e.seconds for e in steps)
    end = events[-1]
    assert isinstance(end, Trained) and end.weights == out and not end.stopped_early
    assert set(end.scores) == {"score", "accuracy", "classifier", "refiner"} and end.scores["score"] == end.scores["refiner"]


def test_a_training_leaves_weights_curves_and_tables_and_nothing_else(done: tuple[Path, list[Any]]) -> None:
    out, _ = done
    assert sorted(p.name for p in out.parent.iterdir()) == ["w.curve.csv", "w.draws.csv", "w.refiner.curve.csv", "w.safetensors", "w.worst.csv"]
    assert [r["step"] for r in rows(out.with_suffix(".curve.csv"))] == ["1", "2", "3"]
    assert [r["step"] for r in rows(out.with_name("w.refiner.curve.csv"))] == ["1", "2", "3"]
    assert {"loss_classifier", "score", "accuracy"} <= set(rows(out.with_suffix(".curve.csv"))[0])
    assert {"loss_refiner", "score"} <= set(rows(out.with_name("w.refiner.curve.csv"))[0])


def test_the_card_says_what_was_learned_from(done: tuple[Path, list[Any]], data: Path) -> None:
    out, _ = done
    card, said = read_card(out, "tumour"), about(out)
    assert (card.architecture, card.mpp, card.settings["crop_px"]) == ("mobilenet_v2+unet", 4.0, 64)
    assert [c["name"] for c in card.classes] == ["tumour"] and len(card.data_sha256) == 64
    assert len(said["held_out_slides"]) == 1 and len(said["train_slides"]) == 4
    assert sorted(said["held_out_slides"] + said["train_slides"]) == [f"slide{i}.png" for i in range(5)]
    assert said["heatmaps"] == UNSEEN and said["notices"] == []
    assert set(card.scores["validation"]) == {"score", "accuracy", "classifier", "refiner"} and card.scores["images"] == 1
    fitted = read_fitted(out)
    assert fitted.classifier is not None and fitted.refiner is not None and fitted.settings.refine_steps == 3


def test_the_draws_are_those_of_the_tree(done: tuple[Path, list[Any]]) -> None:
    out, _ = done
    table = pd.read_csv(out.with_suffix(".draws.csv"), dtype={"grade": str})
    assert list(table.columns) == ["grade", "name", "label", "patches", "drawn", "expected", "share"]
    assert table["drawn"].sum() == 3 * SMALL["batch"] and table["share"].sum() == pytest.approx(1)
    assert set(table["name"]) == set(about(out)["train_slides"]) and set(table["label"]) == {0, 1}
    for grade in table.groupby("grade"):
        assert grade[1]["expected"].sum() == pytest.approx(0.5)


def test_the_worst_patches_can_be_found_on_their_slides(done: tuple[Path, list[Any]]) -> None:
    out, _ = done
    table = pd.read_csv(out.with_suffix(".worst.csv"))
    assert len(table) == SMALL["val_patches"] and set(table["name"]) == set(about(out)["held_out_slides"])
    wrong = np.where(table["label"] == 1, 1 - table["probability"], table["probability"])
    assert (np.diff(wrong) <= 1e-9).all()
    # Level-0 pixels of the slide: here those of the patches themselves.
    assert set(table["width"]) == set(table["height"]) == {64.0} and (table[["x", "y"]] % 64 == 0).all(None)


def test_the_same_seed_gives_the_same_weights(done: tuple[Path, list[Any]], data: Path, tmp_path: Path) -> None:
    with rising():
        trained(data, tmp_path / "again.safetensors", steps=3, refine_steps=3, validate_every=1, readers=2)
    first, second = load_tensors(done[0]), load_tensors(tmp_path / "again.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first | second)


def test_trained_weights_run(done: tuple[Path, list[Any]], data: Path) -> None:
    with hs.open_slide(data / "slide0.png", mpp=4.0) as slide:
        result = hs.run("tumour", slide, weights=done[0])
    assert set(np.unique(np.asarray(result.labels))) <= {0, 1} and result.mpp == 8.0
    assert result.record.weights is not None and result.record.weights.file == "w.safetensors"


def test_it_learns(data: Path, tmp_path: Path) -> None:
    start = tumour_model(tmp_path / "start.safetensors", rounds=12)
    how = {"learning_rate": 0.0005, "steps": 8, "validate_every": 4, "augmentation": 0, "average_decay": 0.5, "batch": 8, "folds": 1}
    events = trained(data, tmp_path / "w.safetensors", start=start, refine_steps=30, refine_rate=0.01, **how)
    assert events[-1].scores["classifier"] > 0.7 and events[-1].scores["refiner"] > 0.75
    losses = [e.loss for e in events if isinstance(e, StepDone) and "refiner" in e.parts]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) / 2


# -- folds --------------------------------------------------------------------------------------------------------------


class Spy:
    """What each classifier learned from, and which one made the heatmap of each slide."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        from napari_histoseg.predict import run

        self.taught: dict[str, set[str]] = {}
        self.scored: dict[str, set[str]] = {}
        self.mapped: dict[str, str] = {}
        self.heats: dict[str, np.ndarray] = {}
        self._networks: dict[str, Path] = {}
        self._fit, self._run, self._task = train.fit, run.iter_run, train.RefinerTask
        patch.setattr(train, "fit", self.fit)
        patch.setattr(run, "iter_run", self.iter_run)
        patch.setattr(train, "RefinerTask", self.refiner)

    def fit(self, task: Any, weights: Path, **how: Any) -> Any:
        if isinstance(task, ClassifierTask):
            self.taught[weights.stem] = set(task.pool.rows["name"])
            self.scored[weights.stem] = set(task.held.rows["name"])
            self._networks[weights.stem] = weights
        return self._fit(task, weights, **how)

    def iter_run(self, method: str, slide: Any, *, weights: Path, **how: Any) -> Any:
        mapping = {name.removeprefix("classifier."): value for name, value in load_tensors(weights).items()}
        networks = {stem: load_tensors(path) for stem, path in self._networks.items() if path.is_file()}
        (made,) = [stem for stem, own in networks.items() if all(torch.equal(own[name], mapping[name]) for name in own)]
        assert slide.name not in self.mapped
        self.mapped[slide.name] = made
        return self._run(method, slide, weights=weights, **how)

    def refiner(self, chosen: Any, taught: Any, held: Any, *rest: Any) -> Any:
        self.examples, self.judged = taught, held
        return self._task(chosen, taught, held, *rest)


@pytest.mark.parametrize("folds", [2, 3])
def test_no_slide_s_heatmap_is_by_a_classifier_that_has_seen_it(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folds: int) -> None:
    spy = Spy(monkeypatch)
    trained(data, tmp_path / "w.safetensors", folds=folds)
    said = about(tmp_path / "w.safetensors")
    assert set(spy.mapped) == {f"slide{i}.png" for i in range(5)}
    assert not [name for name, network in spy.mapped.items() if name in spy.taught[network]]
    assert {spy.mapped[name] for name in said["train_slides"]} == {f"fold {i}" for i in range(1, folds + 1)}
    assert [spy.mapped[name] for name in said["held_out_slides"]] == ["classifier"]
    assert all(held == set(said["held_out_slides"]) for held in spy.scored.values())
    # Every fold learns from all the others that are taught.
    for number in range(1, folds + 1):
        own = {name for name, network in spy.mapped.items() if network == f"fold {number}"}
        assert spy.taught[f"fold {number}"] == set(said["train_slides"]) - own
    assert len(spy.examples) == 4 and len(spy.judged) == 1 and all(example.heat.any() for example in (*spy.examples, *spy.judged))


def test_without_folds_heatmaps_are_the_classifier_s_own(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    events = trained(data, tmp_path / "w.safetensors", folds=1)
    assert set(spy.mapped.values()) == {"classifier"} == set(spy.taught)
    assert about(tmp_path / "w.safetensors")["heatmaps"] == SEEN
    assert [e.steps for e in events if isinstance(e, StepDone)][-1] == 4


def test_patients_are_not_torn_apart(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = patches(own)
    for i, patch in enumerate(listed):
        patch["group"] = f"patient {i // 2}"
    write_dataset(own, listed)
    spy = Spy(monkeypatch)
    trained(own, tmp_path / "w.safetensors", val_fraction=0.4)
    group = {patch["image"]: patch["group"] for patch in listed}
    for name, network in spy.mapped.items():
        assert group[name] not in {group[other] for other in spy.taught[network]}
    said = about(tmp_path / "w.safetensors")
    assert not {group[n] for n in said["train_slides"]} & {group[n] for n in said["held_out_slides"]}


def test_a_split_that_the_dataset_fixes_is_kept(own: Path) -> None:
    listed = patches(own)
    for patch, split in zip(listed, ("val", "train", None, "test", "val"), strict=True):
        patch["split"] = split
    write_dataset(own, listed)
    task, slides = ready(own)
    held = task.split(slides)
    assert [each.name for each in slides.outlined] == ["slide0.png", "slide1.png", "slide2.png", "slide4.png"]
    assert {slides.outlined[i].name for i in held} == {"slide0.png", "slide4.png"}


def test_the_order_of_slides_does_not_matter_for_the_split(own: Path, data: Path) -> None:
    write_dataset(own, patches(own)[::-1])
    found = []
    for folder in (data, own):
        task, slides = ready(folder)
        found.append({slides.outlined[i].name for i in task.split(slides)})
    assert found[0] == found[1]


# -- one slide, one class, labels ---------------------------------------------------------------------------------------


def test_one_slide_trains_and_is_told_what_that_means(own: Path, tmp_path: Path) -> None:
    write_dataset(own, patches(own)[:1])
    trained(own, tmp_path / "w.safetensors")
    said = about(tmp_path / "w.safetensors")
    assert said["heatmaps"] == SEEN and said["held_out_slides"] == [] and said["train_slides"] == ["slide0.png"]
    assert said["notices"] == [
        "Nothing was held out: scores are of the training slides. Annotate slides of another patient.",
        "There is one slide or patient to learn from: its heatmap is the classifier's own, and the refiner will trust heatmaps too much.",
    ]
    with hs.open_slide(own / "slide1.png", mpp=4.0) as slide:
        assert hs.run("tumour", slide, weights=tmp_path / "w.safetensors").labels.shape == (128, 128)


def mask(folder: Path, number: int, values: np.ndarray | int) -> None:
    """Put another mask in place of a slide's."""
    Image.fromarray(np.broadcast_to(np.asarray(values, np.uint8), (256, 256)).copy()).save(folder / f"truth{number}.png")


@pytest.mark.parametrize(("value", "words"), [(0, "with tumour"), (1, "without tumour")])
def test_a_class_that_no_slide_has_is_missed(own: Path, tmp_path: Path, value: int, words: str) -> None:
    for i in range(5):
        mask(own, i, value)
    with pytest.raises(DatasetError) as caught:
        trained(own, tmp_path / "w.safetensors")
    assert str(caught.value) == (
        f"None of the 80 patches of 5 slides is {words}. The classifier learns from both: annotate slides that show both, and check the pixel size."
    )


def test_a_slide_without_tumour_is_drawn_too(own: Path) -> None:
    mask(own, 0, 0)
    task, slides = ready(own)
    pool = slides.pool(task.settings)
    chance = pool.rows.assign(chance=ClassifierTask(task.settings, pool, pool).tree.chances()).groupby(["name", "label"])["chance"].sum()
    # Three slides of grade 0, two of grade 1.
    assert chance["slide0.png"].to_dict() == pytest.approx({0: 1 / 6})
    assert chance["slide2.png"].to_dict() == pytest.approx({0: 1 / 12, 1: 1 / 12})
    assert chance["slide1.png"].to_dict() == pytest.approx({0: 1 / 8, 1: 1 / 8})


def test_grades_that_are_not_stated_are_a_kind_of_their_own(own: Path, tmp_path: Path) -> None:
    listed = patches(own)
    for i in (0, 3):
        del listed[i]["grade"]
    write_dataset(own, listed)
    trained(own, tmp_path / "w.safetensors", refiner="none")
    assert about(tmp_path / "w.safetensors")["notices"] == [
        "'grade' is not stated of 2 slides, which are drawn as a kind of their own: slide0.png, slide3.png."
    ]
    task, slides = ready(own)
    pool = slides.pool(task.settings)
    rows = pool.rows.assign(chance=ClassifierTask(task.settings, pool, pool).tree.chances())
    assert rows.groupby(rows["grade"].fillna("?"))["chance"].sum().to_dict() == pytest.approx({"0": 1 / 3, "1": 1 / 3, "?": 1 / 3})


def test_labels_that_no_slide_has_are_no_stage(data: Path) -> None:
    task, slides = ready(data, balance="stage, center")
    pool = slides.pool(task.settings)
    classifier = ClassifierTask(task.settings, pool, pool)
    assert classifier.tree.stages == ("name", "label") and task.notices == []


def test_unbalanced_draws_all_patches_alike(data: Path) -> None:
    task, slides = ready(data, sampling="unbalanced")
    pool = slides.pool(task.settings)
    np.testing.assert_allclose(ClassifierTask(task.settings, pool, pool).tree.chances(), 1 / len(pool.rows))


def test_outlines_outside_of_the_tissue_are_all_named(own: Path, tmp_path: Path) -> None:
    picture = np.asarray(Image.open(own / "slide1.png")).copy()
    picture[:128, :128] = 245
    Image.fromarray(picture).save(own / "slide1.png")
    glass = np.zeros((256, 256), np.uint8)
    glass[:128, :128] = 1
    mask(own, 1, glass)
    tiny = np.zeros((256, 256), np.uint8)
    tiny[130:140, 130:140] = 1
    mask(own, 3, tiny)
    with pytest.raises(DatasetError) as caught:
        trained(own, tmp_path / "w.safetensors")
    said = "holds no patch with 25% of tissue: it lies outside the tissue, or is too small. Check that outline and slide belong together."
    assert str(caught.value) == f"These slides cannot be trained on: The outline of slide1.png {said} The outline of slide3.png {said}"


def test_a_slide_without_any_patch_is_left_out_and_named(own: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((256, 256, 3), 245, np.uint8)).save(own / "slide4.png")
    mask(own, 4, 0)
    listed = patches(own)
    listed[4]["split"] = "val"
    write_dataset(own, listed)
    trained(own, tmp_path / "w.safetensors", refiner="none")
    said = about(tmp_path / "w.safetensors")
    assert said["notices"] == ["Left out: slide4.png has no patch with 25% of tissue that is annotated all over."]
    assert len(said["held_out_slides"]) == 1 and sorted(said["train_slides"] + said["held_out_slides"]) == [f"slide{i}.png" for i in range(4)]


def test_a_fixed_split_that_leaves_a_class_out_is_refused(own: Path, tmp_path: Path) -> None:
    listed = patches(own)
    for i, patch in enumerate(listed):
        patch["split"] = "val" if i else "train"
    mask(own, 0, 0)
    write_dataset(own, listed)
    with pytest.raises(DatasetError) as caught:
        trained(own, tmp_path / "w.safetensors")
    assert str(caught.value) == (
        "None of the patches that are trained on is with tumour: the split of the dataset keeps them all for validation. Move a slide to its training part."
    )


def test_slides_of_other_pixel_sizes_give_the_same_patches(tmp_path: Path) -> None:
    picture, truth = tumour_picture(512, seed=1)
    listed = []
    for name, factor in (("fine", 1), ("coarse", 2)):
        small = Image.fromarray(picture).resize((512 // factor, 512 // factor), Image.Resampling.BOX)
        small.save(tmp_path / f"{name}.png")
        Image.fromarray(truth).save(tmp_path / f"{name}-truth.png")
        box = [0, 0, 512 // factor, 512 // factor]
        listed.append({"slide": f"{name}.png", "box": box, "slide_mpp": 2.0 * factor, "mask": f"{name}-truth.png", "group": name})
    task, slides = ready(write_dataset(tmp_path, listed, mpp=None))
    fine, coarse = slides.tables
    assert fine[["x", "y", "label"]].equals(coarse[["x", "y", "label"]]) and len(fine) == 8
    np.testing.assert_allclose(fine[["tissue", "tumour"]], coarse[["tissue", "tumour"]], atol=0.03)
    assert slides.pool(task.settings).mpps == [4.0, 4.0]
    assert [sheet.mpp for sheet in slides.sheets] == [8.0, 8.0]
    pool = slides.pool(task.settings)
    with hs.open_slide(tmp_path / "fine.png", mpp=2.0) as a, hs.open_slide(tmp_path / "coarse.png", mpp=4.0) as b:
        opened = Pool(pool.rows, [a, b], pool.mpps, pool.side_px, pool.scale)
        one, other = opened.read(3).astype(float), opened.read(3 + len(fine)).astype(float)
        assert one.shape == other.shape == (64, 64, 3) and np.abs(one - other).mean() < 6
        x, y = int(fine["x"].iat[3]), int(fine["y"].iat[3])
        np.testing.assert_array_equal(other, b.read(0, hs.Box(2 * x, 2 * y, 64, 64)))


def test_a_slide_too_coarse_for_the_model_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"These slides cannot be trained on: .*slide0\.png has 4 µm/px, the model was made for 1 µm/px"):
        trained(data, tmp_path / "w.safetensors", mpp=1.0)


def test_slides_that_turn_out_unreadable_are_left_out_only_when_told_to(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheet_of = train.sheet_of

    def failing(outlined: Any, *rest: Any) -> Any:
        if outlined.name in ("slide1.png", "slide2.png"):
            raise TileError("Level 0, x 3, y 4: the JPEG data are damaged.")
        return sheet_of(outlined, *rest)

    monkeypatch.setattr(train, "sheet_of", failing)
    problem = "{}: Level 0, x 3, y 4: the JPEG data are damaged."
    with pytest.raises(DatasetError) as caught:
        trained(own, tmp_path / "w.safetensors")
    assert str(caught.value) == f"These slides cannot be trained on: {problem.format('slide1.png')} {problem.format('slide2.png')}"
    trained(own, tmp_path / "w.safetensors", skip_unreadable=True, refiner="none")
    assert about(tmp_path / "w.safetensors")["notices"] == [f"Left out: {problem.format(name)}" for name in ("slide1.png", "slide2.png")]


def test_when_no_slide_can_be_read_each_is_named(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*given: Any) -> Any:
        raise TileError("Damaged.")

    monkeypatch.setattr(train, "sheet_of", failing)
    with pytest.raises(DatasetError, match=r"None of the slides can be learned from\. Left out: slide0\.png: Damaged\. .*slide4\.png"):
        trained(own, tmp_path / "w.safetensors", skip_unreadable=True)


# -- patches ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def classifier(data: Path) -> Iterator[ClassifierTask]:
    """The classifier's training on all slides, which are open."""
    task = task_from_dataset(data, settings())
    with ExitStack() as stack:
        reading = task.read(stack)
        try:
            while True:
                next(reading)
        except StopIteration as end:
            pool = end.value.pool(task.settings)
            yield ClassifierTask(task.settings, pool, pool)


def test_a_patch_that_cannot_be_read_is_replaced(classifier: ClassifierTask, monkeypatch: pytest.MonkeyPatch) -> None:
    read, calls = Pool.read, []

    def failing(self: Pool, number: int) -> Any:
        calls.append(number)
        if len(calls) <= 7:
            raise TileError("Damaged.")
        return read(self, number)

    monkeypatch.setattr(Pool, "read", failing)
    sample = classifier.sample_at(np.random.default_rng(0), 0)
    assert len(calls) == 8 and sample["image"].shape == (3, 64, 64)
    assert sample["label"] == classifier.pool.rows["label"].iat[calls[-1]]

    def damaged(self: Pool, number: int) -> Any:
        calls.append(number)
        raise TileError("Damaged.")

    calls.clear()
    monkeypatch.setattr(Pool, "read", damaged)
    with pytest.raises(TileError, match="Damaged"):
        classifier.sample_at(np.random.default_rng(0), 0)
    assert len(calls) == 8


def test_a_sample_hangs_on_its_random_numbers_alone(classifier: ClassifierTask) -> None:
    a, b, c = (classifier.sample_at(np.random.default_rng(seed), 0) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a["image"], b["image"])
    assert (a["image"] != c["image"]).any()


@pytest.mark.parametrize("variant", ["improved", "paper"])
def test_patches_are_turned_and_their_colors_changed(variant: str) -> None:
    image = tumour_picture(64, seed=1)[0]
    plain = {varied(np.random.default_rng(i), image, variant, 0.0).tobytes() for i in range(60)}
    # Flips and quarter turns give the 8 symmetries of a square and no other pixels.
    assert len(plain) == 8
    changed = [varied(np.random.default_rng(i), image, variant, 1.0) for i in range(60)]
    colors = np.array([each.reshape(-1, 3).mean(0) for each in changed])
    same = np.abs(colors - image.reshape(-1, 3).mean(0)).max(1) < 1.5  # by way of another color space
    assert 5 < same.sum() < 45 and np.ptp(colors, axis=0).max() > 10
    assert all(each.shape == image.shape and each.dtype == np.uint8 for each in changed)


def test_scored_patches_come_from_all_slides_and_classes(data: Path) -> None:
    task, slides = ready(data)
    pool = slides.pool(task.settings)
    chosen = ClassifierTask(settings(val_patches=30), pool, pool)
    rows = pool.rows.iloc[chosen._scored]
    assert len(chosen._scored) == len(set(chosen._scored)) == 30 < len(pool.rows)
    assert set(rows["name"]) == set(pool.rows["name"]) and set(rows["label"]) == {0, 1}
    few = ClassifierTask(settings(val_patches=8), pool, pool)
    assert len(few._scored) == 8 and set(pool.rows.iloc[few._scored]["label"]) == {0, 1}
    assert len(ClassifierTask(settings(val_patches=1000), pool, pool)._scored) == len(pool.rows)


def test_the_score_is_the_mean_recall_of_both_classes(classifier: ClassifierTask) -> None:
    class Never(torch.nn.Module):
        """Takes nothing for tumour."""

        def __init__(self) -> None:
            super().__init__()
            self.anything = torch.nn.Parameter(torch.zeros(1))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[1.0, 0.0]]).expand(len(image), 2)

    scores = classifier.validate(Never())
    labels = classifier.held.rows.iloc[classifier._scored]["label"]
    assert scores == {"score": 0.5, "accuracy": pytest.approx((labels == 0).mean())}
    assert classifier.worst["label"].tolist()[: int((labels == 1).sum())] == [1] * int((labels == 1).sum())


# -- interrupted and resumed --------------------------------------------------------------------------------------------


def at_step(stage: str, count: int) -> Callable[[list[Any]], bool]:
    return lambda events: sum(isinstance(e, StepDone) and stage in e.parts for e in events) == count


def mapping_after(stage: str) -> Callable[[list[Any]], bool]:
    """In the middle of the maps that a classifier makes: one is done."""
    return lambda events: isinstance(events[-1], Preparing) and events[-1].words == MAPPING and events[-1].done == 1 and stage in last_stage(events)


def last_stage(events: list[Any]) -> str:
    return [next(iter(e.parts)) for e in events if isinstance(e, StepDone)][-1]


INTERRUPTED = {
    "reading": lambda events: sum(isinstance(e, Preparing) for e in events) == 3,
    "first step": at_step("classifier", 1),
    "classifier": at_step("classifier", 3),
    "fold": at_step("fold 2", 2),
    "mapping": mapping_after("fold 2"),
    "refiner": at_step("refiner", 2),
    "last validation": lambda events: isinstance(events[-1], Validated) and events[-1].step == 12,
}


@pytest.mark.parametrize("where", INTERRUPTED)
def test_interrupted_and_resumed_it_gives_the_same_bits(data: Path, done: tuple[Path, list[Any]], tmp_path: Path, where: str) -> None:
    out, how = tmp_path / "w.safetensors", {**SMALL, "steps": 3, "refine_steps": 3, "validate_every": 1}
    events, seen = iter_train("tumour", data, out=out, **how), list[Any]()
    with rising():
        for event in events:
            seen.append(event)
            if INTERRUPTED[where](seen):
                events.close()
                break
        else:
            raise AssertionError("The training was not interrupted.")
        assert (tmp_path / "w.parts").is_dir()
        rest = trained(data, out, resume=True, **how)
    assert isinstance(rest[-1], Trained) and rest[-1].scores == pytest.approx(done[1][-1].scores, abs=1e-4)
    steps = [e.step for e in rest if isinstance(e, StepDone)]
    assert steps == list(range(13 - len(steps), 13)), "it goes on where it was"
    same_weights(out, done[0])
    names = sorted(p.name for p in done[0].parent.iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    for name in names:
        if name.endswith(".csv") and "curve" not in name:
            assert (tmp_path / name).read_text() == (done[0].parent / name).read_text()
    for name in ("w.curve.csv", "w.refiner.curve.csv"):
        assert [(r["step"], r["score"]) for r in rows(tmp_path / name)] == [(r["step"], r["score"]) for r in rows(done[0].parent / name)]


def test_what_was_learned_before_an_interruption_can_be_used(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    events = iter_train("tumour", data, out=out, **SMALL)
    for event in events:
        if isinstance(event, Validated):
            break
    events.close()
    fitted = read_fitted(out)
    assert fitted.classifier is not None and fitted.refiner is None


def interrupted(data: Path, out: Path, **changes: Any) -> None:
    events = iter_train("tumour", data, out=out, **{**SMALL, **changes})
    for event in events:
        if isinstance(event, Validated):
            break
    events.close()


def test_other_settings_are_refused_and_those_of_the_machine_are_not(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    interrupted(data, out, validate_every=1)
    with pytest.raises(RunError) as caught:
        trained(data, out, resume=True, validate_every=1, batch=6, folds=3)
    work = tmp_path / "w.parts"
    assert str(caught.value) == f"{work} was made with other settings (batch, folds). Resume with the same settings, or train anew."
    with pytest.raises(RunError, match=r"other settings \(steps\)"):
        trained(data, out, resume=True, validate_every=1, steps=5)
    assert isinstance(trained(data, out, resume=True, validate_every=1, readers=2)[-1], Trained)


def test_training_anew_forgets_what_was_there(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    interrupted(data, out)
    (tmp_path / "w.parts" / "heat-0-classifier.npy").write_bytes(b"old")
    first = next(e for e in trained(data, out) if isinstance(e, StepDone))
    assert first.step == 1


def test_resuming_what_never_began_begins(data: Path, tmp_path: Path) -> None:
    assert isinstance(trained(data, tmp_path / "w.safetensors", resume=True, refiner="none")[-1], Trained)


def test_resuming_with_other_slides_is_refused(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    interrupted(own, out)
    write_dataset(own, patches(own)[1:])
    with pytest.raises(RunError, match=r"w\.parts was made from other slides or outlines\. Resume with the same ones, or train anew\."):
        trained(own, out, resume=True)


# -- stopped ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "mapping"), [("classifier", False), ("fold 1", False), ("fold 1", True), ("fold 2", False), ("fold 2", True), ("refiner", False)]
)
def test_a_training_that_is_told_to_stop_leaves_a_model_that_runs(data: Path, tmp_path: Path, where: str, mapping: bool) -> None:
    out, seen, told = tmp_path / "w.safetensors", list[Any](), list[bool]()
    wanted = mapping_after(where) if mapping else at_step(where, 1)
    for event in iter_train("tumour", data, out=out, stop=lambda: bool(told), **{**SMALL, "steps": 4, "validate_every": 4, "refine_steps": 4}):
        seen.append(event)
        if not told and wanted(seen):
            told.append(True)
            before = len([e for e in seen if isinstance(e, StepDone)])
    assert isinstance(seen[-1], Trained) and seen[-1].stopped_early
    assert len([e for e in seen if isinstance(e, StepDone)]) == before, "no step follows"
    fitted = read_fitted(out)
    assert fitted.classifier is not None and (fitted.refiner is not None) == (where == "refiner")
    assert not (tmp_path / "w.parts").exists()
    with hs.open_slide(data / "slide0.png", mpp=4.0) as slide:
        assert hs.run("tumour", slide, weights=out).labels.shape == (128, 128)


def test_the_refiner_s_patience_ends_it_and_is_no_stop(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.RefinerTask, "validate", lambda self, network: {"score": 0.5})
    events = trained(data, tmp_path / "w.safetensors", refine_steps=8, validate_every=2, refine_patience=1, folds=1)
    assert sum(isinstance(e, StepDone) and "refiner" in e.parts for e in events) == 4
    assert not events[-1].stopped_early


# -- kinds of models ----------------------------------------------------------------------------------------------------


def test_a_start_goes_on_from_its_weights(data: Path, done: tuple[Path, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: dict[str, dict[str, torch.Tensor]] = {}
    fit = train.fit

    def spied(task: Any, weights: Path, **how: Any) -> Any:
        begun[weights.stem] = {name: value.clone() for name, value in task.network().state_dict().items()}
        return fit(task, weights, **how)

    monkeypatch.setattr(train, "fit", spied)
    trained(data, tmp_path / "w.safetensors", start=done[0])
    before = load_tensors(done[0])
    assert set(begun) == {"classifier", "fold 1", "fold 2", "refiner"}
    for stem, state in begun.items():
        prefix = "refiner." if stem == "refiner" else "classifier."
        assert all(torch.equal(before[prefix + name], value) for name, value in state.items())
    assert ClassifierTask(settings(), *2 * [ready(data)[1].pool(settings())], start={"x": torch.zeros(1)}).pretrained


@pytest.mark.parametrize(
    ("made", "wanted", "words"),
    [
        ({"mpp": 3.5}, {}, "was trained at 3.5 µm/px, not at 4. Set mpp to 3.5, or train from the beginning."),
        ({"refiner": "agunet"}, {}, "has the refiner 'agunet', not 'unet'. Set refiner to agunet, or train from the beginning."),
        ({"backbone": "none"}, {}, "has the classifier 'none', not 'mobilenet_v2'. Set backbone to none, or train from the beginning."),
        ({}, {"backbone": "none"}, "has the classifier 'mobilenet_v2', not 'none'. Set backbone to mobilenet_v2, or train from the beginning."),
        ({"crop_px": 128}, {}, "was trained on patches of 128 px, not of 64. Set crop_px to 128, or train from the beginning."),
    ],
)
def test_a_start_of_another_kind_is_refused(data: Path, tmp_path: Path, made: dict[str, Any], wanted: dict[str, Any], words: str) -> None:
    start = tumour_model(tmp_path / "s.safetensors", **made)
    with pytest.raises(WeightsError) as caught:
        trained(data, tmp_path / "w.safetensors", start=start, **wanted)
    assert str(caught.value) == f"{start} {words}"


def test_a_start_may_lack_what_is_then_learned_anew(data: Path, tmp_path: Path) -> None:
    start = tumour_model(tmp_path / "s.safetensors", refiner="none")
    trained(data, tmp_path / "w.safetensors", start=start, folds=1)
    assert read_fitted(tmp_path / "w.safetensors").refiner is not None


def test_without_a_classifier_the_outline_comes_from_low_resolution_alone(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    events = trained(data, out, backbone="none")
    assert [next(iter(e.parts)) for e in events if isinstance(e, StepDone)] == ["refiner"] * 2
    fitted = read_fitted(out)
    assert fitted.classifier is None and fitted.refiner is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.curve.csv", "w.safetensors"]
    assert about(out)["heatmaps"] == "none" and read_card(out).architecture == "none+unet"


def test_without_a_refiner_the_heatmap_is_all(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    events = trained(data, out, refiner="none")
    assert [next(iter(e.parts)) for e in events if isinstance(e, StepDone)] == ["classifier"] * 2
    assert not [e for e in events if isinstance(e, Preparing) and e.words == MAPPING]
    assert read_fitted(out).refiner is None and about(out)["heatmaps"] == "none"
    assert events[-1].scores["score"] == events[-1].scores["classifier"]


def test_without_both_there_is_nothing_to_train(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        trained(data, tmp_path / "w.safetensors", backbone="none", refiner="none")
    assert str(caught.value) == "There is nothing to train: both networks are 'none'. Choose a classifier, a refiner, or both."


def test_cluster_guiding_balances_the_loss(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clusters: list[torch.Tensor] = []
    cwce = patchtask.cwce

    def spied(logits: torch.Tensor, label: torch.Tensor, cluster: torch.Tensor) -> torch.Tensor:
        clusters.append(cluster)
        return cwce(logits, label, cluster)

    monkeypatch.setattr(patchtask, "cwce", spied)
    trained(data, tmp_path / "w.safetensors", guided=True, n_clusters=3, folds=1, refiner="none")
    assert len(clusters) == 2 and all(len(each) == 4 and set(each.tolist()) <= {0, 1, 2} for each in clusters)
    assert not any(name.startswith("guide") for name in load_tensors(tmp_path / "w.safetensors"))


def test_the_paper_s_design_trains(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    events = trained(data, out, variant="paper", refine_batch=1, accumulate=2, folds=1)
    rates = {next(iter(e.parts)): e.learning_rate for e in events if isinstance(e, StepDone)}
    assert rates == {"classifier": 1e-4, "refiner": 1e-3}
    fitted = read_fitted(out)
    assert fitted.settings.whole_px == 64
    with hs.open_slide(data / "slide0.png", mpp=4.0) as slide:
        assert hs.run("tumour", slide, weights=out, mc_samples=2).uncertainty is not None


def test_imagenet_weights_that_are_asked_for_and_not_there(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patchtask, "find_imagenet", lambda *given: None)
    with pytest.raises(WeightsError) as caught:
        trained(data, tmp_path / "w.safetensors", encoder="imagenet")
    assert str(caught.value) == (
        "ImageNet weights of mobilenet_v2 were not found. Name torchvision's checkpoint (.pth) in encoder_file, or set encoder to auto or scratch."
    )
    trained(data, tmp_path / "w.safetensors", encoder="auto", refiner="none")


# -- files that are no weights ------------------------------------------------------------------------------------------


def spoiled(folder: Path, kind: str) -> Path:
    """A file that looks like weights of tumour and is none."""
    good, path = tumour_model(folder / "good.safetensors"), folder / f"{kind}.safetensors"
    if kind == "pickle":
        torch.save({"classifier.x": torch.zeros(1)}, path)
    elif kind == "truncated":
        path.write_bytes(good.read_bytes()[:-1000])
    elif kind == "nothing":
        path = folder / "nowhere.safetensors"
    else:
        card, tensors = read_card(good), load_tensors(good)
        if kind == "method":
            card = card.model_copy(update={"method": "tissue"})
        elif kind == "tensors":
            del tensors["classifier.head.0.weight"], tensors["refiner.head.bias"]
        elif kind == "shapes":
            tensors["classifier.head.0.weight"] = torch.zeros(3, 3)
        elif kind == "empty":
            tensors = {"x": torch.zeros(1)}
        elif kind == "settings":
            card = card.model_copy(update={"settings": {**card.settings, "backbone": "resnet"}})
        elif kind == "pixels":
            card = card.model_copy(update={"mpp": 2.0})
        save_tensors(path, tensors, card)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("pickle", "is not a weights file: it cannot be read as safetensors"),
        ("truncated", "is not a weights file: it cannot be read as safetensors"),
        ("nothing", "nowhere.safetensors does not exist"),
        ("method", "holds weights for the method 'tissue', not for 'tumour'. Choose weights made for 'tumour'."),
        ("tensors", "does not fit the network that its card names: 1 tensors differ (first: head.0.weight). The file was damaged."),
        ("shapes", "does not fit the network that its card names: 1 tensors differ (first: head.0.weight). The file was damaged."),
        ("empty", "holds neither a classifier nor a refiner. The file was damaged."),
        ("settings", "cannot be used: The setting 'backbone' is wrong"),
    ],
)
def test_files_that_are_no_weights_are_refused_in_a_run_and_as_a_start(data: Path, tmp_path: Path, kind: str, words: str) -> None:
    path = spoiled(tmp_path, kind)
    with hs.open_slide(data / "slide0.png", mpp=4.0) as slide, pytest.raises(WeightsError) as caught:
        hs.run("tumour", slide, weights=path)
    assert words in str(caught.value) and str(path) in str(caught.value)
    with pytest.raises(WeightsError):
        trained(data, tmp_path / "w.safetensors", start=path)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"crop_px": 70}, SettingsError, "multiple of 32"),
        ({"refine_px": 100}, SettingsError, "multiple of 32"),
        ({"folds": 0}, SettingsError, "'folds' is wrong"),
        ({"backbone": "vgg16"}, SettingsError, "'backbone' is wrong"),
    ],
)
def test_impossible_settings_are_named(data: Path, tmp_path: Path, changes: dict[str, Any], kind: type[HistosegError], words: str) -> None:
    with pytest.raises(kind, match=words):
        trained(data, tmp_path / "w.safetensors", **changes)


def test_two_slides_make_each_other_s_heatmaps(own: Path, tmp_path: Path) -> None:
    write_dataset(own, patches(own)[:2])
    events = trained(own, tmp_path / "w.safetensors", val_fraction=0.0)
    assert isinstance(events[-1], Trained) and about(tmp_path / "w.safetensors")["heatmaps"] == UNSEEN
