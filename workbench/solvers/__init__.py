"""Solvers: frozen values with init and step; a folder for each family. The driver owns everything else."""
