"""The commands of the command line: results on standard output, narration on standard error."""
