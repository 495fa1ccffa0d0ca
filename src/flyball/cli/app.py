"""The tree of verbs, and what every run of one has in common: errors, exit codes, --debug."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from flyball.errors import FlyballError

__all__ = ["TREE", "LazyGroup", "run"]

# verb -> (module:attribute, help); a group -> (help, {verb: ...})
Verbs = dict[str, tuple[str, Any]]
_HERE = "flyball.cli"

TREE: Verbs = {
    "init": ("setup:init", "Write a new project."),
    "demo": ("demo:demo", "Watch the whole loop on real trips (about 4 minutes)."),
    "check": ("setup:check", "Check settings, definitions and sources."),
    "apply": ("setup:apply", "Make the definitions live (--dry-run shows the difference)."),
    "up": ("node:up", "Serve, and keep the loop turning."),
    "status": ("node:status", "Say how everything is."),
    "feature": (
        "Features: what they are, and their values.",
        {
            "list": ("catalog:list_", "List feature views and their features."),
            "show": ("catalog:show", "Show one feature view as it is now (--versions: as it was)."),
            "search": ("catalog:search", "Find views by name, description, unit, tag or owner."),
            "lineage": ("catalog:lineage", "Say what came of what: source, view, model, version, rollout."),
            "materialize": ("feature:materialize", "Bring online rows up to date."),
            "quarantine": ("feature:quarantine", "List rows that data checks keep out."),
            "get": ("feature:get", "Look up an entity's values as serving sees them."),
            "push": ("feature:push", "Append rows to a source."),
            "erase": ("erase:erase", "Erase a subject everywhere, and prove it."),
            "skew": ("skew:skew", "Compare what was served with what history says should have been."),
            "history": ("feature:history", "Join past requests with what was known then."),
        },
    ),
    "run": ("run:run", "Train: run all stages of a model, or one of a run."),
    "data": (
        "Training sets.",
        {
            "versions": ("data:versions", "List a model's training sets."),
            "diff": ("data:diff", "Compare two training sets."),
            "lineage": ("data:lineage", "Say what a version was made of."),
        },
    ),
    "model": (
        "Model versions.",
        {
            "list": ("model:list_", "List versions."),
            "show": ("model:show", "Show a version and its gate."),
            "compare": ("model:compare", "Compare two versions."),
            "promote": ("model:promote", "Make a version champion, without a rollout."),
            "switch": ("model:switch", "Exchange the champion at once, and back."),
            "split": ("model:split", "Compare versions side by side (A/B/n)."),
            "retire": ("model:retire", "Say that a version may not serve any more."),
            "import": ("model:import_", "Register a model that was trained elsewhere."),
            "optimize": ("model:optimize", "Look for a faster equal form of a version."),
            "score": ("model:score", "Predict for a file of past requests."),
        },
    ),
    "rollout": (
        "Releases that roll themselves back.",
        {
            "start": ("rollout:start", "Release a version step by step."),
            "watch": ("rollout:watch", "Follow a release until it ends."),
            "pause": ("rollout:pause", "Hold a release where it is."),
            "resume": ("rollout:resume", "Let a paused release go on."),
            "approve": ("rollout:approve", "Let a release take the step that waits for a person."),
            "promote": ("rollout:promote", "Promote at once; the override is recorded."),
            "abort": ("rollout:abort", "Return all traffic to the champion."),
            "explain": ("rollout:explain", "Show the evidence against every limit."),
            "history": ("rollout:history", "List releases and what became of them."),
        },
    ),
    "exp": (
        "Experiments.",
        {
            "start": ("exp:start", "Store an experiment and let it draw its units."),
            "stop": ("exp:stop", "End an experiment, and ship an arm."),
            "list": ("exp:list_", "List experiments."),
            "show": ("exp:show", "Show exposures, sample ratio and the verdict so far."),
            "archive": ("exp:archive", "Leave an ended experiment out of lists."),
            "power": ("exp_tables:power", "Say how many units are needed, and how long that takes."),
            "analyze": ("exp_tables:analyze", "Judge an experiment, or a table."),
            "srm": ("exp_tables:srm", "Say whether units arrive as designed."),
            "interleave": ("exp_tables:interleave", "Say which interleaved ranking clicks prefer."),
            "ope": ("exp_tables:ope", "Say what another policy would have earned."),
        },
    ),
    "flag": (
        "Feature flags.",
        {
            "list": ("flag:list_", "List flags in force."),
            "get": ("flag:get", "Say what a flag is for a unit, and why."),
            "set": ("flag:set_", "Switch a flag, or change its shares."),
        },
    ),
    "explain": ("explain:explain", "Say how one prediction came about."),
    "serve": (
        "The prediction log.",
        {"replay": ("replay:replay", "Run a version over logged traffic and compare.")},
    ),
    "monitor": (
        "Drift, performance, alerts.",
        {
            "status": ("monitor:status", "Newest window of every monitor."),
            "drift": ("monitor:drift", "Drift by window and feature."),
            "performance": ("monitor:performance", "Performance by window, with label coverage."),
            "alerts": ("monitor:alerts", "Alerts, newest last."),
            "report": ("monitor:report", "Write one HTML page."),
        },
    ),
    "loop": (
        "The closed loop.",
        {
            "status": ("loop:status", "What the loop is doing, per model."),
            "once": ("loop:once", "Do everything that is due, once."),
            "why": ("loop:why", "Tell the story: trigger, run, gate, rollout, verdict."),
            "freeze": ("loop:freeze", "Stop retraining."),
            "thaw": ("loop:thaw", "Let it retrain again."),
        },
    ),
    "key": (
        "Keys of callers.",
        {
            "create": ("key:create", "Make a key of a role; it is shown once."),
            "list": ("key:list_", "List keys by name and role."),
            "revoke": ("key:revoke", "Have a key open nothing any more."),
        },
    ),
    "audit": (
        "Who did what.",
        {"list": ("audit:list_", "List what was done, by whom, and who read the prediction log.")},
    ),
    "config": (
        "Settings.",
        {
            "get": ("config:get", "Print a setting."),
            "set": ("config:set_", "Change a setting in flyball.toml, keeping comments."),
            "explain": ("config:explain", "Say where every setting came from."),
            "schema": ("config:schema", "List every setting."),
        },
    ),
}


class LazyGroup(click.Group):
    """Know the names and help of verbs; import a verb's module only to run it."""

    def __init__(self, name: str, tree: Verbs, text: str) -> None:
        super().__init__(name, help=text, no_args_is_help=True)
        self._tree = tree

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table."""
        return list(self._tree)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a verb."""
        entry = self._tree.get(cmd_name)
        if entry is None:
            return None
        if isinstance(entry[1], dict):
            return LazyGroup(cmd_name, entry[1], entry[0])
        module, _, attribute = entry[0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"{_HERE}.{module}"), attribute)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List verbs from the table, importing nothing."""
        rows = [(name, entry[0] if isinstance(entry[1], dict) else entry[1]) for name, entry in self._tree.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest verbs when one is unknown."""
        from flyball.errors import nearest

        name = args[0]
        if not name.startswith("-") and name not in self._tree:
            close = nearest(name, self._tree)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            ctx.fail(f"there is no command {name!r}{hint}")
        return super().resolve_command(ctx, args)


