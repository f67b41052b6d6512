"""The referee: problems whose posterior is known, what a sampler's draws are measured by, and verdicts."""
