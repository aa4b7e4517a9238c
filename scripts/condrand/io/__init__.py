"""The only room that opens files: reading in parts, writing atomically, byte-stable."""
