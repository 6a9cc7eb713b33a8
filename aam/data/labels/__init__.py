"""What is to be predicted, and what is known of samples or ASVs besides: targets, weights, hierarchies, taxonomy.

Fitted to training samples, and kept in checkpoints as JSON.
"""
