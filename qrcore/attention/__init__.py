"""Reading (and later steering) attention inside a borrowed model; the only room that knows transformers' internals."""
