"""Measures devices in PostgreSQL: one committer, many, whole fleets, and what one of each costs."""
