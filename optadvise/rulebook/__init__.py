"""The rule base itself: proven, tested, compared and described."""
