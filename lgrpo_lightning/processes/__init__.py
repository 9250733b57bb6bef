"""The processes of a run: what they are doing, how they are stopped, and how they notice that one is gone."""
