"""Counts of images, and the rates, differences and tests that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, computed_field, model_validator

from shortcut_audit.results.statistics import paired_interval, paired_p_value, proportion_interval

__all__ = ["Frozen", "Paired", "Rate"]


class Frozen(BaseModel):
    """Base of all findings: immutable, and closed to unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, but what was derived from the old fields is derived again."""
        copied = super().model_copy(update=update, deep=deep)
        if update:
            for name in copied.__dict__.keys() - type(self).model_fields.keys():
                del copied.__dict__[name]
        return copied


class Rate(Frozen):
    """A share of images, as the counts it is made of."""

    hits: Annotated[int, Field(ge=0)]
    n: Annotated[int, Field(ge=0)]

    @model_validator(mode="before")
    @classmethod
    def _drop_derived(cls, data: Any) -> Any:
        """Derived numbers are written for readers of the JSON, and derived again on reading."""
        if isinstance(data, dict):
            return {key: data[key] for key in data if key not in {"value", "low", "high"}}
        return data

    @model_validator(mode="after")
    def _hits_within_n(self) -> Rate:
        if self.hits > self.n:
            raise ValueError(f"{self.hits} hits among {self.n}")
        return self

    @cached_property
    def _interval(self) -> tuple[float, float]:
        return proportion_interval(self.hits, self.n)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def value(self) -> float | None:
        """hits / n, or None when n is 0."""
        return self.hits / self.n if self.n else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def low(self) -> float:
        """Lower end of the 95% Wilson interval."""
        return self._interval[0]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def high(self) -> float:
        """Upper end of the 95% Wilson interval."""
        return self._interval[1]


class Paired(Frozen):
    """Two outcomes of the same images, as the counts of a fourfold table.

    Of `n` images both outcomes hold on `both`, the first alone on `only_first`, the second alone on
    `only_second`. Only the images on which they differ say which one is the more frequent.
    """

    n: Annotated[int, Field(ge=0)]
    both: Annotated[int, Field(ge=0)]
    only_first: Annotated[int, Field(ge=0)]
    only_second: Annotated[int, Field(ge=0)]
    leaning_first: Annotated[int | None, Field(ge=0)] = None
    leaning_second: Annotated[int | None, Field(ge=0)] = None

    @model_validator(mode="after")
    def _within_n(self) -> Paired:
        if self.both + self.only_first + self.only_second > self.n:
            raise ValueError(f"{self.both} + {self.only_first} + {self.only_second} among {self.n}")
        return self

    @property
    def first(self) -> Rate:
        """The first outcome."""
        return Rate(hits=self.both + self.only_first, n=self.n)

    @property
    def second(self) -> Rate:
        """The second outcome."""
        return Rate(hits=self.both + self.only_second, n=self.n)

    @property
    def difference(self) -> float:
        """Rate of the first less that of the second, in [-1, 1]; 0 of no images."""
        return (self.only_first - self.only_second) / self.n if self.n else 0.0

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95% interval of `difference` (Newcombe, 1998, method 10)."""
        return paired_interval(self.both, self.only_first, self.only_second, self.n)

    @cached_property
    def p_value(self) -> float:
        """Of the first not being the more frequent one: exact McNemar test, one-sided; a sign test over
        sources where images share them."""
        if self.leaning_first is not None and self.leaning_second is not None:
            return paired_p_value(self.leaning_first, self.leaning_second)
        return paired_p_value(self.only_first, self.only_second)
