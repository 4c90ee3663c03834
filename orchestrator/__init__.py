"""Many trials: configuration, cells, Ray Tune, Optuna, MLflow, the command line."""
