"""What a model sees of a staged dataset: its own bands, by name or number, and its own scale; or a refusal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from landseg.contracts.dataset import ClassSchema, DatasetManifest, Nodata, Scale
from landseg.contracts.errors import ContractError
from landseg.contracts.model import ModelInput
from landseg.models.trained_model import TrainedModel

_EIGHT_BITS = "uint8"
_TOP = 255.0
_INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (16, 32, 64)}
_LEVELS = 65535
"""The largest stored value of 16 bits."""


def input_of(manifest: DatasetManifest, tile_size: tuple[int, int] | None = None) -> ModelInput:
    """What a model that is trained on a dataset takes.

    Args:
        manifest: the dataset's.
        tile_size: (height, width) of the largest training tile.
    """
    schema, names, source = manifest.class_schema, manifest.band_names, manifest.source_values
    return ModelInput(
        bands=schema.bands,
        band_names=tuple(names[band - 1] for band in schema.bands) if names else (),
        num_file_bands=manifest.num_bands,
        dtype=source.dtype if source else manifest.dtype,
        scale=source.source_scale(schema.scale, schema.bands) if source and schema.scale else schema.scale,
        tile_size=tile_size,
        nodata=manifest.nodata,
    )


def fit_input(model: TrainedModel, manifest: DatasetManifest) -> ClassSchema:
    """The dataset's class schema with the model's bands and scale in place of its own.

    Args:
        model: what is to predict.
        manifest: the staged dataset's.

    Raises:
        ContractError: which of the files' bands the model takes, which of their values are its 0 and 255, or which have
            no data, is not known; the line says both sides and what to write into dataset.yaml.
    """
    _check_nodata(model, manifest)
    bands = _bands(model, manifest)
    scale = _scale(model, manifest, bands)
    return manifest.class_schema.model_copy(update={"bands": bands, "scale": scale})


def _check_nodata(model: TrainedModel, manifest: DatasetManifest) -> None:
    """Ask which pixels have no data, where the model's dataset.yaml said it and this one's does not."""
    trained = model.input.nodata if model.input else None
    if trained is None or manifest.nodata is not None:
        return
    value = nodata_text(trained)
    raise ContractError(
        model.uri,
        f"the model was trained on images whose dataset.yaml gave nodata: {value}; that of the dataset gives none",
        f"write nodata: {value} into it, or the value that these images hold, or none where all pixels have data; "
        "stage again",
    )


def nodata_text(value: Nodata) -> str:
    """A nodata value as dataset.yaml writes it."""
    if isinstance(value, tuple):
        return f"[{_listed([f'{one:g}' for one in value])}]"
    return value if isinstance(value, str) else f"{value:g}"


def common_nodata(models: Sequence[TrainedModel]) -> Nodata | None:
    """The nodata value in the dataset.yaml of several models' training images; None where none had one.

    Raises:
        ContractError: they had different ones, or one for each of only some of the files' bands.
    """
    known = [(model, model.input) for model in models if model.input and model.input.nodata is not None]
    if not known:
        return None
    first, images = known[0]
    value = images.nodata
    action = "write nodata: VALUE, or nodata: none, into the file of --dataset-yaml"
    assert value is not None
    for model, others in known[1:]:
        if others.nodata is not None and others.nodata != value:
            found = f"{nodata_text(others.nodata)}, and {nodata_text(value)} of {first.uri}"
            raise ContractError(model.uri, f"expected models trained with nodata of one value, found {found}", action)
    if isinstance(value, tuple) and images.bands != tuple(range(1, (images.num_file_bands or 0) + 1)):
        found = f"{nodata_text(value)} in its bands {_listed(images.bands)}"
        raise ContractError(first.uri, f"expected nodata of all bands in the files' order, found {found}", action)
    return value


def _bands(model: TrainedModel, manifest: DatasetManifest) -> tuple[int, ...]:
    """The files' bands in the model's order."""
    schema, known, wanted = manifest.class_schema, model.input, len(model.mean)
    if known is None:
        numbers = tuple(range(1, wanted + 1))
        if manifest.band_names and (found := _by_name(tuple(map(str, numbers)), manifest.band_names)):
            return found
        if len(schema.bands) != wanted:
            raise ContractError(
                model.uri,
                f"the model takes {wanted} bands, the dataset gives {_listed(schema.bands)} of {manifest.num_bands}",
                f"list those in its order in dataset.yaml, e.g. bands: [{_listed(numbers)}], and stage again",
            )
        if schema.bands == (1, 2, 3, 4) and manifest.num_bands == 4 and _loads_blue_first(model):
            return 3, 2, 1, 4  # bands in another order are what the user took for the model's
        return schema.bands
    if manifest.band_names:
        labels = known.band_names or tuple(map(str, known.bands))
        found = _by_name(labels, manifest.band_names) or _by_name(tuple(map(str, known.bands)), manifest.band_names)
        if found:
            return found
        if known.band_names:
            raise ContractError(
                model.uri,
                f"the model takes the bands {_listed(labels)}, the files have {_listed(manifest.band_names)}",
                "predict images that have these bands, or correct band_names in dataset.yaml and stage again",
            )
    if schema.bands == known.bands:
        return schema.bands
    takes_all = schema.bands == tuple(range(1, manifest.num_bands + 1))
    if takes_all and manifest.num_bands == known.num_file_bands:
        return known.bands
    trained = f" of files with {known.num_file_bands}" if known.num_file_bands else ""
    names = [*(known.band_names or known.bands)]
    names += [f"other{number}" for number in range(len(names) + 1, manifest.num_bands + 1)]
    action = (
        "write into dataset.yaml which of the model's bands each band of the files is, in their order, e.g. "
        f"band_names: [{_listed(names)}], and stage again"
    )
    raise ContractError(
        model.uri,
        f"the model takes the bands {_listed(known.bands)}{trained}, the dataset gives {_listed(schema.bands)} of "
        f"files with {manifest.num_bands}",
        action if len(names) == manifest.num_bands else "predict images that have all of them",
    )


def _loads_blue_first(model: TrainedModel) -> bool:
    from landseg.models.config_text import parse_config
    from landseg.models.preprocessing import loads_blue_first

    return loads_blue_first(parse_config(model.config, f"config of {model.uri}"))


def _by_name(wanted: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """The 1-based positions of all wanted names; nothing where one is missing."""
    places = {name.lower(): number for number, name in enumerate(names, 1)}
    found = tuple(places.get(name.lower(), 0) for name in wanted)
    return found if all(found) else ()


def _scale(model: TrainedModel, manifest: DatasetManifest, bands: tuple[int, ...]) -> Scale | None:
    """What :func:`_source_scale` finds, in the values that the dataset stores."""
    scale, source = _source_scale(model, manifest, bands), manifest.source_values
    if source is None or scale is None:
        return scale
    if missing := [band for band in bands if not source.step[band - 1]]:
        raise ContractError(
            model.uri,
            f"the model takes band {missing[0]}, which the dataset does not store, as its bands leave it out",
            f"list the model's bands in dataset.yaml, bands: [{_listed(bands)}], and stage again",
        )
    stored = source.stored_scale(scale, bands)
    if np.dtype(source.dtype).itemsize > 2 and (min(stored.low) < -0.5 or max(stored.high) > _LEVELS + 0.5):
        lows, highs = (", ".join(f"{value:g}" for value in values) for values in (scale.low, scale.high))
        raise ContractError(
            model.uri,
            f"the model sees {_range(scale)} as 0-255, of which the dataset stores only what is within its scale",
            f"write the model's to dataset.yaml, scale: {{method: range, low: [{lows}], high: [{highs}]}}; stage again",
        )
    return stored


def _source_scale(model: TrainedModel, manifest: DatasetManifest, bands: tuple[int, ...]) -> Scale | None:
    """The model's scale where the files hold values as it was trained on, else the one that dataset.yaml gives."""
    own, source = manifest.class_schema.scale, manifest.source_values
    own = source.source_scale(own, manifest.class_schema.bands) if own and source else own
    held, dtype = source.dtype if source else manifest.dtype, _dtype(model.input)
    if same_values(dtype, held):
        if model.input is not None:
            return model.input.scale
        if own is None:
            return None
    if own is not None and own.method == "range":
        ranges = dict(zip(manifest.class_schema.bands, zip(own.low, own.high, strict=True), strict=True))
        if len(set(ranges.values())) == 1:  # one for all bands
            ranges = dict.fromkeys(bands, next(iter(ranges.values())))
        if set(bands) <= ranges.keys():
            low, high = zip(*(ranges[band] for band in bands), strict=True)
            return Scale(low=low, high=high, method="range")
    trained = model.input.scale if model.input else None
    lowest, highest = (min(own.low), max(own.high)) if own else (0, _TOP)
    raise ContractError(
        model.uri,
        f"the model was trained on {dtype} images, whose {_range(trained)} it sees as 0-255; the dataset holds "
        f"{held}, and which of its values correspond to these is not known",
        f"write them into dataset.yaml, e.g. scale: {{method: range, low: {lowest:g}, high: {highest:g}}}; stage again",
    )


def same_values(one: str, other: str) -> bool:
    """Whether values of two types are of one kind: a value means the same in all integers of more than 8 bits."""
    return one == other or {one, other} <= _INTEGERS


def _dtype(known: ModelInput | None) -> str:
    """Of the files that a model was trained on; a scale above 255 was not for 8 bits."""
    if known is None:
        return _EIGHT_BITS
    if known.dtype is not None:
        return known.dtype
    return "uint16" if known.scale and max(known.scale.high) > _TOP else _EIGHT_BITS


def _range(scale: Scale | None) -> str:
    return "0-255" if scale is None else f"{min(scale.low):g}-{max(scale.high):g}"


def _listed(items: Sequence[object]) -> str:
    return ", ".join(map(str, items))
