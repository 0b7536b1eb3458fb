"""Many runs as one piece of work: what has to run, in which order, what is done, how long the rest takes."""
