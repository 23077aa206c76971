"""Shares of the coarse labels: stated, measured, contradicted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_histoseg._testing_lsr import AMOUNTS, DARK, SIDE_PX, half_dark, table, write_blocks, write_dataset
from napari_histoseg.annotations.blocks import blocks_of
from napari_histoseg.annotations.dataset import PatchDataset, read_dataset
from napari_histoseg.errors import DatasetError
from napari_histoseg.methods.lsr.config import LsrTraining
from napari_histoseg.methods.lsr.measure import painted_shares
from napari_histoseg.methods.lsr.table import (
    LEAST_RHO,
    PAPER_EDGES,
    PAPER_SHARES,
    contradictions,
    measured,
    paper_table,
    stated,
)
from napari_histoseg.methods.lsr.train import table_for

NAMES = {0: "none", 1: "half", 2: "all"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path, write_blocks(tmp_path), table())


def dataset(statistics: list[dict[str, object]], classes: tuple[dict[str, object], ...] = (DARK,)) -> PatchDataset:
    return PatchDataset.model_validate({"mpp": 1, "classes": classes, "statistics": statistics, "folder": Path("set")})


def test_background_has_what_is_left() -> None:
    found = stated(dataset([{"coarse": 3, "class": 1, "eta": 0.7, "rho": 0.05}]), [3])
    assert (found.coarse, found.values) == ((3,), (0, 1))
    np.testing.assert_allclose(found.eta, [[0.3, 0.7]])
    np.testing.assert_allclose(found.rho, [[0.05, 0.05]])


def test_several_classes_by_hand() -> None:
    two = ({"value": 1, "name": "a"}, {"value": 4, "name": "b"})
    rows = [{"coarse": 0, "class": 1, "eta": 0.2, "rho": 0.03}, {"coarse": 0, "class": 4, "eta": 0.5, "rho": 0.04}, {"coarse": 1, "class": 4, "eta": 1.0, "rho": 0.01}]
    found = stated(dataset(rows, two), [0, 1])
    assert found.values == (0, 1, 4)
    np.testing.assert_allclose(found.eta, [[0.3, 0.2, 0.5], [0.0, 0.0, 1.0]], atol=1e-12)
    np.testing.assert_allclose(found.rho, [[0.05, 0.03, 0.04], [0.01, LEAST_RHO, 0.01]])


def test_a_table_survives_being_written_down() -> None:
    found = stated(dataset(table()), [0, 1, 2])
    again = stated(dataset([row.model_dump(by_alias=True) for row in found.statistics()]), [0, 1, 2])
    np.testing.assert_allclose(again.eta, found.eta)
    np.testing.assert_allclose(again.rho, found.rho)


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        (table()[:2], "The table of set cannot be used: The coarse label '2' has blocks and no shares in the table. State them, or measure them in painted blocks."),
        ([*table(), table()[0]], "The table states class 1 of the coarse label '0' twice."),
        ([*table(), {"coarse": 0, "class": 9, "eta": 0.1, "rho": 0.1}], "The table names the class value 9, which is no class. Add the class, or remove the row."),
        ([*table(), {"coarse": 1, "class": 0, "eta": 0.4, "rho": 0.1}], "The shares of the coarse label '1' sum to 90.0%. They sum to 100 %: correct one of them."),
        ([*table(), {"coarse": 2, "class": 0, "eta": 0.4, "rho": 0.1}], "The shares of the coarse label '2' sum to 140.0%. They sum to 100 %: correct one of them."),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table(statistics: list[dict[str, object]], message: str) -> None:
    with pytest.raises(DatasetError) as error:
        stated(dataset(statistics), [0, 1, 2])
    assert message in str(error.value)


def test_a_standard_deviation_of_zero_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, write_blocks(tmp_path), table(rho=0))
    with pytest.raises(DatasetError, match=r"a standard deviation is above 0, and 0 was given\. Write 0\.001 \(0\.1 %\) where all blocks hold the same"):
        read_dataset(tmp_path)


def test_the_papers_table() -> None:
    found = paper_table((0, 1))
    assert found.coarse == tuple(range(10)) and len(PAPER_EDGES) == 11
    np.testing.assert_allclose(found.eta[[0, 8, 9], 1], [0, 0.2, 0.7])
    np.testing.assert_allclose(found.rho[[0, 8, 9], 1], [0.001, 0.02, 0.05])
    np.testing.assert_allclose(found.eta.sum(1), 1)
    assert [share for share, _ in PAPER_SHARES] == sorted(share for share, _ in PAPER_SHARES)
    with pytest.raises(DatasetError, match=r"The paper's table is for one class beside background, and there are the classes \[0, 1, 2\]\. State the shares yourself\."):
        paper_table((0, 1, 2))


def test_the_papers_table_is_for_its_ten_labels(folder: Path) -> None:
    read = read_dataset(folder)
    blocks = [*blocks_of(read)]
    found = table_for(read, blocks, LsrTraining(table="paper"), [])
    np.testing.assert_allclose(found.eta[:, 1], [0, 0.01, 0.02])
    other = read.model_copy(update={"patches": tuple(p.model_copy(update={"coarse": 12}) for p in read.patches)})
    with pytest.raises(DatasetError, match=r"The paper's table has the coarse labels 0 to 9, and there are blocks of 12\. State the shares yourself\."):
        table_for(other, blocks_of(other), LsrTraining(table="paper"), [])


def paint(folder: Path, shares: dict[int, list[float]]) -> PatchDataset:
    """Blocks of a slide 32 px a side in a row, each painted; their coarse labels are the keys."""
    flat = [(label, share) for label, each in shares.items() for share in each]
    slide = np.concatenate([half_dark(seed=i)[0] for i in range(len(flat))], 1)
    Image.fromarray(slide).save(folder / "slide.png")
    patches: list[dict[str, object]] = []
    for i, (label, share) in enumerate(flat):
        Image.fromarray(half_dark(share=share)[1]).save(folder / f"mask{i}.png")
        box = [i * SIDE_PX, 0, SIDE_PX, SIDE_PX]
        patches += [{"slide": "slide.png", "box": box, "coarse": label, "slide_mpp": 2.0}, {"slide": "slide.png", "box": box, "mask": f"mask{i}.png", "slide_mpp": 2.0}]
    return read_dataset(write_dataset(folder, patches))


def test_shares_are_measured_in_painted_blocks(tmp_path: Path) -> None:
    read = paint(tmp_path, {0: [0.0, 0.0], 1: [0.25, 0.5, 0.75], 2: [1.0, 0.75]})
    shares = painted_shares(read, blocks_of(read), (0, 1))
    np.testing.assert_allclose(shares[1][:, 1], [0.25, 0.5, 0.75])
    found = measured(shares, (0, 1), NAMES)
    np.testing.assert_allclose(found.eta[:, 1], [0, 0.5, 0.875])
    np.testing.assert_allclose(found.rho[:, 1], [LEAST_RHO, 0.25, np.std([1, 0.75], ddof=1)])
    notices: list[str] = []
    again = table_for(read, blocks_of(read), LsrTraining(), notices)
    np.testing.assert_allclose(again.eta, found.eta)
    assert notices == ["The table was measured in painted blocks: 2 of '0', 3 of '1', 2 of '2'."]


def test_a_block_that_is_painted_in_part_does_not_count(tmp_path: Path) -> None:
    read = paint(tmp_path, {0: [0.0, 0.0], 1: [0.5, 0.5]})
    mask = np.full((SIDE_PX, SIDE_PX), 255, np.uint8)
    mask[: SIDE_PX * 3 // 4] = 1
    Image.fromarray(mask).save(tmp_path / "mask0.png")
    assert [len(rows) for rows in painted_shares(read, blocks_of(read), (0, 1)).values()] == [1, 2]
    with pytest.raises(DatasetError) as error:
        table_for(read, blocks_of(read), LsrTraining(table="painted"), [])
    assert str(error.value) == "A coarse label needs at least 2 painted blocks, and 10 are better, but '0' has 1. Paint more of them, or state the shares."


def test_without_a_table_and_painted_blocks_there_is_nothing_to_go_by(folder: Path) -> None:
    write_dataset(folder, write_blocks(folder))
    read = read_dataset(folder)
    with pytest.raises(DatasetError, match=r"has no table of shares, and no painted blocks to measure it in\. State the shares, or paint 2 blocks or more of each coarse label\."):
        table_for(read, blocks_of(read), LsrTraining(), [])


def test_a_table_that_painted_blocks_contradict_is_refused(tmp_path: Path) -> None:
    read = paint(tmp_path, {0: [0.0, 0.0], 2: [0.1, 0.15, 0.2]})
    shares = painted_shares(read, blocks_of(read), (0, 1))
    wrong = stated(dataset(table()), [0, 2])
    (sentence,) = contradictions(wrong, shares, {1: "dark"}, NAMES)
    assert sentence.startswith("3 painted blocks of 'all' hold 15% dark, and the table says 100%. Correct the table")
    right = stated(dataset(table((0.0, 0.5, 0.2))), [0, 2])
    assert contradictions(right, shares, {1: "dark"}, NAMES) == []
    stating = read.model_copy(update={"statistics": dataset(table(AMOUNTS)).statistics})
    with pytest.raises(DatasetError, match=r"contradicts its blocks: 3 painted blocks of '2' hold 15% dark, and the table says 100%\."):
        table_for(stating, blocks_of(stating), LsrTraining(), [])
    assert table_for(stating, blocks_of(stating), LsrTraining(table="painted"), []).eta[1, 1] == pytest.approx(0.15, abs=0.02)
