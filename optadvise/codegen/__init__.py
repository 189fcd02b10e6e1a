"""Code generation: recommendations as programs and configuration files."""

# Ids of the supported frameworks; `write.py` has a writer for each, `rules/frameworks/` describes what each supports.
FRAMEWORKS = ("snippet", "python", "hf", "accelerate", "lightning", "torchtune", "axolotl", "deepspeed")
