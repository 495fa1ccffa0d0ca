"""Where unit accumulators lie changes nothing: memory, file, or rebuilt after a loss."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings

from flyball.records.log import Batch, follow
from flyball.records.segment import SegmentWriter
from flyball.records.types import Outcome, Prediction, encode
from flyball.rollout.definitions.guards import guard
from flyball.rollout.definitions.release import Rollout
from flyball.rollout.evidence import unit_store
from flyball.rollout.evidence.accounts.units import ByUnit, RatioByUnit
from flyball.rollout.evidence.bins import Allocation, Binner, merge_bins, unit_hash
from flyball.rollout.evidence.ledger import Ledger, snapshot
from flyball.rollout.evidence.live import Live
from flyball.rollout.evidence.unit_store import UnitsLost, UnitStore
from flyball.rollout.replay import walk
from flyball.rollout.routing import ModelRoute, VersionRef, cut
from flyball.rollout.types import Decision, Measured, Outside, Phase, RolloutStatus
from flyball.units import to_micros

SECOND = 1_000_000
START = datetime(2026, 1, 1, tzinfo=UTC)
RAILS = [
    guard.errors(max="5%"), guard.latency(p99="50ms"), guard.latency(times=1.5, max="90ms"), guard.timeouts(),
    guard.metric("mae", margin="5%", delay="3s"), guard.metric("spend", of="outcome", margin="5%", covariate="x"),
    guard.metric("rate", of="outcome", margin="5%", over="n"), guard.metric("p90", of="mae", margin="5%", quantile=0.9),
    guard.shift(by="distance"), guard.srm(), guard.drift(),
]  # fmt: skip


def spec_of(rails):
    named = [replace(rail, name=f"{n} {rail.name}") for n, rail in enumerate(rails)]
    return Rollout(steps=["30%"], bake="1h", guardrails=named)


SPEC = spec_of(RAILS)
STATUS = RolloutStatus(
    id="r1", model="eta", candidate="v2", champion="v1", phase=Phase.STEP, revision=1, created=START, entered=START,
    share=0.3,
)  # fmt: skip


def rows(seed, second, n=30, users=40, base=0):
    rng = random.Random(seed * 1000 + second)
    records = []
    for i in range(n):
        user = rng.randrange(users)
        arm = "candidate" if user % 10 < 3 else "champion"
        failed = rng.random() < 0.05
        value = float("nan") if rng.random() < 0.02 else rng.gauss(0, 1)
        at = base + second * SECOND + i * 1000
        records.append(
            Prediction(
                f"p{seed}-{second}-{i}", "eta", "v2" if arm == "candidate" else "v1", arm, 1, f"u{user}", at,
                {"x": rng.gauss(0, 1), "n": 1 + rng.randrange(3)}, [], b"", None if failed else value,
                "DeadlineExceeded: late" if failed else None, failed and arm == "candidate", (0, 0, 0, 0),
                rng.randrange(100_000), 3 <= user % 10 < 6, "share",
            )
        )  # fmt: skip
        records.append(Outcome(f"p{seed}-{second}-{i}", rng.gauss(0, 1), at, at))
    return records


def play(folder, hot):
    stores = UnitStore(folder, hot=hot), UnitStore(folder, hot=hot)
    binner, ledger = Binner(SPEC, model="eta", candidate="v2", units=stores[0]), Ledger(SPEC, stores[1])
    for each in (binner, ledger):
        each.allocate(Allocation(1, "step", 0.3))
    for second in range(60):
        for closed in binner.fold([Batch("w0/a", 0, 1, rows(1, second))], (second + 2) * SECOND):
            ledger.fold(closed)
    told = snapshot(ledger.evidence(Phase.STEP, 0.3, START))
    spilled = stores[0].spilled, stores[1].spilled
    for store in stores:
        store.close()
    return told, spilled


def test_verdicts_are_bit_for_bit_the_same_from_memory_and_from_the_file(tmp_path):
    in_memory, spilled = play(None, 10)
    assert spilled == (False, False)
    on_disk, spilled = play(tmp_path, 10)
    assert spilled == (True, True)
    assert on_disk == in_memory
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 30), st.integers(0, 9), st.booleans()), max_size=80))
def test_a_table_answers_like_a_dict(tmp_path_factory, acts):
    store = UnitStore(tmp_path_factory.mktemp("units"), hot=3)
    tables, known = [store.table() for _ in range(3)], {}
    for which, unit, value, settle in acts:
        hashed = unit_hash(str(unit))
        assert tables[which].get(hashed) == known.get((which, unit))
        tables[which].set(hashed, (value, 0.5))
        known[which, unit] = (value, 0.5)
        if settle:
            store.settle()
    assert all(tables[w].get(unit_hash(str(u))) == value for (w, u), value in known.items())
    store.close()


def test_memory_stays_bounded_over_many_units(tmp_path):
    store = UnitStore(tmp_path, hot=1000)
    table = store.table()
    for k in range(20_000):
        table.set(unit_hash(f"u{k}"), (k, 1.0))
        if k % 500 == 0:
            store.settle()
            assert len(table.hot) <= 1000
    assert table.get(unit_hash("u17")) == (17, 1.0)
    store.close()


def test_a_torn_file_is_said_so_and_rebuilt_by_the_next_walk(tmp_path, monkeypatch):
    monkeypatch.setattr(unit_store, "HOT", 10)
    store = UnitStore(tmp_path, hot=1)
    table = store.table()
    for k in range(5000):
        table.set(unit_hash(f"u{k}"), (k,))
    store.settle()
    path = next(tmp_path.glob("units-*"))
    path.write_bytes(b"\x00" * path.stat().st_size)
    with pytest.raises(UnitsLost, match="rebuilt from the evidence log"):
        for k in range(5000):
            table.get(unit_hash(f"u{k}"))
    store.close()


def route():
    champion = VersionRef("v1", "v1", "0" * 64, trusted=True)
    return ModelRoute(
        "eta", "salt", champion, VersionRef("v2", "v2", "1" * 64, trusted=True), cut(0.3), rollout="r1", pair=False
    )


@pytest.mark.parametrize("seed", range(2))
def test_a_replay_after_random_takeovers_gives_every_verdict_again(tmp_path, seed, monkeypatch):
    monkeypatch.setattr(UnitStore.__init__, "__kwdefaults__", {"hot": 20})
    log, evidence, rng = tmp_path / "log", tmp_path / "evidence", random.Random(seed)
    writers = [SegmentWriter(log / f"w{k}") for k in range(2)]
    fence, cursor, live = 1, {}, Live.open(SPEC, STATUS, log_root=log, folder=evidence / "r1", fence=1)
    live.ensure_split(route(), 1, "r1")
    told = {}
    for second in range(40):
        for k, writer in enumerate(writers):
            writer.append(encode(rows(seed * 7 + k, second, n=8, base=to_micros(START))))
        now = START + timedelta(seconds=second + 1)
        batches = follow(log, cursor)
        rng.shuffle(batches)
        live.fold(batches, now)
        if rng.random() < 0.2:
            seen = Outside("", {"10 drift": Measured(rng.random() / 4, now)})
            live.decided(STATUS, Decision("pause", "look", guardrail="table"), now, seen)
            told[len(told)] = snapshot(live.evidence(STATUS, now, outside=seen))
        if rng.random() < 0.15:
            live.close()
            fence, cursor = fence + 1, {}
            live = Live.open(SPEC, STATUS, log_root=log, folder=evidence / "r1", fence=fence)
    live.decided(STATUS, Decision("pause", "last", guardrail="table"), now, Outside())
    told[len(told)] = snapshot(live.evidence(STATUS, now))
    live.close()
    again = walk(SPEC, log, evidence, "r1")
    assert again.bins_same
    assert [v.evidence for v in again.verdicts] == [told[k] for k in range(len(told))]


def test_any_arrival_order_of_nodes_gives_the_same_ledger():
    nodes = {}
    for node in ("a", "b", "c"):
        binner = Binner(SPEC, model="eta", candidate="v2")
        binner.allocate(Allocation(1, "step", 0.3))
        nodes[node] = [
            closed
            for second in range(20)
            for closed in binner.fold([Batch("w/a", 0, 1, rows(ord(node), second))], (second + 2) * SECOND)
        ]
    plain = msgspec.msgpack.encode(nodes)
    found = set()
    for order in ("abc", "cba", "bca"):
        merged = merge_bins({node: nodes[node] for node in order})
        ledger = Ledger(SPEC)
        ledger.allocate(Allocation(1, "step", 0.3))
        for closed in merged:
            ledger.fold(closed)
        found.add(msgspec.json.encode(snapshot(ledger.evidence(Phase.STEP, 0.3, START))))
        assert sum(sum(b.counts[0].requests) for b in merged) == 3 * 20 * 30
        assert [b.second for b in merged] == sorted({b.second for b in merged})
    assert len(found) == 1
    assert msgspec.msgpack.encode(nodes) == plain  # merging changed none of them


def test_the_moments_of_unit_means_match_numpy_far_from_zero():
    rng = np.random.default_rng(3)
    units, values = rng.integers(1, 60, 2000), rng.normal(1e9, 2.0, 2000)
    means, ratio = ByUnit(UnitStore().table()), RatioByUnit(UnitStore().table())
    weights = rng.integers(1, 5, 2000)
    for u, v, w in zip(units, values, weights, strict=True):
        means.add(int(u), float(v))
        ratio.add(int(u), float(v - 1e9 + 5 * w), float(w))
    by = [values[units == u].mean() for u in range(1, 60)]
    assert means.moments.mean == pytest.approx(np.mean(by), abs=5e-7)
    assert means.moments.variance == pytest.approx(np.var(by, ddof=1), rel=1e-4)
    y = np.array([(values[units == u] - 1e9 + 5 * weights[units == u]).sum() for u in range(1, 60)])
    x = np.array([weights[units == u].sum() for u in range(1, 60)])
    r = y.sum() / x.sum()
    assert ratio.moments.mean == pytest.approx(r, rel=1e-6)
    assert ratio.moments.variance == pytest.approx(np.var(y - r * x, ddof=1) / x.mean() ** 2, rel=1e-6)
