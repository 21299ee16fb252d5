"""The panels of the main screen, one file each."""
