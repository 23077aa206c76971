"""Jobs: events on a thread, cancel, errors, and a clean end."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from napari_histoseg.errors import StorageError
from napari_histoseg.gui import jobs
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.jobs import Job, Progress
from napari_histoseg.predict.events import Finished, Notice, Started, TileDone
from napari_histoseg.slide import Box

BOX = Box(0, 0, 8, 8)


class Store:
    """Counts commits and the threads that they come from."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def commit(self) -> None:
        self.threads.append(threading.get_ident())


class Run:
    """An event iterator that waits for permits and notes where it was closed."""

    def __init__(self, tiles: int = 5, permits: int = 10**6, error: BaseException | None = None) -> None:
        self.tiles, self.error = tiles, error
        self.permits = threading.Semaphore(permits)
        self.store = Store()
        self.waiting = threading.Event()
        self.closed_on: int | None = None
        self.worked_on: int | None = None

    def __call__(self) -> Iterator[Any]:
        self.worked_on = threading.get_ident()
        try:
            yield Started(None, self.tiles, 0, 0.5, BOX, "cpu", "float32", self.store)  # type: ignore[arg-type]
            for i in range(self.tiles):
                self.waiting.set()
                assert self.permits.acquire(timeout=120)
                if self.error is not None and i == 2:
                    raise self.error
                yield TileDone(i, BOX, i + 1, self.tiles, 10 * (i + 1), 0.1)
            yield Notice("one word")
            yield Finished(SimpleNamespace(name="result"), 1.0)  # type: ignore[arg-type]
        finally:
            self.closed_on = threading.get_ident()


class Log:
    """What a job said."""

    def __init__(self, job: Job) -> None:
        self.said: list[tuple[str, Any]] = []
        for name in ("started", "progress", "notice", "failed", "finished"):
            getattr(job, name).connect(lambda value, n=name: self.said.append((n, value)))
        job.cancelled.connect(lambda: self.said.append(("cancelled", None)))

    def names(self) -> list[str]:
        return [name for name, _ in self.said]


def finish(job: Job, qtbot: Any) -> None:
    with qtbot.waitSignal(job.ended, timeout=20_000):
        job.start()


def test_a_run_says_started_progress_and_finished(qtbot: Any) -> None:
    run = Run()
    job = Job("a run", run)
    log = Log(job)
    finish(job, qtbot)
    assert log.names()[0] == "started"
    assert log.names()[-1] == "finished"
    last = [value for name, value in log.said if name == "progress"][-1]
    assert (last.done, last.total, last.objects) == (5, 5, 50)
    assert ("notice", "one word") in log.said
    assert run.worked_on == run.closed_on != threading.get_ident()
    assert job not in jobs.RUNNING


def test_progress_is_not_said_more_often_than_it_can_be_seen(qtbot: Any) -> None:
    job = Job("a long run", Run(tiles=3000))
    log = Log(job)
    finish(job, qtbot)
    assert log.names().count("progress") < 30


def test_the_store_is_committed_on_the_runs_own_thread(qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "COMMIT_S", 0.0)
    run = Run()
    finish(Job("a run", run), qtbot)
    assert set(run.store.threads) == {run.worked_on}


def test_a_job_that_has_ended_keeps_nothing_of_what_it_did(qtbot: Any, make_napari_viewer: Any) -> None:
    window = make_napari_viewer().window
    run, stored = Run(), []
    job = Job("a run", lambda run=run: run(), stored=lambda boxes, run=run: stored.extend(boxes))
    still = weakref.ref(run)
    del run
    assert still() is not None
    finish(job, qtbot)
    gc.collect()
    # As long as the window is there, so is napari's note of the job, and through it the worker.
    assert window._task_status_manager._tasks
    assert still() is None
    assert len(stored) == 5


def test_cancel_closes_the_iterator_on_its_thread(qtbot: Any) -> None:
    run = Run(permits=2)
    job = Job("a run", run)
    log = Log(job)
    with qtbot.waitSignal(job.started):
        job.start()
    job.cancel()
    with qtbot.waitSignal(job.ended, timeout=20_000):
        run.permits.release(10)
    assert log.names()[-1] == "cancelled"
    assert "finished" not in log.names()
    assert run.closed_on == run.worked_on


