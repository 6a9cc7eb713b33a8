"""What predictions depend on."""
