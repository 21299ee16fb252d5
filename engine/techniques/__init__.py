"""One file per technique: its declaration, and its hooks whose text lands in the script."""
