"""Merge two rankings in one list, so that the same user's clicks vote between them.

Every rule here draws the list and keeps who put which item there. The surprise: where both rankings agree, the list
tells nothing, whoever drew it; so the items that both have at the top are credited to nobody in a balanced list and by
"expected" credit, and evenly on average by team draft.

References: Joachims (2002), balanced; Radlinski, Kurup and Joachims (2008), team draft; Hofmann, Whiteson and de Rijke
(2011), probabilistic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from flyball.errors import InputError, UnknownName

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Interleaving", "Team", "balanced_interleaving", "credit", "probabilistic_interleaving", "team_draft"]


class Team(StrEnum):
    """Which ranking put an item into the list."""

    TREATMENT = "treatment"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Interleaving:
    """One merged list, as shown to one user; keep it with the impression.

    Args:
        items: What is shown, in order.
        teams: Who put each item there.
        chances: Probability that the treatment put it there, given the list so far.
        ranks: Place of each item in the (treatment's, control's) ranking, from 0; beyond both when absent.
        method: "team draft", "balanced" or "probabilistic".

    Example:
        >>> import numpy as np
        >>> shown = team_draft("abc", "bca", rng=np.random.default_rng(1))
        >>> shown.items, len(shown.teams), credit(shown, [0]) in (-1.0, 1.0)
        (('a', 'b', 'c'), 3, True)
    """

    items: tuple[Hashable, ...]
    teams: tuple[Team, ...]
    chances: tuple[float, ...]
    ranks: tuple[tuple[int, int], ...]
    method: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, to be logged with the impression."""
        return {"items": list(self.items), "teams": [str(team) for team in self.teams],
                "chances": list(self.chances), "ranks": [list(pair) for pair in self.ranks],
                "method": self.method}  # fmt: skip


def team_draft(
    treatment: Sequence[Hashable], control: Sequence[Hashable], *, rng: np.random.Generator, k: int | None = None
) -> Interleaving:
    """Merge by team draft: in each round a coin says who picks first, and each picks its best item that is left.

    Args:
        treatment: Items in the treatment's order, each once.
        control: Items in the control's order, each once.
        rng: Throws the coins.
        k: Length of the list; None for all items of both.

    Raises:
        InputError: a ranking holds an item twice, or k is below 1.
    """
    picked: list[tuple[Hashable, Team, float]] = []
    rankings, length = _checked(treatment, control, k)
    left = {Team.TREATMENT: rankings[0], Team.CONTROL: rankings[1]}
    orders = [(Team.TREATMENT, Team.CONTROL), (Team.CONTROL, Team.TREATMENT)]
    while len(picked) < length:
        coin = int(rng.random() < 0.5)
        drawn, other = (_round(left, order, length - len(picked)) for order in (orders[coin], orders[1 - coin]))
        hidden = [item for item, _ in drawn] == [item for item, _ in other]  # the list does not tell how the coin fell
        for (item, team), (_, instead) in zip(drawn, other if hidden else drawn, strict=True):
            picked.append((item, team, 0.5 if team is not instead else float(team is Team.TREATMENT)))
        taken = {item for item, _ in drawn}
        left = {team: [item for item in items if item not in taken] for team, items in left.items()}
    return _shown(picked, treatment, control, "team draft")


def balanced_interleaving(
    treatment: Sequence[Hashable], control: Sequence[Hashable], *, rng: np.random.Generator, k: int | None = None
) -> Interleaving:
    """Merge by taking turns; one coin says who begins, and items that are there already are skipped over.

    Credit counts how many clicks stand within the same depth of either ranking, so the teams are for the record only.

    Raises:
        InputError: a ranking holds an item twice, or k is below 1.
    """
    rankings, length = _checked(treatment, control, k)
    begins = rng.random() < 0.5
    at, taken = [0, 0], set[Hashable]()
    picked: list[tuple[Hashable, Team, float]] = []
    while len(picked) < length:
        done = [at[i] >= len(rankings[i]) for i in (0, 1)]
        mine = done[1] or (not done[0] and (at[0] < at[1] or (at[0] == at[1] and begins)))
        who = 0 if mine else 1
        item = rankings[who][at[who]]
        at[who] += 1
        if item not in taken:
            taken.add(item)
            picked.append((item, (Team.TREATMENT, Team.CONTROL)[who], 0.5))
    return _shown(picked, treatment, control, "balanced")


