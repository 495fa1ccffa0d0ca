"""Prometheus text from all slots of the shared map: any worker answers for the whole node."""

from __future__ import annotations

from collections.abc import Callable

from flyball.serving.shared.histogram import bucket_upper
from flyball.serving.shared.slots import ARMS, ArmTotals, Counter, SharedMap, Slot, StoreTotals

__all__ = ["render"]

_STEPS = tuple(range(7, 96, 4))  # one bound per doubling, up to 8 s
_COUNTERS: tuple[tuple[str, str, Callable[[ArmTotals], int]], ...] = (
    ("flyball_requests_total", "Requests answered, by the arm they were assigned to.", lambda t: t.requests),
    ("flyball_rows_total", "Rows in those requests.", lambda t: t.rows),
    ("flyball_errors_total", "Requests in which the assigned arm failed.", lambda t: t.errors),
    ("flyball_fallbacks_total", "Requests in which the champion answered for the candidate.", lambda t: t.fallbacks),
)  # fmt: skip
_ABOUT = {
    Counter.CACHE_HITS: "Requests answered from the cache.",
    Counter.CACHE_MISSES: "Requests that the cache did not hold.",
    Counter.CACHE_EVICTIONS: "Answers pushed out of the cache by newer ones.",
    Counter.CACHE_BYPASSES: "Requests for which the cache was not asked.",
    Counter.REFUSED_RATE: "Requests refused because their key was over its rate.",
    Counter.REFUSED_BUSY: "Requests refused because they would have waited past their deadline.",
    Counter.REFUSED_KEY: "Requests without a key that opens the model.",
    Counter.BAD_REQUESTS: "Requests that a caller got wrong.",
    Counter.SLOW_CLIENTS: "Requests given up because the caller was too slow in sending them.",
    Counter.DISCONNECTED: "Requests whose caller went away before the answer.",
    Counter.BATCHES: "Batches that models answered.",
    Counter.BATCH_ROWS: "Rows in those batches.",
    Counter.BATCH_SPLITS: "Failed batches that were split to find the row at fault.",
    Counter.LOOP_RESTARTS: "Batching loops that died and were restarted.",
    Counter.MODEL_LOADS: "Models brought into memory.",
    Counter.MODEL_EVICTIONS: "Models put out of memory for others.",
    Counter.SHADOW_AGREED: "Shadow answers that agreed with what the caller got.",
    Counter.SHADOW_DIFFERED: "Shadow answers that did not.",
    Counter.SWAPS: "Routing tables put in force.",
    Counter.SWAPS_REFUSED: "Routing tables that could not be served.",
    Counter.FLAGS: "Feature flags decided.",
    Counter.GRPC_REQUESTS: "Requests that came by gRPC.",
    Counter.EXPLANATIONS: "Explanations computed.",
    Counter.ACCESS_LOG_DROPPED: "Lines of the access log that the disk did not take in time.",
    Counter.SHADOW_ERRORS: "Shadow rows that the other arm failed.",
    Counter.SHADOW_MICROS: "Microseconds that shadow rows waited for and took in the other arm.",
}


