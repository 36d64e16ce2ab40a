"""One method per file; the file's name is the method's name, and no list of methods is kept anywhere."""
