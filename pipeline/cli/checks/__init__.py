"""What `gst doctor` looks at: each module yields rows of `pipeline.cli.checks.row`."""
