"""What a plan will need, told without running it: see predictor.py. Imports torch."""