def render(shared: SharedMap) -> bytes:
    """Return the node's metrics in the Prometheus text format, version 0.0.4."""
    slots = [slot for slot in shared if slot.generation]
    totals = [(slot.index, arm, slot.totals(index)) for slot in slots for index, arm in enumerate(ARMS)]
    totals = [(worker, arm, t) for worker, arm, t in totals if t.requests or arm in ARMS[:2]]
    lines: list[str] = []
    for name, text, value in _COUNTERS:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} counter"]
        lines += [f'{name}{{worker="{w}",arm="{arm}"}} {value(t)}' for w, arm, t in totals]
    lines += _histogram(totals)
    lines += _reads([(slot.index, slot.store_totals()) for slot in slots])
    for name, text, kind, numbers in (
        ("flyball_shadow_sent_total", "Rows sent to the other arm after the answer.", "counter",
         [(s.index, s.shadow_sent) for s in slots]),
        ("flyball_shadow_dropped_total", "Shadow rows dropped under pressure.", "counter",
         [(s.index, s.shadow_dropped) for s in slots]),
        ("flyball_log_dropped_total", "Records the prediction log could not take.", "counter",
         [(s.index, s.log_dropped) for s in slots]),
        ("flyball_table_acknowledged", "Routing table that the worker serves.", "gauge",
         [(s.index, s.acknowledged) for s in slots]),
        ("flyball_worker_up", "Whether a process owns the slot.", "gauge", [(s.index, int(s.pid > 0)) for s in slots]),
        ("flyball_worker_veto", "Reason code of the worker's veto, 0 for none.", "gauge",
         [(s.index, int(s.veto.reason) if s.veto else 0) for s in slots]),
        ("flyball_worker_generation", "Owners the slot has had.", "counter", [(s.index, s.generation) for s in slots]),
    ):  # fmt: skip
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [f'{name}{{worker="{w}"}} {number}' for w, number in numbers]
    lines += _counters(slots)
    lines += ["# HELP flyball_table_version Routing table that is wanted.", "# TYPE flyball_table_version gauge"]
    lines += [f"flyball_table_version {shared.table_version}", "# HELP flyball_kill_switch Candidate traffic is off."]
    lines += ["# TYPE flyball_kill_switch gauge", f"flyball_kill_switch {int(shared.kill_switch)}"]
    lines += ["# HELP flyball_degraded Control cannot do its work; the last table is served."]
    lines += ["# TYPE flyball_degraded gauge", f"flyball_degraded {int(shared.degraded)}"]
    return ("\n".join(lines) + "\n").encode()


def _counters(slots: list[Slot]) -> list[str]:
    lines: list[str] = []
    for counter, text in _ABOUT.items():
        name = f"flyball_{counter.name.lower()}_total"
        lines += [f"# HELP {name} {text}", f"# TYPE {name} counter"]
        lines += [f'{name}{{worker="{slot.index}"}} {slot.total(counter)}' for slot in slots]
    return lines


def _histogram(totals: list[tuple[int, str, ArmTotals]]) -> list[str]:
    name = "flyball_request_seconds"
    lines = [f"# HELP {name} Time from admission to answer.", f"# TYPE {name} histogram"]
    for worker, arm, t in totals:
        lines += _buckets(name, f'worker="{worker}",arm="{arm}"', t.buckets, t.micros)
    return lines


def _reads(totals: list[tuple[int, StoreTotals]]) -> list[str]:
    name = "flyball_store_read_seconds"
    lines = [f"# HELP {name} Time of reading a request's features from the online store.", f"# TYPE {name} histogram"]
    for worker, t in totals:
        lines += _buckets(name, f'worker="{worker}",store="{t.store}"', t.buckets, t.micros)
    for name, text, of in (
        ("flyball_store_read_errors_total", "Reads of the online store that failed the request.", "errors"),
        ("flyball_store_defaulted_total", "Requests answered with declared defaults instead.", "defaulted"),
        ("flyball_store_stale_total", "Requests answered with values read a while before instead.", "stale"),
    ):
        lines += [f"# HELP {name} {text}", f"# TYPE {name} counter"]
        lines += [f'{name}{{worker="{w}",store="{t.store}"}} {getattr(t, of)}' for w, t in totals]
    return lines


def _buckets(name: str, label: str, buckets: tuple[int, ...], micros: int) -> list[str]:
    lines = [
        f'{name}_bucket{{{label},le="{bucket_upper(step) / 1e6:g}"}} {sum(buckets[: step + 1])}' for step in _STEPS[:-1]
    ]
    lines.append(f'{name}_bucket{{{label},le="+Inf"}} {sum(buckets)}')
    return [*lines, f"{name}_sum{{{label}}} {micros / 1e6:.6f}", f"{name}_count{{{label}}} {sum(buckets)}"]
