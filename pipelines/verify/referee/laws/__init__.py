"""Laws of the solvers' own chains, from independent formulas: what tells a biased method from a bug."""
