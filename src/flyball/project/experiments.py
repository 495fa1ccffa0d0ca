"""`project.experiments["checkout"]`: start, stop, status, result; and what the control process does for experiments.

The order is what makes them safe: a design is stored with its digest, then its units are drawn, then it counts as
running. The surprise: a killed start needs no repair. Whoever comes next, the same command or the control process,
finds in the database how far it came and goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.errors import ConflictError, FlyballError, Refused, RevisionConflict, UnknownName
from flyball.experiments.design.plans import PlanKind
from flyball.experiments.lifecycle import ExperimentEvent, ExperimentStatus, State, due, require_same

if TYPE_CHECKING:
    from flyball.experiments.design.result import Result
    from flyball.experiments.design.rulers import Look
    from flyball.experiments.design.types import Experiment
    from flyball.project.experiment_data import Gathered
    from flyball.project.root import Project

__all__ = ["ExperimentHandle", "ExperimentHandles", "bring_all"]


_NOTED = 0.5  # natural logarithms of evidence against the sample ratio that are worth an event


class ExperimentHandles:
    """A project's experiments, by name: those that were stored, and those that are defined and not started yet."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def __getitem__(self, name: str) -> ExperimentHandle:
        """Return an experiment; raises UnknownName with near names."""
        if name not in set(self):
            raise UnknownName.of("experiment", name, self)
        return ExperimentHandle(self._project, name)

    def __iter__(self) -> Iterator[str]:
        stored = [experiment.name for experiment, _ in self._project.database.experiments.list()]
        return iter(dict.fromkeys([*stored, *self._project.applied.experiments]))

    def list(self, *, archived: bool = False, seen: bool = False) -> list[dict[str, Any]]:
        """Return name, state, arms, times and planned units of all experiments.

        Args:
            archived: Those that were archived too.
            seen: Read the log too: units, days left and sample ratio of those that run.
        """
        stored = self._project.database.experiments.list()
        found = [self._told(e, s, seen) for e, s in stored if archived or not s.archived]
        known = {experiment.name for experiment, _ in stored}
        return found + [_line(e, None) for n, e in sorted(self._project.applied.experiments.items()) if n not in known]

    def _told(self, experiment: Experiment, status: ExperimentStatus, seen: bool) -> dict[str, Any]:
        from flyball.project.experiment_data import exposed_units
        from flyball.project.experiment_status import days_left, ratio_of

        line, now = _line(experiment, status), self._project.clock.now()
        if not seen or status.state is not State.RUNNING:
            return line
        exposed = exposed_units(self._project, experiment, status)
        units = sum(exposed.values())
        return line | {"units": units, "days_left": days_left(experiment, status, units, now),
                       "ratio": str(ratio_of(experiment, exposed).verdict)}  # fmt: skip

    def check(self, experiment: Experiment) -> dict[str, Any]:
        """Return what would be stored, after every look that a start takes; nothing is changed.

        Raises:
            FlyballError: as `start`.
        """
        return {**_line(experiment, None), "served": check(self._project, experiment)}

    def start(self, experiment: Experiment, *, actor: str = "cli") -> ExperimentStatus:
        """Store a design and let it run, or go on with a start that was interrupted.

        Raises:
            Refused: the design was changed after it was stored, an arm cannot be served, or its end has passed.
            ConflictError: another experiment has the units.
        """
        return start(self._project, experiment, actor=actor)


