"""Training the embedded model: its text, its judged lists, what is measured of it, and the card that says so."""
