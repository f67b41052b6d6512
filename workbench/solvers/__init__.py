"""Solvers: frozen values with init and step; one file each. The driver owns everything else."""
