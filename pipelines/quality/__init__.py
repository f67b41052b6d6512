"""Solvers on real subjects that no prior was trained on: `make bench-quality`."""
