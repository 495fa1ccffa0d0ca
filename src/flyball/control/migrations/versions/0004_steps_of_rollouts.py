"""Steps of rollouts: a share becomes a step with its own holds"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Rewrite the steps of every stored rollout, finished or under way; what is a step already stays as it is."""
    db = op.get_bind()
    rollouts = sa.table("rollouts", sa.column("seq", sa.BigInteger), sa.column("spec", sa.Text))
    for seq, text in db.execute(sa.select(rollouts.c.seq, rollouts.c.spec)).all():
        spec = json.loads(text)
        steps = [_step(step) for step in spec["steps"]]
        if steps != spec["steps"]:
            packed = json.dumps({**spec, "steps": steps}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            db.execute(sa.update(rollouts).where(rollouts.c.seq == seq).values(spec=packed))


def _step(step: float | dict[str, Any]) -> dict[str, Any]:
    return step if isinstance(step, dict) else {"share": step}
