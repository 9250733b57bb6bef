"""Finding the components of installed packages, and refusing broken ones."""