class ExperimentHandle:
    """One experiment."""

    def __init__(self, project: Project, name: str) -> None:
        self._project = project
        self.name = name

    @property
    def design(self) -> Experiment:
        """The design: as it was stored, or as it is defined when it was not started yet."""
        found = self._project.database.experiments.find(self.name)
        return found[0] if found is not None else self._project.applied.experiment(self.name)

    @property
    def record(self) -> ExperimentStatus:
        """When it ran and how it stands; raises UnknownName when it was never started."""
        return self._project.database.experiments.get(self.name)[1]

    def start(self, *, actor: str = "cli") -> ExperimentStatus:
        """Store the defined design and let it run; see `ExperimentHandles.start`."""
        defined = self._project.applied.experiments.get(self.name)
        return start(self._project, defined if defined is not None else self.design, actor=actor)

    def stop(self, reason: str = "", *, ship: str = "", actor: str = "cli") -> ExperimentStatus:
        """End it and give its units back, or everybody the arm `ship`.

        Raises:
            UnknownName: there is no such arm.
            Refused: it never ran or has ended, or the shipped version's gate did not pass.
        """
        return stop(self._project, self.name, reason=reason, ship=ship, actor=actor)

    def archive(self, *, actor: str = "cli") -> ExperimentStatus:
        """Leave it out of lists; what it found stays.

        Raises:
            Refused: it has not ended.
        """
        project, now = self._project, self._project.clock.now()
        status = self.record
        if status.active:
            raise Refused(f"experiment {self.name} is {status.state}; end it first with: flyball exp stop {self.name}")
        if status.archived:
            return status
        event = ExperimentEvent(self.name, now, "Archived", "left out of lists from now on")
        done = project.database.experiments.save(
            replace(status, archived=True), expected=status.revision, events=[event]
        )
        project.database.audit.record(now, actor, "experiment archived", self.name)
        return done

    def events(self) -> list[ExperimentEvent]:
        """Return what happened to it, in order."""
        return self._project.database.experiments.events(self.name)

    def gather(self) -> Gathered:
        """Read the log and return each arm's data as of now; that somebody looked is audited."""
        from flyball.project.experiment_data import gather

        experiment, status = self._project.database.experiments.get(self.name)
        self._project.audit.log_read("experiment analysed", self.name)
        return gather(self._project, experiment, status, self._project.clock.now())

    def result(self, *, peek: bool = False) -> Result:
        """Analyse the log as the plan allows; a look of a group plan is recorded, for it spends error.

        Args:
            peek: Look at a fixed plan before its size; what it says then is no verdict.

        Raises:
            Refused: a fixed plan has not reached its planned size.
        """
        from flyball.experiments.design.analysis import analyze

        experiment, status = self._project.database.experiments.get(self.name)
        gathered, ended = self.gather(), not status.active
        if not peek and not ended:
            _require_size(experiment, sum(gathered.exposed.values()))
        looks = self._looks()
        result = analyze(experiment, gathered.arms, earlier=looks, ended=ended)
        if peek and experiment.plan.kind is PlanKind.GROUP and not ended:
            return _no_look(result, len(looks), experiment.plan.looks)
        if not peek and not ended and _says_more(experiment, result.look, looks):
            self._looked(status, result)
        return result

    def report(self, *, peek: bool = False) -> str:
        """Return one self-contained HTML page on the result; arguments and errors are those of `result`."""
        from flyball.experiments.design.report import render_experiment

        return render_experiment(self.design, self.result(peek=peek))

    def _looks(self) -> list[Look]:
        """Return the looks that were recorded."""
        from flyball.experiments.design.rulers import Look  # late: it needs scipy, and the control process does not

        return [msgspec.convert(event.data, Look) for event in self.events() if event.kind == "Looked"]

    def _looked(self, status: ExperimentStatus, result: Result) -> None:
        """Record a look: what a group plan spent of its error is spent, and what the sample ratio told stays told."""
        look = msgspec.to_builtins(result.look)
        event = ExperimentEvent(self.name, self._project.clock.now(), "Looked", result.sentence, look)
        self._project.database.experiments.save(status, expected=status.revision, events=[event])

    def status(self) -> dict[str, Any]:
        """Return state, exposures by arm against what was planned, sample ratio, days left, and the verdict so far."""
        from flyball.project.experiment_status import status_of

        found = self._project.database.experiments.find(self.name)
        if found is None:
            return _line(self.design, None) | {"design": self.design.to_dict()}
        gathered = self.gather() if found[1].state is not State.SCHEDULED else None
        return status_of(found[0], found[1], gathered, self._looks(), self._project.clock.now())


