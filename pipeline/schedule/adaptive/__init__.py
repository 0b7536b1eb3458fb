"""`gst_adaptive`: groups enter progressively, and every part of when and how is fed back from the run."""
