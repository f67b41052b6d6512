"""One file per format: read, write and round trip together. World coordinates convert here only."""
