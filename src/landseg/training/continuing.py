"""Continuing a training that has ended (`--resume-from`): longer, or with another schedule, as stock mmseg's does.

mmseg: tools/train.py, `--resume-from` with a larger `max_iters` or `max_epochs`. Weights, the optimizer's state, random
numbers and the position in the data are taken up where the training ended; the learning rate is that of the schedule
over the whole new length. That makes sense only where all else is as it was, which is checked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mmcv

from landseg import storage
from landseg.contracts.errors import ConfigError, masked
from landseg.contracts.model import ModelManifest, is_checkpoint
from landseg.models.config_text import parse_config

_FLAG = "--resume-from"
_MAY_DIFFER = {"name", "pretrained", "selection", "patience", "resume_from", "resume_from_sha256", "config"}
"""Of an identity: what neither the weights so far nor the order of the tiles depends on."""
_SCHEDULE = {
    "runner",
    "total_iters",
    "total_epochs",
    "lr_config",
    "evaluation",
    "checkpoint_config",
    "log_config",
    "log_level",
}
"""Of a config: how long to train, at which rate, and what to do in between."""


@dataclass(frozen=True)
class Earlier:
    """A training that has ended, and whose last checkpoint is where another one begins.

    Attributes:
        uri: of its model's manifest.
        sha256: of the manifest.
        folder: URI of its stage folder.
        iterations: that it trained.
        config: its resolved config as text.
        parameters: what decided its result, besides the config.
    """

    uri: str
    sha256: str
    folder: str
    iterations: int
    config: str
    parameters: Mapping[str, Any]

    @classmethod
    def open(cls, ref: str) -> Earlier:
        """Read the manifest of a model that landseg trained.

        Raises:
            StorageError: it cannot be read.
            ContractError: it is not a model's.
            ConfigError: it is of a release that did not record how long it trained, or is a file of weights.
        """
        if is_checkpoint(ref):
            raise ConfigError(
                _FLAG,
                f"expected the manifest of a model that landseg trained, or a reference to it, found {ref}, which has "
                "its weights alone",
                "give manifest.json, which lies next to it",
            )
        loaded = storage.read_document(ModelManifest, ref)
        document = loaded.document
        iterations = document.parameters.get("iterations")
        if not isinstance(iterations, int):
            raise ConfigError(
                _FLAG, f"expected a model whose manifest gives its iterations, found {ref} without", _instead(ref)
            )
        folder = storage.parent(loaded.uri)
        return cls(loaded.uri, loaded.sha256, folder, iterations, document.config, document.parameters)

    def check_continuable(self, identity: Mapping[str, Any]) -> None:
        """Refuse to continue with something else than the schedule changed.

        Args:
            identity: what decides the result of the training that is to continue this one.

        Raises:
            ConfigError: what else differs.
        """
        mine = masked(dict(identity))
        keys = dict.fromkeys([*mine, "tile_order"])  # which is there only where it was given
        changed = [key for key in keys if key not in _MAY_DIFFER and mine.get(key) != self.parameters.get(key)]
        before, now = (_beyond_schedule(parse_config(text, _FLAG)) for text in (self.config, mine["config"]))
        changed += [f"config {key}" for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
        if changed:
            raise ConfigError(
                _FLAG,
                f"expected a training that differs in its length and schedule only, found another {', '.join(changed)}",
                f"leave them as they were, or {_instead(self.uri)}",
            )

    def check_length(self, max_iters: int) -> None:
        """Refuse a training that would end where it begins.

        Raises:
            ConfigError: it is not longer than this one was.
        """
        if max_iters <= self.iterations:
            raise ConfigError(
                _FLAG,
                f"expected a training longer than the {self.iterations} iterations of {self.uri}, found one of "
                f"{max_iters}",
                "give more --epochs",
            )


def lost_checkpoints(earlier: Earlier) -> ConfigError:
    """The error to raise where a training has no checkpoint left to continue from."""
    where = storage.join(earlier.folder, "checkpoints")
    return ConfigError(_FLAG, f"expected a checkpoint in {where}, found none", _instead(earlier.uri))


def _instead(ref: str) -> str:
    return f"start from its weights: --pretrained {ref} --lr X"


def _beyond_schedule(config: mmcv.Config) -> dict[str, Any]:
    plain: dict[str, Any] = config._cfg_dict.to_dict()
    optimizer = plain.get("optimizer")
    if isinstance(optimizer, dict):
        plain["optimizer"] = {key: value for key, value in optimizer.items() if key != "lr"}
    return {key: value for key, value in plain.items() if key not in _SCHEDULE}
