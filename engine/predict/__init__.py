"""Prediction: the same script on the meta device."""
