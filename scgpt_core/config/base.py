"""What all settings share: closed and frozen models, and types with their limits."""

from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Found = TypeVar("Found", int, str)


def _check_once(found: tuple[Found, ...]) -> tuple[Found, ...]:
    if repeated := sorted({each for each in found if found.count(each) > 1}):
        message = f"{', '.join(map(str, repeated))} stands there twice: name it once"
        raise ValueError(message)
    return found


Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
"""Stands in paths under `results/`: letters, digits, `_` and `-`."""
Names = Annotated[tuple[Name, ...], AfterValidator(_check_once)]
"""Each of them once."""
Seed = Annotated[int, Field(ge=0)]
"""Stands in paths too, as its digits."""
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_check_once)]
"""One or more, each of them once."""
Task = Literal["integration", "annotation", "multiomics", "perturbation"]


class Settings(BaseModel):
    """Frozen, and closed to keys that do not exist."""

    model_config = ConfigDict(frozen=True, extra="forbid")