@pytest.mark.parametrize(
    ("error", "words"),
    [(StorageError("The disk is full."), "The disk is full."), (KeyError("x"), "The run stopped: KeyError: 'x'")],
)
def test_errors_come_as_sentences(qtbot: Any, error: BaseException, words: str) -> None:
    job = Job("a run", Run(error=error))
    log = Log(job)
    finish(job, qtbot)
    name, sentence = log.said[-1]
    assert name == "failed"
    assert sentence.startswith(words)
    assert "Traceback" not in sentence


def test_stopping_all_waits_for_the_stores(qtbot: Any) -> None:
    run = Run(permits=1)
    job = Job("a run", run)
    with qtbot.waitSignal(job.started):
        job.start()
    threading.Timer(0.3, lambda: run.permits.release(10)).start()
    assert jobs.stop_all(120)
    assert run.closed_on is not None
    qtbot.waitUntil(lambda: job not in jobs.RUNNING)


def test_waiting_is_bounded(qtbot: Any) -> None:
    run = Run(permits=0)
    job = Job("a run that hangs", run)
    with qtbot.waitSignal(job.started):
        job.start()
    assert run.waiting.wait(120)
    assert not jobs.stop_all(0.2)
    with qtbot.waitSignal(job.ended, timeout=20_000):
        run.permits.release(10)


def test_a_job_that_never_gets_a_thread_is_not_waited_for(qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Job("waits for a thread", Run())
    monkeypatch.setattr(waiting._worker, "start", lambda: None)
    waiting.start()
    assert jobs.stop_all(1)
    jobs.RUNNING.discard(waiting)


def test_long_jobs_leave_threads_for_short_ones(qtbot: Any) -> None:
    long = [Run(permits=0) for _ in range(4)]
    held = [Job("long", run) for run in long]
    for job in held:
        job.start()
    values: list[Any] = []
    with qtbot.waitSignal(in_background("short", lambda: 1, values.append, values.append).ended, timeout=20_000):
        pass
    assert values == [1]
    for run in long:
        run.permits.release(10)
    qtbot.waitUntil(lambda: not set(held) & jobs.RUNNING, timeout=20_000)


def test_a_job_that_was_cancelled_before_its_thread_came_does_nothing(qtbot: Any) -> None:
    run = Run()
    job = Job("cancelled at once", run)
    job.cancel()
    with qtbot.waitSignals([job.cancelled, job.ended], timeout=20_000):
        job.start()
    assert not run.waiting.is_set()


def test_a_function_in_the_background_returns_its_value(qtbot: Any) -> None:
    values: list[Any] = []
    job = in_background("something", lambda: None, values.append, values.append)
    with qtbot.waitSignal(job.ended, timeout=20_000):
        pass
    assert values == [None]


def test_closing_the_window_stops_the_run_and_keeps_what_is_done(dock: Any, qtbot: Any) -> None:
    from napari_histoseg.results import open_result

    engine = dock.engine
    engine.hold(6)
    dock.where.buttons["Whole slide"].setChecked(True)
    dock.run_button.click()
    qtbot.waitUntil(lambda: dock.current is not None and dock.current.labels is not None and engine.waiting.is_set())
    status = dock.viewer.window._task_status_manager.get_status()
    # This is what napari asks before it closes.
    assert any("Nuclei on" in line for line in status)
    engine.permits.release(2)
    dock.viewer.close()
    engine.permits.release(10**6)
    assert jobs.stop_all(120)
    record = open_result(engine.calls[0]["out"]).record
    assert record.status == "cancelled"
    assert record.tiles_done > 0


def test_progress_estimates_the_time_left() -> None:
    from napari_histoseg.gui.progress import duration

    assert [duration(s) for s in (0.2, 8, 61, 600, 3600, 5000)] == ["1 s", "8 s", "1 min", "10 min", "1 h", "1 h 23 min"]
    assert Progress(1, 2, 3, None).seconds_left is None
