"""The client of a gateway for asyncio: `await fb.AsyncClient(url, key).predict("eta", rows)`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar

from flyball.client import answers, calls
from flyball.client.connecting import Done, address_of, failure, headers_of, httpx_module, outcome, reply
from flyball.client.conversation import Failure, Reply, Send, conversation

if TYPE_CHECKING:
    import httpx

__all__ = ["AsyncClient"]

T = TypeVar("T")


class AsyncClient:
    """Ask one gateway; to be used in one event loop, and closed by `close` or an `async with` block.

    It takes what `Client` takes, and its methods give what those of `Client` give.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 10.0,
        retries: int = 2,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = address_of(url)
        self._timeout, self._retries = timeout, retries
        self._rng = random.Random()
        module = httpx_module()
        self._http = module.AsyncClient(base_url=self.url, headers=headers_of(key), transport=transport)

    async def predict(
        self,
        model: str | None,
        rows: calls.Row | Iterable[calls.Row],
        *,
        unit: calls.Unit | None = None,
        attributes: calls.Attributes | None = None,
        idempotency_key: str | None = None,
    ) -> answers.Prediction:
        """Return the answers to rows; see `Client.predict`."""
        request = calls.predict(model, rows, unit=unit, attributes=attributes, key=idempotency_key)
        return await self._ask(request)

    async def batch_predict(
        self,
        model: str | None,
        rows: Iterable[calls.Row],
        *,
        batch_size: int | None = None,
        idempotency_key: str | None = None,
    ) -> answers.BatchPrediction:
        """Return the answers to many rows, which the gateway takes in batches of `batch_size`."""
        return await self._ask(calls.batch_predict(model, rows, batch_size=batch_size, key=idempotency_key))

    async def infer(
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
        """Return the tensors of a V2 inference; see `Client.infer`."""
        return await self._ask(
            calls.infer(
                model, inputs, version=version, unit=unit, attributes=attributes, outputs=outputs, id=id,
                key=idempotency_key,
            )
        )  # fmt: skip

    async def explain(
        self,
        model: str,
        rows: calls.Row | Iterable[calls.Row],
        *,
        version: str | None = None,
        deadline_ms: int | None = None,
    ) -> answers.Explanation:
        """Return what each feature contributed to the answers; sampled ones take at most `deadline_ms` (2000)."""
        return await self._ask(calls.explain(model, rows, version=version, deadline_ms=deadline_ms))

    async def outcome(self, prediction_id: str, value: float, event_time: datetime | str, *, revision: int = 0) -> None:
        """Report what really happened after a prediction; a higher `revision` corrects an earlier one."""
        await self.outcomes([calls.outcome_row(prediction_id, value, event_time, revision)])

    async def outcomes(self, rows: Iterable[calls.Row]) -> int:
        """Report outcomes, rows of prediction_id, value, event_time; return how many were taken."""
        return await self._ask(calls.outcomes(rows))

    async def push(self, source: str, rows: Iterable[calls.Row], *, has_event_ids: bool = False) -> answers.Pushed:
        """Push rows of a source; tried again only if it `has_event_ids`: declares `event_id`, and all rows have one."""
        return await self._ask(calls.push(source, rows, has_event_ids=has_event_ids))

    async def flag(self, name: str, unit: str | int, attributes: Mapping[str, Any] | None = None) -> answers.FlagValue:
        """Return a feature flag's value for a unit."""
        return await self._ask(calls.flag(name, unit, attributes))

    async def live(self) -> bool:
        """Return whether the gateway runs."""
        return await self._ask(calls.live())

    async def ready(self, model: str | None = None, *, version: str | None = None) -> bool:
        """Return whether the gateway, or one of its models, answers."""
        return await self._ask(calls.ready(model, version))

    async def metadata(self, model: str, *, version: str | None = None) -> answers.ModelMetadata:
        """Return what a model takes and gives."""
        return await self._ask(calls.metadata(model, version))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def _ask(self, request: calls.Request[T]) -> T:
        talk = conversation(request, where=self.url, timeout=self._timeout, retries=self._retries, rng=self._rng)
        step = next(talk)
        while True:
            told: Reply | Failure | None = None
            if isinstance(step, Send):
                told = await self._send(request, step.timeout)
            else:
                await asyncio.sleep(step.seconds)
            following = outcome(talk, told)
            if isinstance(following, Done):
                return following.value
            step = following

    async def _send(self, request: calls.Request[Any], timeout: float) -> Reply | Failure:
        try:
            async with asyncio.timeout(timeout):
                response = await self._http.request(
                    request.method, request.path, content=request.body, headers=list(request.headers), timeout=timeout
                )
        except Exception as error:
            return failure(error)
        return reply(response)
