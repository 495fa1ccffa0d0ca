"""Time the assignment of a unit to an arm, and prove that restarts and growing shares change nothing that may not.

Pure Python, in this process: the best of several rounds over 100,000 units, beside the bare hash of the same text. What
surprises: the hash and the joining of salt and unit are most of it. No peer is measured: gbstats and PlanOut, which
assign too, do not install on Python 3.11 as published.

    python bench/assign.py [--quick]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import xxhash

from flyball.rollout.routing import BUCKETS, Condition, Flag, ModelRoute, Segment, Variant, VersionRef
from flyball.serving.routing.router import compile_route

TARGETS = {
    "plain_us": 0.5,
    "variants_us": 0.5,
    "segments_us": 0.5,
    "flag_us": 0.5,
    "changed_over_restarts": 0,
    "taken_back_by_growth": 0,
}
UNITS = 100_000
Attributes = Mapping[str, Any]


def ref(version: str) -> VersionRef:
    return VersionRef(version, version, version * 32, True)


def routes() -> dict[str, ModelRoute]:
    """Return a route of each kind, from nothing to everything at once."""
    bare = ModelRoute("m", "salt-of-m", ref("v1"))
    plain = replace(bare, candidate=ref("v2"), candidate_cut=BUCKETS // 10, control_from=BUCKETS // 10,
                    control_to=BUCKETS // 5)  # fmt: skip
    variants = tuple(
        Variant(f"b{k}", ref(f"b{k}"), BUCKETS // 2 + k * 50_000, BUCKETS // 2 + (k + 1) * 50_000) for k in range(4)
    )
    rules = (
        Segment("staff", (Condition("plan", "in", ("staff", "beta")),), "candidate"),
        Segment(
            "north", (Condition("country", "==", ("NO",)), Condition("age", ">=", (18,))), "candidate", BUCKETS // 2
        ),
        Segment("old apps", (Condition("app", "starts with", ("1.", "2.")),), "champion"),
    )
    return {
        "champion only": bare, "plain": plain, "holdout": replace(plain, holdout=BUCKETS // 20),
        "variants": replace(plain, variants=variants), "segments": replace(plain, segments=rules),
        "everything": replace(plain, variants=variants, segments=rules, holdout=BUCKETS // 20, testers=True),
    }  # fmt: skip


def flag() -> Flag:
    rule = Segment("staff", (Condition("plan", "in", ("staff",)),), "true")
    return Flag("new-page", "salt-of-flag", False, (True,), (BUCKETS // 4,), (rule,))


def units() -> tuple[list[str], list[Attributes]]:
    """Return units and their attributes; of a few kinds, as callers have them."""
    texts = [f"user-{k * 7919 % 10_000_019}" for k in range(UNITS)]
    seen = (("free", "SE", 30, "3.1"), ("free", "NO", 44, "3.1"), ("staff", "DK", 25, "3.2"), ("paid", "SE", 17, "2.9"))
    kinds = [dict(zip(("plan", "country", "age", "app"), values, strict=True)) for values in seen]
    return texts, [kinds[k % 4] for k in range(UNITS)]


def assigner(route: ModelRoute) -> Callable[[str, Attributes], str]:
    """Return what a request calls for its arm, with the attributes it came with."""
    router = compile_route(route)
    if router is None:
        return lambda unit, attributes: "champion"
    nobody: frozenset[str] = frozenset()
    return lambda unit, attributes: router(unit, attributes, "", nobody, False).arm


def microseconds(route: ModelRoute, texts: Sequence[str], attributes: Sequence[Attributes], rounds: int) -> float:
    """Return the µs of one assignment, the empty loop taken off; the best round."""
    router, nobody = compile_route(route), frozenset[str]()
    if router is None:
        return 0.0
    pairs = list(zip(texts, attributes, strict=True))

    def assigned() -> float:
        begin = time.perf_counter_ns()
        for unit, given in pairs:
            router(unit, given, "", nobody, False)
        return time.perf_counter_ns() - begin

    def empty() -> float:
        begin = time.perf_counter_ns()
        for _unit, _given in pairs:
            pass
        return time.perf_counter_ns() - begin

    return (min(assigned() for _ in range(rounds)) - min(empty() for _ in range(rounds))) / len(pairs) / 1000


def bare_hash(texts: Sequence[str], rounds: int) -> float:
    """Return the µs of hashing salt and unit alone."""
    digest, times = xxhash.xxh3_64_intdigest, []
    for _ in range(rounds):
        begin = time.perf_counter_ns()
        for unit in texts:
            digest(("salt-of-m" + unit).encode())
        times.append(time.perf_counter_ns() - begin)
    return min(times) / len(texts) / 1000


def fingerprint() -> str:
    """Return a digest of every unit's arm under every route, and of the flag."""
    texts, attributes = units()
    out = hashlib.sha256()
    for name, route in routes().items():
        arm_of = assigner(route)
        out.update(name.encode() + "|".join(map(arm_of, texts, attributes)).encode())
    evaluate = flag_evaluator()
    if evaluate is not None:
        out.update("|".join(str(evaluate(u, a)) for u, a in zip(texts, attributes, strict=True)).encode())
    return out.hexdigest()


