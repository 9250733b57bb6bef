"""What makes the embedded models and the pages on other trainers: not part of the package."""
