"""One run and its processes: device, checkpoints, moving average, random state, schedule, optimizers, step."""
