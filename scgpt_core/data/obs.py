"""What a row of a table asks of a file's obs: cells by a query, and columns by their names."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_bool_dtype


def query_cells(
    obs: pd.DataFrame, query: str | None, *, source: str, key: str
) -> NDArray[np.bool_]:
    """Which cells a pandas query keeps, (N,): all, where there is none.

    Parameters
    ----------
    obs
        Of N cells.
    query
        As ``batch == "a" and n_genes > 500``.
    source
        The file or data set, for the message.
    key
        The query's name in the table, for the message.

    Raises
    ------
    ValueError
        Where the query does not work, or gives no booleans, with the columns that there are.
    """
    if query is None:
        return np.ones(len(obs), bool)
    try:
        kept: Any = obs.eval(query)
        if not (isinstance(kept, pd.Series) and is_bool_dtype(kept)):
            message = "it does not say true or false of each cell (compare: column == 'value')"
            raise TypeError(message)
        return kept.to_numpy(bool)
    except (AttributeError, NameError, SyntaxError, TypeError, ValueError) as error:
        message = (
            f"{source}: {key} {query!r} does not work: {error}; columns of obs: "
            f"{', '.join(obs.columns)}"
        )
        raise ValueError(message) from error


def find_column(obs: pd.DataFrame, name: str, *, source: str) -> pd.Series:
    """Find a column, as objects; its missing values stay missing.

    Parameters
    ----------
    obs
        Of N cells.
    name
        Of the column.
    source
        The file or data set, for the message.

    Raises
    ------
    ValueError
        Where it does not exist, with the columns that do.
    """
    if name not in obs:
        message = f"{source}: obs has no column {name!r}; it has: {', '.join(obs.columns)}"
        raise ValueError(message)
    return obs[name].astype(object)
