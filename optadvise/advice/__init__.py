"""Advice: inputs, defaults, the decision, the plan of a run, and the search for a fit."""
