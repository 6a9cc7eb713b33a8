"""One file of HTML on what runs found: sections made from output folders, drawn and put on a page."""
