"""Environments and tools in processes of their own; what runs there imports neither torch nor transformers."""
