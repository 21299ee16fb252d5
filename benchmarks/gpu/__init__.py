"""Everything that needs a GPU, in sections with a time budget."""
