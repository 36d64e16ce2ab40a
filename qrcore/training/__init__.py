"""Training of the embedded model: tokenizer, passages, samples, curriculum, and the loop that runs it."""
