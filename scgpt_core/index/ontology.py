"""The Cell Ontology as far as it is needed: terms, and what each is a kind of."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scgpt_core.config import Settings, read_table


class _TermRow(Settings):
    """A row of resources/cell_ontology.tsv."""

    id: str
    name: str
    is_a: str = ""

    @property
    def parents(self) -> list[str]:
        return [parent for parent in self.is_a.split("|") if parent]


class Ontology:
    """Terms and their ``is_a`` relations.

    Parameters
    ----------
    terms
        By id.
    names
        Id by name or id, in lower case.
    """

    def __init__(self, terms: dict[str, _TermRow], names: dict[str, str]) -> None:
        self._terms, self._names = terms, names

    def find(self, label: str) -> str | None:
        """Id of the term that a label names, by name or id; None where there is none."""
        return self._names.get(label.lower())

    def name(self, term: str) -> str:
        """Name of a term."""
        return self._terms[term].name

    def ancestors(self, term: str) -> set[str]:
        """Ids of a term and of all that it is a kind of."""
        found, waiting = set(), [term]
        while waiting:
            here = waiting.pop()
            if here not in found:
                found.add(here)
                waiting += self._terms[here].parents
        return found

    def is_kind_of(self, label: str, other: str) -> bool:
        """Whether labels are equal, or name terms of which the first is a kind of the second."""
        term, of = self.find(label), self.find(other)
        return label == other or (term is not None and of in self.ancestors(term))

    def kinds(self, labels: Sequence[str]) -> tuple[list[str], NDArray[np.bool_]]:
        """Names that stand above labels or are labels, and which label is a kind of which.

        Parameters
        ----------
        labels
            C labels.

        Returns
        -------
        The C labels, then the names of terms above them that no label names, those with most terms
        above them first; and bool (C, T), True where the label is the name or a kind of it.
        """
        found = {label: self.find(label) for label in labels}
        above = {label: self.ancestors(term) if term else set() for label, term in found.items()}
        rest = set().union(*above.values()) - set(found.values())
        deepest_first = sorted(rest, key=lambda term: (-len(self.ancestors(term)), term))
        targets = [*(found[label] for label in labels), *deepest_first]
        names = [*labels, *(self.name(term) for term in deepest_first)]
        kind_CT = [
            [
                name == label or target in above[label]
                for name, target in zip(names, targets, strict=True)
            ]
            for label in labels
        ]
        return names, np.array(kind_CT, bool)


def read_ontology(path: str | Path) -> Ontology:
    """Read a table of terms: id, name and is_a, the ids of its parents with ``|`` between them.

    Raises
    ------
    ValueError
        Where a parent is in no row, or two terms have one name.
    """
    rows = read_table(Path(path), _TermRow)
    names: dict[str, str] = {}
    for row in rows.values():
        orphans = [parent for parent in row.parents if parent not in rows]
        if orphans:
            message = f"{path}: {row.id} is a {', '.join(orphans)}, which is in no row: add it"
            raise ValueError(message)
        for name in (row.id, row.name):
            other = names.setdefault(name.lower(), row.id)
            if other != row.id:
                message = f"{path}: {name!r} names both {other} and {row.id}: rename one"
                raise ValueError(message)
    return Ontology({row.id: row for row in rows.values()}, names)
