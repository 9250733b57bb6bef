"""Configurations of other libraries: where their options are here, and TRL's as a configuration of this one."""
