"""Looking at prepared shards: checks, tables, and a page to listen to them."""
