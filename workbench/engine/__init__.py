"""What `sample` is made of: one run, its costs and counters, what it guards against, how it is kept."""
