"""Advice: inputs, defaults, decision, hyperparameters, schedule, sensitivities, and the search for a fit."""
