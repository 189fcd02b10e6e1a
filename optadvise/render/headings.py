"""Headings that the text, Markdown and HTML of a result share."""

from __future__ import annotations

from typing import Final

# Recommendations.
WHY: Final = "Why"
RULES_APPLIED: Final = "Rules applied"
CLOSEST_RULES: Final = "Closest other rules, and the options that they require"
CHOICES: Final = "How to run it (chosen to save memory)"
DERIVATIONS: Final = "How each number is computed"
SCHEDULES: Final = "Other schedules"
ALTERNATIVES: Final = "Alternatives"
POLICIES: Final = "Other answers"
PUBLISHED: Final = "Published runs like this one"
CHANGES: Final = "What would change this answer"
NOTES: Final = "Notes"
ASSUMED: Final = "Assumed (not specified)"
SPECIFIED: Final = "Read as"
NEXT: Final = "Measure"

# Memory.
MEMORY: Final = "Memory of one GPU"
PEAK_MEMORY: Final = "Peak memory of one GPU"
FIXES: Final = "What would make it fit (cheapest first)"
MODEL_SIZES: Final = "Largest model that fits"
OPTIMIZERS: Final = "All optimizers"

# Evidence and cards.
MEASURED: Final = "Measured on this machine"
SOURCES: Final = "Sources"
REQUIREMENTS: Final = "Requirements"
