"""The routing table in each phase, and the real control database under a rollout."""

import math
from datetime import UTC, datetime, timedelta

import pytest

from flyball.clock import ManualClock
from flyball.rollout.definitions.guards import guard
from flyball.rollout.definitions.release import Rollout
from flyball.rollout.definitions.strategies import strategy
from flyball.rollout.facts import told
from flyball.rollout.judging.decide import decide
from flyball.rollout.orders import order, start
from flyball.rollout.reconcile import Reconciler
from flyball.rollout.routing import Condition, ModelRoute, RoutingTable, VersionRef
from flyball.rollout.tables import route_for, table_for
from flyball.rollout.types import ArmCounts, Evidence, GuardrailEvidence, Phase, RolloutStatus
from flyball.testing.scenarios import scenario

V1 = VersionRef("v1", "a/v1", "1", trusted=True)
V2 = VersionRef("v2", "a/v2", "2", trusted=False)
ROUTE = ModelRoute("eta", "salt", V1)
NOW = datetime(2026, 1, 5, tzinfo=UTC)


def routed(phase, share=0.0, route=ROUTE):
    return route_for(route, rollout="r", candidate=V2, phase=phase, share=share)


@pytest.mark.parametrize(
    ("share", "control"), [(0.1, (100_000, 200_000)), (0.6, (600_000, 1_000_000)), (1.0, (10**6, 10**6))]
)
def test_the_control_cohort_lies_right_above_the_candidate(share, control):
    route = routed(Phase.STEP, share)
    assert (route.control_from, route.control_to) == control
    assert route.candidate_cut == round(share * 1_000_000)


def test_a_segment_limits_candidate_and_control_and_leaves_with_the_step():
    where = (Condition("country", "==", ("NL",)),)
    inside = route_for(ROUTE, rollout="r", candidate=V2, phase=Phase.STEP, share=0.3, within=where)
    assert (inside.within, inside.candidate_cut, inside.control_to) == (where, 300_000, 600_000)
    assert routed(Phase.STEP, 0.3, route=inside).within == ()
    assert routed(Phase.ROLLING_BACK, route=inside) == ROUTE
    assert routed(Phase.PROMOTED, route=inside).within == ()


def test_the_same_route_twice_is_the_same_route():
    for phase, share in ((Phase.SHADOW, 0.0), (Phase.STEP, 0.3), (Phase.STEP, 1.0), (Phase.PROMOTED, 1.0)):
        once = routed(phase, share)
        assert routed(phase, share, route=once) == once


@pytest.mark.parametrize("wanted", ["pause", "promote"])
def test_an_order_between_a_crash_and_the_next_look_does_not_undo_the_step(wanted):
    story = scenario(steps=["10%", "40%"], bake="10m").given_traffic(per_minute=300).for_("9m")
    save = story.store.save

    def dead(status, **kwargs):
        raise KeyboardInterrupt

    story.store.save = dead
    with pytest.raises(KeyboardInterrupt):
        story.for_("3m", every="1m")
    story.store.save = save
    order(story.store, story.id, wanted, now=story.clock.now())
    story.restart().tick()
    assert [table.models["eta"].candidate_cut for table in story.routes.tables][:3] == [0, 100_000, 400_000]
    assert (story.status.step, str(story.status.phase)) == (1, {"pause": "Paused", "promote": "Promoted"}[wanted])


def test_a_bandits_allocation_that_was_committed_before_a_crash_is_adopted():
    spec = strategy.bandit(primary=guard.metric("mae", margin="0"), bake="5m", pace="5m", min_requests=20)
    story = scenario(spec).given_traffic(per_minute=40).when(candidate_shift=0.2)
    save, before = story.store.save, len(story.routes.tables)

    def dead(status, **kwargs):
        if len(story.routes.tables) > before:
            raise KeyboardInterrupt
        return save(status, **kwargs)

    story.store.save = dead
    with pytest.raises(KeyboardInterrupt):
        story.for_("3h", every="1m")
    story.store.save = save
    share = story.routes.current().models["eta"].candidate_cut / 1_000_000
    assert share not in {0.0, 0.5}
    order(story.store, story.id, "pause", now=story.clock.now())
    story.restart().tick()
    assert (story.status.share, str(story.status.phase), len(story.routes.tables)) == (share, "Paused", before + 1)
    assert story.replay().same


