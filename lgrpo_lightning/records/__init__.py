"""What a run leaves on disk to be read: rollouts, predictions and metrics; and how they are read back."""
