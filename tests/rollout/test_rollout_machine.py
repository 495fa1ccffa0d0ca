"""The laws of a rollout, whatever happens in whatever order, with a crash after each act."""

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flyball.errors import Refused
from flyball.rollout.guards import guard
from flyball.rollout.routing import BUCKETS
from flyball.rollout.types import TERMINAL, Phase
from flyball.testing.scenarios import scenario


class Crash(Exception):
    """The process died here."""


class RolloutMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        rails = [guard.errors(margin="1pp"), guard.metric("mae", margin="10%")]
        self.story = scenario(
            steps=["10%", "30%", "60%"], bake="10m", shadow="10m", guardrails=rails, min_requests=20, max_wait="2h"
        ).given_traffic(per_minute=30)
        self.over = None
        self.resumed_below = False

    def teardown(self):
        assert self.story.replay().same
        self.story.close()

    def guarded(self, act):
        try:
            act()
        except Crash:
            self.story.restart()

    @rule(minutes=st.integers(1, 12))
    def time_passes(self, minutes):
        self.story.for_(f"{minutes}m", every="1m")

    @rule(rate=st.sampled_from([0.0, 0.0, 0.02, 0.5]), both=st.booleans(), shift=st.sampled_from([0.0, 0.0, 2.0]))
    def behaviour_changes(self, rate, both, shift):
        self.story.when(candidate_error_rate=rate, champion_error_rate=rate if both else 0.0, candidate_shift=shift)

    @rule(per_minute=st.sampled_from([0, 5, 60]))
    def traffic_changes(self, per_minute):
        self.story.given_traffic(per_minute=per_minute)

    @rule()
    def the_controller_is_replaced(self):
        self.story.restart()

    @rule(wanted=st.sampled_from(["pause", "run", "run", "promote", "abort"]))
    def somebody_orders(self, wanted):
        if self.story.status.phase in TERMINAL:
            try:
                self.story.ordered(wanted)
            except Refused:
                return
            raise AssertionError("a finished rollout took an order")
        self.story.ordered(wanted)

    @rule(minutes=st.integers(1, 12), where=st.sampled_from(["commit", "save", "after commit"]))
    def it_crashes_on_the_way(self, minutes, where):
        routes, store = self.story.routes, self.story.store
        commit, save = routes.commit, store.save

        def dead_commit(table, **kwargs):
            if where == "after commit":
                commit(table, **kwargs)
            raise Crash

        def dead_save(status, **kwargs):
            raise Crash

        if where == "save":
            store.save = dead_save
        else:
            routes.commit = dead_commit
        self.guarded(lambda: self.story.for_(f"{minutes}m", every="1m"))
        routes.commit, store.save = commit, save
        self.guarded(self.story.tick)

    @rule()
    def a_second_look_does_nothing(self):
        self.story.tick()
        before = (self.story.status, len(self.story.routes.tables), self.story.store.saves)
        assert self.story.tick() == []
        assert (self.story.status, len(self.story.routes.tables), self.story.store.saves) == before

    @invariant()
    def weights_are_shares(self):
        for table in self.story.routes.tables[-2:]:
            route = table.models["eta"]
            assert 0 <= route.candidate_cut <= route.control_from <= route.control_to <= BUCKETS

    @invariant()
    def weights_only_rise_until_they_are_taken_away(self):
        cuts = [table.models["eta"].candidate_cut for table in self.story.routes.tables]
        rising = cuts[: cuts.index(0, 2)] if 0 in cuts[2:] and any(cuts) else cuts
        assert rising == sorted(rising)
        assert all(cut == 0 for cut in cuts[len(rising) :])

    @invariant()
    def nothing_rises_after_a_breach(self):
        breach = next((e for e in self.story.events if e.kind == "GuardrailBreached"), None)
        if breach is not None:
            assert self.story.status.phase in {Phase.ROLLING_BACK, Phase.ROLLED_BACK}
            assert self.story.routes.current().models["eta"].candidate_cut == 0

    @invariant()
    def terminal_phases_stay(self):
        if self.over is not None:
            assert self.story.status == self.over
        elif self.story.status.phase in TERMINAL:
            self.over = self.story.status

    @precondition(lambda self: self.over is not None)
    @invariant()
    def the_table_says_what_the_status_says(self):
        route = self.story.routes.current().models["eta"]
        champion = "v2" if self.over.phase is Phase.PROMOTED else "v1"
        assert (route.champion.version, route.candidate, route.rollout) == (champion, None, None)
        assert self.story.promoted == [] or champion == "v2"


RolloutMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
TestRolloutMachine = RolloutMachine.TestCase
