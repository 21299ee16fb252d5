"""The terminal workbench and the command line; torch is never imported here."""
