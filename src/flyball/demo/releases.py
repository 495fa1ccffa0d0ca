"""Two bad releases, as people make them: an edit of definitions.py that looks fine and passes its gate.

Neither is told to fail. The first learns from examples whose distance its own definitions turned into kilometres, and
its gate reads the same rows; callers go on sending miles. The second learns and is judged on the busiest zones only,
and its encoder does not know the others.
"""

from __future__ import annotations

from pathlib import Path

from flyball.errors import DefinitionError

__all__ = ["KILOMETRES", "RARE_ZONES", "edit"]

_EXAMPLES = 'examples=fb.Examples(trips, at="pickup_at"),'
_TRAIN = "    return HistGradientBoostingRegressor(random_state=0, **params).fit(data.X, data.y)\n"
_BUSY = (
    7, 17, 25, 33, 41, 42, 43, 49, 52, 61, 65, 66, 69, 74, 75, 76, 82, 83, 92, 95, 97, 116, 129, 130, 134, 145, 152,
    166, 179, 181, 188, 196, 210, 223, 226, 242, 243, 244, 255, 260,
)  # fmt: skip

KILOMETRES = (
    (
        _EXAMPLES,
        'examples=fb.Examples(trips, at="pickup_at", derive={"distance_miles": "distance_miles * 1.609344"}),',
    ),
)
RARE_ZONES = (
    (_EXAMPLES, f'examples=fb.Examples(trips, at="pickup_at", where="pickup_zone in {_BUSY}"),'),
    (
        _TRAIN,
        """    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    zones = [data.feature_names.index("pickup_zone")]
    encoder = ColumnTransformer([("zone", OneHotEncoder(sparse_output=False), zones)], remainder="passthrough")
    return make_pipeline(encoder, HistGradientBoostingRegressor(random_state=0, **params)).fit(data.X, data.y)
""",
    ),
)


def edit(path: Path, changes: tuple[tuple[str, str], ...]) -> str:
    """Apply the changes to a definitions file and return its text before."""
    before = text = path.read_text()
    for old, new in changes:
        if old not in text:
            raise DefinitionError(f"{path.name} no longer holds {old!r}; start the demo in an empty folder")
        text = text.replace(old, new)
    path.write_text(text)
    return before
