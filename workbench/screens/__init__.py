"""The screens beside the main one, each imported when it is opened."""
