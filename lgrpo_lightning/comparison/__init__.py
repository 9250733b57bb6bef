"""Comparing runs over seeds: what is run, what came of it, tables and pictures."""
