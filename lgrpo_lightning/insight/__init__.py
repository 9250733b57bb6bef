"""Looking at what a run has left: its trees, what is wrong with it, a report."""