def _root() -> LazyGroup:
    group = LazyGroup("flyball", TREE, "Govern machine-learning models in production.")
    group.params.append(click.Option(["--debug"], is_flag=True, expose_value=False, help="Show tracebacks."))
    version = click.Option(
        ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version."
    )
    group.params.append(version)
    return group


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from flyball import __version__

        click.echo(f"flyball {__version__}")
        ctx.exit()


def run(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given or bool(os.environ.get("FLYBALL_DEBUG"))
    given = [a for a in given if a != "--debug"]
    try:
        code = _root().main(given, prog_name="flyball", standalone_mode=False)
    except FlyballError as error:
        return _fail(error, error.exit_code, debug)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        return _fail(_wrong_use(error), 2, debug)
    except (click.Abort, KeyboardInterrupt):
        click.echo("flyball: interrupted", err=True)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(error, 3, debug)
    except Exception as error:
        return _fail(_mistake(error), 3, debug)
    return code if isinstance(code, int) else 0


def _fail(error: Exception, code: int, debug: bool) -> int:
    """Say one sentence, on one line; the traceback only with --debug."""
    if debug:
        import traceback

        traceback.print_exception(error)
    click.echo(f"flyball: {' '.join(str(error).split())}", err=True)
    return code


def _wrong_use(error: click.ClickException) -> Exception:
    """Return what click says about the command line as a sentence that names the help to read."""
    from flyball.errors import InputError

    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context is not None else "flyball"
    said = InputError(f"{error.format_message().rstrip('.')}; see: {path} --help")
    said.__cause__ = error
    return said


def _mistake(error: Exception) -> Exception:
    """Return a sentence about an error that flyball did not foresee."""
    said = FlyballError(
        f"{type(error).__name__}: {error or 'no message'}; this is a mistake in flyball: run it again with --debug "
        "and report what it prints"
    )
    said.__cause__ = error
    return said
