"""Samples: found, downloaded whole or not at all, and one without network."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest

from napari_histoseg import samples
from napari_histoseg.errors import SlideError
from napari_histoseg.samples import CMU_NAME, cmu_path, sample_slide, tissue_image

CONTENT = b"pretend that this is a slide"


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No sample is there, and nothing can be downloaded."""
    monkeypatch.delenv("HISTOSEG_DATA", raising=False)
    monkeypatch.setenv("HISTOSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(samples, "urlopen", _no_network)


def _no_network(*_: Any, **__: Any) -> Any:
    raise OSError("no route to host")


def _serve(content: bytes, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []

    def answer(request: Any, timeout: float) -> io.BytesIO:
        asked.append(request.full_url)
        return io.BytesIO(content)

    monkeypatch.setattr(samples, "urlopen", answer)
    return asked


def test_the_named_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "data" / "slides" / CMU_NAME
    there.parent.mkdir(parents=True)
    there.write_bytes(CONTENT)
    monkeypatch.setenv("HISTOSEG_DATA", str(tmp_path / "data"))
    assert cmu_path() == there


def test_it_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "CMU_SHA256", hashlib.sha256(CONTENT).hexdigest())
    asked = _serve(CONTENT, monkeypatch)
    first = cmu_path()
    assert first == cmu_path() == tmp_path / "cache" / "samples" / CMU_NAME
    assert first.read_bytes() == CONTENT
    assert asked == [samples.CMU_URL]


@pytest.mark.parametrize("content", [b"", CONTENT[:10]])
def test_half_a_download_is_not_kept(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _serve(content, monkeypatch)
    with pytest.raises(SlideError, match="SHA-256 differs"):
        cmu_path()
    assert not list((tmp_path / "cache").rglob("*CMU*"))


def test_without_network_it_says_what_to_do() -> None:
    with pytest.raises(SlideError, match=r"no route to host.*HISTOSEG_DATA"):
        cmu_path()


def test_nothing_is_downloaded_when_not_allowed() -> None:
    with pytest.raises(SlideError, match="is not on this machine"):
        cmu_path(download=False)


def test_tissue_is_always_there() -> None:
    assert tissue_image().shape == (512, 512, 3)
    with sample_slide() as slide:
        assert (slide.width, slide.height) == (512, 512)
        assert slide.mpp == samples.TISSUE_MPP and slide.mpp_source == "user"


def test_the_real_sample_is_the_one_that_was_meant(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISTOSEG_DATA", str(data_dir))
    content = cmu_path().read_bytes()
    assert len(content) == samples.CMU_BYTES
    assert hashlib.sha256(content).hexdigest() == samples.CMU_SHA256
    with sample_slide() as slide:
        assert slide.mpp == pytest.approx(0.499) and slide.mpp_source == "file"