def start(project: Project, experiment: Experiment, *, actor: str) -> ExperimentStatus:
    """Store a design unless it is, and bring it to run."""
    from flyball.project.experiment_routing import salt_of

    store, now = project.database.experiments, project.clock.now()
    found = store.find(experiment.name)
    if found is None:
        arms = check(project, experiment)
        waits = experiment.starts is not None and experiment.starts > now
        state = State.SCHEDULED if waits else State.STARTING
        status = ExperimentStatus(experiment.name, experiment.digest, state, now, salt_of(experiment), arms)
        facts = {"digest": experiment.digest, "arms": experiment.shares, "actor": actor}
        event = ExperimentEvent(experiment.name, now, "Stored", f"design {experiment.digest[:12]}", facts)
        _create(project, experiment, status, event, actor)
        found = store.get(experiment.name)
    require_same(found[1], experiment.digest)
    return _bring(project, *found, now)


def check(project: Project, experiment: Experiment) -> dict[str, str]:
    """Return what the log will call each arm, after looking whether the experiment may start."""
    from flyball.project.experiment_data import check_columns
    from flyball.project.experiment_routing import served

    if experiment.ends is not None and experiment.ends <= project.clock.now():
        raise Refused(f"experiment {experiment.name} was to end {experiment.ends:%Y-%m-%d %H:%M}; set a later end")
    check_columns(project, experiment)
    return served(project, experiment)


def _create(
    project: Project, experiment: Experiment, status: ExperimentStatus, event: ExperimentEvent, actor: str
) -> None:
    """Store a design; when the same one was stored at the same time by another process, that is as good."""
    store = project.database.experiments
    try:
        store.create(experiment, status, event)
    except ConflictError:
        other = store.find(experiment.name)
        if other is None or other[1].digest != experiment.digest:
            raise
        return
    project.database.audit.record(status.created, actor, "experiment started", experiment.name, event.data)


def stop(project: Project, name: str, *, reason: str, ship: str, actor: str) -> ExperimentStatus:
    """Store the end of an experiment unless it is, and give its units back."""
    from flyball.project.releases import require_passing

    store, now = project.database.experiments, project.clock.now()
    experiment, status = store.get(name)
    if status.state is State.STOPPED:
        when = f" on {status.ended:%Y-%m-%d}" if status.ended else ""
        raise Refused(f"experiment {name} has ended{when}: {status.reason or 'no reason given'}")
    if ship and ship not in experiment.shares:
        raise UnknownName.of(f"arm of experiment {name}", ship, experiment.shares)
    if ship and experiment.model and status.served[ship] != "champion":
        require_passing(project.models[experiment.model].version(status.served[ship]))
    if status.state is not State.STOPPING:
        event = ExperimentEvent(name, now, "Ended", reason or "stopped by hand", {"ship": ship, "actor": actor})
        ended = replace(status, state=State.STOPPING, ended=now, reason=reason or "stopped by hand", ship=ship)
        status = store.save(ended, expected=status.revision, events=[event])
        project.database.audit.record(now, actor, "experiment stopped", name, {"reason": reason, "ship": ship})
    return _bring(project, experiment, status, now)


def bring_all(project: Project, now: datetime, said: dict[str, str]) -> list[str]:
    """Bring every active experiment to where it should be at `now`; return what was done, one line each.

    Args:
        project: The project.
        now: Domain time.
        said: What was last said about each that could not be brought on, so that it is not said with every pass.
    """
    did = []
    for experiment, status in project.database.experiments.list(active=True):
        if due(experiment, status, now) is None:
            continue
        try:
            brought = _bring(project, experiment, status, now)
        except FlyballError as error:
            if said.get(experiment.name) != str(error):
                said[experiment.name] = str(error)
                did.append(f"ExperimentWaits {experiment.name}: {error}")
            continue
        said.pop(experiment.name, None)
        did.append(f"Experiment {experiment.name}: {status.state} -> {brought.state}")
    return did


