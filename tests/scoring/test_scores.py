"""Scores against mmsegmentation's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landseg.scoring.confusion import confusion_matrix
from landseg.scoring.scores import scores


def test_scores_by_hand():
    found = scores(np.array([[3, 1], [0, 4]]), ["a", "b"])
    assert found == {
        "mIoU": (3 / 4 + 4 / 5) / 2,
        "mAcc": (3 / 4 + 1) / 2,
        "aAcc": 7 / 8,
        "IoU.a": 3 / 4,
        "IoU.b": 4 / 5,
    }


def test_absent_class_is_left_out_of_the_means():
    confusion = np.zeros((3, 3), np.int64)
    confusion[0] = [4, 0, 0]
    found = scores(confusion, ["a", "b", "c"])
    assert found == {"mIoU": 1.0, "mAcc": 1.0, "aAcc": 1.0, "IoU.a": 1.0}
    confusion[0, 1] = 4  # predicted but never true: it has no score either, and lowers that of the class it belongs to
    assert scores(confusion, ["a", "b", "c"]) == {"mIoU": 0.5, "mAcc": 0.5, "aAcc": 0.5, "IoU.a": 0.5}


def test_nothing_scored_gives_no_scores():
    assert scores(np.zeros((2, 2), np.int64), ["a", "b"]) == {}


@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_scores_equal_mmseg_over_the_classes_in_the_truth(seed, num_classes):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, num_classes, (16, 16)).astype(np.uint8)
    truth[rng.random((16, 16)) < 0.1] = 255
    pred = np.where(rng.random((16, 16)) < 0.5, truth, rng.integers(0, num_classes, (16, 16))).astype(np.uint8)
    pred[pred == 255] = 0
    names = [f"c{i}" for i in range(num_classes)]
    found = scores(confusion_matrix(truth, pred, num_classes, 255), names)
    # mmseg.core.evaluation.metrics, written out in numpy: areas by histogram, then ratios and nanmean
    scored = truth != 255
    hit, t, p = (
        np.bincount(x, minlength=num_classes) for x in (truth[scored & (truth == pred)], truth[scored], pred[scored])
    )
    with np.errstate(invalid="ignore"):
        iou, acc = hit / (t + p - hit), hit / t
    iou[t == 0] = np.nan
    assert found["mIoU"] == pytest.approx(np.nanmean(iou))
    assert found["mAcc"] == pytest.approx(np.nanmean(acc))
    assert found["aAcc"] == pytest.approx(hit.sum() / t.sum())
    assert {k: v for k, v in found.items() if k.startswith("IoU.")} == pytest.approx(
        {f"IoU.{n}": v for n, v in zip(names, iou, strict=True) if not np.isnan(v)}
    )
