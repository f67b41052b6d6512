"""What `workbench train` is made of: its settings, its data, what it shows of a run."""
