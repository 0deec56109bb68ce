import numpy as np
import pytest

from scgpt_core.data.identity import cell_identity


def test_names_are_hashed_alike_for_ever() -> None:
    identities = cell_identity(["AAACATACAACCAC-1", "zelle-ü"])
    assert identities.dtype == np.int64
    assert identities.tolist() == [-4_984_377_711_301_321_085, 7_501_056_379_264_510_304]


def test_a_name_has_one_identity_in_every_subset() -> None:
    names = np.array([f"cell{i}" for i in range(100)], object)
    np.testing.assert_array_equal(cell_identity(names)[30:40], cell_identity(names[30:40]))
    assert len(set(cell_identity(names))) == 100


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16])
def test_joinids_are_taken_as_they_are(dtype: type) -> None:
    assert cell_identity(np.array([5, 3], dtype)).tolist() == [5, 3]


def test_no_cells_have_no_identities() -> None:
    assert cell_identity([]).dtype == np.int64


def test_names_that_occur_twice_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'b' occurs 2 times.*obs_names_make_unique"):
        cell_identity(["a", "b", "c", "b"])


@pytest.mark.parametrize("names", [[1.5, 2.5], [None, "a"], [b"a"]])
def test_other_types_are_refused(names: list) -> None:
    with pytest.raises(ValueError, match="where strings or soma_joinid integers are due"):
        cell_identity(names)
