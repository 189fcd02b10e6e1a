"""Fuzzer of the command line: `python -m tests.fuzz --seconds 3600 --seed 1`; `tests/test_fuzz.py` runs it briefly."""
