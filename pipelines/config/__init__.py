"""Typed settings: defaults < TOML file < environment < --set; unknown keys are refused."""
