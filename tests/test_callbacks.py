"""What may follow each epoch: see every one, end the training, go to another process."""

import json
import pickle
from functools import partial

import numpy as np
import pytest
from sklearn.base import clone
from test_estimator import SMALL, table

from truvae import TVAE, callbacks


def test_callbacks_see_every_epoch_and_can_end_the_training():
    seen = []
    est = TVAE(**SMALL, callbacks=[seen.append, lambda epoch: epoch.index == 1])
    est.fit(table()[0])
    assert [epoch.index for epoch in seen] == [0, 1] and est.n_epochs_ == 2
    assert seen == est.history_


def test_tensorboard_shows_the_epochs(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = callbacks.tensorboard(tmp_path)
    assert pickle.loads(pickle.dumps(shown)).folder == shown.folder
    est = TVAE(**SMALL, callbacks=[shown]).fit(table()[0])
    events = EventAccumulator(str(tmp_path)).Reload()
    assert "index" not in events.Tags()["scalars"]
    shown = [(event.step, event.value) for event in events.Scalars("elbo")]
    assert shown == [(e.index, pytest.approx(e.elbo, rel=1e-6)) for e in est.history_]


def test_a_progress_bar_shows_every_training(capfd):
    x, _ = table(60)
    est = TVAE(callbacks=[callbacks.progress_bar()], **SMALL)
    for _ in range(2):
        est.fit(x)
        assert "100%" in capfd.readouterr().err


def test_estimators_are_cloned_with_a_bar_to_a_file(tmp_path):
    with (tmp_path / "bar.txt").open("w") as file:
        est = TVAE(**SMALL, callbacks=[callbacks.progress_bar(file=file)])
        clone(est).fit(table(60)[0])
    assert "100%" in (tmp_path / "bar.txt").read_text()


def test_estimators_are_pickled_with_their_callbacks(tmp_path, capfd):
    x, _ = table(60)
    log, lines, drawing = (tmp_path / name for name in ("log.csv", "log.jsonl", "now.png"))
    followed = [
        callbacks.progress_bar(),
        callbacks.csv_log(log),
        callbacks.jsonl_log(lines),
        callbacks.preview(drawing, partial(np.eye, 4)),
        callbacks.time_budget(60.0),
    ]
    est = pickle.loads(pickle.dumps(TVAE(**SMALL, callbacks=followed)))
    again = pickle.loads(pickle.dumps(est.fit(x)))  # the bar is at its end
    np.testing.assert_array_equal(again.transform(x), est.transform(x))
    drawing.unlink()
    capfd.readouterr()
    assert again.fit(x).n_epochs_ == 3 and drawing.exists()
    assert "100%" in capfd.readouterr().err
    assert len(log.read_text().splitlines()) == 1 + 2 * 3
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [record["index"] for record in told] == [0, 1, 2] * 2
