"""Figures that need nothing else of the project: intervals of measured values, and graphs as pictures."""
