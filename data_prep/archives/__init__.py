"""Audio inside zip and parquet files, and unpacking of all other archives."""
