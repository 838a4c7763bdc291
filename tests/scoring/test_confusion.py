"""Confusion matrices: their rows, ignored pixels, and inputs that are refused."""

import numpy as np
import pytest

from landseg.contracts.errors import DataError
from landseg.scoring.confusion import confusion_matrix


def test_rows_are_truth_and_ignored_pixels_do_not_count():
    truth = np.array([[0, 0, 1], [2, 255, 255]], np.uint8)
    pred = np.array([[0, 1, 1], [0, 1, 2]], np.uint8)
    expected = [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    np.testing.assert_array_equal(confusion_matrix(truth, pred, 3, 255), expected)


@pytest.mark.parametrize(("truth", "pred"), [([[3]], [[0]]), ([[0]], [[3]]), ([[0]], [[0, 1]])])
def test_values_that_are_not_classes_and_unequal_shapes_are_errors(truth, pred):
    with pytest.raises(DataError):
        confusion_matrix(np.array(truth, np.uint8), np.array(pred, np.uint8), 3, 255)
