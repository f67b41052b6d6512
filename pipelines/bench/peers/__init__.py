"""The peers, one file each, run by `serving.py`: PACKAGES and prepare(settings, arrays) -> operations.

Beside numpy a file imports its peer and nothing of ours, which its environment may lack.
"""
