"""Report what is installed and usable here."""
