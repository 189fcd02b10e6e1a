"""Recommendations as programs and configuration files."""

# What code is written for; `write.py` has a writer for each, and `rules/frameworks/` says what each can express.
FRAMEWORKS = ("python", "hf", "accelerate", "lightning", "torchtune", "axolotl", "deepspeed")
