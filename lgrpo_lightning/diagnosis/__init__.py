"""What is wrong with a run and what to change: one list of rules, for alarms while it goes on and for ``doctor``."""
