"""Plans for the Integrator: grids of noise levels, and the methods that make rows of them."""

from workbench.integration.levels import Karras, Levels, LogUniform, PathUniform, Shifted
from workbench.integration.multistep import (
    ancestral,
    ddim,
    deis,
    dpm_solver_plus_plus,
    multistep,
    pndm,
    s_pndm,
    unipc,
)
from workbench.integration.rows import Row, plan_of, rows_of
from workbench.integration.single_step import Churn, dpm_solver, euler, heun

__all__ = [
    "Churn",
    "Karras",
    "Levels",
    "LogUniform",
    "PathUniform",
    "Row",
    "Shifted",
    "ancestral",
    "ddim",
    "deis",
    "dpm_solver",
    "dpm_solver_plus_plus",
    "euler",
    "heun",
    "multistep",
    "plan_of",
    "pndm",
    "rows_of",
    "s_pndm",
    "unipc",
]
