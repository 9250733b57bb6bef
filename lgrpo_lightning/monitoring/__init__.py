"""Looking at what runs have left: trees, what is wrong, reports, and comparisons over seeds."""
