"""Raw corpora in, tagged webdataset shards out. The training side never imports this package."""
