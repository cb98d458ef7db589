"""Files of all kinds, read and written so that nothing is lost."""
