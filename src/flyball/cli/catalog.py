"""feature list|show|search|lineage: the catalog."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import note, print_table, verb
from flyball.errors import InputError

if TYPE_CHECKING:
    from flyball.features.catalog import Node
    from flyball.project import Project

__all__ = ["lineage", "list_", "search", "show"]


@click.option("--catalog", "shared", is_flag=True, help="List what projects share in [catalog] url instead.")
def _list(project: Project, *, shared: bool, show: Callable[..., None]) -> None:
    """List feature views and their features."""
    if shared:
        show(project.features.catalog.shared(), _print_shared)
    else:
        show(project.features.catalog.views(), _print_views)


def _print_shared(views: list[dict[str, Any]]) -> None:
    rows = [
        (v["name"], v["digest"], "current" if v["current"] else "", v["project"], v["owner"], v["at"][:16],
         ", ".join(v["features"]), "yes" if v["here"] else "")
        for v in views
    ]  # fmt: skip
    columns = ("view", "digest", "", "project", "owner", "published", "features", "used here")
    print_table(columns, rows, empty="nobody published a view yet; flyball apply does")
    for view in views:
        if view["current"] and view["obstacle"]:
            note(f"{view['name']} cannot be imported: {view['obstacle']}")


def _print_views(views: list[dict[str, Any]]) -> None:
    rows = [
        (v["name"], v["entity"], f["name"], f["text"], f["unit"], v["owner"], ", ".join(v["tags"]))
        for v in views
        for f in v["features"]
    ]
    print_table(("view", "entity", "feature", "what", "unit", "owner", "tags"), rows, empty="no views are applied")


@click.argument("view")
@click.option("--versions", is_flag=True, help="Show the definitions the view had, apply by apply.")
def _show(project: Project, view: str, *, versions: bool, show: Callable[..., None]) -> None:
    """Show one feature view as it is now."""
    catalog = project.features.catalog
    if versions:
        show(catalog.versions(view), _print_versions)
    else:
        show(catalog.show(view), _print_view)


def _print_versions(versions: list[dict[str, Any]]) -> None:
    for one in versions:
        click.echo(f"{one['at'][:19]}  {one['digest'] or '-':16}  {one['action']}")
        for field in one["fields"]:
            click.echo(f"    {field['field']}: {field['was'] or '(none)'} -> {field['now'] or '(none)'}")


def _print_view(view: dict[str, Any]) -> None:
    click.echo(
        f"{view['name']} ({view['kind']} view, digest {view['digest']}) of {view['entity']} from {view['source']}"
    )
    for name in ("description", "owner"):
        if view[name]:
            click.echo(f"{name}: {view[name]}")
    for name in ("tags", "readers", "writers"):
        if view[name]:
            click.echo(f"{name}: {', '.join(view[name])}")
    click.echo(f"{view['rows_online']:,} entities online")
    click.echo(f"newest row: {_age(view)}; materialized until {view['last_refresh'] or '-'}")
    if view["refresh"]:
        click.echo(f"refreshed {view['refresh']}; next {view['next_refresh'] or '-'}")
    if view["quarantined"]:
        click.echo(f"{view['quarantined']:,} rows of {view['source']} are in quarantine")
    rows = [
        (f["name"], f["type"], f["text"], f["unit"], _share(f["missing_share"]), f["description"])
        for f in view["features"]
    ]
    print_table(("feature", "type", "what", "unit", "absent", "description"), rows)
    readers = [
        (f"{r['model']} {r['version']}", r["lifecycle"], r["deployment"], "yes" if r["current"] else r["digest"])
        for r in view["read_by"]
    ]
    print_table(("read by", "lifecycle", "deployment", "this definition"), readers, empty="no model version reads it")


def _age(view: dict[str, Any]) -> str:
    from flyball.units import spoken

    if view["age_s"] is None:
        return "none"
    age = f"{spoken(timedelta(seconds=max(0.0, view['age_s'])))} old"
    if view["freshness_s"] is None:
        return age
    declared = spoken(timedelta(seconds=view["freshness_s"]))
    return f"{age}, {'within' if view['fresh'] else 'LATER than'} the declared {declared}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


@click.argument("words", nargs=-1, required=True)
def _search(project: Project, words: tuple[str, ...], *, show: Callable[..., None]) -> None:
    """Find views in which every word occurs: names, descriptions, units, tags, owners."""
    hits = project.features.catalog.search(" ".join(words))
    show(
        hits,
        lambda d: print_table(
            ("view", "found in"), [(h["view"], ", ".join(h["where"])) for h in d], empty="nothing matches"
        ),
    )


@click.argument("name", required=False)
@click.option("--out", type=click.Path(), help="Write a picture: FILE.svg or FILE.html.")
def _lineage(project: Project, name: str | None, *, out: str | None, show: Callable[..., None]) -> None:
    """Say what came of what, for a view, a source or a model (all without NAME)."""
    trees = project.features.catalog.lineage(name)
    if out is not None:
        _draw(trees, Path(out), name)
        note(f"written to {out}")
    show(trees, lambda _: _print_trees(trees))


def _print_trees(trees: list[Node]) -> None:
    from flyball.features.catalog import tree

    for one in trees:
        click.echo("\n".join(tree(one)))
    if not trees:
        click.echo("no views are applied")


def _draw(trees: list[Node], out: Path, name: str | None) -> None:
    from flyball.drawing.lineage import Branch, tree_chart
    from flyball.drawing.page import page

    def branch(node: Node) -> Branch:
        return Branch(f"{node.kind} {node.name}", node.text, [branch(c) for c in node.children])

    if out.suffix not in {".svg", ".html"}:
        raise InputError(f"--out {out.name!r} is neither a .svg nor a .html file; name one of them")
    title = f"Lineage of {name}" if name else "Lineage"
    picture = tree_chart(title, [branch(t) for t in trees])
    if out.suffix == ".html":
        picture = page(title, [f"<h1>{title}</h1>", f'<div class="scroll">{picture}</div>'])
    out.write_text(picture, encoding="utf-8")


list_ = verb(_list)
show = verb(_show)
search = verb(_search)
lineage = verb(_lineage)
