"""Where a run tells how far it is and how well it does: one file for each sink, and `monitor.sinks_of` lists them."""
