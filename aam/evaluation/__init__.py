"""What validation and test samples say about a model: tables and plots."""
