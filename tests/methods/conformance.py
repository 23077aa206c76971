"""What every method keeps. A method's own test subclasses :class:`Conformance` and names itself and fast settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

import napari_histoseg as hs
from napari_histoseg import methods
from napari_histoseg.errors import SettingsError
from napari_histoseg.metrics import f1
from napari_histoseg.predict.events import Started, TileDone
from napari_histoseg.slide import Slide


def same(a: Any, b: Any) -> None:
    """Two results are equal bit for bit."""
    for name in ("labels", "probability", "image"):
        first, second = getattr(a, name, None), getattr(b, name, None)
        assert (first is None) == (second is None)
        if first is not None:
            np.testing.assert_array_equal(np.asarray(first), np.asarray(second))
    assert a.has_patches == b.has_patches
    if a.has_patches:
        assert a.patches.equals(b.patches)
    assert a.has_objects == b.has_objects
    if a.has_objects:
        assert a.objects.equals(b.objects)


class Conformance:
    """Tests that a subclass gets for its method.

    Attributes
    ----------
    method : str
    fast : dict
        Settings that keep a run on :meth:`slide` short.
    agreement : float
        Least F1 at IoU 0.9 between objects of different tilings and precisions.
    """

    method: ClassVar[str]
    fast: ClassVar[dict[str, Any]] = {}
    agreement: ClassVar[float] = 0.995

    @pytest.fixture(scope="class")
    @classmethod
    def slide(cls) -> Slide:
        """A synthetic H&E slide with glass around it."""
        from napari_histoseg._testing import he_image

        return hs.open_slide(he_image(700, 600, seed=5, mpp=0.25, glass=0.05), mpp=0.25)

    @pytest.fixture(scope="class")
    @classmethod
    def result(cls, slide: Slide) -> Any:
        """The method on the whole slide in one tile."""
        return hs.run(cls.method, slide, **{**cls.fast, "tile_px": 1024})

    def test_settings_go_through_json(self) -> None:
        kind = methods.get(self.method).spec.settings
        assert kind.model_validate_json(kind().model_dump_json()) == kind()

    def test_every_setting_has_words_for_the_form(self) -> None:
        for name, field in methods.get(self.method).spec.settings.model_fields.items():
            assert field.title and field.description, name

    def test_an_unknown_setting_is_named(self, slide: Slide) -> None:
        with pytest.raises(SettingsError, match="There is no setting 'nonsense'"):
            hs.run(self.method, slide, nonsense=1)

    @pytest.mark.parametrize("tile_px", [128, 320])
    def test_tiled_equals_whole(self, slide: Slide, result: Any, tile_px: int) -> None:
        tiled = hs.run(self.method, slide, **{**self.fast, "tile_px": tile_px})
        self.agree(result, tiled)

    def test_resumed_equals_uninterrupted(self, slide: Slide, tmp_path: Path) -> None:
        settings = {**self.fast, "tile_px": 256}
        events = hs.iter_run(self.method, slide, out=tmp_path / "r", **settings)
        for event in events:
            if isinstance(event, TileDone) and event.done == 3:
                events.close()
                break
        resumed = list(hs.iter_run(self.method, slide, out=tmp_path / "r", resume=True, **settings))
        assert isinstance(resumed[0], Started) and resumed[0].done == 3
        same(resumed[-1].result, hs.run(self.method, slide, **settings))

    def test_the_same_run_twice_gives_the_same_bits(self, slide: Slide, result: Any) -> None:
        same(result, hs.run(self.method, slide, **{**self.fast, "tile_px": 1024}))

    def test_bfloat16_agrees_with_float32(self, slide: Slide) -> None:
        kinds = [hs.run(self.method, slide, **self.fast, precision=p) for p in ("float32", "bfloat16")]
        self.agree(*kinds, least=0.97)

    def test_glass_gives_nothing(self) -> None:
        glass = np.full((400, 400, 3), 243, np.uint8)
        result = hs.run(self.method, hs.open_slide(glass, mpp=0.25), **self.fast)
        assert result.labels is None or not np.asarray(result.labels).any()

    def agree(self, a: Any, b: Any, least: float | None = None) -> None:
        """Objects of two runs agree."""
        labels: list[NDArray[Any]] = [np.asarray(r.labels) for r in (a, b)]
        assert labels[0].any()
        assert f1(labels[0], labels[1], 0.9) >= (self.agreement if least is None else least)
