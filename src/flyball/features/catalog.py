"""The catalog: what a view is, in one plain document, and how it is found by words.

The surprise: nothing here is stored. A catalog is read from definitions that are kept anyway, so it cannot lag behind
them; what changes from minute to minute (rows online, age, nulls) is measured when somebody looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flyball.features.difference import feature_text
from flyball.features.spec import SourceSpec, ViewSpec

__all__ = ["Hit", "Node", "describe", "describe_source", "search", "tree"]

_WEIGHTS = {"name": 5, "feature": 4, "tag": 3, "owner": 2, "unit": 2, "source": 2}  # anything else 1


@dataclass(frozen=True, slots=True)
class Hit:
    """A view that matches, best first by `score`; `where` are the places, such as "feature trips_1h"."""

    view: str
    score: int
    where: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One thing in a lineage and what is made of it; `kind` is source, view, model, version, deployment or rollout."""

    kind: str
    name: str
    text: str = ""
    children: tuple[Node, ...] = ()


def describe(view: ViewSpec) -> dict[str, Any]:
    """Return what a view is: plain data, for people and JSON alike."""
    about = view.about
    return {
        "name": view.name,
        "digest": view.digest,
        "kind": "window" if view.is_window else "row",
        "entity": view.entity.name,
        "keys": [{"name": k.name, "type": k.type} for k in view.entity.keys],
        "source": view.source.name,
        "owner": about.owner,
        "description": about.description,
        "tags": list(about.tags),
        "readers": list(about.readers),
        "writers": list(about.writers),
        "ttl_s": None if view.ttl is None else view.ttl / 1e6,
        "freshness_s": None if about.freshness is None else about.freshness / 1e6,
        "refresh": about.refresh,
        "features": [
            {"name": f.name, "type": f.type, "text": feature_text(f), "unit": f.about.unit,
             "description": f.about.description, "default": f.default}
            for f in view.features
        ],
    }  # fmt: skip


def describe_source(source: SourceSpec) -> dict[str, Any]:
    """Return what a source is."""
    return {
        "name": source.name,
        "kind": source.kind,
        "path": source.path,
        "event_time": source.event_time,
        "created_time": source.created_time,
        "timezone": source.timezone,
        "derive": [name for name, _ in source.derive],
        "where": source.where,
        "owner": source.about.owner,
        "description": source.about.description,
        "tags": list(source.about.tags),
        "checks": [c.kind for c in source.checks],
    }


def search(views: Iterable[ViewSpec], words: str) -> list[Hit]:
    """Return the views in which every word occurs somewhere, best first, ties by name.

    Args:
        views: Where to look: names, features, descriptions, units, tags, owners, entity, source and its columns.
        words: Parts of words, separated by blanks; letter case does not matter.
    """
    wanted = words.lower().split()
    hits = [hit for view in views if (hit := _match(view, wanted)) is not None]
    return sorted(hits, key=lambda h: (-h.score, h.view))


def _match(view: ViewSpec, wanted: Sequence[str]) -> Hit | None:
    if not wanted:
        return None
    score = 0
    places: dict[str, None] = {}
    for word in wanted:
        found = [(kind, where) for kind, where, text in _texts(view) if word in text.lower()]
        if not found:
            return None
        score += max(_WEIGHTS.get(kind, 1) for kind, _ in found)
        places |= dict.fromkeys(where for _, where in found)
    return Hit(view.name, score, tuple(places))


def _texts(view: ViewSpec) -> Iterable[tuple[str, str, str]]:
    """Yield (kind, place, text) of everything that people would look for."""
    source = view.source
    yield "name", "name", view.name
    yield "owner", "owner", view.about.owner
    yield "description", "description", view.about.description
    yield from (("tag", f"tag {tag}", tag) for tag in view.about.tags)
    yield "entity", f"entity {view.entity.name}", " ".join([view.entity.name, *(k.name for k in view.entity.keys)])
    yield "source", f"source {source.name}", source.name
    yield "source", f"source {source.name}", f"{source.about.owner} {source.about.description}"
    yield from (("tag", f"tag {tag} of source {source.name}", tag) for tag in source.about.tags)
    for feature in view.features:
        place = f"feature {feature.name}"
        yield "feature", place, feature.name
        yield "unit", place, feature.about.unit
        yield "text", place, f"{feature.about.description} {feature_text(feature)}"


def tree(node: Node) -> list[str]:
    """Return a lineage as lines of text."""
    lines = [_line(node)]
    for place, child in enumerate(node.children):
        last = place == len(node.children) - 1
        first, *rest = tree(child)
        lines.append(f"{'└─' if last else '├─'} {first}")
        lines += [f"{'  ' if last else '│ '} {line}" for line in rest]
    return lines


def _line(node: Node) -> str:
    return f"{node.kind} {node.name}{': ' + node.text if node.text else ''}"
