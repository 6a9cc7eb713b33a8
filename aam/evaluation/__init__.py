"""What held-out samples say about a model: tables and plots."""
