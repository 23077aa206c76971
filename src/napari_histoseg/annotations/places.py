"""Where the slides of a dataset are: opened ones, moved ones, missing ones."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_histoseg.annotations.dataset import Patch, PatchDataset
from napari_histoseg.errors import DatasetError, HistosegError
from napari_histoseg.slide.open import open_slide

if TYPE_CHECKING:
    from napari_histoseg.slide import Slide


@dataclass(frozen=True, slots=True)
class SlideRef:
    """A slide that patches lie on.

    Attributes
    ----------
    fingerprint : str
        What tells the slide from others; for slides that were never seen, their path.
    path : str
        Where it is, or was last.
    found : bool
        Whether its pixels can be read.
    n_patches : int
    """

    fingerprint: str
    path: str
    found: bool
    n_patches: int


def key_of(patch: Patch) -> str | None:
    """What a patch's slide is known by: its fingerprint, or its path as long as it has none; None for images."""
    return None if patch.slide is None else patch.slide_fingerprint or patch.slide


class Places:
    """The slides of a dataset by key, see `key_of`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._slides: dict[str, Slide] = {}
        self._own: list[Slide] = []
        self._paths: dict[str, tuple[str, float | None]] = {}

    def close(self) -> None:
        """Close the slides that were opened here; attached ones belong to whoever opened them."""
        for slide in self._own:
            slide.close()
        self._own, self._slides = [], {}

    def identify(self, patch: Patch) -> Patch:
        """The patch with the fingerprint of its slide, if the slide is there to say it."""
        if patch.slide is None or patch.slide_fingerprint is not None:
            return patch
        slide = self._find(patch)
        if slide is None:
            return patch
        key = slide.fingerprint()
        self._slides.setdefault(key, slide)
        return patch.model_copy(update={"slide_fingerprint": key, "slide_mpp": patch.slide_mpp or slide.mpp})

    def is_attached(self, slide: Slide) -> bool:
        """Whether patches are read from just this open slide."""
        return self._slides.get(slide.fingerprint()) is slide

    def attach(self, slide: Slide) -> str:
        """Read patches from an open slide; its key."""
        key = slide.fingerprint()
        self._slides[key] = slide
        if slide.path is not None:
            self._paths[key] = (self.stored(slide.path), slide.mpp)
        return key

    def detach(self, slide: Slide) -> None:
        """Do not read from an open slide any more, because it is about to be closed."""
        self._slides = {key: open for key, open in self._slides.items() if open is not slide}

    def settled(self, dataset: PatchDataset) -> PatchDataset:
        """The dataset with the paths of slides that moved, and the pixel sizes that were corrected."""
        patches = tuple(self._settle(p) for p in dataset.patches)
        same = all(a is b for a, b in zip(patches, dataset.patches, strict=True))
        return dataset if same else dataset.model_copy(update={"patches": patches})

    def _settle(self, patch: Patch) -> Patch:
        if patch.slide_fingerprint is None or patch.slide_fingerprint not in self._paths:
            return patch
        path, mpp = self._paths[patch.slide_fingerprint]
        if patch.slide is None or self._exists(patch.slide):
            path = patch.slide or path
        if (path, mpp or patch.slide_mpp) == (patch.slide, patch.slide_mpp):
            return patch
        return patch.model_copy(update={"slide": path, "slide_mpp": mpp or patch.slide_mpp})

    def of(self, patch: Patch) -> Slide:
        """The slide of a patch.

        Raises
        ------
        DatasetError
            It is not where it was, or another file has its name.
        """
        key = key_of(patch)
        assert key is not None and patch.slide is not None
        if key not in self._slides:
            slide = self._find(patch)
            if slide is None:
                raise DatasetError(f"The slide {patch.slide} is not there any more. Open the slide, or say where it is now.")
            self._slides[key] = slide
        slide = self._slides[key]
        return slide if slide.mpp is not None or patch.slide_mpp is None else slide.with_mpp(patch.slide_mpp)

    def found(self, patch: Patch) -> bool:
        """Whether the patch's slide can be read."""
        try:
            self.of(patch)
        except HistosegError:
            return False
        return True

    def relocate(self, key: str, path: str | Path, patch: Patch) -> Slide:
        """Take a slide from a place that a person named."""
        slide = self._opened(str(path), patch.slide_mpp)
        if patch.slide_fingerprint is not None and slide.fingerprint() != patch.slide_fingerprint:
            slide.close()
            raise DatasetError(
                f"{path} is another slide than {Path(patch.slide or key).name}, which was annotated: their contents differ. Choose the slide itself."
            )
        self._own.append(slide)
        return slide

    def stored(self, path: str) -> str:
        """How a path is written down: relative inside the dataset's folder, absolute elsewhere."""
        whole = Path(os.path.abspath(path))
        home = Path(os.path.abspath(self._folder))
        return whole.relative_to(home).as_posix() if whole.is_relative_to(home) else str(whole)

    def _exists(self, stored: str) -> bool:
        return (self._folder / stored).exists()

    def _find(self, patch: Patch) -> Slide | None:
        """The slide at its path, or (where its fingerprint can tell) under its name near the dataset or its other slides."""
        assert patch.slide is not None
        nearby = self._nearby(Path(patch.slide).name) if patch.slide_fingerprint is not None else ()
        for path in (patch.slide, *nearby):
            if (slide := self._open(path, patch)) is not None:
                self._own.append(slide)
                key = slide.fingerprint()
                self._paths.setdefault(key, (self.stored(str(self._folder / path)), slide.mpp))
                return slide
        return None

    def _nearby(self, name: str) -> Iterable[str]:
        folders = [self._folder, self._folder.parent, self._folder / "slides"]
        folders += [(self._folder / path).parent for path, _ in self._paths.values()]
        return dict.fromkeys(str(folder / name) for folder in folders)

    def _open(self, path: str, patch: Patch) -> Slide | None:
        """The slide at a path, if it is the patch's."""
        if not self._exists(path):
            return None
        try:
            slide = self._opened(path, patch.slide_mpp)
        except HistosegError:
            # Another file took the slide's name: the slide is missing, which is said where its pixels are needed.
            return None
        if patch.slide_fingerprint in (None, slide.fingerprint()):
            return slide
        slide.close()
        return None

    def _opened(self, path: str, mpp: float | None) -> Slide:
        return open_slide(self._folder / path, mpp=mpp)
