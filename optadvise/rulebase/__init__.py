"""Rule files as typed records, and the decision tables compiled from them."""
