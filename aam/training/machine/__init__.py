"""What the machine can do and is told: devices, precision, signals."""
