"""Does an optimizer do what its name says? Installed implementations against float64 references of their papers."""
