"""A worker takes a failing candidate out of traffic by itself: for crashes, silence and bursts of errors."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from serving_kit import Kit, broken, double, infer_body, table, triple

from flyball.records.types import Prediction
from flyball.serving.shared.slots import VetoReason
from flyball.testing.in_process import async_client

INFER = "/v2/models/eta/infer"


async def asked(gateway, kit, *, together: int, deadline: float = 5.0, spoil=lambda: None):
    """Ask `together` callers at once, then one more; return the veto seen then, and why each row got its arm."""
    async with async_client(gateway) as http:
        candidate = kit.ref("v2", trusted=False)
        await gateway.swap(table(1, kit.ref("v1"), candidate, share=1.0, pair=False, deadline=deadline))
        spoil()
        many = [http.post(INFER, json=infer_body(2.0, unit=f"u{i}")) for i in range(together)]
        answers = await asyncio.gather(*many)
        veto = gateway.slot.veto
        answers.append(await http.post(INFER, json=infer_body(2.0, unit="after")))
        await gateway.close()
    assert [a.status_code for a in answers] == [200] * (together + 1)
    assert all(a.json()["outputs"][0]["data"] == [4.0] for a in answers), "callers get the champion's answer"
    records = [r for r in kit.records() if isinstance(r, Prediction)]
    return veto, next(r.why for r in records if r.unit == "after")


@pytest.mark.parametrize("cause", ["crash", "timeout", "errors"])
def test_the_first_request_after_the_limit_goes_to_the_champion(tmp_path: Path, cause: str) -> None:
    kit = Kit(tmp_path, v1=double, v2=broken if cause == "errors" else triple)
    gateway = kit.gateway()

    def spoil() -> None:
        if cause == "crash":
            kit.hosts["v2"].gone = True
        if cause == "timeout":
            kit.hosts["v2"].hang = True

    together, deadline = (1, 5.0) if cause == "crash" else (5, 0.4)
    veto, why = asyncio.run(asked(gateway, kit, together=together, deadline=deadline, spoil=spoil))
    assert veto is not None
    assert veto.reason is (VetoReason.HOST_GONE if cause == "crash" else VetoReason.FAILURES)
    assert why == "veto"


def test_four_failures_among_twenty_are_left_to_the_evidence(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=broken)
    gateway = kit.gateway()
    veto, why = asyncio.run(asked(gateway, kit, together=4))
    assert veto is None
    assert why != "veto"