def test_evidence_that_is_not_a_number_can_be_stored():
    evidence = Evidence(
        NOW, ArmCounts(), ArmCounts(), 0, (GuardrailEvidence("mae", False, False, harm=math.nan),), None
    )
    assert told(evidence)["guardrails"][0]["harm"] is None


def test_shadow_copies_everything_and_exposes_nobody():
    route = routed(Phase.SHADOW)
    assert (route.candidate, route.shadow, route.candidate_cut) == (V2, 1.0, 0)


def test_rollback_leaves_no_trace():
    assert routed(Phase.ROLLING_BACK, route=routed(Phase.STEP, 0.5)) == ROUTE


def test_promotion_trusts_the_candidate_and_keeps_the_champion_warm():
    route = routed(Phase.PROMOTED, route=routed(Phase.STEP, 0.5))
    assert (route.champion.version, route.champion.trusted, route.warm) == ("v2", True, (V1,))
    assert routed(Phase.PROMOTED, route=route) == route


def test_the_next_table_keeps_other_models():
    other = ModelRoute("churn", "s", V1)
    table = table_for(
        RoutingTable(3, 1, 0, {"eta": ROUTE, "churn": other}), routed(Phase.SHADOW), now=9, fence=2, cause="rollout"
    )
    assert (table.version, table.fence, table.models["churn"]) == (4, 2, other)


@pytest.mark.parametrize("phase", [Phase.PROMOTED, Phase.ROLLED_BACK])
def test_terminal_phases_wait_for_ever(phase):
    status = RolloutStatus("r", "eta", "v2", "v1", phase, 0, NOW, wanted="abort")
    evidence = Evidence(NOW, ArmCounts(), ArmCounts(), 0, (), None, vetoed="hard")
    assert decide(Rollout(steps=["1%"], bake="1h"), status, evidence, NOW).action == "wait"


def test_a_rollout_runs_on_the_real_control_database(tmp_path):
    from flyball.control import connect

    database = connect(f"sqlite:///{tmp_path / 'control.db'}")
    lease = database.leases.acquire("control", "me", timedelta(seconds=30))
    assert lease is not None
    database.routing.write(RoutingTable(1, lease.fence, 0, {"eta": ROUTE}), expected=0, fence=lease.fence)

    class Routes:
        def current(self):
            return database.routing.current()

        def commit(self, table, *, expected, fence):
            database.routing.write(table, expected=expected, fence=fence)

    (tmp_path / "log").mkdir()
    clock = ManualClock(NOW)
    done = []
    reconciler = Reconciler(
        store=database.rollouts, routes=Routes(), log_root=tmp_path / "log", evidence_root=tmp_path / "evidence",
        refs=lambda m, v: V2, promoted=lambda *a: done.append(a), rolled_back=lambda *a: done.append(a),
    )  # fmt: skip
    spec = Rollout(steps=["10%"], bake="1h")
    status = start(database.rollouts, spec, model="eta", candidate="v2", champion="v1", now=NOW)
    kinds = [event.kind for event in reconciler.step([], clock.now(), lease.fence)]
    assert kinds == ["WeightsChanged"]
    order(database.rollouts, status.id, "abort", now=NOW, reason="enough")
    clock.advance(timedelta(minutes=1))
    kinds = [event.kind for event in reconciler.step([], clock.now(), lease.fence)]
    assert kinds == ["RollbackStarted", "RolledBack"]
    assert database.rollouts.get(status.id)[1].phase is Phase.ROLLED_BACK
    assert database.routing.current().models["eta"] == ROUTE
    assert [e.kind for e in database.rollouts.events(status.id)] == [
        "RolloutStarted", "WeightsChanged", "OrderGiven", "RollbackStarted", "RolledBack",
    ]  # fmt: skip
    assert len(done) == 1
