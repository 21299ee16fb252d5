"""The light face of the engine: plans, models, scripts, runs and the protocol. No torch."""
