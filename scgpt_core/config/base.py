"""What all settings share: closed and frozen models, and types with their limits."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
"""Stands in paths under `results/`: letters, digits, `_` and `-`."""
Task = Literal["integration", "annotation", "multiomics", "perturbation"]


class Settings(BaseModel):
    """Frozen, and closed to keys that do not exist."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
