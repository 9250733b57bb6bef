"""What a run shows: progress, completions, the plot, the summary, alarms."""
