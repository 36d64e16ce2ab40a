"""pipelines: plan, work and commit on Ray; one pipeline per kind of answer."""
