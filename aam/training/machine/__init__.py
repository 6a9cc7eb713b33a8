"""What the machine can do and is set to: devices, precision, signals."""
