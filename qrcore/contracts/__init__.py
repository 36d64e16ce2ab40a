"""One Protocol and answer record per kind of method."""
