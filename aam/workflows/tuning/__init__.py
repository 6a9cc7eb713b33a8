"""What `aam tune` does with Optuna, which only this package imports."""
