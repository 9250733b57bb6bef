"""Configurations of TRL as ours."""
