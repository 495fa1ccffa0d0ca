"""The client of a gateway, blocking: `fb.Client(url, key).predict("eta", rows)`."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar

from flyball.client import answers, calls
from flyball.client.connecting import Done, address_of, failure, headers_of, httpx_module, outcome, reply
from flyball.client.conversation import Failure, Reply, Send, conversation

if TYPE_CHECKING:
    import httpx

__all__ = ["Client"]

T = TypeVar("T")


class Client:
    """Ask one gateway; safe to share between threads, and to be closed once by `close` or a `with` block.

    Args:
        url: Where the gateway is, such as http://127.0.0.1:8080.
        key: An API key; None where none is needed.
        timeout: Seconds that a call may take, its retries included.
        retries: Further tries after a failure that may pass: nobody reached, 429 or 503 with Retry-After, 5xx of calls
            that count once. Every call that makes a prediction carries an Idempotency-Key, the same in each try.
        transport: What carries the requests; None for the network.

    Raises:
        InputError: the address is none.
        MissingExtra: httpx is not installed.

    Example:
        >>> with fb.Client("http://127.0.0.1:8080", key=key) as gateway:                 # doctest: +SKIP
        ...     answer = gateway.predict("eta", {"pickup_zone": 74, "distance_miles": 2.1}, unit="rider-7")
        ...     answer.prediction, answer.model_version
        (11.8, 'v3')
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 10.0,
        retries: int = 2,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = address_of(url)
        self._timeout, self._retries = timeout, retries
        self._rng = random.Random()
        module = httpx_module()
        self._http = module.Client(base_url=self.url, headers=headers_of(key), transport=transport)

    def predict(
        self,
        model: str | None,
        rows: calls.Row | Iterable[calls.Row],
        *,
        unit: calls.Unit | None = None,
        attributes: calls.Attributes | None = None,
        idempotency_key: str | None = None,
    ) -> answers.Prediction:
        """Return the answers to rows.

        Args:
            model: Its name; None when the gateway serves one only.
            rows: One row or several, as mappings of inputs.
            unit: What is randomised; one for all rows or one for each. Without it each request is a unit of its own.
            attributes: What segments decide by; one mapping for all rows or one for each.
            idempotency_key: Up to 64 visible characters; calls with the same key are one prediction. Made up if None.

        Raises:
            BadRequest: a row, name or key is wrong; the gateway's sentence says what.
            Busy, Unavailable: too much to do, or not reached, also after the last try.
            DeadlineExceeded: no answer in time.
            FlyballError: the model failed.
        """
        request = calls.predict(model, rows, unit=unit, attributes=attributes, key=idempotency_key)
        return self._ask(request)

    def batch_predict(
        self,
        model: str | None,
        rows: Iterable[calls.Row],
        *,
        batch_size: int | None = None,
        idempotency_key: str | None = None,
    ) -> answers.BatchPrediction:
        """Return the answers to many rows, which the gateway takes in batches of `batch_size`."""
        return self._ask(calls.batch_predict(model, rows, batch_size=batch_size, key=idempotency_key))

    def infer(
        self,
        model: str,
        inputs: calls.Inputs,
        *,
        version: str | None = None,
        unit: calls.Unit | None = None,
        attributes: calls.Attributes | None = None,
        outputs: Sequence[str] | None = None,
        id: str = "",
        idempotency_key: str | None = None,
    ) -> answers.Inference:
        """Return the tensors of a V2 inference.

        Args:
            model: Its name.
            inputs: Values by input; lists travel as JSON, numpy arrays of numbers as binary tensors.
            version: A version to ask by name; it is kept out of every comparison.
            unit: See `predict`.
            attributes: See `predict`.
            outputs: Names of the tensors wanted; None for all.
            id: Echoed in the answer.
            idempotency_key: See `predict`.
        """
        return self._ask(
            calls.infer(
                model, inputs, version=version, unit=unit, attributes=attributes, outputs=outputs, id=id,
                key=idempotency_key,
            )
        )  # fmt: skip

    def explain(
        self,
        model: str,
        rows: calls.Row | Iterable[calls.Row],
        *,
        version: str | None = None,
        deadline_ms: int | None = None,
    ) -> answers.Explanation:
        """Return what each feature contributed to the answers; sampled ones take at most `deadline_ms` (2000)."""
        return self._ask(calls.explain(model, rows, version=version, deadline_ms=deadline_ms))

    def outcome(self, prediction_id: str, value: float, event_time: datetime | str, *, revision: int = 0) -> None:
        """Report what really happened after a prediction; a higher `revision` corrects an earlier one."""
        self.outcomes([calls.outcome_row(prediction_id, value, event_time, revision)])

    def outcomes(self, rows: Iterable[calls.Row]) -> int:
        """Report outcomes, rows of prediction_id, value, event_time; return how many were taken."""
        return self._ask(calls.outcomes(rows))

    def push(self, source: str, rows: Iterable[calls.Row], *, has_event_ids: bool = False) -> answers.Pushed:
        """Push rows of a source; tried again only if it `has_event_ids`: declares `event_id`, and all rows have one."""
        return self._ask(calls.push(source, rows, has_event_ids=has_event_ids))

    def flag(self, name: str, unit: str | int, attributes: Mapping[str, Any] | None = None) -> answers.FlagValue:
        """Return a feature flag's value for a unit."""
        return self._ask(calls.flag(name, unit, attributes))

    def live(self) -> bool:
        """Return whether the gateway runs."""
        return self._ask(calls.live())

    def ready(self, model: str | None = None, *, version: str | None = None) -> bool:
        """Return whether the gateway, or one of its models, answers."""
        return self._ask(calls.ready(model, version))

    def metadata(self, model: str, *, version: str | None = None) -> answers.ModelMetadata:
        """Return what a model takes and gives."""
        return self._ask(calls.metadata(model, version))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, request: calls.Request[T]) -> T:
        talk = conversation(request, where=self.url, timeout=self._timeout, retries=self._retries, rng=self._rng)
        step = next(talk)
        while True:
            told: Reply | Failure | None = None
            if isinstance(step, Send):
                told = self._send(request, step.timeout)
            else:
                time.sleep(step.seconds)
            following = outcome(talk, told)
            if isinstance(following, Done):
                return following.value
            step = following

    def _send(self, request: calls.Request[Any], timeout: float) -> Reply | Failure:
        try:
            response = self._http.request(
                request.method, request.path, content=request.body, headers=list(request.headers), timeout=timeout
            )
        except Exception as error:
            return failure(error)
        return reply(response)
