"""What predictions were made from."""
