"""Finding heads as a job: values of heads on labelled examples, merged into a head set with its evidence."""
