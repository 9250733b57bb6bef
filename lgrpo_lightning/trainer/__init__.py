"""What every callback asks of a Trainer: the hook after a rollout, the place in the run, a line beside its bar."""
