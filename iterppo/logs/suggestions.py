"""What was suggested, and what became of it: the columns of a_i.

Where the log does not give a suggestion's fate, it is derived from the texts: equal but for white
space is `verbatim`; then by the edit distance to what was sent. A turn of a conversation that knows
suggestions, but that says of none, is `not_shown`; `abstained` only where the log says so.

Shapes: T turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from iterppo.contracts.trajectories import ADOPTIONS

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Adoptions:
    """Up to which edit distance (Levenshtein's, divided by the longer length) a suggestion counts
    as what."""

    edited_up_to: float = 0.5
    influenced_up_to: float = 0.5
    """Farther than this is rejected; not below `edited_up_to`."""


class Suggested(NamedTuple):
    """Columns of trajectories@2."""

    suggestion: pa.Array
    adoption: pa.Array
    edit_distance: pa.Array


def derive_adoptions(
    suggestion_T: pa.Array,
    sent_T: pa.Array,
    given_T: pa.Array,
    knows_T: Array,
    adoptions: Adoptions,
) -> Suggested:
    """The fate of each turn's suggestion, and its edit distance to what was sent. A suggestion that
    was not shown, or an abstention, is none.

    Args:
        suggestion_T: a_i, null where there is none; none is blank.
        sent_T: m_i.
        given_T: The fate that the log gives.
        knows_T: Whether the turn's conversation knows suggestions at all.
        adoptions: The thresholds.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    is_there_T, is_sent_T, is_given_T = (
        column.is_valid().to_numpy(zero_copy_only=False)
        for column in (suggestion_T, sent_T, given_T)
    )
    distance_T, is_verbatim_T = _compare(suggestion_T, sent_T)
    derived_T = np.select(
        [
            ~is_there_T,
            is_verbatim_T,
            distance_T <= adoptions.edited_up_to,
            distance_T <= adoptions.influenced_up_to,
        ],
        [ADOPTIONS.index(fate) for fate in ("not_shown", "verbatim", "edited", "influenced")],
        ADOPTIONS.index("rejected"),
    )
    named = pa.array(ADOPTIONS)
    given_T = pc.index_in(given_T, named).fill_null(-1).to_numpy()
    fate_T = np.where(is_given_T, given_T, derived_T)
    is_none_T = np.isin(fate_T, [ADOPTIONS.index("abstained"), ADOPTIONS.index("not_shown")])
    is_none_T &= knows_T
    return Suggested(
        suggestion=pc.if_else(pa.array(is_none_T), None, suggestion_T),
        adoption=named.take(pa.array(fate_T, mask=~knows_T)),
        edit_distance=pa.array(distance_T, mask=is_none_T | ~(is_there_T & is_sent_T)),
    )


def _compare(suggestion_T: pa.Array, sent_T: pa.Array) -> tuple[Array, Array]:
    """Normalised edit distances, NaN where a text is missing; and which texts are equal but for
    white space."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cpdist

    is_equal = pc.equal(suggestion_T, sent_T)
    is_verbatim_T = is_equal.fill_null(False).to_numpy(zero_copy_only=False).copy()
    distance_T = np.where(is_verbatim_T, 0.0, np.nan)
    different = np.flatnonzero(pc.invert(is_equal).fill_null(False))
    if len(different):
        columns = [column.take(pa.array(different)) for column in (suggestion_T, sent_T)]
        pairs = [column.to_pylist() for column in columns]
        # In single precision, 3/10 would be farther than 0.3.
        scorer = Levenshtein.normalized_distance
        distance_T[different] = cpdist(*pairs, scorer=scorer, dtype=np.float64)
        spaced = [pc.match_substring_regex(texts, MORE_THAN_BLANKS) for texts in columns]
        for number in np.flatnonzero(pc.or_(*spaced)).tolist():
            one, other = pairs[0][number].strip(), pairs[1][number].strip()
            if one[:1] == other[:1] and one[-1:] == other[-1:]:  # few get as far as the words
                is_verbatim_T[different[number]] = one.split() == other.split()
    return distance_T, is_verbatim_T


MORE_THAN_BLANKS = r"^ | $|  |[^\P{Z} ]|[\t-\r\x1c-\x1f\x{85}]"
"""White space, of what Python splits at, other than single blanks between words. Two texts without
it are equal where their words are."""
