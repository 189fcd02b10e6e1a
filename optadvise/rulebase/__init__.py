"""The rule base: rule files as typed objects, and the engine that decides by them."""
