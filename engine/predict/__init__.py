"""What a plan will need, told without running it: the plan's own script on the meta device."""

from memwb.engine.predict.predictor import predict as predict
