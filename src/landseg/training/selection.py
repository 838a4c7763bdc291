"""Which of the weights that were scored on val become the model, and when training ends before its last iteration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mmcv

from landseg.contracts.dataset import ClassSchema
from landseg.contracts.errors import ConfigError
from landseg.scoring.scores import METRICS

Evaluations = Sequence[dict[str, Any]]
"""In order: `iteration`, `epoch` and `scores` each."""


@dataclass(frozen=True)
class Selection:
    """Which weights become the model.

    Attributes:
        ships_best: whether the best weights become the model, not the last ones.
        metric: the score on val that decides, here and for `patience`.
        patience: evaluations without a better score that end training; 0 for any number.
    """

    ships_best: bool = False
    metric: str = "mIoU"
    patience: int = 0

    @classmethod
    def of(cls, choice: str, patience: int, config: mmcv.Config, schema: ClassSchema, scored: bool) -> Selection:
        """What `--selection` and `--patience` ask for.

        Args:
            choice: auto, best or last. auto is best where the config has `evaluation.save_best` and val is scored.
            patience: evaluations.
            config: the mmseg config.
            schema: the dataset's classes.
            scored: whether val is held out from training, with labels.

        Raises:
            ConfigError: val is not scored, and something that needs its scores was asked for.
        """
        for flag, asked in (("--selection best", choice == "best"), ("--patience", patience > 0)):
            if asked and not scored:
                raise ConfigError(
                    flag, "expected labelled val tiles that are not trained on, found none", "leave it out"
                )
        metric = save_best(config)
        return cls(
            ships_best=scored and (choice == "best" or (choice == "auto" and metric is not None)),
            metric=metric if metric in known_metrics(schema) else "mIoU",
            patience=patience,
        )

    def best(self, evaluations: Evaluations) -> dict[str, Any] | None:
        """The evaluation with the best score, of equal ones the first; None where there is no score."""
        scored = [evaluation for evaluation in evaluations if self.metric in evaluation["scores"]]
        return max(scored, key=lambda evaluation: evaluation["scores"][self.metric], default=None)

    def ends_early(self, evaluations: Evaluations, first: int = 0) -> bool:
        """Whether the best score is as many evaluations old as there is patience for.

        Args:
            evaluations: in order.
            first: iteration after which they count: that from which an earlier training is continued.
        """
        best = self.best(evaluations)
        if not self.patience or best is None:
            return False
        since = [evaluation for evaluation in evaluations if evaluation["iteration"] > max(first, best["iteration"])]
        return len(since) >= self.patience


def save_best(config: mmcv.Config) -> str | None:
    """The config's `evaluation.save_best`, "auto" being mIoU; None where it has none."""
    asked = (config.get("evaluation") or {}).get("save_best")
    return "mIoU" if asked in ("auto", True) else str(asked) if asked else None


def known_metrics(schema: ClassSchema) -> set[str]:
    """The scores that evaluation computes."""
    return {*METRICS, *(f"IoU.{name}" for name in schema.classes)}
