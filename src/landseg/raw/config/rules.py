"""The parts of `dataset.yaml` that have fields of their own: scale and scenes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from landseg.contracts.documents import Model


class RangeScale(Model):
    """The images' values `low`…`high` become 0…255: one number for all bands, or one per selected band."""

    method: Literal["range"]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @field_validator("low", "high", mode="before")
    @classmethod
    def _one_for_all(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if len(self.low) != len(self.high):
            raise ValueError("low and high need the same number of values")
        if any(low >= high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError("every low must be below its high")
        return self


class PercentileScale(Model):
    """The percentiles of the train split's values become 0 and 255, per band; values without data do not count."""

    method: Literal["percentile"] = "percentile"
    low: Annotated[float, Field(ge=0, le=100)] = 1.0
    high: Annotated[float, Field(ge=0, le=100)] = 99.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        return self


ScaleRule = Annotated[RangeScale | PercentileScale, Field(discriminator="method")]


class SceneRule(Model):
    """Images with a side above `max_px` are scenes: cut into tiles of `tile_px` that overlap by `overlap_px`.

    The defaults suit the recipe, which trains on tiles of up to 512 px.
    """

    max_px: Annotated[int, Field(ge=64, le=65536)] = 512
    tile_px: Annotated[int, Field(ge=32, le=8192)] = 512
    overlap_px: Annotated[int, Field(ge=0)] = 64

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.tile_px > self.max_px:
            raise ValueError(f"tile_px {self.tile_px} must not exceed max_px {self.max_px}")
        if self.overlap_px * 2 > self.tile_px:
            raise ValueError(f"overlap_px {self.overlap_px} must not exceed half of tile_px {self.tile_px}")
        return self
