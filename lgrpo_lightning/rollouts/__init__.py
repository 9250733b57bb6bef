"""The folder of a run: the names in it, and writing files that are whole or not there."""