def probabilistic_interleaving(
    treatment: Sequence[Hashable], control: Sequence[Hashable], *, rng: np.random.Generator, k: int | None = None,
    tau: float = 3.0,
) -> Interleaving:  # fmt: skip
    """Merge by drawing: at each place a coin names a ranking, which draws an item with probability 1 / place**tau.

    Every list is possible, so any two rankings can be compared from it, and `chances` tell how likely each put an
    item there: "expected" credit then needs fewer impressions than the coins' own.

    Args:
        treatment: Items in the treatment's order, each once.
        control: Items in the control's order, each once.
        rng: Draws.
        k: Length of the list; None for all items of both.
        tau: How steeply the probability falls, > 0; Hofmann et al. use 3.

    Raises:
        InputError: a ranking holds an item twice, or k is below 1, or tau not above 0.
    """
    if not 0.0 < tau < math.inf:
        raise InputError(f"tau is {tau}; it is a number above 0, such as 3")
    rankings, length = _checked(treatment, control, k)
    union = list(dict.fromkeys([*rankings[0], *rankings[1]]))
    weights = np.stack([_softmax(ranking, union, tau) for ranking in rankings])
    open_ = np.ones(len(union), dtype=bool)
    picked: list[tuple[Hashable, Team, float]] = []
    while len(picked) < length:
        odds = weights * open_
        totals = odds.sum(axis=1)
        coin = 0 if rng.random() < 0.5 else 1
        who = coin if totals[coin] > 0.0 else 1 - coin  # a ranking that has nothing left leaves its turn
        item = int(rng.choice(len(union), p=odds[who] / totals[who]))
        open_[item] = False
        one, other = (float(odds[i, item] / totals[i]) if totals[i] > 0.0 else 0.0 for i in (0, 1))
        picked.append((union[item], (Team.TREATMENT, Team.CONTROL)[who], one / (one + other)))
    return _shown(picked, treatment, control, "probabilistic")


def credit(shown: Interleaving, clicks: Sequence[int], *, rule: str = "clicks") -> float:
    """Return an impression's vote: above 0 for the treatment, below 0 for the control, 0 for neither.

    Args:
        shown: The merged list.
        clicks: Places that were clicked, from 0; twice is twice for the rules that count clicks.
        rule: "clicks", each click one vote; "binary", one vote per impression for whoever has more clicks;
            "discounted", a click at place i counts 1 / log2(i + 2); "expected", each click counts by the chance of
            either ranking to have put it there. A balanced list has its own rule under "clicks" and "binary".

    Raises:
        InputError: a click beyond the list, or a rule that a balanced list cannot follow.
        UnknownName: another rule.
    """
    if outside := [at for at in clicks if not 0 <= at < len(shown.items)]:
        raise InputError(f"a click at place {outside[0]} of a list of {len(shown.items)}; places count from 0")
    rules: dict[str, Callable[[int], float]] = {
        "clicks": lambda at: _vote(shown, at),
        "binary": lambda at: _vote(shown, at),
        "discounted": lambda at: _vote(shown, at) / math.log2(at + 2.0),
        "expected": lambda at: 2.0 * shown.chances[at] - 1.0,
    }
    if rule not in rules:
        raise UnknownName.of("credit rule", rule, rules)
    if shown.method == "balanced":
        if rule not in ("clicks", "binary"):
            raise InputError(f"a balanced list has no {rule!r} credit; use clicks or binary, or draw another list")
        score = _balanced_credit(shown, clicks)
    else:
        score = math.fsum(rules[rule](at) for at in clicks)
    return float(np.sign(score)) if rule == "binary" else score


def _balanced_credit(shown: Interleaving, clicks: Sequence[int]) -> float:
    """Clicks within depth d of either ranking; d is the least depth that holds the lowest click (Joachims 2002)."""
    if not clicks:
        return 0.0
    depth = min(shown.ranks[max(clicks)])
    return float(sum((shown.ranks[at][0] <= depth) - (shown.ranks[at][1] <= depth) for at in clicks))


def _vote(shown: Interleaving, at: int) -> float:
    return 1.0 if shown.teams[at] is Team.TREATMENT else -1.0


def _checked(
    treatment: Sequence[Hashable], control: Sequence[Hashable], k: int | None
) -> tuple[tuple[list[Hashable], list[Hashable]], int]:
    for name, ranking in (("treatment", treatment), ("control", control)):
        if len(set(ranking)) != len(ranking):
            twice = next(item for i, item in enumerate(ranking) if item in ranking[:i])
            raise InputError(f"the {name} ranks {twice!r} twice; an item stands in a ranking once")
    if k is not None and k < 1:
        raise InputError(f"k is {k}; a list has at least one place")
    union = len(set(treatment) | set(control))
    return (list(treatment), list(control)), union if k is None else min(k, union)


def _round(left: Mapping[Team, Sequence[Hashable]], order: Sequence[Team], room: int) -> list[tuple[Hashable, Team]]:
    picks: list[tuple[Hashable, Team]] = []
    for team in order[:room]:
        items = left[team]
        free = [item for item in items[:2] if all(item != other for other, _ in picks)]
        if free:
            picks.append((free[0], team))
    return picks


def _softmax(ranking: Sequence[Hashable], union: Sequence[Hashable], tau: float) -> NDArray[np.float64]:
    place = {item: i for i, item in enumerate(ranking)}
    return np.array([(place[item] + 1.0) ** -tau if item in place else 0.0 for item in union])


def _shown(
    picked: Sequence[tuple[Hashable, Team, float]], treatment: Sequence[Hashable], control: Sequence[Hashable],
    method: str,
) -> Interleaving:  # fmt: skip
    one, other = ({item: i for i, item in enumerate(ranking)} for ranking in (treatment, control))
    absent = len(treatment) + len(control)
    ranks = tuple((one.get(item, absent), other.get(item, absent)) for item, _, _ in picked)
    items, teams = tuple(item for item, _, _ in picked), tuple(team for _, team, _ in picked)
    return Interleaving(items, teams, tuple(chance for _, _, chance in picked), ranks, method)
