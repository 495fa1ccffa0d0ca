"""The composition root: a project's settings, definitions and adapters put together, once.

The surprise: there are two sets of definitions. `working` is the module as it stands on disk, `applied` the snapshot
that `apply` made live; everything that serves, trains or decides uses the applied one, so edits alone change nothing.
"""

from __future__ import annotations

from flyball.project.root import Project

__all__ = ["Project"]