def flag_evaluator() -> Callable[[str, Attributes], Any] | None:
    """Return what evaluates the flag, None where this flyball has no flags yet."""
    try:
        from flyball.serving.routing.flags import CompiledFlag
    except ImportError:
        return None
    decide = CompiledFlag(flag()).decide
    return lambda unit, attributes: decide(unit, attributes).value


def taken_back() -> int:
    """Return how many units a growing share took away from the candidate again: none may."""
    texts, attributes = units()
    back, before = 0, set[str]()
    for share in (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0):
        route = replace(routes()["plain"], candidate_cut=int(share * BUCKETS), control_from=0, control_to=0)
        arm_of = assigner(route)
        now = {u for u, a in zip(texts, attributes, strict=True) if arm_of(u, a) == "candidate"}
        back += len(before - now)
        before = now
    return back


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--fingerprint", action="store_true")
    args = parser.parse_args()
    if args.fingerprint:
        print(fingerprint())
        return
    rounds = 3 if args.quick else 15
    texts, attributes = units()
    figures: dict[str, Any] = {"bare_hash_us": round(bare_hash(texts, rounds), 3)}
    print(f"{'a unit to its arm':<34}{'µs':>8}\n{'bare hash of salt and unit':<34}{figures['bare_hash_us']:>8.3f}")
    for name, route in routes().items():
        key = name.replace(" ", "_") + "_us"
        figures[key] = round(microseconds(route, texts, attributes, rounds), 3)
        print(f"{name:<34}{figures[key]:>8.3f}")
    evaluate = flag_evaluator()
    if evaluate is None:
        print(f"{'a feature flag':<34}{'none yet':>8}")
    else:
        figures["flag_us"] = round(flag_microseconds(evaluate, texts, attributes, rounds), 3)
        print(f"{'a feature flag, one segment':<34}{figures['flag_us']:>8.3f}")
    seen = {restarted() for _ in range(2 if args.quick else 5)} | {fingerprint()}
    figures |= {"changed_over_restarts": len(seen) - 1, "taken_back_by_growth": taken_back()}
    print(f"changed over restarts: {figures['changed_over_restarts']}; taken back by a growing share: "
          f"{figures['taken_back_by_growth']}. No peer: gbstats and PlanOut do not install on Python 3.11")  # fmt: skip
    met = {name: figures[name] <= limit for name, limit in TARGETS.items() if name in figures}
    print(json.dumps({"bench": "assign", "figures": figures, "targets": TARGETS, "met": met}))


def flag_microseconds(
    evaluate: Callable[[str, Attributes], Any], texts: Sequence[str], attributes: Sequence[Attributes], rounds: int
) -> float:
    times = []
    for _ in range(rounds):
        begin = time.perf_counter_ns()
        for unit, given in zip(texts, attributes, strict=True):
            evaluate(unit, given)
        times.append(time.perf_counter_ns() - begin)
    return min(times) / len(texts) / 1000


def restarted() -> str:
    """Return the fingerprint that a new interpreter, with another hash seed, finds."""
    done = subprocess.run([sys.executable, __file__, "--fingerprint"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
