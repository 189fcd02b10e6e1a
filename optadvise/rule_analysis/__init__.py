"""Proofs, tests, comparison and description of the rule base."""
