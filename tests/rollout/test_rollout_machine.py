"""The laws of a rollout, whatever its strategy, whatever happens in whatever order, with a crash after each act."""

from itertools import pairwise

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flyball.errors import Refused
from flyball.rollout.definitions.calendar import calendar, frozen
from flyball.rollout.definitions.guards import guard
from flyball.rollout.definitions.strategies import strategy
from flyball.rollout.orders import order
from flyball.rollout.routing import BUCKETS
from flyball.rollout.types import TERMINAL, Phase, Strategy
from flyball.testing.scenarios import scenario
from flyball.units import from_micros

RAILS = [guard.errors(margin="1pp"), guard.metric("mae", margin="10%")]
GAIN = guard.metric("mae", margin="0.02")
RULES = calendar(freeze=["mon 00:25 - mon 00:45", "mon 01:30 - mon 02:10"])
COMMON = {"guardrails": RAILS, "min_requests": 20, "max_wait": "2h", "calendar": RULES}
SPECS = {
    "canary": strategy.canary(["10%", "30%", "60%"], bake="10m", shadow="10m", **COMMON),
    "approval": strategy.canary(
        ["10%", strategy.step("40%", approval=True)], bake="10m", approve_promotion=True, **COMMON
    ),
    "segment": strategy.segment_first(
        where={"country": "NL"}, share=["20%", "50%"], then=["20%"], bake="10m", **COMMON
    ),
    "blue-green": strategy.blue_green(shadow="10m", bake="10m", **COMMON),
    "ab": strategy.ab(primary=GAIN, bake="10m", **COMMON),
    "bandit": strategy.bandit(primary=GAIN, share="30%", bake="5m", pace="5m", **COMMON),
    "challenger": strategy.challenger(
        primary=GAIN, share="40%", bake="5m", guardrails=RAILS, min_requests=20, calendar=RULES
    ),
    "all at once": strategy.all_at_once(calendar=RULES),
}


class Crash(Exception):
    """The process died here."""


class RolloutMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.story = None
        self.over = None

    @initialize(spec=st.sampled_from(list(SPECS.values())))
    def a_rollout_starts(self, spec):
        self.story = scenario(spec).given_traffic(per_minute=30).given_requests(country={"NL": 0.5, "DE": 0.5})

    def teardown(self):
        if self.story is not None:
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

    @rule(
        wanted=st.sampled_from(["pause", "run", "run", "approve", "approve", "promote", "abort"]), force=st.booleans()
    )
    def somebody_orders(self, wanted, force):
        before = self.story.status
        try:
            self.story.ordered(wanted, force=force)
        except Refused:
            refusable = before.phase in TERMINAL or wanted == "approve" or (wanted == "promote" and not force)
            assert refusable
            assert self.story.status == before
            return
        assert before.phase not in TERMINAL, "a finished rollout took an order"

    @rule(
        minutes=st.integers(1, 12), where=st.sampled_from(["commit", "save", "after commit"]),
        meanwhile=st.sampled_from(["", "", "pause", "promote", "abort"]),
    )  # fmt: skip
    def it_crashes_on_the_way(self, minutes, where, meanwhile):
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
        if meanwhile and self.story.status.phase not in TERMINAL:
            order(store, self.story.id, meanwhile, now=self.story.clock.now(), force=True)
        self.guarded(self.story.tick)

    @rule()
    def a_second_look_does_nothing(self):
        self.story.tick()
        before = (self.story.status, len(self.story.routes.tables), self.story.store.saves)
        assert self.story.tick() == []
        assert (self.story.status, len(self.story.routes.tables), self.story.store.saves) == before

    @precondition(lambda self: self.story is not None)
    @invariant()
    def weights_are_shares(self):
        for table in self.story.routes.tables[-2:]:
            route = table.models["eta"]
            assert 0 <= route.candidate_cut <= route.control_from <= route.control_to <= BUCKETS

    def shares(self):
        """Return what share of the segment's units every table gave the candidate, with when and to whom."""
        return [(t.models["eta"].candidate_cut, t.models["eta"].within, t.written) for t in self.story.routes.tables]

    @precondition(lambda self: self.story is not None)
    @invariant()
    def weights_only_rise_until_they_are_taken_away(self):
        cuts = [cut for cut, _, _ in self.shares()]
        first = next((i for i, cut in enumerate(cuts) if cut), len(cuts))
        gone = next((i for i in range(first, len(cuts)) if not cuts[i]), len(cuts))
        assert not any(cuts[gone:])
        if self.story.spec.strategy is Strategy.BANDIT:
            return
        groups = {}
        for cut, within, _ in self.shares()[first:gone]:
            groups.setdefault(within, []).append(cut)
        assert all(rising == sorted(rising) for rising in groups.values())
        assert list(groups) == sorted(groups, key=bool, reverse=True), "a segment comes before everybody"

    @precondition(lambda self: self.story is not None)
    @invariant()
    def nothing_rises_in_a_freeze(self):
        for (before, within, _), (cut, now_within, written) in pairwise(self.shares()):
            if cut > before or (within and not now_within and cut):
                assert not frozen(RULES, from_micros(written))

    @precondition(lambda self: self.story is not None)
    @invariant()
    def nothing_rises_after_a_breach(self):
        breach = next((e for e in self.story.events if e.kind == "GuardrailBreached"), None)
        if breach is not None:
            assert self.story.status.phase in {Phase.ROLLING_BACK, Phase.ROLLED_BACK}
            assert self.story.routes.current().models["eta"].candidate_cut == 0

    @precondition(lambda self: self.story is not None)
    @invariant()
    def a_challenger_takes_over_by_order_only(self):
        if self.story is None or self.story.spec.strategy is not Strategy.CHALLENGER:
            return
        if self.story.status.phase is Phase.PROMOTED:
            assert "promote" in [e.details["wanted"] for e in self.story.events if e.kind == "OrderGiven"]

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
    max_examples=100, stateful_step_count=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
TestRolloutMachine = RolloutMachine.TestCase
