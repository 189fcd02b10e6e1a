"""Audits of installed implementations against float64 references of their papers, claims, and trajectories."""
