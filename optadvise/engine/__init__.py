"""Decision tables: compiled, decided, proven, explained."""
