"""The contract of operators, for the projector with one of its engines."""

from __future__ import annotations

import pytest

from operators.ct import Projector
from operators.ct.engines import ENGINES
from tests.contracts import LinearOperatorContract


class EngineContract(LinearOperatorContract):
    covers = (Projector,)
    traceable = False
    engine: str
    #: torch.compile splits the graph before any engine: one of each layout tells.
    compiled = False

    @pytest.fixture(autouse=True)
    def _only_what_the_engine_can(self, request: pytest.FixtureRequest) -> None:
        declared = next(iter(ENGINES[self.engine].values()))
        if declared.package is not None:
            pytest.importorskip(declared.package, reason="the engine needs the [ct] extra")
        if "cuda" in request.node.keywords and "cuda" not in declared.devices:
            pytest.skip("a CPU engine")