def _bring(project: Project, experiment: Experiment, status: ExperimentStatus, now: datetime) -> ExperimentStatus:
    """Bring an experiment to where it should be; again changes nothing."""
    wanted = due(experiment, status, now)
    if wanted is None:
        return status
    try:
        if wanted is State.RUNNING:
            return _run(project, experiment, status, now)
        if status.state is State.RUNNING:
            event = ExperimentEvent(status.name, now, "Ended", "its end has come", {"ends": experiment.ends})
            ended = replace(status, state=State.STOPPING, ended=now, reason="its end has come")
            status = project.database.experiments.save(ended, expected=status.revision, events=[event])
        return _return(project, experiment, status, now)
    except RevisionConflict:  # another process was faster; what it wrote may already be all that is wanted
        _, newer = project.database.experiments.get(status.name)
        if due(experiment, newer, now) is not None:
            raise
        return newer


def _run(project: Project, experiment: Experiment, status: ExperimentStatus, now: datetime) -> ExperimentStatus:
    from flyball.project.experiment_routing import take

    first = take(project, experiment, status)
    event = ExperimentEvent(status.name, now, "Started", f"units are drawn from table {first} on", {"table": first})
    running = replace(status, state=State.RUNNING, started=now, tables=(first, 0))
    return project.database.experiments.save(running, expected=status.revision, events=[event])


def _return(project: Project, experiment: Experiment, status: ExperimentStatus, now: datetime) -> ExperimentStatus:
    from flyball.project.experiment_routing import give_back

    events = [ExperimentEvent(status.name, now, "Returned", "its units are given back")]
    if status.ship and experiment.model and status.served[status.ship] != "champion":
        version = status.served[status.ship]
        project.models[experiment.model].promote_shipped(version, reason=f"experiment {status.name} shipped it")
    last = give_back(project, experiment, status)
    if status.ship:
        events.append(ExperimentEvent(status.name, now, "Shipped", f"everybody gets {status.ship}"))
    done = replace(status, state=State.STOPPED, tables=(status.tables[0], last))
    return project.database.experiments.save(done, expected=status.revision, events=events)


def _says_more(experiment: Experiment, look: Look, before: Sequence[Look]) -> bool:
    """Say whether a look must be kept: of a group plan when units came since, else when the sample ratio got worse."""
    if experiment.plan.kind is PlanKind.GROUP:
        return not before or look.time > before[-1].time
    return look.ratio > _NOTED + max((each.ratio for each in before), default=0.0)


def _no_look(result: Result, taken: int, planned: int) -> Result:
    """Return a group plan's result between two looks: its numbers, and no verdict."""
    from flyball.experiments.design.result import Outcome

    if result.outcome is Outcome.UNTRUSTED:
        return result
    sentence = f"a group plan is judged at its looks, and {taken} of {planned} are taken; this is none of them"
    return replace(result, outcome=Outcome.WAIT, winner="", final=False, sentence=sentence)


def _require_size(experiment: Experiment, units: int) -> None:
    planned = experiment.planned_units or 0
    if experiment.plan.kind is PlanKind.FIXED and units < planned:
        raise Refused(
            f"experiment {experiment.name} has a fixed plan and is judged once, at {planned:,} units; it has "
            f"{units:,}. Wait for {planned - units:,} more, or look without a verdict: --peek"
        )


def _line(experiment: Experiment, status: ExperimentStatus | None) -> dict[str, Any]:
    return {
        "name": experiment.name, "state": "defined" if status is None else str(status.state),
        "model": experiment.model, "flag": experiment.flag, "arms": experiment.shares,
        "hypothesis": experiment.hypothesis, "digest": experiment.digest if status is None else status.digest,
        "started": None if status is None else status.started, "ended": None if status is None else status.ended,
        "ends": experiment.ends, "planned_units": experiment.planned_units,
        "reason": "" if status is None else status.reason,
        "ship": "" if status is None else status.ship, "archived": False if status is None else status.archived,
    }  # fmt: skip
