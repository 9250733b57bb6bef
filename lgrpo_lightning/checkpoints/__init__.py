"""All that saves a run and restores it."""
