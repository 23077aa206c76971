"""One person's work on a patch dataset: every change is on the disk when its call returns, and can be undone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from napari_histoseg.annotations import classes as class_list
from napari_histoseg.annotations import masks, opening, pictures, placing
from napari_histoseg.annotations.blockwork import BlockWork
from napari_histoseg.annotations.dataset import FILE_NAME, Patch, PatchClass, PatchDataset
from napari_histoseg.annotations.entries import Annotation, ClassCount, annotation, class_counts
from napari_histoseg.annotations.places import Places, SlideRef, key_of
from napari_histoseg.annotations.shelf import Shelf
from napari_histoseg.annotations.work import Changed, Work
from napari_histoseg.errors import DatasetError
from napari_histoseg.results.files import Step, no_step
from napari_histoseg.slide.geometry import Box
from napari_histoseg.slide.slide import check_mpp

if TYPE_CHECKING:
    from napari_histoseg.slide import Slide

Split = Literal["train", "val", "test"]


class AnnotationSession:
    """The one writer of a patch dataset's folder. Made by `create` and `open`.

    Changing belongs to one thread; pictures may be read from others. A call that fails raises, and leaves the folder and
    the session as they were.
    """

    def __init__(self, shelf: Shelf, opened: opening.Opened) -> None:
        self.folder = shelf.folder
        self._places = Places(self.folder)
        self._work = Work(shelf, opened, self._places)
        self.blocks = BlockWork(self._work, self._take_id)
        self._pictures = pictures.PictureCache()
        self._next = opening.next_number(self.dataset, self.folder)
        self._slide_lock = threading.RLock()

    # -- opening and closing -----------------------------------------------------------------------

    @classmethod
    def create(cls, folder: str | Path, *, mpp: float, classes: Sequence[PatchClass] = ()) -> AnnotationSession:
        """Start an empty dataset.

        Parameters
        ----------
        folder : path
            Made when it is missing; other files in it are left alone.
        mpp : float
            µm per pixel at which patches are painted.
        classes : sequence of PatchClass
            To begin with.

        Raises
        ------
        DatasetError
            There is a dataset already, another window holds the folder, or classes repeat a value or a name.
        PixelSizeError
            ``mpp`` is no positive number.
        StorageError
            The folder cannot be written.
        """
        from napari_histoseg.results.files import storage_errors

        folder, mpp = Path(folder), check_mpp(mpp)
        dataset = PatchDataset.model_validate({"mpp": mpp, "folder": folder})
        for c in classes:
            new = class_list.made(dataset, c.name, c.color, c.value)
            dataset = dataset.model_copy(update={"classes": (*dataset.classes, new)})
        with storage_errors(folder, "try again"):
            folder.mkdir(parents=True, exist_ok=True)
        shelf = Shelf(folder)
        try:
            if (folder / FILE_NAME).exists():
                raise DatasetError(f"{folder} holds a dataset already. Open it, or choose another folder.")
            shelf.write(dataset, {})
            return cls(shelf, opening.Opened(dataset, {}))
        except BaseException:
            shelf.close()
            raise

    @classmethod
    def open(cls, folder: str | Path) -> AnnotationSession:
        """Go on with a dataset; nothing is written before the first change.

        Raises
        ------
        DatasetError
            Names every problem of the dataset at once, or who else has it open.
        """
        folder = Path(folder)
        folder = folder.parent if folder.name == FILE_NAME else folder
        if not (folder / FILE_NAME).is_file():
            raise DatasetError(f"{folder} is no patch dataset: it has no {FILE_NAME}. Choose the folder that was created for one.")
        shelf = Shelf(folder)
        try:
            return cls(shelf, opening.read(folder))
        except BaseException:
            shelf.close()
            raise

    def close(self) -> None:
        """Give the folder and the slides free; a second call does nothing."""
        self._work.close()
        self._places.close()
        self._pictures.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def subscribe(self, fn: Callable[[Changed], None]) -> Callable[[], None]:
        """Call ``fn`` after every change; the returned function ends that."""
        return self._work.subscribe(fn)

    # -- what is there -----------------------------------------------------------------------------

    @property
    def mpp(self) -> float:
        """µm per pixel at which new patches are painted."""
        assert self.dataset.mpp is not None
        return self.dataset.mpp

    @property
    def classes(self) -> tuple[PatchClass, ...]:
        """The classes, in the order of their making."""
        return self.dataset.classes

    @property
    def dataset(self) -> PatchDataset:
        """What is on the disk, for training; later changes do not reach it."""
        return self._work.dataset

    @property
    def patches(self) -> tuple[Annotation, ...]:
        """All patches, in order."""
        return tuple(annotation(self.dataset, p, self._work.tallies) for p in self.dataset.patches)

    def patch(self, id: str) -> Annotation:
        """One patch."""
        return annotation(self.dataset, self._listed(id), self._work.tallies)

    def counts(self) -> list[ClassCount]:
        """Patches and painted area of every class."""
        return class_counts(self.dataset, self._work.tallies)

    def _listed(self, id: str) -> Patch:
        for patch in self.dataset.patches:
            if patch.id == id:
                return patch
        raise DatasetError(f"There is no patch {id}. It may have been removed; choose one from the list.")

    # -- classes -----------------------------------------------------------------------------------

    def add_class(self, name: str, color: str | None = None, value: int | None = None) -> PatchClass:
        """A new class; ``value`` 0 names the background. Raises DatasetError when name or value are taken."""
        new = class_list.made(self.dataset, name, color, value)
        # The background comes first in lists and has no number key.
        classes = (new, *self.classes) if new.value == masks.BACKGROUND else (*self.classes, new)
        self._work.change(f"class '{new.name}' added", classes=classes)
        return new

    def rename_class(self, value: int, name: str) -> None:
        """Another name for a class, in labels too."""
        old = class_list.find(self.dataset, value).name
        self._work.become(class_list.renamed(self.dataset, value, name), f"class '{old}' renamed to '{name.strip()}'")

    def recolor_class(self, value: int, color: str) -> None:
        """Another ``#rrggbb`` for a class."""
        name = class_list.find(self.dataset, value).name
        self._work.become(class_list.recolored(self.dataset, value, color), f"color of class '{name}' changed")

    def remove_class(self, value: int) -> None:
        """Remove a class; a DatasetError with numbers while masks or labels use it."""
        name = class_list.find(self.dataset, value).name
        self._work.become(class_list.removed(self.dataset, value, self._work.tallies), f"class '{name}' removed")

    # -- patches -----------------------------------------------------------------------------------

    def add_mask_patch(self, slide: Slide, box: Box, group: str | None = None) -> Annotation:
        """A patch to paint in, nothing in it annotated yet.

        Parameters
        ----------
        slide : Slide
            Read from a file; it becomes the one that the patch's pixels come from.
        box : Box
            In level-0 pixels.
        group : str, optional
            What stays together in splits; the slide's file name when not given.

        Returns
        -------
        Annotation
            Its ``notice`` says when it overlaps another painted patch.

        Raises
        ------
        DatasetError
            The box misses the slide, is too large to paint, or is a painted patch already.
        PixelSizeError
            The slide has no pixel size, or one too coarse for the dataset.
        """
        patch, shape = self.patch_for(slide, box, group)
        placing.paintable(shape, self.mpp)
        return self._add(patch, masks.blank(shape))

    def add_label_patch(self, slide: Slide, box: Box, value: int | Sequence[int] | None, group: str | None = None) -> Annotation:
        """A patch with a class, or several, for all of it; without one until `set_label`, when ``value`` is None."""
        patch, _ = self.patch_for(slide, box, group)
        return self._add(self._edited(patch, label=self._named(value)), None)

    def patch_for(self, slide: Slide, box: Box, group: str | None = None) -> tuple[Patch, tuple[int, int]]:
        """A patch on a slide for `bring_in`, and the ``(h, w)`` of its mask; raises as `add_mask_patch` does."""
        shape = placing.shape_on(slide, box, self.mpp)
        assert slide.path is not None
        with self._slide_lock:
            key = self._places.attach(slide)
        place = (box.x, box.y, box.width, box.height)
        path, group = self._places.stored(slide.path), group or Path(slide.path).stem
        return Patch(slide=path, box=place, group=group, slide_fingerprint=key, slide_mpp=slide.mpp), shape

    def bring_in(
        self,
        sentence: str,
        items: Sequence[tuple[Patch, NDArray[np.uint8] | None]],
        images: Mapping[int, Path] | None = None,
        classes: Sequence[PatchClass] = (),
        step: Step = no_step,
    ) -> list[Annotation]:
        """Add many patches in one step, with new classes; what importers do.

        Parameters
        ----------
        sentence : str
            What was done, for undo: ``"5 patches imported"``.
        items : sequence of (Patch, mask or None)
            Without ids; masks hold values of known or new classes.
        images : mapping of int to Path
            By place in ``items``: the picture to copy into the dataset. Undo leaves it there.
        classes : sequence of PatchClass
            New ones.
        step : callable
            Called with (files written, files in all) before each; when it raises, nothing is added.

        Returns
        -------
        list of Annotation
        """
        patches, files, copies = [], {}, {}
        for number, (patch, mask) in enumerate(items):
            id = opening.ID.format(self._next + number)
            named: dict[str, Any] = {"id": id}
            if mask is not None:
                named["mask"] = f"masks/{id}.png"
                files[named["mask"]] = masks.Painted.of(mask)
            if (picture := (images or {}).get(number)) is not None:
                named["image"] = f"images/{id}{picture.suffix.lower()}"
                copies[named["image"]] = picture
            patches.append(patch.model_copy(update=named))
        everything = (*self.dataset.patches, *patches)
        self._work.change(sentence, files, copies, step, patches=everything, classes=(*self.classes, *classes))
        self._next += len(items)
        return [annotation(self.dataset, p, self._work.tallies) for p in patches]

    def set_label(self, id: str, value: int | Sequence[int] | None) -> None:
        """The class of a patch that is not painted in, or the classes that are all in it; None takes them back."""
        self._edit(self._unpainted(id), f"class of {id} changed", label=self._named(value), coarse=None)

    def toggle_label(self, id: str, value: int) -> tuple[int, ...]:
        """Add a class to those of a patch that is not painted in, or take it away; what it has then."""
        patch, name = self._unpainted(id), class_list.find(self.dataset, value).name
        kept = tuple(other for other in patch.labels if other != name)
        added = len(kept) == len(patch.labels)
        sentence = f"class '{name}' {'added to' if added else 'taken from'} {id}"
        self._edit(patch, sentence, label=((*kept, name) if added else kept) or None, coarse=None)
        return self.patch(id).values

    def _named(self, value: int | Sequence[int] | None) -> tuple[str, ...] | None:
        values = () if value is None else value if isinstance(value, Sequence) else (value,)
        return tuple(class_list.find(self.dataset, v).name for v in values) or None

    def set_coarse(self, id: str, value: int | None) -> None:
        """The coarse block label of a patch that is not painted in."""
        self._edit(self._unpainted(id), f"coarse label of {id} changed", coarse=value, label=None)

    def set_split(self, id: str, split: Split | None) -> None:
        """Fix which part of a training a patch belongs to."""
        self._edit(self._listed(id), f"split of {id} changed", split=split)

    def set_group(self, id: str, group: str | None) -> None:
        """What the patch stays together with in splits."""
        self._edit(self._listed(id), f"group of {id} changed", group=group or None)

    def remove(self, *ids: str) -> None:
        """Remove patches, with what was painted in them; undo brings them back."""
        gone = [self._listed(id) for id in dict.fromkeys(ids)]
        if not gone:
            return
        kept = tuple(p for p in self.dataset.patches if all(p is not g for g in gone))
        shared = {p.mask for p in kept}
        grids = {p.blocks: None for p in gone if p.blocks == f"blocks/{p.id}.png"}
        # Only files that a session made are deleted with their patch.
        files = {p.mask: None for p in gone if p.mask is not None and p.mask not in shared and p.mask == f"masks/{p.id}.png"}
        what = f"patch {ids[0]}" if len(gone) == 1 else f"{len(gone)} patches"
        self._work.change(f"{what} removed", {**files, **grids}, patches=kept)

    def _unpainted(self, id: str) -> Patch:
        patch = self._listed(id)
        if patch.mask is not None:
            raise DatasetError(f"Patch {id} is painted, so it has no class of its own. Paint in it, or add a classification patch at the same place.")
        return patch

    def _take_id(self) -> str:
        self._next += 1
        return opening.ID.format(self._next - 1)

    def _add(self, patch: Patch, mask: NDArray[np.uint8] | None) -> Annotation:
        assert patch.box is not None and patch.slide_fingerprint is not None
        notice = placing.beside(self.dataset, patch.slide_fingerprint, Box(*patch.box), mask is not None)
        (added,) = self.bring_in(f"patch {opening.ID.format(self._next)} added", [(patch, mask)])
        return replace(added, notice=notice)

    # -- painting ----------------------------------------------------------------------------------

    def mask(self, id: str) -> NDArray[np.uint8]:
        """What was painted in a patch, ``(h, w)``: class values, 0 background, 255 not annotated. A copy."""
        return self._work.mask(self._mask_name(id))

    def set_mask(self, id: str, mask: NDArray[Any]) -> None:
        """Replace what was painted in a patch.

        Raises
        ------
        DatasetError
            The mask has another shape, or values that no class has.
        StorageError
            It could not be written; what was painted before is kept.
        """
        name = self._mask_name(id)
        new = masks.checked(mask, self._work.tallies[name].shape, self.classes, id)
        if self._work.holds(name, new):
            return
        # Masks that other programs wrote, or that two patches share, stay as they are.
        shared = sum(p.mask == name for p in self.dataset.patches) > 1
        target = name if name.endswith(".png") and not shared else f"masks/{id}.png"
        patches = self.dataset.patches
        if target != name:
            patches = tuple(p.model_copy(update={"mask": target}) if p.id == id else p for p in patches)
        self._work.change(f"painting in {id}", {target: new}, patches=patches)

    def _mask_name(self, id: str) -> str:
        patch = self._listed(id)
        if patch.mask is None:
            raise DatasetError(f"Patch {id} is not painted: what classes it has are for all of it.")
        return patch.mask

    # -- pictures ----------------------------------------------------------------------------------

    def image(self, id: str) -> NDArray[np.uint8]:
        """The tissue under a patch, RGB ``(h, w, 3)``, pixel by pixel under its mask; not to be written to.

        Raises
        ------
        DatasetError, TileError
            The slide is not there any more, or cannot be read.
        """
        patch = self._listed(id)
        shape = self._work.tallies[patch.mask].shape if patch.mask is not None else None
        return self._picture(patch, shape)

    def thumbnail(self, id: str, px: int = 64) -> NDArray[np.uint8]:
        """A patch in a square ``(px, px, 3)`` with its annotation in color; gray when its slide is missing."""
        item = self.patch(id)
        small = None
        if item.box is not None:
            factor = px / max(item.box.width, item.box.height)
            small = max(1, round(item.box.height * factor)), max(1, round(item.box.width * factor))
        image = pictures.or_none(lambda: self._picture(item.patch, small))
        mask = self.mask(id) if item.kind == "mask" else None
        labels = [class_list.find(self.dataset, value) for value in item.values]
        return pictures.thumbnail(image, mask, labels, self.classes, px)

    def _picture(self, patch: Patch, shape: tuple[int, int] | None) -> NDArray[np.uint8]:
        with self._slide_lock:
            slide = None if patch.slide is None else self._places.of(patch)
        if slide is not None and shape is None:
            assert patch.box is not None
            shape = masks.shape_at(Box(*patch.box), slide.require_mpp(), self.mpp)
        dataset = self.dataset
        return self._pictures.get((patch.id, shape), lambda: pictures.read_patch(dataset, patch, slide, shape))

    # -- slides ------------------------------------------------------------------------------------

    def slides(self) -> list[SlideRef]:
        """The slides that patches lie on, and whether each can be read."""
        first: dict[str, list[Patch]] = {}
        for patch in self.dataset.patches:
            if (key := key_of(patch)) is not None:
                first.setdefault(key, []).append(patch)
        with self._slide_lock:
            return [SlideRef(key, listed[0].slide or "", self._places.found(listed[0]), len(listed)) for key, listed in first.items()]

    def attach(self, slide: Slide) -> int:
        """Read the patches of an open slide from it, wherever it lies now; how many there are."""
        with self._slide_lock:
            if not self._places.is_attached(slide):
                self._pictures.clear()
            key = self._places.attach(slide)
        self._work.settle()
        return sum(p.slide_fingerprint == key for p in self.dataset.patches)

    def detach(self, slide: Slide) -> None:
        """Do not read from an open slide any more, because it is about to be closed; its file is opened when needed."""
        with self._slide_lock:
            self._places.detach(slide)

    def patches_of(self, slide: Slide) -> list[Annotation]:
        """The patches of an open slide, found by its content; see `attach`."""
        key = slide.fingerprint()
        if self.attach(slide) == 0:
            return []
        return [p for p in self.patches if p.slide_fingerprint == key]

    def relocate(self, fingerprint: str, path: str | Path) -> None:
        """Say where a slide is now.

        Raises
        ------
        DatasetError
            No patch lies on such a slide, or the file is another slide.
        SlideError
            The file cannot be read.
        """
        patch = next((p for p in self.dataset.patches if key_of(p) == fingerprint), None)
        if patch is None:
            raise DatasetError(f"No patch lies on the slide {fingerprint}.")
        slide = self._places.relocate(fingerprint, path, patch)
        if patch.slide_fingerprint is None:
            named = {"slide_fingerprint": slide.fingerprint(), "slide_mpp": patch.slide_mpp or slide.mpp}
            patches = (p.model_copy(update=named) if key_of(p) == fingerprint else p for p in self.dataset.patches)
            self._work.identify(self.dataset.model_copy(update={"patches": tuple(patches)}))
        self.attach(slide)

    # -- undo --------------------------------------------------------------------------------------

    @property
    def can_undo(self) -> str | None:
        """What `undo` would take back; None when there is nothing."""
        return self._work.can_undo

    @property
    def can_redo(self) -> str | None:
        """What `redo` would bring back; None when there is nothing."""
        return self._work.can_redo

    def undo(self) -> str | None:
        """Take the last change back; says which, None when there is none."""
        return self._work.undo()

    def redo(self) -> str | None:
        """Bring the last undone change back; says which, None when there is none."""
        return self._work.redo()

    def _edit(self, patch: Patch, sentence: str, **values: Any) -> None:
        new = self._edited(patch, **values)
        self._work.change(sentence, patches=tuple(new if p is patch else p for p in self.dataset.patches))

    @staticmethod
    def _edited(patch: Patch, **values: Any) -> Patch:
        try:
            return Patch.model_validate({**patch.model_dump(), **values})
        except ValidationError as error:
            given = ", ".join(f"{k}={v!r}" for k, v in values.items() if v is not None)
            raise DatasetError(f"Patch {patch.id} cannot have {given}: {error.errors()[0]['msg']}.") from None
